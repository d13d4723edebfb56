#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# HAProxy and nginx, which keep their connections to the server, in front of it.
# shellcheck disable=SC2030,SC2031,SC2153,SC2154 # a test is a subshell; helper.bash sets the rest

bats_require_minimum_version 1.5.0
load tools/helper

PATH=$PATH:/usr/sbin

# answers PORT: whether there is any answer at PORT.
answers() {
    curl -q -s --noproxy '*' --max-time "$patience" -o /dev/null "http://127.0.0.1:$1/"
}

# start_haproxy A [B]: starts HAProxy in front of the servers at the ports A and B. Sets front, the
# port that it listens on.
start_haproxy() {
    local interval=500ms
    # A check has that long to connect, and a server that is alone must not be taken for down.
    [[ -n ${2-} ]] || interval=5s
    front=$(free_port)
    sed -E -e "s/timeout (connect|check) .*/timeout \1 ${patience}s/" \
        -e "s/inter 500ms/inter $interval/" \
        -e "s/127\.0\.0\.1:8000/127.0.0.1:$front/" -e "s/127\.0\.0\.1:8080/127.0.0.1:$1/" \
        -e "${2:+s/127\.0\.0\.1:8081/127.0.0.1:$2/}" -e '/127\.0\.0\.1:8081/d' \
        "$BATS_TEST_DIRNAME/examples/haproxy.cfg" >"$BATS_TEST_TMPDIR/haproxy.cfg"
    printf 'global\n    stats socket %s level admin\n' "$BATS_TEST_TMPDIR/stats" \
        >"$BATS_TEST_TMPDIR/stats.cfg"
    start_proxy haproxy -db -f stats.cfg -f haproxy.cfg
}

start_nginx() {
    local user=''
    ((EUID != 0)) || user="user $(id -un);"
    front=$(free_port)
    sed -e "s/127\.0\.0\.1:8000/127.0.0.1:$front/" -e "s/127\.0\.0\.1:8080/127.0.0.1:$1/" \
        "$BATS_TEST_DIRNAME/examples/nginx.conf" >"$BATS_TEST_TMPDIR/site.conf"
    cat >"$BATS_TEST_TMPDIR/main.conf" <<EOT
$user
daemon off;
worker_processes 1;
pid nginx.pid;
error_log errors;
events {
}
http {
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    log_format asked '\$request_method \$status [\$upstream_addr] [\$upstream_status]';
    access_log access asked;
    include site.conf;
}
EOT
    start_proxy nginx -p "$BATS_TEST_TMPDIR" -e errors -c main.conf
}

start_proxy() {
    needs "$1"
    (cd "$BATS_TEST_TMPDIR" && exec "$@" </dev/null >proxy.log 2>&1 3>&-) &
    wait_for answers "$front"
}

# ask_over_and_over WHAT...: a load of gets or posts, or both, through the proxy, until stop_asking.
ask_over_and_over() {
    local what
    needs h2load
    asking=()
    echo text >"$BATS_TEST_TMPDIR/posted"
    for what; do
        in_background keep_asking "$what"
        asking+=("$job")
        wait_for test -s "$BATS_TEST_TMPDIR/$what"
    done
}

# keep_asking WHAT: runs h2load again and again; its output goes to the file WHAT.
keep_asking() {
    local post=()
    [[ $1 == gets ]] || post=(-d posted)
    cd "$BATS_TEST_TMPDIR" || return
    while [[ ! -e enough ]]; do
        h2load --h1 -c 4 -n 200 --rps 100 "${post[@]}" "http://127.0.0.1:$front/" >>"$1" 2>&1
    done
}

stop_asking() {
    local process
    : >"$BATS_TEST_TMPDIR/enough"
    for process in "${asking[@]}"; do
        wait_gone "$process"
    done
}

# said FILE WORD: prints the sum of the numbers before WORD in the output of h2load.
said() {
    grep -Eo "[0-9]+ $2" "$BATS_TEST_TMPDIR/$1" | awk '{ sum += $1 } END { print sum + 0 }'
}

# say_failures WHAT...: prints the lines of h2load about requests that failed.
say_failures() {
    (cd "$BATS_TEST_TMPDIR" && grep -hE '^(requests|status)' "$@") |
        grep -E '[1-9][0-9]* (failed|errored|timeout|5xx)' || true
}

