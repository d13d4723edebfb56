/* SPDX-License-Identifier: 0BSD */
/*
 * hammer - a load that tells apart the ways in which a restart can be noticed.
 *
 * Several classes of clients at once, in one epoll loop. Each client has one connection; when it
 * dies, the client counts what that did to it, connects anew and goes on. A request is one of HTTP,
 * or with --echo a message, no two of which are alike, whose answer is the same bytes. Each request
 * ends as answered, failed, refused or wrong, and a connection that ends with nothing outstanding,
 * which no request asked for, as closed or announced: --help says what these counts mean.
 *
 * A latency runs from the last piece of a request (from connect(2), for a connection per request)
 * to the end of its answer; a pipelined request's from the start of its batch.
 */
#include <err.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    ANSWER_MAX = 4096, /* the longest answer, and as much as is read at once */
    MESSAGE_MIN = 32,  /* enough to tell one message from all others */
    PIECES = 5,        /* of a slow client's request */
    EVENTS = 256,      /* taken from one epoll_wait */
    FINE = 32,         /* steps of a histogram within a power of two: 3 % */
    STEPS = 60 * FINE, /* enough for any 64-bit number */
    FILES_KEPT = 16,   /* open files that are no client's */
    SETTING = 256,     /* getopt_long's value of the first setting */
};

#define MS     UINT64_C(1000000) /* times are in nanoseconds, of CLOCK_MONOTONIC */
#define SECOND (1000 * MS)
#define NEVER  UINT64_MAX
#define RETRY  (10 * MS) /* from a connection lost to the next try: a dead server is not stormed */
#define SETTLE (20 * SECOND) /* the others start even if an idle client is not idle by then */

/* Clients start, and idle ones ask again, at this distance: nine thousand at once would say more
 * about the listener's backlog than about its server. */
#define STAGGER (MS / 5)

/* The classes of clients. */
enum kind {
    KEEPALIVE,
    THINKING,
    PIPELINING,
    CONNECTING,
    SLOW,
    IDLING,
    KINDS,
};

/* What can be set: how many clients of each class, and these. */
enum {
    DURATION = KINDS,
    DEADLINE,
    STATUS,
    SIZE,
    DEPTH,
    THINK,
    DRIP,
    PAUSE,
    WINDOW,
    PROGRESS,
    SETTINGS,
};

static const struct {
    const char *name;
    char letter;
    uint64_t unit; /* 1: a plain number */
    double usual;
    const char *help;
} settings[SETTINGS] = {
    [KEEPALIVE] = {"keepalive", 'k', 1, 16, "clients that ask over and over on one connection"},
    [THINKING] = {"thinking", 't', 1, 16, "that are idle between two requests"},
    [PIPELINING] = {"pipelining", 'p', 1, 4, "that send many requests at once"},
    [CONNECTING] = {"connecting", 'c', 1, 4, "that make a new connection for each request"},
    [SLOW] = {"slow", 's', 1, 8, "that send a request in small pieces"},
    [IDLING] = {"idle", 'i', 1, 100, "that ask once at the start and once at the end"},
    [DURATION] = {"duration", 'd', SECOND, 10, "how long requests are started"},
    [DEADLINE] = {"deadline", 0, SECOND, 10, "a request unanswered for so long has failed"},
    [STATUS] = {"status", 0, 1, 200, "status of the right answer"},
    [SIZE] = {"size", 0, 1, 64, "bytes of a message, with --echo"},
    [DEPTH] = {"depth", 0, 1, 8, "requests that a pipelining client sends at once"},
    [THINK] = {"think", 0, MS, 10, "how long a thinking client is idle"},
    [DRIP] = {"drip", 0, MS, 20, "between two pieces of a slow client's request"},
    [PAUSE] = {"pause", 0, MS, 0, "between two requests of other clients"},
    [WINDOW] = {"window", 0, MS, 500, "length of the phase that SIGUSR1 starts"},
    [PROGRESS] = {"progress", 0, MS, 0, "between two lines of progress; 0: none"},
};

static const char usage_start[] =
    "Usage: hammer [OPTIONS] ADDRESS:PORT\n"
    "Loads an HTTP or echo server, and tells apart the ways in which clients notice its restarts.\n"
    "\n"
    "    hammer --path /hello --body hello 127.0.0.1:8080\n"
    "    hammer --echo -k 8 -i 500 127.0.0.1:7777\n"
    "\n";

