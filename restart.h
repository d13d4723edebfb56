/* SPDX-License-Identifier: 0BSD */
/*
 * restart.h - one process succeeds another on one listening socket, and no client notices.
 *
 * For any server on Linux 5.3 or newer, around any event loop. On SIGUSR1 the server starts its
 * successor: the program whose name is its own with a 1 appended, or without it. The module owns
 * the succession: it finds the inherited listener, starts the successor and watches it, hands
 * connections over, keeps the deadlines, writes the pid file, notifies the service manager
 * (sd_notify(3)), and tells the log. The server around it
 *
 *   1. calls restart_inherit() first in main, and restart_serve() once it can answer;
 *   2. polls the one descriptor that restart_serve() returns for reading, in place of its listener;
 *   3. in each turn of its loop (a library that owns the loop can run one turn at a time), after
 *      its own events, calls restart_accept(), in place of accept4(2), until it returns -1; then
 *      restart_step(); then, from RESTART_HANDING_OVER on, restart_leave() for each connection, and
 *      forgets it where that is true (a library that closes descriptors itself: give a dup(2) of
 *      it, and close that where it is false);
 *   4. asks restart_persists() before it promises a client that its connection stays open, closes
 *      connections with restart_close(), or tells restart_closed();
 *   5. exits with restart.status when the phase is RESTART_DONE, or more.
 *
 * The server has to know which of its connections are idle: those with no byte of a request read
 * and no byte of a response unsent. Such a connection is its descriptor and nothing else. A server
 * that can have fewer connections than descriptors lowers RLIMIT_NOFILE before it serves, and one
 * that goes into the background does so only where it has not inherited a listener.
 *
 *        restart_serve()
 *              |
 *              +--- started by a predecessor ---> INHERITING
 *              |                                      | it hands the listener over, or ends
 *              +--------------> SERVING <-------------+
 *                               |     ^
 *                       SIGUSR1 v     | the successor fails: what it has not received comes back
 *                             STARTING ------------------------+
 *        it takes no     /      | it is ready                  |
 *        connections    /       v                              |
 *                      /   HANDING_OVER -----------------------+ before the listener is closed
 *                     /         | all is handed over           |
 *                    v          v                              |
 *   SIGTERM --> DRAINING   STANDING_BY ------------------------+ within the rollback timeout
 *                    |          |
 *     drain timeout  v          | the time is up, or the successor drains
 *                   CUT -----> DONE        a second SIGTERM, in any phase: ABORTED
 *
 * Besides, SIGTERM takes INHERITING, and HANDING_OVER before the successor owns the listener, to
 * DRAINING. HANDING_OVER goes to DRAINING where the successor is lost later, back to STARTING where
 * it closes the channel before it owns the listener, to CUT at the drain timeout, and to DONE where
 * there is no rollback timeout. Where there is one, DRAINING and CUT end in STANDING_BY, and lead
 * back to SERVING as HANDING_OVER does.
 *
 * Not for processes with threads: it forks, and changes the environment. Functions that return int
 * return -1 with errno set on failure, unless said otherwise. None blocks, except that a
 * notification waits up to a tenth of a second for a service manager that does not read.
 */
#ifndef RESTART_H
#define RESTART_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum restart_phase {
    RESTART_INHERITING,   /* serve; the predecessor still owns the listener */
    RESTART_SERVING,      /* serve; this process owns the listener */
    RESTART_STARTING,     /* serve; a successor has been started */
    RESTART_HANDING_OVER, /* give what is idle, now and as it becomes idle */
    RESTART_STANDING_BY,  /* no connection is left; serves again if the successor crashes */
    RESTART_DRAINING,     /* each answer is a connection's last; close what is idle, in a moment */
    RESTART_CUT,          /* the drain deadline: hand over what is idle, close the rest */
    RESTART_DONE,         /* nothing is left to wait for: exit */
    RESTART_ABORTED,      /* told to end twice: exit at once */
};

struct restart_options {
    const char *pid_file; /* NULL: none */
    const char *version;  /* for the log; NULL: none */
    char **argv;          /* of a successor, without FD; NULL: what restart_inherit left */
    int ready_timeout;    /* seconds for a successor's report; 0: none is waited for */
    int drain_timeout;    /* seconds, from the start of a hand-over or from SIGTERM */
    int rollback_timeout; /* seconds, from a successor's report; 0: do not stand by */
    void (*log)(int priority, const char *line); /* LOG_ERR to LOG_INFO, syslog(3); NULL: silent */
    /* A server on epoll(7) may lend its own instance, to save a call for each new connection. Then
     * an event with ACCEPT_DATA asks for one restart_accept, one with STEP_DATA for restart_step
     * and all that restart_accept returns. 0: the module makes an instance of its own. */
    int epoll;
    void *accept_data, *step_data;
};

enum {
    RESTART_BATCH = 253, /* connections in one message: SCM_MAX_FD, unix(7) */
    RESTART_RESERVE = 6, /* descriptors that a restart needs: two pairs and a pidfd; one more */
    RESTART_DEADLINES = 11,
};

