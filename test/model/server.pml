/* SPDX-License-Identifier: 0BSD */
/*
 * server.pml - servers that use restart.h, as processes of a model. The three models include it.
 *
 * The phases, the messages and the order of the steps are those of restart.c. Between any two
 * statements outside an atomic block another process may act, crash or be killed, so a condition
 * before an atomic block may be out of date when the block runs. The inlines are named after the
 * functions of restart.c that they stand for:
 *
 *   claim       claim(), announce()      hear        hear_successor(), hand_over(),
 *   start       start(), spawn()                     successor_ended()
 *   become      become()                 give_up     end_waiting()
 *   take_stop   signal_stop(), stop()    cut         end_draining()
 *   end         enter() with RESTART_DONE or RESTART_ABORTED
 *
 * The loop of a server is restart_step(), with read_signals(), meet_deadlines() and move_on(), and
 * the connections from the predecessor that restart_accept() returns. The model that includes this
 * file defines what a server tells others (tell_owner and so on), or that it tells them nothing.
 *
 * Processes have places. The successor of the process in place I takes place I + 1; a place is free
 * again once its process has ended and was waited for. A deadline may come at any moment after it
 * is set. Not modelled, because no order of events depends on them: the size of queues, descriptors
 * and memory that run out, system calls that fail (but fork, execve and writing the pid file), and
 * HTTP.
 */
#ifndef PLACES
#define PLACES 3        /* generations that live at the same time: 2 to 4 */
#endif
#ifndef ROLLBACK
#define ROLLBACK 1      /* 0: there is no rollback timeout */
#endif
#ifndef READY
#define READY 1         /* 0: --ready-timeout 0 */
#endif
#ifndef OLD
#define OLD 0           /* the place of an older build, which takes no connections, and does not
                           register its successor; ALL: each successor is one */
#endif
#ifndef CONNECTIONS
#define CONNECTIONS 0   /* at most 2 */
#endif

mtype:phase = { INHERITING, SERVING, STARTING, HANDING_OVER, DRAINING, CUT, DONE, ABORTED };
mtype:message = { R2, R, D, C1 };
mtype:life = { ABSENT, FORKED, EXECUTING, RUNNING, HUNG, ZOMBIE };

#define OTHERS      1   /* senders of SIGTERM */
#define PREDECESSOR 2
#define SUPERVISOR  4

typedef process {
    mtype:life life = ABSENT;
    mtype:phase phase = INHERITING;
    bit listens;        /* the listeners are open */
    bit claimed;        /* the successor has reported */
    bit takes;          /* it takes connections */
    bit rollback;       /* a crash of the successor is rolled back */
    bit overdue;        /* the time for that is over, and the next step will notice */
    bit usr1;           /* SIGUSR1 is pending, or restart_wanted is set */
    byte stop;          /* the sender of SIGTERM or SIGINT that is pending */
    byte stops;         /* the senders of those that have been read */
    bit unannounced;    /* announce_is_due */
    bit has_parent;     /* the predecessor lives */
    bit predecessor;    /* the channel to the predecessor is open at this end */
    bit given_up;       /* the predecessor reads no reports any more: shutdown(2), SHUT_RD */
    bit refuses;        /* this process takes no further connections of it: the same */
    bit well;           /* it has ended, with status 0 */
    bit doomed;         /* for the claims: pending when the predecessor was told to end */
};
process p[5];           /* the last place stays empty */

/* Number I is the channel between I and its predecessor. */
chan reports[5] = [3] of { mtype:message };                 /* R2, R, D */
chan connections[5] = [1] of { mtype:message, byte };       /* C1, and the connection */

#define NOBODY 9
byte pid_file = NOBODY; /* the process that it names */
byte socket_owner = NOBODY; /* the process that F_GETOWN of a listener names */
bit disk_full;          /* the pid file cannot be written */
bit excused;            /* for the claims: the service may end */
bit stopping;           /* likewise: an owner has taken SIGTERM */
bit quiet;              /* nothing more happens outside */

