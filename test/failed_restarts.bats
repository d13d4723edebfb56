#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# A successor that cannot be executed, crashes, hangs or is late before it has claimed the listener:
# the old process serves on, no client notices, and the next restart works.
# shellcheck disable=SC2016 # scripts in quotes are run by the successor
# shellcheck disable=SC2030,SC2031,SC2153,SC2154 # a test is a subshell; helper.bash sets the rest

load tools/helper
load tools/crowd

# begin [OPTIONS...]: starts a server with one connection in flight and one that is idle. Sets pid,
# half, idle, and before to the number of the server's descriptors.
begin() {
    : >"$log"
    start_server -p pid_file "$@"
    begin_request
    connect
    idle=$conn
    ask "$idle"
    before=$(descriptors "$pid")
}

# No client has noticed the restart that failed, nothing is left of it, and the next one works.
nothing_happened() {
    serves
    ask "$idle"
    end_request "$half"
    wait_for programs_are "$pid"
    wait_for childless "$pid"
    [[ $(serving_pid) == "$pid" ]]
    names "$pid"
    wait_for has_descriptors "$pid" "$before"
    find_successor
    rm -rf "${BATS_TEST_TMPDIR:?}/$name"
    mend_successor
    restart_in_the_end
    ask_many "$idle" "$half"
    serves
    wait_gone "$old"
    wait_for names "$pid"
}

# fails REGEX: the next restart fails for a reason that matches.
fails() {
    echo "$1"
    fail_restart
    logged "\[$pid]: restart failed: .*$1"
}

# ---- a successor that does not run ----

@test "a successor that cannot be executed or ends before its claim leaves the service as it was" {
    begin
    for case in missing 'no run bit' 'bad format' folder 'exit 7' 'exit 0' 'kill -SEGV $$'; do
        find_successor
        program=$BATS_TEST_TMPDIR/$name
        started=$(count_log 'successor started')
        case $case in
        missing)
            rm "$program"
            fails "cannot start \\./$name: No such file or directory"
            ;;
        'no run bit')
            chmod a-x "$program"
            fails "cannot start \\./$name: Permission denied"
            ;;
        'bad format')
            # No shell executes it.
            echo "touch '$BATS_TEST_TMPDIR/ran'" >"$program"
            fails "cannot start \\./$name: Exec format error"
            [[ ! -e $BATS_TEST_TMPDIR/ran ]]
            ;;
        folder)
            rm "$program"
            mkdir "$program"
            fails "cannot start \\./$name: Permission denied"
            ;;
        exit*)
            successor_script "$case"
            fails "exited with status ${case#* }"
            ;;
        kill*)
            successor_script "$case"
            fails 'was ended by signal 11 \(Segmentation fault\)'
            ;;
        esac
        [[ $case == @(exit|kill)* ]] || (($(count_log 'successor started') == started))
        nothing_happened
        send "$half" "$HALF"
        wait_for taken "$half"
        wait_for holds "$pid" "$half"
        wait_for settled "$pid"
        before=$(descriptors "$pid")
    done
}

@test "a successor that hangs, sends garbage or closes the channel is killed when time is over" {
    begin --ready-timeout 3
    # The first one does not end for anything less than SIGKILL.
    for script in \
        'trap "" TERM INT HUP; echo $$ >successor; while :; do sleep 0.1; done' \
        'echo $$ >successor; while for m in X C C1 r2 2R XXXXXXXXXXXXXXXX; do
            printf "$m" >&"${RESTART_CHANNEL#*:}" || exit; done; do :; done' \
        'eval "exec ${RESTART_CHANNEL#*:}>&-"; echo $$ >successor; exec sleep 600'; do
        rm -f "$BATS_TEST_TMPDIR/successor"
        successor_script "$script"
        failures=$(count_log 'restart failed')
        kill -USR1 "$pid"
        wait_for test -s "$BATS_TEST_TMPDIR/successor"
        [[ $script != *exec* ]] || does_not_spin "$pid"
        ask "$idle"
        serves
        wait_for failed_more_than "$failures"
        successor=$(<"$BATS_TEST_TMPDIR/successor")
        logged "\[$pid]: restart failed: successor $successor was not ready within 3 s and was killed"
        gone "$successor"
        nothing_happened
        send "$half" "$HALF"
        wait_for taken "$half"
        wait_for holds "$pid" "$half"
        wait_for settled "$pid"
        before=$(descriptors "$pid")
    done
}

@test "a successor that fails does not leave the listener blocking" {
    begin
    # O_NONBLOCK belongs to the open file description, which both processes share.
    successor_script 'perl -e "open(L, q(<&=), shift) && fcntl(L, 4, 0) or die" "${@: -1}"; exit 3'
    fails 'exited with status 3'
    nothing_happened
}

# ---- a successor that has not been executed yet ----

@test "during a slow execution of the successor, clients are served and connections closed" {
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
    end_request "$half"
    wait_gone "$old"
    serves
}

@test "a successor whose execution takes longer than the ready timeout is killed" {
    need_strace
    begin --ready-timeout 1
    # strace holds the killed process until the delay is over.
    in_trouble -f execve delay_enter=5000000
    kill -USR1 "$pid"
    wait_for restart_decided
    logged "\[$pid]: restart failed: successor [0-9]+ was not ready within 1 s and was killed"
    mended
    nothing_happened
}

