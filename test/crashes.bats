#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# The old or the new process is killed in the middle of a restart: the other one serves, and clients
# lose only what the dead process held.
# shellcheck disable=SC2016 # scripts in quotes are run by the successor
# shellcheck disable=SC2030,SC2031,SC2034,SC2153,SC2154 # a test is a subshell; helpers set and use the rest

load tools/helper
load tools/crowd

# ---- the new process ----

@test "a successor that is killed in the moment before it claims the listener has no client" {
    need_strace
    start_server -p pid_file
    connect_many 5
    ask_many "${conns[@]}"
    for call in epoll_wait rename; do
        hold_at "$call"
        for ((i = 0; i < 5; i++)); do
            connect
            ask "$conn"
            holds "$pid" "$conn"
            conns+=("$conn")
        done
        kill -KILL "$successor"
        wait_log "\[$pid]: restart failed: successor $successor was ended by signal 9"
        ask_many "${conns[@]}"
        childless "$pid"
        names "$pid"
    done
    restart_server
    ask_many "${conns[@]}"
}

@test "a successor that crashes before the old process has read its claim costs nothing" {
    for options in '' '--rollback-timeout 300'; do
        # shellcheck disable=SC2086 # words
        start_server -p pid_file $options
        connect_many 5
        ask_many "${conns[@]}"
        before=$(descriptors "$pid")
        claim_unread
        names "$pid"
        kill -SEGV "$pid"
        wait_for ended_child "$old"
        kill -CONT "$old"
        wait_log "\[$old]: restart failed: successor $pid was ended by signal 11"
        wait_for names "$old"
        ask_many "${conns[@]}"
        serves
        childless "$old"
        wait_for has_descriptors "$old" "$before"
        restart_server
        ask_many "${conns[@]}"
        kill -TERM "$pid"
        wait_for programs_are
    done
}

@test "the old process hands over to no successor that crashes right after its claim" {
    need_strace
    start_server
    connect
    ask "$conn"
    before=$(descriptors "$pid")
    in_trouble wait4,waitid delay_exit=2000000
    # In the delay the old process stands still for long.
    successor_script 'for ((times = 0; times < 5; times++)); do
            sleep 0.02
            read -r stat <"/proc/$PPID/stat"
            [[ ${stat##*) } == t* ]] || times=-1
        done
        printf R2 >&"${RESTART_CHANNEL#*:}"; kill -KILL $$'
    kill -USR1 "$pid"
    wait_log "\[$pid]: (restart failed|handed over)"
    logged "\[$pid]: restart failed: successor [0-9]+ was ended by signal 9"
    mended
    ask "$conn"
    serves
    wait_for childless "$pid"
    wait_for has_descriptors "$pid" "$before"
    mend_successor
    restart_server
    ask "$conn"
}

@test "the successor is killed during the hand-over: the old process finishes its requests" {
    start_server
    connect_many 40
    ask_many "${conns[@]}"
    begin_request
    hold_hand_over
    sort_connections
    kill -KILL "$pid"
    wait_log "\[$old]: successor $pid was ended by signal 9"
    # As at a shutdown: answers announce the close, and idle connections are closed a second later.
    end_last_request "$half"
    for conn in "${served[@]}"; do
        closed "$conn"
        disconnect "$conn"
    done
    ended "$old"
    ((status == 0))
}

# ---- the old process ----

@test "the old process is killed before its successor is ready: waiting connections are served" {
    start_server -p pid_file
    connect_many 2
    ask_many "${conns[@]}"
    successor_script 'kill -STOP $PPID; echo $$ >successor; kill -STOP $$; become "$@"'
    kill -USR1 "$pid"
    wait_for test -s "$BATS_TEST_TMPDIR/successor"
    successor=$(<"$BATS_TEST_TMPDIR/successor")
    # Neither process runs now: all of these wait in the queue.
    connect_many 5
    kill -KILL "$pid"
    wait_gone "$pid"
    kill -CONT "$successor"
    ask_many "${conns[@]}"
    [[ $(serving_pid) == "$successor" ]]
    wait_for names "$successor"
    mend_successor
    restart_server
    ask_many "${conns[@]}"
}

@test "the old process is killed before it has read the claim: the successor's clients stay" {
    start_server -p pid_file
    connect
    lost=$conn
    ask "$lost"
    claim_unread
    connect_many 5
    ask_many "${conns[@]}"
    kill -KILL "$old"
    wait_gone "$old"
    # The connections that only the old process held are lost.
    closed "$lost"
    ask_many "${conns[@]}"
    names "$pid"
    restart_server
    ask_many "${conns[@]}"
}

@test "the old process is killed during the hand-over: the connections handed over are answered" {
    start_server
    connect_many 50
    ask_many "${conns[@]}"
    begin_request
    hold_hand_over
    sort_connections
    kill -KILL "$old"
    wait_gone "$old"
    kill -CONT "$pid"
    serves
    for conn in "${waiting[@]}"; do
        answered "$conn"
        ask "$conn"
    done
    # The connections that the old process held are lost.
    for conn in "${served[@]}" "$half"; do
        ! receive "$conn" || return 1
    done
    restart_server
    serves
}
