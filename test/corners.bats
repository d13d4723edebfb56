#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# Restarts in which something happens at the wrong moment: the service goes on, in one process.
# shellcheck disable=SC2016 # scripts in quotes are run by the successor
# shellcheck disable=SC2030,SC2031,SC2153,SC2154 # a test is a subshell; helper.bash sets the rest

load helper
load crowd

before=

# start_pending [OPTIONS...]: starts a server, and a restart that is held when the successor serves
# and has reported, and the old process knows nothing of it: it is stopped. Sets old and pid.
start_pending() {
    start_server "$@"
    old=$pid
    before=$(descriptors "$old")
    successor_script 'kill -STOP $PPID; become "$@"'
    kill -USR1 "$old"
    wait_for succeeded "$old"
    pid=$(serving_pid)
    mend_successor
    # It reports before it serves.
    serves
}

# $old serves on alone, with as many descriptors as $before, where that is set, and the next restart
# works.
goes_on() {
    wait_for only_one_left
    [[ -z $before ]] || wait_for has_descriptors "$old" "$before"
    [[ $(serving_pid) == "$old" ]]
    wait_for childless "$old"
    serves
    mend_successor
    restart_in_the_end
    serves
}

# ---- a successor that is told something before it owns the listener ----

@test "a successor that is ending before it owns the listener, and does not end, is killed in time" {
    start_pending --ready-timeout 5
    connect
    send "$conn" "$HALF"
    wait_for taken "$conn"
    kill -TERM "$pid"
    wait_log "\[$pid]: SIGTERM received"
    kill -CONT "$old"
    sleeps "$old"
    # Its request in flight keeps the successor from ending, until the ready deadline.
    wait_for restart_decided
    (($(count_log 'handed over') == 0))
    gone "$pid"
    goes_on
}

@test "a successor that says ready and closes the channel is killed in time, and does no harm" {
    start_server --ready-timeout 1
    old=$pid
    before=$(descriptors "$old")
    successor_script 'kill -STOP $PPID; exec 9>&"${RESTART_CHANNEL#*:}"
        eval "exec ${RESTART_CHANNEL#*:}>&-"; printf R1 >&9; exec 9>&-
        kill -CONT $PPID; echo $$ >successor; exec sleep 60'
    kill -USR1 "$old"
    wait_for restart_decided
    logged "\[$old]: restart failed"
    gone "$(<"$BATS_TEST_TMPDIR/successor")"
    goes_on
}

@test "SIGUSR1 is remembered by a successor that does not own the listener, and done once it does" {
    start_pending
    # Twice is once.
    kill -USR1 "$pid"
    wait_log "\[$pid]: SIGUSR1 received: "
    serves
    (($(count_log "\[$pid]: successor started") == 0))
    kill -USR1 "$pid"
    wait_for reads_signals "$pid"
    kill -CONT "$old"
    wait_gone "$old"
    wait_gone "$pid"
    serves
    (($(count_log 'listening on') == 3 && $(count_log 'handed over to') == 2))
    wait_for only_one_left
}

@test "SIGUSR1 to a successor that does not own the listener, and is killed: one process serves" {
    start_pending --pid-file "$BATS_TEST_TMPDIR/pid"
    kill -USR1 "$pid"
    wait_log "\[$pid]: SIGUSR1 received: "
    # A successor that it starts, if it does, is as far as it comes.
    serves
    [[ -z $(children "$pid") ]] || wait_for succeeded "$pid"
    kill -KILL "$pid"
    wait_gone "$pid"
    kill -CONT "$old"
    wait_log "\[$old]: restart failed: .*signal 9"
    wait_for only_one_left
    [[ $(<"$BATS_TEST_TMPDIR/pid") == "$old" ]]
    goes_on
    wait_for says "$BATS_TEST_TMPDIR/pid" "^$(serving_pid)$"
}

@test "SIGINT to a whole group counts once for a successor that starts" {
    need_strace
    # A process group of its own, as a shell with job control makes it.
    set -m
    start_server
    set +m
    old=$pid
    # It takes its time once it has blocked signals.
    install_server "$BATS_TEST_TMPDIR/real"
    successor_script "exec strace -DD -qq -o trace -e trace=epoll_create1 \
        -e inject=epoll_create1:delay_enter=1500000:when=1 real/${NAME}1 \"\$@\""
    kill -USR1 "$old"
    wait_for blocks_int "$old"
    kill -INT "-$old"
    wait_gone "$old"
    wait_gone "$successor"
    wait_log "\[$successor]: SIGINT received|\[$successor]: SIGTERM received"
    (($(count_log 'ending at once') == 0))
    wait "$old"
}

