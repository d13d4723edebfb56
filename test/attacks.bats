#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# Malicious and broken clients: none of them ends the server, makes it spin, or takes more memory
# than its share, and all others are served meanwhile.
# shellcheck disable=SC2030,SC2031,SC2153,SC2154 # a test is a subshell; helper.bash sets the rest

load tools/helper
load tools/crowd

HOST='Host: localhost\r\n'

# Whether the server has as many descriptors as before its first connection, $before.
all_closed() {
    has_descriptors "$pid" "$before"
}

# The server is alive, serves, and has no connection left.
unharmed() {
    alive "$pid"
    serves
    wait_for all_closed
}

# flood FD [TEXT]: sends TEXT, by default a request, over FD without end, until it cannot.
flood() {
    local text
    printf -v text '%b' "${2-$WHOLE}"
    exec yes "${text%$'\n'}" 1>&"$1" 2>/dev/null
}

# ---- clients that do not read ----

@test "clients that send requests without end and read no answer cost little, and are closed" {
    start_server --request-timeout 2
    before=$(descriptors "$pid")
    serves
    memory=$(status_of "$pid" RssAnon)
    most=0
    floods=()
    connect_many 20
    for conn in "${conns[@]}"; do
        in_background flood "$conn"
        floods+=("$job")
        disconnect "$conn"
    done
    sample_memory() {
        says "/proc/$pid/status" '^RssAnon:\s+(\S+)'
        ((BASH_REMATCH[1] <= most)) || most=${BASH_REMATCH[1]}
        all_closed
    }
    wait_for sample_memory
    echo "memory grown by $((most - memory)) KiB"
    # A head that waits, and responses for one send: at most 32 KiB each, and some for the heap.
    is_checked || ((most - memory <= 1024))
    for job in "${floods[@]}"; do
        wait_gone "$job"
    done
    unharmed
}

@test "the server does not spin while a client sends requests without end and reads no answer" {
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

@test "a client that reads too slowly is closed, even if it reads all the time" {
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

@test "a client that pipelines and does not read costs at most 2 MiB of the kernel's memory" {
    start_server
    own=$port
    # An inherited listener may have other buffers.
    crowd given -g C1 1 "$BATS_TEST_TMPDIR/$NAME" --request-timeout 600
    for port in "$own" "$crowd_port"; do
        crowd greedy 10 "$port"
        tell greedy pour 1000000
        tell greedy pour 1000000
        find_kernel_memory
        ((most > 0 && most <= 2 * 1024 * 1024))
        leave greedy
    done
}

# Sets most to the most that the kernel keeps for one of the server's connections, in bytes.
find_kernel_memory() {
    most=$(ss -Htnm "sport = :$port" | tr '\n' ' ' | grep -oE 'skmem:\([^)]*\)' | sed -E \
        's/.*\(r([0-9]+),rb[0-9]+,t[0-9]+,tb[0-9]+,f([0-9]+),w([0-9]+),.*/\1 \2 \3/' |
        awk '{ sum = $1 + $2 + $3; if (sum > most) most = sum } END { print most + 0 }')
    echo "at most $most bytes"
}

@test "a client that has sent much and read all answers gets no larger buffers" {
    start_server --request-timeout 600
    printf -v field 'X: %08000d\r\n' 0
    connect
    in_background flood "$conn" "${WHOLE%'\r\n'}$field$field\r\n"
    # After so many answers the kernel has enlarged the buffers, unless their size is fixed.
    head -c 500000 <&"$conn" >/dev/null
    [[ $(ss -Htnm "sport = :$port") =~ rb([0-9]+),t[0-9]+,tb([0-9]+) ]]
    echo "may take ${BASH_REMATCH[1]} and ${BASH_REMATCH[2]} bytes"
    ((BASH_REMATCH[1] + BASH_REMATCH[2] <= 1024 * 1024))
}

# ---- clients that stay after their last response ----

@test "a client that does not close after its last response is closed" {
    start_server
    before=$(descriptors "$pid")
    # It sends nothing more, or goes on sending.
    connect
    send "$conn" 'nonsense\r\n'
    receive "$conn"
    [[ $code == 400 ]]
    does_not_spin "$pid"
    wait_for all_closed
    connect
    send "$conn" "POST / HTTP/1.1\r\n${HOST}Content-Length: 999999999999\r\n\r\n"
    receive "$conn"
    [[ $code == 405 ]]
    pour() {
        while head -c 1000 /dev/zero >&"$1"; do
            sleep 0.05
        done 2>/dev/null
    }
    in_background pour "$conn"
    wait_gone "$job"
    unharmed
}

@test "a client that sends much after its last response is closed before the time is up" {
    start_server
    connect
    send "$conn" "POST / HTTP/1.1\r\n${HOST}Content-Length: 999999999999\r\n\r\n"
    receive "$conn"
    # The server drops 2 MiB and the buffers hold some more, far less than fits into the time.
    if dd if=/dev/zero bs=64k count=1600 status=none >&"$conn"; then
        return 1
    fi
    serves
}

# ---- slow clients ----

@test "many heads that come byte by byte all end at the deadline, and delay no other client" {
    start_server --request-timeout 2
    before=$(descriptors "$pid")
    connect_many 50
    drip() {
        local fd
        while :; do
            for fd; do
                printf a >&"$fd" || true
            done
            sleep 0.2
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

# ---- floods ----

@test "a flood of new connections does not hold up the shutdown" {
    need_strace
    need hammer
    start_server
    in_background "$BUILD_DIR/hammer" -k 0 -t 0 -p 0 -c 16 -s 0 -i 0 -d 300 "127.0.0.1:$port" \
        >/dev/null
    flood=$job
    # Slower than clients come again.
    in_trouble accept4,accept delay_enter=5000
    wait_for injected_often
    kill -TERM "$pid"
    ended "$pid"
    ((status == 0))
    alive "$flood"
}

injected_often() {
    (($(grep -c . "$BATS_TEST_TMPDIR/trace") > 100))
}

# ---- connections that break ----

# reset TEXT: sends TEXT over a new connection, and resets it. An escape cut in two is a backslash.
reset() {
    printf '%b' "$1" | socat -u - "TCP:127.0.0.1:$port,linger=0,shut-close"
}

@test "clients that reset or close their connections at any point do no harm" {
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
    # More answers come than fit into the buffers.
    for ((i = 0; i < 10; i++)); do
        printf "${WHOLE}%.0s" {1..3000} | socat -u - "TCP:127.0.0.1:$port,linger=0,shut-close" || true
    done
    for ((i = 0; i < 20; i++)); do
        connect
        printf "${WHOLE}%.0s" {1..100} >&"$conn"
        disconnect "$conn"
    done
    unharmed
}

# ---- bytes that are not HTTP ----

@test "a TLS hello and random bytes are rejected with 400, and do no harm" {
    start_server --request-timeout 1
    before=$(descriptors "$pid")
    run curl -q -sS -k --noproxy '*' --max-time "$patience" "https://127.0.0.1:$port/"
    [ "$status" -eq 35 ]
    connect
    send "$conn" '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03'
    receive "$conn"
    [ "$code" = 400 ]
    disconnect "$conn"
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
