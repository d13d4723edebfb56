#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# Other versions of the program: one that follows the description of the channel to the letter
# (tools/peer.c), and version 2.0.0.
# shellcheck disable=SC2016 # scripts in quotes are run by the successor
# shellcheck disable=SC2030,SC2031,SC2153,SC2154 # a test is a subshell; helper.bash sets the rest

load tools/helper

setup() {
    prepare
    install_server "$BATS_TEST_TMPDIR"
    cp "$BUILD_DIR/peer" "$BATS_TEST_TMPDIR"
}

# start_peer STEPS...: starts a peer as an old process, whose successor is the server with a pid
# file. Sets peer, its process, and port.
start_peer() {
    start_command ./peer "$@" -- "./$NAME" -l 127.0.0.1:1 -p pid_file
    peer=$pid
    wait_listening
}

# Waits until the peer has started the server, and that has reported. Sets pid, the server's.
wait_reported() {
    peer_done hear=R2
    pid=$(sed -nE "s/.*\[$peer]: started ([0-9]+)/\1/p" "$log")
}

# peer_done STEP: waits until the peer has taken this step.
peer_done() {
    wait_log "\[$peer]: done: $1\$"
}

proceed() {
    touch "$BATS_TEST_TMPDIR/$1"
}

# request_many COUNT: opens this many connections, and sends a request over each. Sets conns.
request_many() {
    conns=()
    for ((i = 0; i < $1; i++)); do
        connect
        conns+=("$conn")
        printf '%b' "$WHOLE" >&"$conn"
    done
}

# ---- the server succeeds the peer ----

@test "a successor owns listener and pid file when it reports, and closes the channel when it ends" {
    start_peer start hear=R2 file=end end eof reap=0
    wait_reported
    names "$pid"
    serves
    proceed end
    peer_done eof
    serves
    kill -TERM "$pid"
    peer_done reap=0
    ended "$peer"
    ((status == 0))
}

@test "a successor takes one connection from each message that begins with C, and ignores others" {
    start_peer accept=25 file=sent start hear=R2 send=X:1 send=M:0 send=D:0 send=C:1 send=C1:1 send=C253:1 \
        send=X1:0 send=C1:0 give=20 end eof crash
    request_many 26
    proceed sent
    wait_reported
    # The connection that came with another message is closed with its request unread.
    wait_for server_end_gone "${conns[0]}"
    peer_done eof
    for ((i = 1; i < 26; i++)); do
        # The last one is left with the peer, or accepted anew.
        ((i != 24)) || continue
        answered "${conns[i]}"
        ask "${conns[i]}"
        holds "$pid" "${conns[i]}"
    done
}

server_end_gone() {
    ! server_end "$1"
}

@test "a process that is replaced while it receives connections reports that, and passes them on" {
    start_peer accept=3 start hear=R2 give=1 file=go give=2 end eof reap=0
    request_many 3
    wait_reported
    answered "${conns[0]}"
    restart_server
    wait_for names "$pid"
    ask "${conns[0]}"
    alive "$old"
    proceed go
    answered "${conns[1]}"
    answered "${conns[2]}"
    ended "$peer"
    ((status == 0))
    logged "\[$peer]: ignored: 'D' with 0 connections"
    ask "${conns[2]}"
    holds "$pid" "${conns[0]}"
    holds "$pid" "${conns[2]}"
}

# ---- the peer succeeds the server ----

# succeed_with STEPS...: has the peer succeed the server, and waits until it is started. Sets old
# and peer.
succeed_with() {
    successor_script "exec ./peer ${*@Q} -- \"\$@\""
    old=$pid
    kill -USR1 "$old"
    wait_log 'peer\[[0-9]+]: listening on '
    peer=$(sed -nE 's/.*peer\[([0-9]+)]: listening on .*/\1/p' "$log")
}

