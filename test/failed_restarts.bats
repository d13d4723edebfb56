#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# Restarts in which something happens at the wrong moment: one process serves on.
# shellcheck disable=SC2016 # scripts in quotes are run by the successor
# shellcheck disable=SC2030,SC2031,SC2153,SC2154 # a test is a subshell; helper.bash sets the rest

load tools/helper
load tools/crowd

# begin [OPTIONS...]: starts a server. Sets old, and before to the number of its descriptors.
begin() {
    : >"$log"
    start_server "$@"
    old=$pid
    before=$(descriptors "$old")
}

# $old serves on alone, with as many descriptors as before, and the next restart works.
goes_on() {
    wait_for only_one_left
    wait_for has_descriptors "$old" "$before"
    [[ $(serving_pid) == "$old" ]]
    wait_for childless "$old"
    serves
    mend_successor
    restart_in_the_end
    serves
}

# ---- a successor that has not been executed yet ----

# hold_execution: restarts the server; strace holds the child before its execution. Sets successor.
hold_execution() {
    in_trouble -f execve delay_enter=60000000
    kill -USR1 "$old"
    wait_for in_old_program "$old"
    successor=$(children "$old")
}

# in_old_program PID: whether PID has a child that has not been executed yet.
in_old_program() {
    local child
    child=$(children "$1")
    [[ -n $child && "/proc/$child/exe" -ef "$BATS_TEST_TMPDIR/$NAME" ]]
}

@test "while the execution takes its time, clients are served and see their connections end" {
    need_strace
    begin
    connect
    leaving=$conn
    ask "$leaving"
    hold_execution
    serves
    # The server closes the connection, and the child must not keep it open.
    send "$leaving" "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    receive "$leaving"
    closed "$leaving"
    in_old_program "$old"
    # 0, 1, 2, the listener, the channel, and the pipe that reports a failed execution.
    wait_for has_descriptors "$successor" 6
    mended
    wait_for succeeded "$old"
    wait_gone "$old"
    serves
}

@test "a successor whose execution takes longer than the ready timeout is killed" {
    need_strace
    begin --ready-timeout 1
    # As long as it lasts, strace holds what is left of it.
    in_trouble -f execve delay_enter=5000000
    kill -USR1 "$old"
    wait_for restart_decided
    logged "\[$old]: restart failed: successor [0-9]+ was not ready within 1 s and was killed"
    mended
    goes_on
}

