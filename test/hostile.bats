#!/usr/bin/env bats
# Clients that mean harm, or behave as if: none of them ends the server, makes it spin, or takes
# more of its memory than its share; and everybody else is served meanwhile.
# shellcheck disable=SC2030,SC2031,SC2153,SC2154 # a test is a subshell; helper.bash sets the rest

load helper

HOST='Host: localhost\r\n'

# A build with AddressSanitizer keeps freed memory for a while: what it has then says nothing.
says_memory() {
    ! grep -q __asan_init "$SERVER_DIR/$NAME"
}

# Its own memory, in KiB.
own_memory() {
    sed -nE 's/^RssAnon:\s+([0-9]+) kB/\1/p' "/proc/$pid/status"
}

# spins: whether the server uses more than a tenth of a processor in the second from now.
spins() {
    local before after
    read -r before _ <"/proc/$pid/schedstat"
    sleep 1
    read -r after _ <"/proc/$pid/schedstat"
    echo "ran for $(((after - before) / 1000)) us"
    ((after - before > 100000000))
}

does_not_spin() {
    if spins; then
        return 1
    fi
}

# connect_many COUNT: opens COUNT connections. Sets conns.
connect_many() {
    conns=()
    for ((i = 0; i < $1; i++)); do
        connect
        conns+=("$conn")
    done
}

# Whether the server has as many descriptors as before its first connection, $rest.
all_closed() {
    (($(descriptors "$pid") == rest))
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

@test "clients that send requests without end and read no answer cost little, and are cut in time" {
    start_server --request-timeout 2
    rest=$(descriptors "$pid")
    serves
    before=$(own_memory)
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
    wait_for sample_memory
    echo "memory grown by $((most - before)) KiB"
    # A head that waits, and responses for one send: at most 32 KiB each, and some for the heap.
    ! says_memory || [ $((most - before)) -le 1024 ]
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
        local unsent
        read -r _ _ unsent < <(server_end "$conn") && ((unsent > 0))
    }
    wait_for full
    serves
    does_not_spin
    serves
}

@test "a client that reads too slowly is cut though it reads all the time" {
    start_server --request-timeout 1
    rest=$(descriptors "$pid")
    connect
    in_background flood "$conn"
    sip() {
        while head -c 10 >/dev/null; do
            sleep 0.05
        done <&"$1"
    }
    in_background sip "$conn"
    disconnect "$conn"
    one_more() {
        (($(descriptors "$pid") == rest + 1))
    }
    wait_for one_more
    wait_for all_closed
}

