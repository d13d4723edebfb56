#!/usr/bin/env bash
# SPDX-License-Identifier: 0BSD
# What clients notice when a server is restarted under load, ours and others: `make bench-restart`.
# Prints a table in Markdown and draws latency over time in test/bench/restart.svg. Each server gets
# the same clients, for the same time, and is restarted as its manual says. Each has one worker,
# keep-alive without limits and no access log.
#
#   RESTARTS, DURATION   how often in how many seconds (10 in 20)
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH=$PATH:/usr/sbin

restarts=${RESTARTS:-10}
duration=${DURATION:-20}
# Some pauses, so that no server is busy all the time: latencies then tell of the server.
load=(--keepalive 16 --thinking 16 --pipelining 4 --connecting 4 --slow 8 --idle 500 --pause 2)

picture=test/bench/restart.svg
interval=50 # ms: the picture shows the longest latency in each

name=rust_graceful_restart
hammer_program=$PWD/build/hammer
folder=$(mktemp -d)
port=0

# All that was started, and what that started, has the folder for its working folder.
ours() {
    find /proc -mindepth 2 -maxdepth 2 -name cwd -lname "$folder" 2>/dev/null | cut -d / -f 3
}

signal_ours() {
    local pids
    mapfile -t pids < <(ours)
    ((${#pids[@]} == 0)) || kill "-$1" "${pids[@]}" 2>/dev/null || true
}

end_ours() {
    signal_ours TERM
    for ((tries = 0; tries < 50; tries++)); do
        [[ -n $(ours) ]] || return 0
        sleep 0.1
    done
    signal_ours KILL
}

clean_up() {
    trap '' INT TERM HUP
    end_ours
    rm -rf "$folder"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

give_up() {
    echo "bench-restart: $*" >&2
    exit 1
}

# wait_for COMMAND...: until it succeeds, for 10 s at most.
wait_for() {
    for ((tries = 0; tries < 500; tries++)); do
        ! "$@" || return 0
        sleep 0.02
    done
    give_up "waited in vain for: $*"
}

answers() {
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null
}

# Sets port to a free one, below those that the kernel gives to clients.
find_port() {
    port=$((20000 + RANDOM % 10000))
    while answers; do
        port=$((port + 1))
    done
}

in_folder() {
    (cd "$folder" && exec "$@" </dev/null >>"$folder/log" 2>&1) &
}

# ---- for each server: version, start, serving (which process), restart (the process OLD) ----

ours_version() {
    "./$name" --version
}

ours_start() {
    cp "$name" "${name}1" "$folder"
    in_folder "./$name" --listen "127.0.0.1:$port"
}

ours_serving() {
    sed -nE 's/.*\[([0-9]+)\]: listening on .*/\1/p' "$folder/log" | tail -n 1
}

ours_restart() {
    kill -USR1 "$1"
}

nginx_version() {
    nginx -v 2>&1 | sed 's/.*: //; s,/, ,'
}

nginx_start() {
    cat >"$folder/nginx.conf" <<END
worker_processes 1;
worker_rlimit_nofile 10000;
pid $folder/nginx.pid;
error_log $folder/log;
events {
    worker_connections 5000;
}
http {
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 60;
    client_body_temp_path $folder/body;
    proxy_temp_path $folder/proxy;
    fastcgi_temp_path $folder/fastcgi;
    uwsgi_temp_path $folder/uwsgi;
    scgi_temp_path $folder/scgi;
    server {
        listen 127.0.0.1:$port backlog=4096;
        default_type text/plain;
        location = / {
            return 200 "Hello, World!";
        }
    }
}
END
    in_folder "$(command -v nginx)" -p "$folder" -c "$folder/nginx.conf"
}

# The master process, once it has a worker.
nginx_serving() {
    local master
    read -r master 2>/dev/null <"$folder/nginx.pid" && pgrep -P "$master" >/dev/null && echo "$master"
}

nginx_succeeded() {
    local master
    master=$(nginx_serving) && [[ $master != "$1" ]]
}

nginx_restart() {
    kill -USR2 "$1"
    wait_for nginx_succeeded "$1"
    kill -QUIT "$1"
}

haproxy_version() {
    haproxy -v | sed -nE '1s/^([^ ]+) version ([^ -]+).*/\1 \2/p'
}

haproxy_start() {
    cat >"$folder/haproxy.cfg" <<END
global
    nbthread 1
    maxconn 5000
    stats socket $folder/haproxy.sock mode 600 level admin expose-fd listeners
defaults
    mode http
    timeout connect 10s
    timeout client 60s
    timeout server 60s
    timeout http-keep-alive 60s
    timeout http-request 60s
frontend all
    bind 127.0.0.1:$port backlog 4096
    http-request return status 200 content-type text/plain string "Hello, World!"
END
    in_folder haproxy -W -f "$folder/haproxy.cfg"
    haproxy_master=$!
}

# The worker process that came last.
haproxy_serving() {
    pgrep -n -P "$haproxy_master"
}

haproxy_restart() {
    kill -USR2 "$haproxy_master"
}

# ---- the table ----

# succeeded SERVER OLD: another process serves than OLD.
succeeded() {
    local serving
    serving=$("$1_serving") && [[ -n $serving && $serving != "$2" ]]
}

# row NAME: the line of the report that starts with it, without what stands before each "=".
row() {
    local words
    read -r -a words < <(grep "^$1 " "$folder/report")
    echo "${words[@]#*=}"
}

# Prints four of the latencies in a line of the report.
latencies() {
    local words
    read -r -a words < <(row "$1")
    printf '%s / %s / %s / %s' "${words[7]}" "${words[9]}" "${words[10]}" "${words[11]}"
}

print_row() {
    local words
    read -r -a words < <(row total)
    printf '| %s | %d | %s | %s | %s | %s | %s | %s | %s | %s |\n' "$("$1_version")" "$2" \
        "${words[@]:1:6}" "$(latencies quiet)" "$(latencies restart)"
}

all_idle() {
    grep -q '^idle' "$folder/said"
}

# ---- the picture: restart.gnuplot describes the files that it is drawn from ----

# note_restart SERVER: the time is that of the last line of progress, at most one interval ago.
note_restart() {
    awk '$1 == "progress" { ms = $2 } END { print ms / 1000 }' "$folder/report" \
        >>"$folder/$1.restarts"
}

# note_timeline SERVER: the fields of a line of progress are described in hammer --help.
note_timeline() {
    local words
    read -r -a words < <(row total)
    printf '%s\n' "$("$1_version")" $((words[2] + words[3] + words[6])) "${words[4]}" \
        >"$folder/$1.totals"
    awk '$1 == "progress" {
        failed = $4 + $5 + $8
        closed = $6
        print $2 / 1000, ($3 > 0 ? $9 : "-"), failed - failed_before, closed - closed_before
        failed_before = failed
        closed_before = closed
    }' "$folder/report" >"$folder/$1.timeline"
}

# draw SERVER...: gnuplot draws for a light page; the style makes the colours brighter on a dark one.
draw() {
    if ! command -v gnuplot >/dev/null; then
        echo $'\n'"Not installed, so no picture was drawn: gnuplot."
        return
    fi
    gnuplot -c test/bench/restart.gnuplot "$folder" "$duration" "$interval" "$@" >"$folder/picture"
    sed '/^>$/r /dev/stdin' "$folder/picture" >"$picture" <<'END'
<style>
@media (prefers-color-scheme: dark) {
    [stroke^="rgb( 87,"] { stroke: #9198a1 }
    [fill^="rgb(87,"] { fill: #9198a1 }
    [stroke^="rgb(  9,"] { stroke: #4493f8 }
    [color^="rgb(207,"] { color: #f85149 }
    [fill^="rgb(207,"] { fill: #f85149 }
    [color^="rgb(154,"] { color: #d29922 }
    [fill^="rgb(154,"] { fill: #d29922 }
}
</style>
END
    echo $'\n'"Latency over time: $picture"
}

measure() {
    local count old hammer gap
    gap=$(awk "BEGIN { print $duration / ($restarts + 1) }")
    : >"$folder/log"
    : >"$folder/said"
    : >"$folder/$1.restarts"
    find_port
    "$1_start"
    wait_for answers
    wait_for succeeded "$1" none
    (cd "$folder" && exec "$hammer_program" "${load[@]}" --duration "$duration" \
        --progress "$interval" "127.0.0.1:$port" >"$folder/report" 2>"$folder/said") &
    hammer=$!
    wait_for all_idle
    for ((count = 0; count < restarts; count++)); do
        sleep "$gap"
        old=$("$1_serving")
        kill -USR1 "$hammer" 2>/dev/null || break # the time is over
        note_restart "$1"
        "$1_restart" "$old"
        wait_for succeeded "$1" "$old"
    done
    wait "$hammer" || true
    print_row "$1" "$count"
    note_timeline "$1"
    end_ours
}

cat <<END
$restarts restarts in $duration s. Latencies in ms: p50 / p99 / p99.9 / max, outside and within half a
second after a restart.

| server | restarts | answered | failed | refused | closed between requests | closed after an announcement | wrong | latency, quiet | latency, restart |
|---|---|---|---|---|---|---|---|---|---|
END
measured=()
missing=()
for server in ours nginx haproxy; do
    if [[ $server == ours ]] || command -v "$server" >/dev/null; then
        measure "$server"
        measured+=("$server")
    else
        missing+=("$server")
    fi
done
((${#missing[@]} == 0)) || echo $'\n'"Not installed, so not measured: ${missing[*]}."
draw "${measured[@]}"
