#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# Clients that mean harm, or behave as if: none of them ends the server, makes it spin, or takes
# more of its memory than its share; and all others are served meanwhile.
# shellcheck disable=SC2030,SC2031,SC2153,SC2154 # a test is a subshell; helper.bash sets the rest

load tools/helper

HOST='Host: localhost\r\n'

# A build with AddressSanitizer keeps freed memory for a while: what it has then says nothing.
says_memory() {
    ! grep -q __asan_init "$SERVER_DIR/$NAME"
}

# Its own memory, in KiB.
own_memory() {
    status_of "$pid" RssAnon
}

# Whether the server has as many descriptors as before its first connection, $before.
all_closed() {
    has_descriptors "$pid" "$before"
}

# The server goes on as if nothing had been: alive, serving, and with no connection left over.
unharmed() {
    alive "$pid"
    serves
    wait_for all_closed
}

# flood FD: sends requests without end over FD, until it cannot.
flood() {
    local requests=$BATS_TEST_TMPDIR/requests
    [[ -e $requests ]] || printf "$WHOLE%.0s" {1..2000} >"$requests"
    while cat "$requests" >&"$1"; do
        :
    done 2>/dev/null
}

# ---- clients that do not read ----

@test "clients that send requests without end and read no answer cost little, and are closed in time" {
    start_server --request-timeout 2
    before=$(descriptors "$pid")
    serves
    memory=$(own_memory)
    most=0
    floods=()
    connect_many 20
    for conn in "${conns[@]}"; do
        in_background flood "$conn"
        floods+=("$job")
        disconnect "$conn"
    done
    sample_memory() {
        local now
        now=$(own_memory)
        ((now <= most)) || most=$now
        all_closed
    }
    until sample_memory; do
        ((SECONDS < 120))
        pause 20
    done
    echo "memory grown by $((most - memory)) KiB"
    # A head that waits, and responses for one send: at most 32 KiB each, and some for the heap.
    ! says_memory || [ $((most - memory)) -le 1024 ]
    for job in "${floods[@]}"; do
        wait_gone "$job"
    done
    unharmed
}

@test "while a client sends requests without end and reads no answer, nothing spins" {
    start_server
    connect
    in_background flood "$conn"
    full() {
        server_end "$conn" && ((unsent > 0))
    }
    wait_for full
    serves
    does_not_spin "$pid"
    serves
}

@test "a client that reads too slowly is closed though it reads all the time" {
    start_server --request-timeout 1
    before=$(descriptors "$pid")
    one_more() {
        has_descriptors "$pid" $((before + 1))
    }
    connect
    wait_for one_more
    in_background flood "$conn"
    sip() {
        while head -c 10 >/dev/null; do
            sleep 0.05
        done <&"$1"
    }
    in_background sip "$conn"
    disconnect "$conn"
    wait_for all_closed
}

@test "a client that goes on sending behind its last answer is closed" {
    start_server
    before=$(descriptors "$pid")
    connect
    send "$conn" "POST / HTTP/1.1\r\n${HOST}Content-Length: 999999999999\r\n\r\n"
    receive "$conn"
    [ "$code" = 405 ]
    pour() {
        while head -c 1000 /dev/zero >&"$1"; do
            sleep 0.05
        done 2>/dev/null
    }
    in_background pour "$conn"
    wait_gone "$job"
    unharmed
}

@test "a client that sends much behind its last answer is closed before the time is up" {
    start_server
    connect
    send "$conn" "POST / HTTP/1.1\r\n${HOST}Content-Length: 999999999999\r\n\r\n"
    receive "$conn"
    # What the server drops, and what two socket buffers hold: far less than two seconds carry.
    if dd if=/dev/zero bs=64k count=1600 status=none >&"$conn"; then
        return 1
    fi
    serves
}

@test "a client that neither sends nor closes behind its last answer is closed" {
    start_server
    before=$(descriptors "$pid")
    connect
    send "$conn" 'nonsense\r\n'
    receive "$conn"
    [ "$code" = 400 ]
    does_not_spin "$pid"
    wait_for all_closed
}

# ---- clients that are slow ----

@test "many heads that come byte by byte all end at the deadline, and no other client waits for them" {
    start_server --request-timeout 2
    before=$(descriptors "$pid")
    connect_many 50
    drip() {
        local fd
        while :; do
            for fd; do
                printf a >&"$fd" || true
            done
            sleep 0.05
        done 2>/dev/null
    }
    in_background drip "${conns[@]}"
    serves
    for conn in "${conns[@]}"; do
        receive "$conn"
        [ "$code" = 408 ]
        disconnect "$conn"
    done
    end_job "$job"
    unharmed
}

