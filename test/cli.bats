#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# Options, addresses and descriptors: which are accepted, and how the others are rejected.
# shellcheck disable=SC2030,SC2031,SC2153,SC2154 # a test is a subshell; helper.bash sets the rest

load tools/helper

# try ARGUMENTS...: runs the server in the test's folder, until it ends by itself.
# Sets status, output (standard output) and complaint (standard error).
try() {
    status=0
    output=$(cd "$BATS_TEST_TMPDIR" && exec timeout "$patience" "./$NAME" "$@" \
        </dev/null 2>complaint 3>&-) || status=$?
    complaint=$(<"$BATS_TEST_TMPDIR/complaint")
}

# failed STATUS REGEX: the server ended with STATUS, nothing on standard output, and one line on
# standard error that matches REGEX.
failed() {
    echo "status $status: $complaint"
    ((status == $1))
    [[ -z $output ]]
    [[ -n $complaint && $complaint != *$'\n'* ]]
    [[ $complaint =~ ^$NAME\[[0-9]+]:\ .*$2 ]]
}

# rejects REGEX ARGUMENTS...: the server rejects the arguments with status 2, and one line that
# matches REGEX.
rejects() {
    echo "${*:2}"
    try "${@:2}"
    failed 2 "$1"
}

@test "--help and -h print every option to standard output, status 0" {
    for option in --help -h; do
        try "$option"
        ((status == 0))
        [[ -z $complaint ]]
        for name in -l --listen -p --pid-file --ready-timeout --drain-timeout --idle-timeout \
            --request-timeout -h --help -V --version FD SIGUSR1; do
            grep -qwe "$name" <<<"$output"
        done
    done
}