#define ALL 9
#define is_old(i)       ((i) > 0 && (OLD == (i) || OLD == ALL))
#define exists(i)       (p[i].life != ABSENT && p[i].life != ZOMBIE)
#define runs(i)         (p[i].life == RUNNING)
#define executes(i)     (p[i].life == FORKED || p[i].life == EXECUTING)
#define owns(i)         (p[i].phase == SERVING || p[i].phase == STARTING)
#define leaves(i)       (p[i].phase == HANDING_OVER || p[i].phase == DRAINING || p[i].phase == CUT)
#define must_write(i)   (p[i].has_parent && p[i].predecessor)
#define child(i)        (p[i + 1].life != ABSENT && p[i + 1].has_parent)
#define pending(i)      (child(i) && !p[i].claimed)
#define reported(i)     (len(reports[i + 1]) > 0 || (!READY && !p[i].claimed && !executes(i + 1)))
#define heard(i)        (!child(i) || (p[i + 1].life != ZOMBIE && !reported(i)))
#define may_report(i, what) (p[i].has_parent && p[i].predecessor && !p[i].given_up && \
    !(reports[i] ?? [what]))
#define other_owner(i)  (socket_owner != NOBODY && socket_owner != i)

/* ---- connections: where each of them is, and whether a request is in flight ---- */

#define IN_QUEUE    20  /* of the listener */
#define IN_CHANNEL  10  /* plus the process that will receive it */
#define CLOSED      21
#define LOST        22
byte at[2] = IN_QUEUE;
bit in_flight[2];
#define holds(i)        (at[0] == i || at[1] == i)
#define awaits(i)       (at[0] == IN_CHANNEL + i || at[1] == IN_CHANNEL + i)
#define lose(c, i) \
    if :: at[c] == i || at[c] == IN_CHANNEL + i -> at[c] = LOST; in_flight[c] = 0 :: else fi
#define lose_all(i)     lose(0, i); lose(1, i)

/* ---- the claims, for which see the models ---- */

/* I owns the listeners, or will, unless something else happens to it. */
#define will_serve(i)   (exists(i) && p[i].life != HUNG && !p[i].given_up && \
    (will_claim(i) || (owns(i) && !has_lost(i)) || stands_by(i)))
#define will_claim(i)   ((executes(i) || p[i].phase == INHERITING) && !p[i].stop && \
    !is_replaced(i) && !(disk_full && must_write(i)))
#define has_lost(i)     (p[i].phase == STARTING && child(i) && \
    ((has_claimed(i + 1) && !may_follow(i + 1)) || \
     (!READY && !executes(i + 1) && (p[i + 1].life != ZOMBIE || is_replaced(i + 1)))))
#define stands_by(i)    (leaves(i) && p[i].rollback && !p[i].overdue && !p[i].stop && child(i) && \
    may_follow(i + 1) && !(reports[i + 1] ?? [D]))
#define has_claimed(i)  (reports[i] ?? [R2] || reports[i] ?? [R])
/* A crash, after which the predecessor serves on if it has not heard of the claim. */
#define may_follow(i)   (p[i].life == ZOMBIE && !p[i].well && !is_replaced(i))
#define is_replaced(i)  (socket_owner != NOBODY && socket_owner != i && socket_owner != i - 1)
/* Once nobody is left who would go on with it, the service may end. */
#define excuse()        if :: will_serve(0) || will_serve(1) || will_serve(2) || will_serve(3) \
                           :: else -> excused = 1 fi

/* Claim: no connection request is refused. The kernel refuses them when no process listens. */
#define listens(i)      (exists(i) && p[i].listens)
#define check_listeners() assert(excused || listens(0) || listens(1) || listens(2) || listens(3))

/* ---- the end of a process ---- */

