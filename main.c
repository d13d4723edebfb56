/* SPDX-License-Identifier: 0BSD */
/*
 * main.c - a web server on epoll that can be replaced while it runs.
 *
 * It has four parts: start-up and options; clock and queues of the loop; a connection's life; main
 * with the loop, and what each phase of a restart means for the connections.
 */
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <malloc.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "http.h"
#include "restart.h"

#ifndef VERSION
#define VERSION "unknown"
#endif

enum {
    EXIT_USAGE = 2,
    SECONDS_MAX = INT_MAX / 1000, /* of a timeout: epoll_wait(2) takes an int of milliseconds */
    LINE_SIZE = 1024,             /* of an error message; the rest is cut off */
    EVENTS_MAX = 128,             /* fetched from epoll at once */
    READS_MAX = 16,               /* from one connection before the others get their turn */
    OUTPUT_MAX = 16 * 1024,       /* bytes of responses that are gathered for one send */
    KERNEL_BUFFER = 64 * 1024,    /* in each direction, for a client that does not read */
    DESCRIPTORS_MAX = 1 << 20,    /* bounds the table of connections */
    LINGER_BYTES = 2 << 20,       /* discarded after the last response, so that uploads can end */
    LINGER_MS = 2000,             /* for the client to close after the last response */
    LAST_REQUEST_MS = 1000,       /* for a request that is on its way when draining begins */
    FREES_MIN = 16,               /* freed buffers of saved bytes, until memory is given back */
    BUSY_MS = 100,                /* for the next request of a client that is not really idle */
};

/*
 *                  part of a request            the client takes no more
 *   accepted --> IDLE ------------> READING --------------------> SENDING
 *                  ^                   |                             |
 *                  +-------------------+-----------------------------+
 *                       all requests are answered, all responses sent
 *
 * After the last response or the idle timeout follows LINGERING, if the client may still be
 * sending. FREE follows when the connection is closed or, from IDLE, handed over.
 */
enum state {
    IDLE,      /* this process has no byte of a request or response: it can hand over */
    READING,   /* part of a request head has arrived */
    SENDING,   /* part of the responses is not sent yet, and nothing is read */
    LINGERING, /* the last response is sent, and input is discarded until the client closes */
    STATES,    /* the number of states that have a queue */
    FREE = STATES,
};

/* What a turn of a connection leaves for the next one: unanswered input and unsent output. It is as
 * large as its contents, so that a slow client costs no more than it sent. */
struct saved {
    size_t input;
    size_t output;
    char bytes[];
};

/* An idle connection costs this and nothing else. */
struct connection {
    struct connection *next, *previous; /* in the queue of its state */
    int64_t since;                      /* when it entered that queue */
    struct saved *saved;
    int fd;
    uint32_t discarded; /* bytes, while LINGERING */
    enum state state;
    uint8_t interest; /* the events that epoll watches for; 0: not added to it yet */
    bool closing;     /* no further request is answered */
    bool lingers;     /* the client may still be sending when this process closes */
};

enum long_option {
    READY_TIMEOUT,
    DRAIN_TIMEOUT,
    ROLLBACK_TIMEOUT,
    IDLE_TIMEOUT, /* from here on at least a second */
    REQUEST_TIMEOUT,
    TIMEOUTS, /* the number of timeouts */
    REUSE_PORT,
    SUPERVISE,
};

struct options {
    int timeouts[TIMEOUTS]; /* seconds */
    const char *listen[RESTART_LISTENERS];
    struct addrinfo *addresses[RESTART_LISTENERS]; /* the same, parsed */
    int listen_count;
    const char *pid_file;
    const char *fd; /* the numbers of inherited listeners; NULL: none */
    bool reuse_port, supervise;
};

struct server {
    struct restart restart;
    int epoll;
    int64_t now; /* milliseconds of CLOCK_MONOTONIC */
    time_t date; /* of the responses */
    struct http_responses responses;

    struct connection queues[STATES]; /* rings, in the order of entry and thus of deadlines */
    int64_t timeouts[STATES];         /* milliseconds */
    int64_t idle_timeout;             /* of IDLE, unless this process is draining */

