#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# SIGUSR1, SIGTERM and SIGINT at any moment, and the graceful shutdown.
# shellcheck disable=SC2016 # scripts in quotes are run by the successor
# shellcheck disable=SC2030,SC2031,SC2153,SC2154 # a test is a subshell; helper.bash sets the rest

bats_require_minimum_version 1.5.0
load tools/helper
load tools/crowd

# ---- the shutdown ----

@test "SIGTERM and SIGINT: a request in flight is answered with Connection: close, then status 0" {
    for signal in TERM INT; do
        start_server
        begin_request
        connect
        silent=$conn
        connect
        ask "$conn"
        kill -"$signal" "$pid"
        wait_log "\[$pid]: .*SIG$signal"
        wait_for refuses
        send "$half" "$REST"
        receive "$half"
        [[ $code == 200 && $body == 'Hello, World!' ]]
        announces_close
        for fd in "$half" "$conn" "$silent"; do
            closed "$fd"
            disconnect "$fd"
        done
        ended "$pid"
        ((status == 0))
    done
}

@test "a request half a second after SIGTERM is answered, however long its client was idle" {
    # A machine that was too busy to send it in time proves nothing.
    for ((tries = 0; tries < 20; tries++)); do
        start_server
        connect
        ask "$conn"
        pause 2000
        begun=${EPOCHREALTIME/[.,]/}
        kill -TERM "$pid"
        pause 500
        send "$conn" "$WHOLE" || true
        took=$((${EPOCHREALTIME/[.,]/} - begun))
        ! receive "$conn" || break
        ((took > 900000))
        disconnect "$conn"
    done
    [[ $code == 200 ]]
    announces_close
    disconnect "$conn"
    ended "$pid"
    ((status == 0))
}

@test "connections that wait at SIGTERM are served, even if accepting fails for a while" {
    need_strace
    start_server
    in_trouble accept4,accept error=EMFILE
    crowd waiting 5 "$port"
    tell waiting ask
    wait_for injected
    kill -TERM "$pid"
    wait_log 'SIGTERM received'
    alive "$pid"
    mended
    answers waiting
    [[ $reply == ccccc ]]
    ended "$pid"
    ((status == 0))
}

@test "connections that wait together with SIGTERM get answers that announce the end" {
    start_server
    stop "$pid"
    crowd waiting 50 "$port"
    tell waiting ask
    kill -TERM "$pid"
    kill -CONT "$pid"
    answers waiting
    [[ $reply == $(printf 'c%.0s' {1..50}) ]]
    ended "$pid"
    ((status == 0))
}

@test "a second SIGTERM or SIGINT ends server and pending successor at once, with status 1" {
    for pair in 'TERM TERM' 'TERM INT' 'INT TERM' 'INT INT'; do
        read -r first second <<<"$pair"
        start_server
        begin_request
        if [[ $pair == 'TERM TERM' ]]; then
            successor_script 'echo $$ >successor; trap "" TERM; while :; do sleep 0.1; done'
            kill -USR1 "$pid"
            wait_for test -s "$BATS_TEST_TMPDIR/successor"
        fi
        kill -"$first" "$pid"
        wait_log "\[$pid]: .*SIG$first"
        [[ $pair == 'TERM TERM' ]] || wait_for refuses
        alive "$pid"
        kill -"$second" "$pid"
        ended "$pid"
        ((status == 1))
        [[ $pair != 'TERM TERM' ]] || wait_gone "$(<"$BATS_TEST_TMPDIR/successor")"
        disconnect "$half"
        mend_successor
    done
}

# ---- during a restart ----

@test "SIGTERM with a restart pending ends the successor, and finishes a request in flight" {
    # A successor that ends on SIGTERM, and one that only SIGKILL ends.
    for on_term in - "''"; do
        : >"$log"
        start_server
        begin_request
        rm -f "$BATS_TEST_TMPDIR/successor"
        successor_script "trap $on_term TERM; echo \$\$ >successor; while :; do sleep 0.1; done"
        kill -USR1 "$pid"
        wait_for test -s "$BATS_TEST_TMPDIR/successor"
        successor=$(<"$BATS_TEST_TMPDIR/successor")
        kill -TERM "$pid"
        wait_log "\[$pid]: .*SIGTERM"
        wait_gone "$successor"
        end_last_request "$half"
        ended "$pid"
        ((status == 0))
        [[ $on_term != - ]] || logged "\[$pid]: successor $successor was ended by signal 15"
        [[ $on_term == - ]] || logged "\[$pid]: successor $successor was ended by signal 9"
        mend_successor
    done
}

