/* SPDX-License-Identifier: 0BSD */
/*
 * restart.c - see restart.h.
 *
 * The parts: what is told to others; descriptors and events; the phase; inheriting; starting a
 * successor; handing over; what becomes of a successor; signals; the step; the server's calls;
 * supervision.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "restart.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
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
#include <sys/ioctl.h>
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

/* <linux/close_range.h> is not there with every libc. */
#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC (1U << 2)
#endif

enum {
    NUMBER_SIZE = 24,       /* any number in decimal, with its end */
    LINE_SIZE = 1024,       /* a log line or a notification: file names (NAME_MAX) and text */
    WHY_SIZE = 512,         /* why a restart failed: one file name, and text */
    MESSAGE_SIZE = 16,      /* more than any message says; the rest is cut off */
    EVENTS_MAX = 8,         /* more than there are descriptors in the epoll set */
    RESTART_OWN = 9,        /* descriptors that a server has without a connection, and one more */
    TURNS = 64,             /* calls of restart_accept before restart_step has its turn */
    ABORTED_MAX = 16,       /* connections in a row that were aborted in the queue */
    ROOM_SHARE = 4,         /* of a process's descriptors, one in so many is for one message */
    RETRY_MS = 10,          /* until what the kernel has no room for is tried again */
    PAUSE_MS = 100,         /* until accepting is tried again, or what only others can change */
    RECEIVE_MS = 5000,      /* for a successor to receive a message */
    PATIENCE_MS = 1000,     /* for it to close the channel, and for what is left at the end */
    SHORTAGE_MS = 5000,     /* of descriptors, after which waiting connections are abandoned */
    LAST_REQUEST_MS = 1000, /* for a request that is on its way at a shutdown */
    NOTIFY_WAIT_US = 100000,
    GENERATIONS = 64, /* that a supervisor knows: more than live at a time */
    EXIT_NOT_EXECUTED = 127,
};

#define NEVER INT64_MAX

enum deadline {
    READY_BY,    /* the successor */
    RECEIVED_BY, /* the last message, by the successor */
    DRAINED_BY,  /* this process */
    /* The next four only end something: */
    ROLLBACK_UNTIL, /* this process serves again; NEVER: it does not */
    ACCEPT_AT,      /* accepting goes on; NEVER: it is not paused */
    GIVE_AT,        /* giving goes on, after the channel was full; NEVER: it is not paused */
    CLOSE_AT,       /* a request that is on its way at a shutdown has come; NEVER: that is over */
    ROOM_BY,        /* there must be descriptors for what the predecessor hands over */
    CLOSED_BY,      /* the successor must have closed the channel */
    ENDED_BY,       /* the successor, which has closed the channel: else it lives */
    STEP_AT,        /* the next step is due, whatever happens */
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

/* ---- what is told to others: the log, the service manager, the pid file ---- */

__attribute__((format(printf, 3, 4))) static void say(const struct restart *r, int priority,
                                                      const char *format, ...)
{
    char line[LINE_SIZE];
    va_list arguments;
    if (!r->options.log)
        return;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    r->options.log(priority, line);
}

/* Descriptors are not at hand when connections have used them all up: some are kept for what a
 * restart has to open. */
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
    /* Where there are few, half of what is left by the module is for connections. */
    for (rlim_t i = 0; i < RESTART_RESERVE && RESTART_OWN + 2 * i < limit.rlim_cur; i++)
        if (r->reserve[i] < 0)
            r->reserve[i] = fcntl(r->timer, F_DUPFD_CLOEXEC, 0);
}

static int send_state(const char *path, const char *state)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const struct timeval wait = {.tv_usec = NOTIFY_WAIT_US};
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
    ssize_t sent =
        sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&address, size);
    int error = errno;
    close(fd);
    errno = error;
    return sent < 0 ? -1 : 0;
}

/* Newline-separated assignments to the service manager, sd_notify(3). */
__attribute__((format(printf, 2, 3))) static void notify(struct restart *r, const char *format, ...)
{
    char state[LINE_SIZE];
    va_list arguments;
    const char *path = getenv("NOTIFY_SOCKET");
    if (!path || !*path)
        return;
    release_reserve(r);
    va_start(arguments, format);
    vsnprintf(state, sizeof state, format, arguments);
    va_end(arguments);
    if (send_state(path, state) < 0)
        say(r, LOG_WARNING, "cannot notify the service manager: %s", strerror(errno));
}

/* As a whole: into a new file beside it, which then takes its name. Its folder may be one that
 * others may write to, so nothing that is there already is opened. */
static int replace_pid_file(const char *file)
{
    char temporary[PATH_MAX];
    int length = snprintf(temporary, sizeof temporary, "%s.XXXXXX", file);
    if (length < 0 || (size_t)length >= sizeof temporary) {
        errno = ENAMETOOLONG;
        return -1;
    }
    int fd = mkostemp(temporary, O_CLOEXEC);
    if (fd < 0)
        return -1;
    bool written = dprintf(fd, "%ld\n", (long)getpid()) > 0 && fchmod(fd, 0644) == 0;
    int error = errno;
    close(fd);
    if (written && rename(temporary, file) == 0)
        return 0;
    error = written ? errno : error;
    unlink(temporary);
    errno = error;
    return -1;
}

/* Whether the pid file names this process. */
static bool is_named(const struct restart *r)
{
    const char *file = r->options.pid_file;
    char text[NUMBER_SIZE];
    int fd = file ? open(file, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_NOCTTY | O_CLOEXEC) : -1;
    if (fd < 0)
        return false;
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    text[length > 0 ? length : 0] = '\0';
    text[strcspn(text, "\n")] = '\0';
    return number_of(text) == getpid();
}

static int write_pid_file(struct restart *r)
{
    const char *file = r->options.pid_file;
    release_reserve(r);
    if (!file || is_named(r) || replace_pid_file(file) == 0)
        return 0;
    say(r, LOG_ERR, "cannot write pid file %s: %s", file, strerror(errno));
    return -1;
}

static void say_listening(const struct restart *r)
{
    struct sockaddr_storage address = {0};
    socklen_t size = sizeof address;
    char host[NI_MAXHOST] = "?", port[NI_MAXSERV] = "?", how[NUMBER_SIZE + 16] = "";
    const char *version = r->options.version;
    getsockname(r->listener, (struct sockaddr *)&address, &size);
    getnameinfo((struct sockaddr *)&address, size, host, sizeof host, port, sizeof port,
                NI_NUMERICHOST | NI_NUMERICSERV);
    if (r->listener == r->inherited)
        snprintf(how, sizeof how, " (inherited fd %d)", r->listener);
    say(r, LOG_INFO, "listening on %s%s%s:%s%s%s%s", address.ss_family == AF_INET6 ? "[" : "", host,
        address.ss_family == AF_INET6 ? "]" : "", port, how, version ? ", version " : "",
        version ? version : "");
}

/* ---- descriptors and events ---- */

/* How many descriptors this process may still open, WANTED at most. To open them is the one way to
 * know that holds in every server. */
static int free_descriptors(const struct restart *r, int wanted)
{
    int fds[RESTART_BATCH], count = 0;
    while (count < wanted && (fds[count] = fcntl(r->timer, F_DUPFD_CLOEXEC, 0)) >= 0)
        count++;
    for (int i = 0; i < count; i++)
        close(fds[i]);
    return count;
}