    int saves; /* connections with saved bytes */
    int frees; /* buffers freed since memory was given back */

    /* Of the connection that has its turn. */
    size_t input_length;
    size_t output_length;
    bool unread; /* epoll does not report again what the kernel still holds */
    char input[HTTP_INPUT_MAX];
    char output[OUTPUT_MAX];

    struct connection connections[DESCRIPTORS_MAX]; /* by descriptor; unused pages are free */
};

/* ---- start-up and options ---- */

__attribute__((format(printf, 2, 3), noreturn)) static void die(int status, const char *format, ...)
{
    char line[LINE_SIZE];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    restart_log(LOG_ERR, line);
    exit(status);
}

static const char usage[] =
    "Usage: %s [OPTIONS] [FD]\n"
    "\n"
    "A web server that can be replaced while it runs. On SIGUSR1 it starts the program whose\n"
    "name is its own with a 1 appended, or with that 1 removed, and hands over to it. SIGTERM\n"
    "and SIGINT end it after the requests in flight, and at once when they come again.\n"
    "\n"
    "  -l, --listen ADDRESS:PORT   where to listen, up to 16 times: numeric IPv4, or IPv6 as\n"
    "                              [::1]:8080 (default 127.0.0.1:8080); localhost:8080 is\n"
    "                              127.0.0.1, :8080 all IPv4 addresses, port 0 any free port\n"
    "  -p, --pid-file FILE         holds the pid of the process that owns the listeners\n"
    "      --ready-timeout SEC     how long to wait for a successor to become ready (default\n"
    "                              10); 0: do not wait, hand over once it is executed\n"
    "      --drain-timeout SEC     how long requests in flight may take after a hand-over or a\n"
    "                              signal to end (default 30)\n"
    "      --rollback-timeout SEC  how long after a hand-over this process takes over again if\n"
    "                              the successor crashes, with any ready timeout (default 0)\n"
    "      --idle-timeout SEC      how long a connection may be without a request (default 60)\n"
    "      --request-timeout SEC   how long a request head may take from its first byte until\n"
    "                              it is complete, and a response until it is taken (default 10)\n"
    "      --reuse-port            let other processes with this option listen on the address\n"
    "      --supervise             keep the pid of the first process, which runs the server\n"
    "                              below it; the default for process 1\n"
    "  -h, --help                  print this text\n"
    "  -V, --version               print name and version\n"
    "  FD                          number of an inherited listening socket, or several as 3,4\n"
    "\n"
    "FD takes precedence over the sockets of a service manager (LISTEN_FDS), and those over\n"
    "--listen. The service manager is notified (NOTIFY_SOCKET).\n"
    "\n"
    "Exit status: 0 after a graceful end, 1 on failure or an end at once, 2 for bad arguments.\n";

/* Prints FORMAT with VALUE, and exits. */
__attribute__((noreturn)) static void print(const char *format, const char *value)
{
    if (printf(format, value) < 0 || fflush(stdout) != 0)
        die(EXIT_FAILURE, "cannot write to standard output: %s", strerror(errno));
    exit(EXIT_SUCCESS);
}

/* Returns the number in TEXT, or -1 if that is not a decimal number from MINIMUM to MAXIMUM. */
static int parse_number(const char *text, int minimum, int maximum)
{
    char *end;
    const long number = strtol(text, &end, 10);
    const bool is_decimal = isdigit((unsigned char)*text) && *end == '\0';
    return is_decimal && number >= minimum && number <= maximum ? (int)number : -1;
}

/* Returns the seconds in optarg, the argument of option NAME. */
static int parse_seconds(const char *name, int minimum)
{
    const int seconds = parse_number(optarg, minimum, SECONDS_MAX);
    if (seconds < 0)
        die(EXIT_USAGE, "cannot use '%s' as --%s: not whole seconds from %d to %d", optarg, name,
            minimum, SECONDS_MAX);
    return seconds;
}

