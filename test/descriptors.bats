#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# More connections than descriptors: which ones are closed, which ones wait, and that restarts work.
# shellcheck disable=SC2016 # scripts in quotes are run by the successor
# shellcheck disable=SC2030,SC2031,SC2153,SC2154 # a test is a subshell; helper.bash sets the rest

bats_require_minimum_version 1.5.0
load tools/helper
load tools/crowd

# start_limited LIMIT [OPTIONS...]: starts a server that can have LIMIT descriptors.
start_limited() {
    start_command prlimit "--nofile=$1:$1" "./$NAME" -l 127.0.0.1:0 "${PATIENT[@]}" "${@:2}"
    wait_listening
}

@test "the server raises the soft limit on open files to the hard one" {
    start_command bash -c "ulimit -S -n 64 && exec ./$NAME -l 127.0.0.1:0"
    wait_listening
    for ((i = 0; i < 2; i++)); do
        read -r _ _ _ soft hard _ < <(grep '^Max open files' "/proc/$pid/limits")
        [[ $soft == "$hard" ]]
        restart_server
    done
}

# ---- which connection is evicted ----

@test "when descriptors run out, the connection that has been idle longest is evicted" {
    start_limited 64
    before=$(descriptors "$pid")
    # Requests in flight, whose connections are older than all others.
    halves=()
    for ((i = 0; i < 10; i++)); do
        begin_request
        halves+=("$half")
    done
    connect_many 100
    ask "${conns[99]}"
    closed "${conns[0]}"
    (($(descriptors "$pid") <= 64))
    # Asking makes a connection the one that has been idle for the shortest time.
    ask "${conns[80]}"
    # As many new connections as there are idle ones, but for a few.
    places=$(($(descriptors "$pid") - before - 10))
    ((places > 25))
    for ((i = 0; i < places - 5; i++)); do
        connect
        ask "$conn"
    done
    closed "${conns[79]}"
    ask "${conns[80]}"
    ask "${conns[99]}"
    for half in "${halves[@]}"; do
        end_request "$half"
    done
    alive "$pid"
}

@test "a new connection is not evicted while no other one needs its descriptor" {
    start_limited 40
    before=$(descriptors "$pid")
    connect_many 60
    ask "$conn"
    places=$(($(descriptors "$pid") - before))
    for conn in "${conns[@]}"; do
        disconnect "$conn"
    done
    wait_for has_descriptors "$pid" "$before"
    connect_many "$places"
    for conn in "${conns[@]}"; do
        send "$conn" "$HALF"
        wait_for taken "$conn"
    done
    connect
    sleep 0.2
    disconnect "${conns[0]}"
    ask "$conn"
}