static const char usage_end[] =
    "      --path PATH       what to ask for (/)\n"
    "      --body TEXT       the right answer (Hello, World!), of at most 4 KiB\n"
    "      --echo            no HTTP: each message, a line of text, is to come back whole\n"
    "      --json            report on one line of JSON\n"
    "  -v, --verbose         each event but an answer on standard error\n"
    "\n"
    "With no number of clients given, the numbers shown. The others start once the idle ones\n"
    "have asked; standard error then says: idle N. For some time after each SIGUSR1 to this\n"
    "tool, answers belong to the phase \"restart\", otherwise to \"quiet\". SIGINT or SIGTERM end\n"
    "it early. A line of progress: milliseconds, answered since the line before, each other count\n"
    "so far, longest latency since the line before. Latencies are in milliseconds. The counts:\n"
    "\n"
    "  answered    the whole, right answer came\n"
    "  failed      the request, or part of it, was sent, but no whole answer came: end of file, a\n"
    "              reset, or the deadline. A new connection that dies before its first answer,\n"
    "              too, and requests behind one that was answered with Connection: close\n"
    "  refused     no connection came about\n"
    "  closed      an idle connection was closed: a request on its way would have failed\n"
    "  announced   a connection was closed after an answer that said Connection: close\n"
    "  wrong       another answer than the right one, bytes that no request asked for, or a\n"
    "              connection left open that was to be closed\n"
    "\n"
    "Exit status: 0 all was answered; 1 something was not; 2 it could not run.\n";

enum count {
    ANSWERED,
    FAILED,
    REFUSED,
    CLOSED,
    ANNOUNCED,
    WRONG,
    COUNTS
};

static const char *const count_names[COUNTS] = {"answered", "failed",    "refused",
                                                "closed",   "announced", "wrong"};

enum phase {
    QUIET,
    RESTART,
    PHASES
};

static const char *const phase_names[PHASES] = {"quiet", "restart"};

struct stats {
    uint64_t count[COUNTS];
    uint64_t latency[STEPS]; /* how many answers took so long */
    uint64_t longest;
};

enum state {
    AWAY,    /* no connection, until it is due */
    OPENING, /* connecting */
    SENDING, /* part of its requests is not sent yet; for a slow client, until it is due */
    WAITING, /* all is sent, answers are missing */
    IDLE,    /* connected with nothing outstanding, until it is due */
    CLOSING, /* has its answer, and waits for the close that it asked for */
    DONE,
};

struct client {
    enum kind kind;
    enum state state;
    int fd;
    bool proven;       /* an answer has come over this connection */
    char *requests;    /* all that is sent at once */
    size_t answers;    /* to those requests */
    size_t sent;       /* bytes of them */
    uint64_t asked;    /* when latency starts */
    uint64_t deadline; /* of what it is doing */
    size_t held;       /* bytes of answers, not yet whole */
    char answer[ANSWER_MAX];
};

/* What all clients of a class have in common. */
struct load {
    size_t depth;   /* requests sent at once */
    size_t each;    /* bytes of one of them */
    char *request;  /* the same each time, but with --echo */
    uint64_t pause; /* between two of them, or two pieces of one */
};

struct hammer {
    /* as asked for */
    uint64_t set[SETTINGS];
    const char *path, *body;
    int echo, json; /* as getopt_long sets them */
    bool verbose;
    struct sockaddr_storage server;
    socklen_t server_size;
    struct load load[KINDS];

    /* the clients; due[] stands apart because it is all looked through each millisecond, which
     * for some thousand numbers in a row costs less than keeping them in order */
    struct client *clients;
    uint64_t *due;
    size_t total, undone, idling;
    uint64_t messages; /* made so far */

    int epoll, signals;
    uint64_t started, end, marked_until, reported, looked;
    bool settled, ending, marked;

    uint64_t reported_answers, longest; /* as of, and since, the last line of progress */
    struct stats stats[KINDS][PHASES];
};

static uint64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * SECOND + (uint64_t)now.tv_nsec;
}

/* ---- counts and latencies ---- */

static struct stats *stats_of(struct hammer *h, const struct client *client, uint64_t now)
{
    return &h->stats[client->kind][now < h->marked_until ? RESTART : QUIET];
}

