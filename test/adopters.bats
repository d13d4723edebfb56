#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# restart.[ch] in servers that fork, that change their directory, and whose library owns the sockets:
# test/tools/forker.c and test/examples/library.c. Both send back what they get.
# shellcheck disable=SC2030,SC2031,SC2153,SC2154 # a test is a subshell; helper.bash sets the rest

bats_require_minimum_version 1.5.0
load tools/helper

setup() {
    prepare
}

# run_server NAME: starts a server of test/. Sets pid and port.
run_server() {
    cp "$BUILD_DIR/$1" "$BATS_TEST_TMPDIR/$1"
    cp "$BUILD_DIR/$1" "$BATS_TEST_TMPDIR/${1}1"
    start_command "./$1"
    wait_listening
}

# replace: restarts the server. Sets old and pid.
replace() {
    old=$pid
    kill -USR1 "$old"
    wait_for succeeded "$old"
    pid=$(serving_pid)
}

# echoes FD: a line that is sent over the connection comes back.
echoes() {
    local line
    send "$1" 'hello\n'
    IFS= read -r -t "$patience" -u "$1" line && [[ $line == hello ]]
}

@test "a server that changes its directory restarts under its relative name, over and over" {
    run_server forker
    [[ $(readlink "/proc/$pid/cwd") == / ]]
    for ((i = 0; i < 3; i++)); do
        replace
        [[ $(readlink "/proc/$pid/cwd") == / ]]
    done
    connect
    echoes "$conn"
}

@test "a forked child has the signal mask of the first process and none of the module's descriptors" {
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

@test "the children of a server go on serving when their parent has been replaced" {
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

@test "a library's connections are handed over, and it closes what it has been left" {
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

not_held() {
    ! holds "$1" "$2"
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
