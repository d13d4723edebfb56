#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# The load tool counts what servers do to its clients.
# shellcheck disable=SC2030,SC2031,SC2034,SC2153,SC2154 # a test is a subshell; helper.bash's

load tools/helper

setup() {
    prepare
}

# start_socat ADDRESS [OPTIONS...]: each connection is one to ADDRESS, as of socat(1).
start_socat() {
    start_command socat "${@:2}" TCP-LISTEN:0,bind=127.0.0.1,fork,backlog=100 "$1"
    wait_for finds_port
}

# hammer OPTIONS...: loads the server, with few clients of each class, a little. Sets status and output, the
# line with the sums.
hammer() {
    run "$BUILD_DIR/hammer" -k 2 -t 2 -p 2 -c 2 -s 2 -i 2 --pause 5 -d 0.5 "$@" "127.0.0.1:$port"
    echo "$output"
    output=${output##*total}
}

@test "counts no error of an echo server that sends back what it gets" {
    start_socat PIPE
    hammer --echo
    ((status == 0))
    [[ $output == *' answered='[1-9]*' failed=0 refused=0 closed=0 announced=0 wrong=0 '* ]]
    hammer --echo --size 4096 --depth 20
    ((status == 0))
}

@test "counts an echo that differs in one byte as wrong" {
    start_socat 'EXEC:sed -u s/5/6/'
    hammer --echo -d 0.2
    ((status == 1))
    [[ $output == *' answered='[1-9]*' wrong='[1-9]* ]]
}

@test "counts a message that does not come back whole as failed" {
    start_socat 'SYSTEM:head -c 64; head -c 32'
    hammer --echo -d 0.2
    ((status == 1))
    [[ $output == *' answered='[1-9]*' failed='[1-9]*' wrong=0 '* ]]
    start_socat 'EXEC:tail -f /dev/null'
    hammer --echo --deadline 0.5
    ((status == 1))
    [[ $output == *' answered=0 failed='[1-9]*' wrong=0 '* ]]
}

@test "counts idle connections that an echo server closes, and refused connections" {
    start_socat PIPE -T 1
    hammer --echo -k 0 -p 0 -c 0 -s 0 --think 3000 -d 4.5
    ((status == 1))
    [[ $output == *' answered='[1-9]*' failed=0 refused=0 closed='[1-9]* ]]
    port=$(free_port)
    hammer --echo -i 0
    ((status == 1))
    [[ $output == *' answered=0 failed=0 refused='[1-9]* ]]
}

@test "counts a connection that an echo server leaves open after its client's end as wrong" {
    start_socat 'SYSTEM:cat; sleep 30' -t 50
    hammer --echo -k 0 -t 0 -p 0 -s 0 -i 0 --deadline 5
    ((status == 1))
    [[ $output == *' answered='[1-9]*' failed=0 '*' wrong='[1-9]* ]]
}

@test "the path, status and body of the right answer are options" {
    install_server "$BATS_TEST_TMPDIR"
    start_server
    hammer
    ((status == 0))
    hammer --path /other --status 404 --body 'Not found'
    ((status == 0))
    for wrong in '--path=/other' '--status=404' '--body=Hello'; do
        hammer "$wrong"
        ((status == 1))
        [[ $output == *' answered=0 failed=0 '*' wrong='[1-9]* ]]
    done
}

@test "prints lines of progress with each count and the longest latency" {
    install_server "$BATS_TEST_TMPDIR"
    start_server
    hammer --progress 100 >"$BATS_TEST_TMPDIR/answered"
    grep -E '^progress [0-9]+ [1-9][0-9]* 0 0 0 0 0 [0-9.]+$' "$BATS_TEST_TMPDIR/answered"
    port=$(free_port)
    hammer --progress 100 -i 0 >"$BATS_TEST_TMPDIR/refused"
    grep -E '^progress [0-9]+ 0 0 [1-9][0-9]* 0 0 0 0\.000$' "$BATS_TEST_TMPDIR/refused"
}

@test "prints its help, and rejects numbers out of range" {
    run "$BUILD_DIR/hammer" --help
    ((status == 0))
    [[ $output == *'--echo'*'Exit status: '* ]]
    for wrong in --depth=0 --size=31 --size=4097 --keepalive=x --keepalive=; do
        run "$BUILD_DIR/hammer" "$wrong" 127.0.0.1:1
        ((status == 2))
        [[ $output == *'not a number of '* ]]
    done
}
