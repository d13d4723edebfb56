/* SPDX-License-Identifier: 0BSD */
/* echo.c - sends back what it gets; with restart.h, SIGUSR1 replaces it and no client notices. */
#include <err.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "restart.h"

static struct pollfd fds[1024]; /* by descriptor; poll(2) passes over one of -1 */
static struct restart r;

static void say(int priority, const char *line)
{
    (void)priority;
    warnx("[%ld] %s", (long)getpid(), line);
}

/* Sends back what has come: so each connection is idle whenever this has been called. */
static bool echo(int fd)
{
    char bytes[4096];
    ssize_t n = read(fd, bytes, sizeof bytes);
    return n > 0 && send(fd, bytes, (size_t)n, MSG_NOSIGNAL) == n;
}

static int listen_at(int port)
{
    struct sockaddr_in a = {AF_INET, htons((in_port_t)port), {htonl(INADDR_LOOPBACK)}, {0}};
    int on = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
        bind(fd, (struct sockaddr *)&a, sizeof a) < 0 || listen(fd, SOMAXCONN) < 0)
        err(1, "cannot listen on port %d", port);
    return fd;
}

int main(int argc, char **argv)
{
    struct restart_options options = {.ready_timeout = 5, .drain_timeout = 30, .log = say};
    enum restart_phase phase = RESTART_SERVING;
    int fd, listener = restart_inherit(&r, &argc, argv);
    if (argc != 2)
        errx(2, "usage: %s PORT", argv[0]);
    int polled = restart_serve(&r, listener < 0 ? listen_at(atoi(argv[1])) : listener, &options);
    for (fd = 0; fd < 1024; fd++)
        fds[fd] = (struct pollfd){fd == polled ? fd : -1, POLLIN, 0};
    while (polled >= 0 && phase < RESTART_DONE) {
        if (poll(fds, 1024, -1) < 0)
            continue;
        for (fd = 0; fd < 1024; fd++)
            if (fds[fd].fd < 0 || fd == polled) {
                continue;
            } else if ((fds[fd].revents && !echo(fd)) || !restart_persists(&r)) {
                fds[fd].fd = -1;
                restart_close(&r, fd);
            } else if (restart_give(&r, fd) == 0) {
                fds[fd].fd = -1;
            }
        while (fds[polled].revents && (fd = restart_accept(&r)) >= 0)
            fds[fd].fd = fd;
        phase = restart_step(&r);
    }
    return phase != RESTART_DONE;
}
