#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# The old process stands by after a hand-over, and takes over again if its successor crashes.
# shellcheck disable=SC2016 # scripts in quotes are run by the successor
# shellcheck disable=SC2030,SC2031,SC2153,SC2154 # a test is a subshell; helper.bash sets the rest

bats_require_minimum_version 1.5.0
load tools/helper

# No test waits for this to pass.
LONG=300

# start_and_restart [OPTIONS...]: starts a server with a pid file, and replaces it once. Then old
# stands by, and pid, its successor, owns the listener.
start_and_restart() {
    start_server -p pid_file --rollback-timeout "$LONG" "$@"
    restart_server
}

# rolled_back HOW: waits until old says that it serves again, because pid ended as HOW tells.
rolled_back() {
    wait_log "\[$old]: rolled back: successor $pid $1\$"
    wait_for names "$old"
    wait_for childless "$old"
}

# Process old ends with status 0, by itself, long before its time is up.
old_ends() {
    ended "$old"
    ((status == 0))
    (($(count_log 'rolled back') == 0))
}

# The service is gone: nothing accepts at $port any more.
refuses() {
    [[ -z $(holder_of_port) ]]
}

# connections_of PID: how many connections the process has.
connections_of() {
    ss -Htnp state established | grep -c "pid=$1," || true
}

has_connections() {
    (($(connections_of "$1") == $2))
}

# ready_script LINES: the next successor is a script that claims the listener, takes no connections,
# and runs LINES.
ready_script() {
    successor_script 'channel=${RESTART_CHANNEL#*:}
        printf R1 >&"$channel"
        : >owns
        '"$1"
}

# claim_unheard: a successor has claimed the listener, and the old process is stopped and does not
# know. Sets old and pid.
claim_unheard() {
    successor_script ': >started; until [[ -e go ]]; do sleep 0.02; done; become "$@"'
    old=$pid
    kill -USR1 "$old"
    wait_for test -e "$BATS_TEST_TMPDIR/started"
    kill -STOP "$old"
    : >"$BATS_TEST_TMPDIR/go"
    wait_for succeeded "$old"
    pid=$(serving_pid)
    mend_successor
}

# ---- the successor crashes ----