@test "idle connections, and others in the middle of a head, cost no processor time" {
    start_server
    connect_many 40
    for conn in "${conns[@]:0:20}"; do
        send "$conn" "$HALF"
    done
    wait_for taken "${conns[19]}"
    does_not_spin "$pid"
}

ask_each_once() {
    for conn; do
        printf '%b' "$WHOLE" >&"$conn"
    done
    for conn; do
        IFS= read -r -t "$patience" -u "$conn" _
    done
}

@test "an idle connection costs no buffer" {
    says_memory || skip 'a checked build keeps freed memory'
    ulimit -n 2048 2>/dev/null || skip 'needs 2048 descriptors'
    start_server
    connect
    ask "$conn"
    memory=$(own_memory)
    connect_many 1000
    ask_each_once "${conns[@]}"
    grown=$(($(own_memory) - memory))
    echo "memory grown by $grown KiB"
    [ "$grown" -le 256 ]
}

# ---- more connections than descriptors ----

# start_limited LIMIT [OPTIONS...]: starts a server that can have LIMIT descriptors.
start_limited() {
    local limit=$1
    shift
    start_command prlimit "--nofile=$limit:$limit" "./$NAME" -l 127.0.0.1:0 "${PATIENT[@]}" "$@"
    wait_listening
}

# open_halves N: opens N connections with half a request each, and adds them to halves.
open_halves() {
    local i
    for ((i = 0; i < $1; i++)); do
        connect
        halves+=("$conn")
        printf '%b' "$HALF" >&"$conn"
    done
}

