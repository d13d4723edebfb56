/* SPDX-License-Identifier: 0BSD */
/*
 * restart.c - see restart.h.
 *
 * The parts: the log, the service manager, the pid file; descriptors and events; the phase;
 * listeners; claiming them; starting a successor; handing over; how a successor ends; signals; new
 * connections; the step; the server's other calls; supervision.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "restart.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

enum {
    NUMBER_SIZE = 24,       /* any number in decimal, with its end */
    NUMBERS_SIZE = 256,     /* as many of them as there can be listeners, with commas */
    LINE_SIZE = 1024,       /* a log line or a notification: file names (NAME_MAX) and text */
    WHY_SIZE = 512,         /* why a restart failed: one file name, and text */
    ADDRESS_SIZE = 128,     /* an address and port, or the name of a Unix socket */
    MESSAGE_SIZE = 32,      /* longer than any message; a longer one is cut off */
    MESSAGES_MAX = 64,      /* read from a successor before others have their turn */
    EVENTS_MAX = 32,        /* more than there are descriptors in the epoll set */
    OWN_DESCRIPTORS = 9,    /* of a server without a connection, and one more */
    TURNS = 64,             /* calls of restart_accept before restart_step has its turn */
    ABORTED_MAX = 16,       /* connections in a row that were aborted in the queue */
    RETRY_MS = 10,          /* until a call that lacked memory or room is repeated */
    PAUSE_MS = 100,         /* until accepting is tried again, or what only others can change */
    ANNOUNCE_MS = 1000,     /* until a pid file that could not be written is tried again */
    CUT_MS = 1000,          /* for the server to close what is left after the drain timeout */
    SHORTAGE_MS = 5000,     /* of descriptors, after which waiting connections are abandoned */
    LAST_REQUEST_MS = 1000, /* for a request that is on its way at a shutdown */
    NOTIFIED_MS = 5000,     /* for the service manager to read what it was told */
    SERVERS_MAX = 256,      /* below one supervisor at a time, those that drain included */
    EXIT_NOT_EXECUTED = 127,
};

#define NEVER INT64_MAX

enum deadline {
    PHASE_BY,       /* STARTING: the ready timeout. HANDING_OVER, DRAINING: the drain timeout */
    CLOSE_AT,       /* DRAINING: idle connections are closed; NEVER: that time has come */
    ROLLBACK_UNTIL, /* a crash of the successor is rolled back; NEVER: it is not */
    ACCEPT_AT,      /* accepting continues; NEVER: it is not paused */
    NOTIFIED_BY,    /* the service manager must have read what it was told */
    STEP_AT,        /* the next step is due */
};

static const char channel_variable[] = "RESTART_CHANNEL";
static const char supervisor_variable[] = "RESTART_SUPERVISOR";

extern char **environ;

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000) + t.tv_nsec / 1000000;
}

static int64_t after_seconds(int seconds)
{
    return now() + seconds * INT64_C(1000);
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* TEXT as a decimal number without a sign, or -1. */
static int number_of(const char *text)
{
    char *end;
    if (!text || *text < '0' || *text > '9')
        return -1;
    errno = 0;
    long number = strtol(text, &end, 10);
    return errno || *end || number > INT_MAX ? -1 : (int)number;
}

static int socket_option(int fd, int option)
{
    int value;
    socklen_t size = sizeof value;
    return getsockopt(fd, SOL_SOCKET, option, &value, &size) == 0 ? value : -1;
}

static bool has_events(int fd, short events)
{
    return fd >= 0 && poll(&(struct pollfd){.fd = fd, .events = events}, 1, 0) != 0;
}

/* ---- the log, the service manager, the pid file ---- */

/* True if standard error is the stream that the journal reads, systemd.exec(5). */
static bool is_journal(void)
{
    unsigned long device, inode;
    struct stat stream;
    const char *journal = getenv("JOURNAL_STREAM");
    return journal && sscanf(journal, "%lu:%lu", &device, &inode) == 2 &&
           fstat(STDERR_FILENO, &stream) == 0 && stream.st_dev == device && stream.st_ino == inode;
}

void restart_log(int priority, const char *text)
{
    char line[LINE_SIZE + NAME_MAX];
    sigset_t stop, before;
    int length;
    if (is_journal())
        length = snprintf(line, sizeof line, "<%d>%s\n", priority, text);
    else
        length = snprintf(line, sizeof line, "%.*s[%ld]: %s\n", NAME_MAX,
                          program_invocation_short_name, (long)getpid(), text);
    if (length >= (int)sizeof line) {
        length = sizeof line - 1;
        line[length - 1] = '\n';
    }
    /* poll(2) reports room for a terminal that Ctrl-S has stopped, so a description of its own is
     * made non-blocking. A background process that writes is stopped by SIGTTOU, tcsetattr(3). */
    const bool terminal = isatty(STDERR_FILENO);
    int own = terminal ? open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC) : -1;
    if (own < 0 && !has_events(STDERR_FILENO, POLLOUT))
        return;
    sigemptyset(&stop);
    sigaddset(&stop, SIGTTOU);
    sigprocmask(SIG_BLOCK, &stop, &before);
    ssize_t written = write(own >= 0 ? own : STDERR_FILENO, line, (size_t)length);
    (void)written;
    sigprocmask(SIG_SETMASK, &before, NULL);
    close_fd(&own);
}

__attribute__((format(printf, 3, 4))) static void say(const struct restart *r, int priority,
                                                      const char *format, ...)
{
    char line[LINE_SIZE];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    (r->options.log ? r->options.log : restart_log)(priority, line);
}

/* Connections may use up all descriptors, so a few are kept for what a restart must open. */
static void release_reserve(struct restart *r)
{
    for (int i = 0; i < RESTART_RESERVE; i++)
        close_fd(&r->reserve[i]);
}

static void keep_reserve(struct restart *r)
{
    struct rlimit limit;
    if (r->phase > RESTART_STARTING || getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    /* Under a low limit, half of what the module leaves is for connections. */
    for (rlim_t i = 0; i < RESTART_RESERVE && OWN_DESCRIPTORS + 2 * i < limit.rlim_cur; i++)
        if (r->reserve[i] < 0)
            r->reserve[i] = fcntl(r->timer, F_DUPFD_CLOEXEC, 0);
}

/* Ancillary data with one descriptor, aligned as cmsg(3) demands. */
union ancillary {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(int))];
};

/* Sends TEXT, and DESCRIPTOR with it unless that is -1, to ADDRESS if that is not NULL. */
static int send_message(int fd, const char *text, int descriptor, struct sockaddr_un *address,
                        socklen_t size)
{
    union ancillary ancillary = {.bytes = {0}};
    struct iovec bytes = {(char *)text, strlen(text)};
    struct msghdr message = {
        .msg_name = address, .msg_namelen = size, .msg_iov = &bytes, .msg_iovlen = 1};
    if (descriptor >= 0) {
        message.msg_control = ancillary.bytes;
        message.msg_controllen = sizeof ancillary.bytes;
        struct cmsghdr *c = CMSG_FIRSTHDR(&message);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = (socklen_t)CMSG_LEN(sizeof descriptor);
        memcpy(CMSG_DATA(c), &descriptor, sizeof descriptor);
    }
    return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -1 : 0;
}

/* Receives a message into TEXT, and into DESCRIPTOR what came with it, or -1. Returns the length of
 * the message; 0: end of file. */
static ssize_t receive_message(int fd, char text[MESSAGE_SIZE], int *descriptor)
{
    union ancillary ancillary;
    struct iovec bytes = {text, MESSAGE_SIZE - 1};
    struct msghdr message = {.msg_iov = &bytes,
                             .msg_iovlen = 1,
                             .msg_control = ancillary.bytes,
                             .msg_controllen = sizeof ancillary.bytes};
    memset(text, 0, MESSAGE_SIZE);
    *descriptor = -1;
    ssize_t length = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    const struct cmsghdr *c = length > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
        memcpy(descriptor, CMSG_DATA(c), sizeof *descriptor);
    return length;
}

static const char barrier_message[] = "BARRIER=1";

/* Sends MESSAGE to the service manager; with a barrier also the end of a pipe that the manager
 * closes when it has read everything before that, sd_notify_barrier(3). */
static int send_notice(struct restart *r, const char *message)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *path = getenv("NOTIFY_SOCKET");
    const size_t length = path ? strlen(path) : 0;
    int ends[2] = {-1, -1}, sent = -1;
    if (length > sizeof address.sun_path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(address.sun_path, path, length);
    /* An @ stands for the NUL byte of the abstract namespace, unix(7). */
    if (length > 0 && path[0] == '@')
        address.sun_path[0] = '\0';
    release_reserve(r);
    const bool is_barrier = strcmp(message, barrier_message) == 0;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && (!is_barrier || pipe2(ends, O_CLOEXEC) == 0))
        sent = send_message(fd, message, ends[1], &address,
                            (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length));
    const int error = errno;
    close_fd(&fd);
    close_fd(&ends[1]);
    if (sent == 0 && is_barrier)
        r->barrier = ends[0];
    else
        close_fd(&ends[0]);
    errno = error;
    return sent;
}

