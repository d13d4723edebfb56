#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# Options, addresses and descriptors: what is taken, and how the rest is refused.
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

# The server ended with STATUS, nothing on standard output, and one line on standard error that
# matches REGEX.
refused() {
    echo "status $status, said: $complaint"
    ((status == $1))
    [[ -z $output ]]
    [[ -n $complaint && $complaint != *$'\n'* ]]
    [[ $complaint =~ ^$NAME\[[0-9]+]:\ .*$2 ]]
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

@test "--help and --version fail where standard output is full or closed, and say so" {
    output=
    for option in --help --version; do
        status=0
        complaint=$("$BATS_TEST_TMPDIR/$NAME" "$option" 2>&1 >/dev/full) || status=$?
        refused 1 'cannot write to standard output: No space left on device'
        status=0
        complaint=$("$BATS_TEST_TMPDIR/$NAME" "$option" 2>&1 >&-) || status=$?
        refused 1 'cannot write to standard output: '
    done
}

@test "an unknown option is refused with status 2" {
    for option in --nonsense -x --listen-to=127.0.0.1:0 -4; do
        try "$option"
        refused 2 "${option%%=*}"
    done
}

@test "an option without its value is refused with status 2" {
    for option in -l --listen -p --pid-file --ready-timeout --drain-timeout --idle-timeout \
        --request-timeout; do
        try "$option"
        refused 2 "-.*argument"
    done
}

@test "a value for an option that takes none is refused with status 2" {
    for option in --help=x --version=1; do
        try "$option"
        refused 2 '-[hV-]'
    done
}

@test "a timeout that is not a number of seconds is refused with status 2" {
    for option in --ready-timeout --drain-timeout --idle-timeout --request-timeout; do
        for value in '' x -1 1x ' 1' +1 0x10 1e3 1.5 99999999999 99999999999999999999999; do
            try -l 127.0.0.1:0 "$option" "$value"
            refused 2 "$option"
        done
    done
}

@test "an invalid address is refused with status 2" {
    for address in '' : nonsense 127.0.0.1 127.0.0.1: 127.0.0.1:x 127.0.0.1:-1 127.0.0.1:65536 \
        127.0.0.1:99999999999999999999 '127.0.0.1:80 ' ' 127.0.0.1:80' 127.0.0.1:80x 256.0.0.1:80 \
        127.0.0:80 127.1:80 example.org:80 ::1:80 '[::1]' '[::1]:' '[::1:80' '::1]:80' '[]:80' \
        '[::1]x:80' '[127.0.0.1]:80' '[::g]:80' '[::1]:65536' "$(printf '1%.0s' {1..300}):80"; do
        try -l "$address"
        refused 2 ''
    done
}

@test "a descriptor that is not open, not a socket or does not listen is refused with status 2" {
    try 9
    refused 2 '9.*Bad file descriptor'
    try 2147483647
    refused 2 'Bad file descriptor'
    try 9 9</dev/null
    refused 2 '9.*(S|s)ocket'
    try 9 9<"$BATS_TEST_DIRNAME"
    refused 2 '9.*(S|s)ocket'
    try 9 9< <(:)
    refused 2 '9.*(S|s)ocket'
    start_server
    try 9 9<>"/dev/tcp/127.0.0.1/$port"
    refused 2 '9.*listen'
    try 9 9<>"/dev/udp/127.0.0.1/$port"
    refused 2 '9.*listen'
}

@test "a descriptor that is not a number is refused with status 2" {
    for fd in '' x 3x 0x3 ' 3' +3 3.0 2147483648 4294967299 18446744073709551619 \
        99999999999999999999999; do
        try "$fd"
        refused 2 ''
    done
    try -- -3
    refused 2 -3
}

@test "an argument after the descriptor is refused with status 2" {
    try 9 10
    refused 2 10
    try 9 --help
    refused 2 --help
}

@test "an address that cannot be listened on is refused with status 1 and the reason" {
    start_server
    try -l "127.0.0.1:$port"
    refused 1 "127\.0\.0\.1:$port: Address already in use"
    serves
    try -l 192.0.2.1:0
    refused 1 '192\.0\.2\.1:0: Cannot assign requested address'
    (($(</proc/sys/net/ipv4/ip_unprivileged_port_start) > 81)) || return 0 # any user may listen there
    local drop=()
    ((EUID != 0)) || drop=(setpriv --bounding-set -net_bind_service --inh-caps -net_bind_service)
    status=0
    output=$(cd "$BATS_TEST_TMPDIR" && exec "${drop[@]}" timeout "$patience" "./$NAME" -l 127.0.0.1:81 \
        2>complaint 3>&-) || status=$?
    complaint=$(<"$BATS_TEST_TMPDIR/complaint")
    refused 1 '127\.0\.0\.1:81: Permission denied'
}

@test "port 0: the kernel picks one, and the log says which" {
    start_server
    first=$port
    ((first > 0))
    serves
    start_server
    ((port > 0 && port != first))
    serves
}

@test "the server listens on 127.0.0.1:8080 without --listen" {
    # Where another process has that port already, the complaint names it.
    start_command "./$NAME"
    wait_log "\[$pid]: .*listen(ing)? on 127\.0\.0\.1:8080"
}

@test "the server listens on the given address, and on no other" {
    # One that no other test's server has at 127.0.0.1.
    start_command "./$NAME" --listen="127.0.0.2:$(free_port)"
    wait_listening
    logged "\[$pid]: listening on 127\.0\.0\.2:$port,"
    [[ $(curl -q -sS --noproxy '*' "http://127.0.0.2:$port/") == 'Hello, World!' ]]
    run get /
    ((status == 7))
    start_command "./$NAME" -l 0.0.0.0:0
    wait_listening
    logged "\[$pid]: listening on 0\.0\.0\.0:$port,"
    serves
    start_command "./$NAME" -l "[::1]:$(free_port)"
    wait_listening
    logged "\[$pid]: listening on \[::1]:$port,"
    [[ $(curl -q -sS --noproxy '*' -g "http://[::1]:$port/") == 'Hello, World!' ]]
}

@test "long options can be shortened, and the last of two counts" {
    start_command "./$NAME" --lis 127.0.0.1:0 --pid-file first --pid second
    wait_listening
    wait_for says "$BATS_TEST_TMPDIR/second" "^$pid$"
    [[ ! -e $BATS_TEST_TMPDIR/first ]]
    serves
}

@test "a port is free again at once after the end, whatever connections there were" {
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
    command -v systemd-socket-activate >/dev/null || skip 'needs systemd-socket-activate'
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

@test "an inherited listener that blocks is made not to" {
    command -v systemd-socket-activate >/dev/null || skip 'needs systemd-socket-activate'
    port=$(free_port)
    # It starts the server at the first connection, with the descriptor as an argument only.
    start_command systemd-socket-activate -l "127.0.0.1:$port" \
        env -u LISTEN_FDS -u LISTEN_PID "./$NAME" 3
    wait_for accepts
    wait_log "\[$pid]: listening on 127\.0\.0\.1:$port \(inherited fd 3\)"
    (((0$(sed -nE 's/^flags:\s*//p' "/proc/$pid/fdinfo/3") & 04000) == 04000))
    serves
    restart_server
    serves
}

accepts() {
    (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null
}

@test "the soft limit on open files is raised to the hard one" {
    start_command bash -c "ulimit -S -n 64 && exec ./$NAME -l 127.0.0.1:0"
    wait_listening
    for ((i = 0; i < 2; i++)); do
        read -r _ _ _ soft hard _ < <(grep '^Max open files' "/proc/$pid/limits")
        [[ $soft == "$hard" ]]
        restart_server
    done
}

@test "a timeout of seven digits is accepted" {
    start_server --idle-timeout 1000000 --drain-timeout=1000000 --request-timeout 1000000 \
        --ready-timeout 1000000
    serves
}
