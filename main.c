/* SPDX-License-Identifier: 0BSD */
/*
 * main.c - a web server on epoll that is replaced while it runs.
 *
 * Four parts: start-up and options; the loop; a connection's life; main, with what each phase of a
 * restart means here.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "http.h"
#include "restart.h"

#ifndef VERSION
#define VERSION "unknown"
#endif

enum {
    GO_ON = -1, /* in place of an exit status */
    EXIT_USAGE = 2,
    SECONDS_MAX = INT_MAX / 1000, /* of a timeout: epoll_wait(2) takes an int of milliseconds */
    LINE_SIZE = 1024,             /* a log line: a file name (NAME_MAX) and what to say */
    EVENTS_MAX = 128,             /* taken from epoll at once */
    READS_MAX = 16,               /* reads from a connection before others have their turn */
    OUTPUT_MAX = 16 * 1024,       /* responses gathered for one send */
    KERNEL_BUFFER = 64 * 1024,    /* to send and to receive, for a client that does not read */
    DESCRIPTORS_MAX = 1 << 20,    /* connections are numbered by descriptor: bounds their table */
    LINGER_BYTES = 2 << 20,       /* read and dropped behind a last response: an upload or so */
    LINGER_MS = 2000,             /* and how long */
    LAST_REQUEST_MS = 1000,       /* for a request that is on its way when this process drains */
    PAUSE_MS = 100,               /* longer than a client that is busy takes for its next request */
    EVICT_TRIES = 64,             /* connections looked at to find one that is idle */
};

struct link {
    struct link *next;
    struct link *previous;
};

/* Connections that wait equally long: the order of entry is the order of deadlines. */
struct waiting {
    struct link ring; /* its own end */
    int64_t ms;
};

enum wait {
    WAIT_IDLE,    /* for a request */
    WAIT_REQUEST, /* for the rest of a head, or for a response to be taken */
    WAIT_LINGER,  /* for the client to close */
    WAITS,
};

/*
 *              accepted                    handed over
 *                   \                       /
 *   +------------->  IDLE  ----------------+--> FREE
 *   |              |  ^                    |
 *   | first bytes  |  | answered           | closed, by the client or at a deadline
 *   |              v  |                    |
 *   |              HEAD ------------------>|
 *   | answered,       | response not taken |
 *   | taken           v at once            |
 *   +-------------- SEND ----------------->|
 *                     |                    |
 *                     v last response      |
 *                  LINGER ---------------->+
 */
enum state {
    CONNECTION_FREE,
    CONNECTION_IDLE,   /* nothing of it is in this process: it can be handed over */
    CONNECTION_HEAD,   /* part of a head has come */
    CONNECTION_SEND,   /* a response is partly sent, and no more is read */
    CONNECTION_LINGER, /* the last response is sent; what still comes is dropped */
};

/* Data of a connection, kept until its next event: input not answered, output not sent. As large as
 * they are, so that a slow client costs what it sent. */
struct saved {
    size_t input;
    size_t output;
    char bytes[];
};

/* One for each descriptor. An idle connection costs this, and nothing else. */
struct connection {
    struct link link;
    int64_t since; /* when it began to wait */
    struct saved *saved;
    int fd;
    uint32_t dropped; /* bytes, while it lingers */
    uint8_t state;
    bool watched : 1;  /* by epoll */
    bool sends : 1;    /* it watches for room to send, not for input */
    bool closing : 1;  /* what is to be sent is the last response */
    bool lingers : 1;  /* and the client may go on sending */
    bool answered : 1; /* at least once, by this process */
};

struct options {
    struct restart_options restart;
    struct sockaddr_storage listen;
    socklen_t listen_size;
    const char *listen_text[RESTART_LISTENERS];
    int listen_count;
    int idle_timeout, request_timeout; /* seconds */
    const char *fd;                    /* inherited listeners; NULL: none */
    bool reuse_port, supervise;
};

struct server {
    const struct options *options;
    struct restart restart;
    int epoll;
    int64_t now;  /* milliseconds of the monotonic clock */
    time_t dated; /* the second that the responses bear */
    struct http_responses responses;

