/* SPDX-License-Identifier: 0BSD */
/*
 * restart.c - see restart.h.
 *
 * The parts: the log and messages; the service manager; descriptors and events; the phase and the
 * owner; inheriting; claiming the listeners; executing a successor; how it starts and ends;
 * signals; new connections; the step; the server's other calls; supervision.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "restart.h"

#include <ctype.h>
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
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

enum {
    NUMBER_SIZE = 24,       /* any number in decimal, with its NUL */
    NUMBERS_SIZE = 256,     /* RESTART_LISTENERS of them, with commas */
    LINE_SIZE = 1024,       /* a log line or a notification: text and a file name */
    WHY_SIZE = 512,         /* why a restart failed: text and a file name */
    ADDRESS_SIZE = 128,     /* an address, or the name of a Unix socket */
    MESSAGE_SIZE = 32,      /* more than any known message has */
    MESSAGES_MAX = 64,      /* read from a successor in one step */
    EVENTS_MAX = 32,        /* more than the module watches descriptors */
    OWN_DESCRIPTORS = 8,    /* of a server, apart from listeners and connections */
    CHANNEL_SIZE = 3072,    /* send buffer with room for 8 connections */
    TURNS = 64,             /* calls of restart_accept between two calls of restart_step */
    RETRY_MS = 10,          /* until a call that lacked memory or room is tried again */
    PAUSE_MS = 100,         /* until this process accepts again, or looks at a traced successor */
    ANNOUNCE_MS = 1000,     /* until writing the pid file is tried again */
    CUT_MS = 1000,          /* for the server to close connections after the drain timeout */
    LAST_REQUEST_MS = 1000, /* for a request that is on its way at a shutdown */
    NOTIFIED_MS = 5000,     /* for the service manager to read its messages */
    SERVERS_MAX = 256,      /* below one supervisor, draining ones included */
    LAST_SERVER_MS = 2000,  /* for a server to register, and for one to be reaped */
    EXIT_NOT_EXECUTED = 127,
};

#define NEVER  INT64_MAX
#define SECOND INT64_C(1000)

enum deadline {
    PHASE_BY,       /* STARTING: the ready timeout. Later: the drain timeout, and the end of CUT */
    CLOSE_AT,       /* DRAINING: idle connections are closed; NEVER: they are now */
    ROLLBACK_UNTIL, /* a crash of the successor is rolled back; NEVER: no more */
    ACCEPT_AT,      /* accepting resumes; NEVER: it is not paused */
    NOTIFIED_BY,    /* the service manager must have read its messages; NEVER: it has */
    STEP_AT,        /* the next step is due */
};

static const char channel_variable[] = "RESTART_CHANNEL";
static const char supervisor_variable[] = "RESTART_SUPERVISOR";
static const char barrier_message[] = "BARRIER=1";

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * SECOND + t.tv_nsec / 1000000;
}

/* Preserves errno for the error message. */
static void close_fd(int *fd)
{
    const int error = errno;
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
    errno = error;
}

/* True if poll(2) reports one of EVENTS, an error or a hang-up for FD. */
static bool has_events(int fd, short events)
{
    return fd >= 0 && poll(&(struct pollfd){.fd = fd, .events = events}, 1, 0) > 0;
}

/* Parses a list of up to COUNT unsigned decimal numbers. Returns their number; -1: TEXT is not such
 * a list. */
static int numbers_in(const char *text, char separator, int numbers[], int count)
{
    for (int i = 0; i < count; i++) {
        char *end;
        const long long number = *text >= '0' && *text <= '9' ? strtoll(text, &end, 10) : -1;
        if (number < 0 || number > INT_MAX || (*end && *end != separator))
            return -1;
        numbers[i] = (int)number;
        if (!*end)
            return i + 1;
        text = end + 1;
    }
    return -1;
}

/* ---- the log and messages ---- */

void restart_log(int priority, const char *text)
{
    char line[NAME_MAX + NUMBER_SIZE + LINE_SIZE];
    const char *name = program_invocation_short_name, *journal = getenv("JOURNAL_STREAM");
    unsigned long device, inode;
    struct stat stream = {0};
    sigset_t stop, before;
    fstat(STDERR_FILENO, &stream);
    /* Standard error may be the stream that the journal reads, systemd.exec(5). */
    const bool is_journal = journal && sscanf(journal, "%lu:%lu", &device, &inode) == 2 &&
                            stream.st_dev == device && stream.st_ino == inode;
    const int length = is_journal
                           ? snprintf(line, sizeof line, "<%d>%.*s\n", priority, LINE_SIZE, text)
                           : snprintf(line, sizeof line, "%.*s[%ld]: %.*s\n", NAME_MAX, name,
                                      (long)getpid(), LINE_SIZE, text);
    for (char *c = line; c < line + length - 1; c++)
        *c = iscntrl((unsigned char)*c) ? '?' : *c;
    /* Writing to a stopped terminal or a full pipe blocks, and O_NONBLOCK would affect the other
     * processes that share it, so a file description of our own is opened. SIGTTOU stops a
     * background process that writes, tcsetattr(3). */
    const bool is_file = S_ISREG(stream.st_mode);
    int own = is_file ? -1 : open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (own < 0 && !has_events(STDERR_FILENO, POLLOUT))
        return;
    sigemptyset(&stop);
    sigaddset(&stop, SIGTTOU);
    sigprocmask(SIG_BLOCK, &stop, &before);
    const ssize_t written = write(own >= 0 ? own : STDERR_FILENO, line, (size_t)length);
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

/* Ancillary data with one descriptor, aligned as cmsg(3) demands. */
union ancillary {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int))];
};

/* Sends TEXT, and DESCRIPTOR with it unless that is -1. */
static int send_message(int fd, const char *text, int descriptor)
{
    union ancillary ancillary = {.header = {.cmsg_len = CMSG_LEN(sizeof descriptor),
                                            .cmsg_level = SOL_SOCKET,
                                            .cmsg_type = SCM_RIGHTS}};
    struct iovec bytes = {(char *)text, strlen(text)};
    const struct msghdr message = {.msg_iov = &bytes,
                                   .msg_iovlen = 1,
                                   .msg_control = ancillary.bytes,
                                   .msg_controllen = descriptor < 0 ? 0 : sizeof ancillary.bytes};
    memcpy(CMSG_DATA(&ancillary.header), &descriptor, sizeof descriptor);
    return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -1 : 0;
}

/* Receives a message, and a descriptor that came with it, or -1. Returns 0 at end of file, which
 * recvmsg(2) does for an empty message, too; otherwise a positive number, or -1. */
static ssize_t receive_message(int fd, char text[MESSAGE_SIZE], int *descriptor)
{
    union ancillary ancillary;
    struct iovec bytes = {text, MESSAGE_SIZE - 1};
    struct msghdr message = {.msg_iov = &bytes,
                             .msg_iovlen = 1,
                             .msg_control = ancillary.bytes,
                             .msg_controllen = CMSG_LEN(sizeof *descriptor)};
    memset(text, 0, MESSAGE_SIZE);
    *descriptor = -1;
    const ssize_t length = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    const struct cmsghdr *c = length > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
        memcpy(descriptor, CMSG_DATA(c), sizeof *descriptor);
    return length == 0 && !has_events(fd, POLLRDHUP) ? 1 : length;
}

/* Connections may use up all descriptors, so a few are kept for a restart. */
static void release_reserve(struct restart *r)
{
    for (int i = 0; i < RESTART_RESERVE; i++)
        close_fd(&r->reserve[i]);
}

