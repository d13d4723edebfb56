#!/usr/bin/env bash
# SPDX-License-Identifier: 0BSD
# Measures what a request costs: this server, the floor (test/bench/floor.c) and whichever of nginx,
# HAProxy, lighttpd and h2o are installed, in turn, on one core, with the load on another; and what
# a head costs the parser. Prints Markdown. All answer 200 with the same 13 bytes; what else their
# heads say is theirs.
#
#     test/bench/bench.sh [ROUNDS [SECONDS [SERVER...]]]    5 rounds of 3 seconds, all servers
#
# IDLE=N how many connections are idle in the part about them (10000). ONLY=parse, load, idle or
# start: one part alone. PICOHTTPPARSER and LLHTTP: the folders of the sources of picohttpparser and
# llhttp (a release, with src/llhttp.c), whose parsers are then measured beside http_parse.
#
# The floor always takes part: all is compared with it, round by round, because machines drift. If
# its own rounds differ by more than a tenth, they are done again, at most twice; after that there
# are no ratios.
set -euo pipefail
cd "$(dirname "$0")/../.."
PATH=$PATH:/usr/sbin:/sbin

rounds=${1:-5}
seconds=${2:-3}
(($# > 2)) && wanted=("${@:3}") || wanted=(rust_graceful_restart nginx haproxy lighttpd h2o)
idle=${IDLE:-10000}
only=${ONLY:-all}
starts=40 # of each server and round

folder=$(mktemp -d)
chmod 755 "$folder" # a server that gives up root reads from it, too
declare -A pid port
servers=()

say() { echo "$*" >&2; }
progress() { [ ! -t 2 ] || say "$*"; }

end() { # PID...: each was started here
    for p in "$@"; do
        kill -KILL "$p" 2>/dev/null || true
        wait "$p" 2>/dev/null || true
    done
}

finish() {
    mapfile -t left < <(jobs -p)
    end "${left[@]}"
    rm -rf "$folder"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

# Servers on one core, the load on another.
if (($(nproc) > 1)); then
    on_server=(taskset -c 0) on_load=(taskset -c 1)
else
    on_server=() on_load=()
    say "there is only one core: server and load share it"
fi

# ---- servers ----

answers() { # PORT
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

find_port() { # below those that the kernel gives to clients; all of five digits: equal requests
    port_found=$((20000 + RANDOM % 12000))
    while answers $port_found; do
        port_found=$((port_found + 1))
    done
}

configure() { # SERVER PORT: says how to start it in the array command
    local conf=$folder/$1.conf
    case $1 in
    floor) command=(build/floor "$2" "$request_length") ;;
    floor-pipelined) command=(build/floor "$2" $((16 * (request_length + 1) + 3 * 120)) 16) ;;
    floor-close) command=(build/floor "$2" $((request_length + 19)) 1 close) ;;
    floor-start) command=(build/floor "$2" 35) ;;
    rust_graceful_restart) command=(./rust_graceful_restart -l "127.0.0.1:$2" --idle-timeout 600) ;;
    nginx)
        command=(nginx -e "$folder/nginx.log" -p "$folder" -c "$conf")
        cat >"$conf" <<END
daemon off;
master_process off;
pid $folder/nginx.pid;
error_log $folder/nginx.log;
events { worker_connections $((idle + 1000)); }
http {
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
    client_body_temp_path $folder/nginx-1;
    proxy_temp_path $folder/nginx-2;
    fastcgi_temp_path $folder/nginx-3;
    uwsgi_temp_path $folder/nginx-4;
    scgi_temp_path $folder/nginx-5;
    server {
        listen 127.0.0.1:$2 backlog=4096;
        location / { default_type "text/plain; charset=utf-8"; return 200 "Hello, World!"; }
    }
}
END
        ;;
    haproxy)
        command=(haproxy -db -q -f "$conf")
        cat >"$conf" <<END
