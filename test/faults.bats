#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# Each system call that a restart makes fails once: no client notices, and the next restart works.
# shellcheck disable=SC2030,SC2031,SC2153,SC2154 # a test is a subshell; helper.bash sets the rest

load helper

# What each call is made to fail with: errors that the kernel knows for it. A ? stands before a call
# that some machines do not have.
errors=(
    'accept4                                EMFILE ENFILE ENOMEM ECONNABORTED EINTR EPERM EPROTO'
    '?clone,?clone3,?fork,?vfork            EAGAIN ENOMEM'
    'close_range                            ENOSYS EPERM ENOMEM'
    'epoll_create1                          EMFILE ENOMEM'
    'epoll_ctl                              ENOMEM ENOSPC'
    '?epoll_wait,epoll_pwait                EINTR'
    'execve                                 ENOENT EACCES ENOEXEC ENOMEM ETXTBSY'
    'fchmod                                 EPERM EIO'
    'fcntl                                  EMFILE'
    'getcwd                                 ENOENT'
    'getsockname                            ENOBUFS'
    'getsockopt                             ENOBUFS'
    'ioctl                                  EIO'
    'mmap                                   ENOMEM'
    'mprotect                               ENOMEM'
    '?newfstatat,?fstat,?stat,?lstat,?statx ENOMEM EACCES'
    'openat                                 EMFILE ENFILE EACCES ENOSPC'
    'pidfd_open                             EMFILE ENOMEM ENOSYS EPERM'
    'pipe2                                  EMFILE ENFILE'
    '?poll,?ppoll                           EINTR ENOMEM'
    'prlimit64                              EPERM'
    'read                                   EINTR EIO'
    '?readlink,?readlinkat                  ENOMEM EACCES'
    'recvmsg                                EAGAIN EINTR ENOMEM'
    '?rename,?renameat,?renameat2           EACCES ENOSPC'
    'sendmsg                                EAGAIN EINTR ENOBUFS ENOMEM ETOOMANYREFS EPIPE ECONNRESET'
    'setsockopt                             ENOMEM'
    'signalfd4                              EMFILE ENOMEM'
    'socket                                 EMFILE ENOBUFS'
    'socketpair                             EMFILE ENOMEM'
    'timerfd_create                         EMFILE ENOMEM'
    'wait4                                  EINTR'
    'write                                  EIO EAGAIN ENOSPC EINTR'
)

# Two folders, in each of which one program is real and the other leads to the other folder, where
# it goes on under strace if the file fault says what fails.
setup() {
    strace -qq -o /dev/null true || skip 'needs strace, and leave to trace'
    prepare
    cd "$BATS_TEST_TMPDIR" || return
    mkdir a b
    cp "$SERVER_DIR/$NAME" a
    cp "$SERVER_DIR/${NAME}1" b
    leads_to "b/${NAME}1" >"a/${NAME}1"
    leads_to "a/$NAME" >"b/$NAME"
    chmod +x "a/${NAME}1" "b/$NAME"
    in_background "$BUILD_DIR/manager" notify >notices
    wait_for says notices ready
    start_command env NOTIFY_SOCKET=notify "a/$NAME" -l 127.0.0.1:0 -p pid_file --ready-timeout 10
    wait_listening
}

leads_to() {
    # shellcheck disable=SC2016 # for the script
    printf '#!/bin/bash\nread -r call error n 2>/dev/null <fault || exec %s "$@"\n%s %s "$@"\n' "$1" \
        'exec strace -D -qq -o trace -e "trace=$call" -e "inject=$call:error=$error:when=$n"' "$1"
}

# fails_once WHO CALL ERROR N: in a restart the Nth CALL of the old process (old), of its child
# before the execution (child), or of the successor (new) fails with ERROR. Fails if a client notices
# or the next restart does not work. Sets reached if there was an Nth call.
fails_once() {
    local idle half serving
    echo "$1: $2 number $4 fails with $3"
    grep -E "\[$pid]: listening on" log >log.new
    cat log.new >log
    : >trace
    connect
    half=$conn
    send "$half" "$HALF"
    connect
    idle=$conn
    ask "$idle"
    wait_for taken "$half"
    case $1 in
    new)
        echo "$2 $3 $4" >fault
        kill -USR1 "$pid"
        ;;
    *)
        local follow=()
        [[ $1 == old ]] || follow=(-f)
        in_background strace -qq "${follow[@]}" -p "$pid" -o trace -e "trace=$2" \
            -e "inject=$2:error=$3:when=$4" 2>strace
        wait_for traced "$pid"
        kill -USR1 "$pid"
        ;;
    esac
    wait_for restart_decided
    rm -f fault
    serves
    ask "$idle"
    if [[ $1 != new ]]; then
        kill "$job" 2>/dev/null || true
        wait "$job" || true
    fi
    send "$half" "$REST"
    answered "$half"
    disconnect "$idle"
    disconnect "$half"
    reached=0
    ! says trace INJECTED || reached=1
    wait_for only_one_left
    find_serving
    childless "$serving"
    names "$serving"
    restart_in_the_end
    wait_for only_one_left
    serves
}

# each_call WHO CALLS...: fails_once for each of these calls: with each error, the first time with
# the first one, and so on, until the call is made no more.
each_call() {
    local who=$1 call errors_of n i
    for call in "${errors[@]}"; do
        read -r call errors_of <<<"$call"
        [[ " ${*:2} " == *" $call "* ]] || continue
        # shellcheck disable=SC2206 # words
        errors_of=($errors_of)
        reached=1
        for ((n = 1; reached; n++)); do local t0=$EPOCHREALTIME
            echo "$t0" >&3; fails_once "$who" "$call" "${errors_of[(n - 1) % ${#errors_of[@]}]}" "$n"
        done
        for ((i = n - 2; i < ${#errors_of[@]}; i++)); do
            ((i < 1)) || fails_once "$who" "$call" "${errors_of[i]}" 1
        done
    done
}

@test "one" {
    for w in "${errors[@]}"; do each_call old ${w%% *}; done
}
@test "two" {
    for w in "${errors[@]}"; do each_call new ${w%% *}; done
}
