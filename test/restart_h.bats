#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# restart.[ch] in other servers: the example examples/echo.c, one that forks and changes its
# directory (tools/forker.c), and one whose library owns the sockets (examples/library.c). All of
# them send back what they get.
# shellcheck disable=SC2016 # scripts in quotes are run by the successor
# shellcheck disable=SC2030,SC2031,SC2153,SC2154 # a test is a subshell; helper.bash sets the rest

bats_require_minimum_version 1.5.0
load tools/helper

setup() {
    prepare
    hammer=$BATS_TEST_TMPDIR/hammer
}

# run_server NAME [ARGUMENTS...]: starts a server of build/. Sets pid and port.
run_server() {
    cp "$BUILD_DIR/$1" "$BATS_TEST_TMPDIR/$1"
    cp "$BUILD_DIR/$1" "$BATS_TEST_TMPDIR/${1}1"
    mkdir "$BATS_TEST_TMPDIR/elsewhere"
    start_command "./$1" "${@:2}"
    wait_listening
}

# replace: restarts the server. Sets old and pid.
replace() {
    old=$pid
    kill -USR1 "$old"
    wait_for succeeded "$old"
    pid=$(serving_pid)
}

# echoes FD [TEXT]: a line that is sent over the connection comes back.
echoes() {
    local line text=${2:-hello}
    send "$1" "$text\n"
    IFS= read -r -t "$patience" -u "$1" line && [[ $line == "$text" ]]
}

# Waits until the server that was started last is the only one.
one_is_left() {
    wait_for programs_are "$pid"
}

# ---- the example ----

# fail WHY: a restart fails, and the server logs why.
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

# next: prints the file name of the next successor. mend: puts the program back there.
next() {
    [[ $(readlink "/proc/$pid/exe") == */echo1 ]] && echo echo || echo echo1
}

mend() {
    cp "$BUILD_DIR/echo" "$BATS_TEST_TMPDIR/new"
    mv "$BATS_TEST_TMPDIR/new" "$BATS_TEST_TMPDIR/$(next)"
}

# load_server [OPTIONS...]: loads the server until load_ends; idle connections are there by then.
load_server() {
    in_background "$BUILD_DIR/hammer" --echo -d 300 --deadline 60 --pause 20 "$@" "127.0.0.1:$port" \
        >"$hammer" 2>"$hammer.said"
    wait_for says "$hammer.said" '^idle'
}

mixed_load() {
    load_server -k 4 -t 4 -p 2 -c 2 -s 4 -i 50
}

# Ends the load. Each message has come back, and no connection was closed.
load_ends() {
    kill -INT "$job"
    wait "$job" || {
        cat "$hammer"
        return 1
    }
}

@test "the echo server listens on 127.0.0.1 alone, and ends with status 0 on SIGTERM and SIGINT" {
    run_server echo 0
    for signal in TERM INT; do
        [[ $(ss -Htln "sport = :$port") == *"127.0.0.1:$port "* ]]
        connect
        echoes "$conn" 'one line'
        echoes "$conn" 'and another'
        # The server closes first: its end of the connection is in TIME-WAIT then.
        kill -"$signal" "$pid"
        ended "$pid"
        ((status == 0))
        start_command ./echo "$port"
        wait_log "^echo\[$pid]: listening on 127\.0\.0\.1:$port$"
    done
    run ! grep -q 'cannot listen' "$log"
}

@test "the echo server is replaced, there and back, logs that, and its connections move along" {
    run_server echo 0
    connect
    first=$conn
    echoes "$first" before
    before=''
    for name in echo1 echo echo1 echo echo1 echo; do
        connect
        echoes "$conn" 'new here'
        replace
        mapfile -d '' -t argv <"/proc/$pid/cmdline"
        [[ ${argv[0]} == "./$name" && ${argv[1]} == 0 && ${argv[2]} =~ ^[0-9]+$ ]]
        wait_gone "$old"
        echoes "$first" "after $name"
        echoes "$conn" "after $name"
        holds "$pid" "$first"
        disconnect "$conn"
        if [[ -z $before ]]; then
            for line in 'SIGUSR1 received: restarting' "successor started: $pid \(\./echo1\)" \
                "handed over to $pid" 'ended: 2 connections handed over, 0 finished here'; do
                (($(count_log "^echo\[$old]: $line$") == 1))
            done
            logged "^echo1\[$pid]: listening on 127\.0\.0\.1:$port \(inherited fd [0-9]+\)$"
            wait_for settled "$pid"
            before=$(descriptors "$pid")
        fi
        wait_for has_descriptors "$pid" "$before"
    done
    [[ ! -s $log.out ]]
    [[ $(grep -Evc "^echo1?\[[0-9]+]: .+$" "$log") == 0 ]]
}