@test "a successor that is killed before its execution fails the restart, which logs how it ended" {
    need_strace
    for options in '' '--ready-timeout 0'; do
        # shellcheck disable=SC2086 # words
        begin $options
        : >"$BATS_TEST_TMPDIR/trace"
        in_background strace -qq -f -p "$pid" -o "$BATS_TEST_TMPDIR/trace" -e trace=execve,wait4,waitid \
            -e inject=execve:delay_enter=60000000 -e inject=wait4,waitid:delay_exit=500000
        # shellcheck disable=SC2034 # for mended
        tracer=$job
        wait_for traced "$pid"
        kill -USR1 "$pid"
        wait_for in_old_program "$pid"
        successor=$(children "$pid")
        # The old process looks whether it lives, finds that it does, and only then sees it end.
        kill -USR1 "$pid"
        pause 200
        kill -KILL "$successor"
        pause 1000
        mended
        wait_log "\[$pid]: restart failed: successor $successor was ended by signal 9 \(Killed\)"
        (($(count_log 'successor started') == 0))
        if [[ -z $options ]]; then
            nothing_happened
        else
            wait_for childless "$pid"
            wait_for has_descriptors "$pid" "$before"
            ask "$idle"
            end_request "$half"
        fi
        end_all
    done
}

# ---- a successor that has not claimed the listener yet ----

@test "a successor that hangs before its first turn is killed at the ready timeout" {
    need_strace
    begin --ready-timeout 6
    connect_many 10
    ask_many "${conns[@]}"
    before=$(descriptors "$pid")
    hold_at epoll_wait
    asked=0
    end=$((SECONDS + patience))
    until logged "\[$pid]: restart failed: successor $successor was not ready within 6 s and was killed"; do
        serves
        ask_many "${conns[@]}"
        ((++asked, SECONDS < end))
        pause 100
    done
    ((asked > 0))
    nothing_happened
    ask_many "${conns[@]}"
}

@test "a successor accepts nothing before it has claimed the listener" {
    need_strace
    start_server
    connect_many 3
    ask_many "${conns[@]}"
    start_traced accept4,sendmsg,recvmsg
    wait_for succeeded "$pid"
    ask_many "${conns[@]}"
    # Its report is the first of these calls.
    calls=$(grep -v '^---' "$BATS_TEST_TMPDIR/trace")
    [[ $calls == sendmsg*'"R2"'*recvmsg* && ${calls%%$'\n'*} == *'"R2"'* ]]
}

@test "a successor that claims the listeners when its time is over serves no client" {
    need_strace
    begin --ready-timeout 4
    hold_at epoll_wait
    # Between the decision to kill it and its end it has time to try.
    in_background strace -qq -p "$pid" -o "$BATS_TEST_TMPDIR/trace" -e trace=shutdown,kill \
        -e inject=kill:delay_enter=3000000
    tracer=$job
    wait_for says "$BATS_TEST_TMPDIR/trace" 'shutdown.* = 0'
    kill -CONT "$successor"
    wait_log "\[$successor]: cannot claim the listeners: the predecessor serves on"
    wait_log "\[$pid]: restart failed: successor $successor was not ready within 4 s and was killed"
    mended
    nothing_happened
}

@test "an old process that was stopped for long does not kill its successor for being late" {
    start_server --ready-timeout 5
    connect
    ask "$conn"
    claim_unread
    pause 5500
    kill -CONT "$old"
    ask "$conn"
    wait_log "\[$old]: (handed over|restart failed)"
    wait_for only_one_left
    programs_are "$pid"
    ask "$conn"
}

@test "a successor that claims the listener while the old process gives it up serves" {
    need_strace
    start_server --ready-timeout 2 -p pid_file
    connect
    idle=$conn
    ask "$idle"
    # From the ready timeout on the old process takes 5 s to close the channel for reports.
    in_trouble shutdown delay_enter=5000000:when=1
    successor_script 'sleep 4; become "$@"'
    old=$pid
    kill -USR1 "$old"
    wait_for succeeded "$old"
    pid=$(serving_pid)
    # The old process cannot have accepted it.
    connect
    ask "$conn"
    ended "$old"
    ((status == 0))
    (($(count_log 'restart failed') == 0))
    ask "$idle"
    ask "$conn"
    names "$pid"
}

# ---- a successor that is hard to get rid of ----

# hold_dead PID: a tracer keeps the process from being reaped when it has ended. Sets job.
hold_dead() {
    need tracer
    mkfifo "$BATS_TEST_TMPDIR/stdin"
    in_background "$BUILD_DIR/tracer" "$1" <>"$BATS_TEST_TMPDIR/stdin"
    wait_for traced "$1"
}

@test "the old process waits without spinning for a dead successor that a tracer holds" {
    begin --ready-timeout 60
    successor_script 'echo $$ >successor; exec sleep 60'
    kill -USR1 "$pid"
    wait_for test -s "$BATS_TEST_TMPDIR/successor"
    successor=$(<"$BATS_TEST_TMPDIR/successor")
    hold_dead "$successor"
    kill -KILL "$successor"
    wait_gone "$successor"
    sleeps "$pid"
    serves
    kill "$job"
    wait_log "\[$pid]: restart failed: .*signal 9"
    nothing_happened
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
    kill -USR1 "$pid"
    wait_for test -s "$BATS_TEST_TMPDIR/successor"
    successor=$(<"$BATS_TEST_TMPDIR/successor")
    hold_dead "$successor"
    wait_gone "$successor"
    serves
    (($(count_log 'restart failed') == 0))
    kill "$job"
    wait_log "\[$pid]: restart failed: cannot start ./${NAME}1: pidfd_open: Operation not permitted"
    mended
    nothing_happened
}