@test "the oldest idle connection is not evicted when its next request has arrived" {
    start_limited 64
    none=$(descriptors "$pid")
    # More than there are places for: the youngest stay.
    connect_many 70
    ask "$conn"
    first=$((70 - ($(descriptors "$pid") - none)))
    ((first > 0 && first < 60))
    holds "$pid" "${conns[first]}"
    stop "$pid"
    # The server sees the newcomers before it sees the requests of the oldest ones.
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

@test "a client that was answered a moment ago is not evicted" {
    start_server
    # A machine that was too busy to ask again in time proves nothing.
    for ((tries = 0, took = 50; tries < 20 && took >= 50; tries++)); do
        crowd busy 20 "$port"
        ask_crowd busy
        prlimit "--pid=$pid" "--nofile=$(highest_descriptor):1000"
        # The server sees the requests first, then the newcomer, for which it has no descriptor.
        stop "$pid"
        tell busy ask
        connect
        kill -CONT "$pid"
        answers busy
        begun=$(clock)
        [[ $reply =~ ^\++$ ]]
        tell busy ask
        took=$(($(clock) - begun))
        prlimit "--pid=$pid" --nofile=1000:1000
        answers busy
        disconnect "$conn"
        leave busy
    done
    ((took < 50))
    [[ $reply =~ ^\++$ ]]
}

# The limit that leaves the server no descriptor but those it has.
highest_descriptor() {
    local fds=("/proc/$pid/fd"/*)
    printf '%s\n' "${fds[@]##*/}" | sort -n | awk 'END { print $1 + 1 }'
}

@test "when descriptors run out, new connections of either listener take the place of idle ones" {
    start_limited 64 -l 127.0.0.1:0
    ports=("$port" "$(sed -nE 's/.*listening on 127\.0\.0\.1:([0-9]+).*/\1/p' "$log" | tail -n 1)")
    [[ ${ports[0]} != "${ports[1]}" ]]
    connect_many 60
    ask "${conns[59]}"
    first=("${conns[@]}")
    port=${ports[1]}
    connect_many 10
    for conn in "${conns[@]}"; do
        ask "$conn"
    done
    closed "${first[0]}"
    port=${ports[0]}
    connect
    ask "$conn"
    does_not_spin "$pid"
    serves
}

@test "a descriptor beyond the table of connections is closed, and the server serves on" {
    need_strace
    start_server
    in_trouble accept4 retval=2000000000:when=1
    connect
    wait_for injected
    mended
    serves
    ask "$conn"
}

# ---- connections that wait ----

# is_full COUNT: whether more connections than that wait to be accepted, and stay so.
is_full() {
    local before
    before=$(queue_length)
    sleep 0.2
    ((before > $1 && $(queue_length) == before))
}

@test "when no connection is idle, new ones wait until others end, and the server does not spin" {
    start_limited 40
    # More requests in flight than there are places for: the others wait to be accepted. The server
    # sees the requests together with their connections, so that none is idle.
    stop "$pid"
    crowd busy 60 "$port"
    tell busy half
    kill -CONT "$pid"
    wait_for is_full 5
    connect
    send "$conn" "$WHOLE"
    does_not_spin "$pid"
    run ! taken "$conn"
    leave busy
    answered "$conn"
    serves
    # The request timeout ends them, too.
    start_limited 40 --request-timeout 2
    crowd slow 60 "$port"
    tell slow half
    connect
    ask "$conn"
    serves
    alive "$pid"
}

@test "connections that wait to be accepted at SIGTERM are served as descriptors become free" {
    start_limited 64
    # More than there are places for: the others wait to be accepted, and after them five more.
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

# ---- restarts ----

@test "a restart works while requests in flight use up all descriptors" {
    in_background "$BUILD_DIR/manager" "$BATS_TEST_TMPDIR/notify" >"$BATS_TEST_TMPDIR/notices"
    wait_for says "$BATS_TEST_TMPDIR/notices" ready
    NOTIFY_SOCKET=$BATS_TEST_TMPDIR/notify start_limited 64 --pid-file pid_file
    # More than there are places for: the others wait to be accepted.
    stop "$pid"
    crowd busy 70 "$port"
    tell busy half
    kill -CONT "$pid"
    wait_for is_full 5
    inode=$(stat -c %i "$BATS_TEST_TMPDIR/pid_file")
    successor_script 'exit 3'
    fail_restart
    [[ $(stat -c %i "$BATS_TEST_TMPDIR/pid_file") != "$inode" ]]
    wait_for says "$BATS_TEST_TMPDIR/notices" 'STATUS=restart failed'
    mend_successor
    restart_server
    wait_for says "$BATS_TEST_TMPDIR/notices" "MAINPID=$pid"
    serves
    tell busy rest
    answers busy
    [[ $reply =~ ^[+c]+$ ]]
    leave busy
    wait_gone "$old"
}

@test "the old process serves connections for which a successor has no descriptors" {
    start_server
    connect_many 100
    ask_many "${conns[@]}"
    successor_script 'ulimit -n 60; become "$@"'
    restart_server
    mend_successor
    wait_for has_many_descriptors "$pid"
    for ((i = 0; i < 3; i++)); do
        ask_many "${conns[@]}"
    done
    does_not_spin "$pid"
    does_not_spin "$old"
    holds_all "$old" "${conns[@]}" || true
    kept=("${held[@]}")
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

has_many_descriptors() {
    (($(descriptors "$1") > 50))
}

@test "the old process keeps its connections while requests use up a successor's descriptors" {
    start_server
    old=$pid
    crowd idle 50 "$port"
    ask_crowd idle
    successor_script 'ulimit -n 100; kill -STOP $PPID; become "$@"'
    kill -USR1 "$old"
    wait_for succeeded "$old"
    pid=$(serving_pid)
    mend_successor
    # More than it has descriptors for: some wait to be accepted.
    crowd busy 120 "$port"
    tell busy half
    wait_for has_stable_descriptors "$pid"
    kill -CONT "$old"
    wait_log "\[$old]: handed over"
    ask_crowd idle
    tell busy rest
    answers busy
    (($(how_many '?') == 0 && $(how_many +) >= 80))
    # Those that had waited in the channel may have made room for new connections meanwhile.
    tell idle ask
    answers idle
    (($(how_many '?') == 0 && $(how_many +) >= 40))
    leave idle
    leave busy
    wait_gone "$old"
    serves
}

# has_stable_descriptors PID: whether it has many, and their number does not change.
has_stable_descriptors() {
    local before
    before=$(descriptors "$1")
    sleep 0.2
    ((before > 60 && $(descriptors "$1") == before))
}