static void keep_reserve(struct restart *r)
{
    struct rlimit limit;
    if (r->phase > RESTART_STARTING || r->reserve[RESTART_RESERVE - 1] >= 0 ||
        getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    /* Under a low limit, connections get half of the remaining descriptors. */
    const rlim_t own = OWN_DESCRIPTORS + (rlim_t)r->listener_count + (r->lifeline >= 0 ? 2 : 0);
    for (rlim_t i = 0; i < RESTART_RESERVE && own + 2 * i < limit.rlim_cur; i++)
        if (r->reserve[i] < 0)
            r->reserve[i] = fcntl(r->timer, F_DUPFD_CLOEXEC, 0);
}

/* ---- the service manager ---- */

/* Returns a socket that is connected to the service manager, sd_notify(3). */
static int connect_manager(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const size_t length = path ? strlen(path) : 0;
    errno = ENAMETOOLONG;
    if (length == 0 || length > sizeof address.sun_path)
        return -1;
    memcpy(address.sun_path, path, length);
    /* An @ stands for the NUL byte of the abstract namespace, unix(7). */
    if (path[0] == '@')
        address.sun_path[0] = '\0';
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    const socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, size) < 0)
        close_fd(&fd);
    return fd;
}

/* Sends MESSAGE. A barrier carries the write end of a pipe, which the service manager closes when
 * it has read all messages before, sd_notify_barrier(3). */
static int send_notice(struct restart *r, const char *message)
{
    int ends[2] = {-1, -1};
    release_reserve(r);
    int manager = connect_manager(getenv("NOTIFY_SOCKET"));
    const bool is_barrier = strcmp(message, barrier_message) == 0;
    const int sent = manager < 0 || (is_barrier && pipe2(ends, O_CLOEXEC) < 0)
                         ? -1
                         : send_message(manager, message, ends[1]);
    close_fd(&manager);
    close_fd(&ends[1]);
    if (sent < 0)
        close_fd(&ends[0]);
    r->barrier = ends[0];
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
    if (length >= 0 && (size_t)length < room)
        r->notices_length += (size_t)length + 1;
    r->deadlines[NOTIFIED_BY] = now() + NOTIFIED_MS;
}

/* Tells the service manager which process is the main one; below a supervisor, that never changes.
 * This process neither ends nor starts another successor before the manager has read the message,
 * because systemd ignores messages from processes that have ended. */
static void notify_main(struct restart *r, pid_t pid, const char *status)
{
    if (r->supervisor > 0)
        notify(r, "READY=1%s", status);
    else
        notify(r, "MAINPID=%ld\nREADY=1%s", (long)pid, status);
    notify(r, "%s", barrier_message);
}

/* Reports to the service manager which version serves, and since when. READY: "", or READY=1. */
static void notify_serving(struct restart *r, const char *ready)
{
    const char *version = r->options.version;
    char since[2 * NUMBER_SIZE] = "";
    const time_t t = time(NULL);
    strftime(since, sizeof since, "%F %T", localtime(&t));
    notify(r, "%sSTATUS=%s%ssince %s", ready, version ? version : "", version ? ", " : "", since);
}

/* ---- descriptors and events ---- */

/* A connection could get the number of a closed standard stream, and the client the log. They are
 * opened read-only, so that writing still fails. */
static void open_standard_streams(void)
{
    int fd;
    while ((fd = open("/dev/null", O_RDONLY)) >= 0 && fd <= STDERR_FILENO)
        ;
    close_fd(&fd);
}

/* For Linux before 5.9, which lacks close_range(2), and for seccomp(2) filters that forbid it. */
static int close_one_by_one(int first, int last)
{
    DIR *descriptors = opendir("/proc/self/fd");
    const struct dirent *entry;
    if (!descriptors)
        return -1;
    while ((entry = readdir(descriptors))) {
        const long fd = strtol(entry->d_name, NULL, 10); /* 0 for the entries . and .. */
        if (fd >= first && fd <= last && fd != dirfd(descriptors))
            close((int)fd);
    }
    return closedir(descriptors);
}

/* Closes all descriptors above 2 except the COUNT in KEPT, some of which may be -1. */
static int close_others(const int *kept, int count)
{
    for (int first = STDERR_FILENO + 1, last;; first = last + 2) {
        last = INT_MAX;
        for (int i = 0; i < count; i++)
            if (kept[i] >= first && kept[i] <= last)
                last = kept[i] - 1;
        if (first <= last && syscall(SYS_close_range, first, last, 0) < 0 &&
            close_one_by_one(first, last) < 0)
            return -1;
        if (last == INT_MAX)
            return 0;
    }
}

/* Edge-triggered, so that the loop does not spin on an event that must wait (no descriptor is free,
 * or a tracer holds a successor that has exited). */
static int watch(const struct restart *r, int fd, uint32_t events)
{
    struct epoll_event event = {.events = events | EPOLLET, .data.ptr = r->options.step_data};
    return epoll_ctl(r->epoll, EPOLL_CTL_ADD, fd, &event);
}

static void arm(struct restart *r)
{
    int64_t due = NEVER;
    for (int i = 0; i < RESTART_DEADLINES; i++)
        due = r->deadlines[i] < due ? r->deadlines[i] : due;
    /* A time that has passed expires at once; zero disarms the timer. */
    struct itimerspec at = {0};
    if (due < NEVER)
        at.it_value = (struct timespec){due / 1000, due % 1000 * 1000000};
    timerfd_settime(r->timer, TFD_TIMER_ABSTIME, &at, NULL);
}

static void step_after(struct restart *r, int64_t ms)
{
    const int64_t at = now() + ms;
    if (at >= r->deadlines[STEP_AT])
        return;
    r->deadlines[STEP_AT] = at;
    arm(r);
}

/* The only place that sets interest in the sources of connections: the listeners and the
 * predecessor. FD may be watched already (EEXIST), or not (ENOENT). */
static void watch_source(struct restart *r, int fd, bool wanted)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = r->options.accept_data};
    if (fd == r->predecessor)
        event.data.ptr = r->options.step_data; /* many come at once */
    if (fd >= 0 && epoll_ctl(r->epoll, wanted ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, fd, &event) < 0 &&
        errno != (wanted ? EEXIST : ENOENT))
        step_after(r, RETRY_MS);
}

static bool may_accept(const struct restart *r, int i)
{
    return r->phase == RESTART_SERVING || r->phase == RESTART_STARTING || r->backlog[i] > 0;
}

static void watch_sources(struct restart *r)
{
    const bool paused = r->deadlines[ACCEPT_AT] != NEVER;
    for (int i = 0; i < r->listener_count; i++) {
        /* A successor may have changed this flag, which belongs to the open file description. */
        fcntl(r->listeners[i], F_SETFL, O_NONBLOCK);
        watch_source(r, r->listeners[i], !paused && may_accept(r, i));
    }
    watch_source(r, r->predecessor, !paused && r->phase > RESTART_INHERITING);
}

/* Events continue after close(2) while the successor has the same open file description, epoll(7),
 * so each listener is removed from the epoll set. */
static void close_listeners(struct restart *r)
{
    while (r->listener_count > 0) {
        int *listener = &r->listeners[--r->listener_count];
        watch_source(r, *listener, false);
        close_fd(listener);
    }
}

/* ---- the phase and the owner ---- */

/* True if a successor has been started and has not claimed the listeners. */
static bool is_pending(const struct restart *r)
{
    return r->successor.pid > 0 && (r->successor.report == 0 || r->successor.report == 'L');
}

static bool may_roll_back(const struct restart *r)
{
    return r->deadlines[ROLLBACK_UNTIL] != NEVER;
}

static bool hands_over(const struct restart *r)
{
    return (r->phase == RESTART_HANDING_OVER || r->phase == RESTART_CUT) &&
           r->successor.report == 'T' && r->successor.channel >= 0;
}

/* True if the pid file names this process. */
static bool is_named(const struct restart *r)
{
    const char *file = r->options.pid_file;
    char text[NUMBER_SIZE] = "";
    int fd = file ? open(file, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_NOCTTY | O_CLOEXEC) : -1;
    const bool named =
        fd >= 0 && read(fd, text, sizeof text - 1) > 0 && strtol(text, NULL, 10) == getpid();
    close_fd(&fd);
    return named;
}