inline forget(i) { /* waitpid(2), in its parent or in init */
    forgotten(i);
    do :: reports[i] ? _ :: empty(reports[i]) -> break od;
    if :: pid_file == i -> pid_file = NOBODY :: else fi;
    if :: socket_owner == i -> socket_owner = NOBODY :: else fi;
    p[i].life = ABSENT; p[i].phase = INHERITING; p[i].has_parent = 0; p[i].given_up = 0;
    p[i].well = 0; p[i].doomed = 0
}

inline die(i, status) {
    p[i].life = ZOMBIE; p[i].well = (status == 0); p[i].listens = 0; p[i].claimed = 0;
    p[i].takes = 0; p[i].rollback = 0; p[i].overdue = 0; p[i].usr1 = 0; p[i].stop = 0;
    p[i].stops = 0; p[i].unannounced = 0; p[i].predecessor = 0; p[i].refuses = 0;
    do :: connections[i] ? C1, _ :: empty(connections[i]) -> break od;
    lose_all(i);
    if
    :: child(i) ->
        p[i + 1].has_parent = 0;
        do :: reports[i + 1] ? _ :: empty(reports[i + 1]) -> break od;
        if :: p[i + 1].life == ZOMBIE -> forget(i + 1) :: else fi
    :: else
    fi;
    if :: !p[i].has_parent -> forget(i) :: else fi
}

/* Claim: a process that ends by itself, and was not told twice to end, loses no connection. */
inline end(i, status) {
    d_step {
        printf("%d ends with status %d\n", i, status);
        assert(p[i].phase == ABORTED || (!holds(i) && !awaits(i)));
        die(i, status);
        check_listeners()
    }
}

/* ---- claiming the listeners ---- */

inline report(i, what) { /* fails with EPIPE if the predecessor has ended or reads no reports */
    if :: may_report(i, what) -> reports[i] ! what :: else fi
}

inline write_pid_file(i) {
    if :: !disk_full -> pid_file = i :: else fi; p[i].unannounced = disk_full
}
inline announce(i) { /* it has set the owner of the listeners before */
    atomic { write_pid_file(i) };
    tell_owner(i)
}

inline claim(i) {
    if
    :: atomic { !is_old(i) -> socket_owner = i }
    :: is_old(i)
    fi;
    if
    :: atomic { must_write(i) && disk_full -> p[i].phase = DONE }
    :: atomic { !(must_write(i) && disk_full) -> write_pid_file(i) };
        tell_owner(i);
        atomic {
            if
            :: p[i].has_parent && p[i].given_up -> p[i].phase = DONE
            :: else ->
                printf("%d claims the listeners\n", i);
                if :: is_old(i) -> report(i, R) :: else -> report(i, R2) fi;
                p[i].phase = SERVING
            fi
        }
    fi;
    if :: p[i].phase == DONE -> end(i, 1) :: else fi
}

/* ---- the successor ---- */

inline start(i) {
    atomic {
        printf("%d takes SIGUSR1\n", i);
        p[i].usr1 = 0; p[i].phase = STARTING; started(i); report(i, D)
    };
    atomic {
        if
        :: i + 1 < PLACES && p[i + 1].life == ABSENT && may_fork(i) ->
            printf("%d forks\n", i);
            p[i + 1].life = FORKED; p[i + 1].has_parent = 1; p[i + 1].predecessor = READY;
            p[i + 1].listens = 1; forked(i + 1)
        :: else -> p[i].phase = SERVING; failed = 1
        fi
    };
    serve_again(i)
}

inline become(i) { /* not if an earlier generation serves again */
    if
    :: is_old(i - 1) -> p[i].life = EXECUTING
    :: !is_old(i - 1) && (is_replaced(i) || !may_register(i)) -> die(i, 127)
    :: else -> socket_owner = i; p[i].life = EXECUTING
    fi
}