static void count(struct hammer *h, const struct client *client, enum count what, uint64_t times,
                  const char *why)
{
    uint64_t now = now_ns();

    stats_of(h, client, now)->count[what] += times;
    if (h->verbose)
        fprintf(stderr, "hammer: %.3f s: %s client %td: %" PRIu64 " %s: %s\n",
                (double)(now - h->started) / 1e9, settings[client->kind].name, client - h->clients,
                times, count_names[what], why);
}

static size_t step_of(uint64_t latency)
{
    if (latency < FINE)
        return (size_t)latency;
    size_t shift = 63 - (size_t)__builtin_clzll(latency) - 5; /* 2^5 is FINE */
    return shift * FINE + (latency >> shift);
}

static uint64_t step_end(size_t step)
{
    if (step < FINE)
        return step;
    return ((step % FINE + FINE + 1) << (step / FINE - 1)) - 1;
}

static void count_answer(struct hammer *h, const struct client *client)
{
    uint64_t now = now_ns(), latency = now - client->asked;
    struct stats *stats = stats_of(h, client, now);

    stats->count[ANSWERED]++;
    stats->latency[step_of(latency)]++;
    stats->longest = latency > stats->longest ? latency : stats->longest;
    h->longest = latency > h->longest ? latency : h->longest;
}

static void add_stats(struct stats *sum, const struct stats *stats)
{
    for (size_t i = 0; i < COUNTS; i++)
        sum->count[i] += stats->count[i];
    for (size_t i = 0; i < STEPS; i++)
        sum->latency[i] += stats->latency[i];
    if (sum->longest < stats->longest)
        sum->longest = stats->longest;
}

/* The latency in milliseconds that a share of all answers did not exceed. */
static double percentile(const struct stats *stats, double share)
{
    double seen = (double)stats->latency[0], wanted = share * (double)stats->count[ANSWERED];
    size_t step = 0;

    while (seen < wanted && step < STEPS - 1)
        seen += (double)stats->latency[++step];
    uint64_t end = step_end(step);
    return (double)(end < stats->longest ? end : stats->longest) / 1e6;
}

/* ---- a client's life ---- */

static void set_state(struct hammer *h, struct client *client, enum state state, uint64_t due)
{
    if (client->kind == IDLING)
        h->idling = h->idling + (state == IDLE) - (client->state == IDLE);
    client->state = state;
    h->due[client - h->clients] = due;
}

/* Ends the connection, if any; the client goes on after WAIT, unless all comes to an end. */
static void leave(struct hammer *h, struct client *client, uint64_t wait)
{
    if (client->fd >= 0)
        close(client->fd);
    client->fd = -1;
    if (h->ending) {
        set_state(h, client, DONE, NEVER);
        h->undone--;
        return;
    }
    set_state(h, client, AWAY, now_ns() + wait);
}

/* The connection has ended, or took too long: counts what that means to the client. */
static void lose(struct hammer *h, struct client *client, const char *why)
{
    const struct load *load = &h->load[client->kind];
    size_t begun = (client->sent + load->each - 1) / load->each, open = begun - client->answers;

    if (client->state == OPENING)
        count(h, client, REFUSED, 1, why);
    else if (client->state != CLOSING && open == 0 && client->proven)
        count(h, client, CLOSED, 1, why);
    else if (client->state != CLOSING)
        count(h, client, FAILED, open > 0 ? open : 1, why);
    leave(h, client, client->state == CLOSING ? load->pause : RETRY);
}

/* Nothing more can be made of what this connection says. Returns -1. */
static int give_up(struct hammer *h, struct client *client, uint64_t times, const char *why)
{
    count(h, client, WRONG, times, why);
    leave(h, client, RETRY);
    return -1;
}

static void send_requests(struct hammer *h, struct client *client)
{
    const struct load *load = &h->load[client->kind];
    size_t whole = load->each * load->depth, length = whole - client->sent;
    bool slow = client->kind == SLOW;

    if (slow && length > load->each / PIECES)
        length = load->each / PIECES;
    if (slow)
        client->asked = now_ns();
    ssize_t n = send(client->fd, client->requests + client->sent, length, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN) {
        lose(h, client, strerror(errno));
        return;
    }
    client->sent += n > 0 ? (size_t)n : 0;
    uint64_t next = slow ? client->asked + load->pause : client->deadline;
    if (client->sent == whole)
        set_state(h, client, WAITING, client->deadline);
    else
        set_state(h, client, SENDING, next < client->deadline ? next : client->deadline);
}

