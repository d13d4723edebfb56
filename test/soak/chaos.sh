#!/usr/bin/env bash
# SPDX-License-Identifier: 0BSD
# Does random things at random times to the generations of a server that is under mixed load, to find
# what nobody has thought of. `make chaos`, with any of these variables in the environment:
#
#   CHAOS_SECONDS   how long (default 60)
#   CHAOS_SEED      seed of the random numbers, which is printed. It repeats what is done, but not
#                   when, so a failure may take several runs to come back
#   CHAOS_MODE      1 or 2, see below (default 1)
#   CHAOS_OPTIONS   further options of the server. With --supervise, half of the SIGUSR1 go to the
#                   first process, and nothing else happens to it
#   CHAOS_IDLE      the number of idle clients (default 100), besides 48 that are busy
#   CHAOS_PAUSE     milliseconds between two requests of most of these (default 5)
#   CHAOS_SERVER    echo: the server is build/echo, which has no log and no pid file (mode 1 only)
#   CHAOS_KEEP      a folder for the programs and logs, which is not removed at the end
#   SERVER_DIR      the folder of the programs (default: the project's root)
#
# What happens in both modes:
#
#   - SIGUSR1, once or many times, to one process or to all of them.
#   - SIGSTOP to any process, and SIGCONT up to 1.5 s later. The ready timeout is 1 s.
#   - Successors that are missing, have the wrong format, exit, crash, hang, are slow or too slow, or
#     have few descriptors (enough for the load).
#   - SIGKILL to a successor before it has claimed the listeners.
#   - Successors that crash right after they have claimed the listeners, while the old process is
#     stopped: it learns of both at once, and they have no connection yet.
#
# Nothing of this may be noticed. In mode 1 every request is answered and no connection is closed.
# All timeouts but the ready timeout are longer than a process is stopped.
#
# Mode 2 also sends SIGKILL to processes that have connections, at any moment of a restart. Those
# connections are lost, but no new connection is refused and no answer is wrong. A process is only
# killed if another one can serve after it:
#
#   - its successor, or a later one, if that has been executed, has the listeners, and has not been
#     told that it is too late;
#   - or its predecessor, if there is a rollback timeout (CHAOS_OPTIONS), and if that has the
#     listeners and has not been released. A process releases its predecessor before it starts its
#     own successor, so from then on until that is executed it is the only one that can serve, and is
#     not killed.
#
# At the end of both modes one process is left. It holds the listener, the pid file names it, it has
# no more descriptors than at the start, also after a restart that fails, and SIGUSR1 replaces it. A
# build that checks itself has found no defect.
# shellcheck disable=SC2016 # scripts in quotes are run by the successor
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
seconds=${CHAOS_SECONDS:-60}
seed=${CHAOS_SEED:-$((SRANDOM % 1000000))}
mode=${CHAOS_MODE:-1}
idle=${CHAOS_IDLE:-100}
pause=${CHAOS_PAUSE:-5}
read -r -a options <<<"${CHAOS_OPTIONS:-}"
server=${CHAOS_SERVER:-http}
folder=${CHAOS_KEEP:-$(mktemp -d)}
mkdir -p "$folder"
: >"$folder/acts"
log=$folder/log
case $server in
http)
    programs=${SERVER_DIR:-$root}
    name=rust_graceful_restart
    command=("./$name" -l 127.0.0.1:0 -p pid_file --ready-timeout 1 --drain-timeout 120
        --idle-timeout 600 --request-timeout 120 "${options[@]}")
    load=()
    ;;
echo)
    programs=${BUILD_DIR:-$root/build}
    name='echo'
    command=(./echo 0)
    load=(--echo)
    ;;
esac
RANDOM=$seed
supervisor=0 hammer=0
failures=0

# ---- helpers that fork nothing, as time matters ----

mkfifo "$folder/silence"
exec {silence}<>"$folder/silence"
rm "$folder/silence"

# pause MS
pause() {
    read -r -t "$(($1 / 1000)).$(printf '%03d' $(($1 % 1000)))" -u "$silence" _ || true
}

# Sets now: milliseconds.
tick() {
    now=$((${EPOCHREALTIME/./} / 1000))
}

# random N: sets r to one of 0 to N - 1.
random() {
    r=$((RANDOM % $1))
}