/* Queues a message to the service manager: newline-separated assignments, sd_notify(3). */
__attribute__((format(printf, 2, 3))) static void notify(struct restart *r, const char *format, ...)
{
    const char *path = getenv("NOTIFY_SOCKET");
    const size_t room = sizeof r->notices - r->notices_length;
    va_list arguments;
    if (!path || !*path)
        return;
    va_start(arguments, format);
    const int length = vsnprintf(r->notices + r->notices_length, room, format, arguments);
    va_end(arguments);
    if (length < 0 || (size_t)length >= room)
        return;
    r->notices_length += (size_t)length + 1;
    if (r->deadlines[NOTIFIED_BY] == NEVER)
        r->deadlines[NOTIFIED_BY] = now() + NOTIFIED_MS;
}

/* True if the service manager has read everything that it was told. */
static bool is_notified(const struct restart *r)
{
    return r->notices_length == 0 && r->barrier < 0;
}

/* As a new file that is then renamed. Others may write to its folder, so no existing file is opened
 * here, and none is replaced but a regular one. */
static int replace_pid_file(const char *file)
{
    char temporary[PATH_MAX], number[NUMBER_SIZE];
    struct stat existing;
    const int length = snprintf(temporary, sizeof temporary, "%s.XXXXXX", file);
    if (length < 0 || (size_t)length >= sizeof temporary) {
        errno = ENAMETOOLONG;
        return -1;
    }
    if (lstat(file, &existing) == 0 && !S_ISREG(existing.st_mode)) {
        errno = EEXIST;
        return -1;
    }
    int fd = mkostemp(temporary, O_CLOEXEC);
    if (fd < 0)
        return -1;
    const int size = snprintf(number, sizeof number, "%ld\n", (long)getpid());
    const bool written = write(fd, number, (size_t)size) == size && fchmod(fd, 0644) == 0;
    int error = errno;
    close(fd);
    if (written && rename(temporary, file) == 0)
        return 0;
    error = written ? errno : error;
    unlink(temporary);
    errno = error;
    return -1;
}

/* True if the pid file names this process. */
static bool is_named(const struct restart *r)
{
    const char *file = r->options.pid_file;
    char text[NUMBER_SIZE];
    int fd = file ? open(file, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_NOCTTY | O_CLOEXEC) : -1;
    if (fd < 0)
        return false;
    const ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    text[length > 0 ? length : 0] = '\0';
    text[strcspn(text, "\n")] = '\0';
    return number_of(text) == getpid();
}

static int write_pid_file(struct restart *r)
{
    const char *file = r->options.pid_file;
    release_reserve(r);
    if (!file || replace_pid_file(file) == 0)
        return 0;
    if (!r->announce_is_due)
        say(r, LOG_ERR, "cannot write pid file %s: %s", file,
            errno == EEXIST ? "it is not a regular file" : strerror(errno));
    return -1;
}

static void describe_address(int listener, char text[ADDRESS_SIZE])
{
    union {
        struct sockaddr any;
        struct sockaddr_un local;
        struct sockaddr_storage storage;
    } address = {.storage = {0}};
    socklen_t size = sizeof address;
    char host[ADDRESS_SIZE / 2] = "?", port[NI_MAXSERV] = "?";
    getsockname(listener, &address.any, &size);
    const char *path = address.local.sun_path;
    if (address.any.sa_family == AF_UNIX) {
        snprintf(text, ADDRESS_SIZE, "unix:%s%.*s", *path ? "" : "@",
                 (int)(size - offsetof(struct sockaddr_un, sun_path)), *path ? path : path + 1);
        return;
    }
    getnameinfo(&address.any, size, host, sizeof host, port, sizeof port,
                NI_NUMERICHOST | NI_NUMERICSERV);
    const bool v6 = address.any.sa_family == AF_INET6;
    snprintf(text, ADDRESS_SIZE, "%s%s%s:%s", v6 ? "[" : "", host, v6 ? "]" : "", port);
}

static void say_listening(const struct restart *r)
{
    const char *version = r->options.version;
    for (int i = 0; i < r->listener_count; i++) {
        char address[ADDRESS_SIZE], how[NUMBER_SIZE + 16] = "";
        describe_address(r->listeners[i], address);
        if (i < r->inherited)
            snprintf(how, sizeof how, " (inherited fd %d)", r->listeners[i]);
        say(r, LOG_INFO, "listening on %s%s%s%s", address, how, version ? ", version " : "",
            version ? version : "");
    }
}

/* ---- descriptors and events ---- */

/* A closed standard stream would be a connection's number next, and a client would get log lines.
 * Read-only, so that writing fails as it did before. */
static void open_standard_streams(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDONLY);
    while (fd >= 0 && fd <= STDERR_FILENO);
    close_fd(&fd);
}

static int ascending(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

/* Where close_range(2) is forbidden (seccomp(2)) or missing (before Linux 5.9). */
static int close_one_by_one(int first, int last)
{
    DIR *descriptors = opendir("/proc/self/fd");
    const struct dirent *entry;
    if (!descriptors)
        return -1;
    while ((entry = readdir(descriptors))) {
        const int fd = number_of(entry->d_name);
        if (fd >= first && fd <= last && fd != dirfd(descriptors))
            close(fd);
    }
    return closedir(descriptors);
}

/* Closes all descriptors above 2 but the COUNT that are in KEPT, which may hold -1. */
static int close_others(int *kept, int count)
{
    int first = STDERR_FILENO + 1;
    qsort(kept, (size_t)count, sizeof *kept, ascending);
    for (int i = 0; i <= count; i++) {
        const int last = i < count ? kept[i] - 1 : INT_MAX;
        if (first <= last && syscall(SYS_close_range, first, last, 0) < 0 &&
            close_one_by_one(first, last) < 0)
            return -1;
        if (i < count && kept[i] >= first)
            first = kept[i] + 1;
    }
    return 0;
}

/* Edge-triggered: an event that the module cannot deal with yet (no descriptor is free, a tracer
 * holds an ended process) is looked at again after a while, and does not make the loop spin. */
static int watch(const struct restart *r, int fd, uint32_t events)
{
    struct epoll_event event = {.events = events | EPOLLET, .data.ptr = r->options.step_data};
    return epoll_ctl(r->epoll, EPOLL_CTL_ADD, fd, &event);
}

/* Sets the timer to the first deadline. */
static void arm(struct restart *r)
{
    int64_t due = NEVER;
    for (int i = 0; i < RESTART_DEADLINES; i++)
        due = r->deadlines[i] < due ? r->deadlines[i] : due;
    if (due == r->armed)
        return;
    r->armed = due;
    /* A time of zero would disarm the timer; one that has passed expires at once. */
    struct itimerspec at = {.it_value = {.tv_nsec = due <= 0}};
    if (due > 0 && due < NEVER)
        at.it_value = (struct timespec){due / 1000, due % 1000 * 1000000};
    timerfd_settime(r->timer, TFD_TIMER_ABSTIME, &at, NULL);
}

static void step_soon(struct restart *r)
{
    r->deadlines[STEP_AT] = 0;
    arm(r);
}

static void step_after(struct restart *r, int64_t ms)
{
    const int64_t at = now() + ms;
    if (at < r->deadlines[STEP_AT])
        r->deadlines[STEP_AT] = at;
    arm(r);
}

/* The one place where interest in a listener, number I, or in the predecessor's connections, number
 * RESTART_LISTENERS, is set. A failure is tried again. Returns false if FD is still watched though
 * it must not be. */
static bool watch_source(struct restart *r, int fd, int i, bool wanted)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = r->options.accept_data};
    const unsigned bit = 1U << i;
    if (fd >= 0 && !(r->watched & bit) == wanted) {
        if (epoll_ctl(r->epoll, wanted ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, fd, &event) == 0)
            r->watched ^= bit;
        else
            step_after(r, RETRY_MS);
    }
    return wanted || !(r->watched & bit);
}

static bool may_accept(const struct restart *r, int i)
{
    return r->phase == RESTART_SERVING || r->phase == RESTART_STARTING || r->backlog[i] > 0;
}

static unsigned connections_to_accept(const struct restart *r)
{
    unsigned count = 0;
    for (int i = 0; i < r->listener_count; i++)
        count += r->backlog[i];
    return count;
}

/* Closing alone does not end a listener's events while the successor has the same open file
 * description, epoll(7). */