/* Messages that a message of another client, or an earlier one, cannot be taken for. */
static void make_messages(struct hammer *h, struct client *client)
{
    const struct load *load = &h->load[client->kind];
    char text[MESSAGE_MIN];

    for (char *m = client->requests; m < client->requests + load->each * load->depth;
         m += load->each) {
        int length = snprintf(text, sizeof(text), "message %" PRIu64 " ", h->messages++);

        memset(m, 'a' + (char)(h->messages % 26), load->each - 1);
        memcpy(m, text, (size_t)length);
        m[load->each - 1] = '\n';
    }
}

static void ask(struct hammer *h, struct client *client)
{
    uint64_t now = now_ns();

    if (h->echo)
        make_messages(h, client);
    client->deadline = now + h->set[DEADLINE];
    if (client->kind != CONNECTING)
        client->asked = now;
    client->sent = 0;
    client->answers = 0;
    set_state(h, client, SENDING, client->deadline);
    send_requests(h, client);
}

static void open_connection(struct hammer *h, struct client *client)
{
    const int on = 1;
    const struct sockaddr *server = (const struct sockaddr *)&h->server;
    /* Edge-triggered: what a client waits for follows from its state, and never needs telling. */
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = client};

    client->fd = socket(server->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (client->fd < 0)
        err(2, "unable to make a socket");
    setsockopt(client->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    client->asked = now_ns();
    client->deadline = client->asked + h->set[DEADLINE];
    client->proven = false;
    client->sent = client->answers = 0;
    client->held = 0;
    set_state(h, client, OPENING, client->deadline);
    if (connect(client->fd, server, h->server_size) < 0 && errno != EINPROGRESS) {
        if (errno == EADDRNOTAVAIL) /* no port left: not the server's doing */
            err(2, "unable to connect");
        lose(h, client, strerror(errno));
        return;
    }
    if (epoll_ctl(h->epoll, EPOLL_CTL_ADD, client->fd, &event) < 0)
        err(2, "unable to watch a connection");
}

/* Where nobody listens, a connection can meet itself: its own port may be the one it asks for. */
static bool meets_itself(const struct hammer *h, const struct client *client)
{
    struct sockaddr_storage self = {0};
    socklen_t size = sizeof(self);

    return getsockname(client->fd, (struct sockaddr *)&self, &size) == 0 &&
           memcmp(&self, &h->server, h->server_size) == 0;
}

static void opened(struct hammer *h, struct client *client)
{
    int error = 0;
    socklen_t size = sizeof(error);

    getsockopt(client->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error == 0 && meets_itself(h, client))
        error = ECONNREFUSED;
    if (error != 0)
        lose(h, client, strerror(error));
    else
        ask(h, client);
}

/* All that was asked is answered: what the client does next. */
static void answered_all(struct hammer *h, struct client *client)
{
    uint64_t next = client->kind == SLOW ? 0 : now_ns() + h->load[client->kind].pause;

    if (client->kind == CONNECTING && h->echo)
        shutdown(client->fd, SHUT_WR);
    if (client->kind == CONNECTING)
        set_state(h, client, CLOSING, client->deadline);
    else if (h->ending)
        leave(h, client, 0);
    else
        set_state(h, client, IDLE, client->kind == IDLING ? NEVER : next);
}

/* The last answer said that the connection closes, which no request had asked for. */
static void announced(struct hammer *h, struct client *client)
{
    size_t open = client->sent / h->load[client->kind].each - client->answers;

    count(h, client, ANNOUNCED, 1, "Connection: close");
    if (open > 0)
        count(h, client, FAILED, open, "sent before it could know");
    leave(h, client, 0);
}

/* ---- answers ---- */

enum verdict {
    PARTIAL, /* so far right */
    RIGHT,   /* whole */
    OTHER,   /* whole, but not the one expected */
    GARBLED, /* where it ends cannot be told */
};

struct answer {
    size_t length; /* of head and body */
    bool closes;   /* it says Connection: close */
};

/* Tells what the LENGTH bytes at TEXT are; fills in ANSWER where they are a whole one. */
static enum verdict examine(const struct hammer *h, char *text, size_t length,
                            struct answer *answer)
{
    static const char version[] = "HTTP/1.1 ", size[] = "\r\nContent-Length:";
    char *end = memmem(text, length, "\r\n\r\n", 4), *rest = NULL;

    if (memcmp(text, version, length < strlen(version) ? length : strlen(version)) != 0)
        return GARBLED;
    if (end == NULL)
        return PARTIAL;
    end[2] = '\0'; /* for the time of reading it, the head is a string */
    const char *field = strcasestr(text, size);
    long body = field == NULL ? -1 : strtol(field + strlen(size), &rest, 10);
    bool clear = body >= 0 && *rest == '\r' && strcasestr(rest, size) == NULL &&
                 strcasestr(text, "\r\nTransfer-Encoding:") == NULL;
    answer->closes = strcasestr(text, "\r\nConnection: close\r\n") != NULL;
    end[2] = '\r';
    if (!clear || body > ANSWER_MAX)
        return GARBLED;
    answer->length = (size_t)(end + 4 - text) + (size_t)body;
    if (answer->length > length)
        return PARTIAL;
    bool right = strtoul(text + strlen(version), NULL, 10) == h->set[STATUS] &&
                 (size_t)body == strlen(h->body) && memcmp(end + 4, h->body, (size_t)body) == 0;
    return right ? RIGHT : OTHER;
}

/* The same for an echo: it may come before all of its message is sent. */
static enum verdict examine_echo(const struct hammer *h, const struct client *client,
                                 const char *text, size_t length, struct answer *answer)
{
    const size_t each = h->load[client->kind].each, at = client->answers * each;

    *answer = (struct answer){.length = each};
    if (length > client->sent - at ||
        memcmp(text, client->requests + at, length < each ? length : each) != 0)
        return GARBLED;
    return length < each ? PARTIAL : RIGHT;
}

/* Takes one answer, AT bytes into what the client holds. Returns its length, 0 if it is not whole
 * yet, or -1 if it was the last that this connection gave. */
static ssize_t take_answer(struct hammer *h, struct client *client, size_t at)
{
    size_t each = h->load[client->kind].each, begun = (client->sent + each - 1) / each;
    size_t open = (h->echo ? begun : client->sent / each) - client->answers;
    char *text = client->answer + at;
    struct answer answer;

    if (open == 0)
        return give_up(h, client, 1, "bytes that no request asked for");
    switch (h->echo ? examine_echo(h, client, text, client->held - at, &answer)
                    : examine(h, text, client->held - at, &answer)) {
    case PARTIAL:
        if (at > 0 || client->held < ANSWER_MAX)
            return 0;
        return give_up(h, client, open, "too long");
    case GARBLED:
        return give_up(h, client, open,
                       h->echo ? "not what was sent" : "not HTTP/1.1 as it should be");
    case OTHER:
        count(h, client, WRONG, 1, "not the answer expected");
        break;
    case RIGHT:
        count_answer(h, client);
        break;
    }
    client->answers++;
    client->proven = true;
    if (answer.closes && client->kind != CONNECTING) {
        announced(h, client);
        return -1;
    }
    return (ssize_t)answer.length;
}

/* Takes all that is whole of what the client holds. Returns false if that ended the connection. */
static bool take_answers(struct hammer *h, struct client *client)
{
    size_t at = 0;

    while (at < client->held) {
        ssize_t taken = take_answer(h, client, at);

        if (taken < 0)
            return false;
        if (taken == 0)
            break;
        at += (size_t)taken;
    }
    client->held -= at;
    memmove(client->answer, client->answer + at, client->held);
    if (client->state == WAITING && client->answers == h->load[client->kind].depth)
        answered_all(h, client);
    return client->state != DONE;
}

/* Reads all there is, up to the end of the connection if that has come: no client asks anything on
 * a connection that it can know to be closed. Then asks, if that is due. */
static void receive(struct hammer *h, struct client *client)
{
    for (;;) {
        ssize_t n = recv(client->fd, client->answer + client->held, ANSWER_MAX - client->held, 0);

        if (n < 0 && errno == EAGAIN)
            break;
        if (n <= 0) {
            lose(h, client, n == 0 ? "end of file" : strerror(errno));
            return;
        }
        client->held += (size_t)n;
        if (!take_answers(h, client))
            return;
    }
    if (client->state == IDLE && h->due[client - h->clients] <= now_ns())
        ask(h, client);
}

/* ---- the loop ---- */

static void happened(struct hammer *h, struct client *client, uint32_t events)
{
    if (client->state == OPENING) {
        if (events & (EPOLLOUT | EPOLLERR | EPOLLHUP))
            opened(h, client);
        return;
    }
    if (client->state == SENDING && client->kind != SLOW && (events & EPOLLOUT))
        send_requests(h, client);
    if (client->fd >= 0 && (events & ~(uint32_t)EPOLLOUT))
        receive(h, client);
}

static void act(struct hammer *h, struct client *client, uint64_t now)
{
    switch (client->state) {
    case AWAY:
        if (h->ending)
            leave(h, client, 0);
        else
            open_connection(h, client);
        break;
    case IDLE:
        if (h->ending && client->kind != IDLING)
            leave(h, client, 0);
        else
            receive(h, client);
        break;
    case SENDING:
        if (now < client->deadline) {
            send_requests(h, client);
            break;
        }
        /* fall through */
    case OPENING:
    case WAITING:
        lose(h, client, "deadline");
        break;
    case CLOSING:
        give_up(h, client, 1, "left open");
        break;
    case DONE:
        break;
    }
}

/* The idle clients have asked: the others start, and time runs. */
static void begin(struct hammer *h, uint64_t now)
{
    if (h->set[IDLING] > 0)
        fprintf(stderr, "idle %zu\n", h->idling);
    h->settled = true;
    h->started = h->reported = now;
    h->end = now + h->set[DURATION];
    for (size_t i = 0; i < h->total; i++)
        if (h->clients[i].kind != IDLING)
            h->due[i] = now + i * STAGGER;
}

/* Nothing new is asked from here on, but for the idle clients, which ask once more. */
static void finish(struct hammer *h, uint64_t now)
{
    size_t rank = 0;

    h->ending = true;
    for (size_t i = 0; i < h->total; i++)
        if (h->clients[i].state == AWAY)
            h->due[i] = now;
        else if (h->clients[i].state == IDLE)
            h->due[i] = h->clients[i].kind == IDLING ? now + rank++ * STAGGER : now;
}

static struct stats sum_of(const struct hammer *h, enum kind first, enum kind last, enum phase from,
                           enum phase to)
{
    struct stats sum = {.longest = 0};

    for (enum kind kind = first; kind <= last; kind++)
        for (enum phase phase = from; phase <= to; phase++)
            add_stats(&sum, &h->stats[kind][phase]);
    return sum;
}

static uint64_t others(const struct stats *stats)
{
    uint64_t sum = 0;

    for (size_t i = ANSWERED + 1; i < COUNTS; i++)
        sum += stats->count[i];
    return sum;
}

static void report_progress(struct hammer *h, uint64_t now)
{
    struct stats all = sum_of(h, 0, KINDS - 1, 0, PHASES - 1);

    printf("progress %" PRIu64 " %" PRIu64, (now - h->started) / MS,
           all.count[ANSWERED] - h->reported_answers);
    for (size_t i = ANSWERED + 1; i < COUNTS; i++)
        printf(" %" PRIu64, all.count[i]);
    printf(" %.3f\n", (double)h->longest / 1e6);
    h->reported += h->set[PROGRESS];
    h->reported_answers = all.count[ANSWERED];
    h->longest = 0;
}

static void take_signals(struct hammer *h)
{
    struct signalfd_siginfo signal;

    while (read(h->signals, &signal, sizeof(signal)) == sizeof(signal)) {
        if (signal.ssi_signo == SIGUSR1) {
            h->marked = true;
            h->marked_until = now_ns() + h->set[WINDOW];
        } else if (!h->ending) {
            finish(h, now_ns());
        }
    }
}

/* What is to be done because of the time, once a millisecond. */
static void look_around(struct hammer *h, uint64_t now)
{
    h->looked = now;
    if (!h->settled && !h->ending && (h->idling == h->set[IDLING] || now >= h->started + SETTLE))
        begin(h, now);
    else if (h->settled && !h->ending && now >= h->end)
        finish(h, now);
    for (size_t i = 0; i < h->total; i++)
        if (h->due[i] <= now)
            act(h, &h->clients[i], now);
    if (h->settled && h->set[PROGRESS] > 0 && now >= h->reported + h->set[PROGRESS])
        report_progress(h, now);
}

static void run(struct hammer *h)
{
    struct epoll_event events[EVENTS];

    h->started = now_ns();
    while (h->undone > 0) {
        int n = epoll_wait(h->epoll, events, EVENTS, 1);

        if (n < 0 && errno != EINTR)
            err(2, "unable to wait for events");
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr == NULL)
                take_signals(h);
            else
                happened(h, events[i].data.ptr, events[i].events);
        }
        uint64_t now = now_ns();
        if (now - h->looked >= MS)
            look_around(h, now);
    }
}

