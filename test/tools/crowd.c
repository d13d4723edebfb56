/* SPDX-License-Identifier: 0BSD */
/*
 * crowd - some connections that all do the same, on command.
 *
 *     crowd [-b BYTES] COUNT PORT
 *         opens COUNT connections to 127.0.0.1:PORT, with a receive buffer of BYTES
 *     crowd -g TEXT COUNT PROGRAM [ARGUMENTS...]
 *         plays the predecessor of PROGRAM: opens a listener and COUNT connections to it, starts
 *         PROGRAM as a successor, and hands them over, each in a message that says TEXT
 *
 * Says "open COUNT PORT", then carries out the commands on standard input, each of which ends with
 * a line on standard output:
 *
 *     ask              each sends a request
 *     half             the first half of one
 *     rest [DELAY MS]  the second half: the first one DELAY ms from now, the last one MS later
 *     head BYTES       a head so long, but for the empty line at its end
 *     end              that line
 *     urgent           a request, a byte of urgent data, a request
 *     pour NUMBER      NUMBER requests, until all is sent or nothing more is taken; reads nothing
 *     read             reads what is there
 *     leave            closes all, and ends; says nothing
 *     answers NUMBER   reads until each has NUMBER more answers, or is closed. Says one letter for
 *                      each: + answered, c answered with Connection: close (the client has closed,
 *                      too, then), - closed, x reset, ? neither within 5 s
 */
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    GIVEN_MAX = 250,      /* connections to hand over */
    BLOCKED_MS = 300,     /* nothing more is taken, if nothing was for so long */
    ANSWERED_MS = 5000,   /* until an answer */
    READY_MS = 10000,     /* until a successor reports */
    LINE_MAX_LENGTH = 64, /* of a command */
};

static const char request[] = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
enum {
    REQUEST_LENGTH = sizeof request - 1,
    HALF_LENGTH = 20
};

/* Finds a text, whose first letter is nowhere else in it, in a stream. */
struct finder {
    const char *text;
    size_t matched;
};

struct client {
    int fd;
    const char *output; /* what is still to be sent */
    size_t output_length;
    int64_t output_at;
    long answers;
    long wanted;
    struct finder answer;
    struct finder close;
    bool announced; /* Connection: close */
    char end;       /* - closed, x reset; else 0 */
};

static struct client *clients;
static struct pollfd *polled;
static size_t count;

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static long found(struct finder *f, const char *bytes, size_t length)
{
    long times = 0;
    for (size_t i = 0; i < length; i++) {
        if (bytes[i] != f->text[f->matched])
            f->matched = 0;
        if (bytes[i] == f->text[f->matched] && !f->text[++f->matched]) {
            f->matched = 0;
            times++;
        }
    }
    return times;
}

static void end_client(struct client *c, char how)
{
    if (c->end)
        return;
    c->end = how;
    close(c->fd);
    c->output_length = 0;
}

static bool read_some(struct client *c)
{
    static char bytes[65536];
    ssize_t n = recv(c->fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN)
        return false;
    if (n <= 0) {
        end_client(c, n == 0 ? '-' : 'x');
        return false;
    }
    c->announced |= found(&c->close, bytes, (size_t)n) > 0;
    c->answers += found(&c->answer, bytes, (size_t)n);
    if (c->announced && c->answers >= c->wanted)
        end_client(c, '-');
    return true;
}

static bool write_some(struct client *c)
{
    ssize_t n = send(c->fd, c->output, c->output_length, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN)
        end_client(c, 'x');
    if (n <= 0)
        return false;
    c->output += n;
    c->output_length -= (size_t)n;
    return true;
}

static void put(const char *bytes, size_t length, int64_t at)
{
    for (size_t i = 0; i < count; i++) {
        clients[i].output = bytes;
        clients[i].output_length = clients[i].end ? 0 : length;
        clients[i].output_at = at;
    }
}

/* What the client is waited for. */
static short events_of(const struct client *c, bool reads, int64_t now)
{
    int events = c->output_length > 0 && c->output_at <= now ? POLLOUT : 0;
    if (reads && c->answers < c->wanted)
        events |= POLLIN;
    return (short)(c->end ? 0 : events);
}

