#!/usr/bin/env bash
# SPDX-License-Identifier: 0BSD
# Ten restarts between two versions of the server, under load, to watch: `make demo`. Then one into
# a version that crashes soon after it took over, and is rolled back.
# A line every 100 ms says how many requests were answered in it, and which process serves.
# Exit status: 0 if the ten restarts lost no request and no connection, and the bad one was rolled back.
set -euo pipefail
cd "$(dirname "$0")/../.."

name=rust_graceful_restart
restarts=10
width=24

folder=$(mktemp -d)
log=$folder/log
bar=$(printf '%*s' "$width" '')
case ${LC_ALL:-${LC_CTYPE:-${LANG:-}}} in
*[Uu][Tt][Ff]*) bar=${bar// /█} ;;
*) bar=${bar// /#} ;;
esac
if [[ -t 1 && -z ${NO_COLOR:-} && ${TERM:-dumb} != dumb ]]; then
    colours=($'\e[34m' $'\e[32m') bold=$'\e[1m' plain=$'\e[0m'
else
    colours=('' '') bold='' plain=''
fi

# The processes that run one of our programs.
ours() {
    find /proc -mindepth 2 -maxdepth 2 -name exe -lname "$folder/*" 2>/dev/null | cut -d / -f 3
}

signal_ours() {
    local pids
    mapfile -t pids < <(ours)
    ((${#pids[@]} == 0)) || kill "-$1" "${pids[@]}" 2>/dev/null || true
}

clean_up() {
    trap '' INT TERM HUP
    signal_ours TERM
    for ((i = 0; i < 50; i++)); do
        [[ -n $(ours) ]] || break
        sleep 0.1
    done
    signal_ours KILL
    rm -rf "$folder"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# build VERSION PROGRAM AS [LDFLAGS]: apart from what the user has built.
build() {
    MAKEFLAGS='' make -s -C "$folder/build" VERSION="$1" ${4:+LDFLAGS="$4"} "$2"
    cp "$folder/build/$2" "$folder/$3"
}

# Two versions, each as one of the two names, and one that crashes at its 500th answer: at its first
# one, the old process would not have handed over yet.
build_all() {
    mkdir -p "$folder/build/test"
    cp Makefile ./*.c ./*.h "$folder/build"
    cp test/Makefile "$folder/build/test"
    cp build/hammer "$folder"
    build 1.0 "$name" "$name"
    build 2.0 "${name}1" "${name}1"
    cat >"$folder/build/bad.c" <<'END'
#include <stdlib.h>
#include <sys/socket.h>
ssize_t __real_send(int, const void *, size_t, int);
ssize_t __wrap_send(int fd, const void *bytes, size_t size, int flags)
{
    static int answers;
    if (++answers == 500)
        abort();
    return __real_send(fd, bytes, size, flags);
}
END
    build 3.0 "${name}1" bad '-fPIE -Wl,--wrap=send bad.c'
}

# Reads what the log says since it was last asked. Sets pid, version and port of the process that
# serves, and says to which process it has handed over, or why a version was rolled back.
listening='\[([0-9]+)\]: listening on [^ ]*:([0-9]+).*, version (.*)$'
handed='\[([0-9]+)\]: handed over to ([0-9]+)$'
back='\[([0-9]+)\]: (rolled back: .*)$'
declare -A versions
follow_log() {
    local line
    while IFS= read -r line <&"$log_lines"; do
        if [[ $line =~ $listening ]]; then
            pid=${BASH_REMATCH[1]} port=${BASH_REMATCH[2]} version=${BASH_REMATCH[3]}
            versions[$pid]=$version
        elif [[ $line =~ $back ]]; then
            pid=${BASH_REMATCH[1]} event+=", ${BASH_REMATCH[2]}"
            version=${versions[$pid]}
            rolled_back=$((rolled_back + 1))
        elif [[ $line =~ $handed ]]; then
            event+="handed over to ${BASH_REMATCH[2]}"
            hand_overs=$((hand_overs + 1))
        fi
    done
}

start_server() {
    : >"$log"
    (cd "$folder" && exec "./$name" --listen 127.0.0.1:0 --rollback-timeout 10 </dev/null \
        2>>"$log") &
    exec {log_lines}<"$log"
    pid='' port='' version='' hand_overs=0 rolled_back=0 event=''
    for ((i = 0; i < 100; i++)); do
        follow_log
        [[ -z $port ]] || return 0
        sleep 0.1
    done
    cat "$log" >&2
    exit 1
}

# show_line MS ANSWERED LOST: one tenth of a second.
most=1
show_line() {
    local colour=${colours[0]} length
    [[ $version == 1.0 ]] || colour=${colours[1]}
    (($2 <= most)) || most=$2
    length=$(($2 * width / most))
    printf '%2d.%d s %8d %s%s%s%*s %4d %s%7d %-3s%s%s\n' "$(($1 / 1000))" "$(($1 / 100 % 10))" \
        "$2" "$colour" "${bar:0:length}" "$plain" "$((width - length))" '' "$3" "$colour" "$pid" \
        "$version" "$plain" "$event"
}

# load SECONDS RESTARTS: shows the hammer's lines of progress, and restarts the server at every tenth;
# what remains of its output is the report. Sets report, and status, the hammer's.
load() {
    local tag ms answered rest lost lines=0 done=0 hammer_lines hammer
    exec {hammer_lines}< <(exec "$folder/hammer" --duration "$1" --progress 100 --pause 2 \
        "127.0.0.1:$port" 2>>"$folder/hammer.log")
    hammer=$!
    report=()
    printf '%s%6s %8s %*s %4s %7s %s%s\n' "$bold" time answered "$width" '' lost pid version "$plain"
    while IFS=' ' read -r tag ms answered rest <&"$hammer_lines"; do
        if [[ $tag != progress ]]; then
            report+=("$tag $ms $answered $rest")
            continue
        fi
        rest=${rest% *} # without the latency: failed, refused, closed, announced, wrong
        lost=$((${rest// / + }))
        follow_log
        show_line "$ms" "$answered" "$lost"
        event=''
        lines=$((lines + 1))
        if ((lines % 10 == 0 && done < $2)); then
            done=$((done + 1))
            kill -USR1 "$hammer"
            kill -USR1 "$pid"
            event=" restart $done: "
        fi
    done
    exec {hammer_lines}<&-
    status=0
    wait "$hammer" || status=$?
}

show_report() {
    local line words
    printf '\n%s%-11s %9s %6s %7s %6s %9s %5s  %8s %8s %8s%s\n' "$bold" clients answered failed \
        refused closed announced wrong 'p50 ms' 'p99 ms' 'max ms' "$plain"
    for line in "${report[@]}"; do
        read -r -a words <<<"$line"
        words=("${words[@]#*=}")
        printf '%-11s %9s %6s %7s %6s %9s %5s  %8s %8s %8s\n' "${words[@]:0:8}" "${words[9]}" \
            "${words[11]}"
    done
    printf '\n%s\n%s\n' \
        'closed: between two requests, without a word; announced: with Connection: close.' \
        'quiet, restart: all clients, outside and within half a second after a restart.'
}

# give_up WHAT: says so, and what the server and the hammer said.
give_up() {
    printf '%s%s%s\n' "$bold" "$1" "$plain"
    cat "$log" "$folder/hammer.log" >&2
    exit 1
}

[[ -x build/hammer ]] || make -s build/hammer
build_all
start_server
load $((restarts + 2)) "$restarts"
show_report
printf '\n%d restarts, %d hand-overs.\n' "$restarts" "$hand_overs"
((status == 0 && hand_overs == restarts)) ||
    give_up 'NOT every request was answered on a connection left open.'
printf '%sEvery request was answered, and no connection was closed.%s\n' "$bold" "$plain"

printf '\nNow a version that crashes soon, with --rollback-timeout 10.\n\n'
mv "$folder/bad" "$folder/${name}1"
load 3 1
show_report
((rolled_back == 1)) || give_up 'The version was NOT rolled back.'
printf '\n%sThe old process serves again. Connections that the new process already had are lost.%s\n' "$bold" "$plain"
