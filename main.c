/*
 * main.c - a web server on epoll that is replaced while it runs.
 *
 * Four parts: start-up and options; the loop; a connection's life; the process's life.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
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
    LINE_SIZE = 1024,             /* of a log line: a file name (NAME_MAX) and what to say */
    ADDRESS_SIZE = 64,            /* [IPv6]:port: INET6_ADDRSTRLEN and 8 more */
    EVENTS_MAX = 128,             /* taken from epoll at once */
    ACCEPTS_MAX = 64,             /* connections accepted before others have their turn */
    RUSH = 1000,                  /* connections in a second from which accepting is deferred */
    DEFERRED_MS = 1200,           /* longest that a deferred one waits: SYN-ACK's second timer */
    READS_MAX = 16,               /* reads from a connection before others have their turn */
    OUTPUT_MAX = 16 * 1024,       /* responses gathered for one send */
    DESCRIPTORS_MAX = 1 << 20,    /* connections are numbered by descriptor: bounds their table */
    DESCRIPTORS_KEPT = 16,        /* not for connections: the loop's own, and for a restart */
    LINGER_BYTES = 2 << 20,       /* read and dropped behind a last response: an upload or so */
    LINGER_MS = 2000,             /* and how long */
    PARTING_MS = 1000,            /* for a request that is on its way when this process leaves */
    PAUSE_MS = 100,               /* until accepting is tried again */
    GIVE_AGAIN_MS = 10,           /* until giving is, where too many descriptors are in flight */
};

#define NEVER INT64_MAX

/* Something that epoll tells about, and what to call then. Events are hints: what they speak of may
 * be gone when their turn comes. */
struct server;
struct source {
    int fd;
    bool watched;
    void (*ready)(struct server *server, struct source *source, uint32_t events);
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
    WAIT_REST,    /* for a request */
    WAIT_REQUEST, /* for the rest of a head, or for a response to be taken */
    WAIT_LINGER,  /* for the client to close */
    WAITS,
};

/*
 *          accepted, taken over              moved
 *                   \                       /
 *   +------------->  REST  ----------------+--> FREE
 *   |              |  ^                    |
 *   | first bytes  |  | answered           | closed, in time or not
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
    CONNECTION_REST,   /* nothing of it is in this process: it can move */
    CONNECTION_HEAD,   /* part of a head has come */
    CONNECTION_SEND,   /* a response is not taken yet, and no more is read */
    CONNECTION_LINGER, /* all said; what still comes is dropped */
};

/* What a connection leaves behind between two turns: input not answered, output not sent. As large
 * as they are, so that a slow client costs what it sent. */
struct saved {
    size_t input;
    size_t output;
    char bytes[];
};

/* One for each descriptor, at rest all that a connection costs. */
struct connection {
    struct source source; /* first: its address is the connection's */
    struct link link;
    int64_t since; /* when it began to wait */
    struct saved *saved;
    uint32_t dropped; /* bytes, when it lingers */
    uint8_t state;
    bool sends;   /* epoll watches for room to send, not for input */
    bool closing; /* what is to be sent is the last response */
    bool lingers; /* and the client may go on sending */
};

struct options {
    struct sockaddr_storage listen;
    socklen_t listen_size;
    const char *pid_file;
    int64_t ready_ms;
    int64_t drain_ms;
    int64_t idle_ms;
    int64_t request_ms;
    int fd;      /* inherited listener, or -1 */
    char **argv; /* without FD */
};

struct server {
    const struct options *options;
    int epoll;
    struct source listener;
    struct source signals;
    int64_t now;  /* milliseconds of the monotonic clock */
    time_t dated; /* the second that the responses bear */
    struct http_responses responses;

    struct connection *connections; /* by descriptor */
    int descriptors;                /* how many of them there can be */
    int open;
    int open_max;
    int accepted;         /* since there was none to accept */
    int rush;             /* in this second */
    bool deferring;       /* the kernel keeps those that have sent nothing yet */
    int64_t accept_at;    /* NEVER but while accepting pauses */
    int64_t listen_until; /* NEVER but while deferred ones are waited for at the end */
    struct waiting waiting[WAITS];

    /* The connection's that has its turn. */
    size_t input_length;
    size_t output_length;
    char input[HTTP_INPUT_MAX];
    char output[OUTPUT_MAX];

    struct source predecessor; /* the channel to it */
    bool inherited;            /* the listener */
    bool alone;                /* no predecessor holds the listener */
    struct restart successor;
    struct source process; /* the successor's */
    struct source channel;
    enum restart_news news;    /* of the successor, while it has not been handed the listener */
    bool restarting;           /* a successor has been started, and has not been handed it */
    bool leaving;              /* accepts no more */
    bool moving;               /* connections at rest go to the successor */
    bool introduced;           /* the successor knows that it is alone */
    bool given;                /* and has all connections */
    bool terminating;          /* SIGTERM or SIGINT came */
    bool at_once;              /* and a second one */
    bool successor_late;       /* and had to be killed */
    unsigned long moved;       /* connections */
    int64_t ready_by;          /* the successor */
    int64_t drained_by;        /* this process */
    int64_t give_at;           /* NEVER but while giving pauses */
    sigset_t caught;           /* signals */
    sigset_t mask;             /* as this process was started */
    struct sigaction on_child; /* likewise */
};

static void accept_ready(struct server *s, struct source *source, uint32_t events);
static void signals_ready(struct server *s, struct source *source, uint32_t events);
static void predecessor_ready(struct server *s, struct source *source, uint32_t events);
static void successor_ready(struct server *s, struct source *source, uint32_t events);
static void connection_ready(struct server *s, struct source *source, uint32_t events);

/* ---- start-up and options ---- */

/* One line in one write. Nobody need read it: it is dropped where it would block (a full pipe), and
 * SIGPIPE is ignored (a broken one). */