global
    nbthread 1
    maxconn $((idle + 500))
    no strict-limits
defaults
    mode http
    timeout client 600s
    timeout http-keep-alive 600s
frontend hello
    bind 127.0.0.1:$2 backlog 4096
    http-request return status 200 content-type "text/plain; charset=utf-8" string "Hello, World!"
END
        ;;
    lighttpd)
        command=(lighttpd -D -f "$conf")
        cat >"$conf" <<END
server.bind = "127.0.0.1"
server.port = $2
server.document-root = "$folder/www"
server.upload-dirs = ("$folder")
server.errorlog = "$folder/lighttpd.log"
server.listen-backlog = 4096
server.max-connections = $((idle + 500))
server.max-fds = $(ulimit -n)
server.max-keep-alive-requests = 65535
server.max-keep-alive-idle = 600
index-file.names = ("hello.txt")
mimetype.assign = (".txt" => "text/plain; charset=utf-8")
END
        ;;
    h2o)
        command=(h2o -c "$conf")
        cat >"$conf" <<END
num-threads: 1
max-connections: $((idle + 1000))
http1-request-timeout: 600
error-log: $folder/h2o.log
file.index: [hello.txt]
listen: { host: 127.0.0.1, port: $2 }
hosts: { default: { paths: { "/": { file.dir: $folder/www } } } }
END
        ;;
    *) return 1 ;;
    esac
}

start() { # SERVER
    find_port
    port[$1]=$port_found
    configure "$1" "$port_found"
    "${on_server[@]}" "${command[@]}" >"$folder/$1.out" 2>&1 &
    pid[$1]=$!
    for ((i = 0; i < 100; i++)); do
        answers "$port_found" && return
        sleep 0.05
    done
    say "$1 does not start here:"
    tail -n 3 "$folder/$1.out" >&2
    stop "$1"
    return 1
}

stop() { # SERVER
    end "${pid[$1]}"
    unset "pid[$1]"
}

version() { # SERVER
    case $1 in
    floor) echo "floor (does not parse)" ;;
    rust_graceful_restart) ./rust_graceful_restart --version ;;
    *) echo "$1 $("$1" -v 2>&1 | grep -o '[0-9][0-9.]*[0-9]' | head -n 1)" ;;
    esac
}

