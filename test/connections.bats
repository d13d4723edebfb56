#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# A connection's life: how it is closed, what it costs, and that it does not disturb others.
# shellcheck disable=SC2030,SC2031,SC2153,SC2154 # a test is a subshell; helper.bash sets the rest

load tools/helper
load tools/crowd

# ---- the last response ----

# closed_at_once REQUEST: a REQUEST over a new connection is answered, and the server's side closed
# long before it stops to wait for the client, which keeps its side open.
closed_at_once() {
    local begun tries
    for ((tries = 0; tries < 10; tries++)); do
        connect
        begun=$(clock)
        send "$conn" "$1"
        receive "$conn"
        announces_close
        closed "$conn"
        (($(clock) - begun > 1000)) || return 0
        disconnect "$conn"
    done
    return 1
}

@test "the server closes its side at once after the last response" {
    start_server
    closed_at_once 'GET / HTTP/1.0\r\n\r\n'
    closed_at_once 'GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n'
    closed_at_once 'POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n'
    closed_at_once 'GET / HTTP/2.0\r\nHost: a\r\n\r\n'
}

# is_not_reset LEAD MS: LEAD opens a connection and makes the server close its side, MS later at the
# earliest. What the client sends after that does not reset the connection. Sets all.
is_not_reset() {
    local begun took tries
    for ((tries = 0; tries < 10; tries++)); do
        begun=$(clock)
        "$1"
        wait_for server_has_closed "$conn"
        send "$conn" "$WHOLE" || true
        took=$(($(clock) - begun))
        if server_has_closed "$conn"; then
            receive_all "$conn"
            return
        fi
        # On a machine that was too busy the server has stopped waiting.
        ((took > 1900 + $2)) || return 1
        disconnect "$conn"
    done
    return 1
}

announce_body() {
    connect
    send "$conn" 'POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n'
}

drain() {
    start_server
    begin_request
    kill -TERM "$pid"
    wait_log "\[$pid]: SIGTERM received"
    begun=$(clock)
    send "$conn" "$REST"
}

@test "what a client sends after the server has closed its side does not reset the connection" {
    start_server --idle-timeout 1
    is_not_reset announce_body 0
    [[ $all == 'HTTP/1.1 404 '* ]]
    is_not_reset connect 1000
    [[ -z $all ]]
    is_not_reset drain 0
    [[ $all == 'HTTP/1.1 200 '* ]]
    ended "$pid"
    ((status == 0))
}

@test "a client that closes after its last response ends the connection at once" {
    start_server
    for ((tries = 0, took = 1900; tries < 10 && took >= 1900; tries++)); do
        none=$(descriptors "$pid")
        connect
        send "$conn" 'POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n'
        receive "$conn"
        begun=$(clock)
        disconnect "$conn"
        wait_for has_descriptors "$pid" "$none"
        took=$(($(clock) - begun))
    done
    ((took < 1900))
}

# ---- one connection among others ----

@test "a request in pieces is not mixed up with those of other connections" {
    start_server
    connect
    first=$conn
    connect
    second=$conn
    send "$first" 'GET /x HTTP/1.1\r\nHost: '
    wait_for taken "$first"
    ask "$second"
    send "$second" "$HALF"
    wait_for taken "$second"
    send "$first" 'a\r\n\r\n'
    receive "$first"
    [[ $code == 404 ]]
    end_request "$second"
}

@test "a request after urgent data is answered at once" {
    start_server
    crowd urgent 5 "$port"
    ask_crowd urgent
    stop "$pid"
    tell urgent urgent
    kill -CONT "$pid"
    answers urgent 2
    [[ $reply == +++++ ]]
}

@test "responses do not wait for acknowledgements of earlier ones (TCP_NODELAY)" {
    need_strace
    start_command strace -qq -f -e trace=setsockopt -o "$BATS_TEST_TMPDIR/trace" "./$NAME" \
        -l 127.0.0.1:0
    wait_log 'listening on'
    says "$BATS_TEST_TMPDIR/trace" 'TCP_NODELAY, \[1], 4\) = 0'
}