/* Adds TEXT, ADDRESS:PORT or [ADDRESS]:PORT, to the addresses to listen on. */
static void add_address(struct options *o, const char *text)
{
    const struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV,
                                   .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    struct in_addr dotted;
    char host[NI_MAXHOST];
    const char *why = NULL, *colon = strrchr(text, ':');
    const bool bracketed = text[0] == '[';
    const int length = colon ? (int)(colon - text) - 2 * bracketed : 0;
    snprintf(host, sizeof host, "%.*s", length, text + bracketed);
    if (strcmp(host, "localhost") == 0)
        strcpy(host, "127.0.0.1");
    else if (colon == text)
        strcpy(host, "0.0.0.0");
    if (o->listen_count == RESTART_LISTENERS)
        why = "there are too many addresses";
    else if (!colon || (bracketed && colon[-1] != ']'))
        why = "not ADDRESS:PORT or [ADDRESS]:PORT";
    else if (parse_number(colon + 1, 0, UINT16_MAX) < 0)
        why = "the port is not a number from 0 to 65535";
    else if (getaddrinfo(host, colon + 1, &hints, &found) != 0)
        why = strchr(host, '%') ? "not a link-local address with an interface of this machine"
                                : "not a numeric address";
    else if ((found->ai_family == AF_INET6) != bracketed)
        why = "IPv6 addresses, and only those, need brackets, as in [::1]:8080";
    else if (!bracketed && inet_pton(AF_INET, host, &dotted) != 1)
        why = "not a complete IPv4 address"; /* getaddrinfo(3) accepts 127.1 as well */
    else if (strncasecmp(host, "fe80:", 5) == 0 && !strchr(host, '%'))
        why = "a link-local address needs its interface, as in [fe80::1%eth0]:8080";
    if (why)
        die(EXIT_USAGE, "cannot listen on '%s': %s", text, why);
    o->listen[o->listen_count] = text;
    o->addresses[o->listen_count++] = found;
}

static const struct option option_table[] = {
    {"listen", required_argument, NULL, 'l'},
    {"pid-file", required_argument, NULL, 'p'},
    {"ready-timeout", required_argument, NULL, READY_TIMEOUT},
    {"drain-timeout", required_argument, NULL, DRAIN_TIMEOUT},
    {"rollback-timeout", required_argument, NULL, ROLLBACK_TIMEOUT},
    {"idle-timeout", required_argument, NULL, IDLE_TIMEOUT},
    {"request-timeout", required_argument, NULL, REQUEST_TIMEOUT},
    {"reuse-port", no_argument, NULL, REUSE_PORT},
    {"supervise", no_argument, NULL, SUPERVISE},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},
    {0},
};

/* Removes FD from ARGV: a successor gets its own. */
static void parse_options(struct options *o, int argc, char **argv)
{
    int option, index = 0;
    const char *argument = argv[optind];
    /* The + ends the options at the first other argument: FD. */
    while ((option = getopt_long(argc, argv, "+:l:p:hV", option_table, &index)) != -1) {
        switch (option) {
        case 'l':
            add_address(o, optarg);
            break;
        case 'p':
            o->pid_file = optarg;
            break;
        case REUSE_PORT:
            o->reuse_port = true;
            break;
        case SUPERVISE:
            o->supervise = true;
            break;
        case 'h':
            print(usage, program_invocation_short_name);
        case 'V':
            print("rust_graceful_restart %s\n", VERSION);
        case ':':
            die(EXIT_USAGE, "option '%s' requires an argument (see --help)", argument);
        case '?':
            die(EXIT_USAGE, "unknown or ambiguous option '%s' (see --help)", argument);
        default:
            o->timeouts[option] = parse_seconds(option_table[index].name, option >= IDLE_TIMEOUT);
        }
        argument = argv[optind];
    }
    o->fd = argv[optind];
    const char *unexpected = o->fd && isdigit((unsigned char)*o->fd) ? argv[optind + 1] : o->fd;
    if (unexpected)
        die(EXIT_USAGE, "unexpected argument '%s' (see --help)", unexpected);
    argv[optind] = NULL;
}

static void open_listener(struct restart *r, const struct options *o, int i)
{
    const int on = 1;
    const struct addrinfo *a = o->addresses[i];
    const int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
        (o->reuse_port && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) < 0) ||
        bind(fd, a->ai_addr, a->ai_addrlen) < 0 || listen(fd, SOMAXCONN) < 0 ||
        restart_listener(r, fd) < 0)
        die(EXIT_FAILURE, "cannot listen on %s: %s", o->listen[i], strerror(errno));
}

