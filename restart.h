/* SPDX-License-Identifier: 0BSD */
/*
 * restart.h - one process succeeds another on its listening sockets, and no client notices.
 *
 * For any server on Linux 5.3 or newer, around any event loop. On SIGUSR1 the server starts its
 * successor: the program whose name is its own with a 1 appended, or with that 1 removed. The
 * module finds inherited listeners, starts and watches the successor, hands connections over, keeps
 * the deadlines, writes the pid file, notifies the service manager (sd_notify(3)) and logs. The
 * server around it
 *
 *   1. calls restart_inherit() first in main, then restart_listener() for each listener that it
 *      opens itself, and restart_serve() when it can answer requests;
 *   2. polls the one descriptor that restart_serve() returns for reading, instead of its listeners;
 *   3. in each turn of its loop, after its own events, calls restart_accept(), instead of
 *      accept4(2), until it returns -1 (or once: the descriptor stays readable while connections
 *      wait), and restart_step(), in either order; then, from RESTART_HANDING_OVER on,
 *      restart_leave() for each connection, and closes each for which it returns true. In a
 *      library's loop, that is a loop around a call that runs one turn (EVRUN_ONCE, UV_RUN_ONCE,
 *      EVLOOP_ONCE), or a hook that runs before the loop waits (ev_prepare, uv_prepare,
 *      evwatch_prepare_new);
 *   4. asks restart_persists() before it tells a client that its connection stays open, and closes
 *      connections with restart_close(), or reports each with restart_closed();
 *   5. exits with restart.status when the phase is RESTART_DONE or later.
 *
 * The server must know which of its connections are idle: those of which it has read no byte of a
 * request and has no byte of a response to send. Such a connection is a descriptor and nothing
 * else. A server that can hold fewer connections than descriptors lowers RLIMIT_NOFILE first, or
 * does not poll the descriptor while it is full, and still calls restart_step.
 *
 * Until a successor has claimed the listeners it holds no connection. It may fail, hang or be
 * killed at any moment before that, and no client notices.
 *
 *         restart_serve()
 *              |
 *              v      SIGTERM, or the pid file cannot be written
 *         INHERITING ---------------------------------------------> DONE
 *              | the first restart_step claims the listeners
 *              v
 *           SERVING <--------------------+-------------------------+
 *            |    | SIGUSR1              | the successor fails      |
 *            |    v                      | before it has claimed    |
 *            |  STARTING ----------------+ the listeners            |
 *    SIGTERM |    |      |                                         |
 *            |    |      | it has claimed them                     |
 *            |    |      v                                         |
 *            |    |    HANDING_OVER -------------------------------+
 *            |    |      |         |         it crashes within the rollback timeout
 *            v    v      |         |
 *          DRAINING <----+         | no connection is left, the rollback timeout is over
 *            |      it takes no    v and the service manager knows
 *            |      connections   DONE
 *            v
 *           DONE      the drain timeout, in HANDING_OVER or DRAINING: CUT, then DONE
 *                     a second SIGTERM, in any phase: ABORTED
 *
 * Not for processes with threads: it forks, and changes the environment. Functions that return int
 * return -1 with errno set on failure, unless their comment says otherwise. None of them blocks.
 */
#ifndef RESTART_H
#define RESTART_H

#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

enum restart_phase {
    RESTART_INHERITING,   /* not serving yet: the first restart_step claims the listeners */
    RESTART_SERVING,      /* this process owns the listeners and accepts connections */
    RESTART_STARTING,     /* the same; a successor has been started */
    RESTART_HANDING_OVER, /* the successor owns them; idle connections are handed over to it */
    RESTART_DRAINING,     /* each answer is a connection's last; idle ones are closed after 1 s */
    RESTART_CUT,          /* the drain timeout is over: the server closes what is in flight */
    RESTART_DONE,         /* nothing is left to wait for: exit */
    RESTART_ABORTED       /* told to end twice: exit at once */
};

struct restart_options {
    const char *pid_file; /* NULL: none; written and removed with the rights of that moment */
    const char *version;  /* for the log and the service manager; NULL: none */
    char **argv;          /* of a successor, without FD; NULL: what restart_inherit left */
    int ready_timeout;    /* seconds for a successor to claim the listeners; 0: do not wait */
    int drain_timeout;    /* seconds, from the hand-over or from SIGTERM */
    int rollback_timeout; /* seconds, from the hand-over; 0: a crash is not rolled back */
    void (*log)(int priority, const char *line); /* LOG_ERR to LOG_INFO; NULL: restart_log */
    /* A server on epoll(7) may lend its own instance, which saves a call for each new connection.
     * An event with ACCEPT_DATA then asks for one restart_accept, an event with STEP_DATA for
     * restart_step and for restart_accept until that returns -1. 0: the module creates its own. */
    int epoll;
    void *accept_data, *step_data;
};