__attribute__((format(printf, 1, 2))) static void say(const char *format, ...)
{
    char line[LINE_SIZE];
    int start =
        snprintf(line, sizeof line, "%s[%ld]: ", program_invocation_short_name, (long)getpid());
    if (start > LINE_SIZE / 2)
        start = LINE_SIZE / 2;
    va_list arguments;
    va_start(arguments, format);
    int more = vsnprintf(line + start, sizeof line - (size_t)start, format, arguments);
    va_end(arguments);
    size_t length = (size_t)start + (size_t)more;
    if (length > sizeof line - 1)
        length = sizeof line - 1;
    line[length++] = '\n';
    struct pollfd room = {.fd = STDERR_FILENO, .events = POLLOUT};
    if (poll(&room, 1, 0) == 1 && room.revents & POLLOUT) {
        ssize_t written = write(STDERR_FILENO, line, length);
        (void)written;
    }
}

static const char usage[] =
    "Usage: %s [OPTIONS] [FD]\n"
    "\n"
    "A web server that is replaced while it runs: kill -USR1 PID starts the program whose\n"
    "name is its own with a 1 appended, or without it, and hands over to it.\n"
    "\n"
    "  -l, --listen ADDRESS:PORT   where to listen: numeric IPv4, or IPv6 as [::1]:8080; with\n"
    "                              port 0 the kernel picks one (default 127.0.0.1:8080)\n"
    "  -p, --pid-file FILE         holds the pid of the process that alone has the listener\n"
    "      --ready-timeout SEC     how long a successor may take to report ready (default 10);\n"
    "                              0: expect no report, hand over once it is started\n"
    "      --drain-timeout SEC     how long requests under way may take to finish once this\n"
    "                              process is leaving (default 30)\n"
    "      --idle-timeout SEC      how long a connection may rest between requests, or before\n"
    "                              its first byte (default 60)\n"
    "      --request-timeout SEC   how long a request head may take from its first byte until\n"
    "                              it is whole, and a response until it is taken (default 10)\n"
    "  -h, --help                  this text\n"
    "  -V, --version               name and version\n"
    "  FD                          always last: number of an inherited listening socket\n"
    "\n"
    "A socket from a service manager (LISTEN_PID, LISTEN_FDS=1) is taken where no FD is given;\n"
    "both win over --listen. NOTIFY_SOCKET is told of start, restart and end.\n"
    "\n"
    "Signals: SIGUSR1 restarts. SIGTERM and SIGINT end it once requests under way are answered;\n"
    "a second one ends it at once.\n"
    "\n"
    "Exit status: 0 a graceful end; 1 it could not start, or was ended at once; 2 bad arguments.\n";

/* TEXT as a decimal number of MINIMUM to MAXIMUM; false, and said so, where it is none. */
static bool parse_number(const char *name, const char *text, long minimum, long maximum,
                         long *number)
{
    char *end;
    errno = 0;
    *number = *text >= '0' && *text <= '9' ? strtol(text, &end, 10) : -1;
    if (*number < 0 || *end || errno || *number < minimum || *number > maximum) {
        say("cannot take '%s' for %s: not a number from %ld to %ld", text, name, minimum, maximum);
        return false;
    }
    return true;
}

static bool parse_seconds(const char *name, const char *text, long minimum, int64_t *ms)
{
    long seconds;
    if (!parse_number(name, text, minimum, SECONDS_MAX, &seconds))
        return false;
    *ms = (int64_t)seconds * 1000;
    return true;
}

/* ADDRESS:PORT or [ADDRESS]:PORT. */
static bool parse_address(struct options *o, const char *text)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)&o->listen;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&o->listen;
    char host[INET6_ADDRSTRLEN];
    bool bracketed = text[0] == '[';
    const char *colon = strrchr(text, ':');
    const char *start = text + bracketed, *end = colon ? colon - bracketed : start;
    long port;
    if (!colon || end < start || end - start >= (long)sizeof host || (bracketed && *end != ']')) {
        say("cannot listen on '%s': not ADDRESS:PORT or [ADDRESS]:PORT", text);
        return false;
    }
    memcpy(host, start, (size_t)(end - start));
    host[end - start] = '\0';
    if (!parse_number("the port", colon + 1, 0, UINT16_MAX, &port))
        return false;
    memset(&o->listen, 0, sizeof o->listen);
    if (bracketed) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons((uint16_t)port);
        o->listen_size = sizeof *v6;
    } else {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)port);
        o->listen_size = sizeof *v4;
    }
    if (inet_pton(o->listen.ss_family, host,
                  bracketed ? (void *)&v6->sin6_addr : (void *)&v4->sin_addr) == 1)
        return true;
    say("cannot listen on '%s': not a numeric %s address", text, bracketed ? "IPv6" : "IPv4");
    return false;
}

enum long_option {
    READY_TIMEOUT = 256,
    DRAIN_TIMEOUT,
    IDLE_TIMEOUT,
    REQUEST_TIMEOUT
};

static const struct option option_table[] = {
    {"listen", required_argument, NULL, 'l'},
    {"pid-file", required_argument, NULL, 'p'},
    {"ready-timeout", required_argument, NULL, READY_TIMEOUT},
    {"drain-timeout", required_argument, NULL, DRAIN_TIMEOUT},
    {"idle-timeout", required_argument, NULL, IDLE_TIMEOUT},
    {"request-timeout", required_argument, NULL, REQUEST_TIMEOUT},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},
    {0},
};

/* What is said on standard output has to arrive there. */
static int print_and_exit(const char *format, const char *value)
{
    if (printf(format, value) >= 0 && fflush(stdout) == 0)
        return EXIT_SUCCESS;
    say("cannot write to standard output: %s", strerror(errno));
    return EXIT_FAILURE;
}