    struct connection *connections; /* by descriptor */
    int descriptors;                /* how many of them there can be */
    struct waiting waiting[WAITS];

    /* The connection's that has its turn. */
    size_t input_length;
    size_t output_length;
    char input[HTTP_INPUT_MAX];
    char output[OUTPUT_MAX];
};

/* ---- start-up and options ---- */

/* Says what cannot be done. Returns the exit status for bad arguments. */
__attribute__((format(printf, 1, 2))) static int complain(const char *format, ...)
{
    char text[LINE_SIZE];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    restart_log(LOG_ERR, text);
    return EXIT_USAGE;
}

static const char usage[] =
    "Usage: %s [OPTIONS] [FD]\n"
    "\n"
    "A web server that is replaced while it runs: kill -USR1 PID starts the program whose\n"
    "name is its own with a 1 appended, or without it, and hands over to it.\n"
    "\n"
    "  -l, --listen ADDRESS:PORT   where to listen: numeric IPv4, or IPv6 as [::1]:8080;\n"
    "                              localhost:8080 is 127.0.0.1, :8080 all IPv4 addresses; with\n"
    "                              port 0 the kernel picks one (default 127.0.0.1:8080)\n"
    "  -p, --pid-file FILE         holds the pid of the process that owns the listener\n"
    "      --ready-timeout SEC     how long a successor may take to report ready (default 10);\n"
    "                              0: expect no report, hand over once it is executed\n"
    "      --drain-timeout SEC     how long requests in flight may take to finish once this\n"
    "                              process is draining (default 30)\n"
    "      --rollback-timeout SEC  how long this process stands by after a hand-over, to take\n"
    "                              over again if the successor crashes (default 0: not at all)\n"
    "      --idle-timeout SEC      how long a connection may be idle: between requests, or\n"
    "                              before its first byte (default 60)\n"
    "      --request-timeout SEC   how long a request head may take from its first byte until\n"
    "                              it is whole, and a response until it is taken (default 10)\n"
    "      --reuse-port            other processes with it may listen on the same address\n"
    "      --supervise             the first process stays, with its pid, and the server runs\n"
    "                              below it; on by itself as process 1\n"
    "  -h, --help                  this text\n"
    "  -V, --version               name and version\n"
    "  FD                          always last: number of an inherited listening socket\n"
    "\n"
    "A socket from a service manager (LISTEN_PID, LISTEN_FDS=1) is taken where no FD is given;\n"
    "both win over --listen. NOTIFY_SOCKET is told of start, restart and end.\n"
    "\n"
    "Signals: SIGUSR1 restarts. SIGTERM and SIGINT end it once requests in flight are answered;\n"
    "a second one ends it at once. SIGHUP ends it like any other signal.\n"
    "\n"
    "Exit status: 0 a graceful end; 1 it could not start, or was ended at once; 2 bad arguments.\n";

/* Takes TEXT, a decimal number of MINIMUM to MAXIMUM, for NAME. */
static int take_number(const char *name, const char *text, int minimum, int maximum, int *number)
{
    char *end = NULL;
    errno = 0;
    long value = *text >= '0' && *text <= '9' ? strtol(text, &end, 10) : -1;
    if (!end || *end || errno || value < minimum || value > maximum)
        return complain("cannot take '%s' for %s: not a number from %d to %d", text, name, minimum,
                        maximum);
    *number = (int)value;
    return GO_ON;
}

