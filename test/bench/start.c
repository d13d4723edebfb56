/* SPDX-License-Identifier: 0BSD */
/*
 * start.c - how long a program takes to start, in microseconds: the median of COUNT times.
 *
 *     start end COUNT PROGRAM [ARGUMENT...]          until it has ended
 *     start answer COUNT PORT PROGRAM [ARGUMENT...]  until it has answered GET / on 127.0.0.1:PORT
 *     start hand-over COUNT PROGRAM [ARGUMENT...]    rust_graceful_restart, from SIGUSR1 until it
 *                                                    has handed its listener to a successor
 *
 * The clock runs from right before posix_spawn(3) or kill(2).
 */
#include <netinet/in.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    COUNT_MAX = 10000
};

extern char **environ;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static pid_t spawn(char **argv, int error)
{
    pid_t pid;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    if (error >= 0)
        posix_spawn_file_actions_adddup2(&actions, error, STDERR_FILENO);
    if (posix_spawn(&pid, argv[0], &actions, NULL, argv, environ) != 0)
        die(argv[0]);
    posix_spawn_file_actions_destroy(&actions);
    return pid;
}

static double until_end(char **argv)
{
    double start = now();
    waitpid(spawn(argv, -1), NULL, 0);
    return now() - start;
}

static double until_answer(char **argv, in_port_t port)
{
    static const char request[] = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    const struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    char answer[4096];
    double start = now();
    pid_t pid = spawn(argv, -1);
    int fd;
    for (;;) {
        fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(fd, (const struct sockaddr *)&address, sizeof address) == 0)
            break;
        close(fd);
        if (waitpid(pid, NULL, WNOHANG) == pid || now() - start > 10e6)
            die(argv[0]);
        /* The server may need this very processor. */
        nanosleep(&(struct timespec){.tv_nsec = 10000}, NULL);
    }
    if (send(fd, request, strlen(request), MSG_NOSIGNAL) < 0 ||
        recv(fd, answer, sizeof answer, 0) <= 0)
        die("answer");
    double end = now();
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    close(fd);
    return end - start;
}

/* Reads the server's log up to a line that has TEXT, and returns the number behind it. */
static pid_t expect(FILE *log, const char *text)
{
    char line[1024];
    while (fgets(line, sizeof line, log)) {
        const char *found = strstr(line, text);
        if (found)
            return (pid_t)strtol(found + strlen(text), NULL, 10);
    }
    die(text);
    return 0;
}

static void hand_overs(char **argv, double *times, int count)
{
    int ends[2];
    if (pipe(ends) < 0 || prctl(PR_SET_CHILD_SUBREAPER, 1) < 0)
        die("pipe");
    FILE *log = fdopen(ends[0], "r");
    pid_t pid = spawn(argv, ends[1]);
    close(ends[1]);
    expect(log, "listening on");
    for (int i = 0; i < count; i++) {
        double start = now();
        kill(pid, SIGUSR1);
        pid_t successor = expect(log, "handed over to ");
        times[i] = now() - start;
        waitpid(pid, NULL, 0);
        pid = successor;
    }
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static int compare(const void *a, const void *b)
{
    double difference = *(const double *)a - *(const double *)b;
    return (difference > 0) - (difference < 0);
}

int main(int argc, char **argv)
{
    static double times[COUNT_MAX];
    int count = argc > 3 ? atoi(argv[2]) : 0;
    prctl(PR_SET_TIMERSLACK, 1); /* sleep no longer than asked for */
    if (count < 1 || count > COUNT_MAX)
        return 2;
    if (strcmp(argv[1], "hand-over") == 0)
        hand_overs(argv + 3, times, count);
    for (int i = 0; strcmp(argv[1], "end") == 0 && i < count; i++)
        times[i] = until_end(argv + 3);
    for (int i = 0; strcmp(argv[1], "answer") == 0 && i < count; i++)
        times[i] = until_answer(argv + 4, (in_port_t)atoi(argv[3]));
    qsort(times, (size_t)count, sizeof *times, compare);
    printf("%.0f\n", times[count / 2]);
    return 0;
}
