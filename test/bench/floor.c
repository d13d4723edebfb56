/* SPDX-License-Identifier: 0BSD */
/*
 * floor.c - what a web server on epoll cannot do without, and nothing else: the floor that
 * test/bench/bench.sh measures servers against.
 *
 *     floor PORT LENGTH [COUNT [close]]
 *
 * Receives once for each event and sends once: COUNT responses (1) for each LENGTH bytes that came.
 * Does not look at them, keeps no time, does not handle a partial request or send. A new connection
 * is read from at once. With close each response is its connection's last.
 *
 * Of its variants this is the cheapest where it was measured: connections edge-triggered, the
 * listener level-triggered and asked for one connection an event (accepting until EAGAIN costs an
 * accept4 more for each wake-up, and this one allocates a socket before it fails).
 */
#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    EVENTS_MAX = 128,
    INPUT_MAX = 16 * 1024,
    BATCH_MAX = 128, /* responses in one send */
    RESPONSE_MAX = 256,
    BACKLOG = 4096,
};

static char responses[BATCH_MAX * RESPONSE_MAX];
static size_t response_length;
static size_t length; /* of COUNT requests */
static size_t count = 1;
static bool closes;

/* As long as what rust_graceful_restart answers. */
static void make_responses(void)
{
    char date[30], one[RESPONSE_MAX];
    time_t now = time(NULL);
    strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", gmtime(&now));
    response_length = (size_t)snprintf(
        one, sizeof one,
        "HTTP/1.1 200 OK\r\nDate: %s\r\nContent-Type: text/plain; charset=utf-8\r\n"
        "Content-Length: 13\r\n%s\r\nHello, World!",
        date, closes ? "Connection: close\r\n" : "");
    for (size_t i = 0; i < BATCH_MAX; i++)
        memcpy(responses + i * response_length, one, response_length);
}

static int open_listener(uint16_t port)
{
    const int on = 1;
    const struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
        bind(fd, (const struct sockaddr *)&address, sizeof address) < 0 || listen(fd, BACKLOG) < 0)
        return -1;
    return fd;
}

static void watch(int epoll, int fd, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        close(fd);
}

/* Returns whether the connection stays. */
static bool serve(int fd)
{
    static char input[INPUT_MAX];
    ssize_t n = recv(fd, input, sizeof input, 0);
    if (n < 0 && errno == EAGAIN)
        return true;
    size_t requests = n > 0 ? (size_t)n / length * count : 0;
    size_t answered = requests < BATCH_MAX ? requests : BATCH_MAX;
    if (n > 0 && send(fd, responses, answered * response_length, MSG_NOSIGNAL) > 0 && !closes)
        return true;
    close(fd);
    return false;
}

int main(int argc, char **argv)
{
    length = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
    if (argc > 3)
        count = strtoul(argv[3], NULL, 10);
    if (length == 0 || count == 0) {
        fprintf(stderr, "Usage: %s PORT LENGTH [COUNT [close]]\n", argv[0]);
        return 2;
    }
    closes = argc > 4;
    make_responses();
    int listener = open_listener((uint16_t)strtoul(argv[1], NULL, 10));
    int epoll = epoll_create1(0);
    if (listener < 0 || epoll < 0) {
        perror("floor");
        return 1;
    }
    watch(epoll, listener, EPOLLIN);
    for (;;) {
        struct epoll_event events[EVENTS_MAX];
        int ready = epoll_wait(epoll, events, EVENTS_MAX, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd != listener)
                serve(fd);
            else if ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0 &&
                     serve(fd))
                watch(epoll, fd, EPOLLIN | EPOLLET);
        }
    }
}