static void close_listeners(struct restart *r)
{
    bool unwatched = true;
    for (int i = 0; i < r->listener_count; i++)
        unwatched &= watch_source(r, r->listeners[i], i, false);
    if (!unwatched)
        return;
    for (int i = 0; i < r->listener_count; i++)
        close_fd(&r->listeners[i]);
    memset(r->backlog, 0, sizeof r->backlog);
    r->listener_count = 0;
}

/* ---- the phase ---- */

/* True if a successor has been started that has not claimed the listeners. */
static bool is_pending(const struct restart *r)
{
    return r->successor.pid > 0 && (r->successor.report == 0 || r->successor.report == 'L');
}

/* True while a crash of the successor is rolled back. */
static bool may_roll_back(const struct restart *r)
{
    return r->deadlines[ROLLBACK_UNTIL] != NEVER;
}

/* The one place where the phase changes. */
static void enter(struct restart *r, enum restart_phase phase)
{
    const enum restart_phase before = r->phase;
    r->phase = phase;
    step_soon(r);
    if (phase == RESTART_STARTING && r->options.ready_timeout > 0)
        r->deadlines[PHASE_BY] = after_seconds(r->options.ready_timeout);
    else if (phase == RESTART_CUT)
        r->deadlines[PHASE_BY] = now() + CUT_MS;
    else if (before <= RESTART_STARTING && phase >= RESTART_HANDING_OVER)
        r->deadlines[PHASE_BY] = after_seconds(r->options.drain_timeout);
    else if (phase != RESTART_DRAINING)
        r->deadlines[PHASE_BY] = NEVER;
    r->deadlines[CLOSE_AT] = phase == RESTART_DRAINING ? now() + LAST_REQUEST_MS : NEVER;
    if (phase == RESTART_DRAINING && r->open > 0)
        say(r, LOG_INFO, "draining: %d connections", r->open);
    if (phase <= RESTART_STARTING)
        r->handed_over = r->finished = 0;
    if (phase < RESTART_DONE)
        return;
    close_listeners(r);
    if (is_named(r))
        unlink(r->options.pid_file);
    say(r, LOG_INFO, "ended: %lu connections handed over, %lu finished here", r->handed_over,
        r->finished);
}

/* Reports to the supervisor: see hear_server. */
__attribute__((format(printf, 2, 3))) static int tell_supervisor(const struct restart *r,
                                                                 const char *format, ...)
{
    char text[MESSAGE_SIZE];
    va_list arguments;
    if (r->lifeline < 0)
        return 0;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return send_message(r->lifeline, text, -1, NULL, 0);
}

/* All generations share the listener's open file description, and with it its owner, fcntl(2),
 * which has no other meaning for a listener: the process that owns the listeners or, while that
 * starts a successor, the successor. The kernel forgets an owner that has ended. */
static void set_owner(const struct restart *r)
{
    if (r->listener_count > 0)
        fcntl(r->listeners[0], F_SETOWN, getpid());
}

static bool another_owns(const struct restart *r)
{
    const int owner = r->listener_count > 0 ? fcntl(r->listeners[0], F_GETOWN) : 0;
    return owner > 0 && owner != getpid();
}

/* Makes it known that this process owns the listeners. What fails is tried again; but if the pid
 * file MUST be written and cannot be, nothing else is done and the result is false. */
static bool announce(struct restart *r, bool must)
{
    const bool written = write_pid_file(r) == 0;
    if (!written && must)
        return false;
    set_owner(r);
    const bool told = tell_supervisor(r, "O%ld", (long)getpid()) == 0;
    r->announce_is_due = !written || !told;
    if (r->announce_is_due)
        step_after(r, ANNOUNCE_MS);
    return true;
}

/* ---- listeners ---- */

int restart_listener(struct restart *r, int fd)
{
    const int listens = socket_option(fd, SO_ACCEPTCONN);
    if (listens < 0)
        return -1;
    errno = !listens                                    ? EINVAL
            : socket_option(fd, SO_TYPE) != SOCK_STREAM ? ENOTSUP
            : r->listener_count == RESTART_LISTENERS    ? ENOSPC
                                                        : 0;
    if (errno || fcntl(fd, F_SETFL, O_NONBLOCK) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
        return -1;
    r->listeners[r->listener_count++] = fd;
    return 0;
}

static int inherit_listener(struct restart *r, int fd)
{
    if (restart_listener(r, fd) < 0) {
        const int error = errno;
        say(r, LOG_ERR, "cannot listen on inherited fd %d: %s", fd,
            error == ENOTSOCK  ? "it is not a socket"
            : error == EINVAL  ? "it does not listen"
            : error == ENOTSUP ? "it is not a stream socket"
            : error == ENOSPC  ? "there are too many"
                               : strerror(error));
        errno = error;
        return -1;
    }
    return r->inherited = r->listener_count;
}

/* Calls TAKE for each number in TEXT, "3" or "3,4". -1: it is no such list, or TAKE has failed. */
static int for_each_number(struct restart *r, const char *text,
                           int (*take)(struct restart *r, int number))
{
    char copy[NUMBERS_SIZE];
    if (strlen(text) >= sizeof copy)
        return -1;
    strcpy(copy, text);
    for (char *next = copy, *number; (number = strsep(&next, ","));)
        if (number_of(number) < 0 || (take && take(r, number_of(number)) < 0))
            return -1;
    return 0;
}

int restart_listeners(struct restart *r, const char *text)
{
    r->listener_count = r->inherited = 0;
    if (for_each_number(r, text, NULL) < 0) {
        say(r, LOG_ERR, "cannot take '%s' for FD: not a number from 0 to %d, nor several as 3,4",
            text, INT_MAX);
        errno = EINVAL;
        return -1;
    }
    return for_each_number(r, text, inherit_listener) < 0 ? -1 : r->listener_count;
}

/* Takes VARIABLE from the environment: up to three numbers with colons. Returns how many. */
static int take_variable(const char *variable, int numbers[3])
{
    int end = 0, second = 0;
    const char *text = getenv(variable);
    const int count =
        text ? sscanf(text, "%9d:%9d%n:%9d%n", &numbers[0], &numbers[1], &second, &numbers[2], &end)
             : 0;
    const bool whole = count >= 2 && text[count == 3 ? end : second] == '\0';
    unsetenv(variable);
    return whole ? count : 0;
}

/* True if FD has reached end of file. */
static bool is_at_end(int fd)
{
    char byte;
    return recv(fd, &byte, sizeof byte, MSG_PEEK | MSG_DONTWAIT) == 0;
}

static bool is_channel(int fd)
{
    return socket_option(fd, SO_DOMAIN) == AF_UNIX && socket_option(fd, SO_TYPE) == SOCK_SEQPACKET;
}

/* The supervisor's lifeline; its credentials are those of the process that created it. */
static void find_supervisor(struct restart *r)
{
    int numbers[3];
    struct ucred creator = {0};
    socklen_t size = sizeof creator;
    if (take_variable(supervisor_variable, numbers) == 3 && is_channel(numbers[1]) &&
        getsockopt(numbers[1], SOL_SOCKET, SO_PEERCRED, &creator, &size) == 0 &&
        creator.pid == numbers[0] && fcntl(numbers[1], F_SETFD, FD_CLOEXEC) == 0 &&
        fcntl(numbers[2], F_SETFD, FD_CLOEXEC) == 0) {
        r->supervisor = creator.pid;
        r->lifeline = numbers[1];
        r->life = numbers[2];
    }
}

/* The channel to the predecessor. One that another process in between has passed on is not this
 * process's: its predecessor lives, and is not the parent. */
static void find_predecessor(struct restart *r)
{
    int numbers[3];
    if (take_variable(channel_variable, numbers) != 2 || !is_channel(numbers[1]))
        return;
    if ((numbers[0] != getppid() && !is_at_end(numbers[1])) ||
        fcntl(numbers[1], F_SETFD, FD_CLOEXEC) < 0) {
        close(numbers[1]);
        return;
    }
    r->parent = numbers[0];
    r->predecessor = numbers[1];
}

/* sd_listen_fds(3) */
static int find_activation(struct restart *r)
{
    int count = number_of(getenv("LISTEN_PID")) == getpid() ? number_of(getenv("LISTEN_FDS")) : 0;
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
    unsetenv("LISTEN_PIDFDID");
    for (int i = 0; i < count; i++)
        if (inherit_listener(r, STDERR_FILENO + 1 + i) < 0)
            return -1;
    return 0;
}

static int copy_arguments(struct restart *r, char **argv)
{
    int count = 0;
    while (argv[count])
        count++;
    free(r->argv);
    r->argv = calloc((size_t)count + 2, sizeof *argv);
    if (!r->argv)
        return -1;
    memcpy(r->argv, argv, (size_t)count * sizeof *argv);
    r->argc = count;
    return 0;
}

static void caught_signals(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGUSR1);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
}

