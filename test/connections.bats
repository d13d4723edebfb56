#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# A connection's life: how it is closed and at which deadline, which one is evicted, what it inherits
# from its listener; and the listeners and the log that a user chooses.
# shellcheck disable=SC2016 # scripts in quotes are run by other shells
# shellcheck disable=SC2030,SC2031,SC2153,SC2154 # a test is a subshell; helper.bash sets the rest

load tools/helper
load tools/crowd

# client_state FD: the state of the test's end of its connection FD, as ss names it.
client_state() {
    local ours
    ours=$(readlink "/proc/self/fd/$1" | tr -dc '0-9')
    ss -Htne "dport = :$port" | awk -v ino="ino:$ours" '{ for (i = 6; i <= NF; i++) if ($i == ino) print $1 }'
}

# server_has_closed FD: whether the server's FIN has come over the connection FD.
server_has_closed() {
    [[ $(client_state "$1") == CLOSE-WAIT ]]
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

@test "a body that follows the last response does not reset the connection" {
    start_server
    announce_body() {
        connect
        send "$conn" 'POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n'
    }
    is_not_reset announce_body 0
    [[ $all == 'HTTP/1.1 404 '* ]]
}

@test "a request that follows the last response of a draining server does not reset the connection" {
    end_server() {
        start_server
        connect
        send "$conn" "$HALF"
        wait_for taken "$conn"
        kill -TERM "$pid"
        wait_log "\[$pid]: SIGTERM received"
        begun=$(clock)
        send "$conn" "$REST"
    }
    is_not_reset end_server 0
    [[ $all == 'HTTP/1.1 200 '* ]]
    ended "$pid"
    ((status == 0))
}

@test "a request that follows the idle timeout does not reset the connection" {
    start_server --idle-timeout 1
    is_not_reset connect 1000
    [[ -z $all ]]
}

@test "a client that closes after its last response ends the connection before the server gives up" {
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
    send "$second" "$REST"
    answered "$second"
}

@test "an idle connection is closed in time while others are busy" {
    start_server --idle-timeout 2
    connect
    begun=$(clock)
    idle=$conn
    until server_has_closed "$idle"; do
        serves
        pause 100
        (($(clock) - begun < 30000))
    done
    (($(clock) - begun >= 1900))
}

# ---- deadlines ----

@test "clients that close just before their deadline is looked at are not closed twice" {
    start_server --idle-timeout 2
    # More than epoll reports at once: the deadlines of the others come first.
    crowd idle 300 "$port"
    ask_crowd idle
    stop "$pid"
    deadline_over=$(($(clock) + 2500))
    leave idle
    wait_for is_past "$deadline_over"
    kill -CONT "$pid"
    connect
    send "$conn" "$HALF"
    wait_for taken "$conn"
    # The number of connections is right: the process waits for this one, and for no other.
    kill -TERM "$pid"
    wait_log 'draining: 1 connection'
    send "$conn" "$REST"
    receive "$conn"
    [[ $code == 200 ]]
    disconnect "$conn"
    ended "$pid"
    ((status == 0))
}

@test "a request that comes half a second after SIGTERM is answered, however long its client was idle" {
    # A machine that was too busy to send it in time proves nothing.
    for ((tries = 0; tries < 20; tries++)); do
        start_server
        connect
        ask "$conn"
        pause 2000
        begun=${EPOCHREALTIME/[.,]/}
        kill -TERM "$pid"
        pause 500
        send "$conn" "$WHOLE" || true
        took=$((${EPOCHREALTIME/[.,]/} - begun))
        ! receive "$conn" || break
        ((took > 900000))
        disconnect "$conn"
    done
    [[ $code == 200 ]]
    announces_close
    disconnect "$conn"
    ended "$pid"
    ((status == 0))
}

@test "a client that does not take its response is cut at the drain timeout" {
    start_server --drain-timeout 1
    crowd greedy -b 4096 1 "$port"
    tell greedy pour 50000
    kill -TERM "$pid"
    ended "$pid"
    ((status == 0))
    logged "\[$pid]: drain timeout: 1 connection"
}

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
    ! grep -q __asan_init "$SERVER_DIR/$NAME" || skip 'a checked build keeps freed memory'
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

@test "without memory a connection is closed, and no part of a request is lost" {
    ! grep -q __asan_init "$SERVER_DIR/$NAME" || skip 'a checked build needs memory to start with'
    start_server
    serves
    prlimit "--pid=$pid" "--as=$(($(status_of "$pid" VmSize) * 1024)):"
    printf -v head 'GET / HTTP/1.1\r\nHost: a\r\nX: %015000d' 0
    connect_many 40
    for conn in "${conns[@]}"; do
        printf '%s' "$head" >&"$conn"
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

# ---- descriptors ----

@test "a client that was answered a moment ago is not evicted" {
    start_server
    # A machine that was too busy to ask again in time proves nothing.
    for ((tries = 0, took = 50; tries < 20 && took >= 50; tries++)); do
        crowd busy 20 "$port"
        ask_crowd busy
        prlimit "--pid=$pid" "--nofile=$(highest_descriptor):1000"
        # The server sees the requests first, then the newcomer, for which it has no descriptor.
        stop "$pid"
        tell busy ask
        connect
        kill -CONT "$pid"
        answers busy
        begun=$(clock)
        [[ $reply =~ ^\++$ ]]
        tell busy ask
        took=$(($(clock) - begun))
        prlimit "--pid=$pid" --nofile=1000:1000
        answers busy
        disconnect "$conn"
        leave busy
    done
    ((took < 50))
    [[ $reply =~ ^\++$ ]]
}

# The limit that leaves the server no descriptor but those it has.
highest_descriptor() {
    local fds=("/proc/$pid/fd"/*)
    printf '%s\n' "${fds[@]##*/}" | sort -n | awk 'END { print $1 + 1 }'
}

@test "a descriptor beyond the table of connections is closed, and the server goes on" {
    need_strace
    start_server
    in_trouble accept4 retval=2000000000:when=1
    connect
    wait_for injected
    mended
    serves
    ask "$conn"
}

# ---- what connections inherit ----

@test "responses do not wait for acknowledgements of earlier ones (TCP_NODELAY)" {
    need_strace
    start_command strace -qq -f -e trace=setsockopt -o "$BATS_TEST_TMPDIR/trace" "./$NAME" \
        -l 127.0.0.1:0
    wait_log 'listening on'
    says "$BATS_TEST_TMPDIR/trace" 'TCP_NODELAY, \[1], 4\) = 0'
}

@test "two servers with --reuse-port serve one address" {
    port=$(free_port)
    start_command "./$NAME" -l "127.0.0.1:$port" --reuse-port
    wait_listening
    first=$pid
    start_command "./$NAME" -l "127.0.0.1:$port" --reuse-port
    wait_listening
    wait_for both_serve "$first" "$pid"
    # Without it there is only one.
    start_command "./$NAME" -l "127.0.0.1:$port" -p pid_file
    ended "$pid"
    ((status == 1))
    logged "\[$pid]: cannot listen on 127\.0\.0\.1:$port: Address already in use"
}

# both_serve PID PID: whether connections come to both of these processes.
both_serve() {
    local seen='' i
    connect_many 20
    for conn in "${conns[@]}"; do
        ask "$conn" || return 1
        for i in "$@"; do
            ! holds "$i" "$conn" || seen+=" $i"
        done
        disconnect "$conn"
    done
    [[ $seen == *" $1"* && $seen == *" $2"* ]]
}

# ---- where it listens ----

# try ARGUMENTS...: runs the server until it ends by itself. Sets status and complaint.
try() {
    status=0
    complaint=$(cd "$BATS_TEST_TMPDIR" && exec timeout "$patience" "./$NAME" "$@" 2>&1 </dev/null \
        3>&-) || status=$?
    echo "status $status: $complaint"
}

# refused REGEX: with status 2 and one line that matches REGEX.
refused() {
    ((status == 2)) && [[ $complaint != *$'\n'* && $complaint =~ ^$NAME\[[0-9]+]:\ .*$1 ]]
}

# inherit FD ADDRESS... -- ARGUMENTS...: starts the server with listeners at ADDRESS..., and FD (as
# 3,4) for its argument, or none if it is empty: then a service manager passes them.
inherit() {
    command -v systemd-socket-activate >/dev/null || skip 'needs systemd-socket-activate'
    local fd=$1 sockets=()
    shift
    while [[ $1 != -- ]]; do
        sockets+=(-l "$1")
        port=${1##*:}
        shift
    done
    shift
    if [[ -n $fd ]]; then
        start_command systemd-socket-activate "${sockets[@]}" \
            env -u LISTEN_FDS -u LISTEN_PID "./$NAME" "$@" "$fd"
    else
        start_command systemd-socket-activate "${sockets[@]}" "./$NAME" "$@"
    fi
    # The first connection starts the server.
    wait_for accepts
}

accepts() {
    (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null
}

@test "sixteen addresses can be listened on, and no more" {
    addresses=()
    for ((i = 0; i < 16; i++)); do
        addresses+=(-l 127.0.0.1:0)
    done
    try "${addresses[@]}" -l 127.0.0.1:0
    refused "cannot listen on '127\.0\.0\.1:0': .*addresses"
    start_command "./$NAME" "${addresses[@]}"
    wait_for listens_at 16
    serves
}

# listens_at COUNT: whether the log names so many addresses. Sets port to that of the last.
listens_at() {
    (($(count_log "listening on 127\.0\.0\.1:[0-9]+") == $1)) && finds_port
}

@test "several listeners are inherited by their numbers, as many as --listen names if it is given" {
    first=$(free_port)
    second=$(free_port)
    inherit 3,4 "127.0.0.1:$first" "127.0.0.1:$second" --
    wait_log "\[$pid]: listening on 127\.0\.0\.1:$first \(inherited fd 3\)"
    wait_log "\[$pid]: listening on 127\.0\.0\.1:$second \(inherited fd 4\)"
    port=$first
    serves
    port=$second
    serves
    first=$(free_port)
    inherit 3,4 "127.0.0.1:$first" "127.0.0.1:$(free_port)" -- -l 127.0.0.1:0
    ended "$pid"
    ((status == 2))
    logged 'cannot listen on 2 inherited sockets: --listen names 1 address'
}

@test "a service manager may pass another number of sockets than --listen names, also to a successor" {
    first=$(free_port)
    second=$(free_port)
    inherit '' "127.0.0.1:$first" "127.0.0.1:$second" -- -l 127.0.0.1:0
    wait_log "\[$pid]: listening on 127\.0\.0\.1:$second \(inherited fd 4\)"
    restart_server
    for port in "$first" "$second"; do
        serves
    done
    (($(ss -Htlnp | grep -c "pid=$pid,") == 2))
}

@test "a link-local address needs its interface, and is listened on there" {
    unshare -n true 2>/dev/null || skip 'needs leave to make a network namespace'
    try -l '[fe80::1]:0'
    refused "cannot listen on '\[fe80::1]:0': .*interface"
    try -l '[fe80::1%none]:0'
    refused "cannot listen on '\[fe80::1%none]:0': .*interface"
    start_command unshare -n sh -c 'ip link set lo up && ip addr add fe80::1/64 dev lo nodad &&
        exec "$@"' sh "./$NAME" -l '[fe80::1%lo]:0'
    wait_log "\[$pid]: listening on \[fe80::1%lo]:[1-9]"
}

@test "an argument that cannot be used is named with the reason" {
    try start
    refused "unexpected argument 'start'"
    try 9 10
    refused "unexpected argument '10'"
    try -xh
    refused "option '-xh'"
    try --re 5
    refused "ambiguous option '--re'"
    try --listen ::1:80
    refused 'brackets, as in \[::1]:8080'
    try --listen '[127.0.0.1]:80'
    refused 'brackets, as in \[::1]:8080'
    try --listen http://127.0.0.1:8080/
    [[ $complaint != *IPv6* ]]
    refused "cannot listen on 'http://127\.0\.0\.1:8080/'"
    try --listen 127.1:80
    refused 'IPv4'
    try --listen 127.0.0.1:65536
    refused 'port .*0 to 65535'
    try --idle-timeout 0
    refused '--idle-timeout.* seconds from 1 to '
    try --drain-timeout 2147484
    refused '--drain-timeout.* seconds from 0 to 2147483'
    try -l 127.0.0.1:65535 --drain-timeout 2147483 --version
    ((status == 0))
}

# ---- the log ----

@test "under the journal each line has a priority and no name" {
    : >"$log"
    start_command env "JOURNAL_STREAM=$(stat -c %d:%i "$log")" "./$NAME" -l 127.0.0.1:0
    wait_log '^<6>listening on 127\.0\.0\.1:'
    kill -TERM "$pid"
    ended "$pid"
    logged '^<5>SIGTERM received'
    start_command env "JOURNAL_STREAM=$(stat -c %d:%i "$log")" "./$NAME" -l nonsense
    ended "$pid"
    logged "^<3>cannot listen on 'nonsense'"
    # Standard error may have been redirected since the variable was set.
    start_command env "JOURNAL_STREAM=$(stat -c %d:%i /dev/null)" "./$NAME" -l 127.0.0.1:0
    wait_listening
}

@test "a terminal gets the log, and one that is stopped does not stop the server" {
    command -v script >/dev/null || skip 'needs script'
    mkfifo "$BATS_TEST_TMPDIR/keys"
    exec {keys}<>"$BATS_TEST_TMPDIR/keys"
    in_background script -qefc "cd '$BATS_TEST_TMPDIR' && exec ./$NAME -l 127.0.0.1:0 ${PATIENT[*]}" \
        "$BATS_TEST_TMPDIR/typescript" <&"$keys" >/dev/null
    on_terminal() {
        says "$BATS_TEST_TMPDIR/typescript" "$NAME\[([0-9]+)]: $1"
    }
    wait_for on_terminal 'listening on 127'
    pid=${BASH_REMATCH[1]}
    finds_port
    serves
    # Ctrl-S: nothing is written until Ctrl-Q.
    printf '\x13' >&"$keys"
    pause 300
    printf '#!/bin/sh\n>started\nexit 1\n' >"$BATS_TEST_TMPDIR/${NAME}1"
    kill -USR1 "$pid"
    wait_for test -e "$BATS_TEST_TMPDIR/started"
    serves
    printf '\x11' >&"$keys"
    wait_for terminal_writes
    kill -TERM "$pid"
    wait_gone "$pid"
    wait_for on_terminal 'SIGTERM received'
}

# Whether a request that cannot be carried out is written to the terminal.
terminal_writes() {
    kill -USR1 "$pid" && pause 100 && on_terminal 'restart failed'
}