@test "a client that goes on sending behind its last answer is cut" {
    start_server
    rest=$(descriptors "$pid")
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

@test "a client that sends much behind its last answer is cut before the time is up" {
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

@test "a client that neither sends nor closes behind its last answer is cut" {
    start_server
    rest=$(descriptors "$pid")
    connect
    send "$conn" 'nonsense\r\n'
    receive "$conn"
    [ "$code" = 400 ]
    does_not_spin
    wait_for all_closed
}

# ---- clients that are slow ----

@test "many heads that come byte by byte all end at the deadline, and nobody waits for them" {
    start_server --request-timeout 2
    rest=$(descriptors "$pid")
    connect_many 50
    drip() {
        local fd
        for _ in {1..60}; do
            for fd in "$@"; do
                printf a >&"$fd" || true
            done
            sleep 0.05
        done 2>/dev/null
    }
    in_background drip "${conns[@]}"
    wait_for taken "${conns[49]}"
    serves
    for conn in "${conns[@]}"; do
        receive "$conn"
        [ "$code" = 408 ]
        disconnect "$conn"
    done
    kill "$job"
    unharmed
}

@test "connections at rest, and others in the middle of a head, cost no processor time" {
    start_server
    connect_many 40
    for conn in "${conns[@]:0:20}"; do
        send "$conn" "$HALF"
    done
    wait_for taken "${conns[19]}"
    does_not_spin
}

@test "a connection at rest costs no buffer" {
    says_memory || skip 'a checked build keeps freed memory'
    ulimit -n 2048 2>/dev/null || skip 'needs 2048 descriptors'
    start_server
    connect
    ask "$conn"
    before=$(own_memory)
    connect_many 1000
    for conn in "${conns[@]}"; do
        printf '%b' "$WHOLE" >&"$conn"
    done
    for conn in "${conns[@]}"; do
        IFS= read -r -t 10 -u "$conn" _
    done
    grown=$(($(own_memory) - before))
    echo "memory grown by $grown KiB"
    [ "$grown" -le 256 ]
}

# ---- more connections than descriptors ----

# start_limited LIMIT [OPTIONS...]: starts a server that can have LIMIT descriptors.
start_limited() {
    local limit=$1
    shift
    start_command prlimit "--nofile=$limit:$limit" "./$NAME" -l 127.0.0.1:0 "$@"
    wait_listening
}

# Opens connections with half a request each until the server takes no more. Sets halves.
fill() {
    halves=()
    for _ in {1..100}; do
        connect
        halves+=("$conn")
        send "$conn" "$HALF" || true
        if ((${#halves[@]} > 20)) && is_full && sleep 0.2 && is_full; then
            return 0
        fi
    done
    return 1
}

# Whether connections wait to be accepted, while all that those accepted have sent is read.
is_full() {
    ss -Htne "sport = :$port" | awk '!/ino:[1-9]/ { waiting++ } /ino:[1-9]/ && $2 > 0 { unread++ }
        END { exit !(waiting && !unread) }'
}

@test "where descriptors run out, the connection that rested longest makes room" {
    start_limited 64
    connect_many 100
    ask "${conns[99]}"
    closed "${conns[0]}"
    [ "$(descriptors "$pid")" -le 64 ]
    # Asking makes a connection the one that rested last.
    ask "${conns[80]}"
    for ((i = 0; i < 30; i++)); do
        connect
        ask "$conn"
    done
    closed "${conns[79]}"
    ask "${conns[80]}"
    ask "${conns[99]}"
    alive "$pid"
}

@test "where the system has no more descriptors, the connection that rested longest makes room" {
    start_server
    connect_many 3
    for conn in "${conns[@]}"; do
        ask "$conn"
    done
    ask "${conns[0]}"
    prlimit "--pid=$pid" "--nofile=$(highest_descriptor):$(highest_descriptor)"
    connect
    ask "$conn"
    closed "${conns[1]}"
    ask "${conns[0]}"
    ask "${conns[2]}"
    ask "$conn"
}

# The limit that leaves the server no descriptor but those it has.
highest_descriptor() {
    local fds=("/proc/$pid/fd"/*)
    printf '%s\n' "${fds[@]##*/}" | sort -n | awk 'END { print $1 + 1 }'
}

@test "a request under way does not make room for others" {
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

@test "a newcomer is not closed while nobody needs its place" {
    start_limited 40 --request-timeout 600
    rest=$(descriptors "$pid")
    connect_many 60
    ask "$conn"
    places=$(($(descriptors "$pid") - rest))
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

@test "where nobody rests, new connections wait until others end, and nothing spins" {
    start_limited 40 --request-timeout 600
    fill
    connect
    send "$conn" "$WHOLE"
    does_not_spin
    if taken "$conn"; then
        return 1
    fi
    for half in "${halves[@]}"; do
        disconnect "$half"
    done
    answered "$conn"
    serves
}

@test "where nobody rests, deadlines make room" {
    start_limited 40 --request-timeout 2
    fill
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
        "./$NAME" -l 127.0.0.1:0
    wait_listening
}

@test "no error of accept ends the server, and those who wait are served after it" {
    for error in ECONNABORTED EMFILE ENFILE ENOMEM ENOBUFS EPERM EPROTO ENETDOWN EHOSTUNREACH; do
        start_without_accept 1..3 "$error"
        serves
        [ "$(grep -c INJECTED "$calls")" -eq 3 ]
        alive "$pid"
        kill "$pid"
        wait_gone "$pid"
    done
}

@test "an error of accept that stays makes nothing spin, and who is connected is served" {
    for error in EMFILE ENFILE ENOMEM EPERM; do
        start_without_accept 4+ "$error"
        connect
        old=$conn
        send "$old" "$HALF"
        wait_for taken "$old"
        connect_many 3
        wait_for grep -q INJECTED "$calls"
        does_not_spin
        send "$old" "$REST"
        answered "$old"
        [ "$(grep -c INJECTED "$calls")" -le 60 ]
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
    rest=$(descriptors "$pid")
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
    rest=$(descriptors "$pid")
    for ((i = 0; i < 10; i++)); do
        printf "${WHOLE}%.0s" {1..3000} | socat -u - "TCP:127.0.0.1:$port,linger=0,shut-close" || true
    done
    unharmed
}

@test "a client that leaves without reading its answers does no harm" {
    start_server
    rest=$(descriptors "$pid")
    for ((i = 0; i < 20; i++)); do
        connect
        printf "${WHOLE}%.0s" {1..100} >&"$conn"
        disconnect "$conn"
    done
    unharmed
}

# ---- what is no HTTP ----

@test "a TLS hello is refused" {
    start_server
    rest=$(descriptors "$pid")
    run curl -q -sS -k --noproxy '*' --max-time 10 "https://127.0.0.1:$port/"
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
    rest=$(descriptors "$pid")
    for ((i = 0; i < 30; i++)); do
        head -c 50000 /dev/urandom | socat -t 10 - "TCP:127.0.0.1:$port" \
            >"$BATS_TEST_TMPDIR/answer" 2>/dev/null || true
        [ "$(grep -aoc 'HTTP/1.1 400' "$BATS_TEST_TMPDIR/answer")" -eq 1 ]
    done
    unharmed
}

@test "random changes to a request do no harm" {
    start_server --request-timeout 1
    rest=$(descriptors "$pid")
    printf "${WHOLE}%.0s" {1..20} >"$BATS_TEST_TMPDIR/requests"
    size=$(wc -c <"$BATS_TEST_TMPDIR/requests")
    for ((i = 0; i < 30; i++)); do
        cp "$BATS_TEST_TMPDIR/requests" "$BATS_TEST_TMPDIR/changed"
        for _ in 1 2; do
            head -c 1 /dev/urandom | dd of="$BATS_TEST_TMPDIR/changed" bs=1 seek=$((RANDOM % size)) \
                conv=notrunc status=none
        done
        socat -t 10 - "TCP:127.0.0.1:$port" <"$BATS_TEST_TMPDIR/changed" \
            >"$BATS_TEST_TMPDIR/answers"
        grep -aq '^HTTP/1.1 ' "$BATS_TEST_TMPDIR/answers"
    done
    unharmed
}
