/* SPDX-License-Identifier: 0BSD */
/*
 * supervisor.pml - the first process of --supervise, and the servers below it.
 *
 * The process supervisor stands for supervise(), with hear_server() for what comes over the
 * lifeline, and forward_signals(). S and E, which servers report for the exit status, are
 * not modelled; nor is reaping. The inline end_with_supervisor stands for what the kernel does when
 * the supervisor ends, as register_server() has asked it to.
 *
 * The claims, besides those of server.pml, which hold here too:
 *
 *   1. The supervisor forwards signals to the process that owns the listeners.
 *   2. Every owner is told of SIGTERM, the later ones too: all servers end.
 *   3. One SIGTERM makes no server end at once.
 *   4. Unless a restart is pending when SIGUSR1 comes, one begins after that.
 *   5. No server outlives the supervisor, not even one that hangs.
 */
#ifndef RESTARTS
#define RESTARTS 1      /* SIGUSR1 to the supervisor */
#endif
#ifndef STOPS
#define STOPS 1         /* SIGTERM or SIGINT to the supervisor */
#endif
#ifndef FAULTS
#define FAULTS 1        /* a crash, an exit with status 0, or a hang of a server */
#endif
#ifndef KILLS
#define KILLS 0         /* SIGKILL to the supervisor */
#endif
#define PIDS (RESTARTS + 3)

mtype:word = { S, O, A, E };
chan lifeline = [8] of { mtype:word, byte };
byte pid_of[5];         /* of the process in each place */
byte pids;
bit dead;               /* the supervisor has ended */
byte owner;             /* as in struct servers, as far as told and wanted */
bit told[PIDS + 1];
bit stops;
byte wanted;
bit usr1_pending;
byte stops_pending;
byte stops_sent;
bit asked;              /* for the claims: no restart has begun since SIGUSR1 */

#define tell(word, i)       if :: !dead -> lifeline ! word, pid_of[i] :: else fi
#define tell_owner(i)       tell(O, i)
#define tell_manager(i)     skip
#define notified(i)         true
#define forgotten(i)        pid_of[i] = 0
#define forked(i)           pids++; pid_of[i] = pids
#define left_predecessor(i) skip
#define may_register(i)     (!dead)
#define may_fork(i)         (pids < PIDS)
#define may_time_out(i)     true
#define started(i)          asked = 0; tell(A, i)
#define ignored(i)          if :: p[i].phase == STARTING -> tell(A, i) :: else fi
#define aborted(i)          assert(stops_sent >= 2)
#include "server.pml"

#define is_owner(i)         (pid_of[i] == owner && exists(i))
#define find_owner(i) \
    if :: is_owner(0) -> i = 0 :: is_owner(1) -> i = 1 :: is_owner(2) -> i = 2 \
       :: is_owner(3) -> i = 3 :: else -> i = NOBODY fi

active proctype supervisor()
{
    byte i;
    {
    do
    :: len(lifeline) > 0 || usr1_pending || stops_pending > 0 ->
        do
        :: atomic {
                lifeline ? O, owner -> printf("the supervisor: pid %d owns the listeners\n", owner);
                find_owner(i);
                if
                :: stops && !told[owner] && i != NOBODY -> told[owner] = 1; terminate(i, SUPERVISOR)
                :: else
                fi;
                if
                :: wanted > 0 -> wanted = 1; if :: i != NOBODY -> p[i].usr1 = 1 :: else fi
                :: else
                fi;
                i = 0
            }
        :: atomic { lifeline ? A, _ -> if :: wanted > 0 -> wanted-- :: else fi }
        :: empty(lifeline) -> break
        od;
        atomic {
            find_owner(i);
            if
            :: stops_pending > 0 ->
                stops_pending--; stops = 1; told[owner] = 1;
                if :: i != NOBODY -> terminate(i, SUPERVISOR) :: else fi
            :: else
            fi;
            if
            :: usr1_pending ->
                usr1_pending = 0; wanted++; if :: i != NOBODY -> p[i].usr1 = 1 :: else fi
            :: else
            fi;
            i = 0
        }
    od
    } unless { dead }
}

/* The kernel kills a server from become() on. */
inline end_with_supervisor(i) { if :: exists(i) && p[i].life != FORKED -> die(i, 9) :: else fi }
#define starts(i) (p[i].phase == STARTING)

active proctype outside()
{
    byte restarts, faults, kills, i, owners, last;
    d_step { p[0].life == RUNNING -> pids = 1; pid_of[0] = 1; owner = 1 };
    do
    :: atomic {
            restarts < RESTARTS && !dead -> restarts++; usr1_pending = 1; printf("SIGUSR1\n");
            asked = !(starts(0) || starts(1) || starts(2) || starts(3))
        }
    :: atomic { stops_sent < STOPS && !dead -> stops_sent++; stops_pending++; printf("SIGTERM\n") }
    :: atomic { faults < FAULTS -> choose(i, can_fail); faults++; fail(i); i = 0 }
    :: atomic {
            kills < KILLS -> kills++; dead = 1; excused = 1; printf("the supervisor is killed\n");
            end_with_supervisor(3); end_with_supervisor(2);
            end_with_supervisor(1); end_with_supervisor(0)
        }
    :: atomic { quiet = 1; break }
    od;
    timeout ->
    d_step {
        do
        :: i < PLACES ->
            assert(!runs(i) || (owns(i) && !p[i].stops && !p[i].doomed));
            assert(!exists(i) || !dead);
            if :: runs(i) -> owners++; last = i :: else fi;
            i++
        :: else -> break
        od;
        assert(owners == 1 || (owners == 0 && excused));
        assert(owners == 0 || (pid_file == last && owner == pid_of[last]));
        assert(owners == 0 || !stops);
        assert(!asked || faults > 0 || excused)
    }
}