static bool has_ended(int process)
{
    return process >= 0 && poll(&(struct pollfd){.fd = process, .events = POLLIN}, 1, 0) != 0;
}

/* How many connections a message may bring the successor, beside those that it has and can evict.
 */
static int room_of(pid_t process)
{
    struct rlimit limit;
    if (prlimit(process, RLIMIT_NOFILE, NULL, &limit) < 0 ||
        limit.rlim_cur / ROOM_SHARE >= RESTART_BATCH)
        return RESTART_BATCH;
    const int room = (int)limit.rlim_cur / ROOM_SHARE;
    return room > 0 ? room : 1;
}

/* A closed standard stream would be a connection's number next, and log lines would go to a client.
 * Read-only, as writing fails then as it did before. */
static void open_standard_streams(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDONLY);
    while (fd >= 0 && fd <= STDERR_FILENO);
    close_fd(&fd);
}

/* A successor is to inherit nothing but the standard streams, and what is made inheritable later.
 * One by one where close_range(2) is forbidden (seccomp(2)) or knows no CLOSE_RANGE_CLOEXEC (before
 * Linux 5.11). */
static int make_close_on_exec(void)
{
    if (syscall(SYS_close_range, STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC) == 0)
        return 0;
    DIR *descriptors = opendir("/proc/self/fd");
    const struct dirent *entry;
    if (!descriptors)
        return -1;
    while ((entry = readdir(descriptors)))
        if (number_of(entry->d_name) > STDERR_FILENO)
            fcntl(number_of(entry->d_name), F_SETFD, FD_CLOEXEC);
    return closedir(descriptors);
}

/* Edge-triggered: what cannot be dealt with yet (a full table of descriptors, an ended process that
 * its tracer holds) is tried again at a deadline, and not as fast as the loop goes. */
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
    /* A time of zero would disarm it, and one that has passed expires at once. */
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
    int64_t at = now() + ms;
    if (at < r->deadlines[STEP_AT])
        r->deadlines[STEP_AT] = at;
}

static bool may_accept(const struct restart *r)
{
    return r->listener >= 0 && (r->phase <= RESTART_STARTING || r->backlog > 0);
}

/* The one place where interest in the listener is set; what fails is tried again. False: the
 * listener is still watched though it must not be. */
static bool watch_listener(struct restart *r, bool wanted)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = r->options.accept_data};
    if (r->watched != wanted) {
        if (epoll_ctl(r->epoll, wanted ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, r->listener, &event) == 0)
            r->watched = wanted;
        else
            step_after(r, RETRY_MS);
    }
    return r->watched == wanted;
}

/* Closing alone does not end its events where the successor has the description too, epoll(7). */
static void close_listener(struct restart *r)
{
    r->backlog = 0;
    if (r->listener >= 0 && watch_listener(r, false))
        close_fd(&r->listener);
}

/* ---- the phase ---- */

/* Whether a successor has been started that does not own the listener yet. */
static bool is_pending(const struct restart *r)
{
    return r->successor.pid > 0 && r->successor.received == 0;
}

static void kill_successor(const struct restart *r, int signal)
{
    if (r->successor.pid > 0)
        kill(r->successor.pid, signal);
}

static bool is_told_to_end(const struct restart *r)
{
    return r->stops[0] + r->stops[1] > 0;
}

/* The one place where the phase changes. */
static void enter(struct restart *r, enum restart_phase phase)
{
    const enum restart_phase before = r->phase;
    r->phase = phase;
    r->offered = false;
    step_soon(r);
    if (phase == RESTART_CUT)
        r->deadlines[DRAINED_BY] = now() + PATIENCE_MS;
    else if (phase != RESTART_DRAINING)
        r->deadlines[DRAINED_BY] = NEVER; /* in HANDING_OVER set once that has begun */
    else if (r->deadlines[DRAINED_BY] == NEVER)
        r->deadlines[DRAINED_BY] = after_seconds(r->options.drain_timeout);
    r->deadlines[CLOSE_AT] = phase == RESTART_DRAINING ? now() + LAST_REQUEST_MS : NEVER;
    if (phase <= RESTART_STARTING)
        r->cut = 0;
    else if (before <= RESTART_STARTING && r->open > 0)
        say(r, LOG_INFO, "draining: %d connections", r->open);
    if (phase < RESTART_DONE)
        return;
    close_listener(r);
    /* A successor that takes connections writes its own in its place. */
    if ((r->successor.pid == 0 || r->successor.report != 'T' || is_pending(r)) && is_named(r))
        unlink(r->options.pid_file);
    say(r, LOG_INFO, "ended: %lu connections passed on", r->handed_over);
}

static void start(struct restart *r);

/* Tells the supervisor of a successor, or with 0 that this process owns the listener. */
static void tell_supervisor(const struct restart *r, pid_t successor)
{
    if (r->supervisor > 0)
        sigqueue(r->supervisor, SIGRTMIN, (union sigval){.sival_int = successor});
}

/* Tells the others that this process owns the listener. */
static int announce(struct restart *r)
{
    tell_supervisor(r, 0);
    return write_pid_file(r);
}

static void own_listener(struct restart *r)
{
    if (r->phase != RESTART_INHERITING)
        return;
    enter(r, RESTART_SERVING);
    announce(r);
    if (r->again && !is_told_to_end(r))
        start(r);
}

/* ---- inheriting ---- */

int restart_listener(struct restart *r, int fd)
{
    int listens = socket_option(fd, SO_ACCEPTCONN);
    r->inherited = fd;
    if (listens < 0)
        return -1;
    if (!listens || socket_option(fd, SO_TYPE) != SOCK_STREAM) {
        errno = listens ? ENOTSUP : EINVAL;
        return -1;
    }
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
        fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
        return -1;
    return fd;
}

/* Takes VARIABLE, PARENT:NUMBER, from the environment. Returns NUMBER, or -1: there is none. */
static int take_variable(const char *variable, int *parent)
{
    int number = -1, end = 0;
    const char *text = getenv(variable);
    if (!text || sscanf(text, "%9d:%9d%n", parent, &number, &end) != 2 || text[end])
        number = -1;
    unsetenv(variable);
    return number;
}

/* The supervisor, unless it is that of another process. It is the parent where that has ended. */
static pid_t find_supervisor(void)
{
    int parent = 0, supervisor = take_variable(supervisor_variable, &parent);
    return parent == getppid() || supervisor == getppid() ? supervisor : 0;
}

/* The channel to the predecessor. -1: there is none, or the one announced is another process's. */
static int find_predecessor(struct restart *r)
{
    int parent = 0, fd = take_variable(channel_variable, &parent);
    if (fd < 0 || socket_option(fd, SO_DOMAIN) != AF_UNIX ||
        socket_option(fd, SO_TYPE) != SOCK_SEQPACKET)
        return -1;
    /* It was made for another process, or the one that made it has ended. */
    if (parent != getppid() || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0) {
        close(fd);
        return -1;
    }
    r->parent = parent;
    return fd;
}

