# shellcheck shell=bash
# SPDX-License-Identifier: 0BSD
# shellcheck disable=SC2034,SC2154 # what functions set is for the tests; helper.bash sets the rest
# What the bats files about corners share: groups of connections that do the same (build/crowd).

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
