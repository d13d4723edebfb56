/* SPDX-License-Identifier: 0BSD */
/*
 * succession.pml - signals, faults and connections, at any moment, to servers of three generations.
 *
 * The claims are the assertions here and in server.pml, which are checked in every state:
 *
 *   1. No connection request is refused, and once nothing more happens, one process owns the
 *      listeners and accepts. Unless an owner was told to end, or nobody was left that could serve.
 *   2. The pid file then names that process.
 *   3. A connection is lost only with a process that crashes, is killed or is told twice to end
 *      while it has the connection, or at a drain timeout.
 *   4. A successor that has not claimed the listeners has no connection.
 *   5. A process that was told to end or has handed over ends, and so does a successor that had
 *      not claimed the listeners when its predecessor was told to end.
 *   6. Once an owner has taken SIGTERM, no process serves again. (With one restart, without faults
 *      and with a channel: otherwise it may crash before its predecessor has heard of that.)
 *   7. The servers come to rest when nothing more happens outside (spin: no non-progress cycle).
 */
#ifndef RESTARTS
#define RESTARTS 2      /* SIGUSR1 */
#endif
#ifndef STOPS
#define STOPS 1         /* SIGTERM or SIGINT */
#endif
#ifndef FAULTS
#define FAULTS 1        /* a crash, an exit with status 0, a hang, or a full disk */
#endif

/* What server.pml leaves to the other models. */
#define tell_owner(i)       skip
#define tell_manager(i)     skip
#define notified(i)         true
#define forgotten(i)        skip
#define forked(i)           skip
#define left_predecessor(i) skip
#define may_register(i)     true
#define may_fork(i)         true
#define may_time_out(i)     true
#define started(i)          skip
#define ignored(i)          skip
#define aborted(i)          skip
#include "server.pml"

#if CONNECTIONS > 0
#define this        (_pid - PLACES)
#define holder      at[this]
#define accepts(i)  (runs(i) && owns(i))
#define hands_over(i) ((p[i].phase == HANDING_OVER || p[i].phase == CUT) && p[i].takes && \
    child(i) && p[i + 1].predecessor && !p[i + 1].refuses && p[i + 1].life != ZOMBIE)
active [CONNECTIONS] proctype connection()
{
    byte i;
    do
    :: atomic { holder == IN_QUEUE && !quiet -> choose(i, accepts); holder = i; i = 0 }
    :: atomic { holder < PLACES && !in_flight[this] && !quiet -> in_flight[this] = 1 }
    :: atomic { holder < PLACES && runs(holder) && in_flight[this] -> in_flight[this] = 0 }
    /* restart_leave(): give, close, or cut */
    :: atomic {
            holder < PLACES && runs(holder) && !in_flight[this] && hands_over(holder) &&
            nfull(connections[holder + 1]) ->
            i = holder + 1; connections[i] ! C1, this; holder = IN_CHANNEL + i;
            assert(p[i].phase != INHERITING); i = 0
        }
    :: atomic {
            holder < PLACES && runs(holder) && !in_flight[this] && !hands_over(holder) &&
            (p[holder].phase == DRAINING || p[holder].phase == CUT) -> holder = CLOSED
        }
    :: atomic {
            holder < PLACES && runs(holder) && in_flight[this] && p[holder].phase == CUT ->
            in_flight[this] = 0; holder = LOST
        }
    :: atomic { quiet && (holder == IN_QUEUE || holder == CLOSED || holder == LOST) -> break }
    od
}
#endif

active proctype outside()
{
    byte restarts, stops, faults, i, owners, owner;
    p[0].life == RUNNING;
    do
    :: atomic { restarts < RESTARTS -> choose(i, exists); restarts++; restart(i); i = 0 }
    :: atomic {
            stops < STOPS -> choose(i, can_be_told); stops++;
            printf("SIGTERM to %d\n", i); terminate(i, OTHERS); i = 0; excuse()
        }
    :: atomic { faults < FAULTS -> choose(i, can_fail); faults++; fail(i); i = 0 }
    :: atomic {
            faults < FAULTS && !disk_full -> faults++; disk_full = 1;
            printf("the disk is full\n"); excuse()
        }
    :: atomic { disk_full = 0; quiet = 1; break }
    od;
    atomic { restarts = 0; stops = 0; faults = 0 };
    timeout -> /* no process has anything to do any more */
    d_step {
        do
        :: i < PLACES ->
            assert(!runs(i) || (owns(i) && !p[i].stops && !p[i].doomed));
            if :: runs(i) -> owners++; owner = i :: else fi;
            i++
        :: else -> break
        od;
        assert(owners == 1 || (owners == 0 && excused));
        assert(owners == 0 || pid_file == owner);
        assert(owners == 0 || !stopping || RESTARTS > 1 || FAULTS > 0 || !READY)
    }
}