# Opens connections with half a request each until the server takes no more. Sets halves.
fill() {
    halves=()
    open_halves 30
    until is_full && pause 300 && is_full; do
        ((${#halves[@]} < 200))
        open_halves 1
    done
}

# Whether connections wait to be accepted, while all that those accepted have sent is read.
is_full() {
    ss -Htne "sport = :$port" | awk '!/ino:[1-9]/ { waiting++ } /ino:[1-9]/ && $2 > 0 { unread++ }
        END { exit !(waiting && !unread) }'
}

@test "where descriptors run out, the connection that has been idle longest is evicted" {
    start_limited 64
    before=$(descriptors "$pid")
    connect_many 100
    ask "${conns[99]}"
    closed "${conns[0]}"
    [ "$(descriptors "$pid")" -le 64 ]
    # Asking makes a connection the one that has been idle for the shortest time.
    ask "${conns[80]}"
    # For each that is there but a few.
    places=$(($(descriptors "$pid") - before))
    for ((i = 0; i < places - 5; i++)); do
        connect
        ask "$conn"
    done
    closed "${conns[79]}"
    ask "${conns[80]}"
    ask "${conns[99]}"
    alive "$pid"
}

@test "a connection with a request in flight is not evicted" {
    start_limited 64
    connect_many 10
    for conn in "${conns[@]}"; do
        send "$conn" "$HALF"
        wait_for taken "$conn"
    done
    halves=("${conns[@]}")
    connect_many 100
    ask "$conn"
    for conn in "${halves[@]}"; do
        send "$conn" "$REST"
        answered "$conn"
    done
}

@test "a new connection is not evicted while no other one needs its descriptor" {
    start_limited 40
    before=$(descriptors "$pid")
    connect_many 60
    ask "$conn"
    places=$(($(descriptors "$pid") - before))
    for conn in "${conns[@]}"; do
        disconnect "$conn"
    done
    wait_for all_closed
    connect_many "$places"
    for conn in "${conns[@]}"; do
        send "$conn" "$HALF"
        wait_for taken "$conn"
    done
    connect
    sleep 0.2
    disconnect "${conns[0]}"
    ask "$conn"
}

@test "where no connection is idle, new ones wait until others end, and nothing spins" {
    start_limited 40
    fill
    connect
    send "$conn" "$WHOLE"
    does_not_spin "$pid"
    if taken "$conn"; then
        return 1
    fi
    for half in "${halves[@]}"; do
        disconnect "$half"
    done
    answered "$conn"
    serves
}

@test "where no connection is idle, new ones are served as the deadlines end others" {
    start_limited 40 --request-timeout 2
    halves=()
    open_halves 60
    connect
    ask "$conn"
    serves
    alive "$pid"
}

# ---- errors of accept ----

# start_without_accept WHICH ERROR: starts a server of which the calls WHICH (as strace has it) of
# accept4 fail with ERROR. Sets calls, a file with a line for each.
start_without_accept() {
    calls=$BATS_TEST_TMPDIR/calls
    strace -qq -o /dev/null true || skip 'needs strace, and leave to trace'
    # As a grandchild (-D), strace leaves the server to be the process that was started.
    start_command strace -D -qq -o "$calls" -e trace=accept4 -e "inject=accept4:error=$2:when=$1" \
        "./$NAME" -l 127.0.0.1:0 "${PATIENT[@]}"
    wait_listening
}

@test "no error of accept ends the server, and the clients that wait are served after it" {
    for error in ECONNABORTED EMFILE ENFILE ENOMEM ENOBUFS EPERM EPROTO ENETDOWN EHOSTUNREACH; do
        start_without_accept 1..3 "$error"
        serves
        [ "$(grep -c INJECTED "$calls")" -eq 3 ]
        alive "$pid"
        kill "$pid"
        wait_gone "$pid"
    done
}

@test "an error of accept that stays makes nothing spin, and connected clients are served" {
    for error in EMFILE ENFILE ENOMEM EPERM; do
        start_without_accept 4+ "$error"
        begun=$SECONDS
        connect
        old=$conn
        send "$old" "$HALF"
        wait_for taken "$old"
        connect_many 3
        wait_for says "$calls" INJECTED
        does_not_spin "$pid"
        send "$old" "$REST"
        answered "$old"
        # Ten a second, and some.
        [ "$(grep -c INJECTED "$calls")" -le $(((SECONDS - begun + 2) * 20)) ]
        kill "$pid"
        wait_gone "$pid"
    done
}

# ---- connections that break ----

# reset TEXT: sends TEXT over a new connection, and resets it. (An escape cut in two is a backslash.)
reset() {
    printf '%b' "$1" | socat -u - "TCP:127.0.0.1:$port,linger=0,shut-close"
}

@test "a reset does no harm, wherever it comes" {
    start_server
    before=$(descriptors "$pid")
    reset ''
    for text in "$WHOLE" "$WHOLE$WHOLE$HALF" 'nonsense\r\n' \
        "POST / HTTP/1.1\r\n${HOST}Content-Length: 100000\r\n\r\nbody"; do
        for ((i = 1; i <= ${#text}; i += 5)); do
            reset "${text:0:i}"
        done
        reset "$text"
    done
    unharmed
}

@test "a reset under a flood of answers does no harm" {
    start_server
    before=$(descriptors "$pid")
    for ((i = 0; i < 10; i++)); do
        printf "${WHOLE}%.0s" {1..3000} | socat -u - "TCP:127.0.0.1:$port,linger=0,shut-close" || true
    done
    unharmed
}

@test "a client that closes without reading its answers does no harm" {
    start_server
    before=$(descriptors "$pid")
    for ((i = 0; i < 20; i++)); do
        connect
        printf "${WHOLE}%.0s" {1..100} >&"$conn"
        disconnect "$conn"
    done
    unharmed
}

# ---- bytes that are not HTTP ----

@test "a TLS hello is refused" {
    start_server
    before=$(descriptors "$pid")
    run curl -q -sS -k --noproxy '*' --max-time "$patience" "https://127.0.0.1:$port/"
    [ "$status" -eq 35 ]
    connect
    send "$conn" '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03'
    receive "$conn"
    [ "$code" = 400 ]
    disconnect "$conn"
    unharmed
}

@test "random bytes do no harm" {
    start_server --request-timeout 1
    before=$(descriptors "$pid")
    for ((i = 0; i < 30; i++)); do
        connect
        dd if=/dev/urandom bs=50000 count=1 iflag=fullblock status=none >&"$conn"
        receive_all "$conn"
        [[ $all == 'HTTP/1.1 400 '* && $all != ?*'HTTP/1.1 '* ]]
        disconnect "$conn"
    done
    unharmed
}

@test "random changes to a request do no harm" {
    start_server --request-timeout 1
    before=$(descriptors "$pid")
    printf -v requests "${WHOLE}%.0s" {1..20}
    for ((i = 0; i < 30; i++)); do
        # Two bytes of it, as escapes of printf.
        at=$((RANDOM % (${#requests} - 1)))
        then=$((at + 1 + RANDOM % (${#requests} - 1 - at)))
        printf -v first '\\x%02x' $((RANDOM % 256))
        printf -v second '\\x%02x' $((RANDOM % 256))
        printf '%s%b%s%b%s' "${requests:0:at}" "$first" "${requests:at+1:then-at-1}" "$second" \
            "${requests:then+1}" >"$BATS_TEST_TMPDIR/changed"
        socat -t "$patience" - "TCP:127.0.0.1:$port" <"$BATS_TEST_TMPDIR/changed" \
            >"$BATS_TEST_TMPDIR/answers"
        IFS= read -r answer <"$BATS_TEST_TMPDIR/answers"
        [[ $answer == 'HTTP/1.1 '* ]]
    done
    unharmed
}