/* HOST, in brackets or not, into O. Returns why it cannot be listened on; NULL: it can. */
static const char *parse_host(struct options *o, char *host, bool bracketed)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)&o->listen;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&o->listen;
    if (!bracketed) {
        const char *name = strcmp(host, "localhost") == 0 ? "127.0.0.1" : *host ? host : "0.0.0.0";
        o->listen.ss_family = AF_INET;
        o->listen_size = sizeof *v4;
        if (strchr(host, ':'))
            return "an IPv6 address needs brackets, as in [::1]:8080";
        return inet_pton(AF_INET, name, &v4->sin_addr) == 1 ? NULL : "not a numeric IPv4 address";
    }
    char *scope = strchr(host, '%');
    if (scope)
        *scope++ = '\0';
    o->listen.ss_family = AF_INET6;
    o->listen_size = sizeof *v6;
    if (inet_pton(AF_INET6, host, &v6->sin6_addr) != 1)
        return "not a numeric IPv6 address";
    v6->sin6_scope_id = scope ? if_nametoindex(scope) : 0;
    if (scope && v6->sin6_scope_id == 0)
        return "no such network interface";
    if (!scope && IN6_IS_ADDR_LINKLOCAL(&v6->sin6_addr))
        return "a link-local address needs its interface, as in [fe80::1%eth0]:8080";
    return NULL;
}

/* ADDRESS:PORT or [ADDRESS]:PORT. */
static int take_address(struct options *o, const char *text)
{
    char host[INET6_ADDRSTRLEN + IF_NAMESIZE + 1];
    const char *why = "not ADDRESS:PORT or [ADDRESS]:PORT", *colon = strrchr(text, ':');
    const bool bracketed = text[0] == '[';
    const char *start = text + bracketed, *end = colon ? colon - bracketed : start;
    int port = 0;
    memset(&o->listen, 0, sizeof o->listen);
    if (colon && end >= start && end - start < (long)sizeof host && (!bracketed || *end == ']')) {
        memcpy(host, start, (size_t)(end - start));
        host[end - start] = '\0';
        why = parse_host(o, host, bracketed);
    }
    if (why)
        return complain("cannot listen on '%s': %s", text, why);
    int status = take_number("the port", colon + 1, 0, UINT16_MAX, &port);
    /* It stands in the same place for both families. */
    ((struct sockaddr_in *)&o->listen)->sin_port = htons((uint16_t)port);
    return status;
}

enum long_option {
    READY_TIMEOUT = 256,
    DRAIN_TIMEOUT,
    ROLLBACK_TIMEOUT,
    IDLE_TIMEOUT,
    REQUEST_TIMEOUT,
    REUSE_PORT,
    SUPERVISE,
};

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

/* What is said on standard output has to arrive there. */
static int print_and_exit(const char *format, const char *value)
{
    if (printf(format, value) >= 0 && fflush(stdout) == 0)
        return EXIT_SUCCESS;
    complain("cannot write to standard output: %s", strerror(errno));
    return EXIT_FAILURE;
}

/* Says what is wrong with the option that getopt_long(3) refused with RESULT, and stands last
 * before optind. */
static int refuse_option(int result, char **argv)
{
    const char short_name[] = {'-', (char)optopt, '\0'}, *name = argv[optind - 1];
    const bool is_known = optopt > UCHAR_MAX || (optopt > 0 && strchr("lphV", optopt));
    const char *why = "there is none of this name";
    if (result == ':') {
        why = "its argument is missing";
    } else if (is_known) {
        why = "it takes no argument";
    } else if (optopt == 0) {
        int like_it = 0;
        for (const struct option *o = option_table; o->name; o++)
            like_it += strncmp(o->name, name + 2, strcspn(name + 2, "=")) == 0;
        why = like_it > 1 ? "several options begin like this" : why;
    }
    if (optopt > 0 && optopt <= UCHAR_MAX && (result == ':' ? name[1] != '-' : !is_known))
        name = short_name;
    return complain("cannot take option '%s': %s (see --help)", name, why);
}