/* ---- the report ---- */

static void print_stats(const struct hammer *h, const char *name, const struct stats *stats)
{
    static const struct {
        const char *name;
        double share;
    } marks[] = {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p99.9", 0.999}, {"max", 1}};
    const size_t last = sizeof(marks) / sizeof(marks[0]) - 1;

    printf(h->json ? ",\"%s\":{" : "%-10s", name);
    for (size_t i = 0; i < COUNTS; i++)
        printf(h->json ? "\"%s\":%" PRIu64 "," : " %s=%" PRIu64, count_names[i], stats->count[i]);
    for (size_t i = 0; i <= last; i++)
        printf(h->json ? "\"%s\":%.3f%s" : " %s=%.3f%s", marks[i].name,
               percentile(stats, marks[i].share), h->json && i < last ? "," : "");
    printf(h->json ? "}" : "\n");
}

static int report(const struct hammer *h)
{
    const struct stats all = sum_of(h, 0, KINDS - 1, 0, PHASES - 1);
    struct stats sum;

    if (h->json)
        printf("{\"seconds\":%.3f", (double)(now_ns() - h->started) / 1e9);
    for (enum kind kind = 0; kind < KINDS; kind++) {
        sum = sum_of(h, kind, kind, 0, PHASES - 1);
        if (h->set[kind] > 0)
            print_stats(h, settings[kind].name, &sum);
    }
    for (enum phase phase = 0; h->marked && phase < PHASES; phase++) {
        sum = sum_of(h, 0, KINDS - 1, phase, phase);
        print_stats(h, phase_names[phase], &sum);
    }
    print_stats(h, "total", &all);
    if (h->json)
        puts("}");
    return all.count[ANSWERED] > 0 && others(&all) == 0 ? 0 : 1;
}

/* ---- start-up ---- */

static void print_usage(void)
{
    fputs(usage_start, stdout);
    for (size_t i = 0; i < SETTINGS; i++) {
        const char *unit = settings[i].unit == 1 ? "N" : settings[i].unit == MS ? "MS" : "SEC";
        const char letter[] = {'-', settings[i].letter, ',', '\0'};

        printf("  %3s --%-10s %-4s %s (%g)\n", settings[i].letter ? letter : "", settings[i].name,
               unit, settings[i].help, settings[i].usual);
    }
    fputs(usage_end, stdout);
}

static void set(struct hammer *h, size_t setting, const char *text)
{
    char *end;
    double value = strtod(text, &end);

    double least = setting == DEPTH ? 1 : setting == SIZE ? MESSAGE_MIN : 0;
    double most = setting == SIZE ? ANSWER_MAX : 1e6;

    if (end == text || *end != '\0' || !(value >= least && value <= most))
        errx(2, "not a number of %g to %g for --%s: %s", least, most, settings[setting].name, text);
    h->set[setting] = (uint64_t)(value * (double)settings[setting].unit);
}

static void take_option(struct hammer *h, int option)
{
    size_t setting = 0;

    switch (option) {
    case 'P':
        h->path = optarg;
        break;
    case 'B':
        h->body = optarg;
        break;
    case 'v':
        h->verbose = true;
        break;
    case 0: /* a flag, set already */
        break;
    case 'h':
        print_usage();
        exit(0);
    case '?':
        exit(2);
    default:
        while (setting < SETTINGS && option != settings[setting].letter)
            setting++;
        set(h, setting < SETTINGS ? setting : (size_t)(option - SETTING), optarg);
        break;
    }
}

/* Returns what is left of the arguments: the server. */
static const char *take_options(struct hammer *h, int argc, char *argv[])
{
    struct option options[SETTINGS + 7] = {
        {"path", required_argument, NULL, 'P'}, {"body", required_argument, NULL, 'B'},
        {"echo", no_argument, &h->echo, 1},     {"json", no_argument, &h->json, 1},
        {"verbose", no_argument, NULL, 'v'},    {"help", no_argument, NULL, 'h'},
    };
    uint64_t clients = 0;
    int option;

    h->path = "/";
    h->body = "Hello, World!";
    for (size_t i = 0; i < SETTINGS; i++)
        options[i + 6] =
            (struct option){settings[i].name, required_argument, NULL, SETTING + (int)i};
    for (size_t i = KINDS; i < SETTINGS; i++)
        h->set[i] = (uint64_t)(settings[i].usual * (double)settings[i].unit);
    while ((option = getopt_long(argc, argv, "k:t:p:c:s:i:d:vh", options, NULL)) != -1)
        take_option(h, option);
    if (optind + 1 != argc)
        errx(2, "one ADDRESS:PORT is needed (see --help)");
    for (size_t i = 0; i < KINDS; i++)
        clients += h->set[i];
    for (size_t i = 0; i < KINDS && clients == 0; i++)
        h->set[i] = (uint64_t)settings[i].usual;
    return argv[optind];
}

/* Finds out the address from ADDRESS:PORT or [ADDRESS]:PORT. */
static void find_server(struct hammer *h, const char *text)
{
    const struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV,
                                   .ai_socktype = SOCK_STREAM};
    const char *colon = strrchr(text, ':'), *start = text, *end = colon;
    struct addrinfo *found;
    char address[INET6_ADDRSTRLEN] = "";

    if (colon != NULL && *text == '[' && end[-1] == ']') {
        start++;
        end--;
    }
    if (colon == NULL || (size_t)(end - start) >= sizeof(address))
        errx(2, "not an ADDRESS:PORT: %s", text);
    memcpy(address, start, (size_t)(end - start));
    int error = getaddrinfo(address, colon + 1, &hints, &found);
    if (error != 0)
        errx(2, "unable to find %s: %s", text, gai_strerror(error));
    memcpy(&h->server, found->ai_addr, found->ai_addrlen);
    h->server_size = found->ai_addrlen;
    freeaddrinfo(found);
}