# ---- what a connection costs ----

@test "a connection with one request takes about nine system calls" {
    need_strace
    start_server
    serves
    in_background strace -qq -o "$BATS_TEST_TMPDIR/trace" -p "$pid"
    wait_for traced "$pid"
    for ((i = 0; i < 50; i++)); do
        serves
    done
    kill "$job"
    wait "$job" || true
    calls=$(grep -c ' = ' "$BATS_TEST_TMPDIR/trace")
    echo "$calls calls for 50 connections"
    # A step of the restart module would be five more for each.
    ((calls > 300 && calls < 575))
}

@test "a head that comes in many pieces does not cost more memory than its length" {
    ! is_checked || skip 'a checked build keeps freed memory'
    start_server
    { printf 'GET / HTTP/1.1\r\nHost: a\r\nX: ' && head -c 16000 /dev/zero | tr '\0' a &&
        printf '\r\nConnection: close\r\n\r\n'; } >"$BATS_TEST_TMPDIR/request"
    serves
    before=$(resident "$pid")
    for _ in 1 2; do
        socat -b 4 -t "$patience" - "TCP:127.0.0.1:$port,nodelay" <"$BATS_TEST_TMPDIR/request" \
            >"$BATS_TEST_TMPDIR/answer"
        [[ $(<"$BATS_TEST_TMPDIR/answer") == 'HTTP/1.1 200 '* ]]
    done
    grown=$(($(resident "$pid") - before))
    echo "grown by $grown KiB"
    ((grown < 2048))
}

@test "a server without memory closes connections, and loses no part of a request" {
    ! is_checked || skip 'a checked build needs memory to start with'
    start_server
    serves
    prlimit "--pid=$pid" "--as=$((($(status_of "$pid" VmSize) + 384) * 1024)):"
    printf -v head 'GET / HTTP/1.1\r\nHost: a\r\nX: %015000d' 0
    connect_many 40
    for conn in "${conns[@]}"; do
        send "$conn" "$head" || true
        wait_for taken_or_closed "$conn"
    done
    prlimit "--pid=$pid" --as=unlimited:
    closed=0
    for conn in "${conns[@]}"; do
        send "$conn" '\r\n\r\n' || true
        if receive "$conn"; then
            [[ $code == 200 ]]
        else
            closed=$((closed + 1))
        fi
    done
    echo "$closed of 40 were closed"
    ((closed > 0 && closed < 40))
}

taken_or_closed() {
    taken "$1" || [[ $(client_state "$1") != ESTAB ]]
}

@test "an idle connection costs no buffer" {
    ! is_checked || skip 'a checked build keeps freed memory'
    (($(ulimit -H -n) >= 2048)) || skip 'needs 2048 descriptors'
    start_server
    serves
    memory=$(status_of "$pid" RssAnon)
    crowd idle 1000 "$port"
    ask_crowd idle
    grown=$(($(status_of "$pid" RssAnon) - memory))
    echo "memory grown by $grown KiB"
    [ "$grown" -le 256 ]
}

# Whether the server has read all that was sent to it.
all_taken() {
    [[ ! $(exec ss -Htn "sport = :$port") =~ ESTAB\ +[1-9] ]]
}

@test "memory that slow clients have used is given back" {
    ! is_checked || skip 'a checked build keeps freed memory'
    start_server
    serves
    memory=$(status_of "$pid" RssAnon)
    crowd slow 400 "$port"
    tell slow head 15000
    wait_for all_taken
    # Without these the heap would shrink by itself.
    crowd stay 8 "$port"
    tell stay head 15000
    wait_for all_taken
    (($(status_of "$pid" RssAnon) - memory > 5000))
    tell slow end
    answers slow
    [[ $reply =~ ^\++$ ]]
    grown=$(($(status_of "$pid" RssAnon) - memory))
    echo "memory grown by $grown KiB"
    ((grown < 1000))
}