@test "SIGTERM while the execution takes its time ends both" {
    need_strace
    begin
    connect
    send "$conn" "$HALF"
    wait_for taken "$conn"
    hold_execution
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

@test "a successor that is killed before its execution fails the restart, which says how it ended" {
    need_strace
    for options in '' '--ready-timeout 0'; do
        # shellcheck disable=SC2086 # words
        begin $options
        : >"$BATS_TEST_TMPDIR/trace"
        in_background strace -qq -f -p "$pid" -o "$BATS_TEST_TMPDIR/trace" -e trace=execve,wait4 \
            -e inject=execve:delay_enter=60000000 -e inject=wait4:delay_exit=500000
        tracer=$job
        wait_for traced "$pid"
        kill -USR1 "$old"
        wait_for in_old_program "$old"
        successor=$(children "$old")
        # The old process looks whether it lives, finds that it does, and only then sees it end.
        kill -USR1 "$old"
        pause 200
        kill -KILL "$successor"
        pause 1000
        mended
        wait_log "\[$old]: restart failed: successor $successor was ended by signal 9 \(Killed\)"
        (($(count_log 'successor started') == 0))
        goes_on
        end_all
    done
}

@test "a successor inherits no descriptor where close_range(2) is missing or forbidden" {
    need_strace
    exec 9</dev/null
    start_server
    exec 9<&-
    [[ -e /proc/$pid/fd/9 ]]
    extra=1
    for error in ENOSYS EPERM; do
        connect
        ask "$conn"
        before=$(descriptors "$pid")
        in_trouble -f close_range "error=$error"
        restart_server
        wait_gone "$old"
        mended
        injected
        ask "$conn"
        # The first process was given one that its successor is not.
        wait_for has_descriptors "$pid" $((before - extra))
        extra=0
        disconnect "$conn"
    done
}

# ---- a successor that has not claimed the listeners yet ----

# hold_successor: restarts the server; strace holds the successor, which has blocked its signals,
# before its first turn, until release_successor. Sets successor.
hold_successor() {
    install_server "$BATS_TEST_TMPDIR/real"
    successor_script "exec strace -DD -I 2 -qq -o held -e trace=timerfd_create \
        -e inject=timerfd_create:delay_enter=60000000 real/${NAME}1 \"\$@\""
    kill -USR1 "$old"
    wait_log "\[$old]: successor started: ([0-9]+)"
    successor=${BASH_REMATCH[1]}
    wait_for is_held
}

# Whether the successor is the real program, and blocks SIGTERM.
is_held() {
    local mask
    [[ "/proc/$successor/exe" -ef "$BATS_TEST_TMPDIR/real/${NAME}1" ]] || return 1
    mask=$(status_of "$successor" SigBlk)
    ((0x${mask:-0} & 1 << 14)) && says "$BATS_TEST_TMPDIR/held" timerfd_create
}

release_successor() {
    kill "$(status_of "$successor" TracerPid)"
}

@test "SIGINT to the whole group counts once for a successor that starts" {
    need_strace
    # A second is all that the old process gives it: a machine that is busy may need more.
    for ((tries = 0; tries < 10; tries++)); do
        set -m
        begin
        set +m
        hold_successor
        kill -INT "-$old"
        release_successor
        ended "$old"
        ((status == 0))
        wait_gone "$successor"
        (($(count_log 'ending at once') == 0))
        ! logged "\[$old]: successor $successor exited with status 0" || break
        mend_successor
    done
    logged "\[$old]: successor $successor exited with status 0"
    logged "\[$successor]: SIGINT received|\[$successor]: SIGTERM received"
}

@test "a successor that claims the listeners when its time is over serves nobody" {
    need_strace
    begin --ready-timeout 4 -p pid_file
    hold_successor
    # Between the decision to kill it and its end it has time to try.
    in_background strace -qq -p "$pid" -o "$BATS_TEST_TMPDIR/trace" -e trace=shutdown,kill \
        -e inject=kill:delay_enter=3000000
    tracer=$job
    wait_for says "$BATS_TEST_TMPDIR/trace" 'shutdown.* = 0'
    release_successor
    wait_log "\[$successor]: cannot claim the listeners: the predecessor serves on"
    wait_log "\[$old]: restart failed: successor $successor was not ready within 4 s and was killed"
    mended
    names "$old"
    goes_on
}

@test "the old process hands over to no successor that crashes right after its claim" {
    need_strace
    begin
    in_trouble wait4,waitid delay_exit=2000000
    # In the delay the old process stands still for long.
    successor_script 'for ((times = 0; times < 5; times++)); do
            sleep 0.02
            read -r stat <"/proc/$PPID/stat"
            [[ ${stat##*) } == t* ]] || times=-1
        done
        printf R2 >&"${RESTART_CHANNEL#*:}"; kill -KILL $$'
    kill -USR1 "$old"
    wait_log "\[$old]: (restart failed|handed over)"
    logged "\[$old]: restart failed: successor [0-9]+ was ended by signal 9"
    mended
    goes_on
}

# ---- a successor that is hard to get rid of ----

# hold_dead PID: a tracer holds what is left of the process, once it has ended. Sets job.
hold_dead() {
    need tracer
    mkfifo "$BATS_TEST_TMPDIR/stdin"
    in_background "$BUILD_DIR/tracer" "$1" <>"$BATS_TEST_TMPDIR/stdin"
    wait_for traced "$1"
}

@test "the old process waits without spinning for a dead successor that a tracer holds" {
    begin --ready-timeout 60
    successor_script 'echo $$ >successor; exec sleep 60'
    kill -USR1 "$old"
    wait_for test -s "$BATS_TEST_TMPDIR/successor"
    successor=$(<"$BATS_TEST_TMPDIR/successor")
    hold_dead "$successor"
    kill -KILL "$successor"
    wait_gone "$successor"
    sleeps "$old"
    serves
    kill "$job"
    wait_log "\[$old]: restart failed: .*signal 9"
    goes_on
}

@test "a successor that cannot be watched is killed, and the old process does not wait for that" {
    need_strace
    begin --ready-timeout 60
    successor_script 'echo $$ >successor; exec sleep 60'
    in_background strace -qq -p "$pid" -o "$BATS_TEST_TMPDIR/trace" -e trace=pidfd_open,kill \
        -e inject=pidfd_open:error=EPERM -e inject=kill:delay_enter=3000000
    # shellcheck disable=SC2034 # for mended
    tracer=$job
    wait_for traced "$pid"
    kill -USR1 "$old"
    wait_for test -s "$BATS_TEST_TMPDIR/successor"
    successor=$(<"$BATS_TEST_TMPDIR/successor")
    hold_dead "$successor"
    wait_gone "$successor"
    serves
    (($(count_log 'restart failed') == 0))
    kill "$job"
    wait_log "\[$old]: restart failed: cannot start ./${NAME}1: pidfd_open: Operation not permitted"
    mended
    goes_on
}

# ---- the hand-over ----

@test "a process that a wrapper script leaves behind does not make its server spin" {
    start_server
    # It has everything open that the successor is given.
    successor_script 'sleep 600 & become "$@"'
    restart_server
    wait_gone "$old"
    does_not_spin "$pid"
    mend_successor
    restart_server
    serves
}

@test "the old process keeps its connections while requests use up a successor's descriptors" {
    start_server
    old=$pid
    crowd idle 50 "$port"
    ask_crowd idle
    successor_script 'ulimit -n 100; kill -STOP $PPID; become "$@"'
    kill -USR1 "$old"
    wait_for succeeded "$old"
    pid=$(serving_pid)
    mend_successor
    # More than it has descriptors for: some wait to be accepted.
    crowd busy 120 "$port"
    tell busy half
    wait_for has_stable_descriptors "$pid"
    kill -CONT "$old"
    wait_log "\[$old]: handed over"
    ask_crowd idle
    tell busy rest
    answers busy
    (($(how_many '?') == 0 && $(how_many +) >= 80))
    # Those that had waited in the channel may have made room for new connections meanwhile.
    tell idle ask
    answers idle
    (($(how_many '?') == 0 && $(how_many +) >= 40))
    leave idle
    leave busy
    wait_gone "$old"
    serves
}

# has_stable_descriptors PID: whether it has many, and their number does not change.
has_stable_descriptors() {
    local before
    before=$(descriptors "$1")
    sleep 0.2
    ((before > 60 && $(descriptors "$1") == before))
}
