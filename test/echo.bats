#!/usr/bin/env bats
# restart.[ch] in another server: the echo server of test/echo.c.
# shellcheck disable=SC2030,SC2031,SC2153,SC2154 # a test is a subshell; helper.bash sets the rest

load helper

setup() {
    log=$BATS_TEST_TMPDIR/log
    cp "$BUILD_DIR/echo" "$BATS_TEST_TMPDIR/echo"
    cp "$BUILD_DIR/echo" "$BATS_TEST_TMPDIR/echo1"
    start_command ./echo 0
    wait_for finds_port
}

# replace: asks the server for a restart and waits until its successor alone serves. Sets old, pid.
replace() {
    old=$pid
    kill -USR1 "$old"
    wait_for handed_on "$old"
    pid=$(holder_of_port)
}

# echoes FD TEXT: whether a line comes back over FD as it was sent.
echoes() {
    local line
    echo "$2" >&"$1" && IFS= read -r -t 10 -u "$1" line && [[ $line == "$2" ]]
}

# Sends lines over one connection, one after the other, until there are enough.
talk() {
    local i fd
    trap - DEBUG # Of bats, for its traces: slow.
    exec {fd}<>"/dev/tcp/127.0.0.1/$port"
    for ((i = 0; ; i++)); do
        echoes "$fd" "line $i of $BASHPID" || exit 1
        [[ ! -e $BATS_TEST_TMPDIR/enough ]] || exit 0
    done
}

# Sends lines, each over a connection of its own, until there are enough.
visit() {
    local fd
    trap - DEBUG
    until [[ -e $BATS_TEST_TMPDIR/enough ]]; do
        exec {fd}<>"/dev/tcp/127.0.0.1/$port"
        echoes "$fd" "hello from $BASHPID" || exit 1
        exec {fd}>&-
    done
}

@test "the echo server sends back what it gets" {
    connect
    echoes "$conn" 'one line'
    echoes "$conn" 'and another'
}

@test "the echo server is replaced, there and back, and its connections move" {
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
    done
}

@test "the echo server is replaced over and over under load, and no client notices" {
    for ((i = 0; i < 4; i++)); do
        in_background talk
        jobs+=("$job")
    done
    in_background visit
    jobs+=("$job")
    for ((i = 0; i < 20; i++)); do
        replace
    done
    touch "$BATS_TEST_TMPDIR/enough"
    for job in "${jobs[@]}"; do
        wait "$job"
    done
    [[ ! -s $log ]]
}

@test "the echo server serves on when its successor cannot be started, or ends" {
    connect
    before=$(descriptors "$pid")
    rm "$BATS_TEST_TMPDIR/echo1"
    kill -USR1 "$pid"
    wait_log 'restart failed, serving on: No such file'
    echoes "$conn" 'still here'
    printf '#!/bin/bash\nexit 3\n' >"$BATS_TEST_TMPDIR/echo1.new"
    chmod +x "$BATS_TEST_TMPDIR/echo1.new"
    mv "$BATS_TEST_TMPDIR/echo1.new" "$BATS_TEST_TMPDIR/echo1"
    kill -USR1 "$pid"
    wait_log 'restart failed, serving on: status 768'
    echoes "$conn" 'still here'
    childless "$pid"
    # The one that the test has open since is the only new one.
    (($(descriptors "$pid") <= before + 1))
    cp "$BUILD_DIR/echo" "$BATS_TEST_TMPDIR/new"
    mv "$BATS_TEST_TMPDIR/new" "$BATS_TEST_TMPDIR/echo1"
    replace
    echoes "$conn" 'after all'
}

@test "nothing piles up over restarts of the echo server" {
    replace
    wait_gone "$old"
    # Standard streams, the listener and the signals; the channel is closed soon.
    wait_for has_descriptors "$pid" 5
    for ((i = 0; i < 20; i++)); do
        replace
        wait_gone "$old"
    done
    wait_for has_descriptors "$pid" 5
}