# Sets processes: all whose working folder is the server's, but zombies and the supervisor.
find_processes() {
    local path
    processes=()
    for path in /proc/[0-9]*; do
        [[ ! $path/cwd -ef $folder || $path == "/proc/$supervisor" ]] ||
            processes+=("${path#/proc/}")
    done
}

# state_of PID: sets state, as in proc(5), and parent; both empty once it is gone.
state_of() {
    local stat=''
    state='' parent=''
    { read -r stat <"/proc/$1/stat"; } 2>/dev/null || true
    [[ -z $stat ]] || read -r state parent _ <<<"${stat##*) }"
}

# settled PID: whether it waits for something to happen: it has opened what it opens at the start.
settled() {
    local state parent
    state_of "$1"
    [[ $state == S ]]
}

act() {
    tick
    printf '%d.%03d %s\n' $(((now - started) / 1000)) $(((now - started) % 1000)) "$*" \
        >>"$folder/acts"
}

# send SIGNAL PID: it may have ended.
send() {
    kill -"$1" "$2" 2>/dev/null || true
}

fail() {
    echo "chaos: $*"
    failures=$((failures + 1))
}

# wait_for SECONDS COMMAND...
wait_for() {
    local end=$((SECONDS + $1))
    until "${@:2}"; do
        ((SECONDS < end)) || return 1
        pause 20
    done
}

# ---- successors ----

# install_program NAME FILE: FILE becomes the program under this name, at once.
install_program() {
    cp -p "$2" "$folder/new"
    mv -f "$folder/new" "$folder/$1"
}

install_real() {
    install_program "$name" "$folder/real/$name"
    install_program "${name}1" "$folder/real/${name}1"
}

# script NAME LINES: a program that runs LINES, in which "become" turns it into the real one.
script() {
    printf '%s\n' '#!/bin/bash' 'become() { exec -a "$0" "./real/${0##*/}" "$@"; }' "$2" \
        >"$folder/kinds/$1"
    chmod +x "$folder/kinds/$1"
}

