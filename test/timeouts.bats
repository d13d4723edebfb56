#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# Deadlines, descriptors, memory and files at the limit: no client is blamed for what this process, or
# its surroundings, were too slow or too small for.
# shellcheck disable=SC2016 # scripts in quotes are run by other shells
# shellcheck disable=SC2030,SC2031,SC2153,SC2154 # a test is a subshell; helper.bash sets the rest

load tools/helper
load tools/crowd

# sleep_until_past MS: waits until the clock shows more: a deadline has to pass.
sleep_until_past() {
    wait_for is_past "$1"
}

# ---- a process that was stopped, or is busy, at a deadline ----

@test "a request that became whole before the drain deadline is answered by a process stopped since" {
    start_server --drain-timeout 6
    crowd slow 20 "$port"
    tell slow half
    connect
    send "$conn" "$HALF"
    wait_for taken "$conn"
    restart_server
    stop "$old"
    deadline_over=$(($(clock) + 6500))
    send "$conn" "$REST"
    tell slow rest
    sleep_until_past "$deadline_over"
    kill -CONT "$old"
    receive "$conn"
    [[ $code == 200 && $body == 'Hello, World!' ]]
    answers slow
    (($(how_many +) + $(how_many c) == 20))
    ended "$old"
    ((status == 0))
}

@test "a request that became whole before the drain deadline of a shutdown is answered, too" {
    start_server --drain-timeout 6
    crowd slow 20 "$port"
    tell slow half
    connect
    send "$conn" "$HALF"
    wait_for taken "$conn"
    kill -TERM "$pid"
    wait_log 'SIGTERM received'
    stop "$pid"
    deadline_over=$(($(clock) + 6500))
    send "$conn" "$REST"
    tell slow rest
    sleep_until_past "$deadline_over"
    kill -CONT "$pid"
    receive "$conn"
    [[ $code == 200 && $body == 'Hello, World!' ]]
    announces_close
    answers slow
    [[ $reply =~ ^c+$ ]]
    ended "$pid"
    ((status == 0))
}

@test "a client that took its answers in time is served by a process stopped since" {
    start_server --request-timeout 6
    # Its answers do not fit into any buffer; the server waits for it to take them.
    crowd greedy -b 16384 1 "$port"
    tell greedy pour 50000
    wait_for waits_to_send
    stop "$pid"
    deadline_over=$(($(clock) + 6500))
    tell greedy read
    sleep_until_past "$deadline_over"
    kill -CONT "$pid"
    answers greedy 50000
    [[ $reply == + ]]
}

# Whether a connection of the server's has answers to be sent, and requests to be read.
waits_to_send() {
    ss -Htn "sport = :$port" | awk '$1 == "ESTAB" && $2 > 0 && $3 > 0 { n++ } END { exit !n }'
}