static void set_signals(struct restart *r)
{
    const struct sigaction ignore = {.sa_handler = SIG_IGN}, standard = {.sa_handler = SIG_DFL};
    sigset_t caught;
    caught_signals(&caught);
    sigprocmask(SIG_BLOCK, &caught, &r->mask);
    sigaction(SIGPIPE, &ignore, NULL);
    sigaction(SIGXFSZ, &ignore, NULL);
    /* If SIGCHLD is ignored, wait(2) does not report how a successor ended. */
    sigaction(SIGCHLD, &standard, &r->on_child);
}

static void remember_directory(struct restart *r)
{
    struct stat directory;
    if (!getcwd(r->directory, sizeof r->directory) || stat(".", &directory) < 0) {
        r->directory[0] = '\0';
        return;
    }
    r->directory_device = directory.st_dev;
    r->directory_inode = directory.st_ino;
}

static void clear(struct restart *r)
{
    memset(r, 0, sizeof *r);
    r->epoll = r->timer = r->signals = r->lifeline = r->life = r->predecessor = r->barrier = -1;
    r->successor.process = r->successor.execution = r->successor.channel = -1;
    memset(r->reserve, -1, sizeof r->reserve);
    memset(r->listeners, -1, sizeof r->listeners);
    r->armed = NEVER;
    for (int i = 0; i < RESTART_DEADLINES; i++)
        r->deadlines[i] = NEVER;
}

int restart_inherit(struct restart *r, int *argc, char **argv)
{
    clear(r);
    open_standard_streams();
    remember_directory(r);
    set_signals(r);
    find_supervisor(r);
    find_predecessor(r);
    const char *last = *argc > 1 ? argv[*argc - 1] : "";
    int listeners = find_activation(r);
    if (r->predecessor >= 0) {
        /* The predecessor has blocked it until it can be read: it was not blocked before. */
        sigdelset(&r->mask, SIGUSR1);
        if (for_each_number(r, last, NULL) == 0) {
            listeners = restart_listeners(r, last);
            argv[--*argc] = NULL;
        }
    }
    if (listeners < 0 || copy_arguments(r, argv) < 0)
        return -1;
    return r->listener_count;
}

/* ---- claiming the listeners ---- */

static void leave_predecessor(struct restart *r)
{
    close_fd(&r->predecessor);
    r->watched &= ~(1U << RESTART_LISTENERS);
    r->is_main = true;
    step_soon(r);
}

/* D: this process begins a restart of its own, or drains, so the predecessor need not stand by. */
static void release_predecessor(const struct restart *r)
{
    if (r->predecessor >= 0)
        send_message(r->predecessor, "D", -1, NULL, 0);
}

static void fail(struct restart *r)
{
    r->status = EXIT_FAILURE;
    enter(r, RESTART_DONE);
}

/* R2: this process runs, has claimed the listeners, and takes connections. Returns false if the
 * message could not be sent; the predecessor may have given this process up meanwhile. */
static bool report(struct restart *r)
{
    if (r->predecessor < 0 || send_message(r->predecessor, "R2", -1, NULL, 0) == 0)
        return true;
    if (errno != EPIPE && errno != ECONNRESET) {
        step_after(r, RETRY_MS);
        return false;
    }
    if (is_at_end(r->predecessor))
        return true; /* it has ended */
    say(r, LOG_ERR, "too late: the predecessor serves on");
    fail(r);
    return false;
}

/* Tells the service manager what serves, and since when; with READY also that it does. */
static void notify_serving(struct restart *r, const char *ready)
{
    const char *version = r->options.version;
    char since[2 * NUMBER_SIZE] = "";
    const time_t t = time(NULL);
    strftime(since, sizeof since, "%F %T", localtime(&t));
    notify(r, "%sSTATUS=%s%ssince %s", ready, version ? version : "", version ? ", " : "", since);
}

static void claim(struct restart *r)
{
    const bool alone = r->predecessor < 0 || is_at_end(r->predecessor);
    if (!announce(r, !alone || r->inherited == 0)) {
        fail(r);
        return;
    }
    if (!report(r))
        return;
    enter(r, RESTART_SERVING);
    say_listening(r);
    r->is_main = alone || !getenv("NOTIFY_SOCKET") || r->supervisor > 0;
    if (alone)
        notify_serving(r, "READY=1\n");
    else if (!r->is_main)
        r->deadlines[NOTIFIED_BY] = now() + NOTIFIED_MS; /* until the predecessor confirms it */
}

/* ---- starting a successor ---- */

/* Removes one trailing 1 of the file name, or else appends one; a mere 1 gets another. */
static int toggle(const char *name, char successor[PATH_MAX])
{
    const char *slash = strrchr(name, '/');
    const char *file = slash ? slash + 1 : name;
    const size_t length = strlen(name), file_length = strlen(file);
    const bool strip = file_length > 1 && file[file_length - 1] == '1';
    if (length + 2 > PATH_MAX) {
        errno = ENAMETOOLONG;
        return -1;
    }
    snprintf(successor, PATH_MAX, "%.*s%s", (int)(length - strip), name, strip ? "" : "1");
    return 0;
}

/* Executes NAME, along PATH if it has no slash. Unlike execvp(3) it does not pass a file of unknown
 * format to a shell. Returns only on failure, with errno. */
static void execute(const char *name, char **argv)
{
    char file[2 * PATH_MAX];
    const char *path = strchr(name, '/') ? "" : getenv("PATH");
    int error = ENOENT;
    for (path = path ? path : "/bin:/usr/bin";; path++) {
        const int length = (int)strcspn(path, ":");
        if (length < PATH_MAX) {
            snprintf(file, sizeof file, "%.*s%s%s", length, path, length ? "/" : "", name);
            execve(file, argv, environ);
            if (errno != ENOENT && errno != ENOTDIR)
                error = errno;
        }
        path += length;
        if (!*path || (error != ENOENT && error != EACCES))
            break;
    }
    errno = error;
}

/* In a server that is not executed yet: has the kernel kill it when the supervisor ends, even if it
 * hangs then. The supervisor holds the only write end of a pipe, and its closing sends the signal
 * that F_SETSIG names, fcntl(2). PR_SET_PDEATHSIG would not do: a successor's parent is its
 * predecessor, and when that ends, the successor may already hang. */
static int register_server(struct restart *r)
{
    int life[2];
    char text[MESSAGE_SIZE];
    if (r->lifeline < 0)
        return 0;
    close_fd(&r->life);
    snprintf(text, sizeof text, "S%ld", (long)getpid());
    if (pipe2(life, O_CLOEXEC) < 0)
        return -1;
    r->life = life[0];
    if (fcntl(life[0], F_SETOWN, getpid()) < 0 || fcntl(life[0], F_SETSIG, SIGKILL) < 0 ||
        fcntl(life[0], F_SETFL, O_ASYNC) < 0 ||
        send_message(r->lifeline, text, life[1], NULL, 0) < 0)
        return -1;
    return close(life[1]);
}

/* In the child: lets the program that it will execute inherit FD. */
static int pass_on(int fd)
{
    return fd < 0 ? 0 : fcntl(fd, F_SETFD, 0);
}

static int pass_on_listeners(const struct restart *r, char numbers[NUMBERS_SIZE])
{
    size_t length = 0;
    for (int i = 0; i < r->listener_count; i++) {
        length += (size_t)snprintf(numbers + length, NUMBERS_SIZE - length, "%s%d", i ? "," : "",
                                   r->listeners[i]);
        if (pass_on(r->listeners[i]) < 0)
            return -1;
    }
    return 0;
}

static int set_variables(const struct restart *r, int channel)
{
    char text[4 * NUMBER_SIZE];
    snprintf(text, sizeof text, "%ld:%d", (long)getppid(), channel);
    if (channel >= 0 && setenv(channel_variable, text, 1) < 0)
        return -1;
    snprintf(text, sizeof text, "%ld:%d:%d", (long)r->supervisor, r->lifeline, r->life);
    return r->lifeline < 0 ? 0 : setenv(supervisor_variable, text, 1);
}

/* To the directory that the first process was started in, unless that is the current one. A name
 * that starts with a slash, or is looked up in PATH, does without. */
static int return_to_directory(const struct restart *r, const char *name)
{
    struct stat current;
    const bool is_there = stat(".", &current) == 0 && current.st_dev == r->directory_device &&
                          current.st_ino == r->directory_inode;
    if (is_there || !r->directory[0] || chdir(r->directory) == 0)
        return 0;
    return name[0] == '/' || !strchr(name, '/') ? 0 : -1;
}