/* Connections inherit these options, socket(7), tcp(7). One send is all there is to send. */
static void set_connection_options(int listener)
{
    const int on = 1, size = KERNEL_BUFFER;
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(listener, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
}

/* Decides where to listen: at FD, otherwise at inherited sockets, otherwise at the addresses. */
static void find_listeners(struct restart *r, struct options *o)
{
    if (o->fd) {
        const int count = restart_listeners(r, o->fd);
        if (count < 0)
            exit(EXIT_USAGE);
        if (o->listen_count > 0 && o->listen_count != count)
            die(EXIT_USAGE, "cannot listen on %d inherited sockets: --listen names %d addresses",
                count, o->listen_count);
    }
    if (r->listener_count == 0) {
        if (o->listen_count == 0)
            add_address(o, "127.0.0.1:8080");
        for (int i = 0; i < o->listen_count; i++)
            open_listener(r, o, i);
    }
    for (int i = 0; i < r->listener_count; i++)
        set_connection_options(r->listeners[i]);
}

static void raise_descriptor_limit(void)
{
    struct rlimit limit = {.rlim_max = DESCRIPTORS_MAX};
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max < DESCRIPTORS_MAX ? limit.rlim_max : DESCRIPTORS_MAX;
    setrlimit(RLIMIT_NOFILE, &limit);
}

/* ---- clock and queues of the loop ---- */

static void update_clock(struct server *s)
{
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    s->now = now.tv_sec * 1000 + now.tv_nsec / 1000000;
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    if (now.tv_sec == s->date)
        return;
    s->date = now.tv_sec;
    gmtime_r(&now.tv_sec, &utc);
    http_format(&s->responses, &utc);
}

/* Returns the connection that has been in STATE longest, or NULL. */
static struct connection *oldest(struct server *s, enum state state)
{
    struct connection *c = s->queues[state].next;
    return c == &s->queues[state] ? NULL : c;
}

static void leave_queue(struct connection *c)
{
    c->previous->next = c->next;
    c->next->previous = c->previous;
}

/* Puts C into STATE, and starts its time there. */
static void enter(struct server *s, struct connection *c, enum state state)
{
    struct connection *queue = &s->queues[state];
    leave_queue(c);
    c->state = state;
    c->since = s->now;
    c->next = queue;
    c->previous = queue->previous;
    c->next->previous = c->previous->next = c;
}

/* Returns the milliseconds until the next deadline of a connection. */
static int next_timeout(struct server *s)
{
    int64_t due = s->now + INT_MAX; /* without a connection the loop may wait for any time */
    for (enum state state = 0; state < STATES; state++) {
        const struct connection *c = oldest(s, state);
        if (c && c->since + s->timeouts[state] < due)
            due = c->since + s->timeouts[state];
    }
    return due > s->now ? (int)(due - s->now) : 0;
}

/* ---- a connection's life ---- */

/* glibc gives back freed memory that lies below memory in use only on demand, malloc_trim(3). That
 * takes time, so it happens once as many buffers have been freed as are in use. */
static void free_saved(struct server *s, struct connection *c)
{
    if (!c->saved)
        return;
    free(c->saved);
    c->saved = NULL;
    s->saves--;
    if (++s->frees < FREES_MIN || s->frees < s->saves)
        return;
    s->frees = 0;
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}

/* The only place where a connection ends. */
static void end_connection(struct server *s, struct connection *c)
{
    leave_queue(c);
    free_saved(s, c);
    c->state = FREE;
    restart_close(&s->restart, c->fd);
}

/* Takes up what the last turn of C has left. */
static void begin_turn(struct server *s, struct connection *c)
{
    s->input_length = s->output_length = 0;
    s->unread = false;
    if (!c->saved)
        return;
    s->input_length = c->saved->input;
    s->output_length = c->saved->output;
    memcpy(s->input, c->saved->bytes, s->input_length);
    memcpy(s->output, c->saved->bytes + s->input_length, s->output_length);
    free_saved(s, c);
}

static bool save(struct server *s, struct connection *c)
{
    if (s->input_length + s->output_length == 0)
        return true;
    c->saved = malloc(sizeof *c->saved + s->input_length + s->output_length);
    if (!c->saved)
        return false;
    s->saves++;
    c->saved->input = s->input_length;
    c->saved->output = s->output_length;
    memcpy(c->saved->bytes, s->input, s->input_length);
    memcpy(c->saved->bytes + s->input_length, s->output, s->output_length);
    return true;
}

/* Leaves C until its next event. The only place where interest in events is set. They are
 * edge-triggered, which saves calls for each request; EPOLL_CTL_MOD makes epoll report again. */
static void end_turn(struct server *s, struct connection *c)
{
    const uint8_t wanted = c->state == SENDING ? EPOLLOUT : EPOLLIN | EPOLLPRI;
    struct epoll_event event = {.events = EPOLLET | EPOLLRDHUP | wanted, .data.ptr = c};
    const int operation = c->interest ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    const bool is_new = c->interest != wanted || s->unread;
    if (c->state == FREE)
        return;
    c->interest = wanted;
    if (!save(s, c) || (is_new && epoll_ctl(s->epoll, operation, c->fd, &event) < 0))
        end_connection(s, c);
}

/* While the client may still be sending, close(2) could reset the connection and the client lose
 * the last response (RFC 9112 section 9.6), so only the sending side is closed. */
static void close_gracefully(struct server *s, struct connection *c)
{
    const bool lingers = c->lingers || s->input_length > 0;
    s->input_length = 0;
    if (!lingers || shutdown(c->fd, SHUT_WR) < 0)
        end_connection(s, c);
    else
        enter(s, c, LINGERING);
}

static void discard_input(struct server *s, struct connection *c)
{
    ssize_t n;
    while ((n = recv(c->fd, s->input, sizeof s->input, 0)) > 0 && c->discarded < LINGER_BYTES)
        c->discarded += (uint32_t)n;
    if (n >= 0 || errno != EAGAIN)
        end_connection(s, c);
}

/* Sends the output. */
static void flush(struct server *s, struct connection *c)
{
    const ssize_t n = send(c->fd, s->output, s->output_length, MSG_NOSIGNAL);
    const size_t sent = n > 0 ? (size_t)n : 0;
    s->output_length -= sent;
    memmove(s->output, s->output + sent, s->output_length);
    if (n < 0 && errno != EAGAIN) {
        end_connection(s, c);
    } else if (s->output_length > 0) {
        if (c->state != SENDING)
            enter(s, c, SENDING);
    } else if (c->closing) {
        close_gracefully(s, c);
    } else {
        enter(s, c, IDLE);
    }
}

static void respond(struct server *s, struct connection *c, struct http_request *request)
{
    if (request->persistence != HTTP_CLOSE && !restart_persists(&s->restart)) {
        request->persistence = HTTP_CLOSE;
        request->client_may_send_more = true;
    }
    s->output_length += http_respond(&s->responses, request, s->output + s->output_length);
    if (request->persistence == HTTP_CLOSE) {
        c->closing = true;
        c->lingers = request->client_may_send_more;
    }
}

/* Moves requests out of the input and their responses into the output, while that has room. */
static void respond_to_input(struct server *s, struct connection *c)
{
    struct http_request request;
    size_t used = 0;
    while (!c->closing && used < s->input_length &&
           s->output_length + HTTP_RESPONSE_MAX <= sizeof s->output) {
        const int n = http_parse(s->input + used, s->input_length - used, &request);
        if (n == 0)
            break;
        respond(s, c, &request);
        used += n > 0 ? (size_t)n : 0;
    }
    s->input_length -= used;
    memmove(s->input, s->input + used, s->input_length);
}

static bool takes_requests(const struct connection *c)
{
    return c->state == IDLE || c->state == READING;
}

static void answer(struct server *s, struct connection *c)
{
    while (takes_requests(c)) {
        respond_to_input(s, c);
        if (s->output_length == 0)
            break;
        flush(s, c);
    }
    /* The time for a head starts at its first byte, however many bytes follow. */
    if (c->state == IDLE && s->input_length > 0)
        enter(s, c, READING);
}

/* Answers a request head that will not become complete with STATUS, and closes. */
static void reject(struct server *s, struct connection *c, enum http_status status)
{
    struct http_request request;
    http_parse(s->input, s->input_length, &request);
    http_reject(&request, status);
    respond(s, c, &request);
    flush(s, c);
}

/* Reads and answers requests. A read that is shorter than its buffer shows that nothing is left,
 * epoll(7), unless EVENTS report the end of the input or an urgent byte, tcp(7), as well. */
static void receive(struct server *s, struct connection *c, uint32_t events)
{
    s->unread = true;
    for (int i = 0; i < READS_MAX && s->unread && takes_requests(c); i++) {
        const size_t room = sizeof s->input - s->input_length;
        const ssize_t n = recv(c->fd, s->input + s->input_length, room, 0);
        if (n > 0) {
            s->input_length += (size_t)n;
            s->unread = (size_t)n == room || events & ~(uint32_t)EPOLLIN;
            answer(s, c);
        } else if (n < 0 && errno == EAGAIN) {
            s->unread = false;
        } else if (n == 0 && s->input_length > 0) {
            reject(s, c, HTTP_BAD_REQUEST);
        } else {
            end_connection(s, c);
        }
    }
}

/* Does for C what can be done now. EVENTS are those that epoll has reported, or 0. */
static void take_turn(struct server *s, struct connection *c, uint32_t events)
{
    begin_turn(s, c);
    switch (c->state) {
    case IDLE:
    case READING:
        receive(s, c, events);
        break;
    case SENDING:
        flush(s, c);
        answer(s, c);
        break;
    case LINGERING:
        discard_input(s, c);
        break;
    case FREE: /* closed since epoll has reported the events */
        break;
    }
    end_turn(s, c);
}

/* Before C is closed, what has arrived by now is served: this process may be late, and not the
 * client. Returns true if there was nothing to serve. */
static bool is_silent(struct server *s, struct connection *c)
{
    const int64_t since = c->since;
    take_turn(s, c, 0);
    return c->state != FREE && c->since == since;
}

static void time_out(struct server *s, struct connection *c)
{
    begin_turn(s, c);
    if (c->state == IDLE)
        close_gracefully(s, c);
    else if (c->state == READING)
        reject(s, c, HTTP_REQUEST_TIMEOUT);
    else
        end_connection(s, c); /* SENDING or LINGERING */
    end_turn(s, c);
}

static void expire_connections(struct server *s)
{
    struct connection *c;
    for (enum state state = 0; state < STATES; state++)
        while ((c = oldest(s, state)) && s->now - c->since >= s->timeouts[state])
            if (is_silent(s, c))
                time_out(s, c);
}

/* Closes the connection that has been idle longest, so that its descriptor can be used. The next
 * request of a client that was busy a moment ago may be on its way, and would be reset. */
static bool evict(struct server *s)
{
    struct connection *c;
    while ((c = oldest(s, IDLE)) && s->now - c->since >= BUSY_MS) {
        if (is_silent(s, c))
            end_connection(s, c);
        if (c->state == FREE)
            return true;
    }
    return false;
}

/* The only place where a connection begins. Its first request has often arrived already. */
static void begin_connection(struct server *s, int fd)
{
    struct connection *c = &s->connections[fd];
    *c = (struct connection){.next = c, .previous = c, .fd = fd, .lingers = true};
    enter(s, c, IDLE);
    take_turn(s, c, 0);
}

static bool accept_one(struct server *s)
{
    int fd;
    do
        fd = restart_accept(&s->restart);
    while (fd < 0 && errno == EMFILE && evict(s));
    if (fd >= DESCRIPTORS_MAX)
        restart_close(&s->restart, fd); /* prlimit(2) has raised the limit since */
    else if (fd >= 0)
        begin_connection(s, fd);
    return fd >= 0;
}

/* ---- main and its loop, and what each phase of a restart means ---- */

/* Restarts the time of all idle connections if the timeout changes. */
static void set_idle_timeout(struct server *s, int64_t ms)
{
    struct connection *queue = &s->queues[IDLE];
    if (s->timeouts[IDLE] == ms)
        return;
    s->timeouts[IDLE] = ms;
    for (struct connection *c = queue->next; c != queue; c = c->next)
        c->since = s->now;
}

/* Answers requests that have arrived by now, and closes the connections that are not idle then. */
static void cut(struct server *s)
{
    struct connection *c;
    while ((c = oldest(s, READING)) || (c = oldest(s, SENDING)) || (c = oldest(s, LINGERING))) {
        take_turn(s, c, 0);
        if (c->state != IDLE && c->state != FREE)
            end_connection(s, c);
    }
}

/* Draining: idle connections are soon closed, gracefully. Handing over: the successor takes them.
 * After the drain timeout: all are closed that the successor does not take. */
static void follow_phase(struct server *s, enum restart_phase phase)
{
    struct connection *c;
    set_idle_timeout(s, phase == RESTART_DRAINING ? LAST_REQUEST_MS : s->idle_timeout);
    if (phase == RESTART_CUT)
        cut(s);
    if (phase == RESTART_HANDING_OVER || phase == RESTART_CUT)
        while ((c = oldest(s, IDLE)) && restart_leave(&s->restart, c->fd, true))
            end_connection(s, c);
}

static int run(struct server *s)
{
    struct epoll_event events[EVENTS_MAX];
    while (s->restart.phase < RESTART_DONE) {
        bool step_is_due = false;
        int accepts = 0; /* after the step, so that SIGTERM counts for all that wait with it */
        const int count = epoll_wait(s->epoll, events, EVENTS_MAX, next_timeout(s));
        update_clock(s);
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr == &s->restart)
                step_is_due = true;
            else if (events[i].data.ptr == s->restart.listeners)
                accepts++;
            else
                take_turn(s, events[i].data.ptr, events[i].events);
        }
        expire_connections(s);
        if (step_is_due) {
            restart_step(&s->restart);
            while (accept_one(s))
                ;
        } else {
            while (accepts-- > 0)
                accept_one(s);
        }
        follow_phase(s, s->restart.phase);
    }
    return s->restart.status;
}

