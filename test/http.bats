#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# HTTP/1.1 over the wire: what each request is answered, and what becomes of the connection. The
# parser alone, byte by byte, is the matter of http_cases.c.
# shellcheck disable=SC2030,SC2031,SC2153,SC2154 # a test is a subshell; helper.bash sets the rest

load tools/helper

HOST='Host: localhost\r\n'
IN_FIELD='GET / HTTP/1.1\r\nHost: local' # a head that ends there
MEGABYTE=1000000

# exchange TEXT: sends TEXT over a new connection. Sets answer to all that comes, without CR. Fails
# if TEXT is not all taken, and on anything but a clean end of file in good time.
exchange() {
    local all failed=0
    connect
    send "$conn" "$1" || failed=1
    receive_all "$conn" || failed=1
    disconnect "$conn"
    answer=${all//$'\r'/}
    return "$failed"
}

# have_codes CODES TEXT: whether TEXT is answers with these status codes.
have_codes() {
    local codes=() text=$2
    while [[ $text =~ HTTP/1\.1\ ([0-9]*) ]]; do
        codes+=("${BASH_REMATCH[1]}")
        text=${text#*"${BASH_REMATCH[0]}"}
    done
    [[ ${codes[*]} == "$1" ]]
}

# exchanged STATUSES TEXT: TEXT over a new connection gets answers with STATUSES, and a clean end.
exchanged() {
    exchange "$2" && have_codes "$1" "$answer"
}

# refused STATUS TEXT: TEXT gets one answer, which says that the connection closes, and closes it;
# the request behind it gets none.
refused() {
    exchanged "$1" "$2$WHOLE" && [[ $answer == *$'\nConnection: close\n'* ]]
}

# by_socat TEXT: prints what comes for TEXT, behind which the sending side is shut.
by_socat() {
    printf '%b' "$1" | socat -t "$patience" - "TCP:127.0.0.1:$port"
}

# receive_head FD: like receive, for a response without a body.
receive_head() {
    local line
    header=''
    while IFS= read -r -t "$patience" -u "$1" line; do
        line=${line%$'\r'}
        [[ -n $line ]] || return 0
        header+=$line$'\n'
    done
    return 1
}

# milliseconds since the start of the clock of $EPOCHREALTIME
clock() {
    echo $((${EPOCHREALTIME/[.,]/} / 1000))
}

# repeat COUNT TEXT: prints TEXT, with escapes as of printf %b, COUNT times.
repeat() {
    local text
    printf -v text '%b' "$2"
    yes "${text%$'\n'}" 2>/dev/null | head -n $(($1 * $(wc -l <<<"${text%$'\n'}"))) || true
}

# long COUNT: prints COUNT times an a.
long() {
    printf '%*s' "$1" '' | tr ' ' a
}

# ---- answers ----

@test "each case of the parser's table comes out as HTTP has it" {
    run "$BUILD_DIR/http_cases"
    grep -B 1 '^not ok' <<<"$output" || true
    [ "$status" -eq 0 ]
    [[ ${lines[-1]} =~ ^1\.\.[0-9]{3}$ ]]
}

@test "the root is answered with Hello, World!, its length, type and date" {
    start_server
    connect
    send "$conn" "$WHOLE"
    receive "$conn"
    [ "$code" = 200 ]
    [ "$body" = 'Hello, World!' ]
    grep -qx 'HTTP/1.1 200 OK' <<<"$header"
    grep -qx 'Content-Length: 13' <<<"$header"
    grep -qx 'Content-Type: text/plain; charset=utf-8' <<<"$header"
    grep -Eqx 'Date: [A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} GMT' <<<"$header"
    [[ $header != *Connection:* ]]
}

@test "the date is the present one, and moves on" {
    start_server
    connect
    ask "$conn"
    first=$(sed -n 's/^Date: //p' <<<"$header")
    date_moved() {
        ask "$conn" && [[ $(sed -n 's/^Date: //p' <<<"$header") != "$first" ]]
    }
    wait_for date_moved
    off=$(($(date +%s) - $(date -d "$(sed -n 's/^Date: //p' <<<"$header")" +%s)))
    [ "$off" -ge -1 ]
    [ "$off" -le 30 ]
}

@test "a query does not matter" {
    start_server
    [ "$(get '/?any=thing&/../')" = 'Hello, World!' ]
}

@test "a whole URI is a target too" {
    start_server
    [ "$(curl -q -sS --max-time "$patience" -x "127.0.0.1:$port" --noproxy '' http://example.com/)" = 'Hello, World!' ]
    exchanged 200 "GET http://h HTTP/1.1\r\n${HOST}Connection: close\r\n\r\n"
}

@test "another path is not found" {
    start_server
    [ "$(get_status /x)" = 404 ]
    [ "$(get /x)" = 'Not found' ]
}

@test "another method is not allowed, and those that are get named" {
    start_server
    connect
    for request in 'POST /' 'DELETE /?x' 'get /' 'OPTIONS /' 'OPTIONS *'; do
        send "$conn" "$request HTTP/1.1\r\n$HOST\r\n"
        receive "$conn"
        [ "$code" = 405 ]
        grep -qx 'Allow: GET, HEAD' <<<"$header"
    done
    ask "$conn"
}

@test "HEAD is answered as GET is, but for the body" {
    start_server
    connect
    send "$conn" "HEAD / HTTP/1.1\r\n$HOST\r\n"
    receive_head "$conn"
    grep -qx 'HTTP/1.1 200 OK' <<<"$header"
    grep -qx 'Content-Length: 13' <<<"$header"
    ask "$conn"
    send "$conn" "HEAD /x HTTP/1.1\r\n$HOST\r\n"
    receive_head "$conn"
    grep -qx 'HTTP/1.1 404 Not Found' <<<"$header"
    ask "$conn"
}

@test "a refused HEAD gets no body either" {
    start_server
    exchange "HEAD / HTTP/1.1\r\n\r\n"
    [[ $answer == 'HTTP/1.1 400 '* ]]
    [[ $answer == *$'\n\n' ]]
}

# ---- refusals ----

@test "a malformed head is refused with 400, and nothing behind it is answered" {
    start_server
    refused 400 'GET  / HTTP/1.1\r\n'
    refused 400 'GET /\r\n'
    refused 400 'GET / HTTP/1.1\r\n\r\n'
    refused 400 "GET / HTTP/1.1\r\n${HOST}${HOST}\r\n"
    refused 400 'GET / HTTP/1.1\r\nHost: a b\r\n\r\n'
    refused 400 'GET / HTTP/1.1\r\nHost : a\r\n\r\n'
    refused 400 "GET / HTTP/1.1\r\n${HOST}X: a\r\n b\r\n\r\n"
    refused 400 "GET / HTTP/1.1\r\n${HOST}X: \\0\r\n\r\n"
    refused 400 "GET / HTTP/1.1\n${HOST}\n"
    refused 400 "GET / HTTP/1.1\r\n${HOST}X: a\rb\r\n\r\n"
    refused 400 '\r\n\r\n'
    refused 400 'CONNECT localhost:80 HTTP/1.1\r\n'
}

@test "a length that is wrong, or that has two readings, is refused" {
    start_server
    for length in -1 +1 1x 0x1 1,1 '' 9223372036854775808 18446744073709551616 \
        '1\r\nContent-Length: 2' '0\r\nTransfer-Encoding: chunked'; do
        refused 400 "POST / HTTP/1.1\r\n${HOST}Content-Length: $length\r\n\r\n"
    done
    refused 400 'POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n'
}

@test "a transfer coding that is not chunked is refused with 501" {
    start_server
    for coding in gzip 'gzip, chunked' 'chunked, chunked' xchunked '' \
        'chunked\r\nTransfer-Encoding: chunked'; do
        refused 501 "POST / HTTP/1.1\r\n${HOST}Transfer-Encoding: $coding\r\n\r\n"
    done
}

@test "a version other than 1.0 and 1.1 is refused with 505" {
    start_server
    refused 505 "GET / HTTP/2.0\r\n${HOST}\r\n"
    refused 505 "GET / HTTP/1.2\r\n${HOST}\r\n"
    refused 505 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'
}

@test "a head of 16 KiB is answered" {
    start_server
    local start="GET / HTTP/1.1\r\n${HOST}Connection: close\r\nX: " size
    size=$(printf '%b' "$start" | wc -c)
    exchanged 200 "$start$(long $((16384 - size - 4)))\r\n\r\n"
    exchanged 200 "\r\n$start$(long $((16384 - size - 4)))\r\n\r\n"
}

@test "a head of one byte more is refused with 431" {
    start_server
    local start="GET / HTTP/1.1\r\n${HOST}X: " size
    size=$(printf '%b' "$start" | wc -c)
    refused 431 "$start$(long $((16384 - size - 3)))\r\n\r\n"
    refused 431 "GET / HTTP/1.1\r\n${HOST}X: $(long 100000)\r\n\r\n"
}

@test "a request line that is too long is refused with 414" {
    start_server
    refused 414 "GET /$(long 16384) HTTP/1.1\r\n${HOST}\r\n"
    refused 414 "GET /$(long 100000) HTTP/1.1\r\n${HOST}\r\n"
}

# ---- persistence ----

@test "a connection of HTTP/1.1 stays open" {
    start_server
    connect
    for _ in 1 2 3; do
        ask "$conn"
    done
}

@test "a connection of HTTP/1.1 is closed when the client asks for it" {
    start_server
    connect
    ask "$conn"
    send "$conn" "GET / HTTP/1.1\r\n${HOST}Connection: x\r\nConnection: y,, CLOSE\r\n\r\n"
    receive "$conn"
    [ "$body" = 'Hello, World!' ]
    announces_close
    closed "$conn"
}

@test "a connection of HTTP/1.0 is closed" {
    start_server
    connect
    send "$conn" 'GET / HTTP/1.0\r\n\r\n'
    receive "$conn"
    [ "$body" = 'Hello, World!' ]
    announces_close
    closed "$conn"
}

@test "a connection of HTTP/1.0 stays open when asked for, and is told so" {
    start_server
    connect
    for _ in 1 2; do
        send "$conn" 'GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n'
        receive "$conn"
        [ "$body" = 'Hello, World!' ]
        grep -qix 'Connection: keep-alive' <<<"$header"
    done
    ask "$conn"
    [[ $header != *Connection:* ]]
}

@test "an idle connection is closed cleanly after the idle timeout" {
    start_server --idle-timeout 3
    start=$(clock)
    connect
    silent=$conn
    connect
    ask "$conn"
    closed "$silent"
    closed "$conn"
    took=$(($(clock) - start))
    [ "$took" -ge 2900 ]
}

@test "each request starts the idle timeout anew" {
    start_server --idle-timeout 6
    connect
    for _ in 1 2 3; do
        ask "$conn"
        pause 2500
    done
    ask "$conn"
}

# ---- pipelines and pieces ----

@test "pipelined requests are answered in their order" {
    start_server
    text=$WHOLE
    text+="GET /x HTTP/1.1\r\n$HOST\r\n"
    text+="HEAD /y HTTP/1.1\r\n$HOST\r\n"
    text+="PUT / HTTP/1.1\r\n$HOST\r\n"
    text+="\r\n$WHOLE"
    text+="GET /z HTTP/1.1\r\n${HOST}Connection: close\r\n\r\n"
    exchanged '200 404 404 405 200 404' "$text"
}

@test "pipelined requests that are nearly the same are told apart" {
    start_server
    text=$WHOLE$WHOLE${WHOLE/GET/PUT}$WHOLE
    text+=${WHOLE/ost/osu}
    exchanged '200 200 405 200 400' "$text"
    text=$WHOLE$WHOLE${WHOLE/Host: localhost/Host:localhost }${WHOLE/1.1/1.0}$WHOLE
    exchanged '200 200 200 200' "$text"
}

@test "twenty thousand requests in one go are all answered" {
    start_server
    { repeat 20000 "$WHOLE" && printf 'GET / HTTP/1.0\r\n\r\n'; } >"$BATS_TEST_TMPDIR/requests"
    socat -t "$patience" - "TCP:127.0.0.1:$port" <"$BATS_TEST_TMPDIR/requests" >"$BATS_TEST_TMPDIR/answers"
    [ "$(grep -ao 'HTTP/1.1 200 OK' "$BATS_TEST_TMPDIR/answers" | wc -l)" -eq 20001 ]
    [ "$(grep -aoF 'Hello, World!' "$BATS_TEST_TMPDIR/answers" | wc -l)" -eq 20001 ]
}

@test "a client that is slow to read gets all its answers" {
    start_server
    { repeat 50000 "$WHOLE" && printf 'GET / HTTP/1.0\r\n\r\n'; } >"$BATS_TEST_TMPDIR/requests"
    connect
    in_background dd "if=$BATS_TEST_TMPDIR/requests" bs=64k status=none >&"$conn"
    full() {
        server_end "$conn" && ((unsent > 0))
    }
    wait_for full
    serves
    [ "$(timeout "$patience" cat <&"$conn" | grep -ao 'HTTP/1.1 200 OK' | wc -l)" -eq 50001 ]
}

@test "a request may come one byte at a time" {
    start_server
    printf '%b' "\r\n${WHOLE}GET /x HTTP/1.1\r\n${HOST}Connection: close\r\n\r\n" |
        socat -b 1 -t "$patience" - "TCP:127.0.0.1:$port,nodelay" >"$BATS_TEST_TMPDIR/answers"
    have_codes '200 404' "$(<"$BATS_TEST_TMPDIR/answers")"
}

@test "a request may come in two pieces, cut anywhere" {
    start_server
    connect
    text=$(printf '%b' "${WHOLE}x")
    text=${text%x}
    for ((i = 1; i < ${#text}; i += 3)); do
        printf '%s' "${text:0:i}" | dd bs=1k status=none >&"$conn"
        wait_for taken "$conn"
        printf '%s' "${text:i}" | dd bs=1k status=none >&"$conn"
        answered "$conn"
    done
}

@test "a piece of the next request waits behind an answer" {
    start_server
    connect
    send "$conn" "$WHOLE$WHOLE$HALF"
    answered "$conn"
    answered "$conn"
    send "$conn" "$REST"
    answered "$conn"
}

# ---- bodies ----

@test "a request with a body is answered at once, and nothing in the body is" {
    start_server
    for framing in 'Content-Length: 44' 'Transfer-Encoding: chunked' \
        'Connection: keep-alive\r\nContent-Length: 5'; do
        exchange "POST /x HTTP/1.1\r\n$HOST$framing\r\n\r\n$WHOLE$WHOLE"
        echo "$answer"
        have_codes 404 "$answer"
        [[ $answer == *$'\nConnection: close\n'* ]]
    done
}

@test "a request with a body is answered before the body comes" {
    start_server
    connect
    send "$conn" "POST / HTTP/1.1\r\n${HOST}Expect: 100-continue\r\nContent-Length: 100\r\n\r\n"
    receive "$conn"
    [ "$code" = 405 ]
    announces_close
    closed "$conn"
}

@test "a body of no bytes is none" {
    start_server
    connect
    send "$conn" "POST / HTTP/1.1\r\n${HOST}Content-Length: 0\r\n\r\n"
    receive "$conn"
    [ "$code" = 405 ]
    ask "$conn"
}

@test "a request with a megabyte of body gets its answer, and no reset" {
    start_server
    for _ in 1 2 3; do
        exchanged 405 "PUT / HTTP/1.1\r\n${HOST}Content-Length: $MEGABYTE\r\n\r\n$(long $MEGABYTE)"
    done
    head -c $MEGABYTE /dev/zero >"$BATS_TEST_TMPDIR/body"
    [ "$(curl -q -sS --noproxy '*' --max-time "$patience" -o /dev/null -w '%{http_code}' \
        -T "$BATS_TEST_TMPDIR/body" "http://127.0.0.1:$port/x")" = 404 ]
}

@test "a refused request with a megabyte behind it gets its answer, and no reset" {
    start_server
    for _ in 1 2 3; do
        exchanged 505 "GET / HTTP/2.0\r\n${HOST}\r\n$(long $MEGABYTE)"
        exchanged 414 "GET /$(long $MEGABYTE)"
    done
}

@test "a client that asks for the end and goes on sending gets its answer, and no reset" {
    start_server
    for _ in 1 2 3; do
        exchanged 200 "GET / HTTP/1.0\r\n\r\n$(long $MEGABYTE)"
        exchanged '200 200' "${WHOLE}GET / HTTP/1.1\r\n${HOST}Connection: close\r\n\r\n$(repeat 5000 "$WHOLE")"
    done
}

# ---- ends ----

@test "a client that shut its sending side gets all its answers" {
    start_server
    have_codes '200 200 200' "$(by_socat "$WHOLE$WHOLE$WHOLE")"
    repeat 20000 "$WHOLE" >"$BATS_TEST_TMPDIR/requests"
    socat -t "$patience" - "TCP:127.0.0.1:$port" <"$BATS_TEST_TMPDIR/requests" >"$BATS_TEST_TMPDIR/answers"
    [ "$(grep -ao 'HTTP/1.1 200 OK' "$BATS_TEST_TMPDIR/answers" | wc -l)" -eq 20000 ]
}

@test "a head that is cut off by the end of the connection is refused" {
    start_server
    have_codes '200 400' "$(by_socat "$WHOLE$IN_FIELD")"
    have_codes 400 "$(by_socat G)"
}

@test "a connection that is shut without a byte is closed without one" {
    start_server
    [ -z "$(socat -t "$patience" - "TCP:127.0.0.1:$port" </dev/null)" ]
}

@test "a head that is not whole in time is refused with 408" {
    start_server --request-timeout 1
    connect
    send "$conn" "$IN_FIELD"
    receive "$conn"
    [ "$code" = 408 ]
    announces_close
    closed "$conn"
}

@test "the time for a head counts from its first byte, however many follow" {
    start_server --request-timeout 1
    connect
    start=$(clock)
    send "$conn" "$IN_FIELD"
    drip() {
        while printf a >&"$1"; do
            sleep 0.05
        done 2>/dev/null
    }
    in_background drip "$conn"
    receive "$conn"
    took=$(($(clock) - start))
    [ "$code" = 408 ]
    [ "$took" -ge 900 ]
}

@test "the time for a head counts from its own first byte, not from the request before" {
    start_server --request-timeout 8
    connect
    send "$conn" "$HALF"
    pause 4500
    send "$conn" "$REST$HALF"
    answered "$conn"
    pause 4500
    send "$conn" "$REST"
    answered "$conn"
}

@test "a HEAD that is not whole in time gets no body" {
    start_server --request-timeout 1
    exchange "HEAD / HTTP/1.1\r\nHost: loc"
    [[ $answer == 'HTTP/1.1 408 '* ]]
    [[ $answer == *$'\n\n' ]]
}

# ---- other clients ----

@test "curl speaks with it in HTTP/1.1 and HTTP/1.0" {
    start_server
    local url=http://127.0.0.1:$port/
    [ "$(curl -q -sS --noproxy '*' --http1.1 -w '%{num_connects}' "$url" "$url" "$url")" = \
        'Hello, World!1Hello, World!0Hello, World!0' ]
    [ "$(curl -q -sS --noproxy '*' --http1.0 "$url")" = 'Hello, World!' ]
    curl -q -sS --noproxy '*' -I "$url" | grep -q '^Content-Length: 13'
}

@test "ab, which speaks HTTP/1.0, keeps its connection" {
    command -v ab >/dev/null || skip 'needs ab'
    start_server
    run ab -q -k -n 1000 -c 10 "http://127.0.0.1:$port/"
    [ "$status" -eq 0 ]
    grep -Eq '^Keep-Alive requests: +1000$' <<<"$output"
    grep -Eq '^Failed requests: +0$' <<<"$output"
}
