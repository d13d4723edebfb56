#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# The first process stays, and the server is replaced below it.
# shellcheck disable=SC2016 # scripts in quotes are run by the successor
# shellcheck disable=SC2030,SC2031,SC2153,SC2154 # a test is a subshell; helper.bash sets the rest

bats_require_minimum_version 1.5.0
load helper

# start_supervised [OPTIONS...]: starts a supervised server. Sets supervisor and pid, the server's.
start_supervised() {
    start_command "./$NAME" --supervise -l 127.0.0.1:0 -p pid_file "${PATIENT[@]}" "$@"
    supervisor=$pid
    wait_for has_child
    wait_listening
    wait_for names "$pid"
}

has_child() {
    pid=$(children "$supervisor")
    [[ -n $pid ]]
}

# hand_over: asks the first process for a restart, and waits until a successor owns the listener.
# Sets old and pid.
hand_over() {
    old=$pid
    kill -USR1 "$supervisor"
    wait_for succeeded "$old"
    wait_log "\[$old]: handed over"
    pid=$(serving_pid)
    wait_for names "$pid"
}

# only PID...: whether these are the servers and the first process, and none waits to be reaped.
only() {
    programs_are "$@" && [[ $(children "$supervisor") == "$pid" ]]
}

# supervisor_ended STATUS: waits for the first process's end, with this status; nothing is left.
supervisor_ended() {
    ended "$supervisor"
    ((status == $1))
    programs_are
}

# holds_half: a client's request of which a part has arrived. Sets half.
holds_half() {
    connect
    half=$conn
    send "$half" "$HALF"
    wait_for taken "$half"
}

# The rest comes, and the connection, whose server drains, ends.
send_rest() {
    send "$half" "$REST"
    receive "$half"
    [[ $code == 200 ]]
    disconnect "$half"
}

@test "the first process does not serve: it has one child that does, and no socket" {
    start_supervised
    only "$supervisor" "$pid"
    serves
    [[ -z $(find "/proc/$supervisor/fd" -lname 'socket:*') ]]
    [[ $(holder_of_port) == "$pid" ]]
    ((supervisor != pid))
}

@test "the first process leaves no listener open that it was given as FD" {
    command -v systemd-socket-activate >/dev/null || skip 'needs systemd-socket-activate'
    port=$(free_port)
    start_command systemd-socket-activate -l "127.0.0.1:$port" "./$NAME" --supervise 3
    wait_log '^Listening on '
    supervisor=$pid
    connect
    send "$conn" "$WHOLE"
    answered "$conn"
    wait_for settled "$supervisor"
    [[ -z $(find "/proc/$supervisor/fd" -lname 'socket:*') ]]
}

@test "SIGUSR1 to the first process restarts the server, and its own pid stays" {
    start_supervised
    connect
    for ((i = 0; i < 3; i++)); do
        ask "$conn"
        hand_over
        wait_for only "$supervisor" "$pid"
        ask "$conn"
        serves
    done
    [[ $(ps -o ppid= -p "$pid") -eq $supervisor ]]
}