/* The only place where the phase changes. */
static void enter(struct restart *r, enum restart_phase phase)
{
    const enum restart_phase before = r->phase;
    const bool drains = phase == RESTART_DRAINING;
    r->phase = phase;
    step_after(r, 0);
    if (phase == RESTART_STARTING && r->options.ready_timeout > 0)
        r->deadlines[PHASE_BY] = now() + r->options.ready_timeout * SECOND;
    else if (phase == RESTART_CUT)
        r->deadlines[PHASE_BY] = now() + CUT_MS;
    else if (before <= RESTART_STARTING && phase >= RESTART_HANDING_OVER)
        r->deadlines[PHASE_BY] = now() + r->options.drain_timeout * SECOND;
    else if (!drains)
        r->deadlines[PHASE_BY] = NEVER;
    r->deadlines[CLOSE_AT] = drains ? now() + LAST_REQUEST_MS : NEVER;
    if (drains && r->open > 0)
        say(r, LOG_INFO, "draining: %d connections", r->open);
    if (phase <= RESTART_STARTING)
        r->handed_over = r->closed = 0;
    if (phase == RESTART_CUT)
        r->finished = r->closed - r->handed_over;
    if (phase < RESTART_DONE)
        return;
    close_listeners(r);
    if (is_named(r))
        unlink(r->options.pid_file);
    if (before != RESTART_INHERITING)
        say(r, LOG_INFO, "ended: %lu connections handed over, %lu finished here", r->handed_over,
            r->closed - r->handed_over);
}

static void fail(struct restart *r)
{
    r->status = EXIT_FAILURE;
    enter(r, RESTART_DONE);
}

/* Sends a message of hear_server() to the supervisor, with FD unless that is -1. */
static int tell_supervisor(const struct restart *r, char what, pid_t pid, int status, int fd)
{
    char text[MESSAGE_SIZE];
    snprintf(text, sizeof text, "%c%ld:%d", what, (long)pid, status);
    return r->lifeline < 0 ? 0 : send_message(r->lifeline, text, fd);
}

/* Writes a new file and renames it. Other users may write to the folder, so no existing file is
 * opened, and only a regular one is replaced. Returns 0, or an error number. */
static int write_pid_file(const char *file)
{
    char temporary[PATH_MAX];
    struct stat existing;
    if (lstat(file, &existing) == 0 && !S_ISREG(existing.st_mode))
        return EEXIST;
    snprintf(temporary, sizeof temporary, "%s.XXXXXX", file);
    int fd = mkostemp(temporary, O_CLOEXEC); /* fails if the name was truncated */
    if (fd < 0)
        return errno;
    const bool written = dprintf(fd, "%ld\n", (long)getpid()) > 0 && fchmod(fd, 0644) == 0 &&
                         rename(temporary, file) == 0;
    const int error = written ? 0 : errno;
    close(fd);
    if (error)
        unlink(temporary);
    return error;
}

/* All generations share the open file description of a listener. Its F_SETOWN value, fcntl(2), has
 * no other use and names the process that owns the listeners, or its successor from the fork on.
 * The kernel forgets a process that has exited. Returns another process that lives; 0: none. */
static pid_t other_owner(const struct restart *r)
{
    const pid_t owner = r->listener_count > 0 ? fcntl(r->listeners[0], F_GETOWN) : 0;
    /* Linux before 5.12 returns processes that have exited. */
    const bool lives = owner > 0 && (kill(owner, 0) == 0 || errno == EPERM);
    return lives && owner != getpid() ? owner : 0;
}

/* Announces that this process owns the listeners, and tries again later if that fails. Returns
 * false if the pid file MUST be written and cannot be. */
static bool announce(struct restart *r, bool must)
{
    const char *file = r->options.pid_file;
    fcntl(r->listeners[0], F_SETOWN, getpid());
    release_reserve(r);
    const int error = file ? write_pid_file(file) : 0;
    if (error && is_named(r)) /* scripts wait until the file changes */
        utimensat(AT_FDCWD, file, NULL, AT_SYMLINK_NOFOLLOW);
    if (error && !r->announce_is_due)
        say(r, LOG_ERR, "cannot write pid file %s: %s", file,
            error == EEXIST ? "it is not a regular file" : strerror(error));
    if (error && (must || (error == EEXIST && r->phase == RESTART_INHERITING && r->parent == 0)))
        return false;
    r->announce_is_due = tell_supervisor(r, 'O', getpid(), 0, -1) < 0 || error;
    if (r->announce_is_due)
        step_after(r, ANNOUNCE_MS);
    return true;
}

static void say_listening(const struct restart *r)
{
    const char *version = r->options.version;
    for (int i = 0; i < r->listener_count; i++) {
        union {
            struct sockaddr any;
            struct sockaddr_un local;
            struct sockaddr_storage storage;
        } a = {.storage = {0}};
        socklen_t size = sizeof a;
        char host[ADDRESS_SIZE] = "unix", port[ADDRESS_SIZE] = "?", how[NUMBER_SIZE + 16] = "";
        getsockname(r->listeners[i], &a.any, &size);
        const bool v6 = a.any.sa_family == AF_INET6;
        if (a.any.sa_family == AF_UNIX)
            snprintf(port, sizeof port, "%s%s", *a.local.sun_path ? "" : "@",
                     a.local.sun_path + !*a.local.sun_path);
        else
            getnameinfo(&a.any, size, host, sizeof host, port, sizeof port,
                        NI_NUMERICHOST | NI_NUMERICSERV);
        if (i < r->inherited)
            snprintf(how, sizeof how, " (inherited fd %d)", r->listeners[i]);
        say(r, LOG_INFO, "listening on %s%s%s:%s%s%s%s", v6 ? "[" : "", host, v6 ? "]" : "", port,
            how, version ? ", version " : "", version ? version : "");
    }
}

/* ---- inheriting ---- */

int restart_listener(struct restart *r, int fd)
{
    int listens = 0, type = 0;
    socklen_t size = sizeof type;
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) < 0 ||
        getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0)
        return -1;
    errno = !listens ? EINVAL : type != SOCK_STREAM ? ENOTSUP : ENOSPC;
    if (!listens || type != SOCK_STREAM || r->listener_count == RESTART_LISTENERS)
        return -1;
    if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
        return -1;
    r->listeners[r->listener_count++] = fd;
    return 0;
}

static int inherit_listeners(struct restart *r, const int *fds, int count)
{
    r->listener_count = r->inherited = 0;
    for (int i = 0; i < count; i++) {
        if (restart_listener(r, fds[i]) == 0)
            continue;
        say(r, LOG_ERR, "cannot listen on inherited fd %d: %s", fds[i],
            errno == ENOTSOCK  ? "it is not a socket"
            : errno == EINVAL  ? "it does not listen"
            : errno == ENOTSUP ? "it is not a stream socket"
            : errno == ENOSPC  ? "there are too many"
                               : strerror(errno));
        return -1;
    }
    return r->inherited = count;
}

int restart_listeners(struct restart *r, const char *text)
{
    int fds[RESTART_LISTENERS];
    const int count = numbers_in(text, ',', fds, RESTART_LISTENERS);
    if (count > 0)
        return inherit_listeners(r, fds, count);
    say(r, LOG_ERR, "cannot take '%s' for FD: not a number from 0 to %d, nor up to %d as in 3,4",
        text, INT_MAX, RESTART_LISTENERS);
    return -1;
}

/* Removes VARIABLE from the environment. Returns true if it has COUNT numbers with colons. */
static bool take_variable(const char *variable, int *numbers, int count)
{
    const char *text = getenv(variable);
    const bool whole = text && numbers_in(text, ':', numbers, count) == count;
    unsetenv(variable);
    return whole;
}

