/*
 * restart.h - one process succeeds another on one listening socket, and no client notices.
 *
 * For any server on Linux 5.11 or newer, around any event loop: this module polls nothing, prints
 * nothing and ends nothing; it hands out descriptors to poll, and functions to call when they are
 * readable. Both processes share one open listening socket, so no connection request is refused,
 * whichever of them accepts it.
 *
 *     the old process                         its successor
 *     restart_start(): spawn, serve on
 *                                             restart_listener(): check the inherited socket
 *                                             restart_predecessor(): find the channel
 *                                             serve, then restart_report()
 *     restart_learn() == RESTART_TAKER:
 *     stop accepting, restart_give()
 *                                             restart_take()
 *     exit                                    end of file on the channel
 *
 * Nothing is lost when a successor fails: the old process learns why, and serves on.
 *
 * Functions return 0 or more, or -1 with errno set, unless said otherwise. Not thread-safe, as the
 * environment is not.
 */
#ifndef RESTART_H
#define RESTART_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

enum {
    RESTART_BATCH = 253,     /* connections in one message: SCM_MAX_FD, unix(7) */
    RESTART_ACTIVATED = 3,   /* the first socket that restart_activation speaks of */
    RESTART_NAME_MAX = 4096, /* longest program name with its end: PATH_MAX */
};

/* ---- starting: the listener, wherever it comes from ---- */

/*
 * Checks that descriptor FD, inherited, is a listening socket, and makes it close-on-exec and
 * non-blocking. The latter belongs to the open file description: the predecessor sees it too.
 * errno: EBADF not open, ENOTSOCK, EINVAL not listening, ENOTSUP not a stream.
 */
int restart_listener(int fd);

/*
 * Socket activation, sd_listen_fds(3): returns how many sockets the service manager passed to this
 * very process, from descriptor 3 on; 0 for none. Removes LISTEN_PID, LISTEN_FDS and
 * LISTEN_FDNAMES from the environment, so that no successor mistakes them for its own.
 */
int restart_activation(void);

/* ---- the successor's side ---- */

/*
 * Returns the channel to the process that started this one, now close-on-exec; the caller polls
 * and closes it. -1: there is none, or the one announced is not this process's (it counts only if
 * it was made by the parent, and is a SOCK_SEQPACKET Unix socket; such a socket of anybody else is
 * closed). Removes RESTART_CHANNEL from the environment.
 */
int restart_predecessor(void);

/*
 * Tells the predecessor, without blocking, that this process serves: it stops accepting. TAKES:
 * also that it takes connections over, with restart_take.
 */
int restart_report(int channel, bool takes);

/*
 * Takes the next message from CHANNEL without blocking, with up to RESTART_BATCH connections, which
 * are then the caller's, close-on-exec. ROOM: how many descriptors this process may still open.
 * Returns how many came (0 is a message too), or -1. The first message says that the listener is
 * now this process's alone; so does the end.
 * errno: EAGAIN no message waits; ENOSPC more than ROOM connections wait in the next one, which is
 * left; EPROTO a message that this version does not know, which was dropped; ENOTCONN the end: no
 * more connections come, close the channel; else as of recvmsg(2).
 */
int restart_take(int channel, int connections[RESTART_BATCH], size_t room);

/* ---- the old process's side ---- */

/* A successor. The descriptors are for polling only; both are -1 when there is none. */
struct restart {
    pid_t pid;   /* 0: none */
    int process; /* pidfd, readable when it has ended */
    int channel; /* readable when it says something, writable when restart_give can go on; -1 once
                    closed, by restart_learn or restart_leave */
};

#define RESTART_NONE ((struct restart){.process = -1, .channel = -1})

enum restart_news {
    RESTART_NOTHING, /* not ready yet, or nothing new since */
    RESTART_READY,   /* it serves, and takes no connections */
    RESTART_TAKER,   /* it serves, and takes connections */
    RESTART_ENDED,   /* it ended and has been reaped; RESTART is RESTART_NONE again */
};

/*
 * Writes the name that follows NAME to SUCCESSOR: without one trailing 1 of its file name, or else
 * with one more. Folders are left alone, and so is a file name that is a mere 1.
 * errno: ENAMETOOLONG.
 */
int restart_toggle(const char *name, char successor[RESTART_NAME_MAX]);

/*
 * Starts the program that restart_toggle gives for ARGV[0] (in PATH if it has no slash), with
 * ARGV's other strings (up to a null pointer) and the number of LISTENER for its arguments; and
 * fills in RESTART. With REPORT there is a channel over which it is to call restart_report.
 *
 * It inherits the environment, descriptors 0, 1 and 2, the listener and its end of the channel,
 * and nothing else: each other descriptor of this process is made close-on-exec first
 * (close_range(2)). Its signal mask is MASK, SIGPIPE has its default action, other ignored signals
 * stay ignored, caught ones go back to their default.
 *
 * errno: of posix_spawn(3), so of execve(2) too (ENOENT, EACCES, ENOEXEC, ...), of socketpair(2) or
 * pidfd_open(2); then nothing is left behind.
 */
int restart_start(struct restart *restart, char *const argv[], int listener, bool report,
                  const sigset_t *mask);

/*
 * What became of the successor; to be called when one of the descriptors in RESTART is readable.
 * Never blocks. On RESTART_ENDED *STATUS is as from waitpid(2), or -1 where this process ignores
 * SIGCHLD, so that nobody can know. A successor that said it was ready, but has ended since, has
 * ended.
 */
enum restart_news restart_learn(struct restart *restart, int *status);

/* Sends SIGNAL to the successor, if there is one; that it ended is still to be learned. */
void restart_signal(const struct restart *restart, int signal);

/*
 * Gives COUNT connections (at most RESTART_BATCH, none is fine) to a successor that takes them, in
 * one message, without blocking. All or none: on 0 it has them, and the caller removes its own from
 * its epoll set (the successor keeps the same open file description, so closing alone does not:
 * epoll(7)) and closes them. The first call also says that the listener is the successor's alone:
 * close it before.
 * errno: EAGAIN the channel is full, poll it for writing; ETOOMANYREFS too many descriptors are on
 * their way, try again soon (unix(7)); EPIPE or ECONNRESET the successor is gone.
 */
int restart_give(const struct restart *restart, const int *connections, size_t count);

/* Ends the channel in this direction: no connections come any more. A successor that has taken
 * them all closes its side: the channel is readable, and restart_learn closes it. */
void restart_end(const struct restart *restart);

/* Closes both descriptors and forgets the successor, which goes on. It is not reaped. */
void restart_leave(struct restart *restart);

/* ---- for whoever watches over them ---- */

/*
 * Writes this process's pid and a newline to FILE as a whole: into FILE.PID, which then takes its
 * name.
 */
int restart_pid_write(const char *file);

/* Removes FILE if it names this process. */
void restart_pid_remove(const char *file);

/*
 * Sends STATE, newline-separated assignments, to the service manager: sd_notify(3). Does nothing
 * where NOTIFY_SOCKET is not set. Waits for the manager for a tenth of a second at most.
 */
int restart_notify(const char *state);

#endif