static int take_option(struct options *o, int option, char **argv)
{
    switch (option) {
    case 'l':
        if (o->listen_count == RESTART_LISTENERS)
            return complain("cannot listen on '%s': %d addresses are the most", optarg,
                            RESTART_LISTENERS);
        o->listen_text[o->listen_count++] = optarg;
        return take_address(o, optarg);
    case 'p':
        o->restart.pid_file = optarg;
        return *optarg ? GO_ON : complain("cannot use a pid file without a name");
    case READY_TIMEOUT:
        return take_number("--ready-timeout", optarg, 0, SECONDS_MAX, &o->restart.ready_timeout);
    case DRAIN_TIMEOUT:
        return take_number("--drain-timeout", optarg, 0, SECONDS_MAX, &o->restart.drain_timeout);
    case ROLLBACK_TIMEOUT:
        return take_number("--rollback-timeout", optarg, 0, SECONDS_MAX,
                           &o->restart.rollback_timeout);
    case IDLE_TIMEOUT:
        return take_number("--idle-timeout", optarg, 1, SECONDS_MAX, &o->idle_timeout);
    case REQUEST_TIMEOUT:
        return take_number("--request-timeout", optarg, 1, SECONDS_MAX, &o->request_timeout);
    case REUSE_PORT:
        o->reuse_port = true;
        return GO_ON;
    case SUPERVISE:
        o->supervise = true;
        return GO_ON;
    case 'h':
        return print_and_exit(usage, program_invocation_short_name);
    case 'V':
        return print_and_exit("rust_graceful_restart %s\n", VERSION);
    default:
        return refuse_option(option, argv);
    }
}

/* Takes FD off ARGV. Returns an exit status, or GO_ON. */
static int take_options(struct options *o, int argc, char **argv)
{
    int option, status = GO_ON;
    opterr = 0;
    /* The + stops at FD: nothing after it is an option. */
    while (status == GO_ON &&
           (option = getopt_long(argc, argv, "+:l:p:hV", option_table, NULL)) != -1)
        status = take_option(o, option, argv);
    if (status == GO_ON && argc - optind > 1)
        return complain("cannot take '%s': nothing may follow FD", argv[optind + 1]);
    if (status == GO_ON && optind < argc)
        o->fd = argv[optind];
    if (o->listen_count == 0)
        o->listen_text[o->listen_count++] = "127.0.0.1:8080";
    argv[optind] = NULL;
    o->restart.argv = argv;
    return status;
}

/* Returns a new listener, or -1 and logs why. */
static int open_listener(struct options *o, const char *text)
{
    const int on = 1;
    take_address(o, text);
    int fd = socket(o->listen.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
        (!o->reuse_port || setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on) == 0) &&
        bind(fd, (const struct sockaddr *)&o->listen, o->listen_size) == 0 &&
        listen(fd, SOMAXCONN) == 0)
        return fd;
    complain("cannot listen on %s: %s", text, strerror(errno));
    return -1;
}

/* Opens the listeners, unless they are inherited. Returns an exit status, or GO_ON. */
static int find_listeners(struct restart *r, struct options *o)
{
    const bool by_number = o->fd || r->predecessor >= 0;
    if (o->fd && restart_listeners(r, o->fd) < 0)
        return EXIT_USAGE;
    if (by_number && r->listener_count != o->listen_count)
        return complain("cannot listen on %d inherited sockets: --listen names %d addresses",
                        r->listener_count, o->listen_count);
    for (int i = 0; r->listener_count < o->listen_count && r->inherited == 0; i++) {
        const int fd = open_listener(o, o->listen_text[i]);
        if (fd < 0 || restart_listener(r, fd) < 0)
            return EXIT_FAILURE;
    }
    return GO_ON;
}

/* A connection inherits these from its listener, tcp(7), socket(7). One send is one segment: there
 * is nothing to wait for. */