find_servers() {
    for server in floor "${wanted[@]}"; do
        if ! configure "$server" 0; then
            say "$server: unknown"
        elif command -v "${command[0]}" >/dev/null; then
            servers+=("$server")
            versions[${#servers[@]}]=$(version "$server")
        fi
    done
}

# ---- load ----

cpu_time() { # PID: nanoseconds, all threads
    cat "/proc/$1"/task/*/schedstat | awk '{ sum += $1 } END { printf "%.0f", sum }'
}

# Appends to the results: PART ROUND SERVER, CPU microseconds a request, requests a second, p50 and
# p99 in microseconds.
load() { # PART ROUND SERVER [SCENARIO]
    local server=$3 arguments=(-t1 -c64 "-d$seconds" --latency) before after
    case ${4:-$1} in
    pipelined) arguments+=(-s "$folder/pipelined.lua") ;;
    close) arguments+=(-H "Connection: close") ;;
    esac
    [ -z "${pid[$server-$1]:-}" ] || server+=-$1
    before=$(cpu_time "${pid[$server]}")
    if ! "${on_load[@]}" wrk "${arguments[@]}" "http://127.0.0.1:${port[$server]}/" >"$folder/wrk" ||
        ! after=$(cpu_time "${pid[$server]}"); then
        say "$3, $1: the load failed"
        return
    fi
    grep -E "Socket errors|Non-2xx" "$folder/wrk" | sed "s/^/$3, $1:/" >&2 || true
    awk -v key="$1 $2 $3" -v cpu=$((after - before)) '
        function us(t) { return t * (t ~ /us$/ ? 1 : t ~ /ms$/ ? 1000 : 1000000) }
        $1 == "50%" { p50 = us($2) }
        $1 == "99%" { p99 = us($2) }
        / requests in / { n = $1 }
        /^Requests\/sec/ { rate = $2 }
        END { if (n) print key, cpu / 1000 / n, rate, p50, p99 }' "$folder/wrk" >"$folder/result"
    [ -s "$folder/result" ] || say "$3, $1: nothing answered"
    cat "$folder/result" >>"$folder/results"
}

# cell(LIST): the median of LIST, with the lowest and the highest.
medians='
function median(list,    a, n, i, j, t) {
    n = split(list, a, " ")
    for (i = 2; i <= n; i++)
        for (j = i; j > 1 && a[j - 1] + 0 > a[j] + 0; j--) { t = a[j]; a[j] = a[j - 1]; a[j - 1] = t }
    lowest = a[1]; highest = a[n]
    return n % 2 ? a[(n + 1) / 2] : (a[n / 2] + a[n / 2 + 1]) / 2
}
function cell(list,    m) { m = median(list); return sprintf("%.2f (%.2f-%.2f)", m, lowest, highest) }
function ratio(list) { return steady ? sprintf("%.2f", median(list)) : "-" }'

load_average() { cut -d ' ' -f 1-3 /proc/loadavg; }

# Does COMMAND, which appends rounds of PART to the results, again while those of SERVER differ by
# more than a tenth, and says what was done. Sets steady.
measure() { # TITLE PART SERVER COMMAND...
    local before
    before=$(load_average)
    for ((attempt = 1; attempt <= 3; attempt++)); do
        : >"$folder/results"
        "${@:4}"
        steady=$(awk -v part="$2" -v server="$3" '
            $1 == part && $3 == server { if (!n++ || $4 < low) low = $4; if ($4 > high) high = $4 }
            END { print n && high <= low * 1.1 ? 1 : 0 }' "$folder/results")
        ((steady == 0)) || break
    done
    printf '\n%s; %s rounds: median (lowest-highest); load average %s before, %s after' \
        "$1" "$rounds" "$before" "$(load_average)"
    ((steady == 1)) || printf '; no ratios: the rounds of %s differ by more than a tenth' "$3"
    printf ':\n\n'
}

load_rounds() { # PART
    for ((round = 0; round < rounds; round++)); do
        progress "$1: round $((round + 1)) of $rounds"
        for i in "${!servers[@]}"; do
            server=${servers[(i + round) % ${#servers[@]}]} # each is first once
            [ -z "${pid[$server]:-}" ] || load "$1" "$round" "$server"
        done
    done
}

table() { # PART TITLE
    measure "$2, $seconds s each" "$1" floor load_rounds "$1"
    echo "| | CPU µs/request | of the floor | requests/s | p50 µs | p99 µs |"
    echo "|---|---:|---:|---:|---:|---:|"
    for i in "${!servers[@]}"; do
        awk -v part="$1" -v server="${servers[i]}" -v name="${versions[i + 1]}" -v steady="$steady" \
            "$medians"'
            $1 == part && $3 == "floor" { floor[$2] = $4 }
            $1 == part && $3 == server { mine[$2] = $4; cpu = cpu $4 " "; rate = rate $5 " "
                                         p50 = p50 $6 " " # which wrk does not always find
                                         if ($7) p99 = p99 $7 " " }
            END {
                for (round in mine)
                    if (floor[round]) ratios = ratios mine[round] / floor[round] " "
                if (cpu) printf "| %s | %s | %s | %d | %d | %d |\n", name, cell(cpu),
                                ratio(ratios), median(rate), median(p50), median(p99)
            }' "$folder/results"
    done
}

load_part() {
    for server in "${servers[@]}" floor-pipelined floor-close; do
        start "$server" || true
    done
    table alive "64 connections kept alive, GET /"
    table pipelined "64 connections, 16 requests at once, GET /?... of 16 lengths"
    table close "A connection per request, 64 at once, GET /"
    for server in "${!pid[@]}"; do
        stop "$server"
    done
}

# ---- idle connections ----

memory() { # PID: KiB resident, proportional, its own
    awk '$1 == "Rss:" { rss = $2 } $1 == "Pss:" { pss = $2 } $1 == "Private_Dirty:" { own = $2 }
         END { print rss, pss, own }' "/proc/$1/smaps_rollup"
}

hold() { # SERVER: $idle connections to it, each answered once; the hammer's pid is in hammer
    : >"$folder/hammer.err"
    "${on_load[@]}" build/hammer -i "$idle" -d 3600 "127.0.0.1:${port[$1]}" \
        >"$folder/hammer" 2>"$folder/hammer.err" &
    hammer=$!
    for ((i = 0; i < 600; i++)); do
        if grep -Eqs "idle $idle" "$folder/hammer.err"; then
            sleep 0.2
            return
        fi
        sleep 0.1
    done
    say "$1 does not hold $idle connections"
    end "$hammer"
    return 1
}

# Each server afresh and alone: what it holds from earlier does not count.
idle_with() { # SERVER
    local rss pss own more
    start "$1" || return 0
    load warm 0 "$1" alive
    read -r rss pss own < <(memory "${pid[$1]}")
    for ((round = 0; round < rounds; round++)); do
        load without "$round" "$1" alive
        hold "$1" || break
        ((round > 0)) || read -r _ _ more < <(memory "${pid[$1]}")
        load with "$round" "$1" alive
        end "$hammer"
    done
    stop "$1"
    [ -z "${more:-}" ] || echo "$1 $rss $pss $own $more" >>"$folder/memory"
}

idle_rounds() {
    : >"$folder/memory"
    for server in "${servers[@]}"; do
        progress "$idle idle connections: $server"
        idle_with "$server"
    done
}

idle_part() {
    measure "Memory, and $idle idle connections beside 64 kept alive, $seconds s each" without floor \
        idle_rounds
    echo "| | KiB resident | proportional | own | own bytes/idle connection |" \
        "CPU µs/request beside them | of that without | requests/s of those without |"
    echo "|---|---:|---:|---:|---:|---:|---:|---:|"
    for i in "${!servers[@]}"; do
        awk -v server="${servers[i]}" -v name="${versions[i + 1]}" -v count="$idle" \
            -v steady="$steady" "$medians"'
            FILENAME ~ /memory$/ && $1 == server { rss = $2; pss = $3; own = $4
                                                   each = ($5 - $4) * 1024 / count }
            $1 == "without" && $3 == server { cpu[$2] = $4; rate[$2] = $5 }
            $1 == "with" && $3 == server { with = with $4 " "; cpus = cpus $4 / cpu[$2] " "
                                           rates = rates $5 / rate[$2] " " }
            END {
                if (rss) printf "| %s | %d | %d | %d | %d | ", name, rss, pss, own, each
                if (with) printf "%s | %s | %s |\n", cell(with), ratio(cpus), ratio(rates)
                else if (rss) print "- | - | - |"
            }' "$folder/memory" "$folder/results"
    done
}

# ---- start ----

time_start() { # ROUND SERVER ARGUMENTS-OF-START...
    local us
    us=$("$folder/start" "${@:3}" 2>"$folder/start.err") || us=
    [ -z "$us" ] || echo "start $1 $2 $us" >>"$folder/results"
}

start_rounds() {
    for ((round = 0; round < rounds; round++)); do
        progress "starts: round $((round + 1)) of $rounds"
        time_start $round true end $starts /bin/true
        for server in floor-start "${servers[@]:1}"; do
            configure "$server" "$port_found"
            command[0]=$(command -v "${command[0]}")
            time_start $round "$server" answer $starts "$port_found" "${command[@]}"
        done
        time_start $round hand-over hand-over $starts ./rust_graceful_restart -l 127.0.0.1:0
    done
}

start_part() {
    ${CC:-cc} -std=gnu11 -D_GNU_SOURCE -O2 -o "$folder/start" test/bench/start.c
    find_port
    measure "Start, against spawning /bin/true and waiting for its end, $starts times each" start \
        true start_rounds
    echo "| | µs | of /bin/true |"
    echo "|---|---:|---:|"
    row true "/bin/true"
    row floor-start "floor, to the first answer"
    for i in "${!servers[@]}"; do
        ((i == 0)) || row "${servers[i]}" "${versions[i + 1]}, to the first answer"
    done
    row hand-over "rust_graceful_restart, from the signal to the hand-over"
}

row() { # SERVER NAME
    awk -v server="$1" -v name="$2" -v steady="$steady" "$medians"'
        $1 == "start" && $3 == "true" { base[$2] = $4 }
        $1 == "start" && $3 == server { us = us $4 " "; ratios = ratios $4 / base[$2] " " }
        END { if (us) printf "| %s | %s | %s |\n", name, cell(us), ratio(ratios) }
    ' "$folder/results"
}

# ---- the parser ----

instructions() { # PARSER HEAD COUNT
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$folder/parse" "$@" 2>&1 |
        awk '/Collected/ { print $4 }'
}

parse_part() {
    local sources=(test/bench/parse.c http.c) parsers=(http_parse) before
    [ -z "${LLHTTP:-}" ] || {
        sources+=(-DLLHTTP "-I$LLHTTP/include" "$LLHTTP"/src/*.c)
        parsers=(llhttp "${parsers[@]}")
    }
    [ -z "${PICOHTTPPARSER:-}" ] || {
        sources+=(-DPICOHTTPPARSER "-I$PICOHTTPPARSER" "$PICOHTTPPARSER/picohttpparser.c")
        parsers=(picohttpparser "${parsers[@]}")
    }
    ${CC:-cc} -std=gnu11 -D_GNU_SOURCE -O2 -w -I. -o "$folder/parse" "${sources[@]}"
    before=$(load_average)
    "${on_server[@]}" "$folder/parse" >"$folder/parsed"
    printf '\n%s; load average %s before, %s after:\n\n' \
        "A head, ns of CPU time, median (lowest-highest) of 25 rounds, and of http_parse's time" \
        "$before" "$(load_average)"
    cat "$folder/parsed"
    command -v valgrind >/dev/null || return 0
    printf '\nInstructions a head, counted by callgrind:\n\n'
    head -n 2 "$folder/parsed"
    for parser in "${parsers[@]}"; do
        printf '| %s' "$parser"
        for head in 0 1 2; do
            printf ' | %d' $((($(instructions "$parser" $head 2000) -
                $(instructions "$parser" $head 1000)) / 1000))
        done
        echo " |"
    done
}

# ---- all ----

ulimit -n "$(ulimit -Hn)"
mkdir "$folder/www"
printf 'Hello, World!' >"$folder/www/hello.txt"
cat >"$folder/pipelined.lua" <<'END'
local batch = ""
init = function()
    for i = 0, 15 do batch = batch .. wrk.format("GET", "/?" .. string.rep("q", 3 * i)) end
end
request = function() return batch end
END
printf -v request 'GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n\r\n' 20000
request_length=${#request}
versions=()
find_servers

echo "$(date -u +%F), $(awk -F': ' '/model name/ { print $2; exit }' /proc/cpuinfo)," \
    "$(nproc) cores, Linux $(uname -r), $( (wrk -v || true) 2>&1 | grep -o '^wrk [^ ]*' || echo "no wrk")"
case $only in
parse | all) parse_part ;;&
start | all) start_part ;;&
load | all) ! command -v wrk >/dev/null || load_part ;;&
idle | all) ! command -v wrk >/dev/null || idle_part ;;
esac
