#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# --supervise: the first process and its pid stay, and the server is replaced below it.
# shellcheck disable=SC2016 # scripts in quotes are run by the successor
# shellcheck disable=SC2030,SC2031,SC2153,SC2154 # a test is a subshell; helper.bash sets the rest

bats_require_minimum_version 1.5.0
load tools/helper

# start_supervised [OPTIONS...]: starts a supervised server. Sets supervisor and pid, the server's.
start_supervised() {
    # A test in the background may have been started with SIGQUIT ignored.
    start_command env --default-signal=QUIT "./$NAME" --supervise -l 127.0.0.1:0 -p pid_file \
        "${PATIENT[@]}" "$@"
    supervisor=$pid
    wait_for has_child
    wait_listening
    wait_for names "$pid"
}

has_child() {
    pid=$(children "$supervisor")
    [[ -n $pid ]]
}

# hand_over: sends SIGUSR1 to the first process, and waits until a successor owns the listener.
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
    programs_are "$@" && [[ $(children "$supervisor") == "${!#}" ]]
}

# supervisor_ended STATUS: waits for the first process's end, with this status; nothing is left.
supervisor_ended() {
    ended "$supervisor"
    ((status == $1))
    programs_are
}

# The rest comes, and the connection, whose server drains, ends.
send_rest() {
    send "$half" "$REST"
    receive "$half"
    [[ $code == 200 ]]
    disconnect "$half"
}

# serves_below COMMAND...: COMMAND becomes a first process, and the server below it alone holds the
# listener.
serves_below() {
    start_command "$@"
    supervisor=$pid
    wait_for finds_port_below
    pid=$(children "$supervisor")
    serves
    [[ $(ss -Htlnp "sport = :$port" | grep -o 'pid=[0-9]*') == "pid=$pid" ]]
    only "$supervisor" "$pid"
    # It refuses connections as soon as it ends.
    begin_request
    kill -TERM "$supervisor"
    wait_for refuses
    send_rest
    supervisor_ended 0
}

finds_port_below() {
    pid=$(children "$supervisor") && [[ -n $pid ]] && finds_port
}

@test "the first process does not serve: only its child holds the listener" {
    serves_below "./$NAME" --supervise -l 127.0.0.1:0 "${PATIENT[@]}"
}