@test "a successor is given the option, and has no first process of its own" {
    start_supervised
    hand_over
    mapfile -d '' -t argv <"/proc/$pid/cmdline"
    [[ ${argv[*]:0:${#argv[@]}-1} == \
        "./${NAME}1 --supervise -l 127.0.0.1:0 -p pid_file ${PATIENT[*]}" ]]
    [[ ${argv[-1]} =~ ^[0-9]+$ ]]
    wait_for only "$supervisor" "$pid"
}

@test "100 restarts through the first process leave no zombie and no descriptor behind" {
    start_supervised
    wait_for settled "$supervisor"
    before=$(descriptors "$supervisor")
    for ((i = 0; i < 100; i++)); do
        hand_over
    done
    wait_for only "$supervisor" "$pid"
    (($(descriptors "$supervisor") <= before))
    (($(count_log 'restart failed') == 0))
    serves
}

@test "under load, no client notices 20 restarts through the first process" {
    start_supervised
    hammer=$BATS_TEST_TMPDIR/hammer
    in_background "$BUILD_DIR/hammer" -d 300 --deadline 60 --pause 5 -k 4 -t 4 -p 2 -c 2 -s 2 -i 20 "127.0.0.1:$port" \
        >"$hammer" 2>"$hammer.said"
    wait_for says "$hammer.said" '^idle 20'
    for ((i = 0; i < 20; i++)); do
        hand_over
    done
    kill -INT "$job"
    wait "$job"
    cat "$hammer"
    wait_for only "$supervisor" "$pid"
}

# ---- its end ----

@test "SIGTERM and SIGINT to the first process end the server gracefully, and it ends with status 0" {
    for signal in TERM INT; do
        start_supervised
        hand_over
        wait_for only "$supervisor" "$pid"
        holds_half
        kill -"$signal" "$supervisor"
        wait_log "\[$pid]: SIG$signal received: ending gracefully"
        alive "$supervisor"
        send_rest
        supervisor_ended 0
        [[ ! -e $BATS_TEST_TMPDIR/pid_file ]]
    done
}

@test "a second SIGTERM ends the server at once, and the first process with status 1" {
    start_supervised
    holds_half
    kill -TERM "$supervisor"
    wait_log "\[$pid]: SIGTERM received: ending gracefully"
    kill -TERM "$supervisor"
    supervisor_ended 1
}

@test "the first process ends with 128 and the number of the signal that ended the server" {
    for signal in SEGV:139 KILL:137 ABRT:134; do
        start_supervised
        kill -"${signal%:*}" "$pid"
        supervisor_ended "${signal#*:}"
        start_supervised
        hand_over
        wait_for only "$supervisor" "$pid"
        kill -"${signal%:*}" "$pid"
        supervisor_ended "${signal#*:}"
    done
}

@test "a crash while its predecessor finishes requests is the first process's status, too" {
    start_supervised
    holds_half
    hand_over
    wait_for handed_on "$old"
    kill -SEGV "$pid"
    wait_log "\[$old]: successor $pid was ended by signal 11"
    send_rest
    supervisor_ended 139
}

@test "the first process ends as a server does that cannot start" {
    start_supervised
    for ((i = 0; i < 2; i++)); do
        run ! "$BATS_TEST_TMPDIR/$NAME" --supervise -l "127.0.0.1:$port" 3>&-
        ((status == 1))
        [[ $output == *'Address already in use'* ]]
    done
    run ! "$BATS_TEST_TMPDIR/$NAME" --supervise --nonsense 3>&-
    ((status == 2))
}

# ---- orphans ----

@test "what is orphaned to the first process is reaped" {
    start_supervised
    for ((i = 0; i < 3; i++)); do
        successor_script "(until [[ -e go$i ]]; do sleep 0.02; done; exit 7) & echo \$! >orphan"'
            become "$@"'
        hand_over
        orphan=$(<"$BATS_TEST_TMPDIR/orphan")
        mend_successor
        hand_over
        wait_for is_child_of_supervisor "$orphan"
        : >"$BATS_TEST_TMPDIR/go$i"
        wait_for only "$supervisor" "$pid"
    done
    serves
    kill -TERM "$supervisor"
    supervisor_ended 0
}

is_child_of_supervisor() {
    [[ $(ps -o ppid= -p "$1") -eq $supervisor ]]
}

@test "an orphan that lives on holds up neither the end nor its status" {
    start_supervised
    successor_script 'sleep 300 & echo $! >orphan; become "$@"'
    hand_over
    wait_gone "$old"
    kill -SEGV "$pid"
    wait_for gone "$supervisor" || held_up=1
    kill "$(<"$BATS_TEST_TMPDIR/orphan")"
    ended "$supervisor"
    [[ $status == 139 && -z ${held_up-} ]]
}

# ---- signals at the wrong time ----

@test "SIGUSR1 while a restart is pending goes to the process that owns the listener" {
    start_supervised
    successor_script 'trap ": >hit" USR1; : >started; until [[ -e go ]]; do sleep 0.02; done; become "$@"'
    old=$pid
    kill -USR1 "$supervisor"
    wait_for test -e "$BATS_TEST_TMPDIR/started"
    kill -USR1 "$supervisor"
    wait_log "\[$old]: SIGUSR1 received: ignored, a restart is pending"
    : >"$BATS_TEST_TMPDIR/go"
    wait_for succeeded "$old"
    pid=$(serving_pid)
    wait_for names "$pid"
    [[ ! -e $BATS_TEST_TMPDIR/hit ]]
    wait_for only "$supervisor" "$pid"
}

@test "SIGTERM while a restart is pending ends the server and its successor, and is passed on once" {
    start_supervised
    successor_script 'trap "echo hit >>hit; exit 0" TERM; : >started
        until [[ -e go ]]; do sleep 0.02; done'
    holds_half
    kill -USR1 "$supervisor"
    wait_for test -e "$BATS_TEST_TMPDIR/started"
    kill -TERM "$supervisor"
    wait_log "\[$pid]: SIGTERM received: ending gracefully"
    wait_for test -s "$BATS_TEST_TMPDIR/hit"
    send_rest
    supervisor_ended 0
    (($(wc -l <"$BATS_TEST_TMPDIR/hit") == 1))
}

@test "while the old process finishes requests, signals go to its successor" {
    start_supervised
    holds_half
    first=$half
    hand_over
    before=$old
    hand_over
    [[ $old != "$before" ]]
    alive "$before"
    kill -TERM "$supervisor"
    wait_log "\[$pid]: SIGTERM received: ending gracefully"
    run ! logged "\[$before]: SIGTERM"
    half=$first
    send_rest
    supervisor_ended 0
}

# hand_over_unseen: the first process waits for signals only after a second, in which its server
# hands over. Sets old and pid.
hand_over_unseen() {
    in_background strace -qq -o /dev/null -e trace=rt_sigtimedwait \
        -e inject=rt_sigtimedwait:delay_enter=1000000 -p "$supervisor"
    wait_for traced "$supervisor"
    kill -CHLD "$supervisor"
    wait_for says "/proc/$supervisor/status" '^State:\s+t'
    old=$pid
    kill -USR1 "$old"
    wait_for succeeded "$old"
    pid=$(serving_pid)
    wait_for names "$pid"
}

@test "a signal reaches the process that serves, though the first process learns of it late" {
    for signal in USR1 TERM; do
        start_supervised
        hand_over_unseen
        wait_gone "$old"
        kill -"$signal" "$supervisor"
        wait_log "\[$pid]: SIG$signal received: (restarting|ending gracefully)"
        kill -TERM "$supervisor" 2>/dev/null || true
        ended "$supervisor"
    done
}

@test "a signal for the process that serves is passed on by one that has handed over" {
    for signal in USR1 TERM; do
        start_supervised
        holds_half
        hand_over_unseen
        kill -"$signal" "$supervisor"
        wait_log "\[$pid]: SIG$signal received: (restarting|ending gracefully)"
        run ! logged "\[$old]: SIG$signal received: (ignored|ending)"
        send_rest
    done
}

@test "a signal reaches a server whose successor has just crashed, before it knows" {
    start_supervised --rollback-timeout 300
    hand_over
    # It learns of the crash only after two seconds.
    in_background strace -qq -o /dev/null -e trace=wait4 -e inject=wait4:delay_enter=2000000 \
        -p "$old"
    wait_for traced "$old"
    kill -SEGV "$pid"
    wait_gone "$pid"
    kill -TERM "$supervisor"
    wait_for gone "$supervisor"
    supervisor_ended 0
}

# ---- rollback ----

@test "a crash within the rollback timeout is rolled back, and the first process goes on" {
    start_supervised --rollback-timeout 300
    for ((i = 0; i < 3; i++)); do
        hand_over
        kill -KILL "$pid"
        wait_log "\[$old]: rolled back: successor $pid was ended by signal 9"
        pid=$old
        wait_for names "$pid"
        wait_for only "$supervisor" "$pid"
        serves
    done
    # It knows who owns the listener now.
    hand_over
    kill -TERM "$supervisor"
    wait_log "\[$pid]: SIGTERM received: ending gracefully"
    supervisor_ended 0
    (($(count_log 'SIGTERM received') == 1))
}

@test "a chain of restarts through the first process leaves one process standing by" {
    start_supervised --rollback-timeout 300
    for ((i = 0; i < 4; i++)); do
        before=$old
        hand_over
        [[ -z $before ]] || wait_gone "$before"
    done
    wait_for standing_by
    kill -KILL "$pid"
    wait_log "\[$old]: rolled back"
    wait_for names "$old"
    kill -TERM "$supervisor"
    wait_log "\[$old]: SIGTERM received: ending gracefully"
    supervisor_ended 0
}

standing_by() {
    programs_are "$supervisor" "$old" "$pid" &&
        [[ $(children "$supervisor") == "$old" && $(children "$old") == "$pid" ]]
}

# ---- process 1 ----

# start_as_first [OPTIONS...]: starts the server as process 1 of a pid namespace. Sets supervisor.
start_as_first() {
    namespace=(unshare --pid --fork --mount-proc --kill-child)
    "${namespace[@]}" true 2>/dev/null || namespace+=(--user --map-root-user)
    "${namespace[@]}" true 2>/dev/null || skip 'needs a pid namespace: not permitted'
    start_command "${namespace[@]}" "./$NAME" -l 127.0.0.1:0 -p pid_file "${PATIENT[@]}" "$@"
    outside=$pid
    wait_log ': listening on '
    port=$(sed -nE 's/.*: listening on [^ ]*:([0-9]+).*/\1/p' "$log" | tail -n 1)
    supervisor=$(children "$outside")
    pid=$(children "$supervisor")
    wait_for test -e "$BATS_TEST_TMPDIR/pid_file"
}

# Waits until another process serves. Its number inside is the last in the log. Sets pid.
replaced() {
    wait_for is_replaced "$pid"
    pid=$(children "$supervisor")
}

is_replaced() {
    local now
    now=$(children "$supervisor")
    [[ -n $now && $now != "$1" && $(wc -w <<<"$now") == 1 ]]
}

@test "process 1 supervises by itself: it restarts on SIGUSR1, and ends on SIGTERM" {
    start_as_first
    logged "^$NAME\[2]: listening on"
    [[ $(<"$BATS_TEST_TMPDIR/pid_file") == 2 ]]
    connect
    for ((i = 0; i < 3; i++)); do
        ask "$conn"
        kill -USR1 "$supervisor"
        replaced
        ask "$conn"
        serves
    done
    alive "$supervisor"
    kill -TERM "$supervisor"
    ended "$outside"
    ((status == 0))
}

@test "process 1 ends on SIGINT, and with the status of a server that crashed" {
    start_as_first
    kill -INT "$supervisor"
    ended "$outside"
    ((status == 0))
    : >"$log"
    start_as_first
    kill -SEGV "$pid"
    ended "$outside"
    ((status == 139))
}

@test "a crash below process 1 is rolled back" {
    start_as_first --rollback-timeout 300
    old=$pid
    kill -USR1 "$supervisor"
    wait_log "^$NAME\[2]: handed over to"
    wait_for has_grandchild
    inside=$(<"$BATS_TEST_TMPDIR/pid_file")
    kill -KILL "$pid"
    wait_log "^$NAME\[2]: rolled back: successor $inside was ended by signal 9"
    serves
    kill -TERM "$supervisor"
    ended "$outside"
    ((status == 0))
}

has_grandchild() {
    pid=$(children "$old")
    [[ -n $pid && $(<"$BATS_TEST_TMPDIR/pid_file") != 2 ]]
}

@test "what is orphaned to process 1 is reaped" {
    start_as_first
    successor_script '(until [[ -e go ]]; do sleep 0.02; done) & become "$@"'
    kill -USR1 "$supervisor"
    wait_log "${NAME}1\[[0-9]+]: listening"
    mend_successor
    wait_gone "$pid"
    kill -USR1 "$supervisor"
    wait_for has_orphan
    : >"$BATS_TEST_TMPDIR/go"
    replaced
    serves
}

has_orphan() {
    (($(children "$supervisor" | wc -l) == 2))
}
