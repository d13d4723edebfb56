/* SPDX-License-Identifier: 0BSD */
/* forker.c - an echo server that changes its directory, forks a child for each connection, and
 * reaps all children in a handler for SIGCHLD, the successor too. With SUPERVISE in its environment
 * it runs below a first process. */
#include "restart.h"
#include <err.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static struct restart r;

static void reap(__attribute__((unused)) int signal)
{
    while (waitpid(-1, NULL, WNOHANG) > 0)
        ;
}

static int open_listener(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(fd, (struct sockaddr *)&a, sizeof a) < 0 || listen(fd, SOMAXCONN) < 0)
        err(1, "cannot listen");
    return fd;
}

static void serve(int fd)
{
    char bytes[4096];
    ssize_t n;
    if (fork() == 0) {
        restart_child(&r);
        while (poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, -1) > 0 &&
               (n = read(fd, bytes, sizeof bytes)) > 0 && write(fd, bytes, (size_t)n) == n)
            ;
        _exit(0);
    }
    restart_close(&r, fd);
}

int main(int argc, char **argv)
{
    struct restart_options options = {.ready_timeout = 10, .drain_timeout = 30};
    int fd, listeners = restart_inherit(&r, &argc, argv);
    if (listeners < 0 || (listeners == 0 && restart_listener(&r, open_listener()) < 0))
        err(1, "cannot serve");
    int status = getenv("SUPERVISE") ? restart_supervise(&r) : -1;
    if (status >= 0)
        return status;
    sigaction(SIGCHLD, &(struct sigaction){.sa_handler = reap, .sa_flags = SA_RESTART}, NULL);
    if (chdir("elsewhere") < 0)
        err(1, "cannot change to elsewhere");
    int polled = restart_serve(&r, &options);
    while (r.phase < RESTART_DONE) {
        poll(&(struct pollfd){.fd = polled, .events = POLLIN}, 1, -1);
        while ((fd = restart_accept(&r)) >= 0)
            serve(fd);
        restart_step(&r);
    }
    return r.status;
}