/* True if FD is a socket like those between generations. Makes it close-on-exec. */
static bool is_channel(int fd)
{
    int domain = 0, type = 0;
    socklen_t size = sizeof type;
    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 &&
           getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && domain == AF_UNIX &&
           type == SOCK_SEQPACKET && fcntl(fd, F_SETFD, FD_CLOEXEC) == 0;
}

/* The credentials of the lifeline are those of its creator, the supervisor. */
static void find_supervisor(struct restart *r)
{
    int numbers[3];
    struct ucred creator = {0};
    socklen_t size = sizeof creator;
    if (!take_variable(supervisor_variable, numbers, 3) || !is_channel(numbers[1]) ||
        getsockopt(numbers[1], SOL_SOCKET, SO_PEERCRED, &creator, &size) < 0 ||
        creator.pid != numbers[0] || fcntl(numbers[2], F_SETFD, FD_CLOEXEC) < 0)
        return;
    r->supervisor = numbers[0];
    r->lifeline = numbers[1];
    r->life = numbers[2];
}

/* If the predecessor lives and is not the parent, a process in between has passed on a channel that
 * is not for this process. */
static void find_predecessor(struct restart *r)
{
    int numbers[2];
    if (!take_variable(channel_variable, numbers, 2) || !is_channel(numbers[1]))
        return;
    if (numbers[0] != getppid() && !has_events(numbers[1], 0)) {
        close(numbers[1]);
        return;
    }
    r->parent = numbers[0];
    r->predecessor = numbers[1];
    /* Only the predecessor has blocked SIGUSR1, see become(). */
    sigdelset(&r->mask, SIGUSR1);
}

/* sd_listen_fds(3) */
static int find_activation(struct restart *r)
{
    int fds[RESTART_LISTENERS + 1], pid, given, count = 0;
    const bool is_mine = take_variable("LISTEN_PID", &pid, 1) && pid == getpid();
    const bool has_any = take_variable("LISTEN_FDS", &given, 1);
    unsetenv("LISTEN_FDNAMES");
    unsetenv("LISTEN_PIDFDID");
    for (; is_mine && has_any && count < given && count <= RESTART_LISTENERS; count++)
        fds[count] = STDERR_FILENO + 1 + count;
    return inherit_listeners(r, fds, count);
}

static void set_signals(struct restart *r)
{
    const struct sigaction ignore = {.sa_handler = SIG_IGN}, standard = {.sa_handler = SIG_DFL};
    sigemptyset(&r->caught);
    sigaddset(&r->caught, SIGUSR1);
    sigaddset(&r->caught, SIGTERM);
    sigaddset(&r->caught, SIGINT);
    sigprocmask(SIG_BLOCK, &r->caught, &r->mask);
    sigaction(SIGPIPE, &ignore, NULL);
    sigaction(SIGXFSZ, &ignore, NULL);
    /* If SIGCHLD is ignored, wait(2) does not report how a successor ended. */
    sigaction(SIGCHLD, &standard, &r->on_child);
}

int restart_inherit(struct restart *r, int *argc, char **argv)
{
    const char *last = *argc > 1 ? argv[*argc - 1] : "";
    int fds[RESTART_LISTENERS];
    memset(r, 0, sizeof *r);
    r->epoll = r->timer = r->signals = r->lifeline = r->life = r->predecessor = r->barrier = -1;
    r->successor.process = r->successor.execution = r->successor.channel = -1;
    memset(r->reserve, -1, sizeof r->reserve);
    memset(r->listeners, -1, sizeof r->listeners);
    for (int i = 0; i < RESTART_DEADLINES; i++)
        r->deadlines[i] = NEVER;
    r->options.argv = argv;
    open_standard_streams();
    if (!getcwd(r->directory, sizeof r->directory) || stat(".", &r->directory_found) < 0)
        r->directory[0] = '\0';
    set_signals(r);
    find_supervisor(r);
    find_predecessor(r);
    int inherited = find_activation(r);
    /* A wrapper may have left FD out. Then the last argument may be the value of an option. */
    const int count = r->predecessor < 0 ? 0 : numbers_in(last, ',', fds, RESTART_LISTENERS);
    if (count > 0) {
        argv[--*argc] = NULL;
        inherited = inherit_listeners(r, fds, count);
    }
    if (inherited < 0)
        fail(r);
    return inherited;
}

/* ---- claiming the listeners ---- */

/* A predecessor exits only when the service manager knows its successor as the main process, and
 * from then on the manager accepts messages from this process. */
static void leave_predecessor(struct restart *r)
{
    if (r->predecessor < 0)
        return;
    /* A child of a wrapper script may have the channel open, too, epoll(7). */
    watch_source(r, r->predecessor, false);
    close_fd(&r->predecessor);
    step_after(r, 0);
    if (r->phase == RESTART_SERVING || r->phase == RESTART_STARTING)
        notify_serving(r, "");
    else if (r->successor.pid > 0 && !is_pending(r) && r->supervisor == 0)
        notify_main(r, r->successor.pid, ""); /* again: the manager may have ignored the first */
}

/* Claims the listeners. R2 reports to the predecessor that this process runs and takes connections.
 * If the predecessor has given up this process, sending R2 fails with EPIPE. Signals are watched
 * only now, because the server may have called daemon(3) since restart_serve, and epoll(7) reports
 * a signalfd(2) only to the process that has added it. */
static void claim(struct restart *r)
{
    const bool alone = r->predecessor < 0 || has_events(r->predecessor, 0);
    r->pid = getpid();
    if (!announce(r, !alone || r->inherited == 0)) {
        fail(r);
        return;
    }
    say_listening(r);
    if (watch(r, r->signals, EPOLLIN) < 0 ||
        (!alone && send_message(r->predecessor, "R2", -1) < 0 && !has_events(r->predecessor, 0))) {
        say(r, LOG_ERR, "cannot claim the listeners: %s",
            errno == EPIPE ? "the predecessor serves on" : strerror(errno));
        fail(r);
        return;
    }
    enter(r, RESTART_SERVING);
    if (alone)
        notify_serving(r, "READY=1\n");
}

/* ---- executing a successor ---- */

/* Removes one trailing 1 of the file name, or else appends one. The file name 1 becomes 11. */
static int toggle(const char *name, char successor[PATH_MAX])
{
    const char *slash = strrchr(name, '/');
    const char *file = slash ? slash + 1 : name;
    const bool strip = strlen(file) > 1 && file[strlen(file) - 1] == '1';
    const int length = snprintf(successor, PATH_MAX, "%.*s%s", (int)(strlen(name) - strip), name,
                                strip ? "" : "1");
    errno = ENAMETOOLONG;
    return length < PATH_MAX ? 0 : -1;
}

/* Executes NAME as execvp(3) does, but never passes a file of unknown format to a shell. Returns
 * only on failure, with errno. */
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

/* Makes the kernel kill this process when the supervisor ends, even if this process hangs. The
 * supervisor gets the only write end of a pipe. When that closes, the kernel sends the signal that
 * F_SETSIG names, fcntl(2). PR_SET_PDEATHSIG works only for the parent, and the supervisor is not
 * the parent of a successor whose predecessor lives. */