enum {
    RESTART_LISTENERS = 16, /* listeners of one server */
    RESTART_RESERVE = 8,    /* descriptors that a restart needs when connections use up the rest */
    RESTART_NOTICES = 4096, /* bytes that wait for the service manager to read: four messages */
    RESTART_DEADLINES = 6
};

/* Of the members only PHASE, STATUS, LISTENERS and LISTENER_COUNT are for the caller, to read. */
struct restart {
    enum restart_phase phase;
    int status;                       /* to exit with when the phase is DONE or ABORTED */
    int listeners[RESTART_LISTENERS]; /* in the order in which they were added */
    int listener_count;
    int inherited;                       /* how many of them, from the first on, were inherited */
    unsigned backlog[RESTART_LISTENERS]; /* connections still to be accepted after SIGTERM */
    struct restart_options options;
    sigset_t caught;           /* SIGUSR1, SIGTERM and SIGINT */
    sigset_t mask;             /* as this process was started */
    struct sigaction on_child; /* likewise */
    char directory[PATH_MAX];  /* likewise; empty: not known */
    struct stat directory_found;
    pid_t pid;        /* of the process that claimed the listeners */
    pid_t supervisor; /* 0: none */
    int lifeline;     /* to the supervisor */
    int life;         /* the supervisor's end closes this, and the kernel kills this process */
    int epoll, timer, signals;
    int reserve[RESTART_RESERVE];
    unsigned stops; /* SIGTERM, SIGINT: 1: from others, 2: the predecessor, 4: the supervisor */
    unsigned turns; /* calls of restart_accept */
    bool restart_wanted;  /* SIGUSR1 came; the restart begins as soon as it may */
    bool announce_is_due; /* the pid file could not be written, or the supervisor not told */
    int64_t deadlines[RESTART_DEADLINES]; /* milliseconds of the monotonic clock */
    int open;                             /* connections that the server has */
    unsigned long handed_over;            /* connections, since the hand-over began */
    unsigned long closed;                 /* likewise, those handed over included */
    unsigned long finished;               /* by the drain timeout */

    pid_t parent;    /* the predecessor; 0: none */
    int predecessor; /* the channel to it; -1: closed */
    struct {
        char name[PATH_MAX];
        pid_t pid;        /* 0: none */
        int process;      /* pidfd */
        int execution;    /* pipe: the errno of a failed execution, or end of file */
        int channel;      /* -1: closed, or it knows none */
        int error;        /* why it could not be started, and the call that failed */
        const char *call; /* NULL: its execution */
        char report;      /* 0: none yet, 'R': ready, 'T': ready, takes connections, 'L': killed */
        bool releases;    /* it need not be rolled back any more: D */
    } successor;
    int barrier;                   /* end of file: the service manager has read everything */
    char notices[RESTART_NOTICES]; /* messages that wait for it to read, each with its NUL */
    size_t notices_length;
};

/*
 * Prepares RESTART and finds out where this process comes from. Call it first in main.
 *
 * Returns the number of inherited listeners: those of the predecessor, whose numbers (3, or 3,4)
 * are the last argument and are removed from ARGC and ARGV; otherwise those of the service manager
 * (sd_listen_fds(3)). 0: none, open your own. -1: an inherited descriptor is not usable, and the
 * default log says why: exit.
 *
 * Side effects: opens /dev/null for each standard stream that is closed; blocks SIGUSR1, SIGTERM
 * and SIGINT, which the module reads from a signalfd(2); ignores SIGPIPE and SIGXFSZ; gives SIGCHLD
 * its default action; removes RESTART_CHANNEL, RESTART_SUPERVISOR and LISTEN_* from the
 * environment. A successor starts with the signal mask and actions that this process was started
 * with, except that SIGPIPE and SIGXFSZ have their default action; in the directory that this
 * process was started in (after chroot(2) only an absolute name finds it); and with no descriptor
 * above 2 but the listeners and the module's own. Its arguments are ARGV's strings of that moment,
 * so do not change them (strtok(3), setproctitle(3)).
 */
int restart_inherit(struct restart *restart, int *argc, char **argv);

/*
 * Adds FD, a listening stream socket that the server opened, as a listener. The module owns FD from
 * now on (do not close it) and makes it close-on-exec and non-blocking. -1: EBADF, ENOTSOCK, EINVAL
 * (it does not listen), ENOTSUP (not a stream), ENOSPC (RESTART_LISTENERS are there already).
 */