/* Sends, and reads where READS, until all is done or nothing has happened for MS. */
static void run(bool reads, int64_t ms)
{
    int64_t now = now_ms(), last = now;
    for (bool waits = true; waits && now - last < ms; now = now_ms()) {
        waits = false;
        for (size_t i = 0; i < count; i++) {
            polled[i].events = events_of(&clients[i], reads, now);
            polled[i].fd = polled[i].events ? clients[i].fd : -1;
            waits |= polled[i].events || clients[i].output_length > 0;
        }
        if (!waits || poll(polled, count, 1) <= 0)
            continue;
        for (size_t i = 0; i < count; i++) {
            bool moved = (polled[i].events & POLLOUT) && (polled[i].revents & ~POLLIN) &&
                         write_some(&clients[i]);
            if ((polled[i].events & POLLIN) && (polled[i].revents & ~POLLOUT))
                moved |= read_some(&clients[i]) || clients[i].end;
            if (moved)
                last = now;
        }
    }
}

static void say_answers(void)
{
    for (size_t i = 0; i < count; i++) {
        const struct client *c = &clients[i];
        bool answered = c->answers >= c->wanted;
        putchar(answered ? (c->announced ? 'c' : '+') : (c->end ? c->end : '?'));
    }
    putchar('\n');
}

static void send_urgent(void)
{
    for (size_t i = 0; i < count; i++)
        if (send(clients[i].fd, request, REQUEST_LENGTH, MSG_NOSIGNAL) < 0 ||
            send(clients[i].fd, "!", 1, MSG_OOB | MSG_NOSIGNAL) < 0 ||
            send(clients[i].fd, request, REQUEST_LENGTH, MSG_NOSIGNAL) < 0)
            end_client(&clients[i], 'x');
}

static void pour(long number)
{
    char *requests = malloc((size_t)number * REQUEST_LENGTH);
    if (!requests)
        err(1, "cannot pour");
    for (long i = 0; i < number; i++)
        memcpy(requests + i * REQUEST_LENGTH, request, REQUEST_LENGTH);
    put(requests, (size_t)number * REQUEST_LENGTH, 0); /* not freed: some may be left to send */
}

static void send_head(long length)
{
    char *head = NULL;
    int fields = REQUEST_LENGTH - 2; /* "X: " and a field's end are five bytes more */
    if (length <= fields + 5 ||
        asprintf(&head, "%.*sX: %0*d\r\n", fields, request, (int)length - fields - 5, 0) != length)
        errx(1, "cannot send a head of %ld bytes", length);
    put(head, (size_t)length, 0); /* not freed: some may be left to send */
}

static void send_rest(long delay, long ms)
{
    int64_t now = now_ms();
    put(request + HALF_LENGTH, REQUEST_LENGTH - HALF_LENGTH, 0);
    for (size_t i = 0; i < count; i++)
        clients[i].output_at = now + delay + ms * (int64_t)i / (int64_t)count;
}

static void carry_out(const char *line)
{
    char command[LINE_MAX_LENGTH] = "";
    long first = 0, second = 0;
    if (sscanf(line, "%15s %ld %ld", command, &first, &second) < 1)
        return;
    if (strcmp(command, "ask") == 0)
        put(request, REQUEST_LENGTH, 0);
    else if (strcmp(command, "half") == 0)
        put(request, HALF_LENGTH, 0);
    else if (strcmp(command, "rest") == 0)
        send_rest(first, second);
    else if (strcmp(command, "head") == 0)
        send_head(first);
    else if (strcmp(command, "end") == 0)
        put("\r\n", 2, 0);
    else if (strcmp(command, "urgent") == 0)
        send_urgent();
    else if (strcmp(command, "pour") == 0)
        pour(first);
    for (size_t i = 0; i < count; i++) {
        if (strcmp(command, "answers") == 0)
            clients[i].wanted += first;
        while (strcmp(command, "read") == 0 && read_some(&clients[i]))
            ;
    }
    bool answers = strcmp(command, "answers") == 0;
    run(answers, strcmp(command, "pour") == 0 ? BLOCKED_MS : ANSWERED_MS);
    if (answers)
        say_answers();
    else
        puts(command);
}

static struct sockaddr_in address_of(long port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

static int open_client(struct client *c, long port, int buffer)
{
    struct sockaddr_in address = address_of(port);
    *c = (struct client){.answer = {"Hello, World!", 0}, .close = {"Connection: close", 0}};
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 ||
        (buffer > 0 && setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer) < 0) ||
        connect(c->fd, (struct sockaddr *)&address, sizeof address) < 0)
        err(1, "cannot connect to port %ld", port);
    return c->fd;
}

