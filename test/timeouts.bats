#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# Idle, request and drain timeouts. What a client sent before a deadline counts, also if the server
# was stopped or busy until after it.
# shellcheck disable=SC2030,SC2031,SC2153,SC2154 # a test is a subshell; helper.bash sets the rest

load tools/helper
load tools/crowd

# ---- idle connections ----

@test "closes an idle connection cleanly at the idle timeout, also while others are busy" {
    start_server --idle-timeout 3
    begun=$(clock)
    connect
    silent=$conn
    connect
    ask "$conn"
    until server_has_closed "$silent"; do
        serves
        pause 100
        (($(clock) - begun < 30000))
    done
    (($(clock) - begun >= 2900))
    closed "$silent"
    closed "$conn"
}

@test "each request starts the idle timeout anew" {
    start_server --idle-timeout 6
    connect
    for _ in 1 2 3; do
        ask "$conn"
        pause 2500
    done
    ask "$conn"
}

@test "clients that close just before the server looks at their deadline are closed once" {
    start_server --idle-timeout 2
    # More than epoll reports at once: the deadlines of the others come first.
    crowd idle 300 "$port"
    ask_crowd idle
    stop "$pid"
    deadline_over=$(($(clock) + 2500))
    leave idle
    wait_for is_past "$deadline_over"
    kill -CONT "$pid"
    begin_request
    # The number of connections is right: the process waits for this one, and for no other.
    kill -TERM "$pid"
    wait_log 'draining: 1 connection'
    end_last_request "$half"
    ended "$pid"
    ((status == 0))
}

# ---- slow requests ----

@test "rejects a head that is not whole in time with 408, however many bytes keep coming" {
    start_server --request-timeout 1
    drip() {
        while printf a >&"$1"; do
            sleep 0.05
        done 2>/dev/null
    }
    for bytes in none many; do
        connect
        begun=$(clock)
        send "$conn" 'GET / HTTP/1.1\r\nHost: local'
        [[ $bytes == none ]] || in_background drip "$conn"
        receive "$conn"
        (($(clock) - begun >= 900))
        [[ $code == 408 ]]
        announces_close
        [[ $bytes == many ]] || closed "$conn"
    done
}

@test "the time for a head counts from its own first byte, not from the request before" {
    start_server --request-timeout 8
    begin_request
    pause 4500
    send "$conn" "$REST$HALF"
    answered "$conn"
    pause 4500
    end_request "$conn"
}

@test "a client that took its answers in time is served by a server that was stopped" {
    start_server --request-timeout 6
    # Its answers do not fit into any buffer; the server waits for it to take them.
    crowd greedy -b 16384 1 "$port"
    tell greedy pour 50000
    wait_for waits_to_send
    stop "$pid"
    deadline_over=$(($(clock) + 6500))
    tell greedy read
    wait_for is_past "$deadline_over"
    kill -CONT "$pid"
    answers greedy 50000
    [[ $reply == + ]]
}

# Whether one of the server's connections has answers to be sent, and requests to be read.
waits_to_send() {
    ss -Htn "sport = :$port" | awk '$1 == "ESTAB" && $2 > 0 && $3 > 0 { n++ } END { exit !n }'
}

# ---- the drain timeout ----

# drain HOW: begins a restart, or sends SIGTERM. Sets old to the process that drains.
drain() {
    if [[ $1 == restart ]]; then
        restart_server
    else
        old=$pid
        kill -TERM "$old"
        wait_log "\[$old]: SIGTERM received"
    fi
}

@test "the drain timeout cuts what has not finished, and logs how many connections" {
    for how in restart SIGTERM; do
        start_server --drain-timeout 1
        # One does not read its answers.
        crowd greedy -b 4096 1 "$port"
        tell greedy pour 50000
        halves=()
        for _ in 1 2; do
            begin_request
            halves+=("$half")
        done
        drain "$how"
        ended "$old"
        ((status == 0))
        logged "\[$old]: drain timeout: 3 connections cut"
        for half in "${halves[@]}"; do
            closed "$half"
            disconnect "$half"
        done
        leave greedy
        [[ $how == SIGTERM ]] || serves
    done
}

@test "a server that was stopped answers requests that were whole before the drain deadline" {
    for how in restart SIGTERM; do
        start_server --drain-timeout 6
        # More than epoll reports at once.
        crowd slow 300 "$port"
        tell slow half
        begin_request
        drain "$how"
        stop "$old"
        deadline_over=$(($(clock) + 6500))
        send "$half" "$REST"
        wait_for is_past "$deadline_over"
        # What arrives before the server looks at the deadline counts as well.
        tell slow rest
        kill -CONT "$old"
        receive "$half"
        [[ $code == 200 && $body == 'Hello, World!' ]]
        answers slow
        (($(how_many +) + $(how_many c) == 300))
        [[ $how == restart || $reply =~ ^c+$ ]]
        ended "$old"
        ((status == 0))
        disconnect "$half"
        leave slow
    done
}

@test "a request that becomes whole around the drain deadline is never answered, and cut then" {
    need_strace
    start_server --drain-timeout 1
    crowd slow 300 "$port"
    tell slow half
    serves
    # The events of a loop are looked at late: some before the deadline, some after, some both.
    in_trouble epoll_wait,epoll_pwait,epoll_pwait2 delay_exit=40000
    order slow rest 0 6000
    restart_server
    obeyed slow
    answers slow
    first=$reply
    tell slow ask
    answers slow
    for ((i = 0; i < ${#first}; i++)); do
        [[ ${first:i:1} != + || ${reply:i:1} == + ]] || return 1
    done
    # There were some of either kind.
    [[ $first == *+* && $first == *[-xc]* ]]
}
