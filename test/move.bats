#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# A restart closes no connection: each goes on, from process to process.
# shellcheck disable=SC2016 # scripts in quotes are run by the successor
# shellcheck disable=SC2030,SC2031,SC2153,SC2154 # a test is a subshell; helper.bash sets the rest

load helper

# Starts a restart, and holds it when the successor serves and has said so, and the old process
# knows nothing of it: it is stopped. Sets old and pid.
hold_restart() {
    old=$(serving_pid)
    successor_script 'kill -STOP $PPID; become "$@"'
    kill -USR1 "$old"
    wait_for succeeded "$old"
    pid=$(serving_pid)
    mend_successor
    # It reports before it serves, and no other process can answer.
    serves
}

# The same, and holds the successor too, while the old process hands over to it.
hold_hand_over() {
    hold_restart
    kill -STOP "$pid"
    kill -CONT "$old"
    wait_log "\[$old]: handed over"
}

# ask_many FD...: asks over all of them at once: the right answers have to come, and leave them open.
ask_many() {
    local fd text length
    # Each answer is as long as the first.
    send "$1" "$WHOLE"
    answered "$1"
    length=$((${#header} + $(wc -l <<<"$header") + 1 + ${#body}))
    {
        for fd; do
            # shellcheck disable=SC2059 # escapes, and nothing else
            printf "$WHOLE" >&"$fd"
        done
        # Without a timeout of its own: read -t cannot do with a descriptor above 1023.
        for fd; do
            IFS= read -r -u "$fd" -N "$length" text || exit
            [[ $text == 'HTTP/1.1 200 '*'Hello, World!' && ${text,,} != *'connection:'* ]] || exit
        done
    } &
    ended $!
    ((status == 0))
}

# Opens N connections, and asks over each of them as often as the file "ask" is made.
idle_and_ask() {
    connect_many "$1"
    touch "$BATS_TEST_TMPDIR/done"
    while :; do
        wait_for test -e "$BATS_TEST_TMPDIR/ask" || exit
        rm "$BATS_TEST_TMPDIR/ask"
        ask_many "${conns[@]}" || exit
        touch "$BATS_TEST_TMPDIR/done"
    done
}

@test "an idle connection is handed over to the successor and answered there, over and over" {
    start_server
    connect
    ask "$conn"
    for ((i = 0; i < 4; i++)); do
        restart_server
        wait_for holds "$pid" "$conn"
        ask "$conn"
        wait_gone "$old"
        ask "$conn"
    done
}

@test "the old process ends at once when all of its connections are idle" {
    start_server
    connect_many 20
    ask_many "${conns[@]}"
    # Nothing else that it could wait for takes less than a second; once the machine lets it.
    for ((i = 0; i < 50; i++)); do
        begun=${EPOCHREALTIME/[.,]/}
        restart_server
        wait_gone "$old"
        took=$((${EPOCHREALTIME/[.,]/} - begun))
        ((took >= 900000)) || break
    done
    ((took < 900000))
    wait_log "\[$old]: ended: 20 connections (handed over|passed on|moved)"
    ask_many "${conns[@]}"
}

@test "a connection that never sent a byte is handed over, too" {
    start_server
    connect
    wait_for holds "$pid" "$conn"
    restart_server
    ended "$old"
    ((status == 0))
    holds "$pid" "$conn"
    ask "$conn"
}

@test "a connection with a request in flight is answered first, and handed over then" {
    start_server
    connect
    send "$conn" "$HALF"
    wait_for taken "$conn"
    restart_server
    holds "$old" "$conn"
    send "$conn" "$REST"
    answered "$conn"
    wait_for holds "$pid" "$conn"
    ended "$old"
    ((status == 0))
    ask "$conn"
}

@test "a connection with half a request behind a whole one is handed over when that is answered, too" {
    start_server
    connect
    send "$conn" "$WHOLE$WHOLE$HALF"
    answered "$conn"
    answered "$conn"
    restart_server
    holds "$old" "$conn"
    send "$conn" "$REST$HALF"
    answered "$conn"
    wait_for taken "$conn"
    holds "$old" "$conn"
    send "$conn" "$REST"
    answered "$conn"
    wait_gone "$old"
    ask "$conn"
}

@test "what clients send while their connections are in the channel waits, and is answered" {
    start_server
    connect_many 10
    ask_many "${conns[@]}"
    hold_hand_over
    for conn in "${conns[@]}"; do
        send "$conn" "$WHOLE$HALF"
    done
    kill -CONT "$pid"
    for conn in "${conns[@]}"; do
        answered "$conn"
        send "$conn" "$REST"
        answered "$conn"
    done
    wait_gone "$old"
}

@test "what clients sent before the old process knew of its successor is answered" {
    start_server
    connect_many 10
    ask_many "${conns[@]}"
    hold_restart
    for conn in "${conns[@]}"; do
        send "$conn" "$WHOLE"
    done
    kill -CONT "$old"
    for conn in "${conns[@]}"; do
        answered "$conn"
    done
    wait_gone "$old"
    ask_many "${conns[@]}"
}

@test "a client that closes while its connection is in the channel harms nothing" {
    start_server
    connect_many 10
    ask_many "${conns[@]}"
    hold_hand_over
    for conn in "${conns[@]:0:5}"; do
        disconnect "$conn"
    done
    kill -CONT "$pid"
    ask_many "${conns[@]:5}"
    wait_gone "$old"
    wait_log "\[$old]: ended"
}

@test "a connection with a partly sent response is handed over when that is sent" {
    start_server
    connect
    # Far more than the kernel keeps for us: the server has to wait, and so has this.
    flood() {
        printf "$WHOLE%.0s" {1..40000} >&"$conn"
    }
    in_background flood
    wait_for stuck "$conn"
    handed_over_when_sent 40000
}

@test "a connection with a partly sent response, behind which no more is asked, is handed over when that is sent" {
    start_server
    connect
    printf "$WHOLE%.0s" {1..1500} >"$BATS_TEST_TMPDIR/requests"
    # Whole requests only, until the server can send no more, and so reads no more.
    sent=0
    taken_or_stuck() {
        taken "$conn" || stuck "$conn"
    }
    until dd if="$BATS_TEST_TMPDIR/requests" bs=1M status=none 1>&"$conn" &&
        ((++sent)) && wait_for taken_or_stuck && ! taken "$conn"; do
        :
    done
    handed_over_when_sent $((1500 * sent))
}

# The N answers that the test's connection has yet to read come from the old process, or its
# successor, in full; and then the connection is handed over.
handed_over_when_sent() {
    restart_server
    alive "$old"
    holds "$old" "$conn"
    in_background cat <&"$conn" >"$BATS_TEST_TMPDIR/answers"
    wait_for all_answers "$1"
    kill "$job"
    wait "$job" || true
    ended "$old"
    ((status == 0))
    ask "$conn"
}

# Whether the server's end of the test's connection FD has bytes to send and to read, and does
# neither.
stuck() {
    local before inode unread unsent
    server_end "$1" && ((unread > 0 && unsent > 0)) || return 1
    before="$inode $unread $unsent"
    pause 500
    server_end "$1" && [[ "$inode $unread $unsent" == "$before" ]]
}

# Each body is in one line with what follows it.
all_answers() {
    (($(grep -c 'HTTP/1.1 200 ' "$BATS_TEST_TMPDIR/answers") == $1 &&
        $(grep -c 'Hello, World!' "$BATS_TEST_TMPDIR/answers") == $1))
}

@test "5000 idle connections are handed over, and each is answered after" {
    (($(ulimit -H -n) > 10500)) || skip 'needs more descriptors'
    ulimit -S -n "$(ulimit -H -n)"
    start_server
    in_background idle_and_ask 5000
    wait_for has_connections "$pid" 5000
    wait_for test -e "$BATS_TEST_TMPDIR/done"
    for ((i = 0; i < 2; i++)); do
        rm "$BATS_TEST_TMPDIR/done"
        restart_server
        wait_gone "$old"
        logged "\[$old]: .*5000 connections (handed over|passed on|moved)"
        touch "$BATS_TEST_TMPDIR/ask"
        wait_for answered_all "$job"
    done
    has_connections "$pid" 5000
}

# Whether process CLIENTS has had all its answers; it ends where it has not.
answered_all() {
    alive "$1" || return 2
    [[ -e $BATS_TEST_TMPDIR/done ]]
}

has_connections() {
    (($(descriptors "$1") > $2))
}

@test "restarts that follow at once lose nothing" {
    start_server
    connect_many 20
    ask_many "${conns[@]}"
    send "${conns[0]}" "$HALF"
    wait_for taken "${conns[0]}"
    first=$pid
    for ((i = 0; i < 20 || $(count_log 'handed over to') < 5; i++)); do
        ((i < 1000))
        kill -USR1 "$(serving_pid)"
        pause 50
    done
    alive "$first"
    send "${conns[0]}" "$REST"
    answered "${conns[0]}"
    ended "$first"
    ((status == 0))
    ask_many "${conns[@]}"
    wait_for only_one_left
    # Each signal that was heeded led to a process of its own.
    (($(count_log 'listening on') == 1 + $(count_log 'handed over to')))
    (($(count_log 'restart failed') == 0))
}

@test "a slow request spans five generations, and its connection goes through all of them" {
    start_server
    first=$pid
    connect
    slow=$conn
    send "$slow" 'GET'
    connect
    quick=$conn
    for piece in ' /' ' HT' 'TP/1.1\r' '\nHost: '; do
        send "$slow" "$piece"
        wait_for taken "$slow"
        restart_server
        wait_for holds "$pid" "$quick"
        ask "$quick"
        holds "$first" "$slow"
    done
    # Those between wait for the first: what it has yet to hand over goes through them.
    (($(programs | wc -l) == 5))
    send "$slow" 'x\r\n\r\n'
    answered "$slow"
    wait_for holds "$pid" "$slow"
    ended "$first"
    ((status == 0))
    ask "$slow"
    wait_for only_one_left
    ask "$slow"
    ask "$quick"
}

@test "a process that is draining passes on what its predecessor still hands over to it" {
    start_server
    connect_many 6
    ask_many "${conns[@]}"
    for conn in "${conns[@]:0:3}"; do
        send "$conn" "$HALF"
        wait_for taken "$conn"
    done
    first=$pid
    restart_server
    second=$pid
    restart_server
    third=$pid
    for conn in "${conns[@]:0:3}"; do
        wait_for holds "$first" "$conn"
        alive "$second"
        send "$conn" "$REST"
        answered "$conn"
        wait_for holds "$third" "$conn"
        ask "$conn"
    done
    wait_for only_one_left
    ask_many "${conns[@]}"
}

@test "SIGUSR1 to a process that does not own the listener yet is remembered until it does" {
    start_server --pid-file "$BATS_TEST_TMPDIR/pid"
    connect_many 5
    ask_many "${conns[@]}"
    first=$pid
    hold_restart
    second=$pid
    kill -USR1 "$second"
    wait_log "\[$second]: SIGUSR1 received: remembered"
    serves
    childless "$second"
    [[ $(<"$BATS_TEST_TMPDIR/pid") == "$first" ]]
    kill -CONT "$first"
    wait_for succeeded "$second"
    third=$(serving_pid)
    ask_many "${conns[@]}"
    wait_for only_one_left
    programs_are "$third"
    wait_for says "$BATS_TEST_TMPDIR/pid" "^$third$"
    ask_many "${conns[@]}"
    (($(count_log 'listening on') == 3))
    (($(count_log 'restart failed') == 0))
}

@test "an old process that was stopped for long does not take its successor for late" {
    start_server --ready-timeout 5
    connect
    ask "$conn"
    hold_restart
    pause 5500
    kill -CONT "$old"
    ask "$conn"
    wait_log "\[$old]: (handed over|restart failed)"
    wait_for only_one_left
    programs_are "$pid"
    ask "$conn"
}

@test "SIGUSR1 to a process that does not own the listener yet is heeded when its predecessor is killed" {
    start_server
    hold_restart
    second=$pid
    kill -USR1 "$second"
    wait_log "\[$second]: SIGUSR1 received: remembered"
    connect
    kill -KILL "$old"
    wait_for succeeded "$second"
    pid=$(serving_pid)
    wait_gone "$second"
    programs_are "$pid"
    ask "$conn"
    restart_server
    ask "$conn"
}

@test "SIGTERM to a process whose predecessor still hands over to it: all is answered, then both end" {
    start_server -p pid_file
    connect
    send "$conn" "$HALF"
    wait_for taken "$conn"
    restart_server
    kill -TERM "$pid"
    wait_log "\[$pid]: .*SIGTERM"
    send "$conn" "$REST"
    receive "$conn"
    [[ $code == 200 && $body == 'Hello, World!' ]]
    ended "$old"
    ((status == 0))
    closed "$conn"
    disconnect "$conn"
    wait_gone "$pid"
}

@test "the old process watches its listener no more, and waits without spinning" {
    start_server
    connect
    send "$conn" "$HALF"
    wait_for taken "$conn"
    restart_server
    # Connections that no process accepts make the shared listener readable all the time.
    kill -STOP "$pid"
    slow=$conn
    connect_many 5
    does_not_spin "$old"
    for conn in "${conns[@]}"; do
        ! holds "$old" "$conn" || return 1
    done
    kill -CONT "$pid"
    ask_many "${conns[@]}"
    send "$slow" "$REST"
    answered "$slow"
}

# Has the channel to the successor, which is stopped, filled: with messages of one connection each,
# until the old process has to wait. Sets conns; and half, which has a request in flight.
fill_channel() {
    start_server
    connect
    half=$conn
    send "$half" "$HALF"
    wait_for taken "$half"
    connect
    first=$conn
    ask "$first"
    connect_many 400
    for conn in "${conns[@]}"; do
        printf 'GET / HTTP/1.1\r\nHost: localhost\r\n\r' >&"$conn"
    done
    for conn in "${conns[0]}" "${conns[-1]}"; do
        wait_for taken "$conn"
    done
    hold_hand_over
    # From then on it sends without waiting for what the successor receives.
    wait_for holds_no_more "$old" "$first"
    for conn in "${conns[@]}"; do
        echo >&"$conn"
        IFS= read -r -t "$patience" -u "$conn" -d '!' text
    done
    holds "$old" "${conns[-1]}"
}

holds_no_more() {
    ! holds "$1" "$2"
}

@test "the old process is not woken by what happens on connections that it has handed over" {
    start_server
    connect_many 10
    ask_many "${conns[@]}"
    connect
    send "$conn" "$HALF"
    wait_for taken "$conn"
    restart_server
    for fd in "${conns[@]}"; do
        wait_for holds "$pid" "$fd"
    done
    before=$(times_woken "$old")
    for ((i = 0; i < 10; i++)); do
        ask_many "${conns[@]}"
    done
    (($(times_woken "$old") - before < 5))
    send "$conn" "$REST"
    answered "$conn"
}

@test "the old process waits for a full channel without spinning, and serves meanwhile" {
    fill_channel
    before=$(descriptors "$old")
    does_not_spin "$old"
    (($(descriptors "$old") == before))
    send "$half" "$REST$HALF"
    answered "$half"
    kill -CONT "$pid"
    wait_for has_few_connections "$old" 20
    send "$half" "$REST"
    answered "$half"
    ended "$old"
    ((status == 0))
    ask_many "${conns[@]}"
}

@test "an old process that no client is left to ends, though the channel is full" {
    fill_channel
    for conn in "$half" "${conns[@]}"; do
        disconnect "$conn"
    done
    ended "$old"
    ((status == 0))
    kill -CONT "$pid"
    ask "$first"
}

# ---- successors of other builds ----

@test "a successor that takes no connections: each is asked to close, and none is cut" {
    start_server
    connect
    idle=$conn
    connect
    ask "$conn"
    successor_script 'printf R >&"${RESTART_CHANNEL#*:}"; unset RESTART_CHANNEL; become "$@"'
    begun=${EPOCHREALTIME/[.,]/}
    restart_server
    closes_gracefully "$begun"
    closed "$idle"
    disconnect "$idle"
    ended "$old"
    ((status == 0))
    serves
    restart_server
    serves
}

@test "a successor that knows no channel (--ready-timeout 0): each is asked to close, none is cut" {
    start_server --ready-timeout 0
    connect
    idle=$conn
    connect
    ask "$conn"
    begun=${EPOCHREALTIME/[.,]/}
    kill -USR1 "$pid"
    wait_for succeeded "$pid"
    wait_log "\[$pid]: draining"
    closes_gracefully "$begun"
    closed "$idle"
    disconnect "$idle"
    ended "$pid"
    ((status == 0))
    serves
}

@test "a successor that sends more than this version knows is understood" {
    start_server
    connect
    ask "$conn"
    # All at once for the old process.
    successor_script 'c=${RESTART_CHANNEL#*:}; kill -STOP $PPID
        for m in X Y2 "a rather long message" Z; do printf %s "$m" >&"$c"; done
        kill -CONT $PPID; become "$@"'
    restart_server
    wait_for holds "$pid" "$conn"
    ask "$conn"
    wait_gone "$old"
    serves
}

@test "a successor that sends only garbage is not ready" {
    start_server --ready-timeout 3
    connect
    ask "$conn"
    before=$(descriptors "$pid")
    successor_script 'for m in X C C1 r1 1R; do printf %s "$m" >&"${RESTART_CHANNEL#*:}"; done
        exec sleep 600'
    fail_restart
    logged 'restart failed: .*not ready'
    ask "$conn"
    serves
    wait_for has_descriptors "$pid" "$before"
    mend_successor
    restart_in_the_end
    ask "$conn"
}

@test "a successor that floods the channel with garbage keeps no client waiting" {
    start_server --ready-timeout 3
    connect
    ask "$conn"
    successor_script 'c=${RESTART_CHANNEL#*:}; while printf XXXXXXXXXXXXXXXX >&"$c"; do :; done'
    kill -USR1 "$pid"
    wait_log 'successor started'
    ask "$conn"
    serves
    wait_log 'restart failed: .*not ready'
    ask "$conn"
    mend_successor
    restart_in_the_end
    ask "$conn"
}

@test "a successor that closes the channel before it is ready is not ready, and nothing spins" {
    start_server --ready-timeout 3
    connect
    ask "$conn"
    before=$(descriptors "$pid")
    successor_script 'c=${RESTART_CHANNEL#*:}; eval "exec $c>&-"; : >closed; exec sleep 600'
    kill -USR1 "$pid"
    wait_for test -e "$BATS_TEST_TMPDIR/closed"
    does_not_spin "$pid"
    ask "$conn"
    wait_log 'restart failed: .*not ready'
    wait_for has_descriptors "$pid" "$before"
    mend_successor
    restart_in_the_end
    ask "$conn"
}

@test "a successor that says ready, closes the channel and stays is killed, and no client notices" {
    start_server --ready-timeout 3
    connect
    ask "$conn"
    before=$(descriptors "$pid")
    # Before the old one can hand anything over to it.
    successor_script 'c=${RESTART_CHANNEL#*:}; kill -STOP $PPID; printf R1 >&"$c"
        eval "exec $c>&-"; kill -CONT $PPID; unset RESTART_CHANNEL; become "$@"'
    old=$pid
    kill -USR1 "$old"
    wait_log "\[$old]: restart failed: "
    wait_for childless "$old"
    wait_for has_descriptors "$old" "$before"
    ask "$conn"
    mend_successor
    restart_in_the_end
    ask "$conn"
}

@test "RESTART_CHANNEL that is not this process's is ignored, and not handed on" {
    for value in '' : 1 :9 1:9 "$BASHPID:" "$BASHPID:-1" "$BASHPID:8" "$BASHPID:9" \
        "$BASHPID:99999999999999999999" "x$BASHPID:9" "$(printf '9%.0s' {1..3000}):9"; do
        # 9 is open, and no socket; 8 is not open.
        start_command env RESTART_CHANNEL="$value" "./$NAME" -l 127.0.0.1:0 9</dev/null
        wait_listening
        serves
        tr '\0' '\n' <"/proc/$pid/environ" | grep -qxF "RESTART_CHANNEL=$value"
        restart_server
        [[ $(tr '\0' '\n' <"/proc/$pid/environ" | grep '^RESTART_CHANNEL=') =~ =$old:[0-9]+$ ]]
        serves
        kill "$pid"
    done
}

@test "RESTART_CHANNEL that names a connection of another kind is ignored" {
    start_server
    connect
    start_command env RESTART_CHANNEL="$BASHPID:9" "./$NAME" -l 127.0.0.1:0 9<&"$conn"
    wait_listening
    serves
    restart_server
    serves
}

@test "a channel that a program in between inherited and passed on is ignored" {
    start_server
    # The successor is not the old process's child, but its grandchild.
    successor_script 'become "$@" & wait'
    kill -USR1 "$pid"
    wait_for succeeded "$pid"
    grandchild=$(serving_pid)
    serves
    # It never reports, so all that is to be expected is that nothing is lost.
    kill -TERM "$grandchild"
    wait_gone "$grandchild"
    wait_log "\[$pid]: restart failed"
    serves
    mend_successor
    pid=$(sed -nE '1s/.*\[([0-9]+)].*/\1/p' "$log")
    kill -USR1 "$pid"
    wait_log "\[$pid]: handed over"
    serves
}

# ---- kills at every stage ----

@test "the successor killed before it is ready: no client notices" {
    start_server
    connect_many 5
    ask_many "${conns[@]}"
    successor_script 'echo $$ >successor; exec sleep 600'
    kill -USR1 "$pid"
    wait_for test -s "$BATS_TEST_TMPDIR/successor"
    kill -KILL "$(<"$BATS_TEST_TMPDIR/successor")"
    wait_log "\[$pid]: restart failed: .*signal 9"
    childless "$pid"
    ask_many "${conns[@]}"
    mend_successor
    restart_server
    ask_many "${conns[@]}"
}

@test "the old process killed before its successor is ready: what waits to be accepted is served" {
    start_server
    connect_many 2
    ask_many "${conns[@]}"
    successor_script 'kill -STOP $PPID; echo $$ >successor; kill -STOP $$; become "$@"'
    kill -USR1 "$pid"
    wait_for test -s "$BATS_TEST_TMPDIR/successor"
    # Neither process runs now: all of these wait in the queue.
    connect_many 5
    kill -KILL "$pid"
    wait_gone "$pid"
    kill -CONT "$(<"$BATS_TEST_TMPDIR/successor")"
    ask_many "${conns[@]}"
    restart_server
    ask_many "${conns[@]}"
}

@test "the successor killed between ready and the hand-over: no client of the old one notices" {
    start_server
    connect_many 5
    ask_many "${conns[@]}"
    before=$(descriptors "$pid")
    hold_restart
    kill -KILL "$pid"
    wait_for ended_child "$old"
    kill -CONT "$old"
    wait_log "\[$old]: restart failed: .*signal 9"
    ask_many "${conns[@]}"
    childless "$old"
    wait_for has_descriptors "$old" "$before"
    kill -USR1 "$old"
    ended "$old"
    ((status == 0))
    ask_many "${conns[@]}"
}

ended_child() {
    [[ $(ps -o stat= --ppid "$1") == Z* ]]
}

@test "the old process killed between ready and the hand-over: the successor's clients notice not" {
    start_server --pid-file "$BATS_TEST_TMPDIR/pid"
    connect
    lost=$conn
    ask "$lost"
    hold_restart
    connect_many 5
    ask_many "${conns[@]}"
    kill -KILL "$old"
    wait_gone "$old"
    # What only the dead one held is lost, and nothing else.
    closed "$lost"
    ask_many "${conns[@]}"
    wait_for says "$BATS_TEST_TMPDIR/pid" "^$pid$"
    restart_server
    ask_many "${conns[@]}"
}

@test "the successor killed in the middle of the hand-over: no client notices" {
    start_server
    connect_many 300
    ask_many "${conns[@]}"
    connect
    half=$conn
    send "$half" "$HALF"
    wait_for taken "$half"
    hold_hand_over
    kill -KILL "$pid"
    wait_log "\[$old]: restart failed: .*signal 9"
    send "$half" "$REST"
    answered "$half"
    # It had received none of them.
    ask_many "${conns[@]}"
    wait_for childless "$old"
    serves
    pid=$old
    mend_successor
    restart_server
    ask_many "${conns[@]}"
}

@test "the old process killed in the middle of the hand-over: what was handed over is answered" {
    start_server
    connect_many 50
    ask_many "${conns[@]}"
    connect
    send "$conn" "$HALF"
    wait_for taken "$conn"
    half=$conn
    hold_hand_over
    wait_log "\[$old]: draining"
    kill -KILL "$old"
    wait_gone "$old"
    kill -CONT "$pid"
    serves
    for conn in "${conns[@]}"; do
        if holds "$pid" "$conn"; then
            ask "$conn"
        else
            ! receive "$conn" || return 1
        fi
    done
    # A request in flight was the dead one's alone.
    ! receive "$half" || return 1
    restart_server
    serves
}

has_few_connections() {
    (($(descriptors "$1") < $2))
}

@test "a successor killed after the hand-over does not disturb what the old process still does" {
    start_server -p pid_file
    connect
    send "$conn" "$HALF"
    wait_for taken "$conn"
    restart_server
    # Until it knows that it is no longer needed, it would serve again.
    wait_for handed_on "$old"
    kill -KILL "$pid"
    wait_gone "$pid"
    send "$conn" "$REST"
    receive "$conn"
    [[ $code == 200 && $body == 'Hello, World!' ]]
    disconnect "$conn"
    ended "$old"
    ((status == 0))
}

# ---- under load ----

@test "100 restarts under mixed load: every request is answered, and nothing piles up" {
    need hammer
    start_server
    descriptors_before=$(descriptors "$pid")
    memory_before=$(resident "$pid")
    in_background "$BUILD_DIR/hammer" -d 600 --deadline 60 --pause 5 "127.0.0.1:$port" >"$BATS_TEST_TMPDIR/hammer"
    wait_for has_connections "$pid" 100
    for ((i = 0; i < 100; i++)); do
        restart_server
    done
    kill -INT "$job"
    wait "$job"
    cat "$BATS_TEST_TMPDIR/hammer"
    (($(grep -c answered= "$BATS_TEST_TMPDIR/hammer") == 7))
    [[ $(grep -Evc 'answered=[1-9][0-9]* failed=0 refused=0 closed=0 announced=0 wrong=0' \
        "$BATS_TEST_TMPDIR/hammer") == 0 ]]
    wait_for only_one_left
    (($(count_log 'restart failed') == 0))
    wait_for has_few_connections "$pid" $((descriptors_before + 1))
    # Within what the allocator and a load of a hundred clients leave behind.
    (($(resident "$pid") < memory_before + 1024))
    childless "$pid"
}
