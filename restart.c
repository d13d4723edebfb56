/* restart.c - see restart.h. */
#include "restart.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <spawn.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* <linux/close_range.h> is not there with every libc. */
#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC (1U << 2)
#endif

enum {
    FIRST_PRIVATE = 3, /* behind the standard streams */
    NUMBER_MAX = 24,   /* any number in decimal, with its end */
    MESSAGE_MAX = 16,  /* more than any message says; what is longer is cut off */
    NOTIFY_WAIT_US = 100000,
};

static const char channel_variable[] = "RESTART_CHANNEL";

extern char **environ;

static int close_failed(int fd)
{
    int cause = errno;
    close(fd);
    errno = cause;
    return -1;
}

/* Whole decimal number, or -1. */
static long number_of(const char *text)
{
    char *end;
    if (!text || *text < '0' || *text > '9')
        return -1;
    errno = 0;
    long number = strtol(text, &end, 10);
    return errno || *end ? -1 : number;
}

static int socket_option(int fd, int option)
{
    int value;
    socklen_t size = sizeof value;
    return getsockopt(fd, SOL_SOCKET, option, &value, &size) == 0 ? value : -1;
}

static int close_on_exec(int fd)
{
    return fcntl(fd, F_SETFD, FD_CLOEXEC);
}

/* ---- starting ---- */

int restart_listener(int fd)
{
    int listens = socket_option(fd, SO_ACCEPTCONN);
    if (listens < 0)
        return -1;
    if (!listens || socket_option(fd, SO_TYPE) != SOCK_STREAM) {
        errno = listens ? ENOTSUP : EINVAL;
        return -1;
    }
    int flags = fcntl(fd, F_GETFL);
    return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ? -1 : close_on_exec(fd);
}

int restart_activation(void)
{
    bool ours = number_of(getenv("LISTEN_PID")) == getpid();
    long count = ours ? number_of(getenv("LISTEN_FDS")) : 0;
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
    return count < 0 || count > INT_MAX ? 0 : (int)count;
}

/* ---- the successor's side ---- */

int restart_predecessor(void)
{
    long parent = -1, channel = -1;
    const char *announced = getenv(channel_variable);
    const char *colon = announced ? strchr(announced, ':') : NULL;
    if (colon) {
        char pid[NUMBER_MAX];
        snprintf(pid, sizeof pid, "%.*s", (int)(colon - announced), announced);
        parent = number_of(pid);
        channel = number_of(colon + 1);
    }
    unsetenv(channel_variable);
    if (channel < 0 || channel > INT_MAX)
        return -1;
    int fd = (int)channel;
    if (socket_option(fd, SO_DOMAIN) != AF_UNIX || socket_option(fd, SO_TYPE) != SOCK_SEQPACKET)
        return -1;
    /* It was made for another process, or the one that made it has ended. */
    if (parent != getppid())
        return close_failed(fd);
    return close_on_exec(fd) < 0 ? -1 : fd;
}

int restart_report(int channel, bool takes)
{
    const char *message = takes ? "R1" : "R";
    return send(channel, message, strlen(message), MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -1 : 0;
}

/* Ancillary data of one message, aligned as cmsg(3) asks for. */
union ancillary {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(RESTART_BATCH * sizeof(int))];
};

/* What a message's text announces: connections, or -1 for a message that is not about them. Earlier
 * versions of the text are a mere C, which says nothing of how many. */
static long announced_by(const char *text)
{
    long count = number_of(text + 1);
    return text[0] == 'C' ? (count < 0 ? 0 : count) : -1;
}

/* Collects the descriptors that came with MESSAGE; returns how many. There is but one header to
 * look at: nothing besides SCM_RIGHTS was asked for. */
