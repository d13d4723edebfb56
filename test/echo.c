/* echo.c - sends back what it gets; with restart.h, kill -USR1 replaces it and no client notices.
 */
#include <err.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "restart.h"

enum {
    LISTENER,
    SIGNALS,
    PREDECESSOR,
    PROCESS,
    CHANNEL,
    CLIENTS,
    MAX = 1024
};
static struct pollfd fds[MAX]; /* poll(2) passes over a descriptor of -1 */

static void add(int fd)
{
    int i = CLIENTS;
    while (i < MAX - 1 && fds[i].fd >= 0)
        i++;
    close(fds[i].fd);
    fds[i] = (struct pollfd){fd, POLLIN, 0};
}

static void echo(int i)
{
    char bytes[4096];
    ssize_t n = read(fds[i].fd, bytes, sizeof bytes);
    if (n > 0 && send(fds[i].fd, bytes, (size_t)n, MSG_NOSIGNAL) == n)
        return;
    close(fds[i].fd);
    fds[i].fd = -1;
}

static void hand_over(const struct restart *successor)
{
    close(fds[LISTENER].fd);
    restart_give(successor, NULL, 0);
    for (int i = CLIENTS; i < MAX; i++)
        while (fds[i].fd >= 0 && restart_give(successor, &fds[i].fd, 1) < 0) {
            if (errno != EAGAIN && errno != ETOOMANYREFS)
                err(1, "cannot hand over");
            poll(&(struct pollfd){successor->channel, POLLOUT, 0}, 1, 100);
        }
    exit(0);
}

int main(int argc, char **argv)
{
    if (argc < 2)
        errx(2, "usage: %s PORT [FD]", argv[0]);
    struct sockaddr_in address = {AF_INET, .sin_port = htons((in_port_t)atoi(argv[1]))};
    struct restart successor = RESTART_NONE;
    sigset_t caught, mask;
    sigemptyset(&caught);
    sigaddset(&caught, SIGUSR1);
    sigprocmask(SIG_BLOCK, &caught, &mask);
    int listener = argc > 2 ? atoi(argv[2]) : socket(AF_INET, SOCK_STREAM, 0);
    if (argc == 2 && bind(listener, (struct sockaddr *)&address, sizeof address) < 0)
        err(1, "cannot bind port %s", argv[1]);
    if ((argc == 2 && listen(listener, SOMAXCONN) < 0) || restart_listener(listener) < 0)
        err(1, "cannot listen on descriptor %d", listener);
    argv[2] = NULL; /* restart_start appends it anew */
    int signals = signalfd(-1, &caught, SFD_CLOEXEC), predecessor = restart_predecessor();
    for (int i = 0; i < MAX; i++)
        fds[i] = (struct pollfd){i == SIGNALS ? signals : i == LISTENER ? listener : -1, POLLIN, 0};
    restart_report(predecessor, true);
    for (;;) {
        struct signalfd_siginfo info;
        int taken[RESTART_BATCH], count = 0, status;
        fds[PREDECESSOR].fd = predecessor;
        fds[PROCESS].fd = successor.process;
        fds[CHANNEL].fd = successor.channel;
        poll(fds, MAX, -1);
        for (int i = CLIENTS; i < MAX; i++)
            if (fds[i].revents)
                echo(i);
        if (fds[LISTENER].revents)
            add(accept(listener, NULL, NULL));
        if (fds[PREDECESSOR].revents && (count = restart_take(predecessor, taken, MAX)) < 0) {
            close(predecessor);
            predecessor = -1;
        }
        while (count > 0)
            add(taken[--count]);
        if (fds[SIGNALS].revents && read(signals, &info, sizeof info) > 0 && !successor.pid &&
            restart_start(&successor, argv, listener, true, &mask) < 0)
            warn("restart failed, serving on");
        enum restart_news news = restart_learn(&successor, &status);
        if (news == RESTART_ENDED)
            warnx("restart failed, serving on: status %d", status);
        if (news == RESTART_TAKER)
            hand_over(&successor);
    }
}
