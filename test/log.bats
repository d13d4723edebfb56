#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# The contents of the log, and that no state of standard error harms the server.
# shellcheck disable=SC2030,SC2031,SC2153,SC2154 # a test is a subshell; helper.bash sets the rest

bats_require_minimum_version 1.5.0
load tools/helper
load tools/crowd

# ---- contents ----

@test "the log tells a restart step by step" {
    start_server
    connect
    idle=$conn
    ask "$idle"
    begin_request
    restart_server
    wait_for holds "$pid" "$idle"
    send "$conn" "${REST/HTTP/ HTTP}" # which is rejected, and closes the connection
    receive_all "$conn"
    disconnect "$conn"
    ended "$old"
    diff <(grep "\[$old]:" "$log") - <<EOT
${NAME}[$old]: listening on 127.0.0.1:$port, version $(version)
${NAME}[$old]: SIGUSR1 received: restarting
${NAME}[$old]: successor started: $pid (./${NAME}1)
${NAME}[$old]: handed over to $pid
${NAME}[$old]: ended: 1 connections handed over, 1 finished here
EOT
    diff <(grep "\[$pid]:" "$log") - <<<"${NAME}1[$pid]: listening on 127.0.0.1:$port \
(inherited fd 3), version $(version)"
    serves # a connection that ends before SIGTERM is not counted
    kill -TERM "$pid"
    wait_gone "$pid"
    diff <(grep "\[$pid]:" "$log" | tail -n +2) - <<EOT
${NAME}1[$pid]: SIGTERM received: ending gracefully
${NAME}1[$pid]: draining: 1 connections
${NAME}1[$pid]: ended: 0 connections handed over, 1 finished here
EOT
    # Nothing but whole lines, each under a name and a pid that are real.
    [[ $(grep -Evc "^$NAME(\[$old]|1\[$pid]): .+$" "$log") == 0 ]]
}

version() {
    local said
    said=$("$SERVER_DIR/$NAME" --version)
    echo "${said#* }"
}

@test "each line of the log is one write" {
    need_strace
    start_command strace -D -ff -qq -o "$BATS_TEST_TMPDIR/trace" -e trace=write,writev \
        -e write=2 "./$NAME" -l 127.0.0.1:0 "${PATIENT[@]}"
    wait_listening
    restart_server
    wait_gone "$old"
    kill -TERM "$pid"
    wait_gone "$pid"
    [[ $(cat "$BATS_TEST_TMPDIR"/trace.* | grep -Ec 'write\(2, "rust_graceful_restart.*= ') == \
        "$(count_log "^$NAME")" ]]
}

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

# ---- standard error that cannot be written ----

@test "the server restarts with all standard streams closed, and no client gets log lines" {
    (cd "$BATS_TEST_TMPDIR" && exec "./$NAME" -l 127.0.0.1:0 3>&- <&- >&- 2>&-) &
    pid=$!
    wait_for serves_at_all
    for ((i = 0; i < 3; i++)); do
        for fd in 0 1 2; do
            [[ $(readlink "/proc/$pid/fd/$fd") == /dev/null ]]
        done
        begin_request
        old=$pid
        kill -USR1 "$old"
        wait_for handed_on "$old"
        pid=$(holder_of_port)
        end_request "$half"
        wait_gone "$old"
        serves
        [[ -z $(timeout 0.5 cat <&"$conn") ]]
        disconnect "$conn"
    done
    kill -TERM "$pid"
    wait_gone "$pid"
}

@test "the server restarts when standard error is a full pipe, a broken pipe or a full file" {
    # The file is full from the beginning, or once it has a line or two.
    for kind in 'full pipe' 'broken pipe' 0 100 200; do
        rm -f "$BATS_TEST_TMPDIR/stderr"
        if [[ $kind == *pipe ]]; then
            mkfifo "$BATS_TEST_TMPDIR/stderr"
            exec {pipe}<>"$BATS_TEST_TMPDIR/stderr"
            # dd makes the description non-blocking: the server gets another one, which blocks.
            [[ $kind != full* ]] || dd if=/dev/zero bs=4096 oflag=nonblock status=none 1>&"$pipe" \
                2>/dev/null || true
            start_mute
            [[ $kind != broken* ]] || exec {pipe}>&-
        else
            start_mute prlimit "--fsize=$kind"
        fi
        for ((i = 0; i < 2; i++)); do
            old=$pid
            kill -USR1 "$old"
            wait_for handed_on "$old"
            pid=$(holder_of_port)
            serves
            wait_gone "$old"
        done
        begin_request
        kill -TERM "$pid"
        wait_for refuses
        end_last_request "$half"
        wait_gone "$pid"
        [[ $kind == *pipe ]] || (($(stat -c %s "$BATS_TEST_TMPDIR/stderr") == kind))
    done
}

# start_mute [COMMAND...]: starts a server, through COMMAND, whose log cannot be read. Sets pid.
start_mute() {
    (cd "$BATS_TEST_TMPDIR" && exec "$@" "./$NAME" -l 127.0.0.1:0 </dev/null 2>>stderr 3>&- {pipe}>&-) &
    pid=$!
    wait_for serves_at_all
}

@test "a terminal that is stopped with Ctrl-S does not stop the server" {
    needs script
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

# Whether the server logs a failed restart to the terminal.
terminal_writes() {
    kill -USR1 "$pid" && pause 100 && on_terminal 'restart failed'
}
