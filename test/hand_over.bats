#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# A restart closes no connection: each one moves to the next process as soon as it is idle.
# shellcheck disable=SC2016 # scripts in quotes are run by the successor
# shellcheck disable=SC2030,SC2031,SC2034,SC2153,SC2154 # a test is a subshell; helpers set and use the rest

load tools/helper
load tools/crowd

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

# ---- which connections are handed over, and when ----

@test "the old process ends at once when all of its connections are idle" {
    start_server
    connect_many 20
    # The others never sent a byte.
    ask_many "${conns[@]:0:10}"
    # Nothing else that it could wait for takes less than a second; once the machine lets it.
    for ((i = 0; i < 50; i++)); do
        begun=${EPOCHREALTIME/[.,]/}
        restart_server
        wait_gone "$old"
        took=$((${EPOCHREALTIME/[.,]/} - begun))
        ((took >= 900000)) || break
    done
    ((took < 900000))
    wait_log "\[$old]: ended: 20 connections handed over, 0 finished here"
    ask_many "${conns[@]}"
}

@test "a request in flight is answered first, and its connection handed over then" {
    start_server
    connect
    # Half a request alone, and half a request after whole ones.
    single=$conn
    send "$single" "$HALF"
    wait_for taken "$single"
    connect
    send "$conn" "$WHOLE$WHOLE$HALF"
    answered "$conn"
    answered "$conn"
    restart_server
    holds "$old" "$single"
    holds "$old" "$conn"
    end_request "$single"
    wait_for holds "$pid" "$single"
    send "$conn" "$REST$HALF"
    answered "$conn"
    wait_for taken "$conn"
    holds "$old" "$conn"
    end_request "$conn"
    ended "$old"
    ((status == 0))
    ask "$single"
    ask "$conn"
}

@test "a connection with a partly sent response is handed over when that is sent" {
    start_server
    connect
    # Far more than fits into the buffers: the server must wait, and so must this process.
    flood() {
        printf "$WHOLE%.0s" {1..40000} >&"$conn"
    }
    in_background flood
    wait_for stuck "$conn"
    handed_over_when_sent 40000
    kill -TERM "$pid"
    # Whole requests only, until the server can send no more, and so reads no more.
    start_server
    connect
    printf "$WHOLE%.0s" {1..1500} >"$BATS_TEST_TMPDIR/requests"
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

# handed_over_when_sent N: the N answers that the test's connection must still read come in full,
# and then the connection is handed over.
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

# Each body shares its line with the status line after it.
all_answers() {
    (($(grep -c 'HTTP/1.1 200 ' "$BATS_TEST_TMPDIR/answers") == $1 &&
        $(grep -c 'Hello, World!' "$BATS_TEST_TMPDIR/answers") == $1))
}

@test "5000 idle connections are handed over, and each is answered afterwards" {
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
        logged "\[$old]: ended: 5000 connections handed over, 0 finished here"
        touch "$BATS_TEST_TMPDIR/ask"
        wait_for answered_all "$job"
    done
    has_connections "$pid" 5000
}

# answered_all PID: whether the process has received all answers; it ends if one is missing.
answered_all() {
    alive "$1" || return 2
    [[ -e $BATS_TEST_TMPDIR/done ]]
}

has_connections() {
    (($(descriptors "$1") > $2))
}

has_few_connections() {
    (($(descriptors "$1") < $2))
}

@test "neither the listener nor connections that it has handed over wake the old process" {
    start_server
    connect_many 10
    ask_many "${conns[@]}"
    begin_request
    restart_server
    wait_for holds_all "$pid" "${conns[@]}"
    before=$(times_woken "$old")
    for ((i = 0; i < 10; i++)); do
        ask_many "${conns[@]}"
    done
    (($(times_woken "$old") - before < 5))
    # Connections that no process accepts make the shared listener readable all the time.
    stop "$pid"
    connect_many 5
    does_not_spin "$old"
    holds_all "$old" "${conns[@]}" || true
    ((${#held[@]} == 0))
    kill -CONT "$pid"
    ask_many "${conns[@]}"
    end_request "$half"
}

# ---- a successor that does not take them ----

@test "the old process serves the connections that a stopped successor does not take, and sleeps" {
    start_server
    connect_many 40
    ask_many "${conns[@]}"
    begin_request
    hold_hand_over
    before=$(descriptors "$old")
    does_not_spin "$old"
    sort_connections
    send "$half" "$REST$HALF"
    answered "$half"
    (($(descriptors "$old") == before))
    kill -CONT "$pid"
    for conn in "${waiting[@]}"; do
        answered "$conn"
    done
    wait_for holds_all "$pid" "${served[@]}"
    end_request "$half"
    ended "$old"
    ((status == 0))
    wait_log "\[$old]: ended: 41 connections handed over, 0 finished here"
    ask_many "${conns[@]}" "$half"
}

@test "the drain timeout closes what a stopped successor has not taken, and logs how many" {
    start_server --drain-timeout 2
    connect_many 40
    ask_many "${conns[@]}"
    begin_request
    claim_unread
    stop "$pid"
    kill -CONT "$old"
    ended "$old"
    ((status == 0))
    waiting=()
    for conn in "${conns[@]}"; do
        if server_end "$conn" && ((inode > 0)); then
            waiting+=("$conn")
        else
            closed "$conn"
        fi
    done
    ! receive "$half" || return 1
    ((${#waiting[@]} > 0 && ${#waiting[@]} < 25))
    logged "\[$old]: drain timeout: $((41 - ${#waiting[@]})) connections cut"
    (($(count_log 'has not reported') == 0))
    kill -CONT "$pid"
    ask_many "${waiting[@]}"
}

@test "requests that came before the old process has read the claim are answered" {
    start_server
    connect_many 10
    ask_many "${conns[@]}"
    claim_unread
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

@test "clients that close while the successor is stopped do no harm, and the old process ends" {
    start_server
    connect_many 40
    ask_many "${conns[@]}"
    hold_hand_over
    for conn in "${conns[@]}"; do
        disconnect "$conn"
    done
    ended "$old"
    ((status == 0))
    connect
    send "$conn" "$WHOLE"
    kill -CONT "$pid"
    answered "$conn"
}

# ---- restarts that follow each other ----

@test "restarts that follow each other at once lose nothing" {
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
    # Each signal that was not ignored led to one process.
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
    # Those in between wait, because the connection that the first holds goes through them.
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

@test "a client that is never idle gets Connection: close in time, and loses no request" {
    start_server --drain-timeout 12
    connect
    send "$conn" "$HALF"
    restart_server
    for ((i = 0; i < 100; i++)); do
        pause 100
        send "$conn" "$REST$HALF"
        receive "$conn"
        [[ $code == 200 ]]
        ! announces_close || break
    done
    announces_close
    disconnect "$conn"
    wait_gone "$old"
    ! logged 'drain timeout' || return 1
}

# ---- under load ----

@test "100 restarts under mixed load: every request is answered, and nothing piles up" {
    need hammer
    start_server
    descriptors_before=$(descriptors "$pid")
    memory_before=$(resident "$pid")
    in_background "$BUILD_DIR/hammer" -d 600 --deadline 60 --pause 20 "127.0.0.1:$port" >"$BATS_TEST_TMPDIR/hammer"
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
    # The allocator may keep some memory after a load of a hundred clients.
    (($(resident "$pid") < memory_before + 1024))
    childless "$pid"
}