static int descriptors_in(struct msghdr *message, int descriptors[RESTART_BATCH])
{
    const struct cmsghdr *header = CMSG_FIRSTHDR(message);
    if (!header || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
        return 0;
    size_t size = header->cmsg_len - CMSG_LEN(0);
    memcpy(descriptors, CMSG_DATA(header), size);
    return (int)(size / sizeof *descriptors);
}

int restart_take(int channel, int connections[RESTART_BATCH], size_t room)
{
    char text[MESSAGE_MAX + 1] = "";
    union ancillary ancillary;
    struct iovec bytes = {text, MESSAGE_MAX};
    struct msghdr message = {.msg_iov = &bytes,
                             .msg_iovlen = 1,
                             .msg_control = ancillary.bytes,
                             .msg_controllen = sizeof ancillary.bytes};
    /* What a process has no room for is lost once received, recvmsg(2): ask first. */
    ssize_t length = recv(channel, text, MESSAGE_MAX, MSG_PEEK | MSG_DONTWAIT);
    if (length > 0 && announced_by(text) > (long)room) {
        errno = ENOSPC;
        return -1;
    }
    if (length > 0)
        length = recvmsg(channel, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (length <= 0) {
        errno = length < 0 ? errno : ENOTCONN;
        return -1;
    }
    int count = descriptors_in(&message, connections);
    if (announced_by(text) >= 0)
        return count;
    while (count > 0)
        close(connections[--count]);
    errno = EPROTO;
    return -1;
}

/* ---- the old process's side ---- */

int restart_toggle(const char *name, char successor[RESTART_NAME_MAX])
{
    const char *slash = strrchr(name, '/');
    const char *file = slash ? slash + 1 : name;
    size_t length = strlen(name), file_length = strlen(file);
    bool strip = file_length > 1 && file[file_length - 1] == '1';
    if (length + 2 > RESTART_NAME_MAX) {
        errno = ENAMETOOLONG;
        return -1;
    }
    snprintf(successor, RESTART_NAME_MAX, "%.*s%s", (int)(length - strip), name, strip ? "" : "1");
    return 0;
}

static size_t count_of(char *const strings[])
{
    size_t count = 0;
    while (strings[count])
        count++;
    return count;
}

/* This process's environment with VARIABLE in place of any RESTART_CHANNEL; NULL: with none. To be
 * freed; the strings are not copied. */
static char **environment_with(char *variable)
{
    const size_t name = sizeof channel_variable - 1;
    char **copy = malloc((count_of(environ) + 2) * sizeof *copy);
    if (!copy)
        return NULL;
    char **next = copy;
    for (char **v = environ; *v; v++)
        if (strncmp(*v, channel_variable, name) != 0 || (*v)[name] != '=')
            *next++ = *v;
    *next++ = variable;
    *next = NULL;
    return copy;
}

/* NAME, what stands behind ARGV's first string, and LAST. To be freed; the strings are not copied.
 */
static char **arguments_with(char *name, char *const argv[], char *last)
{
    size_t count = count_of(argv);
    char **copy = malloc((count + 2) * sizeof *copy);
    if (!copy)
        return NULL;
    memcpy(copy, argv, count * sizeof *copy);
    copy[0] = name;
    copy[count] = last;
    copy[count + 1] = NULL;
    return copy;
}

/* Attributes and file actions of restart_start: PASSED ends with -1. Returns an error number. */
static int spawn(pid_t *pid, char *const argv[], char *const envp[], const int *passed,
                 const sigset_t *mask)
{
    posix_spawnattr_t attributes;
    posix_spawn_file_actions_t actions;
    sigset_t defaults;
    sigemptyset(&defaults);
    sigaddset(&defaults, SIGPIPE);
    int error = posix_spawnattr_init(&attributes);
    if (error)
        return error;
    error = posix_spawn_file_actions_init(&actions);
    if (!error) {
        posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
        posix_spawnattr_setsigmask(&attributes, mask);
        posix_spawnattr_setsigdefault(&attributes, &defaults);
        /* Onto itself: clears close-on-exec, in the child only (POSIX.1-2024). */
        for (; !error && *passed >= 0; passed++)
            error = posix_spawn_file_actions_adddup2(&actions, *passed, *passed);
        /* No shell is tried on a file of unknown format, as execvp(3) would. */
        if (!error)
            error = posix_spawnp(pid, argv[0], &actions, &attributes, argv, envp);
        posix_spawn_file_actions_destroy(&actions);
    }
    posix_spawnattr_destroy(&attributes);
    return error;
}

/* Spawns the successor with its end of the channel, or -1 for none. Returns an error number. */
static int spawn_successor(pid_t *pid, char *const argv[], int listener, int channel,
                           const sigset_t *mask)
{
    char name[RESTART_NAME_MAX], number[NUMBER_MAX], variable[64];
    if (restart_toggle(argv[0], name) < 0)
        return errno;
    snprintf(number, sizeof number, "%d", listener);
    snprintf(variable, sizeof variable, "%s=%ld:%d", channel_variable, (long)getpid(), channel);
    char **arguments = arguments_with(name, argv, number);
    char **environment = environment_with(channel < 0 ? NULL : variable);
    int passed[] = {listener, channel, -1};
    int error =
        arguments && environment ? spawn(pid, arguments, environment, passed, mask) : ENOMEM;
    free(arguments);
    free(environment);
    return error;
}

int restart_start(struct restart *restart, char *const argv[], int listener, bool report,
                  const sigset_t *mask)
{
    int ends[2] = {-1, -1};
    *restart = RESTART_NONE;
    if (report && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return -1;
    int error = 0;
    if (syscall(SYS_close_range, FIRST_PRIVATE, ~0U, CLOSE_RANGE_CLOEXEC) < 0)
        error = errno;
    if (!error)
        error = spawn_successor(&restart->pid, argv, listener, ends[1], mask);
    if (report)
        close(ends[1]);
    restart->channel = ends[0];
    if (!error) {
        restart->process = (int)syscall(SYS_pidfd_open, restart->pid, 0);
        if (restart->process >= 0)
            return 0;
        error = errno;
        kill(restart->pid, SIGKILL);
        waitpid(restart->pid, NULL, 0);
    }
    restart_leave(restart);
    errno = error;
    return -1;
}

/* Reads one message; -1: none now, and none ever again once the channel is closed. */
static int hear(struct restart *restart)
{
    char text[MESSAGE_MAX];
    ssize_t length = recv(restart->channel, text, sizeof text, MSG_DONTWAIT);
    if (length < 0 && (errno == EAGAIN || errno == EINTR))
        return -1;
    if (length <= 0) {
        close(restart->channel);
        restart->channel = -1;
        return -1;
    }
    if (text[0] != 'R')
        return RESTART_NOTHING;
    return length > 1 && text[1] == '1' ? RESTART_TAKER : RESTART_READY;
}

enum restart_news restart_learn(struct restart *restart, int *status)
{
    if (restart->pid == 0)
        return RESTART_NOTHING;
    /* First whether it lives: a message may have outlived it. */
    pid_t ended = waitpid(restart->pid, status, WNOHANG);
    if (ended != 0) {
        if (ended < 0)
            *status = -1;
        restart_leave(restart);
        return RESTART_ENDED;
    }
    /* To its end: it may have closed the channel since its report. */
    enum restart_news latest = RESTART_NOTHING;
    int news;
    while (restart->channel >= 0 && (news = hear(restart)) >= 0)
        if (news > RESTART_NOTHING)
            latest = (enum restart_news)news;
    return latest;
}

void restart_signal(const struct restart *restart, int signal)
{
    if (restart->pid > 0)
        kill(restart->pid, signal);
}

int restart_give(const struct restart *restart, const int *connections, size_t count)
{
    char text[MESSAGE_MAX];
    union ancillary ancillary;
    struct iovec bytes = {text, (size_t)snprintf(text, sizeof text, "C%zu", count)};
    struct msghdr message = {.msg_iov = &bytes, .msg_iovlen = 1};
    if (count) {
        memset(&ancillary, 0, sizeof ancillary);
        message.msg_control = ancillary.bytes;
        message.msg_controllen = (socklen_t)CMSG_SPACE(count * sizeof *connections);
        struct cmsghdr *c = CMSG_FIRSTHDR(&message);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = (socklen_t)CMSG_LEN(count * sizeof *connections);
        memcpy(CMSG_DATA(c), connections, count * sizeof *connections);
    }
    return sendmsg(restart->channel, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -1 : 0;
}

void restart_end(const struct restart *restart)
{
    shutdown(restart->channel, SHUT_WR);
}

void restart_leave(struct restart *restart)
{
    if (restart->process >= 0)
        close(restart->process);
    if (restart->channel >= 0)
        close(restart->channel);
    *restart = RESTART_NONE;
}

/* ---- for whoever watches over them ---- */

int restart_pid_write(const char *file)
{
    char temporary[PATH_MAX];
    int length = snprintf(temporary, sizeof temporary, "%s.%ld", file, (long)getpid());
    if (length < 0 || (size_t)length >= sizeof temporary) {
        errno = ENAMETOOLONG;
        return -1;
    }
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd < 0)
        return -1;
    int written = dprintf(fd, "%ld\n", (long)getpid());
    if (written < 0)
        close_failed(fd);
    else if (close(fd) == 0 && rename(temporary, file) == 0)
        return 0;
    int cause = errno;
    unlink(temporary);
    errno = cause;
    return -1;
}

void restart_pid_remove(const char *file)
{
    char text[NUMBER_MAX];
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    if (length <= 0)
        return;
    text[length] = '\0';
    text[strcspn(text, "\n")] = '\0';
    if (number_of(text) == getpid())
        unlink(file);
}

int restart_notify(const char *state)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const struct timeval wait = {.tv_usec = NOTIFY_WAIT_US};
    const char *path = getenv("NOTIFY_SOCKET");
    if (!path || !*path)
        return 0;
    size_t length = strlen(path);
    if (length > sizeof address.sun_path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(address.sun_path, path, length);
    /* An @ stands for the NUL byte of the abstract namespace, unix(7). */
    if (path[0] == '@')
        address.sun_path[0] = '\0';
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait);
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
    if (sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&address, size) < 0)
        return close_failed(fd);
    return close(fd);
}