/* Prepares what the clients of each class do. */
static void prepare_loads(struct hammer *h, const char *host)
{
    for (enum kind kind = 0; kind < KINDS; kind++) {
        struct load *load = &h->load[kind];
        int length = asprintf(&load->request, "GET %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", h->path,
                              host, kind == CONNECTING ? "Connection: close\r\n" : "");

        if (length < 0)
            errx(2, "out of memory");
        load->pause = h->set[kind == THINKING ? THINK : kind == SLOW ? DRIP : PAUSE];
        load->depth = kind == PIPELINING ? h->set[DEPTH] : 1;
        load->each = h->echo ? h->set[SIZE] : (size_t)length;
    }
}

static void make_client(struct hammer *h, struct client *client, enum kind kind)
{
    const struct load *load = &h->load[kind];

    client->kind = kind;
    client->fd = -1;
    client->requests = malloc(load->depth * load->each);
    if (client->requests == NULL)
        errx(2, "out of memory");
    for (size_t i = 0; i < load->depth && !h->echo; i++)
        memcpy(client->requests + i * load->each, load->request, load->each);
}

/* Makes the clients; the idle ones start at once, the others when these are idle. */
static void make_clients(struct hammer *h)
{
    struct rlimit limit;
    size_t made = 0;

    for (enum kind kind = 0; kind < KINDS; kind++)
        h->total += h->set[kind];
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    if (h->total + FILES_KEPT > limit.rlim_cur)
        errx(2, "%zu clients are too many for %ju open files", h->total, (uintmax_t)limit.rlim_cur);
    h->clients = calloc(h->total + 1, sizeof(*h->clients));
    h->due = calloc(h->total + 1, sizeof(*h->due));
    if (h->clients == NULL || h->due == NULL)
        errx(2, "out of memory");
    for (enum kind kind = 0; kind < KINDS; kind++) {
        for (size_t i = 0; i < h->set[kind]; i++, made++) {
            make_client(h, &h->clients[made], kind);
            h->due[made] = kind == IDLING ? now_ns() + i * STAGGER : NEVER;
        }
    }
    h->undone = h->total;
}

static void open_epoll(struct hammer *h)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    sigset_t signals;

    sigemptyset(&signals);
    sigaddset(&signals, SIGUSR1);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    h->signals = signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC);
    h->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (h->signals < 0 || h->epoll < 0 ||
        epoll_ctl(h->epoll, EPOLL_CTL_ADD, h->signals, &event) < 0)
        err(2, "unable to watch for events");
}

int main(int argc, char *argv[])
{
    static struct hammer h;

    setvbuf(stdout, NULL, _IOLBF, 0);
    const char *server = take_options(&h, argc, argv);
    find_server(&h, server);
    prepare_loads(&h, server);
    make_clients(&h);
    open_epoll(&h);
    run(&h);
    return report(&h);
}
