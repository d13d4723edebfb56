/* SPDX-License-Identifier: 0BSD */
/*
 * manager - plays the service manager of sd_notify(3): a datagram socket that knows its senders.
 *
 *     manager ADDRESS         ADDRESS: a path, or @ and a name of the abstract namespace. Says
 *                             "ready", then prints a line for each datagram: the sender's pid, when
 *                             it was received (microseconds of the monotonic clock), and its text,
 *                             with | for the end of a line
 *     manager ADDRESS full    says "ready" once its queue is full, and never reads
 */
#include <err.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static int listen_at(const char *name, struct sockaddr_un *address, socklen_t *size)
{
    const int on = 1;
    size_t length = strlen(name);
    if (length == 0 || length > sizeof address->sun_path)
        errx(2, "cannot listen at '%s': its length", name);
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(address->sun_path, name, length);
    if (name[0] == '@')
        address->sun_path[0] = '\0';
    *size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) < 0 ||
        bind(fd, (const struct sockaddr *)address, *size) < 0)
        err(1, "cannot listen at '%s'", name);
    return fd;
}

/* A socket for each: a single one would run out of its own room first. */
static void fill(const struct sockaddr_un *address, socklen_t size)
{
    ssize_t sent;
    do {
        int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
            err(1, "cannot open a socket");
        sent = sendto(fd, "full", 4, MSG_DONTWAIT, (const struct sockaddr *)address, size);
        close(fd);
    } while (sent >= 0);
    if (errno != EAGAIN)
        err(1, "cannot fill the queue");
}

static void print_next(int fd)
{
    char text[4096];
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(struct ucred))];
    } ancillary;
    struct iovec bytes = {text, sizeof text - 1};
    struct msghdr message = {.msg_iov = &bytes,
                             .msg_iovlen = 1,
                             .msg_control = ancillary.bytes,
                             .msg_controllen = sizeof ancillary.bytes};
    struct timespec now;
    struct ucred sender;
    ssize_t length = recvmsg(fd, &message, 0);
    clock_gettime(CLOCK_MONOTONIC, &now);
    const struct cmsghdr *header = length < 0 ? NULL : CMSG_FIRSTHDR(&message);
    if (!header || header->cmsg_type != SCM_CREDENTIALS)
        err(1, "cannot receive with credentials");
    memcpy(&sender, CMSG_DATA(header), sizeof sender);
    text[length] = '\0';
    for (char *c = text; (c = strchr(c, '\n'));)
        *c = '|';
    printf("%ld %lld %s\n", (long)sender.pid, (long long)now.tv_sec * 1000000 + now.tv_nsec / 1000,
           text);
}

int main(int argc, char **argv)
{
    struct sockaddr_un address;
    socklen_t size;
    if (argc < 2)
        errx(2, "usage: manager ADDRESS [full]");
    const bool full = argc > 2;
    int fd = listen_at(argv[1], &address, &size);
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (full)
        fill(&address, size);
    puts("ready");
    for (;;) {
        if (full)
            pause();
        else
            print_next(fd);
    }
}