# Each request has been answered: with 200, or 405 for a POST.
all_answered() {
    local gets posts
    gets=$(said gets total,)
    posts=$(said posts total,)
    say_failures gets posts
    echo "$gets GET: $(said gets 2xx) 2xx, $(said gets 4xx) 4xx, $(said gets 5xx) 5xx"
    echo "$posts POST: $(said posts 2xx) 2xx, $(said posts 4xx) 4xx, $(said posts 5xx) 5xx"
    ((gets > 0 && $(said gets 2xx) == gets && posts > 0 && $(said posts 4xx) == posts))
}

# restart_times COUNT: with a little of the load in between.
restart_times() {
    local i
    for ((i = 0; i < $1; i++)); do
        restart_server
        pause 50
    done
}

# counted COLUMN [SERVER]: HAProxy's count for a server, or for the frontend (FRONTEND).
counted() {
    socat -t "$patience" - "UNIX-CONNECT:$BATS_TEST_TMPDIR/stats" <<<'show stat' |
        awk -F, -v column="$1" -v server="${2:-a}" '
            NR == 1 { for (i = 1; i <= NF; i++) if ($i == column) c = i }
            $2 == server { print $c + 0 == $c ? $c + 0 : $c }'
}

@test "through HAProxy, 40 restarts cost no error, no retry and no connection to the server" {
    start_server
    start_haproxy "$port"
    ask_over_and_over gets
    restart_times 20
    connections=$(counted connect)
    more=${asking[0]}
    ask_over_and_over posts
    asking+=("$more")
    restart_times 20
    stop_asking
    for column in wretr wredis econ eresp hrsp_5xx srv_abrt chkfail connect reuse; do
        echo "$column: $(counted $column)"
    done
    all_answered
    for column in wretr wredis econ eresp hrsp_5xx srv_abrt chkfail; do
        [[ $(counted $column) == 0 ]]
    done
    [[ $(counted hrsp_5xx FRONTEND) == 0 ]]
    # GET alone: one for each of the four clients, and some for those that follow them.
    echo "$connections connections for 20 restarts"
    ((connections < 15))
}

@test "through nginx, 20 restarts cost no error, and no retry" {
    start_server
    start_nginx "$port"
    ask_over_and_over gets posts
    restart_times 20
    stop_asking
    all_answered
    sort "$BATS_TEST_TMPDIR/access" | uniq -c
    run ! grep -Evx "(GET 200|POST 405) \[127\.0\.0\.1:$port] \[[0-9]{3}]" "$BATS_TEST_TMPDIR/access"
    cat "$BATS_TEST_TMPDIR/errors"
    [[ ! -s $BATS_TEST_TMPDIR/errors ]]
}

# start_instance NAME: starts the server of that name, at its port. Sets pid.
start_instance() {
    # shellcheck disable=SC2034 # helper.bash uses it
    log=$BATS_TEST_TMPDIR/log.$1
    start_command "./$NAME" -l "127.0.0.1:${port_of[$1]}"
    wait_listening
}

# is STATUS INSTANCE: whether HAProxy takes it for UP, or DOWN.
is() {
    [[ $(counted status "$2") == "$1" ]]
}

# roll INSTANCE [wait]: ends it as a service manager does, and starts it again, at once or once
# HAProxy has found it down. Waits until HAProxy finds it up.
roll() {
    kill -TERM "${pid_of[$1]}"
    ended "${pid_of[$1]}"
    ((status == 0))
    [[ ! ${2-} ]] || wait_for is DOWN "$1"
    start_instance "$1"
    pid_of[$1]=$pid
    wait_for is UP "$1"
}

@test "behind HAProxy, two instances that end and start again in turn cost no error" {
    declare -A port_of pid_of
    port_of=([a]=$(free_port) [b]=$(free_port))
    for instance in a b; do
        start_instance "$instance"
        pid_of[$instance]=$pid
    done
    start_haproxy "${port_of[a]}" "${port_of[b]}"
    ask_over_and_over gets posts
    for instance in a b; do
        roll "$instance" wait
    done
    for instance in a b; do
        roll "$instance"
    done
    stop_asking
    for instance in a b; do
        for column in wretr wredis econ eresp hrsp_5xx srv_abrt chkdown connect reuse; do
            echo "$instance $column: $(counted $column $instance)"
        done
    done
    all_answered
    [[ $(counted hrsp_5xx FRONTEND) == 0 ]]
}

@test "behind HAProxy, an instance that is slow to answer is not taken for down" {
    start_server
    start_haproxy "$port" "$port"
    kill -STOP "$pid"
    pause 2000
    kill -CONT "$pid"
    [[ $(counted chkdown) == 0 ]]
    wait_for answers "$front"
}
