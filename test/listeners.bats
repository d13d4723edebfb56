#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# Several listeners, inherited ones, and several servers on one address.
# shellcheck disable=SC2016 # scripts in quotes are run by the successor
# shellcheck disable=SC2030,SC2031,SC2153,SC2154 # a test is a subshell; helper.bash sets the rest

load tools/helper
load tools/crowd

# start_two [OPTIONS...]: starts a server with two listeners at 127.0.0.1. Sets ports.
start_two() {
    start_server -l 127.0.0.1:0 "$@"
    find_ports
}

# Sets ports to those of process $pid, in the order of its listeners.
find_ports() {
    local line lines
    ports=()
    mapfile -t lines <"$log"
    for line in "${lines[@]}"; do
        [[ ! $line =~ \[$pid]:' listening on '[^\ ]*:([0-9]+) ]] || ports+=("${BASH_REMATCH[1]}")
    done
    ((${#ports[@]} == 2))
}

# both COMMAND...: the command succeeds with either port.
both() {
    for port in "${ports[@]}"; do
        "$@" || return
    done
}

@test "the server serves two listeners, and hands them on in the same order" {
    start_command "./$NAME" -l 127.0.0.1:0 -l "[::1]:$(free_port)" "${PATIENT[@]}"
    wait_listening
    find_ports
    read -r four six <<<"${ports[*]}"
    answer_both() {
        [[ $(curl -q -sS --noproxy '*' "http://127.0.0.1:$four/") == 'Hello, World!' ]]
        [[ $(curl -q -sS --noproxy '*' -g "http://[::1]:$six/") == 'Hello, World!' ]]
    }
    answer_both
    port=$four
    connect
    client4=$conn
    exec {client6}<>"/dev/tcp/::1/$six"
    for ((i = 0; i < 3; i++)); do
        restart_server
        mapfile -d '' -t argv <"/proc/$pid/cmdline"
        [[ ${argv[-1]} == 3,4 ]]
        logged "\[$pid]: listening on 127\.0\.0\.1:$four \(inherited fd 3\)"
        logged "\[$pid]: listening on \[::1]:$six \(inherited fd 4\)"
        answer_both
        ask "$client4"
        ask "$client6"
        wait_gone "$old"
    done
    # Nothing else is listened on, and nothing is left at the end.
    (($(ss -Htlnp | grep -c "pid=$pid,") == 2))
    kill -TERM "$pid"
    wait_gone "$pid"
    for address in "127.0.0.1/$four" "::1/$six"; do
        ! (: <>"/dev/tcp/$address") 2>/dev/null || return 1
    done
}

@test "a restart that fails leaves two listeners as they were" {
    start_two
    before=$(descriptors "$pid")
    successor_script 'exit 3'
    fail_restart
    both serves
    wait_for has_descriptors "$pid" "$before"
    mend_successor
    restart_server
    both serves
}

@test "no connection to either listener is refused while the server is restarted over and over" {
    need hammer
    start_two
    loads=()
    for i in 0 1; do
        in_background "$BUILD_DIR/hammer" -k 4 -t 4 -p 2 -c 4 -s 2 -i 5 -d 300 --pause 5 \
            "127.0.0.1:${ports[i]}" >"$BATS_TEST_TMPDIR/load.$i"
        loads+=("$job")
    done
    both serves
    for ((i = 0; i < 20; i++)); do
        restart_server
    done
    for i in 0 1; do
        kill -INT "${loads[i]}"
        ended "${loads[i]}"
        cat "$BATS_TEST_TMPDIR/load.$i"
        ((status == 0))
        grep -q 'answered=[1-9].* failed=0 refused=0 closed=0 announced=0 wrong=0 ' \
            "$BATS_TEST_TMPDIR/load.$i"
    done
}

# ask_unaccepted COUNT COUNT: asks over so many connections to each listener of a server that is
# stopped. Sets waiting.
ask_unaccepted() {
    local count
    waiting=()
    for port in "${ports[@]}"; do
        for ((count = $1; count > 0; count--)); do
            connect
            waiting+=("$conn")
            send "$conn" "$WHOLE"
        done
        shift
    done
}

@test "connections that wait at either listener when SIGTERM comes are answered" {
    start_two
    stop "$pid"
    # More than are accepted before anything else has its turn.
    untraced ask_unaccepted 260 40
    kill -TERM "$pid"
    kill -CONT "$pid"
    untraced get_answers "${waiting[@]}"
    ended "$pid"
    ((status == 0))
}

# get_answers FD...: a right answer comes over each, be it the last one.
get_answers() {
    local fd
    for fd; do
        read_response "$fd"
        [[ $code == 200 ]]
        disconnect "$fd"
    done
}

@test "connections that wait at either listener when the successor crashes are answered" {
    start_two --rollback-timeout 600
    before=$(descriptors "$pid")
    restart_server
    stop "$pid"
    ask_unaccepted 20 20
    kill -KILL "$pid"
    wait_log "\[$old]: rolled back: successor $pid was ended by signal 9"
    for conn in "${waiting[@]}"; do
        answered "$conn"
        disconnect "$conn"
    done
    both serves
    wait_for has_descriptors "$old" "$before"
    mend_successor
    restart_server
    both serves
}

@test "a flood at one listener does not keep the other one waiting" {
    need_strace
    need hammer
    start_two
    # Accepting takes longer than clients need to come again: the first queue never runs empty.
    in_trouble accept4,accept delay_enter=2000
    for flooded in 0 1; do
        in_background "$BUILD_DIR/hammer" -k 0 -t 0 -p 0 -c 64 -s 0 -i 0 -d 300 \
            "127.0.0.1:${ports[flooded]}" >/dev/null
        port=${ports[flooded]}
        wait_for is_flooded
        port=${ports[1 - flooded]}
        for ((i = 0; i < 5; i++)); do
            connect
            ask "$conn"
            disconnect "$conn"
        done
        alive "$job"
        end_job "$job"
    done
}

# Whether more connections wait to be accepted at $port than are in one turn.
is_flooded() {
    (($(queue_length) > 20))
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

# inherit FD ADDRESS... -- ARGUMENTS...: starts the server with listeners at ADDRESS..., and FD (as
# 3,4) for its argument, or none if it is empty: then a service manager passes them.
inherit() {
    needs systemd-socket-activate
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

@test "the server can listen on sixteen addresses, and on no more" {
    addresses=()
    for ((i = 0; i < 16; i++)); do
        addresses+=(-l 127.0.0.1:0)
    done
    start_command "./$NAME" "${addresses[@]}" -l 127.0.0.1:0
    ended "$pid"
    ((status == 2))
    logged "\[$pid]: cannot listen on '127\.0\.0\.1:0': .*addresses"
    start_command "./$NAME" "${addresses[@]}"
    wait_for listens_at 16
    serves
}

# listens_at COUNT: whether the log names so many addresses. Sets port to that of the last.
listens_at() {
    (($(count_log "listening on 127\.0\.0\.1:[0-9]+") == $1)) && finds_port
}

@test "several listeners are inherited by their numbers, as many as --listen names" {
    first=$(free_port)
    second=$(free_port)
    inherit 3,4 "127.0.0.1:$first" "127.0.0.1:$second" --
    wait_log "\[$pid]: listening on 127\.0\.0\.1:$first \(inherited fd 3\)"
    wait_log "\[$pid]: listening on 127\.0\.0\.1:$second \(inherited fd 4\)"
    for _ in 1 2; do
        for fd in 3 4; do
            # O_NONBLOCK, which the sender had not set.
            (((0$(sed -nE 's/^flags:\s*//p' "/proc/$pid/fdinfo/$fd") & 04000) == 04000))
        done
        for port in "$first" "$second"; do
            serves
        done
        restart_server
    done
    kill -TERM "$pid"
    first=$(free_port)
    inherit 3,4 "127.0.0.1:$first" "127.0.0.1:$(free_port)" -- -l 127.0.0.1:0
    ended "$pid"
    ((status == 2))
    logged 'cannot listen on 2 inherited sockets: --listen names 1 address'
}

@test "a service manager may pass another number of sockets than --listen names" {
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

@test "takes no address for FD in a successor whose wrapper leaves FD out" {
    start_server
    successor_script "become -l 127.0.0.1:$port"
    fail_restart
    logged "cannot listen on 127.0.0.1:$port: Address already in use"
    serves
}