/* Takes one option. Returns -1 to go on, or an exit status. */
static int take_option(struct options *o, int option, char **argv)
{
    const char short_name[] = {'-', (char)optopt, '\0'};
    const char *name = optopt > 0 && optopt < READY_TIMEOUT ? short_name : argv[optind - 1];
    bool good = false;
    switch (option) {
    case 'l':
        good = parse_address(o, optarg);
        break;
    case 'p':
        o->pid_file = optarg;
        good = *optarg;
        if (!good)
            say("cannot use a pid file without a name");
        break;
    case READY_TIMEOUT:
        good = parse_seconds("--ready-timeout", optarg, 0, &o->ready_ms);
        break;
    case DRAIN_TIMEOUT:
        good = parse_seconds("--drain-timeout", optarg, 0, &o->drain_ms);
        break;
    case IDLE_TIMEOUT:
        good = parse_seconds("--idle-timeout", optarg, 1, &o->idle_ms);
        break;
    case REQUEST_TIMEOUT:
        good = parse_seconds("--request-timeout", optarg, 1, &o->request_ms);
        break;
    case 'h':
        return print_and_exit(usage, program_invocation_short_name);
    case 'V':
        return print_and_exit("rust_graceful_restart %s\n", VERSION);
    case ':':
        say("cannot take option '%s': its argument is missing (see --help)", name);
        break;
    default:
        say("cannot take option '%s': unknown, or not like this (see --help)", name);
    }
    return good ? -1 : EXIT_USAGE;
}

/* Returns -1 to go on, or an exit status. Cuts FD off ARGV. */
static int parse_options(struct options *o, int argc, char **argv)
{
    int option, status;
    long fd;
    parse_address(o, "127.0.0.1:8080");
    opterr = 0;
    /* + ends at FD: what is behind it is no option. */
    while ((option = getopt_long(argc, argv, "+:l:p:hV", option_table, NULL)) != -1) {
        status = take_option(o, option, argv);
        if (status >= 0)
            return status;
    }
    if (argc - optind > 1) {
        say("cannot take '%s': nothing may follow FD", argv[optind + 1]);
        return EXIT_USAGE;
    }
    if (optind < argc) {
        if (!parse_number("FD", argv[optind], 0, INT_MAX, &fd))
            return EXIT_USAGE;
        o->fd = (int)fd;
        argv[optind] = NULL;
    }
    o->argv = argv;
    return -1;
}

static void describe(const struct sockaddr_storage *address, char text[ADDRESS_SIZE])
{
    char host[INET6_ADDRSTRLEN];
    const struct sockaddr_in *v4 = (const struct sockaddr_in *)address;
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)address;
    if (address->ss_family == AF_INET)
        snprintf(text, ADDRESS_SIZE, "%s:%u", inet_ntop(AF_INET, &v4->sin_addr, host, sizeof host),
                 ntohs(v4->sin_port));
    else if (address->ss_family == AF_INET6)
        snprintf(text, ADDRESS_SIZE, "[%s]:%u",
                 inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof host), ntohs(v6->sin6_port));
    else
        snprintf(text, ADDRESS_SIZE, "a socket of family %u", (unsigned)address->ss_family);
}

/* Returns the new listener, or -1 and says why. */
static int open_listener(const struct options *o)
{
    char text[ADDRESS_SIZE];
    const int on = 1;
    int fd = socket(o->listen.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
        bind(fd, (const struct sockaddr *)&o->listen, o->listen_size) == 0 &&
        listen(fd, SOMAXCONN) == 0)
        return fd;
    describe(&o->listen, text);
    say("cannot listen on %s: %s", text, strerror(errno));
    if (fd >= 0)
        close(fd);
    return -1;
}

/* Finds the listener: FD, else the service manager's, else a new one. Returns -1 for the listener,
 * or an exit status. */
static int find_listener(struct server *s)
{
    int passed = restart_activation();
    int inherited = s->options->fd >= 0 ? s->options->fd : passed ? RESTART_ACTIVATED : -1;
    s->inherited = inherited >= 0;
    if (s->options->fd < 0 && passed > 1) {
        say("cannot serve %d sockets of the service manager: one is all", passed);
        return EXIT_USAGE;
    }
    if (inherited >= 0 && restart_listener(inherited) < 0) {
        say("cannot listen on inherited fd %d: %s", inherited,
            errno == EINVAL ? "it does not listen" : strerror(errno));
        return EXIT_USAGE;
    }
    s->listener.fd = inherited >= 0 ? inherited : open_listener(s->options);
    return s->listener.fd < 0 ? EXIT_FAILURE : -1;
}

/* A connection inherits this from its listener, tcp(7). One send is one segment: there is nothing
 * to wait for. */
static void send_at_once(int listener)
{
    const int on = 1;
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static void say_listening(const struct server *s)
{
    struct sockaddr_storage address = {0};
    socklen_t size = sizeof address;
    char text[ADDRESS_SIZE], how[48] = "";
    getsockname(s->listener.fd, (struct sockaddr *)&address, &size);
    describe(&address, text);
    if (s->inherited)
        snprintf(how, sizeof how, " (inherited fd %d)", s->listener.fd);
    say("listening on %s%s, version %s", text, how, VERSION);
}

/* A standard stream that is closed would be a connection's number next, and log lines would go to a
 * client. */
static void open_standard_streams(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0)
        close(fd);
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
    s->open_max =
        s->descriptors > 2 * DESCRIPTORS_KEPT ? s->descriptors - DESCRIPTORS_KEPT : s->descriptors;
    s->connections =
        mmap(NULL, (size_t)s->descriptors * sizeof *s->connections, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return s->connections != MAP_FAILED;
}

/* ---- the loop ---- */

/* In a rush of connections that are made for one request each, the kernel hands them out when that
 * is there (TCP_DEFER_ACCEPT, tcp(7)): one event and no registration for each. Else it does not:
 * who says nothing would be handed out a second late, and be forgotten when the listener is closed.
 */
static void defer_accepting(struct server *s, int on)
{
    if (s->listener.fd < 0 || s->deferring == on)
        return;
    setsockopt(s->listener.fd, IPPROTO_TCP, TCP_DEFER_ACCEPT, &on, sizeof on);
    s->deferring = on;
}

static void tick(struct server *s)
{
    struct timespec now;
    struct tm utc;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    s->now = now.tv_sec * 1000 + now.tv_nsec / 1000000;
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    if (now.tv_sec == s->dated)
        return;
    defer_accepting(s, s->rush >= RUSH && !s->leaving);
    s->rush = 0;
    gmtime_r(&now.tv_sec, &utc);
    if (s->dated)
        http_date(&s->responses, &utc);
    else
        http_format(&s->responses, &utc);
    s->dated = now.tv_sec;
}

/* The one place where interest in events is set. False: the kernel has no room for it. */
static bool watch(struct server *s, struct source *source, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = source};
    int how = source->watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    if (epoll_ctl(s->epoll, how, source->fd, &event) < 0)
        return false;
    source->watched = true;
    return true;
}

