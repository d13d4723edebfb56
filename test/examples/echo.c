/* SPDX-License-Identifier: 0BSD */
/* echo.c - sends back what it gets; with restart.h, SIGUSR1 replaces it and no client notices. */
#include "restart.h"
#include <err.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#define MAX 1024
static struct pollfd fds[MAX]; /* by descriptor; poll(2) passes over one of -1 */
static struct restart r;

/* Sends back what has come: so each connection is idle whenever this has been called. */
static bool echo(int fd)
{
    char bytes[4096];
    ssize_t n = read(fd, bytes, sizeof bytes);
    return n > 0 && send(fd, bytes, (size_t)n, MSG_NOSIGNAL) == n;
}

static int listen_at(const char *port)
{
    struct sockaddr_in a = {AF_INET, htons((in_port_t)atoi(port)), {htonl(INADDR_LOOPBACK)}, {0}};
    int on = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
        bind(fd, (struct sockaddr *)&a, sizeof a) < 0 || listen(fd, SOMAXCONN) < 0)
        err(1, "cannot listen on port %s", port);
    return fd;
}

int main(int argc, char **argv)
{
    struct restart_options options = {.ready_timeout = 5, .drain_timeout = 30};
    int fd, listeners = restart_inherit(&r, &argc, argv);
    if (argc != 2 || listeners < 0)
        errx(2, "usage: %s PORT [LISTENING DESCRIPTOR]", argv[0]);
    setrlimit(RLIMIT_NOFILE, &(struct rlimit){MAX, MAX});
    if (listeners == 0 && restart_listener(&r, listen_at(argv[1])) < 0)
        err(1, "cannot serve port %s", argv[1]);
    int polled = restart_serve(&r, &options);
    for (fd = 0; fd < MAX; fd++)
        fds[fd] = (struct pollfd){fd == polled ? fd : -1, POLLIN, 0};
    while (r.phase < RESTART_DONE) {
        int ready = poll(fds, (nfds_t)getdtablesize(), -1);
        for (fd = 0; fd < MAX && ready > 0; fd++)
            if (fd != polled && fds[fd].fd >= 0 && fds[fd].revents && !echo(fd))
                restart_close(&r, fd), fds[fd].fd = -1;
        while ((fd = restart_accept(&r)) >= 0)
            fds[fd].fd = fd;
        restart_step(&r);
        for (fd = 0; fd < MAX; fd++)
            if (fd != polled && fds[fd].fd >= 0 && restart_leave(&r, fd, true))
                restart_close(&r, fd), fds[fd].fd = -1;
    }
    return r.status;
}
