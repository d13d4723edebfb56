/* SPDX-License-Identifier: 0BSD */
/*
 * peer - the other generation, to the letter: the channel as its description says, and no more.
 *
 *     peer STEP... -- PROGRAM [ARGUMENT...]   an old process, whose successor is PROGRAM
 *     peer STEP... -- [ARGUMENT...] FD        a successor: RESTART_CHANNEL is in the environment
 *
 * takes the steps one after the other, says so on standard error, and ends with status 0; with 3 as
 * soon as what comes over the channel is not what the description allows. It shares no code with
 * the server, so that the two agree on the description and not on a mistake.
 *
 *     accept=N        accept N connections
 *     start           start PROGRAM (an old process only)
 *     send=TEXT:N     send the message TEXT with N connections (0 or 1), the one held longest
 *     give=N          hand over N connections, one in a message, the ones held longest first
 *     hear=TEXT       wait for the report, R, R1 or R2, which must be TEXT
 *     take[=N]        take messages with a connection until N are held, or up to the end
 *     serve[=N]       accept, and answer requests over all connections: N of them, or for ever
 *     end             nothing more is sent from this side
 *     close           close the channel
 *     eof             wait until the other side closes it
 *     reap=STATUS     wait until PROGRAM ends, with this status (an old process only)
 *     file=NAME       wait until this file is there
 *     crash           end by SIGKILL
 *     hang            do nothing more, for ever
 *
 * A message that begins with neither R nor C is from another version, or says what does not matter
 * here (D, M), and is ignored.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    CONNECTIONS_MAX = 4096,
    DESCRIPTORS_MAX = 2, /* room in a message: one more than there may be */
    TEXT_MAX = 64,
    STEP_MS = 10,
    VIOLATION = 3,
};

static const char request_end[] = "\r\n\r\n";
static const char response[] = "HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\nHello, World!";

struct peer {
    int listener, channel;
    char **program;  /* an old process's */
    pid_t successor; /* likewise */
    size_t held;
    struct {
        int fd;
        size_t matched; /* bytes of request_end */
    } connections[CONNECTIONS_MAX];
};

struct message {
    char text[TEXT_MAX + 1];
    ssize_t length; /* 0: the end */
    int connection; /* -1: none came with it */
};

__attribute__((format(printf, 1, 2))) static void say(const char *format, ...)
{
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    dprintf(STDERR_FILENO, "peer[%ld]: %s\n", (long)getpid(), line);
}

__attribute__((noreturn)) static void violated(const char *what, const char *text)
{
    say("violation: %s: '%s'", what, text);
    exit(VIOLATION);
}

static long number_in(const char *text)
{
    char *end;
    long number = strtol(text, &end, 10);
    if (end == text || *end || number < 0)
        errx(2, "not a number: '%s'", text);
    return number;
}

/* As many as VALUE says; without one, all there are. */
static size_t amount(const char *value)
{
    return *value ? (size_t)number_in(value) : SIZE_MAX;
}

static void hold(struct peer *p, int fd)
{
    if (p->held == CONNECTIONS_MAX)
        errx(2, "too many connections");
    p->connections[p->held].fd = fd;
    p->connections[p->held++].matched = 0;
}

static void let_go(struct peer *p, size_t first, size_t count)
{
    for (size_t i = first; i < first + count; i++)
        close(p->connections[i].fd);
    p->held -= count;
    memmove(p->connections + first, p->connections + first + count,
            (p->held - first) * sizeof *p->connections);
}

/* ---- messages ---- */

/* TEXT:N. The other side has room for it sooner or later: to wait for that is simplest here. */
static void send_message(struct peer *p, const char *step)
{
    const char *colon = strrchr(step, ':');
    const size_t count = colon ? (size_t)number_in(colon + 1) : 0;
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {.bytes = ""};
    char text[TEXT_MAX];
    if (!colon || colon - step > TEXT_MAX || count > 1 || count > p->held)
        errx(2, "cannot send '%s' with %zu connections", step, p->held);
    memcpy(text, step, (size_t)(colon - step));
    struct iovec bytes = {text, (size_t)(colon - step)};
    struct msghdr message = {.msg_iov = &bytes, .msg_iovlen = 1};
    if (count > 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof control.bytes;
        struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(rights), &p->connections[0].fd, sizeof(int));
    }
    if (sendmsg(p->channel, &message, MSG_NOSIGNAL) < 0)
        err(1, "cannot send '%s'", step);
    let_go(p, 0, count);
}

static void give(struct peer *p, const char *value)
{
    for (long i = number_in(value); i > 0; i--)
        send_message(p, "C1:1");
}

