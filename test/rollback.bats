#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# The old process stands by after a restart, and takes over again if its successor crashes.
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

# rolled_back HOW: waits until process old logs that it has taken over again, because process pid
# ended as the regular expression HOW tells.
rolled_back() {
    wait_log "\[$old]: rolled back: successor $pid $1\$"
    wait_for names "$old"
    wait_for childless "$old"
}

rolled_back_more_than() {
    (($(count_log 'rolled back') > $1))
}

# Process old ends by itself with status 0, long before its time is up.
old_ends() {
    ended "$old"
    ((status == 0))
    (($(count_log 'rolled back') == 0))
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
    rm -f "$BATS_TEST_TMPDIR"/{owns,go}
    successor_script 'channel=${RESTART_CHANNEL#*:}
        printf R1 >&"$channel"
        : >owns
        '"$1"
}

# Replaces process $pid by such a script, and waits until the old process has read the claim. Sets
# old and pid.
restart_into_script() {
    old=$pid
    before=$(count_log "\[$old]: handed over")
    kill -USR1 "$old"
    wait_for test -e "$BATS_TEST_TMPDIR/owns"
    pid=$(children "$old")
    wait_for handed_over_more_than "$before"
}

handed_over_more_than() {
    (($(count_log "\[$old]: handed over") > $1))
}

# ---- the successor crashes ----

@test "the old process takes over again after each crash, logs why, and nothing is left behind" {
    start_server -p pid_file --rollback-timeout "$LONG"
    first=$pid
    open=''
    for signal in 'exit 3' 'SEGV:11 \(Segmentation fault\)' 'ABRT:6 \(Aborted\)' \
        'KILL:9 \(Killed\)' 'HUP:1 \(Hangup\)' 'KILL:9 \(Killed\)'; do
        pid=$first
        if [[ $signal == exit* ]]; then
            ready_script "until [[ -e go ]]; do sleep 0.02; done; $signal"
            restart_into_script
            go_on
            rolled_back 'exited with status 3'
            mend_successor
        else
            restart_server
            serves
            kill -USR1 "$old"
            wait_log "\[$old]: SIGUSR1 received: ignored"
            [[ $(children "$old") == "$pid" ]]
            kill -"${signal%%:*}" "$pid"
            rolled_back "was ended by signal ${signal#*:}"
        fi
        [[ $old == "$first" && $(holder_of_port) == "$old" ]]
        serves
        wait_for settled "$old"
        [[ -n $open ]] || open=$(descriptors "$old")
        wait_for has_descriptors "$old" "$open"
    done
    none_left_but "$old"
}

@test "a successor that exits with status 0 is not rolled back" {
    start_server -p pid_file --rollback-timeout "$LONG"
    ready_script 'until [[ -e go ]]; do sleep 0.02; done; exit 0'
    restart_into_script
    go_on
    old_ends
    logged "\[$old]: successor $pid exited with status 0"
}

@test "requests in flight at the old process finish after a rollback, and connections stay open" {
    start_server -p pid_file --rollback-timeout "$LONG"
    begin_request
    connect
    idle=$conn
    ask "$idle"
    restart_server
    wait_for holds "$pid" "$idle"
    kill -KILL "$pid"
    rolled_back 'was ended by signal 9 \(Killed\)'
    # The connection that the successor had is lost with it.
    run ! ask "$idle"
    end_request "$half"
    ask "$half"
    holds "$old" "$half"
    serves
}

@test "after a crash of a successor that starts its own, one process owns the listener" {
    start_and_restart
    start_slowly
    kill -SEGV "$pid"
    wait_gone "$pid"
    go_on
    wait_for one_listens
    serves
    names "$(holder_of_port)"
    # It stays so.
    sleep 1
    one_listens
    serves
}

# Whether one process has the listener open, and no other process is left.
one_listens() {
    local holder
    holder=$(holder_of_port) && none_left_but "$holder"
}

@test "a successor that closes the channel and crashes does not end the old process's connections" {
    start_server -p pid_file --rollback-timeout "$LONG"
    begin_request
    old=$pid
    # It waits until the old process has read the claim.
    ready_script 'dd bs=16 count=1 status=none <&"$channel" >/dev/null
        eval "exec $channel>&-"; kill -SEGV $$'
    for ((i = 0; i < 5; i++)); do
        rolled_back_before=$(count_log 'rolled back')
        kill -USR1 "$old"
        wait_for rolled_back_more_than "$rolled_back_before"
    done
    run ! logged 'closed the channel'
    end_request "$half"
}

@test "a crash is rolled back even after the drain timeout has cut the requests in flight" {
    start_server -p pid_file --rollback-timeout "$LONG" --drain-timeout 1
    begin_request
    restart_server
    wait_log "\[$old]: drain timeout: 1 connections cut"
    alive "$old"
    kill -KILL "$pid"
    rolled_back 'was ended by signal 9 \(Killed\)'
    # The deadline is over and done with.
    begin_request
    sleep 1.2
    end_request "$half"
}

@test "with --ready-timeout 0 a crash of the successor is rolled back" {
    start_and_restart --ready-timeout 0
    kill -SEGV "$pid"
    rolled_back 'was ended by signal 11 \(Segmentation fault\)'
    serves
    connect
    ask "$conn"
}

