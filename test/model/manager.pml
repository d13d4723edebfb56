/* SPDX-License-Identifier: 0BSD */
/*
 * manager.pml - servers below a service manager, which reads what they send when it gets to it.
 *
 * The names notify_main and send_notices stand for notify_main() and send_notices(), and
 * left_predecessor for leave_predecessor(). The process manager stands for systemd. It is told of
 * the end of its own children only, and ends the unit when the main process ends.
 *
 * The claims, besides those of server.pml, which hold here too:
 *
 *   1. The main process does not end, unless it crashes or an owner was told to end.
 *   2. Once nothing more happens, the main process is the one that owns the listeners.
 */
#ifndef RESTARTS
#define RESTARTS 2      /* SIGUSR1 */
#endif
#ifndef STOPS
#define STOPS 0         /* SIGTERM or SIGINT */
#endif
#ifndef FAULTS
#define FAULTS 0        /* a crash */
#endif
#ifndef ACCESS
#define ACCESS main     /* NotifyAccess=: main or all */
#endif
#define main 0
#define all  1

mtype:notice = { MAINPID, BARRIER };
chan queue = [6] of { mtype:notice, byte, byte };   /* who sends it, and whom it names */
byte pid_of[5];         /* of the process in each place */
byte pids;
byte main_pid;
byte notice[5];         /* the pid in a notice that waits to be sent; 0: none */
bit barrier[5];         /* the manager has not answered the last one */
byte named[5];          /* the successor that has been named */

#define tell_owner(i)       skip
#define notify_main(i, pid) notice[i] = pid; named[i] = pid
#define tell_manager(i) \
    if \
    :: leaves(i) && child(i) && p[i].claimed && named[i] != pid_of[i + 1] -> \
        notify_main(i, pid_of[i + 1]) \
    :: owns(i) && named[i] != 0 -> notify_main(i, pid_of[i]); named[i] = 0 \
    :: else \
    fi
#define left_predecessor(i) \
    if :: leaves(i) && child(i) && p[i].claimed -> notify_main(i, pid_of[i + 1]) :: else fi
#define notified(i)         (notice[i] == 0 && !barrier[i])
#define forgotten(i) \
    if \
    :: pid_of[i] == main_pid && !p[i].has_parent -> assert(excused || !p[i].well); excused = 1 \
    :: else \
    fi; \
    pid_of[i] = 0; notice[i] = 0; barrier[i] = 0; named[i] = 0
#define forked(i)           pids++; pid_of[i] = pids
#define may_register(i)     true
#define may_fork(i)         true
/* The drain timeout is longer than the predecessor needs to hear this process and send a notice. */
#define may_time_out(i)     (!p[i].has_parent || (named[i - 1] == pid_of[i] && notice[i - 1] == 0))
#define started(i)          skip
#define ignored(i)          skip
#define aborted(i)          skip
#include "server.pml"

#define this (_pid - PLACES)
active [PLACES] proctype send_notices()
{
    do
    :: atomic {
            runs(this) && notice[this] != 0 && !barrier[this] ->
            printf("pid %d sends MAINPID=%d\n", pid_of[this], notice[this]);
            queue ! MAINPID, pid_of[this], notice[this]; notice[this] = 0;
            queue ! BARRIER, pid_of[this], 0; barrier[this] = 1
        }
    od
}

active proctype manager()
{
    byte sender, pid_named;
    do
    :: atomic {
            queue ? MAINPID, sender, pid_named ->
            printf("the manager reads MAINPID=%d\n", pid_named);
            if :: ACCESS == all || sender == main_pid -> main_pid = pid_named :: else fi;
            sender = 0; pid_named = 0
        }
    :: atomic {
            queue ? BARRIER, sender, _ ->
            if
            :: pid_of[0] == sender -> barrier[0] = 0 :: pid_of[1] == sender -> barrier[1] = 0
            :: pid_of[2] == sender -> barrier[2] = 0 :: pid_of[3] == sender -> barrier[3] = 0
            :: else
            fi;
            sender = 0
        }
    od
}

active proctype outside()
{
    byte restarts, stops, faults, i, owners, owner;
    d_step { p[0].life == RUNNING -> pids = 1; pid_of[0] = 1; main_pid = 1 };
    do
    :: atomic { restarts < RESTARTS -> choose(i, exists); restarts++; restart(i); i = 0 }
    :: atomic {
            stops < STOPS -> choose(i, can_be_told); stops++;
            printf("SIGTERM to %d\n", i); terminate(i, OTHERS); i = 0; excuse()
        }
    :: atomic {
            faults < FAULTS -> choose(i, can_fail); faults++;
            printf("%d crashes\n", i); die(i, 11); i = 0; excuse(); check_listeners()
        }
    :: atomic { quiet = 1; break }
    od;
    timeout ->
    d_step {
        do
        :: i < PLACES ->
            assert(!runs(i) || (owns(i) && !p[i].stops && !p[i].doomed));
            if :: runs(i) -> owners++; owner = i :: else fi;
            i++
        :: else -> break
        od;
        assert(owners == 1 || (owners == 0 && excused));
        assert(excused || (pid_file == owner && main_pid == pid_of[owner]))
    }
}