make_programs() {
    mkdir -p "$folder/real" "$folder/kinds"
    cp "$programs/$name" "$folder/real/$name"
    cp "$programs/${name}1" "$folder/real" 2>/dev/null ||
        cp "$programs/$name" "$folder/real/${name}1"
    script exits ': >tried; exit 3'
    script ends 'exit 0'
    script crashes 'kill -SEGV $$'
    # Where its old process is killed, it ends by itself: it would have the listener for ever.
    script hangs 'while [[ -d /proc/$PPID ]]; do sleep 0.1; done'
    script slow 'sleep 0.$((RANDOM % 10)); become "$@"'
    script late 'sleep 1.$((RANDOM % 5)); become "$@"'
    script few "ulimit -n \$(($idle + 160 + RANDOM % 100)); become \"\$@\""
    # The old one goes on once this has ended: see crash_after_claim.
    script crashes_late 'echo $PPID >"late.$$"
        until [[ ${stat##*) } == T* ]]; do kill -STOP $PPID; read -r stat <"/proc/$PPID/stat"; done
        printf R2 >&"${RESTART_CHANNEL#*:}"; kill -KILL $$'
    echo 'no program' >"$folder/kinds/wrong"
    chmod +x "$folder/kinds/wrong"
    cp "$folder/kinds/wrong" "$folder/kinds/forbidden"
    chmod -x "$folder/kinds/forbidden"
    install_real
}

kinds=(exits ends crashes hangs slow slow late few few wrong forbidden missing)

# Another successor under either name, in three of four cases a good one.
change_successor() {
    local each
    for each in $name ${name}1; do
        random $((4 * ${#kinds[@]}))
        local kind=${kinds[r]:-good}
        act "$each: $kind"
        case $kind in
        missing) rm -f "${folder:?}/$each" ;;
        good) install_program "$each" "$folder/real/$each" ;;
        *) install_program "$each" "$folder/kinds/$kind" ;;
        esac
    done
}

# The old processes whose successor has crashed after its claim go on.
release_late() {
    local file
    for file in "$folder"/late.*; do
        state_of "${file##*.}"
        [[ -e $file && ($state == Z || -z $state) ]] || continue
        act "SIGCONT $(<"$file") (its successor has crashed after its claim)"
        send CONT "$(<"$file")"
        rm "$file"
    done
}

none_late() {
    release_late
    [[ -z $(compgen -G "$folder/late.*") ]]
}

# Nothing is continued meanwhile: the old process would read the claim, and hand over.
crash_after_claim() {
    local process
    continue_all
    act "crash after the claim"
    install_program "$name" "$folder/kinds/crashes_late"
    install_program "${name}1" "$folder/kinds/crashes_late"
    find_processes
    for process in "${processes[@]}"; do
        send USR1 "$process"
    done
    pause 100
    wait_for 10 none_late || fail "a successor that was to crash did not"
    change_successor
}

# ---- processes ----

declare -A stopped=() # until when

pick() {
    find_processes
    random $((${#processes[@]} + (${#processes[@]} == 0)))
    picked=${processes[r]:-none}
}

restart_any() {
    pick
    random 2
    ((supervisor == 0 || r == 0)) || picked=$supervisor
    act "SIGUSR1 $picked"
    send USR1 "$picked"
}

restart_all() {
    find_processes
    act "SIGUSR1 ${processes[*]}"
    kill -USR1 "${processes[@]}" 2>/dev/null || true
}

restart_many() {
    local count
    random 10
    for ((count = r; count >= 0; count--)); do
        restart_any
        random 4
        pause $((r * r))
    done
}

stop_any() {
    pick
    [[ -z ${stopped[$picked]:-} ]] || return 0
    random 8
    local longest=$((r == 0 ? 1500 : 200))
    random $longest
    act "SIGSTOP $picked for $r ms"
    stopped[$picked]=$((now + r))
    send STOP "$picked"
}

continue_due() {
    local process
    tick
    for process in "${!stopped[@]}"; do
        ((stopped[$process] <= now)) || continue
        act "SIGCONT $process"
        send CONT "$process"
        unset "stopped[$process]"
    done
}

continue_all() {
    local process
    for process in "${!stopped[@]}"; do
        stopped[$process]=0
    done
    continue_due
}

holds_listener() {
    [[ -n $(find "/proc/$1/fd" -lname "socket:\[$inode]" 2>/dev/null) ]]
}

is_stopped() {
    state_of "$1"
    [[ $state == [TZX] || -z $state ]]
}

# program_of PID: sets program to the name of its file, and real, if it is the server's.
program_of() {
    program=$(readlink "/proc/$1/exe") || program=''
    real=''
    [[ $program != "$folder"/* ]] || real=yes
    program=${program% (deleted)}
    program=${program##*/}
}

# Whether PID is a successor that has been executed: its parent's program has the other name. Sets
# starter to the parent.
is_executed() {
    local own
    state_of "$1"
    starter=$parent
    program_of "$1"
    own=$program
    [[ -n $real ]] && program_of "$starter" && [[ $program != "$own" ]]
}

# since_claim PID: what the log says of the process since it claimed the listeners; nothing, if it
# has not. An earlier process may have had its pid.
since_claim() {
    awk -v own="[$1]: " 'index($0, own) { if (/: listening on /) said = ""; said = said $0 "\n" }
        END { if (said ~ /: listening on /) printf "%s", said }' "$log"
}

# Whether the process, which is stopped, is a successor that has no connection yet.
has_not_claimed() {
    is_executed "$1" && ! named "$1" && [[ -z $(since_claim "$1") ]]
}

# named PID: whether the pid file names this process.
named() {
    [[ -e $folder/pid_file && $(<"$folder/pid_file") == "$1" ]]
}

# descends PID FROM: whether FROM started PID, or started what did.
descends() {
    state_of "$1"
    while [[ -n $parent && $parent != 0 && $parent != "$2" ]]; do
        state_of "$parent"
    done
    [[ $parent == "$2" ]]
}

# stands_in PROCESS VICTIM: whether PROCESS, which is stopped, serves when VICTIM dies.
stands_in() {
    state_of "$2"
    local starter_of_victim=$parent
    state_of "$1"
    [[ $state == T && $1 != "$2" ]] && holds_listener "$1" || return 1
    if [[ $1 == "$starter_of_victim" ]]; then
        program_of "$1"
        [[ -n $real && ${options[*]} == *--rollback-timeout* &&
            $(since_claim "$2") != *'SIGUSR1 received: restarting'* ]]
    else
        is_executed "$1" && descends "$1" "$2" &&
            ! grep -q "\[$1]: cannot claim the listeners" "$log"
    fi
}

# Whether the process, which is stopped, may be killed.
may_die() {
    local process
    ! has_not_claimed "$1" || return 0
    for process in "${processes[@]}"; do
        ! stands_in "$process" "$1" || return 0
    done
    return 1
}

# name_of PID: sets name_given to the name that it was executed under.
name_of() {
    name_given=''
    { IFS= read -r -d '' name_given <"/proc/$1/cmdline"; } 2>/dev/null || true
}

# Has a successor started, and kills it between its execution and its claim, if that succeeds.
kill_early() {
    local owner successor='' own tries
    [[ -e $folder/pid_file ]] || return 0
    owner=$(<"$folder/pid_file")
    install_real
    name_of "$owner"
    own=$name_given
    act "SIGUSR1 $owner"
    send USR1 "$owner"
    # Without a pause: all of it takes a few milliseconds.
    for ((tries = 0; tries < 2000; tries++)); do
        { read -r successor _ <"/proc/$owner/task/$owner/children"; } 2>/dev/null || true
        [[ -z $successor ]] || name_of "$successor"
        [[ -z $successor || -z $name_given || $name_given == "$own" ]] || break
    done
    [[ -n $successor && -z ${stopped[$successor]:-} ]] || return 0
    random 3
    ((r == 0)) || pause "$r"
    send STOP "$successor"
    wait_for 1 is_stopped "$successor" || true
    if has_not_claimed "$successor"; then
        act "SIGKILL $successor, early"
        send KILL "$successor"
    fi
    send CONT "$successor"
}

# Kills a process that may die, if there is one, at any time of a restart: all are stopped meanwhile,
# as it may be another one any time.
kill_any() {
    local process tries victims=()
    random 3
    ((r == 0)) || install_real
    restart_any
    random 12
    pause $((r * r / 2))
    find_processes
    for process in "${processes[@]}"; do
        send STOP "$process"
    done
    for process in "${processes[@]}"; do
        for ((tries = 0; tries < 100; tries++)); do
            ! is_stopped "$process" || break
            pause 1
        done
    done
    for process in "${processes[@]}"; do
        ! may_die "$process" || victims+=("$process")
    done
    if ((${#victims[@]} > 0)); then
        random ${#victims[@]}
        act "SIGKILL ${victims[r]}"
        send KILL "${victims[r]}"
    fi
    for process in "${processes[@]}"; do
        [[ -n ${stopped[$process]:-} ]] || grep -qsx "$process" "$folder"/late.* ||
            send CONT "$process"
    done
}

# ---- laws ----

# Whether the one process listens. Sets inode, the listener's, and port.
finds_listener() {
    local inodes
    find_processes
    inodes=" $(find "/proc/${processes[0]:-0}/fd" -lname 'socket:*' -printf '%l ' 2>/dev/null |
        tr -dc '0-9 ')"
    read -r inode port < <(awk -v inodes="$inodes" '$4 == "0A" && index(inodes, " " $10 " ") {
        split($2, address, ":"); print $10, address[2] }' /proc/net/tcp) && port=$((16#$port))
}

start_server() {
    (
        cd "$folder"
        for fd in "/proc/$BASHPID/fd"/*; do
            fd=${fd##*/}
            ((fd < 3)) || eval "exec $fd>&-"
        done
        exec "${command[@]}" </dev/null >/dev/null 2>"$log"
    ) &
    [[ ${options[*]} != *--supervise* ]] || supervisor=$!
    disown # how it ends is not for bash to say
    wait_for 10 finds_listener
    wait_for 10 settled "${processes[0]}"
    descriptors=$(descriptors_of "${processes[0]}")
}

descriptors_of() {
    find "/proc/$1/fd" -mindepth 1 2>/dev/null | wc -l
}

start_hammer() {
    "$root/build/hammer" --verbose --duration 1000000 --deadline 60 --pause "$pause" --think 20 \
        -k 16 -t 16 -p 4 -c 4 -s 8 -i "$idle" "${load[@]}" "127.0.0.1:$port" >"$folder/hammer" 2>"$folder/clients" &
    hammer=$!
    wait_for 30 grep -qs '^idle' "$folder/clients"
}

end_hammer() {
    kill -INT "$hammer"
    wait "$hammer" || true
    hammer=0
    local allowed=
    case $mode in
    1) allowed='failed=0 refused=0 closed=0 announced=0 wrong=0 ' ;;
    2) allowed='refused=0 .*wrong=0 ' ;;
    esac
    grep '^total' "$folder/hammer" || fail 'the load did not end'
    grep -Eq "^total .*answered=[1-9].* $allowed" "$folder/hammer" || fail 'clients have noticed'
}

one_left() {
    release_late
    find_processes
    ((${#processes[@]} == 1))
}

names_one_left() {
    one_left && { [[ $server == echo ]] || named "${processes[0]}"; }
}

replaced() {
    names_one_left && [[ ${processes[0]} != "$1" ]]
}

has_descriptors() {
    (($(descriptors_of "$1") <= descriptors))
}

serves() {
    local fd line=
    exec {fd}<>"/dev/tcp/127.0.0.1/$port" || return
    printf 'GET / HTTP/1.0\r\n\r\n' >&"$fd"
    read -r -t 10 -u "$fd" line || true
    exec {fd}>&-
    [[ $line == 'HTTP/1.1 200 '* || ($server == echo && $line == GET*) ]]
}

# has_failed_to PID: whether the process has tried to restart, and knows that it failed.
has_failed_to() {
    [[ -e $folder/tried ]] && ! pgrep -P "$1" >"$folder/children"
}

# ask_until COMMAND PID: asks the process for a restart until COMMAND PID succeeds: where the machine
# is busy, a successor may not be ready in time.
ask_until() {
    local tries
    for ((tries = 0; tries < 20; tries++)); do
        rm -f "$folder/tried"
        send USR1 "$2"
        ! wait_for 3 "$@" || return 0
    done
    return 1
}

be_quiet() {
    local process
    act quiet
    install_real
    continue_all
    wait_for 10 none_late || fail "a successor that was to crash did not"
    end_hammer
    wait_for 30 one_left || fail "there are left: ${processes[*]}"
    ((${#processes[@]} > 0)) || return 0
    for ((i = 0; i < 3; i++)); do
        process=${processes[0]}
        install_program "$name" "$folder/kinds/exits"
        install_program "${name}1" "$folder/kinds/exits"
        ask_until has_failed_to "$process" || fail "$process did not try to restart"
        install_real
        wait_for 5 one_left || fail "there are left: ${processes[*]}"
        serves || fail 'no answer'
        holds_listener "$process" || fail "$process does not hold the listener"
        wait_for 5 names_one_left || fail "the pid file does not name $process"
        wait_for 5 has_descriptors "$process" ||
            fail "$process holds $(descriptors_of "$process") descriptors, more than $descriptors"
        ask_until replaced "$process" || fail "$process is not replaced"
    done
}

clean_up() {
    local process
    trap '' INT TERM HUP
    ((hammer == 0)) || send KILL "$hammer"
    find_processes
    for process in "${processes[@]}"; do
        send KILL "$process"
    done
    ((supervisor == 0)) || send KILL "$supervisor"
    wait
    [[ -n ${CHAOS_KEEP:-} ]] || rm -rf "$folder"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

[[ $mode == 1 || ($mode == 2 && $server == http) ]] ||
    { echo "chaos: no such mode: $mode" && exit 2; }
echo "chaos: mode $mode for $seconds s, seed $seed"
acts=(restart_any restart_any restart_any restart_all restart_many stop_any stop_any stop_any
    change_successor change_successor crash_after_claim)
[[ $server == echo ]] || acts+=(kill_early)
((mode == 1)) || acts+=(kill_any kill_any kill_any)
tick
started=$now
make_programs
start_server
start_hammer
tick
started=$now
end=$((SECONDS + seconds))
while ((SECONDS < end)); do
    find_processes
    ((${#processes[@]} > 0)) || break
    random ${#acts[@]}
    "${acts[r]}"
    random 80
    pause "$r"
    continue_due
    release_late
done
be_quiet
((supervisor == 0)) || [[ $(pgrep -P "$supervisor") == "${processes[*]}" ]] ||
    fail "the supervisor has these processes: $(pgrep -P "$supervisor" | tr '\n' ' ')"
! grep -Eq 'ERROR: AddressSanitizer: |runtime error: ' "$log" || fail 'the build has found a defect'
if ((failures > 0)); then
    grep -sv '^idle' "$folder/clients" | head -n 20
    echo "chaos: $failures failures; the last acts, and the log:"
    tail -n 30 "$folder/acts"
    tail -n 60 "$log"
    exit 1
fi
echo "chaos: $(wc -l <"$folder/acts") acts, $(grep -c 'listening on' "$log") processes," \
    "$(grep -c 'restart failed' "$log") failed restarts"
