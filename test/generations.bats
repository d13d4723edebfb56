#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# Other generations of the program: one that speaks the channel to the letter of its description and
# no more (peer.c), and version 1.0.0.
# shellcheck disable=SC2016 # scripts in quotes are run by the successor
# shellcheck disable=SC2030,SC2031,SC2153,SC2154 # a test is a subshell; helper.bash sets the rest

load helper

setup() {
    prepare
    install_server "$BATS_TEST_TMPDIR"
    cp "$BUILD_DIR/peer" "$BATS_TEST_TMPDIR"
}

# start_peer STEPS...: starts a peer as an old process, whose successor is the server with a pid
# file. Sets peer, its process, and port.
start_peer() {
    start_command ./peer "$@" -- "${program:-./$NAME}" -l 127.0.0.1:1 -p pid_file
    peer=$pid
    wait_listening
}

# Waits until the peer has started the server, and that has reported. Sets pid, the server's.
wait_reported() {
    wait_log "\[$peer]: done: hear=R1"
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

@test "it reports, owns the listener with the first message, and closes the channel at the end" {
    start_peer start hear=R1 file=go send=C:0 file=end end eof reap=0
    wait_reported
    serves
    [[ ! -e $BATS_TEST_TMPDIR/pid_file ]]
    proceed go
    wait_for names "$pid"
    proceed end
    peer_done eof
    serves
    kill -TERM "$pid"
    peer_done reap=0
    ended "$peer"
    ((status == 0))
}

@test "connections come in messages with a count and without, up to 253 in one" {
    start_peer accept=260 start hear=R1 send=C2:2 send=C:3 send=C0:0 send=C:0 send=C253:253 \
        send=C1:1 end eof crash
    request_many 261
    wait_reported
    for ((i = 0; i < 261; i++)); do
        # Each message's first and last, what is left with the peer, and one that is accepted anew.
        if ((i < 8 || i > 255)) && ((i != 259)); then
            answered "${conns[i]}"
            ask "${conns[i]}"
        fi
    done
    peer_done eof
    holds "$pid" "${conns[0]}"
    holds "$pid" "${conns[258]}"
    names "$pid"
}

@test "a message that does not begin with C is dropped with its connections, and says nothing" {
    start_peer accept=2 start hear=R1 send=X:0 send=D:0 send=X1:1 file=go send=C1:1 end eof hang
    request_many 2
    wait_reported
    # It is closed with a request unread, which is a reset.
    wait_for server_end_gone "${conns[0]}"
    [[ ! -e $BATS_TEST_TMPDIR/pid_file ]]
    proceed go
    answered "${conns[1]}"
    ask "${conns[1]}"
    peer_done eof
    names "$pid"
}

server_end_gone() {
    ! server_end "$1"
}

@test "an old process that dies before it has handed over leaves the listener to it" {
    start_peer start hear=R1 file=crash crash
    wait_reported
    [[ ! -e $BATS_TEST_TMPDIR/pid_file ]]
    proceed crash
    wait_for names "$pid"
    serves
    restart_server
    wait_for names "$pid"
}

@test "SIGTERM before it owns the listener: it closes the channel, and ends" {
    start_peer start hear=R1 eof reap=0 serve
    wait_reported
    kill -TERM "$pid"
    peer_done reap=0
    serves
    [[ ! -e $BATS_TEST_TMPDIR/pid_file ]]
}

@test "SIGTERM once it owns the listener: it ends after the old process has" {
    start_peer accept=1 start hear=R1 send=C:0 file=go send=C1:1 end eof reap=0
    connect
    wait_reported
    wait_for names "$pid"
    kill -TERM "$pid"
    wait_log "\[$pid]: SIGTERM received"
    alive "$pid"
    # Before the connection is handed over: it is closed a second later.
    send "$conn" "$WHOLE"
    proceed go
    receive "$conn"
    [[ $code == 200 ]]
    disconnect "$conn"
    ended "$peer"
    ((status == 0))
}

@test "restarted while the old process still hands over, it passes everything on" {
    start_peer accept=3 start hear=R1 send=C1:1 file=go send=C:1 send=C1:1 end eof reap=0
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
    ask "${conns[2]}"
    holds "$pid" "${conns[0]}"
    holds "$pid" "${conns[2]}"
}

@test "SIGUSR1 before it owns the listener: restarted in the end, and one process is left" {
    start_peer start hear=R1 file=go send=C:0 end eof reap=0
    wait_reported
    kill -USR1 "$pid"
    wait_log "\[$pid]: SIGUSR1 received"
    serves
    [[ ! -e $BATS_TEST_TMPDIR/pid_file ]]
    proceed go
    ended "$peer"
    ((status == 0))
    old=$pid
    wait_for only_one_left
    pid=$(serving_pid)
    ((pid != old))
    wait_for names "$pid"
    serves
}

@test "more connections in a message than it has descriptors for: nothing hangs, and it serves on" {
    printf '#!/bin/bash\nulimit -n 60\nexec -a "./%s" "./%s" "$@"\n' "$NAME" "$NAME" \
        >"$BATS_TEST_TMPDIR/few"
    chmod +x "$BATS_TEST_TMPDIR/few"
    program=./few start_peer accept=150 start hear=R1 send=C50:50 send=C:100 end eof hang
    for ((i = 0; i < 150; i++)); do
        connect
    done
    wait_reported
    peer_done eof
    names "$pid"
    serves
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

@test "a successor that takes connections gets what is idle, and what becomes idle" {
    start_server
    connect
    send "$conn" "$HALF"
    half=$conn
    wait_for taken "$half"
    connect
    ask "$conn"
    succeed_with send=R1:0 take serve
    wait_for holds "$peer" "$conn"
    alive "$old"
    send "$half" "$REST"
    answered "$half"
    ended "$old"
    ((status == 0))
    wait_log "\[$peer]: took [0-9]+ messages, holds 2 connections"
    ask "$half"
    ask "$conn"
    holds "$peer" "$half"
    serves
}

@test "a successor that takes its time gets every connection, and no client under load notices" {
    start_server
    in_background "$BUILD_DIR/hammer" -d 300 --deadline 60 --pause 5 -k 4 -t 4 -p 2 -s 4 -i 2000 "127.0.0.1:$port" \
        >"$BATS_TEST_TMPDIR/hammer" 2>"$BATS_TEST_TMPDIR/said"
    wait_for says "$BATS_TEST_TMPDIR/said" '^idle 2000'
    succeed_with send=R1:0 file=go take serve
    wait_log "\[$old]: handed over"
    proceed go
    ended "$old"
    ((status == 0))
    wait_log "\[$peer]: took [0-9]+ messages, holds 20[0-9][0-9] connections"
    kill -INT "$job"
    wait "$job"
}

@test "a successor that only reports ready gets the listener and no message" {
    start_server
    connect
    ask "$conn"
    begun=${EPOCHREALTIME/[.,]/}
    succeed_with send=R:0 eof serve
    wait_log "\[$old]: handed over"
    # Idle connections end here, with a moment left for a request that is on its way.
    closes_gracefully "$begun"
    ended "$old"
    ((status == 0))
    peer_done eof
    serves
}

@test "a successor's messages that are no report are ignored" {
    start_server
    connect
    ask "$conn"
    succeed_with send=D:0 send=X:0 file=go send=D:0 send=R1:0 send=D:0 take serve
    peer_done send=X:0
    serves
    ask "$conn"
    holds "$old" "$conn"
    proceed go
    ended "$old"
    ((status == 0))
    ask "$conn"
    holds "$peer" "$conn"
}

@test "a successor that closes the channel before it owns the listener is killed in the end" {
    start_server --ready-timeout 5
    connect
    ask "$conn"
    successor_script 'kill -STOP $PPID; exec ./peer send=R1:0 close hang -- "$@"'
    kill -USR1 "$pid"
    wait_log 'peer\[[0-9]+]: done: close'
    kill -CONT "$pid"
    wait_log "\[$pid]: restart failed: "
    wait_for childless "$pid"
    ask "$conn"
    serves
    mend_successor
    restart_in_the_end
    wait_for holds "$pid" "$conn"
    ask "$conn"
}

@test "a successor that closes the channel once it owns the listener loses no request in flight" {
    start_server
    connect
    send "$conn" "$HALF"
    wait_for taken "$conn"
    half=$conn
    connect
    ask "$conn"
    succeed_with send=R1:0 take=1 close serve
    peer_done close
    ask "$conn"
    holds "$peer" "$conn"
    send "$half" "$REST"
    receive "$half"
    [[ $code == 200 && $body == 'Hello, World!' ]]
    serves
}

@test "a successor that dies without a word leaves the service as it was" {
    start_server
    connect
    ask "$conn"
    succeed_with crash
    wait_log "\[$old]: restart failed: .*signal 9"
    ask "$conn"
    serves
}

# ---- version 1.0.0 ----

need_first() {
    first=$BUILD_DIR/1.0.0/$NAME
    [[ -x $first ]] || skip 'needs version 1.0.0, from a clone with its history'
}

@test "this version and 1.0.0 succeed each other under load, 20 times each way" {
    need_first
    cp "$first" "$BATS_TEST_TMPDIR/${NAME}1"
    start_server -p pid_file
    in_background "$BUILD_DIR/hammer" -d 300 --deadline 60 --pause 5 "127.0.0.1:$port" >"$BATS_TEST_TMPDIR/hammer" \
        2>"$BATS_TEST_TMPDIR/said"
    wait_for says "$BATS_TEST_TMPDIR/said" '^idle 100'
    for ((i = 0; i < 40; i++)); do
        restart_server
        wait_gone "$old"
    done
    kill -INT "$job"
    wait "$job"
    cat "$BATS_TEST_TMPDIR/hammer"
    (($(count_log 'version 1\.0\.0') >= 20))
    (($(count_log 'restart failed|cut|end here') == 0))
    wait_for only_one_left
    childless "$pid"
}

@test "this version and 1.0.0 succeed each other at once, and pass connections on" {
    need_first
    cp "$first" "$BATS_TEST_TMPDIR/${NAME}1"
    start_server
    request_many 300
    for ((i = 0; i < 10; i++)); do
        restart_server
    done
    wait_for only_one_left
    for conn in "${conns[@]:0:20}" "${conns[299]}"; do
        answered "$conn"
        holds "$pid" "$conn"
    done
}