/* sd_listen_fds(3), for one socket. */
static int find_activation(struct restart *r)
{
    int count = number_of(getenv("LISTEN_PID")) == getpid() ? number_of(getenv("LISTEN_FDS")) : 0;
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
    unsetenv("LISTEN_PIDFDID");
    if (count == 1)
        return restart_listener(r, STDERR_FILENO + 1);
    r->inherited = count > 1 ? STDERR_FILENO + 1 : -1;
    errno = count > 1 ? E2BIG : 0;
    return -1;
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

int restart_inherit(struct restart *r, int *argc, char **argv)
{
    const struct sigaction ignore = {.sa_handler = SIG_IGN}, standard = {.sa_handler = SIG_DFL};
    sigset_t caught;
    memset(r, 0, sizeof *r);
    r->epoll = r->timer = r->signals = r->listener = r->inherited = -1;
    r->successor.process = r->successor.execution = r->successor.channel = -1;
    memset(r->reserve, -1, sizeof r->reserve);
    r->armed = NEVER;
    for (int i = 0; i < RESTART_DEADLINES; i++)
        r->deadlines[i] = NEVER;
    open_standard_streams();
    caught_signals(&caught);
    sigprocmask(SIG_BLOCK, &caught, &r->mask);
    sigaction(SIGPIPE, &ignore, NULL);
    /* Where SIGCHLD is ignored, wait(2) does not tell how a successor ended. */
    sigaction(SIGCHLD, &standard, &r->on_child);
    r->supervisor = find_supervisor();
    r->predecessor = find_predecessor(r);
    int listener = find_activation(r), error = errno;
    int fd = *argc > 1 ? number_of(argv[*argc - 1]) : -1;
    /* A predecessor that has ended, or waits for no report, has started this process, too. */
    if (fd >= 0 &&
        (r->predecessor >= 0 || (listener < 0 && socket_option(fd, SO_ACCEPTCONN) == 1))) {
        listener = restart_listener(r, fd);
        error = errno;
        argv[--*argc] = NULL;
    }
    if (copy_arguments(r, argv) < 0)
        return -1;
    errno = error;
    return listener;
}

/* ---- from the predecessor ---- */

/* Ancillary data of one message, aligned as cmsg(3) asks for. */
union ancillary {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(RESTART_BATCH * sizeof(int))];
};