@test "under load, a crash costs the connections that the successor had, and nothing else" {
    start_server -p pid_file --rollback-timeout "$LONG"
    hammer=$BATS_TEST_TMPDIR/hammer
    in_background "$BUILD_DIR/hammer" -d 300 --deadline 60 --pause 5 -k 4 -t 4 -p 2 -c 2 -s 2 -i 20 \
        "127.0.0.1:$port" >"$hammer" 2>"$hammer.said"
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

@test "the crash of a successor that was replaced before its claim was read costs nothing" {
    start_server -p pid_file --rollback-timeout "$LONG"
    connect
    ask "$conn"
    claim_unread
    first=$old
    restart_server
    kill -KILL "$old"
    wait_gone "$old"
    kill -CONT "$first"
    wait_log "\[$first]: successor $old was ended by signal 9"
    # Its connections are closed as at a shutdown, because no process takes them.
    send "$conn" "$WHOLE"
    receive "$conn"
    [[ $code == 200 ]]
    announces_close
    disconnect "$conn"
    wait_for programs_are "$pid"
    serves
    names "$pid"
    (($(count_log 'rolled back') == 0))
}

# ---- the successor drains, or the time is up ----

@test "the old process ends at once when its successor is told to end, though that still drains" {
    for signal in TERM INT; do
        start_and_restart
        begin_request
        holds "$pid" "$half"
        kill -"$signal" "$pid"
        old_ends
        wait_for refuses
        alive "$pid"
        end_last_request "$half"
        wait_gone "$pid"
        [[ ! -e $BATS_TEST_TMPDIR/pid_file ]]
    done
}

@test "the old process ends if its successor was told to end before its claim was read" {
    start_server -p pid_file --rollback-timeout "$LONG"
    claim_unread
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
    begin_request
    holds "$pid" "$half"
    restart_server
    ended "$first"
    ((status == 0))
    alive "$old"
    end_request "$half"
    wait_for holds "$pid" "$half"
    serves
}

@test "however many restarts follow each other, one process stands by" {
    start_server -p pid_file --rollback-timeout "$LONG"
    connect
    ask "$conn"
    for ((i = 0; i < 10; i++)); do
        restart_server
        # The first half at once, the others when only one process stands by.
        ((i < 5)) || wait_for programs_are "$old" "$pid"
    done
    ask "$conn"
    wait_for names "$pid"
    kill -KILL "$pid"
    rolled_back 'was ended by signal 9 \(Killed\)'
    serves
}

@test "a crash is not rolled back without the option, nor when its time is up" {
    for options in '' '--rollback-timeout 1'; do
        # shellcheck disable=SC2086 # words
        start_server -p pid_file $options
        connect
        ask "$conn"
        restart_server
        old_ends
        ask "$conn"
        serves
        names "$pid"
        kill -KILL "$pid"
        wait_gone "$pid"
        wait_for refuses
        (($(count_log 'rolled back') == 0))
        disconnect "$conn"
    done
}

@test "the time runs from the successor's claim, also while requests in flight finish" {
    start_server -p pid_file --rollback-timeout 1
    begin_request
    restart_server
    wait_for has_no_listener "$old"
    kill -KILL "$pid"
    wait_log "\[$old]: successor $pid was ended by signal 9"
    wait_for refuses
    end_last_request "$half"
    old_ends
}

has_no_listener() {
    ! ss -Htlnp "sport = :$port" | grep -q "pid=$1,"
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

@test "SIGTERM, SIGINT and SIGKILL end a process that stands by, and no client notices" {
    for signal in TERM INT KILL; do
        start_and_restart
        connect
        ask "$conn"
        kill -"$signal" "$old"
        if [[ $signal == KILL ]]; then
            wait_gone "$old"
        else
            old_ends
        fi
        ask "$conn"
        serves
        names "$pid"
        restart_server
        ask "$conn"
        disconnect "$conn"
        kill -TERM "$pid"
        wait_gone "$pid"
    done
}

@test "Ctrl-C, which both processes get, ends both" {
    start_and_restart
    kill -INT "$old" "$pid"
    old_ends
    wait_gone "$pid"
    logged "\[$pid]: SIGINT received: ending gracefully"
    (($(count_log 'at once') == 0))
}

# ---- version 2.0.0 ----

@test "a crash of version 2.0.0 is rolled back, its graceful end is not" {
    second=$BUILD_DIR/2.0.0/$NAME
    [[ -x $second ]] || skip 'needs version 2.0.0, from a clone with its history'
    start_server -p pid_file --rollback-timeout "$LONG"
    find_successor
    successor_script "exec -a './$name' '$second' -l 127.0.0.1:0 -p pid_file \"\${@: -1}\""
    restart_server
    logged "\[$pid]: listening .* version 2\.0\.0"
    serves
    alive "$old"
    kill -SEGV "$pid"
    rolled_back 'was ended by signal 11 \(Segmentation fault\)'
    serves
    restart_server
    kill -TERM "$pid"
    ended "$old"
    ((status == 0))
    wait_gone "$pid"
    refuses
    (($(count_log 'rolled back') == 1))
}