# blocks_int PID: whether the one child of PID is the real program, and blocks SIGINT. Sets
# successor.
blocks_int() {
    local mask
    successor=$(children "$1")
    [[ -n $successor && "/proc/$successor/exe" -ef "$BATS_TEST_TMPDIR/real/${NAME}1" ]] || return 1
    mask=$(sed -nE 's/^SigBlk:\s+//p' "/proc/$successor/status")
    ((0x${mask:-0} & 2))
}

# reads_signals PID: whether no signal waits to be read by the process.
reads_signals() {
    grep -Eq '^ShdPnd:\s+0+$' "/proc/$1/status"
}

# ---- a successor that is slow, or hard to get rid of ----

@test "clients are served while the execution of the successor takes its time" {
    need_strace
    start_server
    old=$pid
    in_trouble -f execve delay_enter=60000000
    kill -USR1 "$old"
    wait_for in_old_program "$old"
    serves
    in_old_program "$old"
    mended
    wait_for succeeded "$old"
    wait_gone "$old"
    serves
}

@test "a successor whose execution takes longer than the ready timeout is killed" {
    need_strace
    start_server --ready-timeout 1
    old=$pid
    # As long as it lasts, strace holds what is left of it.
    in_trouble -f execve delay_enter=5000000
    kill -USR1 "$old"
    wait_for restart_decided
    logged "\[$old]: restart failed: .*not ready"
    mended
    goes_on
}

@test "SIGTERM while the successor's execution takes its time ends both" {
    need_strace
    start_server
    old=$pid
    connect
    send "$conn" "$HALF"
    wait_for taken "$conn"
    in_trouble -f execve delay_enter=60000000
    kill -USR1 "$old"
    wait_for in_old_program "$old"
    successor=$(children "$old")
    kill -TERM "$old"
    wait_log "\[$old]: SIGTERM received"
    send "$conn" "$REST"
    receive "$conn"
    [[ $code == 200 ]]
    announces_close
    # It was answered before the execution was done.
    mended
    disconnect "$conn"
    ended "$old"
    ((status == 0))
    wait_gone "$successor"
}

# in_old_program PID: whether PID has a child that has not been executed yet.
in_old_program() {
    local child
    child=$(children "$1")
    [[ -n $child && "/proc/$child/exe" -ef "$BATS_TEST_TMPDIR/$NAME" ]]
}

@test "the old process waits without spinning for a dead successor that a tracer holds" {
    need tracer
    start_server --ready-timeout 60
    old=$pid
    successor_script 'echo $$ >successor; exec sleep 60'
    kill -USR1 "$old"
    wait_for test -s "$BATS_TEST_TMPDIR/successor"
    successor=$(<"$BATS_TEST_TMPDIR/successor")
    mkfifo "$BATS_TEST_TMPDIR/stdin"
    in_background "$BUILD_DIR/tracer" "$successor" <>"$BATS_TEST_TMPDIR/stdin"
    wait_for traced "$successor"
    kill -KILL "$successor"
    wait_gone "$successor"
    sleeps "$old"
    serves
    kill "$job"
    wait_log "\[$old]: restart failed: .*signal 9"
    goes_on
}

# ---- the hand-over ----

@test "a successor killed in the middle of the hand-over: the old process serves on" {
    need_strace
    start_server
    old=$pid
    crowd idle 20 "$port"
    ask_crowd idle
    connect
    send "$conn" "$HALF"
    wait_for taken "$conn"
    in_trouble sendmsg error=ETOOMANYREFS
    kill -USR1 "$old"
    wait_for injected
    successor=$(children "$old")
    kill -KILL "$successor"
    wait_log "\[$old]: restart failed: .*$successor"
    mended
    ask_crowd idle
    send "$conn" "$REST"
    answered "$conn"
    goes_on
    ask_crowd idle
}

@test "a successor killed in the middle of the hand-over takes along only what it has got" {
    need_strace
    start_server
    old=$pid
    crowd idle 700 "$port"
    ask_crowd idle
    in_trouble sendmsg error=EAGAIN:when=2+
    kill -USR1 "$old"
    wait_for injected
    successor=$(children "$old")
    kill -KILL "$successor"
    wait_log "\[$old]: restart failed: .*$successor"
    mended
    tell idle ask
    answers idle
    (($(how_many +) >= 700 - 253 && $(how_many '?') == 0 && $(how_many c) == 0))
    goes_on
}

@test "what a killed successor did not receive of the hand-over comes back" {
    start_server
    old=$pid
    crowd idle 300 "$port"
    ask_crowd idle
    connect
    send "$conn" "$HALF"
    wait_for taken "$conn"
    successor_script 'echo $$ >successor; printf R1 >&"${RESTART_CHANNEL#*:}"; exec sleep 60'
    kill -USR1 "$old"
    wait_log "\[$old]: handed over"
    successor=$(<"$BATS_TEST_TMPDIR/successor")
    kill -KILL "$successor"
    wait_log "\[$old]: restart failed: .*$successor"
    ask_crowd idle
    send "$conn" "$REST"
    answered "$conn"
    goes_on
    ask_crowd idle
}