/* Its members are the module's own; PHASE, STATUS and INHERITED may be read. */
struct restart {
    enum restart_phase phase;
    int status; /* to exit with, once the phase is DONE or ABORTED */
    struct restart_options options;
    char **argv; /* of a successor, with room for FD at ARGC */
    int argc;
    sigset_t mask;             /* as this process was started */
    struct sigaction on_child; /* likewise */
    pid_t supervisor;          /* 0: none */
    int epoll, timer, signals;
    int listener;  /* -1: closed */
    int inherited; /* what restart_inherit or restart_listener found, usable or not */
    int reserve[RESTART_RESERVE];
    bool watched;      /* the listener, by EPOLL */
    bool offered;      /* the server has had a chance to give what is idle */
    bool again;        /* SIGUSR1 came before this process owned the listener */
    unsigned stops[2]; /* SIGTERM and SIGINT; those from the predecessor */
    unsigned turns;    /* calls of restart_accept */
    unsigned backlog;  /* connections in the queue at SIGTERM, not accepted yet */
    int64_t deadlines[RESTART_DEADLINES]; /* milliseconds of the monotonic clock */
    int64_t armed;                        /* what the timer is set to */
    int open;                             /* connections that the server has, or will accept */
    int cut;                              /* connections closed at the deadline; -1: logged */
    unsigned long handed_over;            /* connections */

    pid_t parent; /* the predecessor */
    int predecessor;
    int taken[RESTART_BATCH]; /* connections from it that restart_accept has not returned yet */
    int taken_count;

    struct {
        pid_t pid;          /* 0: none */
        int process;        /* pidfd */
        int execution;      /* pipe: errno of a failed execution, or end of file */
        int channel;        /* -1: closed, or it knows none */
        int error;          /* of its execution */
        char report;        /* 0: none yet, 'R': ready, 'T': ready, and takes connections */
        bool late;          /* it missed a deadline, and was killed */
        int room;           /* connections that a message may bring it */
        unsigned sent;      /* messages */
        unsigned received;  /* of them; the first makes the listener its own */
        bool has_successor; /* of its own, which carries on if it dies */
        int full_at;        /* what waited in the channel when it was full; 0: it was not */
        bool stalls;        /* it does not receive: it is not waited for any more */
    } successor;
    int batch[RESTART_BATCH]; /* connections given, that the successor has not received yet */
    int batch_count;
    bool batch_is_back; /* it failed: restart_accept returns them */
};

/*
 * Prepares RESTART, and finds out where this process comes from. Call it first in main.
 *
 * Returns the listener if there is one, close-on-exec and non-blocking (which the predecessor sees,
 * too: it belongs to the open file description): that of the predecessor, whose number, the last
 * argument, is taken off ARGC and ARGV; or else the service manager's (sd_listen_fds(3)). -1 with
 * errno 0: there is none, open one. -1 with another errno: exit, there is one, but not usable:
 * EBADF, ENOTSOCK, EINVAL (it does not listen), ENOTSUP (no stream), E2BIG (the manager passed
 * several).
 *
 * Side effects: opens /dev/null for each standard stream that is closed; blocks SIGUSR1, SIGTERM
 * and SIGINT, which are read from a signalfd(2) from restart_serve on; ignores SIGPIPE; SIGCHLD
 * gets its default action; removes RESTART_CHANNEL, RESTART_SUPERVISOR and LISTEN_* from the
 * environment. A successor is started with the signal mask and actions that stood before, but
 * SIGPIPE with its default action.
 */
int restart_inherit(struct restart *restart, int *argc, char **argv);

/* Takes FD, inherited in another way, as the listener, after the same checks. Returns FD. */
int restart_listener(struct restart *restart, int fd);

/*
 * Supervision, for managers that know one pid: call it between restart_inherit and restart_serve.
 * The caller goes on in a new process, where it returns -1 with errno 0. The first process stays
 * as the child subreaper (prctl(2)): it forwards SIGUSR1, SIGTERM and SIGINT to the process that
 * owns the listener, reaps, and returns the exit status for itself once the last server has ended:
 * that server's, or 128 and the number of the signal that ended it. -1 in a process that is
 * supervised already (errno 0), and on failure (errno as of fork(2)).
 */
int restart_supervise(struct restart *restart);

/*
 * Begins to serve on LISTENER, which is the module's from now on, with OPTIONS, whose strings and
 * argv stay the caller's and have to last. Writes the pid file, or reports to the predecessor;
 * tells the log and the service manager. Returns the descriptor to poll for reading. -1: the log
 * has been told why, the phase is RESTART_DONE and the status 1.
 */
int restart_serve(struct restart *restart, int listener, const struct restart_options *options);

/*
 * Does what is due, and returns the phase. Call it when the descriptor is readable, after the other
 * events of that turn of the loop have been handled: so a deadline closes nothing that is served.
 * The descriptor is readable again whenever restart_leave or restart_give may do more than before.
 */
enum restart_phase restart_step(struct restart *restart);

/*
 * Returns a connection, non-blocking and close-on-exec, which is then the caller's: a new one, one
 * that the predecessor handed over, or one that comes back from a successor that failed. -1:
 * EAGAIN, there is none now; EMFILE, there is one, and no descriptor for it: close the connection
 * that has been idle longest and call again, or wait.
 */
int restart_accept(struct restart *restart);

/* Closes CONNECTION, which restart_accept returned. restart_closed tells that the caller has closed
 * one, and has called shutdown(2) for it: a child that is being executed holds it, too. */
void restart_close(struct restart *restart, int connection);
void restart_closed(struct restart *restart);

/*
 * Does with CONNECTION what the phase asks for: gives it to the successor (restart_give, which
 * see), or closes it; or nothing. Returns whether the caller has to forget it.
 */
bool restart_leave(struct restart *restart, int connection, bool is_idle);

/*
 * Offers CONNECTION, which is idle, to the successor. On 0 it is the module's: the caller removes
 * it from its epoll set at once (EPOLL_CTL_DEL: closing does not, epoll(7), as the successor holds
 * the same open file description), and forgets it. -1: EAGAIN, not now, offer it again after the
 * next step; EPIPE, no successor takes it.
 */
int restart_give(struct restart *restart, int connection);

/* Whether a connection may persist after its answer. */
bool restart_persists(const struct restart *restart);

#endif
