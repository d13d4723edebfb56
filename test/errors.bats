#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# System calls fail. Each one that a restart makes fails once: no client notices, and the next
# restart works. Others fail for a while, or for good.
# shellcheck disable=SC2030,SC2031,SC2153,SC2154 # a test is a subshell; helper.bash sets the rest

load tools/helper
load tools/crowd

NEVER=60000 # times that no call is made

# The calls of a restart, and the errors that the kernel may return for them. A ? stands before a
# call that not every machine has. Calls for clients' connections are not among them.
errors=(
    'accept4                                EMFILE ENFILE ENOMEM ECONNABORTED EINTR EPERM EPROTO'
    '?clone,?clone3,?fork,?vfork            EAGAIN ENOMEM'
    'close_range                            ENOSYS EPERM ENOMEM'
    'connect                                EAGAIN ECONNREFUSED'
    'epoll_create1                          EMFILE ENOMEM'
    'epoll_ctl                              ENOMEM ENOSPC'
    '?epoll_wait,epoll_pwait                EINTR'
    'execve                                 ENOENT EACCES ENOEXEC ENOMEM ETXTBSY'
    '?fchmod,fchmodat                       EPERM EIO'
    'fcntl                                  EMFILE'
    'getcwd                                 ENOENT'
    'getsockname                            ENOBUFS'
    'ioctl                                  EIO'
    'mmap                                   ENOMEM'
    'mprotect                               ENOMEM'
    '?newfstatat,?fstat,?stat,?lstat,?statx ENOMEM EACCES'
    '?open,openat                           EMFILE ENFILE EACCES ENOSPC'
    'pidfd_open                             EMFILE ENOMEM ENOSYS EPERM'
    'pipe2                                  EMFILE ENFILE'
    '?poll,ppoll                            EINTR ENOMEM'
    'prlimit64                              EPERM'
    'read                                   EINTR EIO'
    '?readlink,readlinkat                   ENOMEM EACCES'
    'recvmsg                                EAGAIN EINTR ENOMEM'
    '?rename,renameat,renameat2             EACCES ENOSPC'
    'sendmsg                                EAGAIN EINTR ENOBUFS ENOMEM ETOOMANYREFS EPIPE ECONNRESET'
    'setsockopt                             ENOMEM'
    'signalfd4                              EMFILE ENOMEM'
    'socket                                 EMFILE ENOBUFS'
    'socketpair                             EMFILE ENOMEM'
    'timerfd_create                         EMFILE ENOMEM'
    'wait4                                  EINTR'
    'waitid                                 EINTR'
    'write                                  EIO EAGAIN ENOSPC EINTR'
)

setup() {
    need_strace
    prepare
    at=$BATS_TEST_TMPDIR
    job='' first=()
    install_server "$at/a"
}

# Makes two folders. In each, one program is real, and the other one executes that of the other
# folder, under strace if the file fault says which call fails.
install_wrappers() {
    mkdir "$at/b"
    mv "$at/a/${NAME}1" "$at/b"
    leads_to "b/${NAME}1" >"$at/a/${NAME}1"
    leads_to "a/$NAME" >"$at/b/$NAME"
    chmod +x "$at/a/${NAME}1" "$at/b/$NAME"
}

leads_to() {
    # shellcheck disable=SC2016 # for the script
    printf '#!/bin/sh\nread -r call error n 2>/dev/null <fault || exec %s "$@"\n%s %s "$@"\n' "$1" \
        'exec strace -D -I 2 -qq -o trace -e "trace=$call" -e "inject=$call:error=$error:when=$n"' \
        "$1"
}

# start_faulty [OPTIONS...]: starts a server that has a service manager.
start_faulty() {
    in_background "$BUILD_DIR/manager" "$at/notify" >"$at/notices"
    job=''
    wait_for says "$at/notices" ready
    start_command env NOTIFY_SOCKET="$at/notify" "a/$NAME" -l 127.0.0.1:0 -p pid_file \
        "${PATIENT[@]}" "$@"
    wait_log '\[([0-9]+)]: listening on [^ ]*:([0-9]+)'
    ((BASH_REMATCH[1] == pid)) || first=("$pid")
    pid=${BASH_REMATCH[1]}
    # shellcheck disable=SC2034 # for connect
    port=${BASH_REMATCH[2]}
    wait_for settled "$pid"
}

# Whether the restart has been decided. Either the log or the service manager may miss a line.
is_decided() {
    restart_decided || says "$at/notices" '(MAINPID=|STATUS=restart failed)'
}

# Whether only the process that the pid file names is left, and the supervisor if there is one.
# Sets serving.
finds_only_server() {
    read -r serving <"$at/pid_file"
    childless "$serving" && programs_are "${first[@]}" "$serving"
}

# Whether the restart is over: the process that the pid file names has no child, and the old one has
# ended, or serves. Sets serving.
is_over() {
    read -r serving <"$at/pid_file"
    childless "$serving" && { [[ $serving == "$pid" ]] || gone "$pid"; }
}