static void set_up(struct server *s, const struct options *o, char **argv)
{
    for (enum state state = 0; state < STATES; state++)
        s->queues[state].next = s->queues[state].previous = &s->queues[state];
    s->timeouts[IDLE] = s->idle_timeout = o->timeouts[IDLE_TIMEOUT] * INT64_C(1000);
    s->timeouts[READING] = s->timeouts[SENDING] = o->timeouts[REQUEST_TIMEOUT] * INT64_C(1000);
    s->timeouts[LINGERING] = LINGER_MS;
    s->date = -1;
    update_clock(s);
    s->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (s->epoll < 0)
        die(EXIT_FAILURE, "cannot create an epoll instance: %s", strerror(errno));
    const struct restart_options options = {
        .pid_file = o->pid_file,
        .version = VERSION,
        .argv = argv,
        .ready_timeout = o->timeouts[READY_TIMEOUT],
        .drain_timeout = o->timeouts[DRAIN_TIMEOUT],
        .rollback_timeout = o->timeouts[ROLLBACK_TIMEOUT],
        .epoll = s->epoll,
        .accept_data = s->restart.listeners,
        .step_data = &s->restart,
    };
    if (restart_serve(&s->restart, &options) < 0)
        exit(EXIT_FAILURE);
}

int main(int argc, char **argv)
{
    static struct server s;
    static struct options options = {.timeouts = {[READY_TIMEOUT] = 10,
                                                  [DRAIN_TIMEOUT] = 30,
                                                  [IDLE_TIMEOUT] = 60,
                                                  [REQUEST_TIMEOUT] = 10}};
    if (restart_inherit(&s.restart, &argc, argv) < 0)
        return EXIT_USAGE;
    parse_options(&options, argc, argv);
    if (options.supervise || getpid() == 1) {
        const int status = restart_supervise(&s.restart);
        if (status >= 0)
            return status;
        if (errno)
            die(EXIT_FAILURE, "cannot supervise: %s", strerror(errno));
    }
    find_listeners(&s.restart, &options);
    raise_descriptor_limit();
    set_up(&s, &options, argv);
    return run(&s);
}
