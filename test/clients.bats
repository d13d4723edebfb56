#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# Clients that others wrote do not notice a restart.
# shellcheck disable=SC2030,SC2031,SC2153,SC2154 # a test is a subshell; helper.bash sets the rest

bats_require_minimum_version 1.5.0
load tools/helper

# restart_while PID: restarts the server over and over while process PID runs. Sets restarts.
restart_while() {
    restarts=0
    while alive "$1"; do
        restart_server
        restarts=$((restarts + 1))
        pause 50
    done
    echo "$restarts restarts"
}

# client COMMAND...: runs COMMAND while the server is restarted; what it says goes to the file said.
# Sets status.
client() {
    command -v "$1" >/dev/null || skip "needs $1"
    said=$BATS_TEST_TMPDIR/said
    in_background "$@" >"$said" 2>&1
    restart_while "$job"
    ended "$job"
    tail -n 30 "$said"
    ((status == 0))
    ((restarts > 0))
}

# curl_over_and_over COUNT OPTIONS...: asks COUNT times, 50 times a second, and says of each answer
# its status, the number of connections opened for it, the version, and the body.
curl_over_and_over() {
    curl -q -sS --noproxy '*' --rate 50/s -w ' %{http_code} %{num_connects} %{http_version}\n' \
        "${@:2}" "http://127.0.0.1:$port/?[1-$1]"
}

# different_answers: what curl said, each line once, behind the number of times it said it.
different_answers() {
    sort "$said" | uniq -c | sed -E 's/^ +//'
}

@test "curl keeps its connection over several URLs and over restarts" {
    start_server
    client curl_over_and_over 100 --http1.1
    diff <(different_answers) - <<<'99 Hello, World! 200 0 1.1
1 Hello, World! 200 1 1.1'
}

@test "curl keeps its connection with HTTP/1.0, too, where it asks for that" {
    start_server
    client curl_over_and_over 50 --http1.0 -H 'Connection: keep-alive'
    diff <(different_answers) - <<<'49 Hello, World! 200 0 1.1
1 Hello, World! 200 1 1.1'
}

@test "curl with HTTP/1.0 and a connection for each URL gets each answer" {
    start_server
    client curl_over_and_over 50 --http1.0
    diff <(different_answers) - <<<'50 Hello, World! 200 1 1.1'
}

@test "curl posting over restarts gets each answer" {
    start_server
    client curl_over_and_over 50 -d text
    diff <(different_answers) - <<<'50 Method not allowed 405 1 1.1'
}

@test "ab with keep-alive sees no request fail over restarts" {
    start_server
    client ab -q -k -c 8 -t 3 -n 10000000 "http://127.0.0.1:$port/"
    answered=$(sed -nE 's/^Complete requests: +//p' "$said")
    ((answered > 10))
    grep -Eqx 'Failed requests: +0' "$said"
    grep -Eqx "Keep-Alive requests: +$answered" "$said"
    run ! grep -E 'Non-2xx|apr_' "$said"
}

@test "ab with a connection for each request sees none fail over restarts" {
    start_server
    client ab -q -c 8 -t 2 -n 10000000 "http://127.0.0.1:$port/"
    answered=$(sed -nE 's/^Complete requests: +//p' "$said")
    ((answered > 10))
    grep -Eqx 'Failed requests: +0' "$said"
    run ! grep -E 'Non-2xx|apr_' "$said"
}

@test "h2load, pipelining, sees no request fail over restarts" {
    start_server
    client h2load --h1 -c 8 -m 4 -D 3 "http://127.0.0.1:$port/"
    grep -E '^requests: [1-9][0-9]+ .* 0 failed, 0 errored, 0 timeout$' "$said"
    grep -E '^status codes: [1-9][0-9]+ 2xx, 0 3xx, 0 4xx, 0 5xx$' "$said"
}