static void receive_message(const struct peer *p, struct message *m)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * DESCRIPTORS_MAX)];
    } control;
    struct iovec bytes = {m->text, TEXT_MAX};
    struct msghdr message = {.msg_iov = &bytes,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    m->length = recvmsg(p->channel, &message, MSG_CMSG_CLOEXEC);
    m->text[m->length > 0 ? m->length : 0] = '\0';
    m->connection = -1;
    /* A process that ends with messages unread resets the channel: the end all the same. */
    if (m->length < 0 && errno != ECONNRESET)
        err(1, "cannot receive");
    if (m->length <= 0)
        return;
    const struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
    if (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC) ||
        (rights && rights->cmsg_len != CMSG_LEN(sizeof(int))))
        violated("message is too long", m->text);
    if (rights)
        memcpy(&m->connection, CMSG_DATA(rights), sizeof(int));
}

static void ignore(const struct message *m)
{
    say("ignored: '%s' with %d connections", m->text, m->connection >= 0);
    if (m->connection >= 0)
        close(m->connection);
}

static void hear(struct peer *p, const char *report)
{
    struct message m;
    for (receive_message(p, &m); m.length > 0 && m.text[0] != 'R'; receive_message(p, &m))
        ignore(&m);
    if (m.length <= 0 || strcmp(m.text, report) != 0 || m.connection >= 0)
        violated("not the report expected", m.text);
}

static void take(struct peer *p, const char *value)
{
    const size_t wanted = amount(value);
    struct message m;
    size_t messages = 0;
    for (; p->held < wanted; messages++) {
        receive_message(p, &m);
        if (m.length <= 0)
            break;
        if (m.text[0] != 'C') {
            ignore(&m);
            continue;
        }
        if (m.connection < 0)
            violated("no connection came with the message", m.text);
        hold(p, m.connection);
    }
    say("took %zu messages, holds %zu connections", messages, p->held);
}

static void wait_for_end(struct peer *p, const char *value)
{
    (void)value;
    struct message m;
    for (receive_message(p, &m); m.length > 0; receive_message(p, &m)) {
        if (m.text[0] == 'R' || m.text[0] == 'C')
            violated("nothing of this was to come any more", m.text);
        ignore(&m);
    }
}

/* ---- clients ---- */

static void accept_one(struct peer *p)
{
    int fd = accept4(p->listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd >= 0)
        hold(p, fd);
    else if (errno != EAGAIN)
        err(1, "cannot accept");
}

static void accept_some(struct peer *p, const char *value)
{
    for (const size_t wanted = p->held + amount(value); p->held < wanted; accept_one(p))
        poll(&(struct pollfd){p->listener, POLLIN, 0}, 1, -1);
}

/* Returns how many requests were answered; -1: the connection has ended. */
static int answer(struct peer *p, size_t i)
{
    char bytes[4096];
    int answers = 0;
    ssize_t n = recv(p->connections[i].fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN))
        return -1;
    for (ssize_t k = 0; k < n; k++) {
        size_t *matched = &p->connections[i].matched;
        *matched = bytes[k] == request_end[*matched] ? *matched + 1 : bytes[k] == '\r';
        if (*matched < strlen(request_end))
            continue;
        *matched = 0;
        answers++;
        if (send(p->connections[i].fd, response, strlen(response), MSG_NOSIGNAL) < 0)
            return -1;
    }
    return answers;
}

static void serve(struct peer *p, const char *value)
{
    const size_t wanted = amount(value);
    static struct pollfd polled[CONNECTIONS_MAX + 1];
    size_t answers = 0;
    while (answers < wanted) {
        const size_t count = p->held;
        for (size_t i = 0; i < count; i++)
            polled[i] = (struct pollfd){p->connections[i].fd, POLLIN, 0};
        polled[count] = (struct pollfd){p->listener, POLLIN, 0};
        if (poll(polled, count + 1, -1) < 0)
            err(1, "cannot wait");
        if (polled[count].revents)
            accept_one(p);
        for (size_t i = count; i-- > 0;) {
            int n = polled[i].revents ? answer(p, i) : 0;
            if (n < 0)
                let_go(p, i, 1);
            else
                answers += (size_t)n;
        }
    }
}

/* ---- two processes ---- */

static void open_listener(struct peer *p)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    p->listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (p->listener < 0 || bind(p->listener, (struct sockaddr *)&address, sizeof address) < 0 ||
        listen(p->listener, SOMAXCONN) < 0)
        err(1, "cannot listen");
}

static void say_listening(const struct peer *p)
{
    struct sockaddr_in address = {0};
    socklen_t size = sizeof address;
    if (getsockname(p->listener, (struct sockaddr *)&address, &size) < 0)
        err(1, "no listener");
    say("listening on 127.0.0.1:%u", ntohs(address.sin_port));
}

