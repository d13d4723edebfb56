#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# A restart closes no connection: each goes on, from process to process.
# shellcheck disable=SC2016 # scripts in quotes are run by the successor
# shellcheck disable=SC2030,SC2031,SC2034,SC2153,SC2154 # a test is a subshell; helpers set and use the rest

load tools/helper
load tools/crowd

# Starts a restart, and stops the old process when the successor has claimed the listener and has
# said so: the old process has not read that. Sets old and pid.
hold_restart() {
    old=$(serving_pid)
    successor_script 'kill -STOP $PPID; become "$@"'
    kill -USR1 "$old"
    wait_for succeeded "$old"
    pid=$(serving_pid)
    mend_successor
    serves
}

# The same, and then stops the successor, while the old process hands over to it.
hold_hand_over() {
    hold_restart
    stop "$pid"
    kill -CONT "$old"
    wait_log "\[$old]: handed over"
}

# start_traced CALLS [INJECTION]: starts a restart whose successor strace watches from its execution
# on: CALLS are in the file trace. Sets successor and tracer.
start_traced() {
    rm -f "$BATS_TEST_TMPDIR/successor"
    successor_script 'echo $$ >successor; kill -STOP $$; become "$@"'
    kill -USR1 "$pid"
    wait_for test -s "$BATS_TEST_TMPDIR/successor"
    successor=$(<"$BATS_TEST_TMPDIR/successor")
    wait_for stopped "$successor"
    mend_successor
    in_background strace -qq -o "$BATS_TEST_TMPDIR/trace" -e "trace=$1" ${2:+-e "inject=$2"} -p "$successor"
    tracer=$job
    wait_for traced "$successor"
    kill -CONT "$successor"
}

# hold_at CALL: starts a restart whose successor is stopped after its first CALL. At epoll_wait it
# has set itself up and has claimed nothing; at rename it has written the pid file, and has not said
# that it has claimed the listener.
hold_at() {
    start_traced "$1" "$1:signal=SIGSTOP:when=1"
    wait_for says "$BATS_TEST_TMPDIR/trace" '^--- SIGSTOP '
    mended
    wait_for stopped "$successor"
}