static void restore_signals(const struct restart *r, bool block_restart)
{
    const struct sigaction standard = {.sa_handler = SIG_DFL};
    sigset_t mask = r->mask;
    if (block_restart)
        sigaddset(&mask, SIGUSR1);
    sigaction(SIGPIPE, &standard, NULL);
    sigaction(SIGXFSZ, &standard, NULL);
    sigaction(SIGCHLD, &r->on_child, NULL);
    sigprocmask(SIG_SETMASK, &mask, NULL);
}

/* In the child: becomes the successor NAME, or reports over EXECUTION why not. It closes the
 * server's descriptors before the execution, as the file may be on slow storage. */
__attribute__((noreturn)) static void become(struct restart *r, char *name, int channel,
                                             int execution)
{
    int kept[RESTART_LISTENERS + 3] = {channel, execution, r->lifeline};
    char numbers[NUMBERS_SIZE];
    memcpy(kept + 3, r->listeners, sizeof r->listeners);
    set_owner(r);
    if (close_others(kept, RESTART_LISTENERS + 3) == 0 && register_server(r) == 0 &&
        pass_on_listeners(r, numbers) == 0 && pass_on(channel) == 0 && pass_on(r->lifeline) == 0 &&
        pass_on(r->life) == 0 && set_variables(r, channel) == 0 &&
        return_to_directory(r, name) == 0) {
        r->argv[0] = name;
        r->argv[r->argc] = numbers;
        /* SIGUSR1 must not end a program that has not taken care of it yet. */
        restore_signals(r, channel >= 0);
        execute(name, r->argv);
    }
    const int error = errno;
    const ssize_t written = write(execution, &error, sizeof error);
    (void)written;
    _exit(EXIT_NOT_EXECUTED);
}

/* Kills a successor that has not claimed the listeners. */
static void give_up_successor(struct restart *r)
{
    r->successor.report = 'L';
    kill(r->successor.pid, SIGKILL);
    step_after(r, PAUSE_MS);
}

static void forget_successor(struct restart *r)
{
    close_fd(&r->successor.process);
    close_fd(&r->successor.execution);
    close_fd(&r->successor.channel);
    r->successor.pid = 0;
}

/* Creates what connects this process to its successor. Returns the call that failed, or NULL. */
static const char *connect_successor(struct restart *r, int *channel, int *execution)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
        return "pipe2";
    r->successor.execution = ends[0];
    *execution = ends[1];
    if (r->options.ready_timeout == 0)
        return NULL;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return "socketpair";
    r->successor.channel = ends[0];
    *channel = ends[1];
    /* The kernel's minimum: a crash of the successor loses the few connections that wait in it. */
    return setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &(int){1}, sizeof(int)) < 0 ? "setsockopt"
                                                                                  : NULL;
}

/* Returns the call that failed, or NULL. */
static const char *watch_successor(struct restart *r)
{
    r->successor.process = (int)syscall(SYS_pidfd_open, r->successor.pid, 0);
    if (r->successor.process < 0)
        return "pidfd_open";
    if (watch(r, r->successor.process, EPOLLIN) < 0 ||
        watch(r, r->successor.execution, EPOLLIN) < 0)
        return "epoll_ctl";
    return r->successor.channel >= 0 && watch(r, r->successor.channel, EPOLLIN | EPOLLOUT) < 0
               ? "epoll_ctl"
               : NULL;
}

static void restart_failed(struct restart *r, const char *why)
{
    say(r, LOG_ERR, "restart failed: %s", why);
    enter(r, RESTART_SERVING);
    announce(r, false); /* the successor may have done so */
    notify(r, "READY=1\nSTATUS=restart failed: %s", why);
}

/* Not with posix_spawn(3), which holds this process until the execution is done. */
static void spawn(struct restart *r, char *name)
{
    char why[WHY_SIZE];
    int channel = -1, execution = -1;
    memset(&r->successor, 0, sizeof r->successor);
    r->successor.process = r->successor.execution = r->successor.channel = -1;
    release_reserve(r);
    r->successor.call = connect_successor(r, &channel, &execution);
    const pid_t pid = r->successor.call ? -1 : fork();
    if (pid == 0)
        become(r, name, channel, execution);
    if (pid < 0 && !r->successor.call)
        r->successor.call = "fork";
    r->successor.error = errno;
    close_fd(&channel);
    close_fd(&execution);
    if (pid < 0) {
        snprintf(why, sizeof why, "cannot start %.300s: %s: %s", name, r->successor.call,
                 strerror(r->successor.error));
        forget_successor(r);
        restart_failed(r, why);
        return;
    }
    r->successor.pid = pid;
    r->successor.call = watch_successor(r);
    r->successor.error = r->successor.call ? errno : 0;
    if (r->successor.call)
        give_up_successor(r);
}

static void start(struct restart *r)
{
    char name[PATH_MAX], why[WHY_SIZE];
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    r->restart_wanted = false;
    say(r, LOG_NOTICE, "SIGUSR1 received: restarting");
    tell_supervisor(r, "A");
    release_predecessor(r);
    notify(r, "RELOADING=1\nMONOTONIC_USEC=%lld\nSTATUS=", t.tv_sec * 1000000LL + t.tv_nsec / 1000);
    enter(r, RESTART_STARTING);
    if (toggle(r->argv[0], name) == 0) {
        spawn(r, name);
        return;
    }
    snprintf(why, sizeof why, "cannot start the successor of %.300s: %s", r->argv[0],
             strerror(errno));
    restart_failed(r, why);
}

/* ---- handing over ---- */

static bool hands_over(const struct restart *r)
{
    return (r->phase == RESTART_HANDING_OVER || r->phase == RESTART_CUT) &&
           r->successor.report == 'T' && r->successor.channel >= 0;
}

/* Tells the service manager which process is the main one. This process neither ends nor starts
 * another successor before the manager has read that. */
static void notify_main(struct restart *r, pid_t pid, const char *status)
{
    if (r->supervisor > 0) {
        notify(r, "READY=1%s", status);
        return;
    }
    notify(r, "MAINPID=%ld\nREADY=1%s", (long)pid, status);
    notify(r, "%s", barrier_message);
}

/* The successor has claimed the listeners. */
static void hand_over(struct restart *r)
{
    const bool takes = r->successor.report == 'T';
    notify_main(r, r->successor.pid, "");
    say(r, LOG_INFO, "handed over to %ld", (long)r->successor.pid);
    if (!takes) {
        tell_supervisor(r, "O%ld", (long)r->successor.pid);
        if (r->successor.channel >= 0)
            shutdown(r->successor.channel, SHUT_WR); /* no connection will come */
    }
    enter(r, takes ? RESTART_HANDING_OVER : RESTART_DRAINING);
    if (r->options.rollback_timeout > 0)
        r->deadlines[ROLLBACK_UNTIL] = after_seconds(r->options.rollback_timeout);
    else
        close_listeners(r);
}

/* ---- how a successor ends ---- */

/* How the successor ended, with STATUS as of waitpid(2); -1: it is not known. */
static void describe_end(const struct restart *r, int status, char why[WHY_SIZE])
{
    char name[PATH_MAX] = "?", how[WHY_SIZE / 2];
    if (r->successor.error) {
        toggle(r->argv[0], name);
        snprintf(why, WHY_SIZE, "cannot start %.300s: %s%s%s", name,
                 r->successor.call ? r->successor.call : "", r->successor.call ? ": " : "",
                 strerror(r->successor.error));
        return;
    }
    if (r->successor.report == 'L')
        snprintf(how, sizeof how, "was not ready within %d s and was killed",
                 r->options.ready_timeout);
    else if (status != -1 && WIFSIGNALED(status))
        snprintf(how, sizeof how, "was ended by signal %d (%s)", WTERMSIG(status),
                 strsignal(WTERMSIG(status)));
    else if (status != -1)
        snprintf(how, sizeof how, "exited with status %d", WEXITSTATUS(status));
    else
        snprintf(how, sizeof how, "ended, its status is not known");
    snprintf(why, WHY_SIZE, "successor %ld %s", (long)r->successor.pid, how);
}

static void roll_back(struct restart *r, const char *why)
{
    char status[LINE_SIZE];
    r->deadlines[ROLLBACK_UNTIL] = NEVER;
    enter(r, RESTART_SERVING);
    announce(r, false);
    say(r, LOG_ERR, "rolled back: %s", why);
    snprintf(status, sizeof status, "\nSTATUS=rolled back: %s", why);
    notify_main(r, getpid(), status);
}