@test "a request that becomes whole around the drain deadline is never answered, and cut then" {
    need_strace
    start_server --drain-timeout 1
    crowd slow 300 "$port"
    tell slow half
    serves
    # The events of a loop are looked at late: some before the deadline, some after, some both.
    in_trouble epoll_wait,epoll_pwait,epoll_pwait2 delay_exit=40000
    order slow rest 0 6000
    restart_server
    obeyed slow
    answers slow
    first=$reply
    tell slow ask
    answers slow
    for ((i = 0; i < ${#first}; i++)); do
        [[ ${first:i:1} != + || ${reply:i:1} == + ]] || return 1
    done
    # There were some of either kind.
    [[ $first == *+* && $first == *[-xc]* ]]
}

# ---- descriptors ----

# start_limited LIMIT [OPTIONS...]: a server that may open LIMIT descriptors.
start_limited() {
    start_command bash -c 'ulimit -n "$0" && exec "$@"' "$1" "./$NAME" -l 127.0.0.1:0 "${@:2}"
    wait_listening
}

@test "the oldest idle connection is not evicted when its next request has arrived" {
    start_limited 64
    none=$(descriptors "$pid")
    # More than there are places for: the youngest stay.
    conns=()
    for ((i = 0; i < 70; i++)); do
        connect
        conns+=("$conn")
    done
    ask "$conn"
    first=$((70 - ($(descriptors "$pid") - none)))
    ((first > 0 && first < 60))
    holds "$pid" "${conns[first]}"
    stop "$pid"
    # The server hears of the newcomers before it hears of these.
    connect
    newcomer=$conn
    send "$newcomer" "$WHOLE"
    connect
    second_newcomer=$conn
    send "$second_newcomer" "$WHOLE"
    for ((i = first; i < first + 5; i++)); do
        send "${conns[i]}" "$WHOLE"
    done
    kill -CONT "$pid"
    for ((i = first; i < first + 5; i++)); do
        answered "${conns[i]}"
    done
    answered "$newcomer"
    answered "$second_newcomer"
    closed "${conns[first + 5]}"
    closed "${conns[first + 6]}"
    ask "${conns[first + 7]}"
}

@test "a restart works while requests in flight use up all descriptors" {
    start_limited 64 --request-timeout 600 --pid-file pid_file
    # More than there are places for: the others wait to be accepted.
    crowd busy 70 "$port"
    tell busy half
    wait_for is_full 5
    successor_script 'exit 3'
    fail_restart
    mend_successor
    restart_server
    serves
    tell busy rest
    answers busy
    [[ $reply =~ ^[+c]+$ ]]
    leave busy
    wait_gone "$old"
}

# is_full COUNT: whether more connections than that wait to be accepted, and stay so.
is_full() {
    local before
    before=$(queue_length)
    sleep 0.2
    ((before > $1 && $(queue_length) == before))
}

@test "connections that wait to be accepted at SIGTERM are served as descriptors become free" {
    start_limited 64 --request-timeout 600
    # More than there are places for: the others wait to be accepted, and behind them five more.
    stop "$pid"
    crowd busy 100 "$port"
    tell busy half
    crowd waiting 5 "$port"
    tell waiting ask
    kill -CONT "$pid"
    wait_for is_full 40
    kill -TERM "$pid"
    wait_log 'SIGTERM received'
    wait_log 'draining'
    sleeps "$pid"
    tell busy rest
    answers busy
    [[ $reply =~ ^c+$ ]]
    answers waiting
    [[ $reply =~ ^c+$ ]]
    ended "$pid"
    ((status == 0))
}

queue_length() {
    ss -Htln "sport = :$port" | awk '{ print $2 }'
}

@test "connections that wait to be accepted at SIGTERM are served though accepting fails for a while" {
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

@test "a flood of new connections does not hold up the end" {
    need_strace
    need hammer
    start_server
    in_background "$BUILD_DIR/hammer" -k 0 -t 0 -p 0 -c 16 -s 0 -i 0 -d 300 "127.0.0.1:$port" \
        >/dev/null
    flood=$job
    # Slower than clients come again.
    in_trouble accept4,accept delay_enter=5000
    wait_for injected_often
    kill -TERM "$pid"
    ended "$pid"
    ((status == 0))
    alive "$flood"
}

injected_often() {
    (($(grep -c . "$BATS_TEST_TMPDIR/trace") > 100))
}

# ---- what clients send, and do not take ----

@test "a request behind urgent data is answered at once" {
    start_server
    crowd urgent 5 "$port"
    ask_crowd urgent
    stop "$pid"
    tell urgent urgent
    kill -CONT "$pid"
    answers urgent 2
    [[ $reply == +++++ ]]
}

@test "a client that pipelines and does not read costs at most 2 MiB of the kernel's memory" {
    start_server --request-timeout 600
    crowd greedy 10 "$port"
    tell greedy pour 1000000
    tell greedy pour 1000000
    kernel_memory
    ((most > 0 && most <= 2 * 1024 * 1024))
}

@test "a client that pipelines and does not read costs no more at an inherited listener" {
    crowd given -g C1 1 "$BATS_TEST_TMPDIR/$NAME" --request-timeout 600
    port=$crowd_port
    wait_log 'listening on'
    crowd greedy 10 "$port"
    tell greedy pour 1000000
    tell greedy pour 1000000
    kernel_memory
    ((most > 0 && most <= 2 * 1024 * 1024))
}

@test "a client that has sent much, and read all answers, may take no more of it" {
    start_server --request-timeout 600
    printf -v field 'X: %08000d\r\n' 0
    for _ in {1..50}; do
        printf '%b' "${WHOLE%'\r\n'}$field$field\r\n"
    done >"$BATS_TEST_TMPDIR/requests"
    connect
    flood() {
        while cat "$BATS_TEST_TMPDIR/requests" >&"$1"; do
            :
        done 2>/dev/null
    }
    in_background flood "$conn"
    # So many answers that the kernel has taken the client for one that deserves much.
    head -c 500000 <&"$conn" >/dev/null
    [[ $(ss -Htnm "sport = :$port") =~ rb([0-9]+),t[0-9]+,tb([0-9]+) ]]
    echo "may take ${BASH_REMATCH[1]} and ${BASH_REMATCH[2]} bytes"
    ((BASH_REMATCH[1] + BASH_REMATCH[2] <= 1024 * 1024))
}

# The most that the kernel keeps for one of the server's connections, in bytes. Sets most.
kernel_memory() {
    most=$(ss -Htnm "sport = :$port" | tr '\n' ' ' | grep -oE 'skmem:\([^)]*\)' | sed -E \
        's/.*\(r([0-9]+),rb[0-9]+,t[0-9]+,tb[0-9]+,f([0-9]+),w([0-9]+),.*/\1 \2 \3/' |
        awk '{ sum = $1 + $2 + $3; if (sum > most) most = sum } END { print most + 0 }')
    echo "at most $most bytes"
}

# ---- files, streams, the clock ----

@test "a pid file that cannot be written whole leaves no temporary file" {
    mkdir "$BATS_TEST_TMPDIR/run"
    status=0
    complaint=$(cd "$BATS_TEST_TMPDIR" && exec prlimit --fsize=0 timeout "$patience" "./$NAME" \
        -l 127.0.0.1:0 --pid-file run/pid 2>&1 </dev/null 3>&-) || status=$?
    echo "$complaint"
    ((status == 1))
    [[ $complaint == *': cannot write pid file run/pid: File too large' && $complaint != *$'\n'* ]]
    [[ -z $(ls -A "$BATS_TEST_TMPDIR/run") ]]
}

@test "a FIFO in place of the pid file does not hold up the end" {
    mkdir "$BATS_TEST_TMPDIR/run"
    start_server --pid-file run/pid
    rm "$BATS_TEST_TMPDIR/run/pid"
    mkfifo "$BATS_TEST_TMPDIR/run/pid"
    kill -TERM "$pid"
    ended "$pid"
    ((status == 0))
}

@test "requests at second 0 of the clock are answered with that date" {
    need second_zero.so
    start_command env "ASAN_OPTIONS=verify_asan_link_order=0:$ASAN_OPTIONS" \
        "LD_PRELOAD=$BUILD_DIR/second_zero.so" "./$NAME" -l 127.0.0.1:0
    wait_listening
    connect
    ask "$conn"
    [[ $header == *'Date: Thu, 01 Jan 1970 00:00:00 GMT'* ]]
    sleeps "$pid"
}