# ---- a successor with few descriptors ----

@test "a successor closes what it has no room for, the oldest first, and nothing hangs" {
    start_server
    old=$pid
    crowd early 100 "$port"
    ask_crowd early
    crowd late 100 "$port"
    ask_crowd late
    successor_script 'ulimit -n 100; become "$@"'
    restart_server
    wait_gone "$old"
    tell early ask
    answers early
    (($(how_many '?') == 0 && $(how_many +) == 0))
    tell late ask
    answers late
    (($(how_many '?') == 0 && $(how_many +) >= 50))
    serves
}

@test "a successor with requests in flight on all its descriptors: nothing hangs" {
    start_server
    old=$pid
    crowd idle 50 "$port"
    ask_crowd idle
    successor_script 'ulimit -n 100; kill -STOP $PPID; become "$@"'
    kill -USR1 "$old"
    wait_for succeeded "$old"
    pid=$(serving_pid)
    mend_successor
    # More than it has places for: some wait to be accepted.
    crowd busy 120 "$port"
    tell busy half
    wait_for has_stable_descriptors "$pid"
    kill -CONT "$old"
    wait_log "\[$old]: handed over"
    tell idle ask
    answers idle
    (($(how_many '?') == 0))
    leave idle
    tell busy rest
    answers busy
    (($(how_many '?') == 0 && $(how_many +) >= 80))
    leave busy
    serves
}

# has_stable_descriptors PID: whether it has many, and their number does not change.
has_stable_descriptors() {
    local before
    before=$(descriptors "$1")
    sleep 0.2
    ((before > 60 && $(descriptors "$1") == before))
}

@test "a message with more connections than there is room for is no end, and is said" {
    # As the versions before this one hand over: with the number of connections, or without.
    for text in C250 C; do
        : >"$log"
        crowd "given$text" -g "$text" 250 /bin/bash -c 'ulimit -n 100; exec "$0" "$@"' "./$NAME"
        port=$crowd_port
        wait_log 'descriptors'
        tell "given$text" ask
        answers "given$text"
        (($(how_many '?') == 0 && $(how_many +) >= 20))
        serves
        kill "$(serving_pid)"
        wait_for nothing_serves
        leave "given$text"
    done
}

nothing_serves() {
    gone "$(serving_pid)"
}

# ---- system calls that fail ----

@test "where descriptors cannot be made close-on-exec at once, it is done one by one" {
    need_strace
    echo secret >"$BATS_TEST_TMPDIR/secret"
    for error in ENOSYS EINVAL EPERM; do
        : >"$log"
        exec 9<"$BATS_TEST_TMPDIR/secret"
        start_server
        exec 9<&-
        [[ $(readlink "/proc/$pid/fd/9") == */secret ]]
        connect
        ask "$conn"
        in_trouble -f close_range "error=$error"
        kill -USR1 "$pid"
        wait_for restart_decided
        mended
        (($(count_log 'restart failed') == 0))
        wait_gone "$pid"
        ask "$conn"
        ! has_secret || return 1
        end_all
    done
}

# Whether the process that serves has the file open that the first one was started with.
has_secret() {
    find "/proc/$(serving_pid)/fd" -lname '*/secret' | grep -q .
}

@test "a wait for the successor that is interrupted is not its end" {
    need_strace
    for n in 1 2 3; do
        : >"$log"
        start_server
        in_trouble wait4,waitid "error=EINTR:when=$n"
        kill -USR1 "$pid"
        wait_for restart_decided
        mended
        (($(count_log 'restart failed') == 0))
        wait_gone "$pid"
        serves
        end_all
    done
}

@test "a wait for a successor that failed is interrupted: how it failed is said all the same" {
    need_strace
    for n in 1 2; do
        : >"$log"
        start_server
        successor_script 'exit 7'
        in_trouble wait4,waitid "error=EINTR:when=$n"
        kill -USR1 "$pid"
        wait_log 'restart failed: .*status 7'
        mended
        old=$pid
        goes_on
        end_all
        mend_successor
    done
}

# watch_fails N: the Nth change of what is watched fails in a restart, which works or fails at once
# all the same, as does the next one.
watch_fails() {
    echo "epoll_ctl number $1 fails"
    : >"$log"
    start_server --ready-timeout 60
    connect
    ask "$conn"
    in_trouble epoll_ctl "error=ENOMEM:when=$1"
    kill -USR1 "$pid"
    wait_for restart_decided
    serves
    mended
    wait_for only_one_left
    restart_server
    wait_gone "$old"
    serves
    ask "$conn"
    disconnect "$conn"
    end_all
}

@test "what cannot be watched in a restart fails it at once, or is tried again" {
    need_strace
    for n in 1 2 3 4 5; do
        watch_fails "$n"
    done
}