static void successor_ended(struct restart *r, int status)
{
    char why[WHY_SIZE];
    const bool well = status != -1 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
    const bool claimed = !is_pending(r);
    describe_end(r, status, why);
    if (claimed && r->phase == RESTART_STARTING && (well || another_owns(r)))
        hand_over(r);
    if (claimed && status != -1)
        tell_supervisor(r, "E%ld:%d", (long)r->successor.pid, status);
    forget_successor(r);
    if (r->phase == RESTART_STARTING) {
        restart_failed(r, why);
    } else if (may_roll_back(r) && !well && !another_owns(r)) {
        roll_back(r, why);
    } else {
        say(r, well ? LOG_INFO : LOG_WARNING, "%s", why);
        r->deadlines[ROLLBACK_UNTIL] = NEVER;
    }
}

/* The kernel closes the pipe when the program is executed, and also when the child is killed before
 * that: then the child has no program any more, proc(5). */
static bool is_executed(pid_t pid)
{
    char link[NUMBER_SIZE + sizeof "/proc//exe"], target[1];
    snprintf(link, sizeof link, "/proc/%ld/exe", (long)pid);
    return readlink(link, target, sizeof target) >= 0 || errno != ENOENT ||
           access("/proc/self/exe", F_OK) < 0;
}

static void hear_execution(struct restart *r)
{
    char name[PATH_MAX] = "?";
    int error = 0;
    const ssize_t length = read(r->successor.execution, &error, sizeof error);
    if (length < 0 || (length == 0 && !is_executed(r->successor.pid))) {
        if (length == 0 || errno == EINTR)
            step_after(r, PAUSE_MS);
        return;
    }
    r->successor.error = length > 0 ? error : r->successor.error;
    close_fd(&r->successor.execution);
    if (length > 0)
        return;
    toggle(r->argv[0], name);
    say(r, LOG_INFO, "successor started: %ld (%s)", (long)r->successor.pid, name);
    if (r->options.ready_timeout == 0)
        r->successor.report = 'R';
    else if (r->phase == RESTART_STARTING)
        r->deadlines[PHASE_BY] = after_seconds(r->options.ready_timeout);
}

/* Reads what the successor reports. */
static void hear_channel(struct restart *r)
{
    char text[MESSAGE_SIZE];
    ssize_t length = 0;
    int descriptor;
    for (int heard = 0; heard < MESSAGES_MAX; heard++) {
        length = receive_message(r->successor.channel, text, &descriptor);
        close_fd(&descriptor);
        if (length == 0 || (length < 0 && errno != ECONNRESET))
            break;
        if (text[0] == 'R' && r->successor.report == 0)
            r->successor.report = text[1] == '2' ? 'T' : 'R';
        if (text[0] == 'D')
            r->deadlines[ROLLBACK_UNTIL] = NEVER;
    }
    if (length == 0)
        close_fd(&r->successor.channel);
    else if (length > 0 || errno != EAGAIN)
        step_after(r, RETRY_MS);
}

static void hear_successor(struct restart *r)
{
    int status = -1;
    if (r->successor.pid == 0)
        return;
    /* First whether it lives: everything that it reported is there then. */
    const pid_t ended = waitpid(r->successor.pid, &status, WNOHANG);
    const bool reaped_elsewhere = ended < 0 && errno == ECHILD;
    if (r->successor.execution >= 0)
        hear_execution(r);
    if (r->successor.channel >= 0)
        hear_channel(r);
    if (ended > 0 || reaped_elsewhere)
        successor_ended(r, ended > 0 ? status : -1);
    else if (r->phase == RESTART_STARTING && !is_pending(r))
        hand_over(r);
    else if (r->successor.report == 'L' || has_events(r->successor.process, POLLIN))
        step_after(r, PAUSE_MS); /* its tracer may hold it */
}

/* The successor has not claimed the listeners in time. Once nothing is read from it any more it
 * cannot: report() then fails. So it has done so by now, or never will. */
static void end_waiting(struct restart *r)
{
    if (r->successor.channel >= 0)
        shutdown(r->successor.channel, SHUT_RD);
    hear_successor(r);
    if (is_pending(r))
        give_up_successor(r);
}

/* ---- signals ---- */

/* How many connections wait to be accepted: tcpi_unacked of a listener, tcp(7). */
static unsigned waiting_connections(int listener)
{
    struct tcp_info info = {0};
    socklen_t size = sizeof info;
    if (getsockopt(listener, IPPROTO_TCP, TCP_INFO, &info, &size) < 0)
        return SOMAXCONN;
    return info.tcpi_unacked;
}

static void stop(struct restart *r)
{
    r->deadlines[ROLLBACK_UNTIL] = NEVER;
    if (r->phase == RESTART_INHERITING)
        enter(r, RESTART_DONE);
    if (r->phase > RESTART_STARTING)
        return;
    notify(r, "STOPPING=1");
    release_predecessor(r);
    if (r->phase == RESTART_STARTING && is_pending(r))
        kill(r->successor.pid, SIGTERM);
    for (int i = 0; i < r->listener_count; i++)
        r->backlog[i] = waiting_connections(r->listeners[i]);
    enter(r, RESTART_DRAINING);
}

static void signal_stop(struct restart *r, const char *name, pid_t sender)
{
    /* Ctrl-C reaches the whole process group, and the predecessor and the supervisor pass it on: it
     * counts once. */
    const bool passed_on = sender > 0 && (sender == r->parent || sender == r->supervisor);
    const unsigned count = ++r->stops[passed_on];
    const bool first = r->stops[0] + r->stops[1] == 1;
    if (!first && count < 2)
        return;
    say(r, LOG_NOTICE, "%s received: ending %s", name, first ? "gracefully" : "at once");
    if (first) {
        stop(r);
        return;
    }
    if (is_pending(r))
        kill(r->successor.pid, SIGKILL);
    r->status = EXIT_FAILURE;
    enter(r, RESTART_ABORTED);
}

static void signal_restart(struct restart *r)
{
    if (r->phase <= RESTART_SERVING) {
        r->restart_wanted = true;
        return;
    }
    say(r, LOG_NOTICE, "SIGUSR1 received: ignored, %s",
        r->phase == RESTART_STARTING ? "a restart is pending" : "this process is draining");
    if (r->phase == RESTART_STARTING)
        tell_supervisor(r, "A");
}

static void read_signals(struct restart *r)
{
    struct signalfd_siginfo info;
    ssize_t length;
    while ((length = read(r->signals, &info, sizeof info)) == sizeof info)
        if (info.ssi_signo == SIGUSR1)
            signal_restart(r);
        else
            signal_stop(r, info.ssi_signo == SIGTERM ? "SIGTERM" : "SIGINT", (pid_t)info.ssi_pid);
    if (length < 0 && errno != EAGAIN)
        step_after(r, RETRY_MS);
}

/* ---- new connections ---- */

static bool is_short(int error)
{
    return error == EMFILE || error == ENFILE;
}