# fails_once WHO CALL ERROR N: in a restart the Nth CALL of the old process (old), of its child
# before the execution (child), or of the successor (new) fails with ERROR. Fails if a client notices
# or the next restart does not work. Sets reached if there was an Nth call.
fails_once() {
    local idle half
    echo "$1: $2 number $4 fails with $3"
    : >"$log"
    : >"$at/notices"
    : >"$at/trace"
    connect
    half=$conn
    send "$half" "$HALF"
    connect
    idle=$conn
    # The answer says that the server has read what came before.
    ask "$idle"
    if [[ $1 == new ]]; then
        echo "$2 $3 $4" >"$at/fault"
    else
        trace_old "$@"
    fi
    kill -USR1 "$pid"
    wait_for is_decided
    serves || may_be_lost
    ask "$idle" || may_be_lost
    send "$half" "$REST"
    answered "$half"
    rm -f "$at/fault"
    end_tracing
    reached=0
    ! says "$at/trace" INJECTED || reached=1
    # The old process ends though its clients stay; a successor that has no descriptor may leave
    # them to it.
    [[ $2 == fcntl ]] || wait_for is_over
    disconnect "$idle"
    disconnect "$half"
    [[ $2 != fcntl ]] || wait_for is_over
    # If nothing has failed, this was the next restart.
    ((!reached)) || restarts_well
    pid=$serving
}

# trace_old WHO CALL ERROR N
trace_old() {
    local follow=()
    [[ $1 == old ]] || follow=(-f)
    in_background strace -qq "${follow[@]}" -p "$pid" -o "$at/trace" -e "trace=execve,$2" \
        -e "inject=$2:error=$3:when=$4" 2>"$at/strace"
    wait_for traced "$pid"
}

# Whether the call that failed was to have epoll watch a client: then that client is lost.
may_be_lost() {
    says "$at/trace" 'EPOLL_CTL_ADD.*EPOLLRDHUP.*INJECTED'
}

# Ends strace, which traces $pid or its successor, if that has not ended.
end_tracing() {
    local tracer
    if [[ -n $job ]]; then
        end_job "$job"
        job=''
    fi
    read -r tracer <"$at/pid_file"
    tracer=$(status_of "$tracer" TracerPid) || return 0
    ((tracer == 0)) || kill "$tracer" 2>/dev/null || true
}

# The process that serves can be restarted. Sets serving.
restarts_well() {
    local before=$serving
    : >"$log"
    kill -USR1 "$before"
    wait_for is_replaced "$before"
    serves
}

# Whether process PID is gone, and only one that serves is left. Sets serving.
is_replaced() {
    gone "$1" && finds_only_server
}