/* First whether the successor lives, then everything that it has reported. */
inline hear(i) {
    gone = (p[i + 1].life == ZOMBIE); releases = 0;
    if :: !READY && !gone && !executes(i + 1) -> p[i].claimed = 1 :: else fi;
    do
    :: reports[i + 1] ? R2 -> p[i].claimed = 1; p[i].takes = 1
    :: reports[i + 1] ? R -> p[i].claimed = 1; p[i].takes = 0
    :: reports[i + 1] ? D -> releases = 1; p[i].rollback = 0
    :: empty(reports[i + 1]) -> break
    od;
    if :: gone -> well = p[i + 1].well; forget(i + 1) :: else fi;
    replaced = (well && p[i].claimed) || other_owner(i);
    if
    :: p[i].phase == STARTING && (gone -> replaced : p[i].claimed) -> /* hand_over() */
        p[i].phase = (p[i].takes -> HANDING_OVER : DRAINING);
        p[i].rollback = ROLLBACK && !releases
    :: else
    fi;
    if
    :: gone ->
        if
        :: p[i].phase == STARTING || (p[i].rollback && !replaced) ->
            p[i].phase = SERVING; socket_owner = i
        :: else -> if :: p[i].phase == HANDING_OVER -> p[i].phase = DRAINING :: else fi
        fi;
        p[i].rollback = 0; p[i].overdue = 0; p[i].claimed = 0; p[i].takes = 0
    :: else
    fi;
    printf("%d hears its successor: %e\n", i, p[i].phase);
    gone = 0; well = 0; releases = 0; replaced = 0
}

inline hear_successor(i) {
    if :: !heard(i) -> hear(i); failed = owns(i) :: else fi
}

inline serve_again(i) {
    if :: failed -> failed = 0; announce(i) :: else fi;
    tell_manager(i)
}

/* What the successor has not reported by now it never will. Claim: then it holds no connection. */
inline give_up(i) {
    atomic { p[i + 1].given_up = 1; hear_successor(i) }; /* adjacent system calls */
    serve_again(i);
    atomic {
        if
        :: pending(i) && exists(i + 1) ->
            printf("%d kills its successor\n", i);
            assert(!holds(i + 1) && !awaits(i + 1));
            die(i + 1, 9)
        :: else
        fi
    }
}

/* ---- the predecessor, and the drain timeout ---- */

inline leave_predecessor(i) {
    p[i].predecessor = 0;
    left_predecessor(i)
}

inline cut(i) { /* what is left after the drain timeout */
    atomic {
        do :: connections[i] ? C1, _ :: empty(connections[i]) -> break od;
        lose_all(i)
    };
    leave_predecessor(i)
}

/* ---- SIGTERM ---- */

inline terminate(i, from) { /* kill(2); the program blocks the signal as soon as it runs */
    if
    :: executes(i) -> die(i, 15)
    :: !executes(i) && exists(i) && !p[i].stop -> p[i].stop = from
    :: else
    fi
}

inline take_stop(i) {
    printf("%d takes SIGTERM: %e\n", i, p[i].phase);
    twice = ((p[i].stops & p[i].stop) != 0); p[i].stops = p[i].stops | p[i].stop;
    p[i].stop = 0; p[i].rollback = 0; p[i].overdue = 0;
    if
    :: twice ->
        p[i].phase = ABORTED; aborted(i);
        if :: pending(i) && exists(i + 1) -> die(i + 1, 9) :: else fi
    :: !twice && p[i].phase == INHERITING -> p[i].phase = DONE; excuse()
    :: !twice && owns(i) ->
        excused = 1; stopping = 1; report(i, D);
        if :: pending(i) -> p[i + 1].doomed = 1; terminate(i + 1, PREDECESSOR) :: else fi;
        p[i].phase = DRAINING
    :: else
    fi;
    twice = 0
}

/* ---- a server ---- */