@test "no client of the echo server notices successors that hang, crash or cannot be executed" {
    run_server echo 0
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

@test "idle connections and a mixed load move along in chains of restarts 1 ms apart" {
    run_server echo 0
    load_server -k 4 -t 4 -p 2 -c 2 -s 4 -i 700
    for ((i = 0; i < 6; i++)); do
        for ((j = 0; j < 2 + i % 4; j++)); do
            replace
            sleep 0.001
        done
        one_is_left
    done
    load_ends
    grep -q 'idle.*answered=1400' "$hammer"
}

@test "a process whose predecessor hands over slowly waits for it before it ends" {
    run_server echo 0
    load_server -i 700
    load=$job
    in_background strace -qq -o /dev/null -e trace=sendmsg -e inject=sendmsg:delay_enter=2000 \
        -p "$pid"
    wait_for traced "$pid"
    job=$load
    first=$pid
    replace
    replace
    replace
    alive "$first"
    one_is_left
    load_ends
    grep -q 'idle.*answered=1400' "$hammer"
}

# ---- a server that forks ----

@test "a server that changes its directory restarts under its relative name, over and over" {
    run_server forker
    [[ /proc/$pid/cwd -ef $BATS_TEST_TMPDIR/elsewhere ]]
    for ((i = 0; i < 3; i++)); do
        replace
        [[ /proc/$pid/cwd -ef $BATS_TEST_TMPDIR/elsewhere ]]
    done
    connect
    echoes "$conn"
}

@test "a forked child has the first process's signal mask and none of the module's descriptors" {
    run_server forker
    connect
    echoes "$conn"
    replace
    connect
    echoes "$conn"
    child=$(children "$pid")
    [[ $(status_of "$child" SigBlk) == 0000000000000000 ]]
    [[ $(status_of "$child" SigIgn) != *1000 ]] # SIGPIPE is 13
    has_descriptors "$child" 4
}

@test "the children of a server continue to serve when their parent has been replaced" {
    run_server forker
    connect_many 5
    for conn in "${conns[@]}"; do
        echoes "$conn"
    done
    first=$pid
    replace
    wait_gone "$first"
    for conn in "${conns[@]}"; do
        echoes "$conn"
    done
}

@test "a server that reaps the successor itself notices that it has failed, and serves on" {
    run_server forker
    printf '#!/bin/sh\nexit 7\n' >"$BATS_TEST_TMPDIR/forker1"
    kill -USR1 "$pid"
    wait_log "\[$pid]: restart failed: "
    connect
    echoes "$conn"
    cp --remove-destination "$BUILD_DIR/forker" "$BATS_TEST_TMPDIR/forker1"
    replace
    echoes "$conn"
}

# ---- a library that owns the sockets ----

@test "a library's connections are handed over, and the library closes its own descriptors" {
    run_server library
    connect_many 20
    for conn in "${conns[@]}"; do
        echoes "$conn"
    done
    for ((i = 0; i < 4; i++)); do
        replace
        wait_gone "$old"
        logged "\[$old]: ended: 20 connections handed over, 0 finished here"
        for conn in "${conns[@]}"; do
            echoes "$conn"
        done
    done
}

@test "a library no longer sees a connection that has been handed over while another is busy" {
    local rest
    run_server library
    connect_many 20
    for conn in "${conns[@]}"; do
        echoes "$conn"
    done
    connect
    busy=$conn
    send "$busy" 'half'
    LC_ALL=C IFS= read -r -t "$patience" -u "$busy" -N 4 rest
    replace
    wait_log "\[$old]: handed over"
    for conn in "${conns[@]}"; do
        echoes "$conn"
        wait_for not_held "$old" "$conn"
    done
    holds "$old" "$busy"
    echoes "$busy"
    wait_log "\[$old]: ended: 21 connections handed over, 0 finished here"
}

not_held() {
    ! holds "$1" "$2"
}
