/* SPDX-License-Identifier: 0BSD */
/*
 * manager - plays the service manager of sd_notify(3), with a datagram socket that knows its
 * senders.
 *
 *     manager ADDRESS [all]   ADDRESS: a path, or @ and a name of the abstract namespace
 *
 * Prints "ready", then a line for each datagram: the sender's pid, the time of its receipt
 * (microseconds of the monotonic clock), and its text, with | for the end of a line. Closes the
 * descriptor that comes with BARRIER=1.
 *
 * The process that first says READY=1 is the main one, until a MAINPID= names another. As systemd
 * does with NotifyAccess=main, the manager ignores other senders, and a MAINPID= of a process that
 * does not run, and prints "ignored" in place of the time. With ALL it listens to every process.
 * When the main process has ended and no datagram waits, it prints "PID ended".
 *
 * SIGUSR1 makes it fill its queue, print "full" and stop itself. After SIGCONT it goes on.
 */
#include <err.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

struct manager {
    struct sockaddr_un address;
    socklen_t size;
    int socket;
    bool all;     /* every process may notify */
    pid_t main;   /* 0: none yet */
    int main_end; /* pidfd of it; -1: none */
};

static const char filling[] = "filling";
static volatile sig_atomic_t told_to_fill;

static void on_signal(int signal)
{
    told_to_fill = signal;
}

static void listen_at(struct manager *m, const char *name)
{
    const int on = 1;
    const size_t length = strlen(name);
    if (length == 0 || length > sizeof m->address.sun_path)
        errx(2, "cannot listen at '%s': its length", name);
    m->address.sun_family = AF_UNIX;
    memcpy(m->address.sun_path, name, length);
    if (name[0] == '@')
        m->address.sun_path[0] = '\0';
    m->size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
    m->socket = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (m->socket < 0 || setsockopt(m->socket, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) < 0 ||
        bind(m->socket, (const struct sockaddr *)&m->address, m->size) < 0)
        err(1, "cannot listen at '%s'", name);
}

/* Uses a socket for each datagram: a single one would run out of its own room first. */
static void fill_and_stop(const struct manager *m)
{
    ssize_t sent;
    do {
        int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
            err(1, "cannot open a socket");
        sent = sendto(fd, filling, sizeof filling, MSG_DONTWAIT,
                      (const struct sockaddr *)&m->address, m->size);
        close(fd);
    } while (sent >= 0);
    if (errno != EAGAIN)
        err(1, "cannot fill the queue");
    puts("full");
    raise(SIGSTOP);
}

static bool set_main(struct manager *m, pid_t pid)
{
    int process = (int)syscall(SYS_pidfd_open, pid, 0);
    if (process < 0 || poll(&(struct pollfd){.fd = process, .events = POLLIN}, 1, 0) != 0) {
        if (process >= 0)
            close(process);
        return false;
    }
    if (m->main_end >= 0)
        close(m->main_end);
    m->main = pid;
    m->main_end = process;
    return true;
}

/* Returns false if the manager ignores TEXT, which PID has sent. */
static bool heed(struct manager *m, pid_t pid, const char *text)
{
    const char *main = strstr(text, "MAINPID=");
    if (m->main == 0 && strstr(text, "READY=1"))
        set_main(m, pid);
    if (pid != m->main && !m->all && strcmp(text, "BARRIER=1") != 0)
        return false;
    return !main || set_main(m, (pid_t)strtol(main + strlen("MAINPID="), NULL, 10));
}

/* Receives a datagram into TEXT and closes the descriptor that comes with it. Returns the sender.
 */
static pid_t receive(const struct manager *m, char *text, size_t size)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(struct ucred)) + CMSG_SPACE(sizeof(int))];
    } ancillary;
    struct iovec bytes = {text, size - 1};
    struct msghdr message = {.msg_iov = &bytes,
                             .msg_iovlen = 1,
                             .msg_control = ancillary.bytes,
                             .msg_controllen = sizeof ancillary.bytes};
    struct ucred sender = {0};
    int fd;
    const ssize_t length = recvmsg(m->socket, &message, MSG_CMSG_CLOEXEC);
    if (length < 0)
        err(1, "cannot receive");
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
        if (c->cmsg_type == SCM_CREDENTIALS)
            memcpy(&sender, CMSG_DATA(c), sizeof sender);
        if (c->cmsg_type == SCM_RIGHTS) {
            memcpy(&fd, CMSG_DATA(c), sizeof fd);
            close(fd);
        }
    }
    text[length] = '\0';
    return sender.pid;
}

static void read_next(struct manager *m)
{
    char text[4096], when[24];
    struct timespec now;
    const pid_t sender = receive(m, text, sizeof text);
    if (strcmp(text, filling) == 0)
        return;
    clock_gettime(CLOCK_MONOTONIC, &now);
    snprintf(when, sizeof when, "%lld", (long long)now.tv_sec * 1000000 + now.tv_nsec / 1000);
    const char *how = heed(m, sender, text) ? when : "ignored";
    for (char *c = text; (c = strchr(c, '\n'));)
        *c = '|';
    printf("%ld %s %s\n", (long)sender, how, text);
}

static void say_ended(struct manager *m)
{
    printf("%ld ended\n", (long)m->main);
    close(m->main_end);
    m->main_end = -1;
}

int main(int argc, char **argv)
{
    struct manager m = {.main_end = -1};
    sigset_t signals, before;
    if (argc < 2)
        errx(2, "usage: manager ADDRESS [all]");
    m.all = argc > 2;
    sigemptyset(&signals);
    sigaddset(&signals, SIGUSR1);
    sigprocmask(SIG_BLOCK, &signals, &before);
    signal(SIGUSR1, on_signal);
    listen_at(&m, argv[1]);
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    for (;;) {
        struct pollfd events[] = {{.fd = m.socket, .events = POLLIN},
                                  {.fd = m.main_end, .events = POLLIN}};
        const int ready = ppoll(events, 2, NULL, &before);
        if (told_to_fill)
            fill_and_stop(&m);
        told_to_fill = 0;
        if (ready > 0 && events[0].revents)
            read_next(&m);
        else if (ready > 0)
            say_ended(&m);
    }
}