static void set_connection_options(int listener)
{
    const int on = 1, size = KERNEL_BUFFER;
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(listener, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
}

/* As many descriptors as allowed, and a table of them, of which only what is used costs memory. */
static bool make_table(struct server *s)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        limit.rlim_max = DESCRIPTORS_MAX;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    s->descriptors = limit.rlim_max < DESCRIPTORS_MAX ? (int)limit.rlim_max : DESCRIPTORS_MAX;
    s->connections =
        mmap(NULL, (size_t)s->descriptors * sizeof *s->connections, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return s->connections != MAP_FAILED;
}

/* ---- the loop ---- */

static void tick(struct server *s)
{
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    s->now = now.tv_sec * 1000 + now.tv_nsec / 1000000;
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    if (now.tv_sec == s->dated)
        return;
    s->dated = now.tv_sec;
    gmtime_r(&now.tv_sec, &utc);
    http_format(&s->responses, &utc);
}

static struct connection *connection_of(struct link *link)
{
    return (struct connection *)((char *)link - offsetof(struct connection, link));
}

static struct connection *longest(struct waiting *w)
{
    return w->ring.next == &w->ring ? NULL : connection_of(w->ring.next);
}

static void stop_waiting(struct connection *c)
{
    c->link.previous->next = c->link.next;
    c->link.next->previous = c->link.previous;
}

/* C, which waits already, now waits for this, from now on. */
static void wait_for(struct server *s, struct connection *c, enum wait kind)
{
    struct link *ring = &s->waiting[kind].ring;
    c->since = s->now;
    if (ring->previous == &c->link)
        return;
    stop_waiting(c);
    c->link = (struct link){.next = ring, .previous = ring->previous};
    ring->previous->next = &c->link;
    ring->previous = &c->link;
}

/* Milliseconds until a connection's deadline; -1: there is none. */
static int next_timeout(struct server *s)
{
    int64_t due = INT64_MAX;
    for (int kind = 0; kind < WAITS; kind++) {
        const struct connection *c = longest(&s->waiting[kind]);
        if (c && c->since + s->waiting[kind].ms < due)
            due = c->since + s->waiting[kind].ms;
    }
    if (due == INT64_MAX)
        return -1;
    return due <= s->now ? 0 : (int)(due - s->now);
}

/* ---- a connection's life ---- */

/* The one place where a connection is freed. Its descriptor is not this process's any more. */
static void free_connection(struct connection *c)
{
    stop_waiting(c);
    free(c->saved);
    c->saved = NULL;
    c->state = CONNECTION_FREE;
}

static void end_connection(struct server *s, struct connection *c)
{
    free_connection(c);
    restart_close(&s->restart, c->fd);
}

/* The one place where it begins: idle, not watched yet. */
static struct connection *begin_connection(struct server *s, int fd)
{
    if (fd >= s->descriptors) {
        restart_close(&s->restart, fd);
        return NULL;
    }
    struct connection *c = &s->connections[fd];
    *c = (struct connection){.fd = fd, .state = CONNECTION_IDLE};
    c->link.next = c->link.previous = &c->link;
    wait_for(s, c, WAIT_IDLE);
    return c;
}

/* The one place where interest in a connection's events is set. Edge-triggered: no call between
 * requests, and none to find that there is no more to read. */
static void watch(struct server *s, struct connection *c, bool sends)
{
    const uint32_t wanted = sends ? EPOLLOUT : EPOLLIN | EPOLLPRI;
    struct epoll_event event = {.events = EPOLLET | EPOLLRDHUP | wanted, .data.ptr = c};
    c->sends = sends;
    if (epoll_ctl(s->epoll, c->watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, c->fd, &event) < 0)
        end_connection(s, c);
    else
        c->watched = true;
}

/* Keeps what C leaves behind, of the input what stands behind USED. */
static bool save(struct server *s, struct connection *c, size_t used)
{
    size_t input = s->input_length - used;
    if (input + s->output_length == 0)
        return true;
    c->saved = malloc(sizeof *c->saved + input + s->output_length);
    if (!c->saved)
        return false;
    c->saved->input = input;
    c->saved->output = s->output_length;
    memcpy(c->saved->bytes, s->input + used, input);
    memcpy(c->saved->bytes + input, s->output, s->output_length);
    return true;
}

static void restore(struct server *s, struct connection *c)
{
    s->input_length = s->output_length = 0;
    if (!c->saved)
        return;
    s->input_length = c->saved->input;
    s->output_length = c->saved->output;
    memcpy(s->input, c->saved->bytes, s->input_length);
    memcpy(s->output, c->saved->bytes + s->input_length, s->output_length);
    free(c->saved);
    c->saved = NULL;
}

/* The last response has been sent. A reset, which closing causes where bytes arrive unread, would
 * take it from a client that has not read it yet (RFC 9112 section 9.6). */
static void close_gracefully(struct server *s, struct connection *c)
{
    if (!c->lingers || shutdown(c->fd, SHUT_WR) < 0) {
        end_connection(s, c);
        return;
    }
    c->state = CONNECTION_LINGER;
    wait_for(s, c, WAIT_LINGER);
    watch(s, c, false);
}

static void drop_input(struct server *s, struct connection *c)
{
    while (c->dropped < LINGER_BYTES) {
        ssize_t n = recv(c->fd, s->input, sizeof s->input, 0);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0)
            break;
        c->dropped += (uint32_t)n;
    }
    end_connection(s, c);
}