@test "a successor that takes connections gets the idle ones, and others when they become idle" {
    start_server
    begin_request
    connect
    ask "$conn"
    succeed_with send=R2:0 take serve
    wait_for holds "$peer" "$conn"
    alive "$old"
    end_request "$half"
    ended "$old"
    ((status == 0))
    wait_log "\[$peer]: took 2 messages, holds 2 connections"
    ask "$half"
    ask "$conn"
    holds "$peer" "$half"
    serves
}

@test "idle connections are closed gracefully if the successor takes no connections" {
    # In the old protocol R1 is the report of a successor that takes connections.
    for report in R R1; do
        : >"$log"
        start_server
        connect
        idle=$conn
        connect
        ask "$conn"
        begun=${EPOCHREALTIME/[.,]/}
        succeed_with "send=$report:0" eof serve
        wait_log "\[$old]: handed over"
        # A request that is on its way has a moment left.
        closes_gracefully "$begun"
        closed "$idle"
        disconnect "$idle"
        ended "$old"
        ((status == 0))
        peer_done eof
        serves
        mend_successor
    done
}

@test "ignores a successor's messages that are not a report" {
    start_server
    # A request in flight keeps the old process from ending before the last message is sent.
    begin_request
    connect
    ask "$conn"
    succeed_with send=D:0 send=X:0 'send=a rather long message, which says nothing:0' file=go send=D:0 \
        send=:0 send=R2:0 send=D:0 send=Y:0 take serve
    peer_done 'send=a .*:0'
    serves
    ask "$conn"
    holds "$old" "$conn"
    proceed go
    peer_done send=Y:0
    # The peer serves once the old process has handed over everything.
    send "$half" "$REST"
    receive "$half"
    [[ $code == 200 && $body == 'Hello, World!' ]]
    ended "$old"
    ((status == 0))
    ask "$conn"
    holds "$peer" "$conn"
}

@test "a successor that closes the channel once it owns the listener loses no request in flight" {
    start_server
    begin_request
    connect
    ask "$conn"
    succeed_with send=R2:0 take=1 close serve
    peer_done close
    ask "$conn"
    holds "$peer" "$conn"
    send "$half" "$REST"
    receive "$half"
    [[ $code == 200 && $body == 'Hello, World!' ]]
    serves
}

# ---- version 2.0.0 ----

@test "this version and 2.0.0 succeed each other under load, and no request fails" {
    second=$BUILD_DIR/2.0.0/$NAME
    [[ -x $second ]] || skip 'needs version 2.0.0, from a clone with its history'
    cp "$second" "$BATS_TEST_TMPDIR/${NAME}1"
    start_server -p pid_file
    # No pipelining: a client must repeat what it has sent after a last response, RFC 9112.
    in_background "$BUILD_DIR/hammer" -d 300 --deadline 60 --pause 20 -k 16 -t 16 -c 4 -s 8 -i 100 \
        "127.0.0.1:$port" >"$BATS_TEST_TMPDIR/hammer" 2>"$BATS_TEST_TMPDIR/said"
    wait_for says "$BATS_TEST_TMPDIR/said" '^idle 100'
    for ((i = 0; i < 6; i++)); do
        connect
        ask "$conn"
        begun=${EPOCHREALTIME/[.,]/}
        restart_server
        # Idle connections are closed as at a shutdown.
        closes_gracefully "$begun"
        wait_gone "$old"
    done
    kill -INT "$job"
    wait "$job" || true
    cat "$BATS_TEST_TMPDIR/hammer"
    (($(grep -c answered= "$BATS_TEST_TMPDIR/hammer") == 6))
    [[ $(grep -Evc 'answered=[1-9][0-9]* failed=0 refused=0 .* wrong=0' "$BATS_TEST_TMPDIR/hammer") == 0 ]]
    (($(count_log 'version 2\.0\.0') >= 3))
    (($(count_log 'restart failed|cut|end here') == 0))
    wait_for only_one_left
    childless "$pid"
}