# ask_many FD...: asks over all of them at once: the right answers have to come, and leave them open.
ask_many() {
    local fd text length
    # Each answer is as long as the first.
    send "$1" "$WHOLE"
    answered "$1"
    length=$((${#header} + $(wc -l <<<"$header") + 1 + ${#body}))
    {
        for fd; do
            # shellcheck disable=SC2059 # escapes, and nothing else
            printf "$WHOLE" >&"$fd"
        done
        # Without a timeout of its own: read -t cannot do with a descriptor above 1023.
        for fd; do
            IFS= read -r -u "$fd" -N "$length" text || exit
            [[ $text == 'HTTP/1.1 200 '*'Hello, World!' && ${text,,} != *'connection:'* ]] || exit
        done
    } &
    ended $!
    ((status == 0))
}

# Opens N connections, and asks over each of them as often as the file "ask" is made.
idle_and_ask() {
    connect_many "$1"
    touch "$BATS_TEST_TMPDIR/done"
    while :; do
        wait_for test -e "$BATS_TEST_TMPDIR/ask" || exit
        rm "$BATS_TEST_TMPDIR/ask"
        ask_many "${conns[@]}" || exit
        touch "$BATS_TEST_TMPDIR/done"
    done
}

# ---- what is handed over, and when ----

@test "an idle connection is handed over to the successor and answered there, over and over" {
    start_server
    connect
    ask "$conn"
    for ((i = 0; i < 4; i++)); do
        restart_server
        wait_for holds "$pid" "$conn"
        ask "$conn"
        wait_gone "$old"
        ask "$conn"
    done
}

@test "the old process ends at once when all of its connections are idle" {
    start_server
    connect_many 20
    # The others never sent a byte.
    ask_many "${conns[@]:0:10}"
    # Nothing else that it could wait for takes less than a second; once the machine lets it.
    for ((i = 0; i < 50; i++)); do
        begun=${EPOCHREALTIME/[.,]/}
        restart_server
        wait_gone "$old"
        took=$((${EPOCHREALTIME/[.,]/} - begun))
        ((took >= 900000)) || break
    done
    ((took < 900000))
    wait_log "\[$old]: ended: 20 connections handed over, 0 finished here"
    ask_many "${conns[@]}"
}

@test "a connection with a request in flight is answered first, and handed over then" {
    start_server
    connect
    # Half a request alone, and half a request behind whole ones.
    single=$conn
    send "$single" "$HALF"
    wait_for taken "$single"
    connect
    send "$conn" "$WHOLE$WHOLE$HALF"
    answered "$conn"
    answered "$conn"
    restart_server
    holds "$old" "$single"
    holds "$old" "$conn"
    send "$single" "$REST"
    answered "$single"
    wait_for holds "$pid" "$single"
    send "$conn" "$REST$HALF"
    answered "$conn"
    wait_for taken "$conn"
    holds "$old" "$conn"
    send "$conn" "$REST"
    answered "$conn"
    ended "$old"
    ((status == 0))
    ask "$single"
    ask "$conn"
}

@test "a connection with a partly sent response is handed over when that is sent" {
    start_server
    connect
    # Far more than the kernel keeps for us: the server has to wait, and so has this.
    flood() {
        printf "$WHOLE%.0s" {1..40000} >&"$conn"
    }
    in_background flood
    wait_for stuck "$conn"
    handed_over_when_sent 40000
}

@test "a connection with a partly sent response, behind which no more is asked, is handed over when that is sent" {
    start_server
    connect
    printf "$WHOLE%.0s" {1..1500} >"$BATS_TEST_TMPDIR/requests"
    # Whole requests only, until the server can send no more, and so reads no more.
    sent=0
    taken_or_stuck() {
        taken "$conn" || stuck "$conn"
    }
    until dd if="$BATS_TEST_TMPDIR/requests" bs=1M status=none 1>&"$conn" &&
        ((++sent)) && wait_for taken_or_stuck && ! taken "$conn"; do
        :
    done
    handed_over_when_sent $((1500 * sent))
}

# The N answers that the test's connection has yet to read come from the old process, or its
# successor, in full; and then the connection is handed over.
handed_over_when_sent() {
    restart_server
    alive "$old"
    holds "$old" "$conn"
    in_background cat <&"$conn" >"$BATS_TEST_TMPDIR/answers"
    wait_for all_answers "$1"
    kill "$job"
    wait "$job" || true
    ended "$old"
    ((status == 0))
    ask "$conn"
}

# Whether the server's end of the test's connection FD has bytes to send and to read, and does
# neither.
stuck() {
    local before inode unread unsent
    server_end "$1" && ((unread > 0 && unsent > 0)) || return 1
    before="$inode $unread $unsent"
    pause 500
    server_end "$1" && [[ "$inode $unread $unsent" == "$before" ]]
}

# Each body is in one line with what follows it.
all_answers() {
    (($(grep -c 'HTTP/1.1 200 ' "$BATS_TEST_TMPDIR/answers") == $1 &&
        $(grep -c 'Hello, World!' "$BATS_TEST_TMPDIR/answers") == $1))
}

@test "5000 idle connections are handed over, and each is answered after" {
    (($(ulimit -H -n) > 10500)) || skip 'needs more descriptors'
    ulimit -S -n "$(ulimit -H -n)"
    start_server
    in_background idle_and_ask 5000
    wait_for has_connections "$pid" 5000
    wait_for test -e "$BATS_TEST_TMPDIR/done"
    for ((i = 0; i < 2; i++)); do
        rm "$BATS_TEST_TMPDIR/done"
        restart_server
        wait_gone "$old"
        logged "\[$old]: ended: 5000 connections handed over, 0 finished here"
        touch "$BATS_TEST_TMPDIR/ask"
        wait_for answered_all "$job"
    done
    has_connections "$pid" 5000
}

# Whether process CLIENTS has had all its answers; it ends where it has not.
answered_all() {
    alive "$1" || return 2
    [[ -e $BATS_TEST_TMPDIR/done ]]
}

has_connections() {
    (($(descriptors "$1") > $2))
}

has_few_connections() {
    (($(descriptors "$1") < $2))
}

@test "the old process watches its listener no more, and waits without spinning" {
    start_server
    connect
    send "$conn" "$HALF"
    wait_for taken "$conn"
    restart_server
    # Connections that no process accepts make the shared listener readable all the time.
    kill -STOP "$pid"
    slow=$conn
    connect_many 5
    does_not_spin "$old"
    for conn in "${conns[@]}"; do
        ! holds "$old" "$conn" || return 1
    done
    kill -CONT "$pid"
    ask_many "${conns[@]}"
    send "$slow" "$REST"
    answered "$slow"
}

@test "the old process is not woken by what happens on connections that it has handed over" {
    start_server
    connect_many 10
    ask_many "${conns[@]}"
    connect
    send "$conn" "$HALF"
    wait_for taken "$conn"
    restart_server
    for fd in "${conns[@]}"; do
        wait_for holds "$pid" "$fd"
    done
    before=$(times_woken "$old")
    for ((i = 0; i < 10; i++)); do
        ask_many "${conns[@]}"
    done
    (($(times_woken "$old") - before < 5))
    send "$conn" "$REST"
    answered "$conn"
}

# ---- what the successor does not take ----

# Sets served to those of the test's connections that are answered while the successor is stopped,
# and waiting to those that are not: they are in the channel, which holds a handful. Each has sent
# a request afterwards.
sort_connections() {
    local fd
    served=() waiting=()
    for fd in "${conns[@]}"; do
        if holds "$old" "$fd"; then
            ask "$fd"
            served+=("$fd")
        else
            send "$fd" "$WHOLE"
            waiting+=("$fd")
        fi
    done
    echo "${#served[@]} are served, ${#waiting[@]} wait"
    ((${#waiting[@]} > 0 && ${#waiting[@]} <= 25 && ${#served[@]} > 0))
}

# Waits until the old process has filled the channel to its successor, which is stopped.
channel_is_full() {
    local before
    before=$(descriptors "$old")
    pause 100
    (($(descriptors "$old") == before))
}

@test "the old process serves what a stopped successor does not take, and does not spin" {
    start_server
    connect_many 40
    ask_many "${conns[@]}"
    connect
    half=$conn
    send "$half" "$HALF"
    wait_for taken "$half"
    hold_hand_over
    wait_for channel_is_full
    before=$(descriptors "$old")
    does_not_spin "$old"
    sort_connections
    send "$half" "$REST$HALF"
    answered "$half"
    (($(descriptors "$old") == before))
    kill -CONT "$pid"
    for conn in "${waiting[@]}"; do
        answered "$conn"
    done
    for conn in "${served[@]}"; do
        wait_for holds "$pid" "$conn"
    done
    send "$half" "$REST"
    answered "$half"
    ended "$old"
    ((status == 0))
    wait_log "\[$old]: ended: 41 connections handed over, 0 finished here"
    ask_many "${conns[@]}" "$half"
}

@test "the drain timeout closes what a stopped successor has not taken, and says how many" {
    start_server --drain-timeout 2
    connect_many 40
    ask_many "${conns[@]}"
    connect
    half=$conn
    send "$half" "$HALF"
    wait_for taken "$half"
    hold_hand_over
    ended "$old"
    ((status == 0))
    waiting=()
    for conn in "${conns[@]}"; do
        if server_end "$conn" && ((inode > 0)); then
            waiting+=("$conn")
        else
            closed "$conn"
        fi
    done
    ! receive "$half" || return 1
    ((${#waiting[@]} > 0 && ${#waiting[@]} < 25))
    logged "\[$old]: drain timeout: $((41 - ${#waiting[@]})) connections cut"
    (($(count_log 'has not reported') == 0))
    kill -CONT "$pid"
    ask_many "${waiting[@]}"
}

@test "the old process serves what a successor has no descriptors for, and no client notices" {
    start_server
    connect_many 100
    ask_many "${conns[@]}"
    successor_script 'ulimit -n 60; become "$@"'
    restart_server
    mend_successor
    wait_for has_connections "$pid" 50
    for ((i = 0; i < 3; i++)); do
        ask_many "${conns[@]}"
    done
    does_not_spin "$pid"
    does_not_spin "$old"
    kept=()
    for conn in "${conns[@]}"; do
        ! holds "$old" "$conn" || kept+=("$conn")
    done
    echo "the old process keeps ${#kept[@]}"
    ((${#kept[@]} >= 40 && ${#kept[@]} < 60))
    serves
    ask_many "${kept[@]}"
    for conn in "${kept[@]}"; do
        disconnect "$conn"
    done
    ended "$old"
    ((status == 0))
    serves
}

@test "what clients sent before the old process knew of its successor is answered" {
    start_server
    connect_many 10
    ask_many "${conns[@]}"
    hold_restart
    for conn in "${conns[@]}"; do
        send "$conn" "$WHOLE"
    done
    kill -CONT "$old"
    for conn in "${conns[@]}"; do
        answered "$conn"
    done
    wait_gone "$old"
    ask_many "${conns[@]}"
}

@test "clients that close while the successor receives nothing harm nothing, and the old process ends" {
    start_server
    connect_many 40
    ask_many "${conns[@]}"
    hold_hand_over
    wait_for channel_is_full
    for conn in "${conns[@]}"; do
        disconnect "$conn"
    done
    ended "$old"
    ((status == 0))
    connect
    send "$conn" "$WHOLE"
    kill -CONT "$pid"
    answered "$conn"
}

# ---- restarts that follow each other ----

@test "restarts that follow at once lose nothing" {
    start_server
    connect_many 20
    ask_many "${conns[@]}"
    send "${conns[0]}" "$HALF"
    wait_for taken "${conns[0]}"
    first=$pid
    for ((i = 0; i < 20 || $(count_log 'handed over to') < 5; i++)); do
        ((i < 1000))
        kill -USR1 "$(serving_pid)"
        pause 50
    done
    alive "$first"
    send "${conns[0]}" "$REST"
    answered "${conns[0]}"
    ended "$first"
    ((status == 0))
    ask_many "${conns[@]}"
    wait_for only_one_left
    # Each signal that was heeded led to a process of its own.
    (($(count_log 'listening on') == 1 + $(count_log 'handed over to')))
    (($(count_log 'restart failed') == 0))
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

@test "a client that is never idle is told in time that its connection ends, and loses no request" {
    start_server --drain-timeout 12
    connect
    send "$conn" "$HALF"
    restart_server
    for ((i = 0; i < 100; i++)); do
        pause 100
        send "$conn" "$REST$HALF"
        receive "$conn"
        [[ $code == 200 ]]
        ! announces_close || break
    done
    announces_close
    disconnect "$conn"
    wait_gone "$old"
    ! logged 'drain timeout' || return 1
}

# generations_are N: whether N processes have served.
generations_are() {
    (($(count_log 'listening on') == $1))
}

@test "SIGUSR1 to a successor that is being executed is done once it has claimed the listener" {
    start_server -p pid_file
    connect
    ask "$conn"
    first=$pid
    successor_script 'kill -USR1 $$; become "$@"'
    kill -USR1 "$first"
    wait_for generations_are 3
    wait_for only_one_left
    wait_for names "$(serving_pid)"
    (($(count_log 'listening on') == 3 && $(count_log 'restart failed') == 0))
    ask "$conn"
}

@test "SIGUSR1 to a successor that is set up is done once it has claimed the listener" {
    need_strace
    start_server -p pid_file
    connect_many 5
    ask_many "${conns[@]}"
    first=$pid
    hold_at epoll_wait
    kill -USR1 "$successor"
    serves
    names "$first"
    kill -CONT "$successor"
    wait_for generations_are 3
    wait_for only_one_left
    wait_for names "$(serving_pid)"
    (($(count_log 'listening on') == 3 && $(count_log 'restart failed') == 0))
    ask_many "${conns[@]}"
}

@test "SIGUSR1 to a successor that is set up is done when its predecessor is killed, too" {
    need_strace
    start_server
    hold_at epoll_wait
    kill -USR1 "$successor"
    kill -KILL "$pid"
    wait_gone "$pid"
    connect
    kill -CONT "$successor"
    wait_for succeeded "$successor"
    pid=$(serving_pid)
    ask "$conn"
    wait_for only_one_left
    restart_server
    ask "$conn"
}

@test "a slow request spans five generations, and its connection goes through all of them" {
    start_server
    first=$pid
    connect
    slow=$conn
    send "$slow" 'GET'
    connect
    quick=$conn
    for piece in ' /' ' HT' 'TP/1.1\r' '\nHost: '; do
        send "$slow" "$piece"
        wait_for taken "$slow"
        restart_server
        wait_for holds "$pid" "$quick"
        ask "$quick"
        holds "$first" "$slow"
    done
    # Those between wait for the first: what it has yet to hand over goes through them.
    (($(programs | wc -l) == 5))
    send "$slow" 'x\r\n\r\n'
    answered "$slow"
    wait_for holds "$pid" "$slow"
    ended "$first"
    ((status == 0))
    ask "$slow"
    wait_for only_one_left
    ask "$slow"
    ask "$quick"
}

@test "SIGTERM to a process whose predecessor still hands over to it: all is answered, then both end" {
    start_server -p pid_file
    connect
    send "$conn" "$HALF"
    wait_for taken "$conn"
    restart_server
    kill -TERM "$pid"
    wait_log "\[$pid]: .*SIGTERM"
    send "$conn" "$REST"
    receive "$conn"
    [[ $code == 200 && $body == 'Hello, World!' ]]
    ended "$old"
    ((status == 0))
    closed "$conn"
    disconnect "$conn"
    wait_gone "$pid"
}

# ---- a successor that has not claimed the listener ----

@test "a successor that hangs before its first turn is killed at the ready timeout, and no client notices" {
    need_strace
    start_server --ready-timeout 6 -p pid_file
    connect_many 10
    ask_many "${conns[@]}"
    before=$(descriptors "$pid")
    hold_at epoll_wait
    asked=0
    end=$((SECONDS + patience))
    until logged "\[$pid]: restart failed: successor $successor was not ready within 6 s and was killed"; do
        serves
        ask_many "${conns[@]}"
        ((++asked, SECONDS < end))
    done
    ((asked > 0))
    ask_many "${conns[@]}"
    childless "$pid"
    names "$pid"
    wait_for has_descriptors "$pid" "$before"
    restart_in_the_end
    ask_many "${conns[@]}"
}

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

@test "a successor accepts nothing before it has claimed the listener" {
    need_strace
    start_server
    connect_many 3
    ask_many "${conns[@]}"
    start_traced accept4,sendmsg,recvmsg
    wait_for succeeded "$pid"
    ask_many "${conns[@]}"
    # Its report is the first of these calls.
    calls=$(grep -v '^---' "$BATS_TEST_TMPDIR/trace")
    [[ $calls == sendmsg*'"R2"'*recvmsg* && ${calls%%$'\n'*} == *'"R2"'* ]]
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

@test "an old process that was stopped for long does not take its successor for late" {
    start_server --ready-timeout 5
    connect
    ask "$conn"
    hold_restart
    pause 5500
    kill -CONT "$old"
    ask "$conn"
    wait_log "\[$old]: (handed over|restart failed)"
    wait_for only_one_left
    programs_are "$pid"
    ask "$conn"
}

@test "a successor that reports while the old process gives it up serves, and no client is lost" {
    need_strace
    start_server --ready-timeout 2 -p pid_file
    connect
    idle=$conn
    ask "$idle"
    # From the ready timeout on the old process takes 5 s to close the channel for reports.
    in_trouble shutdown delay_enter=5000000:when=1
    successor_script 'sleep 4; become "$@"'
    old=$pid
    kill -USR1 "$old"
    wait_for succeeded "$old"
    pid=$(serving_pid)
    # The old process cannot have accepted it.
    connect
    ask "$conn"
    ended "$old"
    ((status == 0))
    (($(count_log 'restart failed') == 0))
    ask "$idle"
    ask "$conn"
    names "$pid"
}

@test "a successor that sends garbage without end is not ready, and keeps no client waiting" {
    start_server --ready-timeout 3
    connect
    ask "$conn"
    before=$(descriptors "$pid")
    successor_script 'c=${RESTART_CHANNEL#*:}
        while for m in X C C1 r2 2R XXXXXXXXXXXXXXXX; do printf "$m" >&"$c" || exit; done; do :; done'
    kill -USR1 "$pid"
    wait_log 'successor started'
    ask "$conn"
    serves
    wait_log 'restart failed: .*not ready'
    ask "$conn"
    wait_for has_descriptors "$pid" "$before"
    mend_successor
    restart_in_the_end
    ask "$conn"
}

@test "a successor that closes the channel before it is ready is not ready, and nothing spins" {
    start_server --ready-timeout 3
    connect
    ask "$conn"
    before=$(descriptors "$pid")
    successor_script 'c=${RESTART_CHANNEL#*:}; eval "exec $c>&-"; : >closed; exec sleep 600'
    kill -USR1 "$pid"
    wait_for test -e "$BATS_TEST_TMPDIR/closed"
    does_not_spin "$pid"
    ask "$conn"
    wait_log 'restart failed: .*not ready'
    wait_for has_descriptors "$pid" "$before"
    mend_successor
    restart_in_the_end
    ask "$conn"
}

# ---- whose channel it is ----

@test "a successor that knows no channel (--ready-timeout 0): each is asked to close, none is cut" {
    start_server --ready-timeout 0
    connect
    idle=$conn
    connect
    ask "$conn"
    begun=${EPOCHREALTIME/[.,]/}
    kill -USR1 "$pid"
    wait_for succeeded "$pid"
    wait_log "\[$pid]: draining"
    closes_gracefully "$begun"
    closed "$idle"
    disconnect "$idle"
    ended "$pid"
    ((status == 0))
    serves
}

@test "RESTART_CHANNEL that is not this process's is ignored, and not handed on" {
    for value in '' : 1 :9 1:9 "$BASHPID:" "$BASHPID:-1" "$BASHPID:8" "$BASHPID:9" \
        "$BASHPID:99999999999999999999" "x$BASHPID:9" "$(printf '9%.0s' {1..3000}):9"; do
        # 9 is open, and no socket; 8 is not open.
        start_command env RESTART_CHANNEL="$value" "./$NAME" -l 127.0.0.1:0 9</dev/null
        wait_listening
        serves
        tr '\0' '\n' <"/proc/$pid/environ" | grep -qxF "RESTART_CHANNEL=$value"
        restart_server
        [[ $(tr '\0' '\n' <"/proc/$pid/environ" | grep '^RESTART_CHANNEL=') =~ =$old:[0-9]+$ ]]
        serves
        kill "$pid"
    done
    # A socket of another kind.
    start_server
    connect
    start_command env RESTART_CHANNEL="$BASHPID:9" "./$NAME" -l 127.0.0.1:0 9<&"$conn"
    wait_listening
    serves
    restart_server
    serves
}

@test "a channel that a program in between inherited and passed on is ignored" {
    start_server
    # The successor is not the old process's child, but its grandchild.
    successor_script 'become "$@" & wait'
    kill -USR1 "$pid"
    wait_for succeeded "$pid"
    grandchild=$(serving_pid)
    serves
    # It never reports, so all that is to be expected is that nothing is lost.
    kill -TERM "$grandchild"
    wait_gone "$grandchild"
    wait_log "\[$pid]: restart failed"
    serves
    mend_successor
    pid=$(sed -nE '1s/.*\[([0-9]+)].*/\1/p' "$log")
    kill -USR1 "$pid"
    wait_log "\[$pid]: handed over"
    serves
}

# ---- kills at every stage ----

@test "the old process killed before its successor is ready: what waits to be accepted is served" {
    start_server
    connect_many 2
    ask_many "${conns[@]}"
    successor_script 'kill -STOP $PPID; echo $$ >successor; kill -STOP $$; become "$@"'
    kill -USR1 "$pid"
    wait_for test -s "$BATS_TEST_TMPDIR/successor"
    # Neither process runs now: all of these wait in the queue.
    connect_many 5
    kill -KILL "$pid"
    wait_gone "$pid"
    kill -CONT "$(<"$BATS_TEST_TMPDIR/successor")"
    ask_many "${conns[@]}"
    restart_server
    ask_many "${conns[@]}"
}

@test "the successor killed before the old process knows of it: the old one's clients do not notice" {
    start_server
    connect_many 5
    ask_many "${conns[@]}"
    before=$(descriptors "$pid")
    hold_restart
    kill -KILL "$pid"
    wait_for ended_child "$old"
    kill -CONT "$old"
    wait_log "\[$old]: restart failed: .*signal 9"
    ask_many "${conns[@]}"
    childless "$old"
    wait_for has_descriptors "$old" "$before"
    kill -USR1 "$old"
    ended "$old"
    ((status == 0))
    ask_many "${conns[@]}"
}

ended_child() {
    [[ $(ps -o stat= --ppid "$1") == Z* ]]
}

@test "the old process killed before it knows of its successor: the successor's clients do not notice" {
    start_server -p pid_file
    connect
    lost=$conn
    ask "$lost"
    hold_restart
    connect_many 5
    ask_many "${conns[@]}"
    kill -KILL "$old"
    wait_gone "$old"
    # What only the dead one held is lost, and nothing else.
    closed "$lost"
    ask_many "${conns[@]}"
    wait_for names "$pid"
    restart_server
    ask_many "${conns[@]}"
}

@test "the successor killed in the middle of the hand-over: the old process finishes what it holds" {
    start_server
    connect_many 40
    ask_many "${conns[@]}"
    connect
    half=$conn
    send "$half" "$HALF"
    wait_for taken "$half"
    hold_hand_over
    wait_for channel_is_full
    sort_connections
    kill -KILL "$pid"
    wait_gone "$pid"
    # As at a shutdown: an answer says so, and an idle connection is closed a second later.
    send "$half" "$REST"
    receive "$half"
    [[ $code == 200 && $body == 'Hello, World!' ]]
    announces_close
    for conn in "${served[@]}"; do
        closed "$conn"
        disconnect "$conn"
    done
    disconnect "$half"
    ended "$old"
    ((status == 0))
    logged "\[$old]: successor $pid was ended by signal 9"
}

@test "the old process killed in the middle of the hand-over: what was handed over is answered" {
    start_server
    connect_many 50
    ask_many "${conns[@]}"
    connect
    send "$conn" "$HALF"
    wait_for taken "$conn"
    half=$conn
    hold_hand_over
    wait_for channel_is_full
    sort_connections
    kill -KILL "$old"
    wait_gone "$old"
    kill -CONT "$pid"
    serves
    for conn in "${waiting[@]}"; do
        answered "$conn"
        ask "$conn"
    done
    # What the dead one held is lost with it.
    for conn in "${served[@]}" "$half"; do
        ! receive "$conn" || return 1
    done
    restart_server
    serves
}

# ---- under load ----

@test "100 restarts under mixed load: every request is answered, and nothing piles up" {
    need hammer
    start_server
    descriptors_before=$(descriptors "$pid")
    memory_before=$(resident "$pid")
    in_background "$BUILD_DIR/hammer" -d 600 --deadline 60 --pause 5 "127.0.0.1:$port" >"$BATS_TEST_TMPDIR/hammer"
    wait_for has_connections "$pid" 100
    for ((i = 0; i < 100; i++)); do
        restart_server
    done
    kill -INT "$job"
    wait "$job"
    cat "$BATS_TEST_TMPDIR/hammer"
    (($(grep -c answered= "$BATS_TEST_TMPDIR/hammer") == 7))
    [[ $(grep -Evc 'answered=[1-9][0-9]* failed=0 refused=0 closed=0 announced=0 wrong=0' \
        "$BATS_TEST_TMPDIR/hammer") == 0 ]]
    wait_for only_one_left
    (($(count_log 'restart failed') == 0))
    wait_for has_few_connections "$pid" $((descriptors_before + 1))
    # Within what the allocator and a load of a hundred clients leave behind.
    (($(resident "$pid") < memory_before + 1024))
    childless "$pid"
}
