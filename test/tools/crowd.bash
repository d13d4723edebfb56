# shellcheck shell=bash
# SPDX-License-Identifier: 0BSD
# shellcheck disable=SC2034,SC2153,SC2154 # what functions set is for the tests; helper.bash sets the rest
# What the bats files about rare moments share: groups of connections that do the same (build/crowd),
# system calls that fail, and processes that are held at a certain moment of a restart.

# crowd NAME [OPTIONS] COUNT WHERE...: opens a crowd, see test/tools/crowd.c. Sets crowd_port.
crowd() {
    local name=$1 at="$BATS_TEST_TMPDIR/$1" said
    local -n in=crowd_${name}_in out=crowd_${name}_out
    shift
    need crowd || return 1
    mkfifo "$at.in" "$at.out"
    (cd "$BATS_TEST_TMPDIR" && exec "$BUILD_DIR/crowd" "$@" 3>&- <"$at.in" >"$at.out" 2>>"$log") &
    exec {in}>"$at.in" {out}<"$at.out"
    rm "$at.in" "$at.out"
    IFS= read -r -t "$patience" -u "$out" said || return 1
    crowd_port=${said##* }
}

# order NAME COMMAND...: has the crowd carry out a command; obeyed NAME waits until that is done, and
# sets reply. tell NAME COMMAND...: both.
order() {
    local -n in=crowd_$1_in
    shift
    echo "$*" >&"$in"
}

obeyed() {
    local -n out=crowd_$1_out
    IFS= read -r -t "$patience" -u "$out" reply
}

tell() {
    order "$@"
    obeyed "$1"
}

# answers NAME [NUMBER]: waits for NUMBER more answers to each of the crowd. Sets reply: a letter
# for each.
answers() {
    tell "$1" answers "${2:-1}"
    echo "$1: $reply"
}

# ask_crowd NAME: each of the crowd asks; all are answered, and stay open.
ask_crowd() {
    tell "$1" ask
    answers "$1"
    [[ $reply =~ ^\++$ ]]
}

# how_many LETTER: how many clients of the last reply had this.
how_many() {
    local others=${reply//"$1"/}
    echo $((${#reply} - ${#others}))
}

# leave NAME: the crowd closes its connections.
leave() {
    local -n in=crowd_$1_in out=crowd_$1_out
    echo leave >&"$in"
    exec {in}>&- {out}<&-
}

# in_trouble [-f] CALLS HOW: strace lets system calls of process $pid (-f: and of its children) fail,
# or last, until mended. Sets tracer; the file trace has the calls.
in_trouble() {
    local children=()
    if [[ $1 == -f ]]; then
        children=(-f)
        shift
    fi
    : >"$BATS_TEST_TMPDIR/trace"
    in_background strace -qq "${children[@]}" -p "$pid" -o "$BATS_TEST_TMPDIR/trace" \
        -e "trace=$1" -e "inject=$1:$2" 2>"$BATS_TEST_TMPDIR/strace"
    tracer=$job
    wait_for traced "$pid"
}

mended() {
    end_job "$tracer"
}

injected() {
    says "$BATS_TEST_TMPDIR/trace" INJECTED
}

need_strace() {
    strace -qq -o /dev/null true || skip 'needs strace, and leave to trace'
}

# Milliseconds of a clock that does not jump.
clock() {
    local seconds
    read -r seconds _ </proc/uptime
    echo $((10#${seconds/./} * 10))
}

# is_past MS: whether the clock shows MS or more.
is_past() {
    (($(clock) >= $1))
}

# ---- processes held at a certain moment ----

# start_traced CALLS [INJECTION]: restarts process $pid; strace watches the successor from its
# execution on: CALLS are in the file trace. Sets successor and tracer.
start_traced() {
    rm -f "$BATS_TEST_TMPDIR/successor"
    successor_script 'echo $$ >successor; kill -STOP $$; become "$@"'
    kill -USR1 "$pid"
    wait_for test -s "$BATS_TEST_TMPDIR/successor"
    successor=$(<"$BATS_TEST_TMPDIR/successor")
    wait_for stopped "$successor"
    mend_successor
    in_background strace -qq -o "$BATS_TEST_TMPDIR/trace" -e "trace=$1" ${2:+-e "inject=$2"} \
        -p "$successor"
    tracer=$job
    wait_for traced "$successor"
    kill -CONT "$successor"
}

# hold_at CALL: restarts process $pid; the successor is stopped after its first CALL. At epoll_wait
# it has set itself up and has claimed nothing; at rename it has written the pid file, and has not
# reported its claim. Sets successor.
hold_at() {
    start_traced "$1" "$1:signal=SIGSTOP:when=1"
    wait_for says "$BATS_TEST_TMPDIR/trace" '^--- SIGSTOP '
    mended
    wait_for stopped "$successor"
}

# hold_execution: restarts process $pid; strace holds the child before its execution, until mended.
# Sets old and successor.
hold_execution() {
    in_trouble -f execve delay_enter=60000000
    old=$pid
    kill -USR1 "$old"
    wait_for in_old_program "$old"
    successor=$(children "$old")
}

# in_old_program PID: whether PID has a child that has not been executed yet.
in_old_program() {
    local child
    child=$(children "$1")
    [[ -n $child && "/proc/$child/exe" -ef "$BATS_TEST_TMPDIR/$NAME" ]]
}

# hold_hand_over: restarts process $pid; the successor has claimed the listener, and is stopped while
# the old process hands over to it. Sets old and pid.
hold_hand_over() {
    claim_unread
    serves
    stop "$pid"
    kill -CONT "$old"
    wait_log "\[$old]: handed over"
    wait_for channel_is_full
}

# Whether the old process has filled the channel to its successor, which is stopped.
channel_is_full() {
    local before
    before=$(descriptors "$old")
    pause 100
    (($(descriptors "$old") == before))
}

# Sets served to those of the test's connections, conns, that are answered while the successor is
# stopped, and waiting to those that are not: they are in the channel, which holds a handful. Each of
# these has sent a request.
sort_connections() {
    local fd
    holds_all "$old" "${conns[@]}" || true
    served=("${held[@]}") waiting=("${others[@]}")
    for fd in "${served[@]}"; do
        ask "$fd"
    done
    for fd in "${waiting[@]}"; do
        send "$fd" "$WHOLE"
    done
    echo "${#served[@]} are served, ${#waiting[@]} wait"
    ((${#waiting[@]} > 0 && ${#waiting[@]} <= 25 && ${#served[@]} > 0))
}