/* Closing alone does not end events where another process has the description too, epoll(7). */
static void unwatch(struct server *s, struct source *source)
{
    if (source->watched)
        epoll_ctl(s->epoll, EPOLL_CTL_DEL, source->fd, NULL);
    source->watched = false;
}

static void close_source(struct server *s, struct source *source)
{
    if (source->fd < 0)
        return;
    unwatch(s, source);
    close(source->fd);
    source->fd = -1;
}

static struct connection *connection_of(struct link *link)
{
    return (struct connection *)((char *)link - offsetof(struct connection, link));
}

static struct connection *longest(struct waiting *w)
{
    return w->ring.next == &w->ring ? NULL : connection_of(w->ring.next);
}

static void start_waiting(struct waiting *w, int64_t ms)
{
    w->ring.next = w->ring.previous = &w->ring;
    w->ms = ms;
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

/* ---- a connection's life ---- */

/* The one place where a connection ends. */
static void end_connection(struct server *s, struct connection *c)
{
    stop_waiting(c);
    free(c->saved);
    close(c->source.fd);
    c->saved = NULL;
    c->state = CONNECTION_FREE;
    s->open--;
    if (s->accept_at != NEVER)
        s->accept_at = s->now;
}

/* The one place where it begins: at rest, not watched yet. */
static struct connection *begin_connection(struct server *s, int fd)
{
    if (fd >= s->descriptors) {
        close(fd);
        return NULL;
    }
    struct connection *c = &s->connections[fd];
    *c = (struct connection){.source = {.fd = fd, .ready = connection_ready},
                             .state = CONNECTION_REST};
    c->link.next = c->link.previous = &c->link;
    wait_for(s, c, WAIT_REST);
    s->open++;
    return c;
}

static void watch_connection(struct server *s, struct connection *c, bool sends)
{
    c->sends = sends;
    /* Edge-triggered: no call between requests, and none to find that there is no more to read. */
    if (!watch(s, &c->source, EPOLLET | EPOLLRDHUP | (sends ? EPOLLOUT : EPOLLIN)))
        end_connection(s, c);
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
static void part(struct server *s, struct connection *c)
{
    if (!c->lingers || shutdown(c->source.fd, SHUT_WR) < 0) {
        end_connection(s, c);
        return;
    }
    c->state = CONNECTION_LINGER;
    wait_for(s, c, WAIT_LINGER);
    watch_connection(s, c, false);
}

static void drop_input(struct server *s, struct connection *c)
{
    while (c->dropped < LINGER_BYTES) {
        ssize_t n = recv(c->source.fd, s->input, sizeof s->input, 0);
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
    ssize_t n = send(c->source.fd, s->output, s->output_length, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN) {
        end_connection(s, c);
        return false;
    }
    size_t sent = n < 0 ? 0 : (size_t)n;
    s->output_length -= sent;
    if (s->output_length == 0) {
        if (c->closing)
            part(s, c);
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
        watch_connection(s, c, true);
    return false;
}

static void respond(struct server *s, struct connection *c, struct http_request *request)
{
    if (s->leaving && !s->moving && request->persistence != HTTP_CLOSE) {
        request->persistence = HTTP_CLOSE;
        request->more_to_come = true;
    }
    s->output_length += http_respond(&s->responses, request, s->output + s->output_length);
    c->closing = request->persistence == HTTP_CLOSE;
    c->lingers = c->closing && request->more_to_come;
}

/* As http_parse does, what stands behind USED. Clients that pipeline repeat themselves: where the
 * bytes of the request before, LAST of them, come once more, so does REQUEST. */
static int parse_next(const struct server *s, size_t used, int last, struct http_request *request)
{
    const char *next = s->input + used;
    const size_t there = s->input_length - used, again = (size_t)last;
    if (last > 0 && there >= again && memcmp(next, next - again, again) == 0)
        return last;
    return http_parse(next, there, request);
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
               (taken = parse_next(s, used, taken, &request)) != 0) {
            respond(s, c, &request);
            used += taken > 0 ? (size_t)taken : 0;
            c->state = CONNECTION_REST;
        }
        if (c->closing && used < s->input_length) {
            c->lingers = true;
            used = s->input_length;
        }
        if (s->output_length > 0 && !send_output(s, c, used))
            return false;
    } while (taken != 0);
    s->input_length -= used;
    memmove(s->input, s->input + used, s->input_length);
    return true;
}

/* Nothing more to do for C now: it rests, or waits for the rest of a head. */
static void settle(struct server *s, struct connection *c, bool more_to_read)
{
    if (s->input_length == 0) {
        c->state = CONNECTION_REST;
        wait_for(s, c, WAIT_REST);
    } else {
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
    if (!c->source.watched || c->sends || more_to_read)
        watch_connection(s, c, false);
}

/* Answers what has come of a head, and will not become a request, with STATUS. */
static void refuse(struct server *s, struct connection *c, enum http_status status)
{
    struct http_request request;
    http_parse(s->input, s->input_length, &request);
    http_refuse(&request, status);
    respond(s, c, &request);
    send_output(s, c, s->input_length);
}

static void end_of_input(struct server *s, struct connection *c)
{
    if (s->input_length > 0)
        refuse(s, c, HTTP_BAD_REQUEST);
    else
        end_connection(s, c);
}

/* TO_THE_END: epoll has said that there is one, and will not say so again. */
static void read_requests(struct server *s, struct connection *c, bool to_the_end)
{
    restore(s, c);
    for (int reads = 0; reads < READS_MAX; reads++) {
        size_t room = sizeof s->input - s->input_length;
        ssize_t n = recv(c->source.fd, s->input + s->input_length, room, 0);
        if (n == 0) {
            end_of_input(s, c);
            return;
        }
        if (n < 0 && errno != EAGAIN) {
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
    c->state = CONNECTION_REST;
    if (answer(s, c))
        settle(s, c, false);
}

static void connection_ready(struct server *s, struct source *source, uint32_t events)
{
    struct connection *c = (struct connection *)source;
    switch ((enum state)c->state) {
    case CONNECTION_FREE: /* ended earlier in this batch of events */
        break;
    case CONNECTION_REST:
    case CONNECTION_HEAD:
        read_requests(s, c, events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR));
        break;
    case CONNECTION_SEND:
        send_rest(s, c);
        break;
    case CONNECTION_LINGER:
        drop_input(s, c);
        break;
    }
}

/* What waits to be read came in time: it was this process that had none, or was stopped. True: C
 * has another deadline now, or has ended. */
static bool read_late(struct server *s, struct connection *c)
{
    char byte;
    const int64_t since = c->since;
    if (recv(c->source.fd, &byte, sizeof byte, MSG_PEEK) <= 0)
        return false;
    read_requests(s, c, false);
    return c->state == CONNECTION_FREE || c->since != since;
}

static void time_out(struct server *s, struct connection *c)
{
    if ((c->state == CONNECTION_REST || c->state == CONNECTION_HEAD) && read_late(s, c))
        return;
    switch ((enum state)c->state) {
    case CONNECTION_FREE:
        break;
    case CONNECTION_REST:
        c->lingers = true;
        part(s, c);
        break;
    case CONNECTION_HEAD:
        restore(s, c);
        refuse(s, c, HTTP_REQUEST_TIMEOUT);
        break;
    case CONNECTION_SEND:
    case CONNECTION_LINGER:
        end_connection(s, c);
        break;
    }
}

static void expire_connections(struct server *s)
{
    struct connection *c;
    for (int kind = 0; kind < WAITS; kind++)
        while ((c = longest(&s->waiting[kind])) && s->now - c->since >= s->waiting[kind].ms)
            time_out(s, c);
}

/* ---- the process's life: serving ---- */

/* The connection that rested longest makes room for another. */
static bool make_room(struct server *s)
{
    struct connection *c = longest(&s->waiting[WAIT_REST]);
    if (c)
        end_connection(s, c);
    return c;
}

/* Until a connection ends, or for a while: what is short may be somebody else's to give back. */
static void pause_accepting(struct server *s)
{
    s->accept_at = s->now + PAUSE_MS;
    unwatch(s, &s->listener);
    unwatch(s, &s->predecessor);
}

static void resume_accepting(struct server *s)
{
    bool resumed = (s->listener.fd < 0 || watch(s, &s->listener, EPOLLIN)) &&
                   (s->predecessor.fd < 0 || watch(s, &s->predecessor, EPOLLIN));
    s->accept_at = resumed ? NEVER : s->now + PAUSE_MS;
}

/* Returns a new connection's descriptor. -1, and errno is ECONNABORTED: the next one may do. */
static int accept_one(struct server *s)
{
    bool made_room = false;
    for (;;) {
        errno = EMFILE;
        if (s->open < s->open_max) {
            int fd = accept4(s->listener.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
            if (fd >= 0 || errno == EAGAIN || errno == ECONNABORTED)
                return fd;
        }
        const bool full = errno == EMFILE || errno == ENFILE;
        /* Said before anybody looked into the queue: room is made for those who are there. */
        if (full && poll(&(struct pollfd){.fd = s->listener.fd, .events = POLLIN}, 1, 0) == 0) {
            errno = EAGAIN;
            return -1;
        }
        if (!full || made_room || !make_room(s)) {
            pause_accepting(s);
            errno = EAGAIN;
            return -1;
        }
        made_room = true;
    }
}

/* One, and more of them the longer there were always more: to find none costs as much as to accept
 * one. True: there may be more. */
static bool accept_some(struct server *s)
{
    const int most = 1 + s->accepted / ACCEPTS_MAX;
    for (int i = 0; i < most && i < ACCEPTS_MAX; i++) {
        int fd = accept_one(s);
        if (fd < 0 && errno == ECONNABORTED)
            continue;
        if (fd < 0) {
            s->accepted = 0;
            return false;
        }
        s->accepted++;
        s->rush++;
        /* Its first request is often there already. */
        struct connection *c = begin_connection(s, fd);
        if (c)
            read_requests(s, c, false);
    }
    return true;
}

static void accept_ready(struct server *s, struct source *source, uint32_t events)
{
    (void)source, (void)events;
    if (s->listener.fd >= 0)
        accept_some(s);
}

/* ---- the process's life: leaving ---- */

/* From now on each response says that it is the last, and who rests has a moment left for a request
 * that is on its way. */
static void part_with_all(struct server *s)
{
    struct waiting *rest = &s->waiting[WAIT_REST];
    s->moving = false;
    rest->ms = PARTING_MS;
    for (struct link *l = rest->ring.next; l != &rest->ring; l = l->next)
        connection_of(l)->since = s->now;
}

/* What nobody has accepted yet is the successor's, or else has its turn first. */
static void stop_listening(struct server *s)
{
    s->listen_until = NEVER;
    for (int i = 0; i < SOMAXCONN && !s->moving && accept_some(s); i++)
        ;
    close_source(s, &s->listener);
}

/* MOVING: connections go to the successor as they come to rest, and so do those that nobody has
 * accepted yet. */
static void leave(struct server *s, bool moving)
{
    s->leaving = true;
    s->moving = moving;
    s->drained_by = s->now + s->options->drain_ms;
    if (!moving)
        part_with_all(s);
    if (s->deferring && s->terminating) {
        /* A health check learns that this process ends before connections at rest are closed. */
        defer_accepting(s, false);
        s->listen_until = s->now + DEFERRED_MS;
        s->waiting[WAIT_REST].ms += DEFERRED_MS;
    } else {
        stop_listening(s);
    }
    if (s->open > 0)
        say("draining: %d connections", s->open);
}

static void lose_successor(struct server *s, const char *how)
{
    say("successor %s during the hand-over: %d connections end here", how, s->open);
    part_with_all(s);
}

/* Edge-triggered: tells once that there is room in it again, however long nobody needs it. */
static void watch_channel(struct server *s)
{
    watch(s, &s->channel, EPOLLIN | EPOLLOUT | EPOLLET);
}

/* Up to RESTART_BATCH connections that rest. False: there are none, or it cannot be done now. */
static bool move_some(struct server *s)
{
    int moving[RESTART_BATCH] = {0};
    size_t count = 0;
    struct link *ring = &s->waiting[WAIT_REST].ring;
    /* The first message is empty: there is room for it whatever the successor has. */
    for (struct link *l = ring->next; l != ring && s->introduced && count < RESTART_BATCH;
         l = l->next)
        moving[count++] = connection_of(l)->source.fd;
    if (count == 0 && s->introduced)
        return false;
    if (restart_give(&s->successor, moving, count) < 0) {
        if (errno == ETOOMANYREFS || errno == ENOBUFS || errno == ENOMEM)
            s->give_at = s->now + GIVE_AGAIN_MS;
        else if (errno == EAGAIN || errno == EINTR)
            watch_channel(s);
        else
            lose_successor(s, "went away");
        return false;
    }
    s->introduced = true;
    s->moved += count;
    while (count > 0) {
        struct connection *c = &s->connections[moving[--count]];
        unwatch(s, &c->source);
        end_connection(s, c);
    }
    return true;
}

static void move_all(struct server *s)
{
    if (s->give_at != NEVER && s->now < s->give_at)
        return;
    s->give_at = NEVER;
    while (s->moving && move_some(s))
        ;
    /* Nothing more comes: its answer is that it closes the channel, and by then it has written the
     * pid file, which so never names a process that has ended. */
    if (s->moving && s->introduced && !s->given && s->open == 0 && s->predecessor.fd < 0) {
        s->given = true;
        s->drained_by = s->now + PARTING_MS;
        restart_end(&s->successor);
    }
}

/* ---- the process's life: restarting ---- */

static void tell_manager(const char *state)
{
    if (restart_notify(state) < 0)
        say("cannot notify the service manager: %s", strerror(errno));
}

/* What epoll watches of the successor, closed or not there yet, is what RESTART says. */
static void follow_successor(struct server *s)
{
    s->process.fd = s->successor.process;
    s->channel.fd = s->successor.channel;
    s->process.watched = s->channel.watched = false;
}

__attribute__((format(printf, 2, 3))) static void restart_failed(struct server *s,
                                                                 const char *format, ...)
{
    char why[LINE_SIZE / 2], state[LINE_SIZE];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(why, sizeof why, format, arguments);
    va_end(arguments);
    s->restarting = false;
    s->news = RESTART_NOTHING;
    s->ready_by = NEVER;
    say("restart failed: %s", why);
    if (s->terminating)
        return;
    snprintf(state, sizeof state, "READY=1\nSTATUS=restart failed: %s", why);
    tell_manager(state);
}

/* The listener is the successor's, once it is this process's alone. */
static void hand_over(struct server *s)
{
    char state[64];
    if (s->news == RESTART_NOTHING || !s->alone || s->leaving || s->terminating)
        return;
    if (s->news == RESTART_TAKER && s->successor.channel < 0) {
        /* It closed the channel after its report: if it is ending, it is not to have the rest. */
        s->news = RESTART_READY;
        s->ready_by = s->now + PARTING_MS;
        return;
    }
    s->restarting = false;
    snprintf(state, sizeof state, "MAINPID=%ld\nREADY=1", (long)s->successor.pid);
    tell_manager(state);
    say("handed over to %ld: %d connections", (long)s->successor.pid,
        s->news == RESTART_TAKER ? s->open : 0);
    leave(s, s->news == RESTART_TAKER);
    move_all(s); /* who rests, before a drain timeout of 0 cuts who does not */
}

static void restart_now(struct server *s)
{
    const bool report = s->options->ready_ms > 0;
    const struct sigaction default_action = {.sa_handler = SIG_DFL};
    struct timespec now;
    char state[96], name[RESTART_NAME_MAX];
    clock_gettime(CLOCK_MONOTONIC, &now);
    snprintf(state, sizeof state, "RELOADING=1\nMONOTONIC_USEC=%lld\nSTATUS=",
             (long long)now.tv_sec * 1000000 + now.tv_nsec / 1000);
    tell_manager(state);
    s->introduced = s->successor_late = false;
    s->news = RESTART_NOTHING;
    if (restart_toggle(s->options->argv[0], name) < 0)
        name[0] = '\0';
    /* Ignored, where it was so at the start: the successor inherits that. */
    sigaction(SIGCHLD, &s->on_child, NULL);
    int started = restart_start(&s->successor, s->options->argv, s->listener.fd, report, &s->mask);
    int error = errno;
    sigaction(SIGCHLD, &default_action, NULL);
    if (started < 0) {
        restart_failed(s, "cannot start %s: %s", name, strerror(error));
        return;
    }
    say("successor started: %ld (%s)", (long)s->successor.pid, name);
    s->restarting = true;
    follow_successor(s);
    watch(s, &s->process, EPOLLIN);
    if (report) {
        watch_channel(s);
        tick(s); /* the manager and the start took their time */
        s->ready_by = s->now + s->options->ready_ms;
    } else {
        s->news = RESTART_READY;
        hand_over(s);
    }
}

/* How a process that ended with STATUS, as of waitpid(2), ended. */
static void describe_end(const struct server *s, int status, char text[LINE_SIZE / 4])
{
    const size_t size = LINE_SIZE / 4;
    if (s->successor_late)
        snprintf(text, size, "was not ready within %lld s and was killed",
                 (long long)s->options->ready_ms / 1000);
    else if (status != -1 && WIFSIGNALED(status))
        snprintf(text, size, "was ended by signal %d (%s)", WTERMSIG(status),
                 strsignal(WTERMSIG(status)));
    else if (status != -1)
        snprintf(text, size, "exited with status %d", WEXITSTATUS(status));
    else
        snprintf(text, size, "ended, nobody knows how");
}

static void successor_ended(struct server *s, pid_t pid, int status)
{
    char how[LINE_SIZE / 4];
    describe_end(s, status, how);
    follow_successor(s);
    if (s->restarting)
        restart_failed(s, "successor %ld %s", (long)pid, how);
    else if (s->moving && !s->given)
        lose_successor(s, how);
    else
        say("successor %ld %s", (long)pid, how);
}

/* Its channel or its pidfd. */
static void successor_ready(struct server *s, struct source *source, uint32_t events)
{
    (void)source, (void)events;
    int status;
    pid_t pid = s->successor.pid;
    enum restart_news news = restart_learn(&s->successor, &status);
    if (news == RESTART_ENDED) {
        successor_ended(s, pid, status);
    } else if (news != RESTART_NOTHING && s->news == RESTART_NOTHING && !s->successor_late &&
               !s->terminating) {
        s->news = news;
        s->ready_by = NEVER;
        hand_over(s);
    }
}

static void successor_is_late(struct server *s)
{
    /* Or was it this process, and the report waits? */
    successor_ready(s, &s->channel, 0);
    if (s->now < s->ready_by)
        return;
    if (s->news != RESTART_NOTHING) {
        s->ready_by = NEVER;
        hand_over(s);
        return;
    }
    /* And again, until it has ended. */
    s->ready_by = s->now + PAUSE_MS;
    s->successor_late = true;
    restart_signal(&s->successor, SIGKILL);
}

/* ---- the process's life: succeeding ---- */

/* False: and said why. */
static bool write_pid_file(const struct server *s)
{
    const char *file = s->options->pid_file;
    if (!file || restart_pid_write(file) == 0)
        return true;
    say("cannot write pid file %s: %s", file, strerror(errno));
    return false;
}

/* This process alone has the listener now. */
static void be_alone(struct server *s)
{
    if (s->alone)
        return;
    s->alone = true;
    write_pid_file(s);
    hand_over(s);
}

/* False: no more now. */
static bool take_some(struct server *s)
{
    int taken[RESTART_BATCH];
    int count = restart_take(s->predecessor.fd, taken, (size_t)(s->open_max - s->open));
    if (count < 0) {
        switch (errno) {
        case EPROTO:
            return true;
        case EAGAIN:
        case EINTR:
            return false;
        case ENOSPC:
            if (make_room(s))
                return true;
            /* fall through */
        case ENOMEM:
        case ENOBUFS:
            pause_accepting(s);
            return false;
        }
        close_source(s, &s->predecessor);
    }
    be_alone(s);
    while (count > 0) {
        struct connection *c = begin_connection(s, taken[--count]);
        if (c)
            watch_connection(s, c, false);
    }
    return s->predecessor.fd >= 0;
}

static void predecessor_ready(struct server *s, struct source *source, uint32_t events)
{
    (void)source, (void)events;
    while (s->predecessor.fd >= 0 && take_some(s))
        ;
}

/* ---- the process's life: signals and deadlines ---- */

static void terminate(struct server *s, const char *signal)
{
    say("%s received: %s", signal, s->terminating ? "ending at once" : "ending gracefully");
    if (s->terminating) {
        s->at_once = true;
        if (s->restarting)
            restart_signal(&s->successor, SIGKILL);
        return;
    }
    s->terminating = true;
    if (s->leaving)
        return;
    if (s->restarting)
        restart_signal(&s->successor, SIGTERM);
    s->ready_by = NEVER;
    /* A predecessor that has handed nothing over yet had better serve on. */
    predecessor_ready(s, &s->predecessor, 0);
    if (s->alone)
        tell_manager("STOPPING=1");
    else
        close_source(s, &s->predecessor);
    leave(s, false);
}

static void signals_ready(struct server *s, struct source *source, uint32_t events)
{
    (void)events;
    struct signalfd_siginfo info;
    while (read(source->fd, &info, sizeof info) == sizeof info) {
        if (info.ssi_signo != SIGUSR1) {
            terminate(s, info.ssi_signo == SIGTERM ? "SIGTERM" : "SIGINT");
        } else if (s->leaving || s->restarting) {
            say("SIGUSR1 received: ignored, %s",
                s->leaving ? "this process is leaving" : "a restart is pending");
        } else {
            say("SIGUSR1 received: restarting");
            restart_now(s);
        }
    }
}

/* The drain timeout has come: who still waits is cut off. */
static void cut(struct server *s)
{
    struct connection *c;
    int count = 0;
    s->drained_by = NEVER;
    for (int kind = 0; kind < WAITS; kind++)
        for (; (c = longest(&s->waiting[kind])); end_connection(s, c))
            count += kind != WAIT_LINGER;
    if (!s->given)
        say("drain timeout: %d connections cut", count);
    s->listen_until = NEVER;
    close_source(s, &s->listener);
    close_source(s, &s->predecessor);
    if (s->restarting)
        restart_signal(&s->successor, SIGKILL);
    s->moving = false;
}

static void expire(struct server *s)
{
    expire_connections(s);
    if (s->now >= s->ready_by)
        successor_is_late(s);
    if (s->now >= s->drained_by)
        cut(s);
    if (s->now >= s->accept_at)
        resume_accepting(s);
    if (s->now >= s->listen_until)
        stop_listening(s);
}

static int64_t sooner(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Milliseconds until something is due; -1: nothing is. */
static int next_timeout(struct server *s)
{
    int64_t due = sooner(sooner(s->ready_by, s->drained_by), sooner(s->accept_at, s->give_at));
    due = sooner(due, s->listen_until);
    for (int kind = 0; kind < WAITS; kind++) {
        const struct connection *c = longest(&s->waiting[kind]);
        if (c)
            due = sooner(due, c->since + s->waiting[kind].ms);
    }
    if (due == NEVER)
        return -1;
    return due <= s->now ? 0 : (int)sooner(due - s->now, INT_MAX);
}

static bool is_done(const struct server *s)
{
    return s->at_once ||
           (s->leaving && s->open == 0 && s->listener.fd < 0 && s->predecessor.fd < 0 &&
            !s->restarting && (!s->moving || (s->given && s->successor.channel < 0)));
}

static int run(struct server *s)
{
    struct epoll_event events[EVENTS_MAX];
    while (!is_done(s)) {
        int count = epoll_wait(s->epoll, events, EVENTS_MAX, next_timeout(s));
        tick(s);
        for (int i = 0; i < count; i++) {
            struct source *source = events[i].data.ptr;
            source->ready(s, source, events[i].events);
        }
        expire(s);
        move_all(s);
    }
    /* A successor that lives writes its own in its place. */
    if (s->options->pid_file && !(s->introduced && s->successor.pid > 0))
        restart_pid_remove(s->options->pid_file);
    say("ended: %lu connections moved", s->moved);
    return s->at_once ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* Before anything else: a signal that comes early waits. */
static void catch_signals(struct server *s)
{
    const struct sigaction ignore = {.sa_handler = SIG_IGN},
                           default_action = {.sa_handler = SIG_DFL};
    sigemptyset(&s->caught);
    sigaddset(&s->caught, SIGUSR1);
    sigaddset(&s->caught, SIGTERM);
    sigaddset(&s->caught, SIGINT);
    sigprocmask(SIG_BLOCK, &s->caught, &s->mask);
    sigaction(SIGPIPE, &ignore, NULL);
    /* Where it is ignored, how a successor ended is not to be learned: wait(2). */
    sigaction(SIGCHLD, &default_action, &s->on_child);
}

static void prepare(struct server *s)
{
    const struct source none = {.fd = -1};
    s->listener = s->signals = s->predecessor = s->process = s->channel = none;
    s->listener.ready = accept_ready;
    s->signals.ready = signals_ready;
    s->predecessor.ready = predecessor_ready;
    s->process.ready = s->channel.ready = successor_ready;
    s->successor = RESTART_NONE;
    s->listen_until = s->accept_at = s->ready_by = s->drained_by = s->give_at = NEVER;
}

/* False: and said why. */
static bool serve(struct server *s)
{
    s->signals.fd = signalfd(-1, &s->caught, SFD_NONBLOCK | SFD_CLOEXEC);
    s->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (s->epoll < 0 || s->signals.fd < 0 || !make_table(s) || !watch(s, &s->signals, EPOLLIN) ||
        !watch(s, &s->listener, EPOLLIN) ||
        (s->predecessor.fd >= 0 && !watch(s, &s->predecessor, EPOLLIN))) {
        say("cannot set up the event loop: %s", strerror(errno));
        return false;
    }
    start_waiting(&s->waiting[WAIT_REST], s->options->idle_ms);
    start_waiting(&s->waiting[WAIT_REQUEST], s->options->request_ms);
    start_waiting(&s->waiting[WAIT_LINGER], LINGER_MS);
    tick(s);
    s->deferring = true; /* perhaps: a predecessor may have been in a rush */
    defer_accepting(s, false);
    say_listening(s);
    if (s->predecessor.fd >= 0) {
        if (restart_report(s->predecessor.fd, true) == 0 || errno == EPIPE || errno == ECONNRESET)
            return true;
        /* It would be taken for late, and killed with the clients that it has by then. */
        say("cannot report to the predecessor: %s", strerror(errno));
        return false;
    }
    s->alone = true;
    if (!write_pid_file(s))
        return false;
    tell_manager("READY=1");
    return true;
}

int main(int argc, char **argv)
{
    struct options options = {
        .ready_ms = 10000, .drain_ms = 30000, .idle_ms = 60000, .request_ms = 10000, .fd = -1};
    struct server s = {.options = &options};
    prepare(&s);
    open_standard_streams();
    catch_signals(&s);
    int status = parse_options(&options, argc, argv);
    if (status >= 0)
        return status;
    s.predecessor.fd = restart_predecessor();
    status = find_listener(&s);
    if (status >= 0)
        return status;
    send_at_once(s.listener.fd);
    return serve(&s) ? run(&s) : EXIT_FAILURE;
}