#define me _pid
active [PLACES] proctype server()
{
    bit gone, well, releases, replaced, failed, twice; byte c;
    d_step {
        if
        :: me == 0 ->
            p[0].life = RUNNING; p[0].phase = SERVING; p[0].listens = 1;
            pid_file = 0; socket_owner = 0
        :: else
        fi
    }
absent:
    do
    :: atomic { p[me].life == FORKED -> become(me) }
    :: atomic { p[me].life == EXECUTING -> p[me].life = RUNNING }
    :: p[me].life == RUNNING -> break
    od;
    {
    do
    :: atomic { !heard(me) -> hear_successor(me) }; serve_again(me)
    /* read_signals() */
    :: heard(me) && p[me].usr1 && p[me].phase != INHERITING && p[me].phase != SERVING ->
        p[me].usr1 = 0; ignored(me)
    :: heard(me) && p[me].stop ->
        atomic { take_stop(me) };
        if
        :: p[me].phase == DONE -> end(me, 0)
        :: p[me].phase == ABORTED -> end(me, 1)
        :: else
        fi
    :: p[me].phase == INHERITING && !p[me].stop -> claim(me)
    /* meet_deadlines(): the ready timeout, a successor that ignores SIGTERM, the rollback timeout,
     * the drain timeout */
    :: READY && heard(me) && p[me].phase == STARTING && child(me) -> give_up(me)
    :: heard(me) && p[me].phase == DRAINING && pending(me) -> give_up(me)
    :: p[me].rollback && !p[me].overdue -> p[me].overdue = 1
    :: atomic { p[me].overdue && heard(me) -> p[me].rollback = 0; p[me].overdue = 0 }
    :: atomic {
            leaves(me) && p[me].phase != CUT && (holds(me) || p[me].predecessor) &&
            may_time_out(me) ->
            printf("%d: drain timeout\n", me);
            p[me].refuses = 1; p[me].phase = CUT
        }
    :: p[me].phase == CUT && (holds(me) || p[me].predecessor) -> cut(me)
    :: p[me].phase == CUT && !holds(me) && !p[me].predecessor ->
        p[me].phase = (p[me].rollback -> HANDING_OVER : DRAINING)
    :: p[me].usr1 && p[me].phase == SERVING && notified(me) -> start(me)
    :: p[me].unannounced && p[me].phase == SERVING && !disk_full -> announce(me)
    /* move_on() */
    :: atomic {
            leaves(me) && p[me].listens && !p[me].rollback ->
            p[me].listens = 0; check_listeners()
        }
    :: leaves(me) && heard(me) && !pending(me) && !p[me].rollback && !p[me].listens && !holds(me) &&
        !p[me].predecessor && notified(me) -> p[me].phase = DONE; end(me, 0)
    /* restart_accept(): connections from the predecessor, and the end of file after them */
    :: atomic {
            p[me].phase != INHERITING && len(connections[me]) > 0 ->
            connections[me] ? C1, c; at[c] = me; c = 0
        }
    :: p[me].phase != INHERITING && p[me].predecessor && (!p[me].has_parent || p[me].refuses) &&
        empty(connections[me]) -> leave_predecessor(me)
    od
    } unless { p[me].life != RUNNING };
    atomic {
        gone = 0; well = 0; releases = 0; replaced = 0; failed = 0; twice = 0; c = 0
    };
    goto absent
}

/* ---- what happens to a server ---- */

#define choose(i, can) \
    if :: can(0) -> i = 0 :: can(1) -> i = 1 :: can(2) -> i = 2 :: can(3) -> i = 3 fi
#define can_fail(i)     (runs(i) || executes(i))
#define can_be_told(i)  (exists(i) && !p[i].stop)

inline fail(i) {
    if
    :: printf("%d crashes\n", i); die(i, 11)
    :: printf("%d exits with status 0\n", i); die(i, 0)
    :: runs(i) || (READY && p[i].life == EXECUTING) -> printf("%d hangs\n", i); p[i].life = HUNG
    fi;
    excuse();
    check_listeners()
}

inline restart(i) { /* SIGUSR1 is blocked across the execution, if there is a channel */
    printf("SIGUSR1 to %d\n", i);
    if :: !READY && executes(i) -> die(i, 10) :: else -> p[i].usr1 = 1 fi;
    excuse()
}