@test "SIGTERM while the execution of the successor takes its time ends both" {
    need_strace
    start_server
    begin_request
    hold_execution
    kill -TERM "$old"
    wait_log "\[$old]: SIGTERM received"
    # The answer comes before the execution is done.
    end_last_request "$half"
    mended
    ended "$old"
    ((status == 0))
    wait_gone "$successor"
}

@test "SIGTERM to a successor that has not claimed the listener ends it at once, with status 0" {
    need_strace
    start_server -p pid_file
    connect
    ask "$conn"
    hold_at epoll_wait
    kill -TERM "$successor"
    kill -CONT "$successor"
    wait_log "\[$pid]: restart failed: successor $successor exited with status 0"
    names "$pid"
    ask "$conn"
    restart_server
    ask "$conn"
}

@test "SIGINT to the whole group counts once for a successor that starts" {
    need_strace
    # A second is all that the old process gives it: a machine that is busy may need more.
    for ((tries = 0; tries < 10; tries++)); do
        : >"$log"
        set -m
        start_server
        set +m
        hold_at epoll_wait
        kill -INT "-$pid"
        kill -CONT "$successor"
        ended "$pid"
        ((status == 0))
        wait_gone "$successor"
        (($(count_log 'ending at once') == 0))
        ! logged "\[$pid]: successor $successor exited with status 0" || break
    done
    logged "\[$pid]: successor $successor exited with status 0"
    logged "\[$successor]: SIG(INT|TERM) received"
}

@test "SIGTERM to a process whose predecessor still hands over: all is answered, then both end" {
    start_server -p pid_file
    begin_request
    restart_server
    # SIGUSR1 is logged and ignored by a process that drains.
    kill -USR1 "$old"
    wait_log "\[$old]: .*SIGUSR1.*(draining|ignored)"
    kill -TERM "$pid"
    wait_log "\[$pid]: .*SIGTERM"
    send "$half" "$REST"
    receive "$half"
    [[ $code == 200 && $body == 'Hello, World!' ]]
    ended "$old"
    ((status == 0))
    closed "$half"
    disconnect "$half"
    wait_gone "$pid"
    (($(count_log 'successor started') == 1))
}

# ---- SIGUSR1 ----

@test "SIGUSR1 is logged and ignored while a restart is pending" {
    start_server
    start_slowly
    before=$(count_log "\[$pid]:")
    kill -USR1 "$pid"
    wait_log "\[$pid]: .*SIGUSR1.*(pending|ignored)"
    (($(count_log "\[$pid]:") > before))
    (($(children "$pid" | wc -l) == 1))
    serves
    go_on
    wait_for succeeded "$pid"
    (($(count_log "\[$pid]: successor started") == 1))
    ended "$pid"
    ((status == 0))
    serves
    mend_successor
    restart_server
    serves
}

# generations_are N: whether N processes have served.
generations_are() {
    (($(count_log 'listening on') == $1))
}

@test "SIGUSR1 to a successor that has not claimed the listener is done once it has" {
    need_strace
    # It is being executed; it is set up; it is set up, and its predecessor is killed.
    for moment in execution setup orphan; do
        : >"$log"
        start_server -p pid_file
        connect_many 5
        ask_many "${conns[@]}"
        first=$pid
        if [[ $moment == execution ]]; then
            successor_script 'kill -USR1 $$; become "$@"'
            kill -USR1 "$first"
        else
            hold_at epoll_wait
            kill -USR1 "$successor"
            serves
            names "$first"
            if [[ $moment == orphan ]]; then
                kill -KILL "$first"
                wait_gone "$first"
                connect_many 5
            fi
            kill -CONT "$successor"
        fi
        wait_for generations_are 3
        wait_for only_one_left
        pid=$(serving_pid)
        wait_for names "$pid"
        (($(count_log 'listening on') == 3 && $(count_log 'restart failed') == 0))
        ask_many "${conns[@]}"
        kill -TERM "$pid"
        wait_gone "$pid"
        mend_successor
    done
}

@test "SIGUSR1 twice to the whole process group, a millisecond apart, kills no successor" {
    start_command setsid "./$NAME" -l 127.0.0.1:0 "${PATIENT[@]}"
    wait_listening
    group=$pid
    connect
    ask "$conn"
    for ((i = 0; i < 30; i++)); do
        pid=$(serving_pid)
        # From 0.3 to 1.5 ms.
        next=$((${EPOCHREALTIME/[.,]/} + 300 + i % 5 * 300))
        kill -USR1 -- "-$group"
        while ((${EPOCHREALTIME/[.,]/} < next)); do :; done
        kill -USR1 -- "-$group"
        wait_for succeeded "$pid"
        wait_for only_one_left
    done
    (($(count_log 'restart failed') == 0))
    # The second signal was done, or came while a restart was pending.
    (($(count_log 'SIGUSR1 received: restarting') >= 30))
    ask "$conn"
}