# each_call WHO [CALLS...]: fails_once for each of these calls, or all: the first time with the first
# error, the second time with the second one, and so on, until the call is made no more. Errors that
# are left then are tried the first time.
each_call() {
    local -
    set +o functrace
    local who=$1 calls errors_of first_time last n i
    for calls in "${errors[@]}"; do
        read -r calls errors_of <<<"$calls"
        (($# == 1)) || [[ " ${*:2} " == *" $calls "* ]] || continue
        # The runtime of a checked build does not bear these.
        [[ $calls != @(mmap|mprotect) ]] || ! is_checked || continue
        # shellcheck disable=SC2206 # words
        errors_of=($errors_of)
        first_time=1 last=$NEVER
        # The kernel does not refuse the first one, F_SETFD.
        [[ $who:$calls != new:fcntl ]] || first_time=2
        [[ $who != child ]] || count_child_calls "$calls"
        reached=1
        for ((n = first_time; reached && n <= last; n++)); do
            fails_once "$who" "$calls" "${errors_of[(n - 1) % ${#errors_of[@]}]}" "$n"
        done
        for ((i = reached ? n - 1 : n - 2; i < ${#errors_of[@]} && i > 0; i++)); do
            fails_once "$who" "$calls" "${errors_of[i]}" 1
        done
    done
    wait_for finds_only_server
}

# Sets last to how often the child makes the call before the execution: strace has the successor,
# too, in which that call is not to fail.
count_child_calls() {
    local old=$pid
    fails_once child "$1" ENOMEM "$NEVER"
    last=$(awk -v old="$old" '$1 == old { next } /execve(\(| resumed).* = 0/ { exit }
        /^[0-9]+ +[a-z0-9_]+\(/ && !/execve/ { n++ } END { print n + 0 }' "$at/trace")
    [[ $1 != execve ]] || last=1
    ((last > 0))
}

@test "each system call of the old process may fail" {
    start_faulty
    each_call old
}

@test "each system call of the child may fail before the successor is executed" {
    start_faulty
    each_call child close_range execve fcntl '?newfstatat,?fstat,?stat,?lstat,?statx'
}

@test "each system call of the successor may fail" {
    install_wrappers
    start_faulty
    each_call new
}

@test "with --supervise, each system call to the first process may fail" {
    start_faulty --supervise
    each_call old sendmsg
    each_call child fcntl pipe2 sendmsg
}

@test "a restart makes no system calls but those tested here and some that do not fail" {
    ! is_checked || skip 'a checked build makes more'
    start_faulty
    harmless=(access arch_prctl brk clock_gettime close exit_group futex getdents64 getpid getppid
        getrandom getsockopt kill lseek munmap pread64 recvfrom rseq rt_sigaction rt_sigprocmask
        rt_sigreturn sendto set_robust_list set_tid_address shutdown timerfd_settime)
    connect
    ask "$conn"
    in_background strace -qq -f -p "$pid" -o "$at/trace" 2>"$at/strace"
    wait_for traced "$pid"
    kill -USR1 "$pid"
    wait_for is_replaced "$pid"
    serves
    end_job "$job"
    known=" $(printf '%s ' "${errors[@]%% *}" | tr -d '?' | tr ',' ' ') ${harmless[*]} "
    while read -r call; do
        echo "$call"
        [[ $known == *" $call "* ]]
    done < <(sed -nE 's/^[0-9]+ +([a-z0-9_]+)\(.*/\1/p' "$at/trace" | sort -u)
}

# ---- errors of accept ----

# start_without_accept WHICH ERROR [OPTIONS...]: starts a server whose calls of accept4 fail with
# ERROR, namely those that WHICH names, as strace does. Sets calls, a file with a line for each.
start_without_accept() {
    calls=$BATS_TEST_TMPDIR/calls
    # As a grandchild (-D), strace leaves the server to be the process that was started.
    start_command strace -D -qq -o "$calls" -e trace=accept4 -e "inject=accept4:error=$2:when=$1" \
        "a/$NAME" -l 127.0.0.1:0 "${PATIENT[@]}" "${@:3}"
    wait_listening
}

@test "no error of accept ends the server, and the clients that wait are served afterwards" {
    for error in ECONNABORTED EMFILE ENFILE ENOMEM ENOBUFS EPERM EPROTO ENETDOWN EHOSTUNREACH; do
        start_without_accept 1..3 "$error"
        serves
        (($(grep -c INJECTED "$calls") == 3))
        alive "$pid"
        kill "$pid"
        wait_gone "$pid"
    done
}

@test "while accept fails, the server does not spin, and serves the clients that it has" {
    for error in EMFILE ENFILE ENOMEM EPERM; do
        start_without_accept 4+ "$error" --drain-timeout 2
        begun=$SECONDS
        begin_request
        connect_many 3
        wait_for says "$calls" INJECTED
        does_not_spin "$pid"
        end_request "$half"
        # Ten a second, and some.
        (($(grep -c INJECTED "$calls") <= (SECONDS - begun + 2) * 20))
        # At SIGTERM, connections that cannot be accepted delay the end until the drain timeout.
        kill "$pid"
        wait_gone "$pid"
    done
}

# ---- missing system calls, and failures in a row ----

@test "restarts that cannot fork or watch the successor leave no descriptor and no process behind" {
    install_server "$at"
    start_server
    connect
    ask "$conn"
    before=$(descriptors "$pid")
    successor_script 'exec sleep 600'
    for calls in '?clone,?clone3,?fork,?vfork' pidfd_open; do
        in_trouble "$calls" error=ENOMEM
        for _ in 1 2 3; do
            fail_restart
        done
        injected
        mended
        wait_for childless "$pid"
        wait_for has_descriptors "$pid" "$before"
        ask "$conn"
    done
    mend_successor
    restart_server
    ask "$conn"
}

@test "a successor that claims the listener while watching it fails is rolled back when it crashes" {
    install_server "$at"
    for call in pidfd_open:error=EMFILE epoll_ctl:error=ENOMEM:when=1; do
        start_server --rollback-timeout 600
        old=$pid
        # Late enough for the successor to claim the listener first.
        in_trouble "${call%%:*}" "${call#*:}:delay_enter=1000000"
        restart_server
        mended
        kill -SEGV "$pid"
        wait_log "\[$old]: rolled back: successor $pid was ended by signal 11"
        connect
        ask "$conn"
        kill "$old"
        wait_gone "$old"
    done
}

@test "a successor inherits no descriptor even where close_range(2) is missing or forbidden" {
    install_server "$at"
    exec 9</dev/null
    start_server
    exec 9<&-
    [[ -e /proc/$pid/fd/9 ]]
    extra=1
    for error in ENOSYS EPERM; do
        connect
        ask "$conn"
        before=$(descriptors "$pid")
        in_trouble -f close_range "error=$error"
        restart_server
        wait_gone "$old"
        mended
        injected
        ask "$conn"
        # Only the first process has descriptor 9.
        wait_for has_descriptors "$pid" $((before - extra))
        extra=0
        disconnect "$conn"
    done
}