/* PPID:FD, of which the first must be the parent, and the second a socket of the right kind. */
static void find_channel(struct peer *p, const char *announced)
{
    int type = 0;
    socklen_t size = sizeof type;
    const char *colon = strchr(announced, ':');
    if (!colon || strtol(announced, NULL, 10) != getppid())
        violated("RESTART_CHANNEL does not name the parent", announced);
    p->channel = (int)number_in(colon + 1);
    if (getsockopt(p->channel, SOL_SOCKET, SO_TYPE, &type, &size) < 0 || type != SOCK_SEQPACKET)
        violated("RESTART_CHANNEL names no channel", announced);
    unsetenv("RESTART_CHANNEL");
}

/* What the child inherits are the standard streams, the listener and its end of the channel. */
static void start(struct peer *p, const char *value)
{
    (void)value;
    int ends[2];
    char variable[64], listener[16];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        err(1, "cannot make a channel");
    snprintf(variable, sizeof variable, "%ld:%d", (long)getpid(), ends[1]);
    snprintf(listener, sizeof listener, "%d", p->listener);
    size_t count = 0;
    while (p->program[count])
        count++;
    char **argv = calloc(count + 2, sizeof *argv);
    p->successor = argv ? fork() : -1;
    if (p->successor < 0)
        err(1, "cannot start a successor");
    if (p->successor == 0) {
        memcpy(argv, p->program, count * sizeof *argv);
        argv[count] = listener;
        fcntl(ends[1], F_SETFD, 0);
        fcntl(p->listener, F_SETFD, 0);
        setenv("RESTART_CHANNEL", variable, 1);
        execv(argv[0], argv);
        err(1, "cannot execute %s", argv[0]);
    }
    free(argv);
    close(ends[1]);
    p->channel = ends[0];
    say("started %ld", (long)p->successor);
}

static void reap(struct peer *p, const char *value)
{
    int status;
    if (waitpid(p->successor, &status, 0) != p->successor)
        err(1, "cannot wait for the successor");
    if (!WIFEXITED(status) || WEXITSTATUS(status) != number_in(value))
        errx(1, "the successor ended otherwise: %#x", (unsigned)status);
}

/* ---- steps ---- */

static void end_sending(struct peer *p, const char *value)
{
    (void)value;
    shutdown(p->channel, SHUT_WR);
}

static void close_channel(struct peer *p, const char *value)
{
    (void)value;
    close(p->channel);
}

static void wait_for_file(struct peer *p, const char *name)
{
    (void)p;
    while (access(name, F_OK) < 0)
        poll(NULL, 0, STEP_MS);
}

static void crash(struct peer *p, const char *value)
{
    (void)p, (void)value;
    kill(getpid(), SIGKILL);
}

static void hang(struct peer *p, const char *value)
{
    (void)p, (void)value;
    poll(NULL, 0, -1);
}

static const struct {
    const char *name;
    void (*take)(struct peer *p, const char *value);
} steps[] = {
    {"accept", accept_some}, {"start", start},     {"send", send_message},
    {"give", give},          {"hear", hear},       {"take", take},
    {"serve", serve},        {"end", end_sending}, {"close", close_channel},
    {"eof", wait_for_end},   {"reap", reap},       {"file", wait_for_file},
    {"crash", crash},        {"hang", hang},
};

/* NAME or NAME=VALUE. */
static void take_step(struct peer *p, const char *step)
{
    const char *value = strchrnul(step, '=');
    const size_t length = (size_t)(value - step);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        if (strlen(steps[i].name) != length || strncmp(steps[i].name, step, length) != 0)
            continue;
        steps[i].take(p, *value ? value + 1 : value);
        say("done: %s", step);
        return;
    }
    errx(2, "no such step: '%s'", step);
}

int main(int argc, char *argv[])
{
    static struct peer p = {.listener = -1, .channel = -1};
    const char *announced = getenv("RESTART_CHANNEL");
    int end = 1;
    while (end < argc && strcmp(argv[end], "--") != 0)
        end++;
    if (end + 1 >= argc)
        errx(2,
             "usage: peer STEP... -- PROGRAM [ARGUMENT...], or peer STEP... -- [ARGUMENT...] FD");
    p.program = argv + end + 1;
    if (!announced) {
        open_listener(&p);
    } else {
        find_channel(&p, announced);
        p.listener = (int)number_in(argv[argc - 1]);
    }
    say_listening(&p);
    for (int i = 1; i < end; i++)
        take_step(&p, argv[i]);
    return 0;
}