int restart_listener(struct restart *restart, int fd);

/*
 * Takes the listeners whose numbers are in TEXT ("3" or "3,4") instead of those that were inherited
 * so far: for a server that was started by a program that knows only the FD argument. Returns their
 * number, or -1 as restart_inherit does.
 */
int restart_listeners(struct restart *restart, const char *text);

/*
 * Supervision, for managers that know one pid. Call it between restart_inherit and restart_serve.
 * The caller continues in a new process, in which it returns -1 with errno 0. The first process
 * stays as the child subreaper (prctl(2)) and closes all descriptors above 2. It forwards SIGUSR1,
 * SIGTERM and SIGINT to the process that owns the listeners, reaps orphans, and when no server is
 * left returns the status to exit with: that of the last owner, or 128 and the number of the signal
 * that ended it. When the first process ends, the kernel kills all servers below it. Returns -1
 * with errno 0 in a process that is supervised already, and -1 with errno on failure.
 */
int restart_supervise(struct restart *restart);

/*
 * Begins to serve with OPTIONS; their strings and argv stay the caller's and must remain valid.
 * Returns the descriptor to poll for reading. The first restart_step claims the listeners: it
 * writes the pid file, tells the predecessor, and logs. A server that goes into the background with
 * daemon(3) may do so before that step, but only if restart_inherit returned 0: a successor's end
 * would be its failure. -1: the log says why, the phase is RESTART_DONE and the status 1.
 */
int restart_serve(struct restart *restart, const struct restart_options *options);

/*
 * Does what is due and returns the phase. Call it when the descriptor is readable, after the other
 * events of the same turn of the loop, so that a deadline closes no connection that has just sent a
 * request. The descriptor becomes readable whenever restart_accept, restart_leave or restart_give
 * may do more than before.
 */
enum restart_phase restart_step(struct restart *restart);

/*
 * Returns a connection, non-blocking and close-on-exec: a new one from any listener, or one that
 * the predecessor hands over; getsockname(2) and getpeername(2) tell where it comes from. The
 * caller owns it. -1: EAGAIN, there is none now; EMFILE, one waits and no descriptor is free: close
 * the connection that has been idle longest and call again, or wait.
 */
int restart_accept(struct restart *restart);

/*
 * Closes CONNECTION, which restart_accept returned. restart_closed reports that the caller has
 * closed one itself. Remove CONNECTION from an epoll set of your own first (EPOLL_CTL_DEL): a
 * successor that holds the same open file description keeps its events coming, epoll(7). A server
 * that reports too few is held open until its drain timeout.
 */
void restart_close(struct restart *restart, int connection);
void restart_closed(struct restart *restart);

/*
 * Does with CONNECTION what the phase demands: hands it over (see restart_give), or nothing.
 * Returns true if the caller must close it now, as it closes any other, with restart_close.
 */
bool restart_leave(struct restart *restart, int connection, bool is_idle);

/*
 * Hands CONNECTION, which must be idle, over to the successor, and removes it from the epoll
 * instance that the server has lent. On 0 the caller must close it, with restart_close. -1: EAGAIN,
 * try again after the next step; EPIPE, there is no successor that takes connections.
 */
int restart_give(struct restart *restart, int connection);

/*
 * For a library that owns CONNECTION and closes it itself: as restart_leave, but CONNECTION stays
 * open. If it returns true, CONNECTION is now a socket at end of file, so that the library closes
 * it and its shutdown(2) does not reach the client; do not report that with restart_closed. A
 * library on epoll(7) must remove CONNECTION from its set before, and add it again afterwards.
 */
bool restart_leave_to_library(struct restart *restart, int connection, bool is_idle);

/* Returns true if a connection may persist after the next answer. */
bool restart_persists(const struct restart *restart);

/*
 * For a process that the server forks, also if it then executes another program, because the signal
 * mask survives execve(2): closes the module's descriptors, and restores the mask, the actions for
 * SIGPIPE and SIGXFSZ (set your own after that) and, unless the server has set its own, that for
 * SIGCHLD. Children do not disturb the module, not even if a
 * handler for SIGCHLD reaps the successor: then the log cannot say how that ended, and its end
 * counts as a crash.
 */
void restart_child(struct restart *restart);

/* The default log: writes one line to standard error, with the program's name and pid or, for the
 * journal (JOURNAL_STREAM, systemd.exec(5)), with the priority. Never blocks. */
void restart_log(int priority, const char *line);

#ifdef __cplusplus
}
#endif

#endif