/* Sends the output. True: it is all taken, and C goes on. Else C has ended, or it waits with what
 * is left, and with the input behind USED. */
static bool send_output(struct server *s, struct connection *c, size_t used)
{
    ssize_t n = send(c->fd, s->output, s->output_length, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN) {
        end_connection(s, c);
        return false;
    }
    size_t sent = n < 0 ? 0 : (size_t)n;
    s->output_length -= sent;
    if (s->output_length == 0) {
        if (c->closing)
            close_gracefully(s, c);
        return !c->closing;
    }
    memmove(s->output, s->output + sent, s->output_length);
    if (!save(s, c, used)) {
        end_connection(s, c);
        return false;
    }
    if (c->state != CONNECTION_SEND)
        wait_for(s, c, WAIT_REQUEST);
    c->state = CONNECTION_SEND;
    if (!c->sends)
        watch(s, c, true);
    return false;
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

/* C has no request in flight any more. */
static void become_idle(struct server *s, struct connection *c)
{
    c->state = CONNECTION_IDLE;
    c->answered = true;
    wait_for(s, c, WAIT_IDLE);
}

/* Answers each whole request in the input, many in one send. True: C goes on, with the input that
 * is left moved to the front. */
static bool answer(struct server *s, struct connection *c)
{
    struct http_request request;
    size_t used = 0;
    int taken = 0;
    do {
        while (!c->closing && s->output_length + HTTP_RESPONSE_MAX <= sizeof s->output &&
               (taken = http_parse(s->input + used, s->input_length - used, &request)) != 0) {
            respond(s, c, &request);
            used += taken > 0 ? (size_t)taken : 0;
        }
        if (c->closing && used < s->input_length) {
            c->lingers = true;
            used = s->input_length;
        }
        if (s->output_length > 0) {
            if (!send_output(s, c, used))
                return false;
            become_idle(s, c);
        }
    } while (taken != 0);
    s->input_length -= used;
    memmove(s->input, s->input + used, s->input_length);
    return true;
}

/* There is nothing more to do for C now: it is idle, or waits for the rest of a head. */
static void settle(struct server *s, struct connection *c, bool more_to_read)
{
    if (s->input_length > 0) {
        /* From the first byte on, however many follow. */
        if (c->state != CONNECTION_HEAD)
            wait_for(s, c, WAIT_REQUEST);
        c->state = CONNECTION_HEAD;
        if (!save(s, c, 0)) {
            end_connection(s, c);
            return;
        }
    }
    /* Setting interest again asks epoll again whether there is something to read. */
    if (!c->watched || c->sends || more_to_read)
        watch(s, c, false);
}

/* Answers what has come of a head, and will not become a request, with STATUS. */
static void refuse(struct server *s, struct connection *c, enum http_status status)
{
    struct http_request request;
    http_parse(s->input, s->input_length, &request);
    http_reject(&request, status);
    respond(s, c, &request);
    send_output(s, c, s->input_length);
}

/* TO_THE_END: until there is no more to read, or the end, of which epoll will not tell again. */
static void read_requests(struct server *s, struct connection *c, bool to_the_end)
{
    restore(s, c);
    for (int reads = 0; reads < READS_MAX; reads++) {
        size_t room = sizeof s->input - s->input_length;
        ssize_t n = recv(c->fd, s->input + s->input_length, room, 0);
        if (n == 0 && s->input_length > 0) {
            refuse(s, c, HTTP_BAD_REQUEST);
            return;
        }
        if (n == 0 || (n < 0 && errno != EAGAIN)) {
            end_connection(s, c);
            return;
        }
        if (n > 0) {
            s->input_length += (size_t)n;
            if (!answer(s, c))
                return;
        }
        /* A short read took all there was, epoll(7). */
        if (n < 0 || ((size_t)n < room && !to_the_end)) {
            settle(s, c, false);
            return;
        }
    }
    settle(s, c, true);
}

static void send_rest(struct server *s, struct connection *c)
{
    restore(s, c);
    if (!send_output(s, c, 0))
        return;
    become_idle(s, c);
    if (answer(s, c))
        settle(s, c, false);
}

static void connection_ready(struct server *s, struct connection *c, uint32_t events)
{
    switch ((enum state)c->state) {
    case CONNECTION_FREE: /* ended earlier in this batch of events */
        break;
    case CONNECTION_IDLE:
    case CONNECTION_HEAD:
        /* A read also stops short before an urgent byte, tcp(7). */
        read_requests(s, c, events & ~(uint32_t)EPOLLIN);
        break;
    case CONNECTION_SEND:
        send_rest(s, c);
        break;
    case CONNECTION_LINGER:
        drop_input(s, c);
        break;
    }
}

/* C's deadline has come. What has arrived by now came in time: this process was slow, or stopped,
 * and not the client. */
static void time_out(struct server *s, struct connection *c)
{
    const int64_t since = c->since;
    connection_ready(s, c, EPOLLHUP);
    if (c->state == CONNECTION_FREE || c->since != since)
        return;
    switch ((enum state)c->state) {
    case CONNECTION_IDLE:
        c->lingers = true;
        close_gracefully(s, c);
        break;
    case CONNECTION_HEAD:
        restore(s, c);
        refuse(s, c, HTTP_REQUEST_TIMEOUT);
        break;
    default:
        end_connection(s, c);
    }
}

static void expire_connections(struct server *s)
{
    struct connection *c;
    for (int kind = 0; kind < WAITS; kind++)
        while ((c = longest(&s->waiting[kind])) && s->now - c->since >= s->waiting[kind].ms)
            time_out(s, c);
}

/* Closes the connection that has been idle longest, and has no request that has arrived by now:
 * such a request is answered. A client that was answered a moment ago is busy: its next request is
 * on its way, and would be reset. */
static bool evict(struct server *s)
{
    struct link *ring = &s->waiting[WAIT_IDLE].ring, *next = ring->next;
    for (int tries = 0; next != ring && tries < EVICT_TRIES; tries++) {
        struct connection *c = connection_of(next);
        char byte;
        next = next->next;
        if (c->answered && s->now - c->since < PAUSE_MS)
            continue;
        if (recv(c->fd, &byte, sizeof byte, MSG_PEEK) <= 0)
            end_connection(s, c);
        else
            read_requests(s, c, true);
        if (c->state == CONNECTION_FREE)
            return true;
    }
    return false;
}

/* ---- main, and what each phase of a restart means here ---- */

/* Accepts one connection. Its first request is often there already. */
static bool accept_one(struct server *s)
{
    int fd;
    do
        fd = restart_accept(&s->restart);
    while (fd < 0 && errno == EMFILE && evict(s));
    struct connection *c = fd < 0 ? NULL : begin_connection(s, fd);
    if (c)
        read_requests(s, c, false);
    return fd >= 0;
}

/* Sets how long a connection may be idle. A change restarts the time of all idle connections. */
static void limit_idle(struct server *s, int64_t ms)
{
    struct waiting *idle = &s->waiting[WAIT_IDLE];
    if (idle->ms == ms)
        return;
    idle->ms = ms;
    for (struct link *l = idle->ring.next; l != &idle->ring; l = l->next)
        connection_of(l)->since = s->now;
}

/* Hands over what is idle. AT_THE_END: closes it if no successor takes it. */
static void give_idle(struct server *s, bool at_the_end)
{
    struct connection *c;
    while ((c = longest(&s->waiting[WAIT_IDLE]))) {
        if (restart_give(&s->restart, c->fd) == 0) {
            free_connection(c);
        } else if (at_the_end && errno == EPIPE) {
            end_connection(s, c);
        } else {
            break;
        }
    }
}

/* The drain deadline: what has arrived is answered, what is in flight then is closed. */
static void cut(struct server *s)
{
    struct connection *c;
    while ((c = longest(&s->waiting[WAIT_REQUEST]))) {
        connection_ready(s, c, EPOLLHUP);
        if (c->state == CONNECTION_HEAD || c->state == CONNECTION_SEND)
            end_connection(s, c);
    }
    while ((c = longest(&s->waiting[WAIT_LINGER])))
        end_connection(s, c);
}

static enum restart_phase step(struct server *s)
{
    enum restart_phase phase = restart_step(&s->restart);
    limit_idle(s, phase == RESTART_DRAINING ? LAST_REQUEST_MS
                                            : s->options->idle_timeout * INT64_C(1000));
    if (phase == RESTART_CUT)
        cut(s);
    while (accept_one(s))
        ;
    return phase;
}

static int run(struct server *s)
{
    struct epoll_event events[EVENTS_MAX];
    enum restart_phase phase = RESTART_INHERITING;
    while (phase < RESTART_DONE) {
        bool step_is_due = false;
        int count = epoll_wait(s->epoll, events, EVENTS_MAX, next_timeout(s));
        tick(s);
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr == &s->restart)
                step_is_due = true;
            else if (events[i].data.ptr == s)
                accept_one(s);
            else
                connection_ready(s, events[i].data.ptr, events[i].events);
        }
        expire_connections(s);
        if (step_is_due)
            phase = step(s);
        if (phase == RESTART_HANDING_OVER || phase == RESTART_CUT)
            give_idle(s, phase == RESTART_CUT);
    }
    return s->restart.status;
}