@test "the old process takes over again when a signal ends its successor, and says why" {
    start_server -p pid_file --rollback-timeout "$LONG"
    for signal in 'SEGV:11 (Segmentation fault)' 'ABRT:6 (Aborted)' 'KILL:9 (Killed)' \
        'HUP:1 (Hangup)'; do
        restart_server
        serves
        kill -"${signal%%:*}" "$pid"
        how=${signal#*:}
        how=${how//(/\\(}
        rolled_back "was ended by signal ${how//)/\\)}"
        serves
        [[ $(holder_of_port) == "$old" ]]
    done
}

@test "the old process takes over again when its successor ends with another status than 0" {
    start_server -p pid_file --rollback-timeout "$LONG"
    ready_script 'until [[ -e go ]]; do sleep 0.02; done; exit 3'
    kill -USR1 "$pid"
    wait_for test -e "$BATS_TEST_TMPDIR/owns"
    old=$pid
    pid=$(children "$old")
    : >"$BATS_TEST_TMPDIR/go"
    rolled_back 'exited with status 3'
    serves
}

@test "a successor that ends with status 0 is not rolled back" {
    start_server -p pid_file --rollback-timeout "$LONG"
    ready_script 'until [[ -e go ]]; do sleep 0.02; done; exit 0'
    old=$pid
    kill -USR1 "$old"
    wait_for test -e "$BATS_TEST_TMPDIR/owns"
    wait_log "\[$old]: handed over"
    : >"$BATS_TEST_TMPDIR/go"
    old_ends
    logged "\[$old]: successor [0-9]+ exited with status 0"
}

@test "the next SIGUSR1 after a rollback tries afresh" {
    start_and_restart
    kill -KILL "$pid"
    rolled_back 'was ended by signal 9 \(Killed\)'
    restart_server
    logged "\[$pid]: listening on 127\.0\.0\.1:$port \(inherited fd"
    serves
    kill -TERM "$pid"
    old_ends_too
}

# The old process has rolled back before, and ends now.
old_ends_too() {
    ended "$old"
    ((status == 0))
    (($(count_log 'rolled back') == 1))
}

@test "the old process answers connections that wait to be accepted when the successor crashes" {
    start_and_restart
    kill -STOP "$pid"
    for ((i = 0; i < 50; i++)); do
        connect
        conns[i]=$conn
        printf '%b' "$WHOLE" >&"$conn"
    done
    kill -KILL "$pid"
    for conn in "${conns[@]}"; do
        answered "$conn"
    done
    rolled_back 'was ended by signal 9 \(Killed\)'
}

@test "requests in flight at the old process finish after a rollback, and their connections go on" {
    start_server -p pid_file --rollback-timeout "$LONG"
    connect
    half=$conn
    send "$half" "$HALF"
    wait_for taken "$half"
    connect
    idle=$conn
    ask "$idle"
    restart_server
    wait_for holds "$pid" "$idle"
    kill -KILL "$pid"
    rolled_back 'was ended by signal 9 \(Killed\)'
    # What the successor had is lost with it: it had only this one.
    run ! ask "$idle"
    send "$half" "$REST"
    answered "$half"
    ask "$half"
    holds "$old" "$half"
    serves
}

@test "a successor that crashes right after it has claimed the listener costs nothing" {
    start_server -p pid_file --rollback-timeout "$LONG"
    connect
    ask "$conn"
    successor_script 'printf R1 >&"${RESTART_CHANNEL#*:}"; kill -SEGV $$'
    old=$pid
    kill -USR1 "$old"
    wait_log "\[$old]: (rolled back|restart failed): successor [0-9]+ was ended by signal 11"
    ask "$conn"
    serves
    wait_for names "$old"
}

@test "a claim and a crash of which the old process learns at once cost nothing" {
    for rollback_timeout in 0 "$LONG"; do
        rm -f "$BATS_TEST_TMPDIR/started" "$BATS_TEST_TMPDIR/go"
        start_server -p pid_file --rollback-timeout "$rollback_timeout"
        connect
        ask "$conn"
        claim_unheard
        kill -SEGV "$pid"
        wait_gone "$pid"
        kill -CONT "$old"
        wait_log "\[$old]: restart failed: successor $pid was ended by signal 11"
        wait_for names "$old"
        ask "$conn"
        serves
        disconnect "$conn"
        kill -TERM "$old"
        wait_gone "$old"
    done
}

@test "after a crash of a successor that starts its own, one process owns the listener" {
    start_and_restart
    successor_script ': >started; until [[ -e go ]]; do sleep 0.02; done; become "$@"'
    kill -USR1 "$pid"
    wait_for test -e "$BATS_TEST_TMPDIR/started"
    kill -SEGV "$pid"
    wait_gone "$pid"
    : >"$BATS_TEST_TMPDIR/go"
    wait_for one_listens
    serves
    names "$(holder_of_port)"
    # It stays so.
    sleep 1
    one_listens
    serves
}

# Whether one process has the listener open, and nothing else runs.
one_listens() {
    local holder
    holder=$(holder_of_port) && none_left_but "$holder"
}

@test "a successor that closes the channel and crashes does not end the old process's connections" {
    start_server -p pid_file --rollback-timeout "$LONG"
    connect
    send "$conn" "$HALF"
    wait_for taken "$conn"
    old=$pid
    # It waits until the old process has heard the report.
    ready_script 'dd bs=16 count=1 status=none <&"$channel" >/dev/null
        eval "exec $channel>&-"; kill -SEGV $$'
    for ((i = 0; i < 5; i++)); do
        rolled_back_before=$(count_log 'rolled back')
        kill -USR1 "$old"
        wait_for rolled_back_more_than "$rolled_back_before"
    done
    run ! logged 'closed the channel'
    send "$conn" "$REST"
    answered "$conn"
}

rolled_back_more_than() {
    (($(count_log 'rolled back') > $1))
}

@test "a crash after the drain timeout has cut what was in flight is rolled back, too" {
    start_server -p pid_file --rollback-timeout "$LONG" --drain-timeout 1
    connect
    send "$conn" "$HALF"
    wait_for taken "$conn"
    restart_server
    wait_log "\[$old]: drain timeout: 1 connections cut"
    alive "$old"
    kill -KILL "$pid"
    rolled_back 'was ended by signal 9 \(Killed\)'
    # The deadline is not left over from then.
    connect
    send "$conn" "$HALF"
    wait_for taken "$conn"
    sleep 1.2
    send "$conn" "$REST"
    answered "$conn"
}

@test "a successor that reports nothing, with --ready-timeout 0, is rolled back when it crashes" {
    start_and_restart --ready-timeout 0
    kill -SEGV "$pid"
    rolled_back 'was ended by signal 11 \(Segmentation fault\)'
    serves
    connect
    ask "$conn"
}

# ---- one owner ----

@test "the crash of a successor that has been replaced is not rolled back" {
    # Without reports nobody releases the first process, which stands by.
    start_and_restart --ready-timeout 0
    first=$old
    restart_server
    programs_are "$first" "$old" "$pid"
    kill -KILL "$old"
    wait_for programs_are "$pid"
    serves
    names "$pid"
    (($(count_log 'rolled back') == 0))
}

@test "the crash of a successor that was replaced before the old process heard of it costs nothing" {
    start_server -p pid_file --rollback-timeout "$LONG"
    connect
    ask "$conn"
    claim_unheard
    first=$old
    restart_server
    kill -KILL "$old"
    wait_gone "$old"
    kill -CONT "$first"
    wait_log "\[$first]: successor $old was ended by signal 9"
    # Its connections are closed as at a shutdown, because nobody takes them.
    ask_last
    wait_for programs_are "$pid"
    serves
    names "$pid"
    (($(count_log 'rolled back') == 0))
}

# The last answer that comes over $conn.
ask_last() {
    send "$conn" "$WHOLE"
    receive "$conn"
    [[ $code == 200 ]]
    announces_close
    disconnect "$conn"
}

@test "rollbacks leave nothing behind" {
    start_and_restart
    kill -KILL "$pid"
    rolled_back 'was ended by signal 9 \(Killed\)'
    wait_for settled "$old"
    before=$(descriptors "$old")
    for ((i = 0; i < 10; i++)); do
        restart_server
        wait_log "\[$old]: handed over to $pid\$"
        kill -KILL "$pid"
        rolled_back 'was ended by signal 9 \(Killed\)'
    done
    wait_for has_descriptors "$old" "$before"
    none_left_but "$old"
}

@test "under load, a crash costs the connections that the successor had, and nothing else" {
    start_server -p pid_file --rollback-timeout "$LONG"
    hammer=$BATS_TEST_TMPDIR/hammer
    in_background "$BUILD_DIR/hammer" -d 300 --deadline 60 --pause 5 -k 4 -t 4 -p 2 -c 2 -s 2 -i 20 "127.0.0.1:$port" \
        >"$hammer" 2>"$hammer.said"
    wait_for says "$hammer.said" '^idle 20'
    for ((i = 0; i < 5; i++)); do
        restart_server
        wait_log "\[$old]: handed over to $pid\$"
        kill -KILL "$pid"
        rolled_back 'was ended by signal 9 \(Killed\)'
    done
    kill -INT "$job"
    wait "$job" || true
    cat "$hammer"
    read -r answered failed refused closed announced wrong < <(sed -nE \
        's/^total.* answered=([0-9]+) failed=([0-9]+) refused=([0-9]+) closed=([0-9]+) announced=([0-9]+) wrong=([0-9]+).*/\1 \2 \3 \4 \5 \6/p' "$hammer")
    ((answered > 0 && refused == 0 && announced == 0 && wrong == 0))
    # Each connection fails with all its requests, or is closed, once for each crash.
    ((failed + closed <= 5 * (4 + 4 + 2 * 8 + 2 + 2 + 20)))
    serves
}

# ---- the successor drains, or the time is up ----

@test "the old process ends at once when its successor is told to end, though that still drains" {
    for signal in TERM INT; do
        start_and_restart
        connect
        send "$conn" "$HALF"
        wait_for holds "$pid" "$conn"
        wait_for taken "$conn"
        kill -"$signal" "$pid"
        old_ends
        wait_for refuses
        alive "$pid"
        send "$conn" "$REST"
        receive "$conn"
        [[ $code == 200 ]]
        disconnect "$conn"
        wait_gone "$pid"
        [[ ! -e $BATS_TEST_TMPDIR/pid_file ]]
    done
}

@test "the old process ends if its successor was told to end before it heard of the claim" {
    start_server -p pid_file --rollback-timeout "$LONG"
    claim_unheard
    kill -TERM "$pid"
    wait_log "\[$pid]: SIGTERM received: ending gracefully"
    kill -CONT "$old"
    old_ends
    logged "\[$old]: handed over to $pid"
    wait_gone "$pid"
}

@test "the old process ends at once when its successor has handed over itself" {
    start_and_restart
    first=$old
    connect
    send "$conn" "$HALF"
    wait_for holds "$pid" "$conn"
    wait_for taken "$conn"
    restart_server
    ended "$first"
    ((status == 0))
    alive "$old"
    send "$conn" "$REST"
    answered "$conn"
    wait_for holds "$pid" "$conn"
    serves
}

@test "a chain of restarts leaves one process standing by, and it can take over again" {
    start_and_restart
    for ((i = 0; i < 6; i++)); do
        before=$old
        restart_server
        wait_gone "$before"
        programs_are "$old" "$pid"
    done
    kill -KILL "$pid"
    rolled_back 'was ended by signal 9 \(Killed\)'
    serves
}

@test "restarts that follow each other at once leave one process standing by" {
    start_server -p pid_file --rollback-timeout "$LONG"
    connect
    ask "$conn"
    for ((i = 0; i < 10; i++)); do
        restart_server
    done
    wait_for programs_are "$old" "$pid"
    ask "$conn"
    wait_for names "$pid"
    kill -KILL "$pid"
    rolled_back 'was ended by signal 9 \(Killed\)'
}

@test "the old process ends when its time is up, and a crash after that is not rolled back" {
    LONG=1 start_and_restart
    connect
    ask "$conn"
    old_ends
    ask "$conn"
    serves
    names "$pid"
    kill -KILL "$pid"
    wait_gone "$pid"
    refuses
    (($(count_log 'rolled back') == 0))
}

@test "the time runs from the successor's report, also while requests in flight finish" {
    LONG=1 start_server -p pid_file --rollback-timeout 1
    connect
    send "$conn" "$HALF"
    wait_for taken "$conn"
    restart_server
    wait_for has_no_listener "$old"
    kill -KILL "$pid"
    wait_gone "$pid"
    wait_for refuses
    send "$conn" "$REST"
    receive "$conn"
    [[ $code == 200 ]]
    disconnect "$conn"
    old_ends
}

has_no_listener() {
    ! ss -Htlnp "sport = :$port" | grep -q "pid=$1,"
}

@test "without the option no process stands by" {
    start_server -p pid_file
    restart_server
    old_ends
    kill -KILL "$pid"
    wait_gone "$pid"
    refuses
}

# ---- while it stands by ----

@test "while it stands by, the old process takes no connection, holds none, and is not woken" {
    start_server -p pid_file --rollback-timeout "$LONG"
    for ((i = 0; i < 20; i++)); do
        connect
        ask "$conn"
        conns+=("$conn")
    done
    restart_server
    wait_for has_connections "$old" 0
    wait_for has_connections "$pid" 20
    woken=$(times_woken "$old")
    ticks=$(processor_time "$old")
    for ((i = 0; i < 30; i++)); do
        connect
        ask "$conn"
        ask "${conns[i % 20]}"
    done
    (($(connections_of "$old") == 0 && $(connections_of "$pid") == 50))
    (($(times_woken "$old") - woken < 5))
    (($(processor_time "$old") - ticks < 5))
    alive "$old"
}

@test "SIGTERM and SIGINT end a process that stands by, and harm nothing" {
    for signal in TERM INT; do
        start_and_restart
        connect
        ask "$conn"
        kill -"$signal" "$old"
        old_ends
        ask "$conn"
        disconnect "$conn"
        serves
        names "$pid"
        kill -TERM "$pid"
        wait_gone "$pid"
    done
}

@test "SIGUSR1 to a process that stands by is ignored" {
    start_and_restart
    kill -USR1 "$old"
    wait_log "\[$old]: SIGUSR1 received: ignored"
    [[ $(children "$old") == "$pid" ]]
    kill -KILL "$pid"
    rolled_back 'was ended by signal 9 \(Killed\)'
}

@test "nobody notices the end of a process that stands by" {
    start_and_restart
    connect
    ask "$conn"
    kill -KILL "$old"
    wait_gone "$old"
    ask "$conn"
    serves
    restart_server
    ask "$conn"
}

@test "a Ctrl-C for both ends both" {
    start_and_restart
    kill -INT "$old" "$pid"
    old_ends
    wait_gone "$pid"
    logged "\[$pid]: SIGINT received: ending gracefully"
    (($(count_log 'at once') == 0))
}

# ---- version 2.0.0 ----

# The next successor is version 2.0.0.
become_first() {
    first=$BUILD_DIR/2.0.0/$NAME
    [[ -x $first ]] || skip 'needs version 2.0.0, from a clone with its history'
    find_successor
    successor_script "exec -a './$name' '$first' -l 127.0.0.1:0 -p pid_file \"\${@: -1}\""
}

@test "a crash of version 2.0.0 is rolled back" {
    start_server -p pid_file --rollback-timeout "$LONG"
    become_first
    restart_server
    logged "\[$pid]: listening .* version 2\.0\.0"
    serves
    alive "$old"
    kill -SEGV "$pid"
    rolled_back 'was ended by signal 11 \(Segmentation fault\)'
    serves
}

@test "the old process ends with version 2.0.0 that is told to end" {
    start_server -p pid_file --rollback-timeout 3
    become_first
    restart_server
    kill -TERM "$pid"
    old_ends
    wait_gone "$pid"
    refuses
}
