#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# curl, ab and h2load do not notice restarts.
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

# client COMMAND...: runs COMMAND while the server is restarted; its output goes to the file said.
# Sets status.
client() {
    needs "$1"
    said=$BATS_TEST_TMPDIR/said
    in_background "$@" >"$said" 2>&1
    restart_while "$job"
    ended "$job"
    tail -n 30 "$said"
    ((status == 0))
    ((restarts > 0))
}

# curl_over_and_over COUNT OPTIONS...: asks COUNT times, 50 a second, and prints of each answer the
# body, the status, the number of connections opened for it, and the version.
curl_over_and_over() {
    curl -q -sS --noproxy '*' --rate 50/s -w ' %{http_code} %{num_connects} %{http_version}\n' \
        "${@:2}" "http://127.0.0.1:$port/?[1-$1]"
}

# different_answers: prints the different lines of curl, each after the number of times.
different_answers() {
    sort "$said" | uniq -c | sed -E 's/^ +//'
}

@test "curl gets each answer over restarts, and keeps its connection where it can" {
    start_server
    # The options; the connections that are opened and kept; each answer.
    for case in '--http1.1|1 99|Hello, World! 200' \
        '--http1.0 -H Connection:keep-alive|1 49|Hello, World! 200' \
        '--http1.0|50 0|Hello, World! 200' '-d text|50 0|Method not allowed 405'; do
        IFS='|' read -r options counts answer <<<"$case"
        read -r opened kept <<<"$counts"
        # shellcheck disable=SC2086 # words
        client curl_over_and_over $((opened + kept)) $options
        diff <(different_answers) - < <(
            ((kept == 0)) || echo "$kept $answer 0 1.1"
            echo "$opened $answer 1 1.1"
        )
    done
}

@test "ab sees no request fail over restarts, with keep-alive and without" {
    start_server
    # Enough for several restarts.
    for keep in '-k -n 60000' '-n 8000'; do
        # shellcheck disable=SC2086 # options
        client ab -q $keep -c 8 "http://127.0.0.1:$port/"
        answered=$(sed -nE 's/^Complete requests: +//p' "$said")
        ((answered == ${keep##* }))
        grep -Eqx 'Failed requests: +0' "$said"
        [[ $keep != -k* ]] || grep -Eqx "Keep-Alive requests: +$answered" "$said"
        run ! grep -E 'Non-2xx|apr_' "$said"
    done
}

@test "h2load, pipelining, sees no request fail over restarts" {
    start_server
    client h2load --h1 -c 8 -m 4 -n 150000 "http://127.0.0.1:$port/"
    grep -E '^requests: [1-9][0-9]+ .* 0 failed, 0 errored, 0 timeout$' "$said"
    grep -E '^status codes: [1-9][0-9]+ 2xx, 0 3xx, 0 4xx, 0 5xx$' "$said"
}
