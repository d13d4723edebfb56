#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# Each system call that a restart takes fails once: each request is answered, and the next restart
# works.
# shellcheck disable=SC2030,SC2031,SC2153,SC2154 # a test is a subshell; helper.bash sets the rest

load helper

setup() {
    prepare
    install_server "$BATS_TEST_TMPDIR"
    lossy=0
    strace -qq -o /dev/null true || skip 'needs strace, and leave to trace'
}

# Starts a server with two clients: one that is idle, and one with a request in flight. Sets idle and
# half.
start_faulty() {
    : >"$log"
    mend_successor
    start_server --ready-timeout 10
    connect
    half=$conn
    send "$half" "$HALF"
    connect
    idle=$conn
    ask "$idle"
    wait_for taken "$half"
}

idle_has_moved() {
    local serving
    find_serving
    [[ $serving != "$pid" ]] && holds "$serving" "$idle"
}

# The restart has been decided, either way: no client notices (but, where $lossy, the one that is
# idle), and the next restart works.
no_client_notices() {
    wait_for restart_decided
    serves
    if ((!lossy)); then
        send "$idle" "$WHOLE"
        receive "$idle"
        [[ $code == 200 && $body == 'Hello, World!' ]]
    fi
    send "$half" "$REST"
    receive "$half"
    [[ $code == 200 && $body == 'Hello, World!' ]]
    disconnect "$idle"
    disconnect "$half"
    mend_successor
    wait_for only_one_left
    childless "$(serving_pid)"
    restart_in_the_end
    serves
    kill "$pid"
    wait_for none_left_but
}

# old CALL ERROR N: the Nth CALL of the old process fails with ERROR.
old() {
    echo "old process: $1 number $3 fails with $2"
    start_faulty
    in_background strace -qq -p "$pid" -o "$BATS_TEST_TMPDIR/trace" -e "trace=$1" \
        -e "inject=$1:error=$2:when=$3" 2>"$BATS_TEST_TMPDIR/strace"
    wait_for traced "$pid"
    kill -USR1 "$pid"
    wait_for restart_decided
    # It was reached, and it did fail.
    wait_for says "$BATS_TEST_TMPDIR/trace" INJECTED
    # What it left to be done has had its turn.
    serves
    [[ -z ${moves-} ]] || wait_for idle_has_moved
    kill "$job"
    wait "$job" || true
    no_client_notices
}

# new CALL ERROR N [PATH]: the Nth CALL (on PATH) of the successor fails with ERROR.
new() {
    echo "successor: $1 number $3 fails with $2"
    start_faulty
    install_server "$BATS_TEST_TMPDIR/real"
    # shellcheck disable=SC2016 # for the script
    successor_script "exec strace -D -qq ${4:+-P '$4'} -o trace -e 'trace=$1' \
        -e 'inject=$1:error=$2:when=$3' real/${NAME}1 \"\$@\""
    kill -USR1 "$pid"
    wait_for restart_decided
    wait_for says "$BATS_TEST_TMPDIR/trace" INJECTED
    no_client_notices
}

@test "the channel cannot be made" {
    for error in EMFILE ENOMEM; do
        old socketpair "$error" 1
        logged 'restart failed: '
    done
}

@test "descriptors cannot be made close-on-exec" {
    for error in ENOSYS ENOMEM; do
        old close_range "$error" 1
    done
}

@test "there can be no further process" {
    for error in EAGAIN ENOMEM; do
        old clone3,clone,vfork "$error" 1
    done
}

@test "the successor's process cannot be watched" {
    for error in EMFILE ENOSYS; do
        old pidfd_open "$error" 1
    done
}

@test "the kernel has no room for events of the successor" {
    old epoll_ctl ENOSPC 1
    old epoll_ctl ENOMEM 2
}

@test "the listener, or a connection handed over, cannot be taken out of the events" {
    old epoll_ctl ENOMEM 3
    old epoll_ctl ENOMEM 4
}

@test "waiting for events is interrupted" {
    for n in 1 2 3; do
        old epoll_wait EINTR "$n"
    done
}

@test "the channel to the successor breaks" {
    old recvfrom ECONNRESET 1
    old recvfrom EINTR 1
    for error in EPIPE ECONNRESET; do
        old sendmsg "$error" 1
    done
}

@test "the channel to the successor is full for a moment" {
    for error in EAGAIN EINTR ETOOMANYREFS ENOBUFS; do
        # A moment later it goes on.
        moves=1 old sendmsg "$error" 1
        logged 'ended: [12] connections (handed over|passed on|moved)'
    done
}

@test "a log line cannot be written" {
    for error in EIO EAGAIN; do
        old write "$error" 1
    done
    old poll EINTR 1
}

@test "the successor has no /dev/null" {
    new openat ENOENT 1 /dev/null
}

@test "the successor cannot take signals" {
    new signalfd4 EMFILE 1
}

@test "the successor cannot look at the channel or the listener" {
    for n in 1 2 3 4; do
        new getsockopt ENOBUFS "$n"
    done
}

@test "the successor cannot change its descriptors" {
    for n in 1 2 3 4; do
        new fcntl ENOMEM "$n"
    done
}

@test "the successor cannot tell where it listens" {
    new getsockname ENOBUFS 1
    new setsockopt ENOMEM 1
}

@test "the successor has no event loop" {
    new epoll_create1 EMFILE 1
    for n in 1 2 3; do
        new epoll_ctl ENOSPC "$n"
    done
}

@test "the successor's limit on descriptors cannot be raised" {
    # The first is libc's own.
    for n in 2 3; do
        new prlimit64 EPERM "$n"
    done
}

@test "the successor runs out of memory, sooner or later" {
    for n in 2 8 9; do
        new mmap ENOMEM "$n"
    done
}

@test "the successor cannot report" {
    for error in EPIPE ENOBUFS; do
        new sendto "$error" 1
    done
}

@test "a successor that cannot report takes no clients along when it is killed for that" {
    start_faulty
    install_server "$BATS_TEST_TMPDIR/real"
    # shellcheck disable=SC2016 # for the script
    successor_script "exec strace -D -qq -o trace -e trace=sendto \
        -e inject=sendto:error=ENOBUFS:when=1 real/${NAME}1 \"\$@\""
    kill -USR1 "$pid"
    wait_log "^${NAME}1.*listening"
    for ((i = 0; i < 20; i++)); do
        connect
        clients[i]=$conn
        ask "$conn"
    done
    wait_log 'restart failed'
    for conn in "${clients[@]}"; do
        ask "$conn"
    done
    no_client_notices
}

@test "the successor cannot take what it is handed at once" {
    for error in EAGAIN EINTR ENOMEM; do
        new recvmsg "$error" 1
    done
}

@test "the successor cannot watch a connection that it took" {
    # That one is lost then, which is all that can be done; nothing else is.
    lossy=1
    new epoll_ctl ENOSPC 4
}