/* Accepts from listener I. */
static int accept_from(struct restart *r, int i)
{
    int fd = -1, tries = 0;
    errno = EAGAIN;
    if (!may_accept(r, i))
        return -1;
    do
        fd = accept4(r->listeners[i], NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    while (fd < 0 && (errno == ECONNABORTED || errno == EINTR) && ++tries < ABORTED_MAX);
    /* The kernel reports EMFILE before it looks whether a connection waits. */
    if (fd < 0 && is_short(errno) && !has_events(r->listeners[i], POLLIN))
        errno = EAGAIN;
    if (r->backlog[i] > 0 && (fd >= 0 || errno == EAGAIN)) {
        r->backlog[i] = fd >= 0 ? r->backlog[i] - 1 : 0;
        if (r->backlog[i] == 0)
            step_soon(r);
    }
    return fd;
}

/* A connection for which there is no descriptor would be lost, so one is tried first. */
static bool has_room(const struct restart *r)
{
    const int fd = fcntl(r->timer, F_DUPFD_CLOEXEC, 0);
    return fd >= 0 && close(fd) == 0;
}

/* Accepts from the predecessor. */
static int accept_from_predecessor(struct restart *r)
{
    char text[MESSAGE_SIZE];
    int connection = -1;
    errno = EAGAIN;
    if (r->predecessor < 0 || r->phase == RESTART_INHERITING)
        return -1;
    if (!has_room(r)) {
        errno = has_events(r->predecessor, POLLIN) ? EMFILE : EAGAIN;
        return -1;
    }
    const ssize_t length = receive_message(r->predecessor, text, &connection);
    if (length < 0 && errno != EINTR && errno != ECONNRESET)
        return -1;
    errno = EAGAIN;
    if (length == 0)
        leave_predecessor(r);
    if (text[0] == 'M' && !r->is_main) {
        r->is_main = true;
        notify_serving(r, "");
        step_soon(r);
    }
    if (text[0] != 'C')
        close_fd(&connection);
    if (connection >= 0)
        fcntl(connection, F_SETFL, O_NONBLOCK); /* the predecessor may have been another server */
    return connection;
}

/* Accepting failed with ERROR. Without a connection left, it is not this process that causes a
 * shortage of descriptors, and those that wait are abandoned after a while. */
static void pause_accepting(struct restart *r, int error)
{
    const int64_t draining_since =
        r->deadlines[PHASE_BY] - r->options.drain_timeout * INT64_C(1000);
    r->deadlines[ACCEPT_AT] = now() + PAUSE_MS;
    if (r->phase == RESTART_DRAINING && r->open == 0 && now() - draining_since > SHORTAGE_MS)
        memset(r->backlog, 0, sizeof r->backlog);
    step_soon(r);
    errno = is_short(error) ? EMFILE : EAGAIN;
}

int restart_accept(struct restart *r)
{
    const int sources = r->listener_count + 1;
    const bool paused = r->deadlines[ACCEPT_AT] != NEVER && r->deadlines[ACCEPT_AT] > 0;
    int error = EAGAIN;
    errno = EAGAIN;
    if (paused || ++r->turns % TURNS == 0)
        return -1;
    /* Each listener, and the predecessor as one more, is the first in turn. */
    for (int i = 0; i < sources && !is_short(error); i++) {
        const int source = (int)((r->turns + (unsigned)i) % (unsigned)sources);
        const int fd =
            source < r->listener_count ? accept_from(r, source) : accept_from_predecessor(r);
        if (fd >= 0) {
            r->open++;
            r->deadlines[ACCEPT_AT] = NEVER;
            return fd;
        }
        error = errno == EAGAIN ? error : errno;
    }
    errno = EAGAIN;
    if (error != EAGAIN)
        pause_accepting(r, error);
    return -1;
}

/* ---- the step ---- */

static bool is_due(struct restart *r, enum deadline which, int64_t moment)
{
    if (moment < r->deadlines[which])
        return false;
    r->deadlines[which] = NEVER;
    return true;
}

static void end_draining(struct restart *r)
{
    leave_predecessor(r);
    memset(r->backlog, 0, sizeof r->backlog);
    if (r->phase != RESTART_CUT) {
        r->cut = 0;
        if (r->open > 0)
            enter(r, RESTART_CUT);
        return;
    }
    say(r, LOG_WARNING, "drain timeout: %d connections cut", r->cut);
    if (r->open > 0)
        say(r, LOG_WARNING, "the server has not reported the end of %d connections", r->open);
    r->open = 0;
    enter(r, may_roll_back(r) ? RESTART_HANDING_OVER : RESTART_DRAINING);
}

/* The service manager does not read what it was told, or the predecessor does not confirm that. */
static void end_notifying(struct restart *r)
{
    say(r, LOG_WARNING, "the service manager has not been reached for %d s", NOTIFIED_MS / 1000);
    r->notices_length = 0;
    close_fd(&r->barrier);
    r->is_main = true;
}

/* Those that had come by MOMENT: what was heard since then came in time. */
static void meet_deadlines(struct restart *r, int64_t moment)
{
    if (is_due(r, ROLLBACK_UNTIL, moment) | is_due(r, ACCEPT_AT, moment) |
        is_due(r, CLOSE_AT, moment))
        step_soon(r); /* the server may have something to do then */
    if (is_due(r, NOTIFIED_BY, moment))
        end_notifying(r);
    if (!is_due(r, PHASE_BY, moment))
        return;
    if (r->phase == RESTART_STARTING)
        end_waiting(r);
    else if (r->phase >= RESTART_HANDING_OVER)
        end_draining(r);
}

/* M: the service manager knows the successor as the main process, so that may begin a restart of
 * its own. Returns false if the channel is full. */
static bool confirm_successor(const struct restart *r)
{
    return !hands_over(r) || send_message(r->successor.channel, "M", -1, NULL, 0) == 0 ||
           errno != EAGAIN;
}

/* Sends what waits for the service manager, in order, as far as that has room for it. */
static void send_notices(struct restart *r)
{
    while (r->notices_length > 0) {
        const size_t size = strlen(r->notices) + 1;
        if (send_notice(r, r->notices) < 0) {
            if (errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM || errno == EINTR) {
                step_after(r, RETRY_MS);
                return;
            }
            say(r, LOG_WARNING, "cannot notify the service manager: %s", strerror(errno));
        }
        r->notices_length -= size;
        memmove(r->notices, r->notices + size, r->notices_length);
    }
    if (has_events(r->barrier, POLLIN) && confirm_successor(r))
        close_fd(&r->barrier);
    if (is_notified(r) && r->is_main)
        r->deadlines[NOTIFIED_BY] = NEVER;
}

/* Enters the next phase once this one has nothing to wait for. */
static void move_on(struct restart *r)
{
    if (r->phase < RESTART_HANDING_OVER || r->phase > RESTART_CUT)
        return;
    if (r->phase == RESTART_HANDING_OVER && r->successor.channel < 0 && r->open > 0 &&
        !may_roll_back(r))
        enter(r, RESTART_DRAINING);
    if (!may_roll_back(r) && connections_to_accept(r) == 0)
        close_listeners(r);
    /* It was told to end, too. */
    if (is_pending(r) && r->deadlines[CLOSE_AT] == NEVER && r->successor.report != 'L')
        give_up_successor(r);
    if (r->phase == RESTART_CUT && r->open == 0)
        end_draining(r);
    if (r->open > 0 || r->predecessor >= 0 || is_pending(r))
        return;
    if (!may_roll_back(r) && r->listener_count == 0 && is_notified(r))
        enter(r, RESTART_DONE);
}

/* Sets interest in new connections, and in those of the predecessor. */
static void watch_sources(struct restart *r)
{
    const bool goes_on = r->deadlines[ACCEPT_AT] == NEVER;
    for (int i = 0; i < r->listener_count; i++) {
        /* A successor may have changed it: it belongs to the open file description. */
        fcntl(r->listeners[i], F_SETFL, O_NONBLOCK);
        watch_source(r, r->listeners[i], i, goes_on && may_accept(r, i));
    }
    watch_source(r, r->predecessor, RESTART_LISTENERS, goes_on && r->phase > RESTART_INHERITING);
}

/* A server that calls daemon(3) after restart_serve is another process then, and epoll(7) reports a
 * signalfd(2) to the process that added it only. */
static void follow_fork(struct restart *r)
{
    if (r->pid == getpid())
        return;
    r->pid = getpid();
    epoll_ctl(r->epoll, EPOLL_CTL_DEL, r->signals, NULL);
    if (r->predecessor >= 0 || watch(r, r->signals, EPOLLIN) < 0) {
        say(r, LOG_ERR, "cannot continue as another process than the one that was started");
        fail(r);
    }
}

enum restart_phase restart_step(struct restart *r)
{
    struct epoll_event edges[EVENTS_MAX];
    const int64_t moment = now();
    /* The calls below look at all of them: this only takes the edges away. */
    if (r->options.epoll == 0)
        epoll_wait(r->epoll, edges, EVENTS_MAX, 0);
    r->deadlines[STEP_AT] = NEVER;
    if (moment >= r->armed)
        r->armed = -1; /* the timer has expired */
    while (r->given_count > 0)
        close(r->given[--r->given_count]);
    follow_fork(r);
    hear_successor(r);
    read_signals(r);
    if (r->phase == RESTART_INHERITING)
        claim(r);
    meet_deadlines(r, moment);
    send_notices(r);
    if (r->restart_wanted && r->phase == RESTART_SERVING && r->is_main && is_notified(r))
        start(r);
    if (r->announce_is_due && r->phase <= RESTART_STARTING)
        announce(r, false);
    move_on(r);
    keep_reserve(r);
    watch_sources(r);
    arm(r);
    return r->phase;
}

/* ---- the server's other calls ---- */

int restart_serve(struct restart *r, const struct restart_options *options)
{
    sigset_t caught;
    r->options = *options;
    r->pid = getpid();
    caught_signals(&caught);
    r->signals = signalfd(-1, &caught, SFD_NONBLOCK | SFD_CLOEXEC);
    r->epoll = r->options.epoll > 0 ? r->options.epoll : epoll_create1(EPOLL_CLOEXEC);
    r->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (r->epoll >= 0 && r->timer >= 0 && r->signals >= 0 && watch(r, r->timer, EPOLLIN) == 0 &&
        watch(r, r->signals, EPOLLIN) == 0 &&
        (!r->options.argv || copy_arguments(r, r->options.argv) == 0)) {
        step_soon(r);
        return r->epoll;
    }
    say(r, LOG_ERR, "cannot set up the events of a restart: %s", strerror(errno));
    r->phase = RESTART_DONE;
    r->status = EXIT_FAILURE;
    return -1;
}

bool restart_persists(const struct restart *r)
{
    return r->phase < RESTART_DRAINING || hands_over(r);
}

void restart_close(struct restart *r, int connection)
{
    close(connection);
    restart_closed(r);
}

void restart_closed(struct restart *r)
{
    r->open--;
    r->cut += r->phase == RESTART_CUT;
    r->finished += r->phase >= RESTART_HANDING_OVER;
    if (r->deadlines[ACCEPT_AT] != NEVER)
        r->deadlines[ACCEPT_AT] = 0;
    if (r->deadlines[ACCEPT_AT] == 0 || (r->phase >= RESTART_HANDING_OVER && r->open == 0))
        step_soon(r);
}

int restart_give(struct restart *r, int connection)
{
    if (!hands_over(r)) {
        errno = EPIPE;
        return -1;
    }
    if (r->given_count == RESTART_GIVEN) {
        step_soon(r);
        errno = EAGAIN;
        return -1;
    }
    if (send_message(r->successor.channel, "C1", connection, NULL, 0) < 0) {
        if (errno != EAGAIN)
            step_after(r, RETRY_MS);
        errno = EAGAIN;
        return -1;
    }
    if (r->options.epoll > 0)
        epoll_ctl(r->epoll, EPOLL_CTL_DEL, connection, NULL);
    r->given[r->given_count++] = connection;
    r->open--;
    r->handed_over++;
    step_soon(r);
    return 0;
}

/* True if an idle connection is to be closed that cannot be handed over. */
static bool closes_idle(const struct restart *r)
{
    return r->phase == RESTART_CUT
               ? !hands_over(r)
               : r->phase == RESTART_DRAINING && r->deadlines[CLOSE_AT] == NEVER;
}

bool restart_leave(struct restart *r, int connection, bool is_idle)
{
    if (is_idle && restart_give(r, connection) == 0)
        return true;
    if (r->phase != RESTART_CUT && !is_idle)
        return false;
    if (is_idle && !closes_idle(r))
        return false;
    restart_close(r, connection);
    return true;
}

bool restart_leave_to_library(struct restart *r, int connection, bool is_idle)
{
    int ends[2], own = dup(connection);
    if (own < 0)
        return false;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0) {
        close(own);
        return false;
    }
    close(ends[1]);
    const bool left = restart_leave(r, own, is_idle);
    if (left)
        dup3(ends[0], connection, O_CLOEXEC);
    else
        close(own);
    close(ends[0]);
    return left;
}