static int register_server(struct restart *r)
{
    int life[2];
    if (r->lifeline < 0)
        return 0;
    if (pipe2(life, O_CLOEXEC) < 0)
        return -1;
    r->life = life[0];
    if (fcntl(life[0], F_SETOWN, getpid()) < 0 || fcntl(life[0], F_SETSIG, SIGKILL) < 0 ||
        fcntl(life[0], F_SETFL, O_ASYNC) < 0 || tell_supervisor(r, 'S', getpid(), 0, life[1]) < 0)
        return -1;
    return close(life[1]);
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

/* Changes to the directory that the first process was started in. Only a relative name with a slash
 * needs that directory. */
static int return_to_directory(const struct restart *r)
{
    const char *name = r->successor.name;
    struct stat current;
    const bool is_there = stat(".", &current) == 0 && current.st_dev == r->directory_found.st_dev &&
                          current.st_ino == r->directory_found.st_ino;
    if (is_there || !r->directory[0] || chdir(r->directory) == 0)
        return 0;
    return name[0] == '/' || !strchr(name, '/') ? 0 : -1;
}

static void restore_signals(const struct restart *r)
{
    const struct sigaction standard = {.sa_handler = SIG_DFL};
    struct sigaction action;
    sigaction(SIGPIPE, &standard, NULL);
    sigaction(SIGXFSZ, &standard, NULL);
    if (sigaction(SIGCHLD, NULL, &action) == 0 && action.sa_handler == SIG_DFL)
        sigaction(SIGCHLD, &r->on_child, NULL);
    sigprocmask(SIG_SETMASK, &r->mask, NULL);
}

/* With this program's arguments, the successor's name and the numbers of the listeners. */
static void execute_successor(struct restart *r)
{
    char numbers[NUMBERS_SIZE] = "";
    size_t length = 0;
    int count = 0;
    while (r->options.argv[count])
        count++;
    char *argv[count + 2];
    memcpy(argv, r->options.argv, (size_t)count * sizeof *argv);
    for (int i = 0; i < r->listener_count; i++)
        length += (size_t)snprintf(numbers + length, sizeof numbers - length, "%s%d",
                                   i > 0 ? "," : "", r->listeners[i]);
    argv[0] = r->successor.name;
    argv[count] = numbers;
    argv[count + 1] = NULL;
    execute(r->successor.name, argv);
}

/* The child becomes the successor, or reports over EXECUTION why it cannot. It closes the server's
 * descriptors first, because the program may be on slow storage. */
__attribute__((noreturn)) static void become(struct restart *r, int channel, int execution)
{
    int kept[RESTART_LISTENERS + 3] = {channel, r->lifeline, execution};
    memcpy(kept + 3, r->listeners, sizeof r->listeners);
    /* The parent may have crashed since the fork, and its own predecessor may serve again. */
    const pid_t owner = other_owner(r);
    errno = EBUSY;
    bool ready = (owner == 0 || owner == r->pid) &&
                 fcntl(r->listeners[0], F_SETOWN, getpid()) == 0 &&
                 close_others(kept, RESTART_LISTENERS + 3) == 0 && register_server(r) == 0 &&
                 set_variables(r, channel) == 0 && return_to_directory(r) == 0;
    kept[2] = r->life;
    for (int i = 0; i < RESTART_LISTENERS + 3; i++)
        ready = ready && (kept[i] < 0 || fcntl(kept[i], F_SETFD, 0) == 0);
    if (ready) {
        if (channel >= 0) /* SIGUSR1 must not kill a program that has not set it up yet */
            sigaddset(&r->mask, SIGUSR1);
        restore_signals(r);
        execute_successor(r);
    }
    const int error = errno;
    const ssize_t written = write(execution, &error, sizeof error);
    (void)written;
    _exit(EXIT_NOT_EXECUTED);
}

static void forget_successor(struct restart *r)
{
    if (r->successor.pid > 0)
        waitpid(r->successor.pid, NULL, WNOHANG);
    close_fd(&r->successor.process);
    close_fd(&r->successor.execution);
    close_fd(&r->successor.channel);
    r->successor.pid = 0;
}

/* Not with posix_spawn(3), which suspends this process until the execution is done. Returns the
 * name of the call that failed, or NULL. */
static const char *spawn(struct restart *r)
{
    const int size = CHANNEL_SIZE;
    const bool reports = r->options.ready_timeout > 0;
    int execution[2] = {-1, -1}, channel[2] = {-1, -1};
    const char *call = NULL;
    pid_t pid = -1;
    if (toggle(r->options.argv[0], r->successor.name) < 0)
        return "its other name";
    release_reserve(r);
    if (pipe2(execution, O_CLOEXEC | O_NONBLOCK) < 0)
        call = "pipe2";
    else if (reports && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, channel) < 0)
        call = "socketpair";
    else if (reports && setsockopt(channel[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof size) < 0)
        call = "setsockopt";
    else if ((pid = fork()) < 0)
        call = "fork";
    if (pid == 0)
        become(r, channel[1], execution[1]);
    close_fd(&channel[1]);
    close_fd(&execution[1]);
    r->successor.channel = channel[0];
    r->successor.execution = execution[0];
    if (call)
        return call;
    r->successor.pid = pid;
    r->successor.process = (int)syscall(SYS_pidfd_open, pid, 0);
    if (r->successor.process < 0)
        return "pidfd_open";
    return watch(r, r->successor.process, EPOLLIN) < 0 || watch(r, execution[0], EPOLLIN) < 0 ||
                   (reports && watch(r, channel[0], EPOLLIN | EPOLLOUT) < 0)
               ? "epoll_ctl"
               : NULL;
}

/* ---- how a successor starts and ends ---- */

static void hand_over(struct restart *r)
{
    const bool takes = r->successor.report == 'T';
    r->successor.error = 0; /* watching it failed after it had claimed the listeners */
    notify_main(r, r->successor.pid, "");
    say(r, LOG_INFO, "handed over to %ld", (long)r->successor.pid);
    if (!takes) {
        if (other_owner(r) == r->successor.pid)
            tell_supervisor(r, 'O', r->successor.pid, 1, -1); /* only executed, 1 */
        shutdown(r->successor.channel, SHUT_WR);              /* no connection will come */
    }
    enter(r, takes ? RESTART_HANDING_OVER : RESTART_DRAINING);
    if (r->options.rollback_timeout > 0 && !r->successor.releases)
        r->deadlines[ROLLBACK_UNTIL] = now() + r->options.rollback_timeout * SECOND;
}

/* Describes how the successor ended. STATUS is that of waitpid(2); -1: it is not known. */
static void describe_end(const struct restart *r, int status, char why[WHY_SIZE])
{
    const char *call = r->successor.call;
    const long pid = (long)r->successor.pid;
    if (r->successor.error)
        snprintf(why, WHY_SIZE, "cannot start %.300s: %.80s%s%s", r->successor.name,
                 call ? call : "", call ? ": " : "", strerror(r->successor.error));
    else if (r->successor.report == 'L' && r->phase == RESTART_STARTING)
        snprintf(why, WHY_SIZE, "successor %ld was not ready within %d s and was killed", pid,
                 r->options.ready_timeout);
    else if (status == -1)
        snprintf(why, WHY_SIZE, "successor %ld ended, its status is not known", pid);
    else if (WIFSIGNALED(status))
        snprintf(why, WHY_SIZE, "successor %ld was ended by signal %d (%s)", pid, WTERMSIG(status),
                 strsignal(WTERMSIG(status)));
    else
        snprintf(why, WHY_SIZE, "successor %ld exited with status %d", pid, WEXITSTATUS(status));
}

/* Returns to SERVING after a failed restart, or rolls back. */
static void serve_again(struct restart *r, const char *why)
{
    char line[LINE_SIZE];
    const bool starting = r->phase == RESTART_STARTING;
    const char *what = starting ? "restart failed" : "rolled back";
    enter(r, RESTART_SERVING);
    announce(r, false); /* the successor may have announced itself */
    say(r, LOG_ERR, "%s: %s", what, why);
    snprintf(line, sizeof line, "\nSTATUS=%s: %s", what, why);
    if (starting)
        notify(r, "READY=1%s", line);
    else
        notify_main(r, getpid(), line);
}

/* The successor has ended, or could not be started (its pid is 0). */
static void successor_ended(struct restart *r, int status)
{
    char why[WHY_SIZE];
    const bool well = status == 0;
    /* Another owner is the successor's own successor. */
    const pid_t owner = other_owner(r);
    const bool replaced = (well && !is_pending(r)) || (owner > 0 && owner != r->successor.pid);
    if (r->phase == RESTART_STARTING && replaced)
        hand_over(r);
    if (r->successor.pid > 0)
        tell_supervisor(r, 'E', r->successor.pid, status, -1);
    const bool fails = r->phase == RESTART_STARTING || (may_roll_back(r) && !replaced);
    describe_end(r, status, why);
    forget_successor(r);
    r->deadlines[ROLLBACK_UNTIL] = NEVER;
    if (fails)
        serve_again(r, why);
    else
        say(r, well ? LOG_INFO : LOG_WARNING, "%s", why);
}

/* The kernel closes the pipe when the program is executed, and also when the child is killed before
 * that. A child that is killed has no program any more, proc(5). */
static void hear_execution(struct restart *r)
{
    char link[NUMBER_SIZE + sizeof "/proc//exe"], target[1];
    int *error = &r->successor.error;
    ssize_t length;
    if (r->successor.execution < 0 ||
        (length = read(r->successor.execution, error, sizeof *error)) < 0)
        return;
    snprintf(link, sizeof link, "/proc/%ld/exe", (long)r->successor.pid);
    if (length == 0 && readlink(link, target, sizeof target) < 0 && errno == ENOENT &&
        access("/proc/self/exe", F_OK) == 0)
        return;
    close_fd(&r->successor.execution);
    if (length > 0 || r->successor.report == 'L')
        return;
    say(r, LOG_INFO, "successor started: %ld (%s)", (long)r->successor.pid, r->successor.name);
    if (r->options.ready_timeout == 0)
        r->successor.report = 'R';
    else if (r->phase == RESTART_STARTING)
        r->deadlines[PHASE_BY] = now() + r->options.ready_timeout * SECOND;
}

static void hear_channel(struct restart *r)
{
    char text[MESSAGE_SIZE];
    ssize_t length = 0;
    int descriptor;
    if (r->successor.channel < 0)
        return;
    for (int heard = 0; heard < MESSAGES_MAX; heard++) {
        length = receive_message(r->successor.channel, text, &descriptor);
        close_fd(&descriptor);
        if (length == 0 || (length < 0 && errno != ECONNRESET))
            break;
        if (text[0] == 'R' && r->successor.report != 'L')
            r->successor.report = text[1] == '2' ? 'T' : 'R';
        if (text[0] == 'D') {
            r->successor.releases = true;
            r->deadlines[ROLLBACK_UNTIL] = NEVER;
        }
    }
    /* If end_waiting() has shut it down, it stays open: closing it would tell a late successor that
     * this process has ended. */
    if (length == 0 && has_events(r->successor.channel, 0))
        close_fd(&r->successor.channel);
    else if (length != 0 && has_events(r->successor.channel, POLLIN))
        step_after(r, RETRY_MS);
}

static void hear_successor(struct restart *r)
{
    siginfo_t end = {.si_pid = 0};
    if (r->successor.pid == 0)
        return;
    /* All messages of a successor that has exited are heard. One that still lives afterwards may be
     * handed over to. A successor is reaped after the supervisor was told how it ended, because
     * this process may be killed in between. */
    const bool reaped_elsewhere =
        waitid(P_PID, (id_t)r->successor.pid, &end, WEXITED | WNOHANG | WNOWAIT) < 0 &&
        errno == ECHILD;
    hear_execution(r);
    hear_channel(r);
    if (end.si_pid > 0 || reaped_elsewhere)
        successor_ended(r, reaped_elsewhere            ? -1
                           : end.si_code == CLD_EXITED ? end.si_status << 8
                                                       : end.si_status);
    else if (r->successor.report == 'L' || has_events(r->successor.process, POLLIN))
        step_after(r, PAUSE_MS); /* the successor has just ended, or a tracer holds it */
    else if (r->phase == RESTART_STARTING && !is_pending(r))
        hand_over(r);
    if (r->successor.pid > 0 && r->successor.call)
        step_after(r, RETRY_MS); /* not all of the successor's descriptors are watched */
}

/* After shutdown(2) the successor's R2 fails, so it has claimed the listeners by now, or never
 * will. */
static void end_waiting(struct restart *r)
{
    shutdown(r->successor.channel, SHUT_RD);
    hear_successor(r);
    if (!is_pending(r))
        return;
    r->successor.report = 'L';
    kill(r->successor.pid, SIGKILL);
}

static void start(struct restart *r)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    r->restart_wanted = false;
    say(r, LOG_NOTICE, "SIGUSR1 received: restarting");
    tell_supervisor(r, 'A', 0, 0, -1);
    /* D releases the predecessor: it need not stand by any more. */
    send_message(r->predecessor, "D", -1);
    notify(r, "RELOADING=1\nMONOTONIC_USEC=%lld\nSTATUS=", t.tv_sec * 1000000LL + t.tv_nsec / 1000);
    enter(r, RESTART_STARTING);
    memset(&r->successor, 0, sizeof r->successor);
    r->successor.process = r->successor.execution = r->successor.channel = -1;
    r->successor.call = spawn(r);
    r->successor.error = r->successor.call ? errno : 0;
    if (r->successor.pid == 0)
        successor_ended(r, -1);
    else if (r->successor.call)
        end_waiting(r);
}