/* How many connections a message's text announces: a mere C says nothing of how many. */
static int announced_by(const char *text)
{
    int count = text[0] == 'C' ? number_of(text + 1) : 0;
    return count < 0 ? 0 : count > RESTART_BATCH ? RESTART_BATCH : count;
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

/* Receives the next message, whatever room there is for what comes with it. */
static ssize_t receive(struct restart *r, char text[MESSAGE_SIZE + 1])
{
    union ancillary ancillary;
    struct iovec bytes = {text, MESSAGE_SIZE};
    struct msghdr message = {.msg_iov = &bytes,
                             .msg_iovlen = 1,
                             .msg_control = ancillary.bytes,
                             .msg_controllen = sizeof ancillary.bytes};
    memset(text, 0, MESSAGE_SIZE + 1);
    ssize_t length = recvmsg(r->predecessor, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (length <= 0)
        return length;
    r->taken_count = descriptors_in(&message, r->taken);
    for (int i = 0; i < r->taken_count; i++)
        fcntl(r->taken[i], F_SETFL, O_NONBLOCK); /* the predecessor may have been another server */
    if (message.msg_flags & MSG_CTRUNC)
        say(r, LOG_WARNING, "out of descriptors: of %d connections handed over, %d were received",
            announced_by(text), r->taken_count);
    while (text[0] != 'C' && r->taken_count > 0)
        close(r->taken[--r->taken_count]);
    r->open += r->taken_count;
    return length;
}

/* Whether the next message, with COUNT connections, can be received: what there is no descriptor
 * for is lost then, recvmsg(2). So it waits for the server to close what is idle, but not long. */
static bool has_room(struct restart *r, int count)
{
    int64_t *by = &r->deadlines[ROOM_BY];
    if (free_descriptors(r, count) == count || now() >= *by) {
        *by = NEVER;
        return true;
    }
    if (*by == NEVER)
        *by = now() + PAUSE_MS;
    return false;
}

static void leave_predecessor(struct restart *r)
{
    close_fd(&r->predecessor);
    r->deadlines[ROOM_BY] = NEVER;
}

/* Takes one message. 1: it did; 0: there is none to take now; -1: the end, no more will come. */
static int hear_message(struct restart *r)
{
    char text[MESSAGE_SIZE + 1] = "";
    ssize_t length = recv(r->predecessor, text, MESSAGE_SIZE, MSG_PEEK | MSG_DONTWAIT);
    if (length > 0) {
        if (!has_room(r, announced_by(text)))
            return 0;
        length = receive(r, text);
    }
    if (length < 0 && errno == EAGAIN)
        return 0;
    if (length < 0 &&
        (errno == EINTR || errno == ECONNRESET || errno == ENOMEM || errno == ENOBUFS)) {
        /* ECONNRESET is said once, before the messages of a predecessor that has ended. */
        step_after(r, RETRY_MS);
        return 0;
    }
    if (length > 0 && text[0] == 'C')
        own_listener(r);
    return length > 0 ? 1 : -1;
}

static void hear_predecessor(struct restart *r)
{
    int heard = 1;
    while (r->predecessor >= 0 && r->taken_count == 0 && heard > 0) {
        heard = hear_message(r);
        if (heard < 0) {
            leave_predecessor(r);
            own_listener(r);
        }
    }
}

/* Says what this process is about, for a predecessor that stands by. S: it has started a successor,
 * which carries on if this process dies. F: that has failed. D: it drains, so its end is no crash.
 */
static void tell_predecessor(const struct restart *r, const char *what)
{
    if (r->predecessor >= 0)
        send(r->predecessor, what, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* ---- starting a successor ---- */

/* Without one trailing 1 of the file name, or else with one more; a mere 1 gets another. */
static int toggle(const char *name, char successor[PATH_MAX])
{
    const char *slash = strrchr(name, '/');
    const char *file = slash ? slash + 1 : name;
    size_t length = strlen(name), file_length = strlen(file);
    bool strip = file_length > 1 && file[file_length - 1] == '1';
    if (length + 2 > PATH_MAX) {
        errno = ENAMETOOLONG;
        return -1;
    }
    snprintf(successor, PATH_MAX, "%.*s%s", (int)(length - strip), name, strip ? "" : "1");
    return 0;
}

/* Executes NAME, along PATH if it has no slash. No shell is tried on a file of unknown format, as
 * execvp(3) would. Returns an error number. */
static int execute(const char *name, char **argv)
{
    char file[2 * PATH_MAX];
    const char *path = strchr(name, '/') ? "" : getenv("PATH");
    int error = ENOENT;
    for (path = path ? path : "/bin:/usr/bin";; path++) {
        int length = (int)strcspn(path, ":");
        if (length < PATH_MAX) {
            snprintf(file, sizeof file, "%.*s%s%s", length, path, length ? "/" : "", name);
            execve(file, argv, environ);
            if (errno != ENOENT && errno != ENOTDIR)
                error = errno;
        }
        path += length;
        if (!*path || (error != ENOENT && error != EACCES))
            return error;
    }
}

static bool set_variable(const char *variable, int number)
{
    char text[2 * NUMBER_SIZE];
    snprintf(text, sizeof text, "%ld:%d", (long)getppid(), number);
    return setenv(variable, text, 1) == 0;
}

/* In the child: becomes the successor NAME, or says over EXECUTION why not. */
__attribute__((noreturn)) static void become(struct restart *r, char *name, int channel,
                                             int execution)
{
    const struct sigaction standard = {.sa_handler = SIG_DFL};
    char number[NUMBER_SIZE];
    snprintf(number, sizeof number, "%d", r->listener);
    r->argv[0] = name;
    r->argv[r->argc] = number;
    sigaction(SIGPIPE, &standard, NULL);
    sigaction(SIGCHLD, &r->on_child, NULL);
    sigprocmask(SIG_SETMASK, &r->mask, NULL);
    int error = 0;
    if (fcntl(r->listener, F_SETFD, 0) < 0 ||
        (channel >= 0 &&
         (fcntl(channel, F_SETFD, 0) < 0 || !set_variable(channel_variable, channel))) ||
        (r->supervisor > 0 && !set_variable(supervisor_variable, r->supervisor)))
        error = errno;
    else
        error = execute(name, r->argv);
    ssize_t written = write(execution, &error, sizeof error);
    (void)written;
    _exit(EXIT_NOT_EXECUTED);
}

static void forget_successor(struct restart *r)
{
    close_fd(&r->successor.process);
    close_fd(&r->successor.execution);
    close_fd(&r->successor.channel);
    r->successor.pid = 0;
    r->deadlines[READY_BY] = r->deadlines[RECEIVED_BY] = NEVER;
    r->deadlines[CLOSED_BY] = r->deadlines[ENDED_BY] = NEVER;
}

static int make_ends(const struct restart *r, int channel[2], int execution[2])
{
    channel[0] = channel[1] = execution[0] = execution[1] = -1;
    if (pipe2(execution, O_CLOEXEC | O_NONBLOCK) < 0)
        return -1;
    if (r->options.ready_timeout == 0)
        return 0;
    return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, channel);
}

/* Whether the successor, which runs, can be watched. */
static bool watch_successor(struct restart *r)
{
    r->successor.process = (int)syscall(SYS_pidfd_open, r->successor.pid, 0);
    return r->successor.process >= 0 && watch(r, r->successor.process, EPOLLIN) == 0 &&
           watch(r, r->successor.execution, EPOLLIN) == 0 &&
           (r->successor.channel < 0 || watch(r, r->successor.channel, EPOLLIN | EPOLLOUT) == 0);
}

/* Returns an error number. Not by posix_spawn(3), which holds this process until the execution is
 * done: the file may be on slow storage. */
static int spawn(struct restart *r, char *name)
{
    int channel[2], execution[2], error = 0;
    pid_t pid = -1;
    release_reserve(r);
    memset(&r->successor, 0, sizeof r->successor);
    r->successor.process = -1; /* the others are set below */
    if (make_ends(r, channel, execution) == 0 && make_close_on_exec() == 0) {
        pid = fork();
        if (pid == 0)
            become(r, name, channel[1], execution[1]);
    }
    error = errno;
    close_fd(&channel[1]);
    close_fd(&execution[1]);
    r->successor.channel = channel[0];
    r->successor.execution = execution[0];
    r->successor.pid = pid > 0 ? pid : 0;
    if (pid > 0)
        tell_supervisor(r, pid);
    if (pid > 0 && watch_successor(r))
        return 0;
    if (pid > 0) {
        error = errno;
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
    }
    forget_successor(r);
    return error;
}

static void restart_failed(struct restart *r, const char *why)
{
    say(r, LOG_ERR, "restart failed: %s", why);
    enter(r, RESTART_SERVING);
    announce(r); /* the successor may have done so */
    tell_predecessor(r, "F");
    notify(r, "READY=1\nSTATUS=restart failed: %s", why);
}

static void start(struct restart *r)
{
    char name[PATH_MAX], why[WHY_SIZE];
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    r->again = false;
    notify(r, "RELOADING=1\nMONOTONIC_USEC=%lld\nSTATUS=", t.tv_sec * 1000000LL + t.tv_nsec / 1000);
    enter(r, RESTART_STARTING);
    tell_predecessor(r, "S");
    int error = toggle(r->argv[0], name) < 0 ? errno : spawn(r, name);
    if (error) {
        snprintf(why, sizeof why, "cannot start the successor of %.300s: %s", r->argv[0],
                 strerror(error));
        restart_failed(r, why);
    } else if (r->options.ready_timeout > 0) {
        r->deadlines[READY_BY] = after_seconds(r->options.ready_timeout);
    }
}

/* ---- handing over ---- */

/* The connections of the batch are this process's again: restart_accept returns them. */
static void take_back_batch(struct restart *r)
{
    if (r->batch_is_back)
        return;
    r->open += r->batch_count;
    r->handed_over -= (unsigned)r->batch_count;
    r->batch_is_back = true;
}

/* The successor is ready. */
static void hand_over(struct restart *r)
{
    const bool takes = r->successor.report == 'T';
    notify(r, "MAINPID=%ld\nREADY=1", (long)r->successor.pid);
    say(r, LOG_INFO, "handed over to %ld: %d connections", (long)r->successor.pid,
        takes ? r->open : 0);
    tell_predecessor(r, "D");
    r->successor.room = room_of(r->successor.pid);
    r->successor.received = takes ? 0 : 1;
    r->deadlines[READY_BY] = NEVER;
    r->deadlines[RECEIVED_BY] = takes ? now() + RECEIVE_MS : NEVER;
    if (r->options.rollback_timeout > 0)
        r->deadlines[ROLLBACK_UNTIL] = after_seconds(r->options.rollback_timeout);
    enter(r, takes ? RESTART_HANDING_OVER : RESTART_DRAINING);
}

static bool hands_over(const struct restart *r)
{
    return (r->phase == RESTART_HANDING_OVER || r->phase == RESTART_CUT) &&
           r->successor.report == 'T' && r->successor.channel >= 0;
}

/* The successor has received what was sent: its connections are closed here. */
static void received_all(struct restart *r)
{
    if (is_pending(r) && r->phase == RESTART_HANDING_OVER)
        r->deadlines[DRAINED_BY] = after_seconds(r->options.drain_timeout);
    r->successor.received = r->successor.sent;
    r->deadlines[RECEIVED_BY] = NEVER;
    while (!r->batch_is_back && r->batch_count > 0)
        close(r->batch[--r->batch_count]);
}

/* What the successor has not received of the messages, in the kernel's measure; -1: not known. The
 * kernel charges the sender for each that waits (SIOCOUTQ, which is TIOCOUTQ), and for one byte
 * while it takes back the charge. */
static int unreceived(const struct restart *r)
{
    int waiting;
    if (ioctl(r->successor.channel, TIOCOUTQ, &waiting) < 0)
        return -1;
    return waiting <= 1 ? 0 : waiting;
}

/* One message with the first COUNT connections of the batch. */
static ssize_t send_connections(const struct restart *r, int count)
{
    char text[MESSAGE_SIZE];
    union ancillary ancillary;
    const size_t size = (size_t)count * sizeof *r->batch;
    struct iovec bytes = {text, (size_t)snprintf(text, sizeof text, "C%d", count)};
    struct msghdr message = {.msg_iov = &bytes, .msg_iovlen = 1};
    if (count > 0) {
        memset(&ancillary, 0, sizeof ancillary);
        message.msg_control = ancillary.bytes;
        message.msg_controllen = (socklen_t)CMSG_SPACE(size);
        struct cmsghdr *c = CMSG_FIRSTHDR(&message);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = (socklen_t)CMSG_LEN(size);
        memcpy(CMSG_DATA(c), r->batch, size);
    }
    return sendmsg(r->successor.channel, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* One message at a time, so that it is known what a successor that fails has not received. But one
 * that is stopped or starved is not waited for: it finds all that was sent when it goes on. The
 * first message is empty: it says that the listener is the successor's, and there is room for it
 * whatever the successor has. */
static void send_batch(struct restart *r)
{
    if (!hands_over(r) || r->successor.sent > r->successor.received)
        return;
    const int count = r->successor.sent == 0 || r->batch_is_back ? 0 : r->batch_count;
    if (r->successor.sent > 0 && count == 0)
        return;
    if (send_connections(r, count) < 0) {
        r->successor.full_at = errno == EAGAIN ? unreceived(r) : 0;
        take_back_batch(r);
        r->deadlines[GIVE_AT] = now() + RETRY_MS;
        return;
    }
    r->successor.sent++;
    if (r->successor.stalls)
        received_all(r);
    else
        r->deadlines[RECEIVED_BY] = now() + RECEIVE_MS;
}

/* Whether the channel has no more room than when it was full: what would be collected for it would
 * only be taken back. */
static bool channel_is_full(const struct restart *r)
{
    return hands_over(r) && r->open > 0 && r->successor.full_at > 0 &&
           unreceived(r) >= r->successor.full_at;
}

/* ---- what becomes of a successor ---- */

/* How the successor ended, with STATUS as of waitpid(2); -1: it is not known. */
static void describe_end(const struct restart *r, int status, char why[WHY_SIZE])
{
    char name[PATH_MAX], how[WHY_SIZE / 2];
    if (r->successor.error && toggle(r->argv[0], name) == 0) {
        snprintf(why, WHY_SIZE, "cannot start %.300s: %s", name, strerror(r->successor.error));
        return;
    }
    if (r->successor.late)
        snprintf(how, sizeof how,
                 r->successor.report ? "did not take the listener and was killed"
                                     : "was not ready within %d s and was killed",
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

/* The successor has failed after it was ready, and this process has the listener still. */
static void serve_again(struct restart *r, const char *why)
{
    const bool rollback = r->deadlines[ROLLBACK_UNTIL] != NEVER;
    const char *what = rollback ? "rolled back" : "restart failed";
    const char *when = rollback ? "" : " during the hand-over";
    take_back_batch(r);
    r->deadlines[ROLLBACK_UNTIL] = NEVER;
    enter(r, RESTART_SERVING);
    announce(r);
    say(r, LOG_ERR, "%s: %s%s", what, why, when);
    notify(r, "MAINPID=%ld\nREADY=1\nSTATUS=%s: %s%s", (long)getpid(), what, why, when);
}

/* What is left cannot be handed over any more. */
static void drain_alone(struct restart *r)
{
    take_back_batch(r);
    if (r->phase == RESTART_HANDING_OVER)
        enter(r, RESTART_DRAINING);
}

static void successor_ended(struct restart *r, int status)
{
    char why[WHY_SIZE];
    const bool well = status != -1 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
    const bool owned = !is_pending(r);
    /* Everything was handed over: the listener is open only for a rollback, if at all. */
    const bool complete =
        owned && (r->phase != RESTART_HANDING_OVER || (r->offered && r->batch_count == 0));
    describe_end(r, status, why);
    forget_successor(r);
    if (r->phase == RESTART_STARTING) {
        restart_failed(r, why);
    } else if (r->phase <= RESTART_CUT && r->listener >= 0 && !is_told_to_end(r) &&
               !(well && complete) && !(owned && r->successor.has_successor)) {
        serve_again(r, why);
    } else {
        say(r, well ? LOG_INFO : LOG_WARNING, "%s", why);
        r->deadlines[ROLLBACK_UNTIL] = NEVER;
        /* The supervisor sees this process only: its status is that of the service. */
        if (owned && r->supervisor > 0 && status != -1)
            r->status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
        drain_alone(r);
    }
}

/* The successor lives, and cannot be handed anything any more. */
static void channel_closed(struct restart *r)
{
    if (r->phase != RESTART_HANDING_OVER && r->phase != RESTART_CUT)
        return;
    if (is_pending(r) && !is_told_to_end(r)) {
        /* It does not own the listener, nor ever will: it is killed at its deadline. */
        take_back_batch(r);
        r->successor.sent = 0;
        r->deadlines[ROLLBACK_UNTIL] = r->deadlines[RECEIVED_BY] = NEVER;
        r->deadlines[READY_BY] = after_seconds(r->options.ready_timeout);
        enter(r, RESTART_STARTING);
        notify(r, "MAINPID=%ld", (long)getpid());
    } else if (r->open + r->batch_count > 0) {
        say(r, LOG_WARNING, "successor %ld closed the channel", (long)r->successor.pid);
        drain_alone(r);
    }
}

static void hear_execution(struct restart *r)
{
    char name[PATH_MAX];
    ssize_t length = read(r->successor.execution, &r->successor.error, sizeof r->successor.error);
    if (length < 0 && errno == EINTR)
        step_after(r, RETRY_MS);
    if (length < 0)
        return;
    close_fd(&r->successor.execution);
    if (length > 0 || toggle(r->argv[0], name) < 0)
        return;
    say(r, LOG_INFO, "successor started: %ld (%s)", (long)r->successor.pid, name);
    if (r->options.ready_timeout == 0)
        r->successor.report = 'R';
    else if (r->phase == RESTART_STARTING)
        r->deadlines[READY_BY] = after_seconds(r->options.ready_timeout);
}

/* Hears all that the successor says, and whether it has received what it was sent. */
static void hear_channel(struct restart *r)
{
    char text[MESSAGE_SIZE] = "";
    bool all = unreceived(r) == 0, drains = false;
    ssize_t length = 0;
    for (int heard = 0; heard < TURNS; heard++) {
        length = recv(r->successor.channel, text, sizeof text, MSG_DONTWAIT);
        if (length < 0 && errno == ECONNRESET)
            all = false; /* said once, where it closed the channel with messages unread */
        else if (length <= 0)
            break;
        else if (text[0] == 'R' && r->successor.report == 0)
            r->successor.report = length > 1 && text[1] == '1' ? 'T' : 'R';
        else if (text[0] == 'S' || text[0] == 'F')
            r->successor.has_successor = text[0] == 'S';
        else
            drains |= text[0] == 'D';
    }
    if (length == 0)
        close_fd(&r->successor.channel);
    else if (length > 0 || errno != EAGAIN)
        step_after(r, RETRY_MS);
    /* Only the owner of the listener says D: so the successor has received the first message. */
    if ((all || (drains && is_pending(r))) && r->successor.sent > r->successor.received)
        received_all(r);
    /* It ends because it was told to: the service is not to come back here. */
    if (drains && !is_pending(r)) {
        r->deadlines[ROLLBACK_UNTIL] = NEVER;
        close_listener(r);
    }
}

static void hear_successor(struct restart *r)
{
    int status = -1;
    if (r->successor.pid == 0)
        return;
    /* First whether it lives: what it said is read to its end then. */
    pid_t ended = waitpid(r->successor.pid, &status, WNOHANG);
    const bool gone = ended > 0 || (ended < 0 && errno == ECHILD);
    const bool open = r->successor.channel >= 0;
    if (r->successor.execution >= 0)
        hear_execution(r);
    if (open)
        hear_channel(r);
    if (gone) {
        successor_ended(r, ended > 0 ? status : -1);
        return;
    }
    /* Its tracer may hold it: there is nothing to wait for yet. */
    if (has_ended(r->successor.process))
        step_after(r, PAUSE_MS);
    /* The kernel closes the channel of a process that crashes well before it can be waited for. */
    if (open && r->successor.channel < 0 && is_pending(r))
        channel_closed(r);
    else if (open && r->successor.channel < 0 && r->deadlines[CLOSED_BY] == NEVER)
        r->deadlines[ENDED_BY] = now() + PATIENCE_MS;
    if (r->phase == RESTART_STARTING && !r->successor.late &&
        (r->successor.report == 'R' || (r->successor.report == 'T' && r->successor.channel >= 0)))
        hand_over(r);
}

/* ---- signals, and new connections ---- */

/* No connection waits: so those that waited at SIGTERM have been accepted. */
static int none_waits(struct restart *r)
{
    if (r->backlog > 0) {
        r->backlog = 0;
        step_soon(r);
    }
    errno = EAGAIN;
    return -1;
}

/* A new connection from the kernel. */
static int accept_new(struct restart *r)
{
    int fd = -1;
    for (int tries = 0; fd < 0 && tries < ABORTED_MAX; tries++) {
        fd = accept4(r->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && errno != ECONNABORTED && errno != EINTR)
            break;
    }
    if (fd >= 0) {
        r->open++;
        r->deadlines[ACCEPT_AT] = NEVER;
        if (r->backlog > 0 && --r->backlog == 0)
            step_soon(r);
        return fd;
    }
    const bool full = errno == EMFILE || errno == ENFILE;
    /* EMFILE is said before the kernel looks whether there is a connection at all. */
    if (errno == EAGAIN ||
        (full && poll(&(struct pollfd){.fd = r->listener, .events = POLLIN}, 1, 0) == 0))
        return none_waits(r);
    /* With no connection left, it is not this process that causes the shortage. */
    const int64_t draining_since = r->deadlines[DRAINED_BY] - r->options.drain_timeout * 1000LL;
    if (r->backlog > 0 && r->open == 0 && now() - draining_since > SHORTAGE_MS)
        return none_waits(r);
    r->deadlines[ACCEPT_AT] = now() + PAUSE_MS;
    step_soon(r);
    errno = full ? EMFILE : EAGAIN;
    return -1;
}

/* How many connections wait to be accepted: tcpi_unacked of a listener, tcp(7). */
static unsigned waiting_connections(int listener)
{
    struct tcp_info info = {0};
    socklen_t size = sizeof info;
    if (getsockopt(listener, IPPROTO_TCP, TCP_INFO, &info, &size) < 0)
        return SOMAXCONN;
    return info.tcpi_unacked;
}

/* SIGTERM before this process owns the listener. If the predecessor's message is in the channel by
 * now, this process owns the listener, and stops as its owner. Otherwise it closes the channel, and
 * the predecessor keeps the listener. */
static void stop_inheriting(struct restart *r)
{
    char byte;
    ssize_t waits = recv(r->predecessor, &byte, sizeof byte, MSG_PEEK | MSG_DONTWAIT);
    if (waits < 0) {
        shutdown(r->predecessor, SHUT_RD);
        waits = recv(r->predecessor, &byte, sizeof byte, MSG_PEEK | MSG_DONTWAIT);
        waits = waits > 0 ? waits : -1;
    }
    if (waits >= 0)
        hear_predecessor(r);
    if (r->phase == RESTART_INHERITING) {
        leave_predecessor(r);
        enter(r, RESTART_DRAINING);
    }
}

/* Accepts what waits at once, as far as there is room: what comes from now on is to be refused, and
 * not to be reset later. */
static void accept_waiting(struct restart *r)
{
    int fd = 0;
    while (r->backlog > 0 && r->taken_count < RESTART_BATCH && (fd = accept_new(r)) >= 0)
        r->taken[r->taken_count++] = fd;
}

static void stop(struct restart *r)
{
    r->deadlines[ROLLBACK_UNTIL] = NEVER;
    if (r->phase == RESTART_INHERITING)
        stop_inheriting(r);
    if (r->phase > RESTART_STARTING && !(r->phase == RESTART_HANDING_OVER && is_pending(r)))
        return;
    notify(r, "STOPPING=1");
    tell_predecessor(r, "D");
    if (is_pending(r)) {
        kill_successor(r, SIGTERM);
        take_back_batch(r);
    }
    r->deadlines[READY_BY] = r->deadlines[RECEIVED_BY] = NEVER;
    r->backlog = waiting_connections(r->listener);
    enter(r, RESTART_DRAINING);
    accept_waiting(r);
}

static void signal_stop(struct restart *r, const char *name, pid_t sender)
{
    /* Ctrl-C reaches the whole process group, and the predecessor passes it on: it counts once. */
    const unsigned count = ++r->stops[r->parent > 0 && sender == r->parent];
    const bool first = r->stops[0] + r->stops[1] == 1;
    if (!first && count < 2)
        return;
    say(r, LOG_NOTICE, "%s received: ending %s", name, first ? "gracefully" : "at once");
    if (first) {
        stop(r);
        return;
    }
    if (is_pending(r))
        kill_successor(r, SIGKILL);
    r->status = EXIT_FAILURE;
    enter(r, RESTART_ABORTED);
}

static void signal_restart(struct restart *r)
{
    const char *what = "restarting";
    if (r->phase == RESTART_INHERITING)
        what = "remembered until this process owns the listener";
    else if (r->phase == RESTART_STARTING)
        what = "ignored, a restart is pending";
    else if (r->phase != RESTART_SERVING)
        what = "ignored, this process is draining";
    say(r, LOG_NOTICE, "SIGUSR1 received: %s", what);
    r->again |= r->phase == RESTART_INHERITING;
    if (r->phase == RESTART_SERVING)
        start(r);
}

static void take_signal(struct restart *r, int signal, pid_t sender)
{
    /* The supervisor's signals are for the process that owns the listener: this one may have handed
     * it over since, and may own it again. */
    if (has_ended(r->successor.process))
        hear_successor(r);
    if (sender > 0 && sender == r->supervisor && r->successor.pid > 0 &&
        r->phase >= RESTART_HANDING_OVER && !is_told_to_end(r) &&
        (signal == SIGUSR1 || !is_pending(r))) {
        kill_successor(r, signal);
        return;
    }
    if (signal == SIGUSR1)
        signal_restart(r);
    else
        signal_stop(r, signal == SIGTERM ? "SIGTERM" : "SIGINT", sender);
    step_soon(r);
}

static void read_signals(struct restart *r)
{
    struct signalfd_siginfo info;
    while (read(r->signals, &info, sizeof info) == sizeof info)
        take_signal(r, (int)info.ssi_signo, (pid_t)info.ssi_pid);
    if (errno != EAGAIN)
        step_after(r, RETRY_MS);
}

/* ---- the step ---- */

static bool is_due(struct restart *r, enum deadline which)
{
    if (now() < r->deadlines[which])
        return false;
    r->deadlines[which] = NEVER;
    return true;
}

static void say_cut(struct restart *r)
{
    if (r->cut >= 0)
        say(r, LOG_WARNING, "drain timeout: %d connections cut", r->cut + r->open);
    r->cut = -1;
}

/* Whether this process serves again if the successor crashes now. */
static bool stands_by(const struct restart *r)
{
    return r->deadlines[ROLLBACK_UNTIL] != NEVER && r->successor.pid > 0;
}

/* The drain deadline, and what follows it. */
static void end_draining(struct restart *r)
{
    send_batch(r); /* what was collected for it is served by no process */
    if (r->phase != RESTART_CUT) {
        enter(r, RESTART_CUT);
        leave_predecessor(r);
        if (is_told_to_end(r) && is_pending(r))
            kill_successor(r, SIGKILL);
    } else if (stands_by(r)) {
        r->deadlines[DRAINED_BY] = now() + PATIENCE_MS; /* a signal may end that */
    } else if (hands_over(r) && !is_pending(r) && !r->successor.stalls && r->open > 0) {
        /* What is idle is not cut: the successor finds it in the channel when it gets there. */
        r->successor.stalls = true;
        if (r->successor.received < r->successor.sent)
            received_all(r);
        r->deadlines[DRAINED_BY] = now() + PATIENCE_MS;
    } else {
        say_cut(r);
        enter(r, RESTART_DONE);
    }
}

static void meet_deadlines(struct restart *r)
{
    if (is_due(r, READY_BY)) {
        r->successor.late = true;
        kill_successor(r, SIGKILL);
    }
    if (is_due(r, RECEIVED_BY) && r->successor.sent > 0) {
        r->successor.stalls = true;
        received_all(r);
    } else if (r->phase == RESTART_HANDING_OVER && r->successor.sent == 0 &&
               r->deadlines[RECEIVED_BY] == NEVER) {
        r->successor.late = true; /* it cannot even be sent the first message */
        kill_successor(r, SIGKILL);
    }
    if (is_due(r, ENDED_BY))
        channel_closed(r);
    if (is_due(r, CLOSED_BY))
        close_fd(&r->successor.channel);
    if (r->deadlines[GIVE_AT] <= now() && channel_is_full(r))
        r->deadlines[GIVE_AT] = now() + RETRY_MS;
    for (int pause = ROLLBACK_UNTIL; pause <= CLOSE_AT; pause++)
        if (is_due(r, (enum deadline)pause))
            step_soon(r); /* the server may have something to do then */
    if (is_due(r, DRAINED_BY))
        end_draining(r);
}

/* Whether all that is idle and can be handed over has been received. */
static bool is_handed_over(const struct restart *r)
{
    return !hands_over(r) ||
           (r->offered && r->batch_count == 0 && r->successor.received == r->successor.sent);
}

/* Whether the successor, which has received everything, has closed the channel, as it does when no
 * more can come. By then it has written the pid file, which so never names an ended process. */
static bool channel_is_closed(struct restart *r)
{
    if (r->successor.channel < 0)
        return true;
    if (r->deadlines[CLOSED_BY] == NEVER) {
        shutdown(r->successor.channel, SHUT_WR);
        r->deadlines[CLOSED_BY] = now() + PATIENCE_MS;
    }
    return false;
}

/* Enters the next phase once this one has nothing to wait for. */
static void move_on(struct restart *r)
{
    if (r->phase < RESTART_HANDING_OVER || r->phase > RESTART_CUT || is_pending(r) ||
        r->deadlines[ENDED_BY] != NEVER)
        return;
    if (is_handed_over(r) && r->backlog == 0 && !stands_by(r))
        close_listener(r);
    if (r->phase == RESTART_CUT && r->open == 0)
        say_cut(r);
    if (r->open > 0 || r->predecessor >= 0 || !is_handed_over(r))
        return;
    if (stands_by(r) && r->phase != RESTART_STANDING_BY)
        enter(r, RESTART_STANDING_BY);
    else if (!stands_by(r) && r->listener < 0 && channel_is_closed(r))
        enter(r, RESTART_DONE);
}

enum restart_phase restart_step(struct restart *r)
{
    struct epoll_event edges[EVENTS_MAX];
    /* All of them are looked at below: this only takes the edges away. */
    if (r->options.epoll == 0)
        epoll_wait(r->epoll, edges, EVENTS_MAX, 0);
    r->deadlines[STEP_AT] = NEVER;
    if (now() >= r->armed)
        r->armed = -1; /* the timer has expired */
    hear_predecessor(r);
    hear_successor(r);
    read_signals(r);
    meet_deadlines(r);
    send_batch(r);
    move_on(r);
    keep_reserve(r);
    if (r->listener >= 0) {
        /* A successor that failed may have changed it: it belongs to the open file description. */
        fcntl(r->listener, F_SETFL, O_NONBLOCK);
        watch_listener(r, may_accept(r) && r->deadlines[ACCEPT_AT] == NEVER);
    }
    if (hands_over(r) && !r->offered && r->successor.sent > 0 &&
        r->successor.sent == r->successor.received && r->deadlines[GIVE_AT] == NEVER) {
        r->offered = true;
        step_soon(r);
    }
    if (r->taken_count > 0 || (r->batch_count > 0 && r->batch_is_back))
        step_soon(r);
    arm(r);
    return r->phase;
}

/* ---- the server's calls ---- */

/* Where events are told, and the first of them. */
static int set_up_events(struct restart *r)
{
    sigset_t caught;
    int flags = fcntl(r->listener, F_GETFL);
    caught_signals(&caught);
    r->signals = signalfd(-1, &caught, SFD_NONBLOCK | SFD_CLOEXEC);
    r->epoll = r->options.epoll > 0 ? r->options.epoll : epoll_create1(EPOLL_CLOEXEC);
    r->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (r->epoll >= 0 && r->timer >= 0 && r->signals >= 0 && flags >= 0 &&
        fcntl(r->listener, F_SETFL, flags | O_NONBLOCK) == 0 && watch(r, r->timer, EPOLLIN) == 0 &&
        watch(r, r->signals, EPOLLIN) == 0 &&
        (!r->options.argv || copy_arguments(r, r->options.argv) == 0) &&
        (r->predecessor < 0 || watch(r, r->predecessor, EPOLLIN) == 0))
        return 0;
    say(r, LOG_ERR, "cannot set up the events of a restart: %s", strerror(errno));
    return -1;
}

/* Reports ready: to the predecessor, or to the service manager. */
static int report(struct restart *r)
{
    say_listening(r);
    if (r->phase == RESTART_SERVING)
        notify(r, "READY=1");
    else if (send(r->predecessor, "R1", 2, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno != EPIPE &&
             errno != ECONNRESET) {
        /* It would be taken for late, and killed with the clients that it has by then. */
        say(r, LOG_ERR, "cannot report to the predecessor: %s", strerror(errno));
        return -1;
    }
    return 0;
}

int restart_serve(struct restart *r, int listener, const struct restart_options *options)
{
    r->options = *options;
    r->listener = listener;
    if (set_up_events(r) == 0) {
        enter(r, r->predecessor >= 0 ? RESTART_INHERITING : RESTART_SERVING);
        /* What was inherited is served all the same: its predecessor may have ended. */
        const bool announced = r->phase == RESTART_INHERITING || announce(r) == 0;
        if ((announced || r->inherited >= 0) && report(r) == 0)
            return r->epoll;
    }
    r->phase = RESTART_DONE;
    r->status = EXIT_FAILURE;
    return -1;
}

/* Removes and returns the first of COUNT connections. It may be one to give. */
static int first_of(struct restart *r, int *connections, int *count)
{
    const int first = connections[0];
    r->offered = false;
    step_soon(r);
    memmove(connections, connections + 1, (size_t)-- * count * sizeof *connections);
    return first;
}

int restart_accept(struct restart *r)
{
    if (r->deadlines[ROOM_BY] != NEVER)
        hear_predecessor(r);
    if (r->taken_count > 0)
        return first_of(r, r->taken, &r->taken_count);
    if (r->batch_count > 0 && r->batch_is_back)
        return first_of(r, r->batch, &r->batch_count);
    if (r->deadlines[ROOM_BY] != NEVER) {
        errno = EMFILE;
        return -1;
    }
    const bool paused = r->deadlines[ACCEPT_AT] != NEVER && r->deadlines[ACCEPT_AT] > 0;
    if (may_accept(r) && !paused && ++r->turns % TURNS)
        return accept_new(r);
    errno = EAGAIN;
    return -1;
}

bool restart_persists(const struct restart *r)
{
    return r->phase < RESTART_DRAINING || hands_over(r);
}

void restart_close(struct restart *r, int connection)
{
    /* A child that is not executed yet holds it, too: its client would not see it closed. */
    if (r->successor.execution >= 0)
        shutdown(connection, SHUT_RDWR);
    close(connection);
    restart_closed(r);
}

void restart_closed(struct restart *r)
{
    r->open--;
    r->cut += r->phase == RESTART_CUT;
    if (r->deadlines[ACCEPT_AT] != NEVER)
        r->deadlines[ACCEPT_AT] = 0;
    if (r->deadlines[ACCEPT_AT] == 0 || r->deadlines[ROOM_BY] != NEVER ||
        (r->phase >= RESTART_HANDING_OVER && r->open == 0))
        step_soon(r);
}

int restart_give(struct restart *r, int connection)
{
    /* What it gives is sent in the next step: until then it would be served by no process. */
    const bool is_full = r->successor.received < r->successor.sent || r->successor.sent == 0 ||
                         r->deadlines[GIVE_AT] != NEVER || r->batch_count >= r->successor.room ||
                         (r->batch_is_back && r->batch_count > 0);
    if (is_full || !hands_over(r)) {
        errno = hands_over(r) || r->deadlines[ENDED_BY] != NEVER ? EAGAIN : EPIPE;
        return -1;
    }
    r->batch_is_back = false;
    r->batch[r->batch_count++] = connection;
    r->open--;
    r->handed_over++;
    r->offered = false;
    step_soon(r);
    return 0;
}

bool restart_leave(struct restart *r, int connection, bool is_idle)
{
    const bool moment_is_over = r->phase == RESTART_DRAINING && r->deadlines[CLOSE_AT] == NEVER;
    if (is_idle && restart_give(r, connection) == 0)
        return true;
    if (r->phase == RESTART_CUT ? is_idle && hands_over(r) : !(is_idle && moment_is_over))
        return false;
    restart_close(r, connection);
    return true;
}

/* ---- supervision ---- */

/* What the supervisor knows of its servers. The process that starts a server announces its pid, so
 * other orphans are not servers. A server whose parent still lives is not the supervisor's child
 * yet, but its parent, or the parent's, is. */
struct servers {
    pid_t pids[GENERATIONS]; /* 0: none */
    int owner;               /* pidfd */
    int status;
};

static bool is_server(const struct servers *s, pid_t pid)
{
    bool found = false;
    for (int i = 0; i < GENERATIONS; i++)
        found |= s->pids[i] == pid;
    return found;
}

static void reap(struct servers *s)
{
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
        if (is_server(s, pid))
            s->status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Sends SIGNAL to each server that is a child; returns how many there are. */
static int signal_servers(const struct servers *s, int signal)
{
    siginfo_t info;
    int count = 0;
    for (int i = 0; i < GENERATIONS; i++)
        if (s->pids[i] > 0 &&
            waitid(P_PID, (id_t)s->pids[i], &info, WEXITED | WNOHANG | WNOWAIT) == 0) {
            kill(s->pids[i], signal);
            count++;
        }
    return count;
}

static void hear_server(struct servers *s, const siginfo_t *info)
{
    if (info->si_value.sival_int > 0) {
        int place = 0; /* that of a server which has ended, or the last */
        while (place < GENERATIONS - 1 && s->pids[place] > 0 && kill(s->pids[place], 0) == 0)
            place++;
        s->pids[place] = info->si_value.sival_int;
        return;
    }
    close_fd(&s->owner);
    s->owner = (int)syscall(SYS_pidfd_open, info->si_pid, 0);
}

/* The first process: see restart_supervise. */
static int supervise(pid_t first, const sigset_t *caught)
{
    struct servers s = {.pids = {first}};
    const struct timespec at_once = {0};
    sigset_t told;
    siginfo_t info;
    sigemptyset(&told);
    sigaddset(&told, SIGRTMIN);
    s.owner = (int)syscall(SYS_pidfd_open, first, 0);
    do {
        int signal = sigwaitinfo(caught, &info);
        /* Signals come in the order of their numbers. SIGRTMIN is the last, but may be older. */
        for (int next = signal; next > 0; next = sigtimedwait(&told, &info, &at_once))
            if (next == SIGRTMIN && info.si_code == SI_QUEUE && is_server(&s, info.si_pid))
                hear_server(&s, &info);
        reap(&s);
        if (signal <= 0 || signal == SIGCHLD || signal == SIGRTMIN)
            continue;
        if (has_ended(s.owner) || syscall(SYS_pidfd_send_signal, s.owner, signal, NULL, 0) < 0)
            signal_servers(&s, signal); /* the next owner is not known yet */
    } while (signal_servers(&s, 0) > 0);
    return s.status;
}

int restart_supervise(struct restart *r)
{
    const int signals[] = {SIGUSR1, SIGTERM, SIGINT, SIGCHLD, SIGRTMIN};
    sigset_t caught, before;
    errno = 0;
    if (r->supervisor > 0 || r->predecessor >= 0)
        return -1;
    sigemptyset(&caught);
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        sigaddset(&caught, signals[i]);
    sigprocmask(SIG_BLOCK, &caught, &before);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    pid_t pid = fork();
    if (pid > 0) {
        setpgid(pid, pid);
        close_fd(&r->inherited);
        return supervise(pid, &caught);
    }
    int error = pid < 0 ? errno : 0;
    if (pid == 0) {
        r->supervisor = getppid();
        setpgid(0, 0);
    }
    sigprocmask(SIG_SETMASK, &before, NULL);
    errno = error;
    return -1;
}