static int listen_somewhere(long *port)
{
    struct sockaddr_in address = address_of(0);
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, size) < 0 || listen(fd, GIVEN_MAX) < 0 ||
        getsockname(fd, (struct sockaddr *)&address, &size) < 0)
        err(1, "cannot listen");
    *port = ntohs(address.sin_port);
    return fd;
}

static void hand_over(int channel, const char *text, int descriptor)
{
    char said[LINE_MAX_LENGTH];
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } ancillary = {0};
    struct iovec bytes = {said, strnlen(text, sizeof said - 1)};
    struct msghdr message = {.msg_iov = &bytes,
                             .msg_iovlen = 1,
                             .msg_control = ancillary.bytes,
                             .msg_controllen = sizeof ancillary.bytes};
    snprintf(said, sizeof said, "%s", text);
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &descriptor, sizeof(int));
    if (sendmsg(channel, &message, MSG_NOSIGNAL) < 0)
        err(1, "cannot hand over");
}

/* Becomes PROGRAM with ARGUMENTS, which end with room for one more, and LISTENER. */
static void become_successor(char **program, int listener, int channel)
{
    char variable[64], number[16];
    int last = 0;
    snprintf(variable, sizeof variable, "%ld:%d", (long)getppid(), channel);
    snprintf(number, sizeof number, "%d", listener);
    while (program[last])
        last++;
    char **argv = calloc((size_t)last + 2, sizeof *argv);
    if (!argv || setenv("RESTART_CHANNEL", variable, 1) < 0 || fcntl(listener, F_SETFD, 0) < 0 ||
        fcntl(channel, F_SETFD, 0) < 0)
        err(1, "cannot pass the listener");
    memcpy(argv, program, (size_t)last * sizeof *argv);
    argv[last] = number;
    execv(*program, argv);
    err(1, "cannot execute %s", *program);
}

static void succeed(char **program, int listener, const char *text, const int *descriptors)
{
    int ends[2];
    char said[16];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        err(1, "cannot make a channel");
    pid_t pid = fork();
    if (pid == 0)
        become_successor(program, listener, ends[1]);
    close(ends[1]);
    struct pollfd ready = {.fd = ends[0], .events = POLLIN};
    if (pid < 0 || poll(&ready, 1, READY_MS) <= 0 || recv(ends[0], said, sizeof said, 0) <= 0)
        errx(1, "the successor is not ready");
    for (size_t i = 0; i < count; i++)
        hand_over(ends[0], text, descriptors[i]);
    shutdown(ends[0], SHUT_WR);
}

static void open_as_predecessor(const char *text, char **program, long *port)
{
    int descriptors[GIVEN_MAX] = {0};
    int listener = listen_somewhere(port);
    for (size_t i = 0; i < count; i++) {
        open_client(&clients[i], *port, 0);
        descriptors[i] = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (descriptors[i] < 0)
            err(1, "cannot accept");
    }
    succeed(program, listener, text, descriptors);
    close(listener);
    for (size_t i = 0; i < count; i++)
        close(descriptors[i]);
}

int main(int argc, char **argv)
{
    struct rlimit limit;
    const char *text = NULL;
    char line[LINE_MAX_LENGTH];
    int option, buffer = 0;
    while ((option = getopt(argc, argv, "+b:g:")) != -1) {
        if (option == 'b')
            buffer = atoi(optarg);
        else if (option == 'g')
            text = optarg;
        else
            errx(2, "usage: crowd [-b BYTES] COUNT PORT | crowd -g TEXT COUNT PROGRAM...");
    }
    count = argc - optind > 1 ? (size_t)atol(argv[optind]) : 0;
    if (count == 0 || (text && count > GIVEN_MAX))
        errx(2, "cannot open so many connections");
    clients = calloc(count, sizeof *clients);
    polled = calloc(count, sizeof *polled);
    if (!clients || !polled || getrlimit(RLIMIT_NOFILE, &limit) < 0)
        err(1, "cannot start");
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    setvbuf(stdout, NULL, _IOLBF, 0);
    long port = atol(argv[optind + 1]);
    if (text)
        open_as_predecessor(text, &argv[optind + 1], &port);
    for (size_t i = 0; i < count && !text; i++)
        open_client(&clients[i], port, buffer);
    printf("open %zu %ld\n", count, port);
    while (fgets(line, sizeof line, stdin) && strcmp(line, "leave\n") != 0)
        carry_out(line);
    return 0;
}