@test "the first process closes listeners that it inherits" {
    needs systemd-socket-activate
    for fd in '' 3; do
        port=$(free_port)
        (
            # The first connection starts it.
            until (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do sleep 0.02; done
        ) &
        # shellcheck disable=SC2086 # none, or a number
        serves_below systemd-socket-activate -l "127.0.0.1:$port" "./$NAME" --supervise \
            "${PATIENT[@]}" $fd
    done
}

@test "the first process closes a listener that the server opened before" {
    cp "$BUILD_DIR/forker" "$BATS_TEST_TMPDIR/forker"
    cp "$BUILD_DIR/forker" "$BATS_TEST_TMPDIR/forker1"
    mkdir "$BATS_TEST_TMPDIR/elsewhere"
    SUPERVISE=1 start_command ./forker
    supervisor=$pid
    wait_log ': listening on [^ ]*:([0-9]+)'
    port=${BASH_REMATCH[1]}
    for _ in 1 2 3; do
        pid=$(children "$supervisor")
        [[ $(ss -Htlnp "sport = :$port" | grep -o 'pid=[0-9]*') == "pid=$pid" ]]
        kill -USR1 "$supervisor"
        wait_for succeeded "$pid"
        wait_for only "$supervisor" "$(serving_pid)"
    done
    kill -TERM "$supervisor"
    supervisor_ended 0
}

@test "SIGUSR1 to the first process restarts the server below it with the same options" {
    start_supervised
    connect
    for ((i = 0; i < 3; i++)); do
        ask "$conn"
        hand_over
        # The successor has no first process of its own.
        wait_for only "$supervisor" "$pid"
        ask "$conn"
        serves
    done
    [[ $(ps -o ppid= -p "$pid") -eq $supervisor ]]
    mapfile -d '' -t argv <"/proc/$pid/cmdline"
    [[ ${argv[*]:0:${#argv[@]}-1} == \
        "./${NAME}1 --supervise -l 127.0.0.1:0 -p pid_file ${PATIENT[*]}" ]]
    [[ ${argv[-1]} =~ ^[0-9]+$ ]]
}

@test "a successor that is started without a channel has no first process of its own" {
    start_supervised --ready-timeout 0
    old=$pid
    kill -USR1 "$supervisor"
    wait_for succeeded "$old"
    pid=$(serving_pid)
    wait_for only "$supervisor" "$pid"
    serves
}

@test "under load, no client notices 50 restarts, and no zombie and no descriptor is left" {
    start_supervised
    wait_for settled "$supervisor"
    before=$(descriptors "$supervisor")
    hammer=$BATS_TEST_TMPDIR/hammer
    in_background "$BUILD_DIR/hammer" -d 300 --deadline 60 --pause 5 -k 4 -t 4 -p 2 -c 2 -s 2 -i 20 \
        "127.0.0.1:$port" >"$hammer" 2>"$hammer.said"
    wait_for says "$hammer.said" '^idle 20'
    for ((i = 0; i < 50; i++)); do
        hand_over
    done
    kill -INT "$job"
    wait "$job"
    cat "$hammer"
    wait_for only "$supervisor" "$pid"
    (($(descriptors "$supervisor") <= before))
    (($(count_log 'restart failed') == 0))
    serves
}

# ---- its end ----

@test "SIGTERM and SIGINT to the first process end the server gracefully, and both with status 0" {
    for signal in TERM INT; do
        start_supervised
        hand_over
        wait_for only "$supervisor" "$pid"
        begin_request
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
    begin_request
    kill -TERM "$supervisor"
    wait_log "\[$pid]: SIGTERM received: ending gracefully"
    kill -TERM "$supervisor"
    supervisor_ended 1
}

@test "the first process logs how a server ended that it did not end, and ends with its status" {
    ulimit -c 0
    for signal in 'SEGV 139 11 (Segmentation fault)' 'KILL 137 9 (Killed)' 'ABRT 134 6 (Aborted)'; do
        read -r signal code how <<<"${signal/(/\\(}"
        for restarts in 0 1; do
            start_supervised
            ((restarts == 0)) || hand_over
            wait_for only "$supervisor" "$pid"
            kill -"$signal" "$pid"
            supervisor_ended "$code"
            logged "\[$supervisor]: server $pid was ended by signal ${how/)/\\)}"
        done
    done
    start_supervised
    kill -TERM "$pid"
    supervisor_ended 0
    logged "\[$supervisor]: server $pid exited with status 0"
    start_supervised
    kill -TERM "$supervisor"
    supervisor_ended 0
    run ! logged "\[$supervisor]: server"
}

@test "a crash while the predecessor finishes requests gives the first process its status, too" {
    start_supervised
    begin_request
    hand_over
    wait_for handed_on "$old"
    kill -SEGV "$pid"
    wait_log "\[$old]: successor $pid was ended by signal 11"
    send_rest
    supervisor_ended 139
}

@test "a crash together with the predecessor's end gives the first process its status, too" {
    for _ in {1..20}; do
        start_supervised --rollback-timeout 600
        hand_over
        kill -KILL "$pid" "$old"
        supervisor_ended 137
    done
}

@test "the status is that of the last owner, though another server crashed and another ends later" {
    start_supervised
    begin_request
    hand_over
    wait_for handed_on "$old"
    crashed=$pid
    start_slowly
    kill -SEGV "$crashed"
    wait_gone "$crashed"
    go_on
    wait_for succeeded "$old"
    pid=$(serving_pid)
    kill -TERM "$supervisor"
    wait_gone "$pid"
    alive "$supervisor"
    kill -KILL "$old"
    supervisor_ended 0
}

@test "a server that cannot start ends the first process with its status" {
    start_supervised
    for ((i = 0; i < 2; i++)); do
        run ! "$BATS_TEST_TMPDIR/$NAME" --supervise -l "127.0.0.1:$port" 3>&-
        ((status == 1))
        [[ $output == *'Address already in use'* ]]
    done
    run ! "$BATS_TEST_TMPDIR/$NAME" --supervise --nonsense 3>&-
    ((status == 2))
}

# ---- no server outlives the first process ----

# Whether no server is left, and no program that was started as one.
nothing_left() {
    programs_are && none_left_but ''
}

# all_end SIGNAL: SIGNAL ends the first process, and with it all servers, which is a matter of
# milliseconds.
all_end() {
    kill -"$1" "$supervisor"
    deadline=5 wait_for nothing_left
    refuses
}

@test "whatever ends the first process ends all servers" {
    ulimit -c 0
    for signal in KILL QUIT HUP ALRM SEGV; do
        start_supervised --rollback-timeout 600
        begin_request
        first=$pid
        hand_over
        hand_over
        programs_are "$supervisor" "$first" "$old" "$pid"
        all_end "$signal"
    done
}

@test "the end of the first process ends servers that are stopped" {
    start_supervised
    begin_request
    hand_over
    kill -STOP "$old" "$pid"
    all_end KILL
    # Also one whose predecessor has ended.
    start_supervised
    hand_over
    wait_gone "$old"
    kill -STOP "$pid"
    all_end KILL
}

@test "the end of the first process ends a foreign program that hangs" {
    # It has not claimed the listener; it has, and its predecessor drains, or has ended.
    for state in starting draining alone; do
        rm -f "$BATS_TEST_TMPDIR/started"
        start_supervised
        begin_request
        successor_script "trap '' TERM INT HUP
            [[ $state == starting ]] || printf R1 >&\"\${RESTART_CHANNEL#*:}\"
            : >started; exec sleep 300"
        kill -USR1 "$supervisor"
        wait_for test -e "$BATS_TEST_TMPDIR/started"
        [[ $state == starting ]] || wait_log "\[$pid]: handed over"
        if [[ $state == alone ]]; then
            send_rest
            wait_gone "$pid"
        fi
        all_end KILL
        mend_successor
    done
}

@test "65 servers that finish requests end with the first process" {
    start_supervised
    for ((i = 0; i < 65; i++)); do
        begin_request
        untraced hand_over
    done
    (($(programs | wc -l) == 67))
    all_end KILL
}

@test "nothing is lost where the user's signal queue is full" {
    # start_supervised with RLIMIT_SIGPENDING
    start_command bash -c "ulimit -i 0; exec ./$NAME --supervise -l 127.0.0.1:0 -p pid_file ${PATIENT[*]}"
    supervisor=$pid
    wait_for has_child
    wait_listening
    for _ in 1 2 3; do
        hand_over
        wait_for only "$supervisor" "$pid"
    done
    all_end KILL
}

@test "the successor of a server that is killed right after it has forked serves" {
    start_supervised
    in_background strace -f -qq -o /dev/null -e trace=close_range \
        -e inject=close_range:delay_enter=1000000:when=1 -p "$pid"
    wait_for traced "$pid"
    old=$pid
    kill -USR1 "$supervisor"
    wait_for has_successor
    kill -KILL "$old"
    wait_for succeeded "$old"
    pid=$(serving_pid)
    wait_for only "$supervisor" "$pid"
    serves
    logged "\[$supervisor]: server $old was ended by signal 9"
    kill -TERM "$supervisor"
    supervisor_ended 0
}

has_successor() {
    [[ -n $(children "$old") ]]
}

# ---- orphans ----

@test "the first process reaps orphans" {
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

@test "an orphan that lives on delays neither the end nor its status" {
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

@test "SIGTERM while a restart is pending ends the server and, passed on once, its successor" {
    start_supervised
    successor_script 'trap "echo hit >>hit; exit 0" TERM; : >started
        until [[ -e go ]]; do sleep 0.02; done'
    begin_request
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
    begin_request
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

# without_half COMMAND...: the connection is open in the test only.
without_half() {
    [[ -z ${half-} ]] || disconnect "$half"
    exec "$@"
}

# late_signal SIGNAL: the first process passes SIGNAL on only after 1.5 seconds.
late_signal() {
    in_background without_half strace -qq -o /dev/null -e trace=pidfd_send_signal \
        -e inject=pidfd_send_signal:delay_enter=1500000:when=1 -p "$supervisor"
    wait_for traced "$supervisor"
    kill -"$1" "$supervisor"
    wait_for says "/proc/$supervisor/status" '^State:\s+t'
}

# slow_hand_over SIGNAL: while the server hands over to a slow successor, SIGNAL is sent to the first
# process, which passes it on when the successor has taken over. Sets old and pid.
slow_hand_over() {
    start_slowly
    late_signal "$1"
    go_on
    old=$pid
    wait_for succeeded "$old"
    pid=$(serving_pid)
    mend_successor
}

@test "SIGTERM reaches the process that serves, though its predecessor ended before it was sent" {
    start_supervised
    slow_hand_over TERM
    wait_gone "$old"
    wait_log "\[$pid]: SIGTERM received: ending gracefully"
    supervisor_ended 0
}

@test "SIGUSR1 reaches the process that serves, though it was sent to a predecessor that drains" {
    start_supervised
    begin_request
    slow_hand_over USR1
    wait_log "\[$pid]: SIGUSR1 received: restarting"
    send_rest
    kill -TERM "$supervisor"
    supervisor_ended 0
}

@test "SIGTERM reaches the process that serves, though it was sent two restarts before" {
    start_supervised
    begin_request
    first=$half
    late_signal TERM
    restart_server
    begin_request
    restart_server
    wait_log "\[$pid]: SIGTERM received: ending gracefully"
    send_rest
    half=$first
    send_rest
    supervisor_ended 0
}

@test "SIGTERM reaches a server that has not yet noticed that its successor has crashed" {
    start_supervised --rollback-timeout 300
    hand_over
    # It notices the crash only after two seconds.
    in_background strace -qq -o /dev/null -e trace=wait4,waitid \
        -e inject=wait4,waitid:delay_enter=2000000 -p "$old"
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
    # The first process knows who owns the listener now.
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

@test "process 1 supervises by itself: it restarts, and ends on SIGTERM, SIGINT or a crash" {
    for signal in TERM INT SEGV; do
        : >"$log"
        start_as_first
        logged "^$NAME\[2]: listening on"
        [[ $(<"$BATS_TEST_TMPDIR/pid_file") == 2 ]]
        connect
        ask "$conn"
        kill -USR1 "$supervisor"
        replaced
        ask "$conn"
        serves
        alive "$supervisor"
        disconnect "$conn"
        if [[ $signal == SEGV ]]; then
            kill -SEGV "$pid"
            ended "$outside"
            ((status == 139))
        else
            kill -"$signal" "$supervisor"
            ended "$outside"
            ((status == 0))
        fi
        rm -f "$BATS_TEST_TMPDIR/pid_file"
    done
}

@test "process 1 reaps orphans, and a crash below it is rolled back" {
    start_as_first --rollback-timeout 300
    old=$pid
    successor_script '(until [[ -e go ]]; do sleep 0.02; done) & become "$@"'
    kill -USR1 "$supervisor"
    wait_log "^$NAME\[2]: handed over to"
    wait_for has_grandchild
    mend_successor
    inside=$(<"$BATS_TEST_TMPDIR/pid_file")
    kill -KILL "$pid"
    wait_log "^$NAME\[2]: rolled back: successor $inside was ended by signal 9"
    serves
    wait_for has_orphan
    : >"$BATS_TEST_TMPDIR/go"
    wait_for has_no_orphan
    kill -TERM "$supervisor"
    ended "$outside"
    ((status == 0))
}

has_grandchild() {
    pid=$(children "$old")
    [[ -n $pid && $(<"$BATS_TEST_TMPDIR/pid_file") != 2 ]]
}

has_orphan() {
    (($(children "$supervisor" | wc -l) == 2))
}

has_no_orphan() {
    [[ $(children "$supervisor") == "$old" ]]
}

# ---- the terminal ----

# on_terminal COMMAND: runs COMMAND in a shell with job control, as the foreground of a terminal of
# its own, and waits for a server. Its screen is the log. Sets terminal, pid and port.
on_terminal() {
    needs script
    rm -f "$BATS_TEST_TMPDIR/keys"
    mkfifo "$BATS_TEST_TMPDIR/keys"
    exec {keys}<>"$BATS_TEST_TMPDIR/keys"
    log=$BATS_TEST_TMPDIR/log.screen
    : >"$log"
    (
        cd "$BATS_TEST_TMPDIR" || exit
        SHELL=$BASH exec script -q -c "set -m; $1" /dev/null <keys >>"$log" 2>&1 3>&-
    ) &
    terminal=$!
    wait_log '\[([0-9]+)]: listening on '
    pid=${BASH_REMATCH[1]}
    wait_listening
}

type_key() {
    printf '%b' "$1" >&"$keys"
}

close_window() {
    kill -KILL "$terminal" 2>/dev/null || true
    wait "$terminal" 2>/dev/null || true
}

supervised="./$NAME --supervise -l 127.0.0.1:0 ${PATIENT[*]}"
single="./$NAME -l 127.0.0.1:0 ${PATIENT[*]}"

@test "a terminal with stty tostop stops no server" {
    for command in "$single; sleep 300" "$supervised" "$single & wait; sleep 300" "$supervised & wait"; do
        on_terminal "stty tostop; $command"
        for _ in 1 2; do
            old=$pid
            kill -USR1 "$pid"
            wait_for succeeded "$old"
            pid=$(serving_pid)
            serves
        done
        kill -TERM "$pid"
        wait_gone "$pid"
        close_window
    done
}

@test "Ctrl-C counts once, and ends the servers gracefully; a second one ends them at once" {
    for presses in 1 2; do
        on_terminal "$supervised; echo status \$?"
        begin_request
        first=$half
        old=$pid
        kill -USR1 "$pid"
        wait_for succeeded "$old"
        pid=$(serving_pid)
        begin_request
        type_key '\003'
        # Of two lines that are written to a terminal at once, one may be lost.
        wait_log "\[($old|$pid)]: SIGINT received: ending gracefully"
        wait_for has_read_signals "$old"
        wait_for has_read_signals "$pid"
        if ((presses == 1)); then
            send_rest
            half=$first
            send_rest
            wait_log '^status 0'
            run ! logged 'at once'
        else
            type_key '\003'
            wait_log '^status 1'
            logged "\[($old|$pid)]: SIGINT received: ending at once"
        fi
        wait_for programs_are
        wait_gone "$terminal"
    done
}

# has_read_signals PID: whether no signal waits to be read by the process.
has_read_signals() {
    ((16#$(status_of "$1" ShdPnd) == 0))
}

@test "Ctrl-\\, and closing the window, end the servers" {
    for end in quit close; do
        on_terminal "ulimit -c 0; env --default-signal=QUIT $supervised; echo status \$?"
        begin_request
        old=$pid
        kill -USR1 "$pid"
        wait_for succeeded "$old"
        if [[ $end == quit ]]; then
            type_key '\034'
            wait_log '^status 131'
        else
            close_window
        fi
        deadline=5 wait_for programs_are
        refuses
    done
}
