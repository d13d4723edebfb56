/* SPDX-License-Identifier: 0BSD */
/* library.c - an echo server around a library that owns its connections: it is given a connected
 * socket and, at end of file, shuts it down and closes it by itself. */
#include "restart.h"
#include <err.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#define MAX 1024

/* ---- the library ---- */

static struct pollfd fds[MAX]; /* by descriptor; poll(2) passes over one of -1 */
static bool is_busy[MAX];      /* half a line has come */

/* Echoes what has come; on end of file shuts FD down, closes it, and tells CLOSED. */
static void library_serve(int fd, void (*closed)(int fd))
{
    char bytes[4096];
    const ssize_t n = read(fd, bytes, sizeof bytes);
    is_busy[fd] = n > 0 && bytes[n - 1] != '\n';
    if (n > 0 && write(fd, bytes, (size_t)n) == n)
        return;
    shutdown(fd, SHUT_RDWR);
    close(fd);
    fds[fd].fd = -1;
    closed(fd);
}

/* ---- the server ---- */

static struct restart r;
static bool has_left[MAX]; /* the connection is the module's, or closed: the library has a dummy */

static void connection_closed(int fd)
{
    if (!has_left[fd])
        restart_closed(&r);
}

static int open_listener(void)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(fd, (struct sockaddr *)&a, sizeof a) < 0 || listen(fd, SOMAXCONN) < 0)
        err(1, "cannot listen");
    return fd;
}

int main(int argc, char **argv)
{
    struct restart_options options = {.ready_timeout = 10, .drain_timeout = 30};
    int fd, listeners = restart_inherit(&r, &argc, argv);
    setrlimit(RLIMIT_NOFILE, &(struct rlimit){MAX, MAX});
    if (listeners < 0 || (listeners == 0 && restart_listener(&r, open_listener()) < 0))
        err(1, "cannot serve");
    int polled = restart_serve(&r, &options);
    for (fd = 0; fd < MAX; fd++)
        fds[fd] = (struct pollfd){fd == polled ? fd : -1, POLLIN, 0};
    while (r.phase < RESTART_DONE) {
        poll(fds, MAX, -1);
        for (fd = 0; fd < MAX; fd++)
            if (fd != polled && fds[fd].fd >= 0 && fds[fd].revents)
                library_serve(fd, connection_closed);
        while ((fd = restart_accept(&r)) >= 0) {
            fds[fd] = (struct pollfd){fd, POLLIN, 0};
            has_left[fd] = false;
        }
        restart_step(&r);
        for (fd = 0; fd < MAX; fd++)
            if (fd != polled && fds[fd].fd >= 0 && !has_left[fd])
                has_left[fd] = restart_leave_to_library(&r, fd, !is_busy[fd]);
    }
    return r.status;
}