/* ---- signals ---- */

static void stop(struct restart *r)
{
    r->deadlines[ROLLBACK_UNTIL] = NEVER;
    if (r->phase == RESTART_INHERITING)
        enter(r, RESTART_DONE);
    if (r->phase > RESTART_STARTING)
        return;
    notify(r, "STOPPING=1");
    send_message(r->predecessor, "D", -1);
    if (is_pending(r))
        kill(r->successor.pid, SIGTERM);
    for (int i = 0; i < r->listener_count; i++) {
        /* For a listener, tcpi_unacked is the number of connections in its queue, tcp(7). */
        struct tcp_info info = {.tcpi_unacked = SOMAXCONN};
        socklen_t size = sizeof info;
        getsockopt(r->listeners[i], IPPROTO_TCP, TCP_INFO, &info, &size);
        r->backlog[i] = info.tcpi_unacked;
    }
    enter(r, RESTART_DRAINING);
}

static void signal_stop(struct restart *r, const char *name, pid_t sender)
{
    /* Ctrl-C reaches the whole process group, and the predecessor and the supervisor forward it as
     * well. It counts once. */
    const unsigned by = sender <= 0 ? 1 : sender == r->parent ? 2 : sender == r->supervisor ? 4 : 1;
    const bool first = r->stops == 0, again = r->stops & by;
    r->stops |= by;
    if (!first && !again)
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
        tell_supervisor(r, 'A', 0, 0, -1);
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

static int accept_from(struct restart *r, int i)
{
    errno = EAGAIN;
    if (!may_accept(r, i))
        return -1;
    const int fd = accept4(r->listeners[i], NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0 && (errno == ECONNABORTED || errno == EINTR)) {
        errno = EAGAIN; /* the listener stays readable */
        return -1;
    }
    /* The kernel reports EMFILE even if no connection waits. */
    if (fd < 0 && (errno == EMFILE || errno == ENFILE))
        errno = has_events(r->listeners[i], POLLIN) ? EMFILE : EAGAIN;
    if (r->backlog[i] > 0 && (fd >= 0 || errno == EAGAIN)) {
        r->backlog[i] = fd >= 0 ? r->backlog[i] - 1 : 0;
        if (r->backlog[i] == 0)
            step_after(r, 0);
    }
    return fd;
}

static int accept_from_predecessor(struct restart *r)
{
    char text[MESSAGE_SIZE];
    int connection = -1;
    errno = EAGAIN;
    if (r->predecessor < 0 || r->phase == RESTART_INHERITING)
        return -1;
    /* Without a free descriptor, a connection would be lost. R makes the predecessor keep the
     * connections that it has not sent yet. The reserve has room for those in the channel. */
    int room = fcntl(r->timer, F_DUPFD_CLOEXEC, 0);
    const bool is_full = room < 0 && has_events(r->predecessor, POLLIN);
    if (is_full) {
        send_message(r->predecessor, "R", -1);
        release_reserve(r);
        room = fcntl(r->timer, F_DUPFD_CLOEXEC, 0);
    }
    errno = is_full ? EMFILE : EAGAIN;
    if (room < 0)
        return -1;
    close(room);
    const ssize_t length = receive_message(r->predecessor, text, &connection);
    if (length < 0 && errno != EINTR && errno != ECONNRESET)
        return -1;
    if (length == 0)
        leave_predecessor(r);
    if (text[0] != 'C')
        close_fd(&connection);
    if (connection >= 0)
        fcntl(connection, F_SETFL, O_NONBLOCK); /* the predecessor may be another program */
    errno = EAGAIN;
    return connection;
}

int restart_accept(struct restart *r)
{
    const unsigned sources = (unsigned)r->listener_count + 1;
    int error = EAGAIN;
    errno = EAGAIN;
    if (r->deadlines[ACCEPT_AT] != NEVER || ++r->turns % TURNS == 0)
        return -1;
    /* Each source, a listener or the predecessor, is the first to be asked in TURNS calls in a row.
     * If it has no connection, the next source that has one becomes the first. */
    for (unsigned i = 0; i < sources && error != EMFILE; i++) {
        const int source = (int)((r->turns / TURNS + i) % sources);
        const int fd =
            source < r->listener_count ? accept_from(r, source) : accept_from_predecessor(r);
        if (fd >= 0) {
            r->turns += i * TURNS;
            r->open++;
            return fd;
        }
        error = errno == EAGAIN ? error : errno;
    }
    if (error != EAGAIN) {
        r->deadlines[ACCEPT_AT] = now() + PAUSE_MS;
        step_after(r, 0);
    }
    errno = error == EMFILE ? EMFILE : EAGAIN;
    return -1;
}

/* ---- the step ---- */

static void end_draining(struct restart *r)
{
    memset(r->backlog, 0, sizeof r->backlog);
    if (r->phase != RESTART_CUT) {
        /* What the channel holds is still received, and then its end of file. */
        shutdown(r->predecessor, SHUT_RD);
        if (r->open > 0 || r->predecessor >= 0)
            enter(r, RESTART_CUT);
        return;
    }
    const unsigned long cut = r->closed - r->handed_over - r->finished;
    leave_predecessor(r);
    if (r->open > 0 && hands_over(r)) {
        r->successor.report = 'R'; /* it does not receive, so the server closes the rest */
        r->deadlines[PHASE_BY] = now() + CUT_MS;
        return;
    }
    if (cut > 0)
        say(r, LOG_WARNING, "drain timeout: %lu connections cut", cut);
    if (r->open > 0)
        say(r, LOG_WARNING, "the server has not reported the end of %d connections", r->open);
    r->open = 0;
    enter(r, may_roll_back(r) ? RESTART_HANDING_OVER : RESTART_DRAINING);
}

static bool is_due(struct restart *r, enum deadline which, int64_t moment)
{
    if (moment < r->deadlines[which])
        return false;
    r->deadlines[which] = NEVER;
    step_after(r, 0); /* the server may have to follow the phase */
    return true;
}

/* Meets the deadlines up to MOMENT. All messages that came before MOMENT have been read. */
static void meet_deadlines(struct restart *r, int64_t moment)
{
    is_due(r, ROLLBACK_UNTIL, moment);
    is_due(r, ACCEPT_AT, moment);
    /* A successor that was told to end before it claimed the listeners has not ended. */
    if (is_due(r, CLOSE_AT, moment) && is_pending(r))
        end_waiting(r);
    if (is_due(r, NOTIFIED_BY, moment)) {
        say(r, LOG_WARNING, "the service manager has read nothing for %d s", NOTIFIED_MS / 1000);
        r->notices_length = 0;
        close_fd(&r->barrier);
    }
    const bool over = is_due(r, PHASE_BY, moment);
    if (over && r->phase >= RESTART_HANDING_OVER)
        end_draining(r);
    else if (over)
        end_waiting(r);
}

/* Sends queued messages to the service manager, in order, until its queue is full or a barrier is
 * not answered yet. */
static void send_notices(struct restart *r)
{
    if (has_events(r->barrier, POLLIN))
        close_fd(&r->barrier);
    while (r->notices_length > 0 && r->barrier < 0) {
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
    if (r->barrier < 0)
        r->deadlines[NOTIFIED_BY] = NEVER;
    else if (watch(r, r->barrier, EPOLLIN) < 0 && errno != EEXIST)
        step_after(r, RETRY_MS);
}

/* Enters the next phase when this one has nothing left to wait for. */
static void move_on(struct restart *r)
{
    unsigned waiting = 0;
    if (r->phase == RESTART_CUT && r->open == 0 && r->predecessor < 0)
        end_draining(r);
    if (r->phase < RESTART_HANDING_OVER || r->phase > RESTART_CUT || may_roll_back(r))
        return;
    if (r->phase == RESTART_HANDING_OVER && r->successor.channel < 0 && r->open > 0)
        enter(r, RESTART_DRAINING);
    for (int i = 0; i < r->listener_count; i++)
        waiting += r->backlog[i];
    if (waiting == 0)
        close_listeners(r);
    if (r->open == 0 && r->predecessor < 0 && !is_pending(r) && r->listener_count == 0 &&
        r->deadlines[NOTIFIED_BY] == NEVER)
        enter(r, RESTART_DONE);
}

enum restart_phase restart_step(struct restart *r)
{
    struct epoll_event edges[EVENTS_MAX];
    const int64_t moment = now();
    /* This only resets the edges. The calls below look at each descriptor. */
    if (r->options.epoll == 0)
        epoll_wait(r->epoll, edges, EVENTS_MAX, 0);
    r->deadlines[STEP_AT] = NEVER;
    hear_successor(r);
    read_signals(r);
    if (r->phase == RESTART_INHERITING)
        claim(r);
    send_notices(r);
    meet_deadlines(r, moment);
    if (r->restart_wanted && r->phase == RESTART_SERVING && r->deadlines[NOTIFIED_BY] == NEVER)
        start(r);
    if (r->announce_is_due && r->phase == RESTART_SERVING)
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
    char **argv = options->argv ? options->argv : r->options.argv;
    if (r->phase == RESTART_DONE)
        return -1;
    r->options = *options;
    r->options.argv = argv;
    r->signals = signalfd(-1, &r->caught, SFD_NONBLOCK | SFD_CLOEXEC);
    r->epoll = r->options.epoll > 0 ? r->options.epoll : epoll_create1(EPOLL_CLOEXEC);
    r->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (r->epoll >= 0 && r->timer >= 0 && r->signals >= 0 && watch(r, r->timer, EPOLLIN) == 0) {
        step_after(r, 0);
        return r->epoll;
    }
    say(r, LOG_ERR, "cannot set up the events of a restart: %s", strerror(errno));
    fail(r);
    return -1;
}

/* A client that sends its next request early is never idle, so its connection cannot be handed
 * over. It is closed with an announcement before the drain timeout closes it without. */
bool restart_persists(const struct restart *r)
{
    return r->phase < RESTART_HANDING_OVER ||
           (r->phase == RESTART_HANDING_OVER &&
            now() < r->deadlines[PHASE_BY] - r->options.drain_timeout * SECOND / 4);
}

void restart_close(struct restart *r, int connection)
{
    close(connection);
    restart_closed(r);
}

void restart_closed(struct restart *r)
{
    r->open -= r->open > 0; /* those given up at the drain timeout may be reported late */
    r->closed += r->phase >= RESTART_HANDING_OVER;
    if (r->deadlines[ACCEPT_AT] != NEVER || (r->phase >= RESTART_HANDING_OVER && r->open == 0))
        step_after(r, 0);
    r->deadlines[ACCEPT_AT] = NEVER; /* a descriptor is free */
}

int restart_give(struct restart *r, int connection)
{
    errno = EPIPE;
    if (!hands_over(r))
        return -1;
    if (send_message(r->successor.channel, "C1", connection) < 0) {
        if (errno != EAGAIN)
            step_after(r, RETRY_MS);
        errno = EAGAIN;
        return -1;
    }
    r->handed_over++;
    if (r->options.epoll > 0)
        epoll_ctl(r->epoll, EPOLL_CTL_DEL, connection, NULL);
    return 0;
}

bool restart_leave(struct restart *r, int connection, bool is_idle)
{
    const bool cut = r->phase == RESTART_CUT;
    const bool closes_idle =
        cut ? !hands_over(r) : r->phase == RESTART_DRAINING && r->deadlines[CLOSE_AT] == NEVER;
    return is_idle ? restart_give(r, connection) == 0 || closes_idle : cut;
}

bool restart_leave_to_library(struct restart *r, int connection, bool is_idle)
{
    int ends[2];
    if (r->phase < RESTART_HANDING_OVER ||
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0)
        return false;
    const bool left = restart_leave(r, connection, is_idle);
    if (left) {
        dup3(ends[0], connection, O_CLOEXEC);
        restart_closed(r);
    }
    close(ends[0]);
    close(ends[1]);
    return left;
}

void restart_child(struct restart *r)
{
    int *own[] = {&r->predecessor, &r->barrier, &r->lifeline, &r->life, &r->timer, &r->signals};
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        close_fd(own[i]);
    for (int i = 0; i < RESTART_LISTENERS; i++)
        close_fd(&r->listeners[i]);
    release_reserve(r);
    forget_successor(r);
    if (r->options.epoll == 0)
        close_fd(&r->epoll);
    restore_signals(r);
}

/* ---- supervision ---- */

/* The state of the first process. */
struct servers {
    struct {
        pid_t pid;      /* 0: none */
        bool told;      /* STOP was sent to it */
    } all[SERVERS_MAX]; /* the index is the write end of a pipe that only this server reads */
    int count;
    pid_t owner;  /* of the listeners, the last one that reported it */
    int status;   /* of the owner; -1: it lives, or its status is not known */
    int stop;     /* SIGTERM or SIGINT, forwarded to later owners, too; 0: neither */
    bool claimed; /* a server has owned the listeners */
    int restarts; /* SIGUSR1s that no owner has acknowledged */
};

/* Sends SIGNAL to the owner, but ONCE only if it was not told to end before. The pid may have been
 * reused, so the owner must live after the pidfd was opened. */
static void signal_owner(struct servers *s, int signal, bool once)
{
    for (int life = 0; life < SERVERS_MAX; life++) {
        if (s->all[life].pid != s->owner || (once && s->all[life].told))
            continue;
        int process = (int)syscall(SYS_pidfd_open, s->owner, 0);
        const bool lives = !has_events(life, 0);
        if (lives && syscall(SYS_pidfd_send_signal, process, signal, NULL, 0) < 0 && errno != ESRCH)
            kill(s->owner, signal); /* an old seccomp(2) filter forbids the others */
        s->all[life].told |= lives && signal == s->stop;
        close_fd(&process);
    }
}

/* PID has ended. Returns true if it was a server. Its pipe may still be open in a child of it. */
static bool forget_server(struct servers *s, pid_t pid, int status)
{
    s->status = pid == s->owner ? status : s->status;
    for (int life = 0; life < SERVERS_MAX; life++)
        if (s->all[life].pid == pid) {
            close(life);
            s->all[life].pid = 0;
            s->count--;
            return true;
        }
    return false;
}

/* S: a new server, with its pipe. O: the server owns the listeners; with 1, its program has only
 * been executed, and SIGUSR1 could still kill it. A: the owner acknowledges SIGUSR1. E: how a
 * server ended, from the process that reaped it; -1: its status is not known. */
static void hear_server(struct servers *s, const char *text, int life)
{
    int numbers[2] = {0};
    if (sscanf(text + 1, "%9d:%9d", &numbers[0], &numbers[1]) != 2 ||
        (numbers[0] <= 0 && text[0] != 'A'))
        return;
    if (text[0] == 'S' && (life >= SERVERS_MAX || has_events(life, 0))) {
        close(life); /* this kills the server, unless it has ended */
    } else if (text[0] == 'S' && life >= 0) {
        s->all[life].pid = numbers[0];
        s->all[life].told = false;
        s->count++;
    } else if (text[0] == 'O') {
        s->owner = numbers[0];
        s->claimed = true;
        s->status = -1;
        if (s->stop)
            signal_owner(s, s->stop, true);
        if (s->restarts > 0 && numbers[1] == 0)
            signal_owner(s, SIGUSR1, false);
        s->restarts = s->restarts > 0;
    } else if (text[0] == 'A' && s->restarts > 0) {
        s->restarts--;
    } else if (text[0] == 'E') {
        forget_server(s, numbers[0], numbers[1]);
    }
}

static void forward_signals(struct servers *s, int signals)
{
    struct signalfd_siginfo info;
    while (read(signals, &info, sizeof info) == sizeof info) {
        if (info.ssi_signo == SIGCHLD)
            continue;
        if (info.ssi_signo == SIGUSR1)
            s->restarts++;
        else
            s->stop = (int)info.ssi_signo;
        signal_owner(s, (int)info.ssi_signo, false);
    }
}

static void reap(const struct restart *r, struct servers *s)
{
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        const bool is_server = forget_server(s, pid, status);
        if (is_server && WIFSIGNALED(status))
            say(r, LOG_ERR, "server %ld was ended by signal %d (%s)", (long)pid, WTERMSIG(status),
                strsignal(WTERMSIG(status)));
        else if (is_server && s->claimed && !s->stop &&
                 (WEXITSTATUS(status) != 0 || pid == s->owner))
            say(r, LOG_ERR, "server %ld exited with status %d", (long)pid, WEXITSTATUS(status));
    }
}

/* The first process: see restart_supervise. */
static int supervise(const struct restart *r, pid_t first, int lifeline)
{
    struct servers s = {.owner = first, .status = -1};
    char text[MESSAGE_SIZE];
    sigset_t caught = r->caught;
    sigaddset(&caught, SIGCHLD);
    sigprocmask(SIG_BLOCK, &caught, NULL);
    const int signals = signalfd(-1, &caught, SFD_NONBLOCK | SFD_CLOEXEC);
    struct pollfd events[] = {{.fd = signals, .events = POLLIN},
                              {.fd = lifeline, .events = POLLIN}};
    ssize_t length;
    int life, limit;
    /* At end of file no server is left. An orphan may still have the lifeline. The owner may be the
     * child of another server, which closes the lifeline before it exits. */
    do {
        while ((length = receive_message(lifeline, text, &life)) > 0)
            hear_server(&s, text, life);
        forward_signals(&s, signals);
        reap(r, &s);
        events[1].fd = length == 0 ? -1 : lifeline;
        limit = length != 0 && s.count > 0 ? -1 : LAST_SERVER_MS;
    } while ((length != 0 || s.status == -1) &&
             (poll(events, 2, limit) != 0 || (s.status == -1 && kill(s.owner, 0) == 0)));
    return s.status == -1          ? EXIT_FAILURE
           : WIFSIGNALED(s.status) ? 128 + WTERMSIG(s.status)
                                   : WEXITSTATUS(s.status);
}

int restart_supervise(struct restart *r)
{
    const pid_t first = getpid();
    int ends[2];
    errno = 0;
    if (r->supervisor > 0 || r->predecessor >= 0 ||
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return -1;
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