void restart_child(struct restart *r)
{
    for (int i = 0; i < r->listener_count; i++)
        close_fd(&r->listeners[i]);
    while (r->given_count > 0)
        close(r->given[--r->given_count]);
    release_reserve(r);
    forget_successor(r);
    close_fd(&r->predecessor);
    close_fd(&r->barrier);
    close_fd(&r->lifeline);
    close_fd(&r->life);
    close_fd(&r->timer);
    close_fd(&r->signals);
    if (r->options.epoll == 0)
        close_fd(&r->epoll);
    restore_signals(r, false);
}

/* ---- supervision ---- */

/* What the first process knows of the servers below it. */
struct servers {
    struct {
        pid_t pid;
        int life; /* the write end of a pipe that only this server reads */
    } all[SERVERS_MAX];
    int count;
    pid_t owner; /* of the listeners, the last one that said so */
    pid_t told;  /* the last owner that was told to end */
    int status;  /* of the last owner; -1: it lives, or its status is not known */
    int stop;    /* SIGTERM or SIGINT, which each later owner is told, too; 0: neither came */
    bool restart_wanted; /* SIGUSR1, which no owner has acknowledged */
};

/* Sends SIGNAL to the owner. Its pid may be another process's by the time, so the pidfd counts only
 * if the owner lives after that was opened. */
static void signal_owner(const struct servers *s, int signal)
{
    for (int i = 0; i < s->count; i++) {
        if (s->all[i].pid != s->owner)
            continue;
        int process = (int)syscall(SYS_pidfd_open, s->owner, 0);
        const bool lives = !has_events(s->all[i].life, 0);
        if (lives && process >= 0)
            syscall(SYS_pidfd_send_signal, process, signal, NULL, 0);
        else if (lives)
            kill(s->owner, signal);
        close_fd(&process);
    }
}

static void forget_servers(struct servers *s)
{
    for (int i = s->count - 1; i >= 0; i--)
        if (has_events(s->all[i].life, 0)) {
            close(s->all[i].life);
            s->all[i] = s->all[--s->count];
        }
}

static void new_owner(struct servers *s, pid_t owner)
{
    s->owner = owner;
    s->status = -1;
    if (s->stop && s->told != owner)
        signal_owner(s, s->stop);
    s->told = s->stop ? owner : 0;
    if (s->restart_wanted)
        signal_owner(s, SIGUSR1);
}

/* S: a new server, with the pipe that ends with it. O: the owner. A: the owner has taken note of
 * SIGUSR1. E: how an owner has ended, from the process that reaped it. */
static void hear_server(struct servers *s, const char *text, int life)
{
    int pid = 0, status = 0;
    const int count = sscanf(text + 1, "%9d:%9d", &pid, &status);
    if (text[0] == 'S' && count == 1 && life >= 0) {
        forget_servers(s);
        if (s->count < SERVERS_MAX) {
            s->all[s->count].pid = pid;
            s->all[s->count++].life = life;
            return;
        }
    }
    close_fd(&life);
    if (text[0] == 'O' && count == 1)
        new_owner(s, pid);
    if (text[0] == 'A')
        s->restart_wanted = false;
    if (text[0] == 'E' && count == 2 && pid == s->owner)
        s->status = status;
}

/* Returns false at end of file: no server is left. */
static bool hear_servers(struct servers *s, int lifeline)
{
    char text[MESSAGE_SIZE];
    ssize_t length;
    int life;
    while ((length = receive_message(lifeline, text, &life)) > 0)
        hear_server(s, text, life);
    return length != 0;
}

static void reap(const struct restart *r, struct servers *s)
{
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        bool is_server = pid == s->owner;
        for (int i = 0; i < s->count; i++)
            is_server |= s->all[i].pid == pid;
        if (pid == s->owner)
            s->status = status;
        if (is_server && WIFSIGNALED(status))
            say(r, LOG_ERR, "server %ld was ended by signal %d (%s)", (long)pid, WTERMSIG(status),
                strsignal(WTERMSIG(status)));
        else if (is_server && !s->stop && (WEXITSTATUS(status) != 0 || pid == s->owner))
            say(r, LOG_ERR, "server %ld exited with status %d", (long)pid, WEXITSTATUS(status));
    }
}

static void forward_signals(struct servers *s, int signals)
{
    struct signalfd_siginfo info;
    while (read(signals, &info, sizeof info) == sizeof info) {
        if (info.ssi_signo == SIGCHLD)
            continue;
        if (info.ssi_signo == SIGUSR1) {
            s->restart_wanted = true;
        } else {
            s->stop = (int)info.ssi_signo;
            s->told = s->owner;
        }
        signal_owner(s, (int)info.ssi_signo);
    }
}

/* The first process: see restart_supervise. */
static int supervise(const struct restart *r, pid_t first, int lifeline)
{
    static struct servers s;
    sigset_t caught;
    caught_signals(&caught);
    sigaddset(&caught, SIGCHLD);
    sigprocmask(SIG_BLOCK, &caught, NULL);
    const int signals = signalfd(-1, &caught, SFD_NONBLOCK | SFD_CLOEXEC);
    struct pollfd events[] = {{.fd = signals, .events = POLLIN},
                              {.fd = lifeline, .events = POLLIN}};
    s.owner = first;
    s.status = -1;
    bool live = true;
    while (live) {
        poll(events, sizeof events / sizeof *events, -1);
        live = hear_servers(&s, lifeline);
        forward_signals(&s, signals);
        reap(r, &s);
    }
    if (s.status == -1)
        waitpid(s.owner, &s.status, 0);
    return s.status == -1          ? EXIT_FAILURE
           : WIFSIGNALED(s.status) ? 128 + WTERMSIG(s.status)
                                   : WEXITSTATUS(s.status);
}

int restart_supervise(struct restart *r)
{
    int ends[2];
    errno = 0;
    if (r->supervisor > 0 || r->predecessor >= 0 ||
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return -1;
    const pid_t first = getpid();
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    const pid_t pid = fork();
    if (pid > 0) {
        close_others(&ends[0], 1);
        return supervise(r, pid, ends[0]);
    }
    close(ends[0]);
    if (pid < 0) {
        close(ends[1]);
        return -1;
    }
    r->supervisor = first;
    r->lifeline = ends[1];
    if (register_server(r) == 0)
        errno = 0;
    return -1;
}
