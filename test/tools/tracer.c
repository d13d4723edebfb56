/* SPDX-License-Identifier: 0BSD */
/*
 * tracer - holds process PID as a debugger does that looks away: when the process dies, it stays a
 * zombie that its parent cannot reap, until this program ends.
 *
 *     tracer PID      says "traces", then ends with standard input
 */
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    char byte;
    if (argc != 2)
        errx(2, "usage: tracer PID");
    if (ptrace(PTRACE_SEIZE, atoi(argv[1]), NULL, NULL) < 0)
        err(1, "cannot trace process %s", argv[1]);
    puts("traces");
    fflush(stdout);
    while (read(STDIN_FILENO, &byte, sizeof byte) > 0)
        ;
    return 0;
}