@test "--version and -V print name and version to standard output, status 0" {
    for option in --version -V; do
        try "$option"
        ((status == 0))
        [[ -z $complaint ]]
        [[ $output =~ ^$NAME\ [^\ ]+$ ]]
    done
    version=${output#* }
    start_server
    logged "listening on .*version $version$"
}

@test "--help and --version fail with a message if standard output is full or closed" {
    output=
    for option in --help --version; do
        status=0
        complaint=$("$BATS_TEST_TMPDIR/$NAME" "$option" 2>&1 >/dev/full) || status=$?
        failed 1 'cannot write to standard output: No space left on device'
        status=0
        complaint=$("$BATS_TEST_TMPDIR/$NAME" "$option" 2>&1 >&-) || status=$?
        failed 1 'cannot write to standard output: '
    done
}

@test "rejects unknown options, missing values and unexpected arguments with status 2" {
    for option in --nonsense -x --listen-to=127.0.0.1:0 -4; do
        rejects "${option%%=*}" "$option"
    done
    for option in -l --listen -p --pid-file --ready-timeout --drain-timeout --idle-timeout \
        --request-timeout; do
        rejects '-.*argument' "$option"
    done
    for option in --help=x --version=1; do
        rejects '-[hV-]' "$option"
    done
    rejects "option '-xh'" -xh
    rejects "ambiguous option '--re'" --re 5
    rejects "unexpected argument 'start'" start
    rejects "unexpected argument '10'" 9 10
    rejects --help 9 --help
}

@test "rejects a timeout that is not a number of seconds with status 2" {
    for option in --ready-timeout --drain-timeout --idle-timeout --request-timeout; do
        for value in '' x -1 1x ' 1' +1 0x10 1e3 1.5 2147484 99999999999 99999999999999999999999; do
            rejects "$option" -l 127.0.0.1:0 "$option" "$value"
        done
    done
    rejects '--idle-timeout.* seconds from 1 to ' --idle-timeout 0
    rejects '--drain-timeout.* seconds from 0 to 2147483' --drain-timeout 2147484
    try -l 127.0.0.1:65535 --drain-timeout 2147483 --version
    ((status == 0))
}

@test "rejects an invalid address with status 2, and says what is wrong with it" {
    for address in '' : nonsense 127.0.0.1 127.0.0.1: 127.0.0.1:x 127.0.0.1:-1 127.0.0.1:65536 \
        127.0.0.1:99999999999999999999 '127.0.0.1:80 ' ' 127.0.0.1:80' 127.0.0.1:80x 256.0.0.1:80 \
        127.0.0:80 127.1:80 example.org:80 ::1:80 '[::1]' '[::1]:' '[::1:80' '::1]:80' '[]:80' \
        '[::1]x:80' '[127.0.0.1]:80' '[::g]:80' '[::1]:65536' "$(printf '1%.0s' {1..300}):80"; do
        rejects '' -l "$address"
    done
    rejects 'brackets, as in \[::1]:8080' --listen ::1:80
    rejects 'brackets, as in \[::1]:8080' --listen '[127.0.0.1]:80'
    rejects "cannot listen on 'http://127\.0\.0\.1:8080/'" --listen http://127.0.0.1:8080/
    [[ $complaint != *IPv6* ]]
    rejects IPv4 --listen 127.1:80
    rejects 'port .*0 to 65535' --listen 127.0.0.1:65536
}

@test "an error stays on one line, whatever an argument contains" {
    try --listen $'first\nsecond\033third\t:1'
    failed 2 "'first\?second\?third\?:1'"
}

@test "rejects a descriptor that is not a number, not open, not a socket, or not listening" {
    for fd in '' x 3x 0x3 ' 3' +3 3.0 2147483648 4294967299 18446744073709551619 \
        99999999999999999999999; do
        rejects '' "$fd"
    done
    rejects -3 -- -3
    rejects '9.*Bad file descriptor' 9
    rejects 'Bad file descriptor' 2147483647
    rejects '9.*(S|s)ocket' 9 9</dev/null
    rejects '9.*(S|s)ocket' 9 9<"$BATS_TEST_DIRNAME"
    rejects '9.*(S|s)ocket' 9 9< <(:)
    start_server
    rejects '9.*listen' 9 9<>"/dev/tcp/127.0.0.1/$port"
    rejects '9.*listen' 9 9<>"/dev/udp/127.0.0.1/$port"
}

@test "ends with status 1 and the reason if it cannot listen" {
    start_server
    try -l "127.0.0.1:$port"
    failed 1 "127\.0\.0\.1:$port: Address already in use"
    serves
    try -l 192.0.2.1:0
    failed 1 '192\.0\.2\.1:0: Cannot assign requested address'
    (($(</proc/sys/net/ipv4/ip_unprivileged_port_start) > 81)) || return 0 # any user may listen there
    local drop=()
    ((EUID != 0)) || drop=(setpriv --bounding-set -net_bind_service --inh-caps -net_bind_service)
    status=0
    output=$(cd "$BATS_TEST_TMPDIR" && exec "${drop[@]}" timeout "$patience" "./$NAME" -l 127.0.0.1:81 \
        2>complaint 3>&-) || status=$?
    complaint=$(<"$BATS_TEST_TMPDIR/complaint")
    failed 1 '127\.0\.0\.1:81: Permission denied'
}

@test "listens on the given address, and on no other" {
    # A port at which no other test has a server on 127.0.0.1.
    start_command "./$NAME" --listen="127.0.0.2:$(free_port)"
    wait_listening
    logged "\[$pid]: listening on 127\.0\.0\.2:$port,"
    [[ $(curl -q -sS --noproxy '*' "http://127.0.0.2:$port/") == 'Hello, World!' ]]
    run get /
    ((status == 7))
    # The kernel picks port 0, another one each time.
    start_command "./$NAME" -l 0.0.0.0:0
    wait_listening
    logged "\[$pid]: listening on 0\.0\.0\.0:$port,"
    serves
    first=$port
    start_server
    ((port > 0 && port != first))
    serves
    start_command "./$NAME" -l "[::1]:$(free_port)"
    wait_listening
    logged "\[$pid]: listening on \[::1]:$port,"
    [[ $(curl -q -sS --noproxy '*' -g "http://[::1]:$port/") == 'Hello, World!' ]]
}

@test "listens on 127.0.0.1:8080 without --listen" {
    # If another process listens on that port, the error names it.
    start_command "./$NAME"
    wait_log "\[$pid]: .*listen(ing)? on 127\.0\.0\.1:8080"
}

@test "localhost is 127.0.0.1, and a port alone is that port of all IPv4 addresses" {
    start_command "./$NAME" --listen localhost:0
    wait_listening
    logged "\[$pid]: listening on 127\.0\.0\.1:$port,"
    serves
    start_command "./$NAME" --listen :0
    wait_listening
    logged "\[$pid]: listening on 0\.0\.0\.0:$port,"
    serves
}

@test "listens on a link-local address, which needs its interface" {
    unshare -n true 2>/dev/null || skip 'needs leave to make a network namespace'
    rejects "cannot listen on '\[fe80::1]:0': .*interface" -l '[fe80::1]:0'
    rejects "cannot listen on '\[fe80::1%none]:0': .*interface" -l '[fe80::1%none]:0'
    start_command unshare -n sh -c 'ip link set lo up && ip addr add fe80::1/64 dev lo nodad &&
        exec "$@"' sh "./$NAME" -l '[fe80::1%lo]:0'
    wait_log "\[$pid]: listening on \[fe80::1%lo]:[1-9]"
}

@test "long options can be shortened, the last of two counts, and timeouts may have seven digits" {
    start_command "./$NAME" --lis 127.0.0.1:0 --pid-file first --pid second \
        --idle-timeout 1000000 --drain-timeout=1000000 --request-timeout 1000000 \
        --ready-timeout 1000000
    wait_listening
    wait_for says "$BATS_TEST_TMPDIR/second" "^$pid$"
    [[ ! -e $BATS_TEST_TMPDIR/first ]]
    serves
}

@test "the port is free again as soon as the server has ended" {
    port=$(free_port)
    start_command "./$NAME" -l "127.0.0.1:$port"
    wait_listening
    connect
    ask "$conn"
    kill -TERM "$pid"
    closed "$conn"
    disconnect "$conn"
    ended "$pid"
    # The server closed first, and its end is in TIME_WAIT.
    start_command "./$NAME" -l "127.0.0.1:$port"
    wait_listening
    serves
}

@test "the value of an option is not taken for FD, even if it is the number of a listener" {
    needs systemd-socket-activate
    for option in '--drain-timeout 3' --drain-timeout=3 '-p 3'; do
        : >"$log"
        leaked=$(free_port)
        port=$leaked
        # shellcheck disable=SC2086 # words
        start_command systemd-socket-activate -l "127.0.0.1:$leaked" \
            env -u LISTEN_FDS -u LISTEN_PID "./$NAME" -l 127.0.0.1:0 $option
        wait_for accepts
        wait_listening
        ((port != leaked))
        logged "listening on 127\.0\.0\.1:$port,"
        serves
        restart_server
        serves
    done
}