/* Returns false, and logs why, on failure. */
static bool serve(struct server *s)
{
    struct restart_options options = s->options->restart;
    const int64_t ms[WAITS] = {s->options->idle_timeout * INT64_C(1000),
                               s->options->request_timeout * INT64_C(1000), LINGER_MS};
    for (int kind = 0; kind < WAITS; kind++) {
        struct link *ring = &s->waiting[kind].ring;
        s->waiting[kind] = (struct waiting){.ring = {ring, ring}, .ms = ms[kind]};
    }
    s->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (s->epoll < 0 || !make_table(s)) {
        complain("cannot set up the event loop: %s", strerror(errno));
        return false;
    }
    s->dated = -1;
    tick(s);
    options.epoll = s->epoll;
    options.accept_data = s;
    options.step_data = &s->restart;
    return restart_serve(&s->restart, &options) >= 0;
}

int main(int argc, char **argv)
{
    struct options options = {
        .restart = {.version = VERSION, .ready_timeout = 10, .drain_timeout = 30},
        .idle_timeout = 60,
        .request_timeout = 10};
    static struct server s;
    s.options = &options;
    if (restart_inherit(&s.restart, &argc, argv) < 0)
        return EXIT_USAGE;
    int status = take_options(&options, argc, argv);
    if (status == GO_ON && (options.supervise || getpid() == 1)) {
        status = restart_supervise(&s.restart);
        if (status == GO_ON && errno) {
            complain("cannot supervise: %s", strerror(errno));
            return EXIT_FAILURE;
        }
    }
    if (status == GO_ON)
        status = find_listeners(&s.restart, &options);
    if (status != GO_ON)
        return status;
    for (int i = 0; i < s.restart.listener_count; i++)
        set_connection_options(s.restart.listeners[i]);
    return serve(&s) ? run(&s) : EXIT_FAILURE;
}
