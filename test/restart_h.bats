#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# restart.[ch] in another server: the echo server of test/examples/echo.c.
# shellcheck disable=SC2016 # scripts in quotes are run by the successor
# shellcheck disable=SC2030,SC2031,SC2153,SC2154 # a test is a subshell; helper.bash sets the rest

bats_require_minimum_version 1.5.0
load tools/helper

setup() {
    prepare
    hammer=$BATS_TEST_TMPDIR/hammer
    cp "$BUILD_DIR/echo" "$BATS_TEST_TMPDIR/echo"
    cp "$BUILD_DIR/echo" "$BATS_TEST_TMPDIR/echo1"
    start_command ./echo 0
    wait_listening
}

# replace: asks the server for a restart and waits until its successor listens. Sets old, pid.
replace() {
    old=$pid
    kill -USR1 "$old"
    wait_for succeeded "$old"
    pid=$(serving_pid)
}

# Waits until the server that was started last is the only one.
one_is_left() {
    wait_for programs_are "$pid"
}

# fail WHY: asks for a restart that fails, and waits until the server says so.
fail() {
    local before
    before=$(count_log "\[$pid]: restart failed: $1")
    kill -USR1 "$pid"
    wait_for logged_more_than "$before" "\[$pid]: restart failed: $1"
    wait_for childless "$pid"
}

logged_more_than() {
    (($(count_log "$2") > $1))
}

# script LINES: the next successor is a script.
script() {
    printf '%s\n' '#!/bin/bash' "$1" >"$BATS_TEST_TMPDIR/new"
    chmod +x "$BATS_TEST_TMPDIR/new"
    mv "$BATS_TEST_TMPDIR/new" "$BATS_TEST_TMPDIR/$(next)"
}

# The file name of the next successor, and what puts the program back there.
next() {
    [[ $(readlink "/proc/$pid/exe") == */echo1 ]] && echo echo || echo echo1
}

mend() {
    cp "$BUILD_DIR/echo" "$BATS_TEST_TMPDIR/new"
    mv "$BATS_TEST_TMPDIR/new" "$BATS_TEST_TMPDIR/$(next)"
}

# load_server [OPTIONS...]: loads the server until load_ends; idle connections are there by then.
load_server() {
    in_background "$BUILD_DIR/hammer" --echo -d 300 --deadline 60 --pause 5 "$@" "127.0.0.1:$port" \
        >"$hammer" 2>"$hammer.said"
    wait_for says "$hammer.said" '^idle'
}

mixed_load() {
    load_server -k 4 -t 4 -p 2 -c 2 -s 4 -i 50
}

# Ends the load: each message has come back, and no connection has been closed.
load_ends() {
    kill -INT "$job"
    wait "$job" || {
        cat "$hammer"
        return 1
    }
}

# echoes FD TEXT: whether a line comes back over FD as it was sent.
echoes() {
    local line
    echo "$2" >&"$1" && IFS= read -r -t "$patience" -u "$1" line && [[ $line == "$2" ]]
}

@test "the echo server sends back what it gets" {
    connect
    echoes "$conn" 'one line'
    echoes "$conn" 'and another'
}

@test "the echo server listens on 127.0.0.1 alone, and at once after an earlier one has ended" {
    [[ $(ss -Htln "sport = :$port") == *"127.0.0.1:$port "* ]]
    connect
    echoes "$conn" before
    # The server closes first: its end of the connection is in TIME-WAIT then.
    kill -TERM "$pid"
    wait_gone "$pid"
    start_command ./echo "$port"
    wait_log "^echo\[$pid]: listening on 127\.0\.0\.1:$port$"
    run ! grep -q 'cannot listen' "$log"
}

@test "SIGTERM and SIGINT end the echo server with status 0" {
    connect
    echoes "$conn" before
    kill -TERM "$pid"
    ended "$pid"
    ((status == 0))
    start_command ./echo 0
    wait_listening
    kill -INT "$pid"
    ended "$pid"
    ((status == 0))
}

@test "the echo server's log goes to standard error, a line for each thing that happens" {
    connect
    echoes "$conn" before
    replace
    wait_gone "$old"
    [[ ! -s $log.out ]]
    [[ $(grep -Evc "^echo1?\[($old|$pid)]: .+$" "$log") == 0 ]]
    for said in 'SIGUSR1 received: restarting' "successor started: $pid \(\./echo1\)" \
        "handed over to $pid" 'ended: 1 connections handed over, 0 finished here'; do
        (($(count_log "^echo\[$old]: $said$") == 1))
    done
    logged "^echo1\[$pid]: listening on 127\.0\.0\.1:$port \(inherited fd [0-9]+\)$"
}

@test "the echo server is replaced, there and back, and its connections go along" {
    connect
    first=$conn
    echoes "$first" before
    for name in echo1 echo echo1; do
        connect
        echoes "$conn" 'new here'
        replace
        mapfile -d '' -t argv <"/proc/$pid/cmdline"
        [[ ${argv[0]} == "./$name" && ${argv[1]} == 0 && ${argv[2]} =~ ^[0-9]+$ ]]
        wait_gone "$old"
        echoes "$first" "after $name"
        echoes "$conn" "after $name"
        holds "$pid" "$first"
    done
}

@test "successors that hang, crash, end or cannot be executed are noticed by no client of the echo server" {
    mixed_load
    script 'exec sleep 300'
    fail 'successor [0-9]+ was not ready within 5 s and was killed'
    script 'kill -SEGV $$'
    fail 'successor [0-9]+ was ended by signal 11'
    script 'exit 0'
    fail 'successor [0-9]+ exited with status 0'
    script 'exit 3'
    fail 'successor [0-9]+ exited with status 3'
    rm "$BATS_TEST_TMPDIR/echo1"
    fail 'cannot start \./echo1: No such file or directory'
    echo garbage >"$BATS_TEST_TMPDIR/echo1"
    fail 'cannot start \./echo1: Permission denied'
    chmod +x "$BATS_TEST_TMPDIR/echo1"
    fail 'cannot start \./echo1: Exec format error'
    mend
    replace
    one_is_left
    load_ends
}

@test "700 idle connections of the echo server go along in six chains of two restarts 1 ms apart" {
    load_server -i 700
    for ((i = 0; i < 6; i++)); do
        replace
        sleep 0.001
        replace
        one_is_left
    done
    load_ends
    grep -q 'idle.*answered=1400' "$hammer"
}

@test "the echo server waits for its predecessor, which hands over slowly, before it ends" {
    load_server -i 700
    in_background_too strace -qq -o /dev/null -e trace=sendmsg -e inject=sendmsg:delay_enter=2000 \
        -p "$pid"
    wait_for traced "$pid"
    first=$pid
    replace
    replace
    replace
    alive "$first"
    one_is_left
    load_ends
    grep -q 'idle.*answered=1400' "$hammer"
}

# As in_background, and job is what it was.
in_background_too() {
    "$@" 3>&- &
}

@test "idle connections and a mixed load go along in chains of restarts at once" {
    load_server -k 4 -t 4 -p 2 -c 2 -s 4 -i 300
    for ((i = 0; i < 6; i++)); do
        for ((j = 0; j < 5; j++)); do
            replace
        done
        one_is_left
    done
    load_ends
}

@test "nothing piles up over restarts of the echo server" {
    replace
    one_is_left
    before=$(descriptors "$pid")
    for ((i = 0; i < 20; i++)); do
        replace
        one_is_left
    done
    wait_for has_descriptors "$pid" "$before"
}
