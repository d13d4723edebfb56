#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# HTTP/1.1 over the wire: how each request is answered, and whether its connection stays open. The
# parser alone is tested byte by byte by unit/http_cases.c.
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

# have_codes CODES TEXT: whether TEXT is made of answers with these status codes.
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

# rejected STATUS TEXT: TEXT gets one answer, with Connection: close, and the connection is closed;
# a request after it is not answered.
rejected() {
    echo "$2"
    exchanged "$1" "$2$WHOLE" && [[ $answer == *$'\nConnection: close\n'* ]]
}

# by_socat TEXT: prints the answers to TEXT, after which the client shuts its sending side.
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

@test "the parser passes its table of cases" {
    run "$BUILD_DIR/http_cases"
    grep -B 1 '^not ok' <<<"$output" || true
    [ "$status" -eq 0 ]
    [[ ${lines[-1]} =~ ^1\.\.[0-9]{3}$ ]]
}

@test "answers GET / with Hello, World!, its length, type and date" {
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

@test "answers with the present date, second 0 of the clock included" {
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
    need second_zero.so
    start_command env "ASAN_OPTIONS=verify_asan_link_order=0:$ASAN_OPTIONS" \
        "LD_PRELOAD=$BUILD_DIR/second_zero.so" "./$NAME" -l 127.0.0.1:0
    wait_listening
    connect
    ask "$conn"
    [[ $header == *'Date: Thu, 01 Jan 1970 00:00:00 GMT'* ]]
    sleeps "$pid"
}

@test "answers every method and target with the right status" {
    start_server
    [ "$(get '/?any=thing&/../')" = 'Hello, World!' ]
    [ "$(curl -q -sS --max-time "$patience" -x "127.0.0.1:$port" --noproxy '' http://example.com/)" = 'Hello, World!' ]
    exchanged 200 "GET http://h HTTP/1.1\r\n${HOST}Connection: close\r\n\r\n"
    [ "$(get_status /x)" = 404 ]
    [ "$(get /x)" = 'Not found' ]
    connect
    for request in 'POST /' 'DELETE /?x' 'get /' 'OPTIONS /' 'OPTIONS *'; do
        send "$conn" "$request HTTP/1.1\r\n$HOST\r\n"
        receive "$conn"
        [ "$code" = 405 ]
        grep -qx 'Allow: GET, HEAD' <<<"$header"
    done
    ask "$conn"
}

@test "answers HEAD without a body, whatever the status" {
    start_server --request-timeout 3
    connect
    for answer in '/ 200 OK' '/x 404 Not Found'; do
        send "$conn" "HEAD ${answer%% *} HTTP/1.1\r\n$HOST\r\n"
        receive_head "$conn"
        grep -qx "HTTP/1.1 ${answer#* }" <<<"$header"
        [[ ${answer%% *} != / ]] || grep -qx 'Content-Length: 13' <<<"$header"
        ask "$conn"
    done
    # The second one does not come whole in time.
    for answer in '400 HTTP/1.1\r\n\r\n' '408 HTTP/1.1\r\nHost: loc'; do
        exchange "HEAD / ${answer#* }"
        [[ $answer == 'HTTP/1.1 4'* && $answer == *$'\n\n' ]]
    done
    [[ $answer == 'HTTP/1.1 408 '* ]]
}

# ---- rejected requests ----

@test "rejects a malformed, unsupported or ambiguous request, and answers nothing after it" {
    start_server
    rejected 400 'GET  / HTTP/1.1\r\n'
    rejected 400 'GET / HTTP/1.1\r\n\r\n'
    rejected 400 "GET / HTTP/1.1\r\n${HOST}X: \\0\r\n\r\n"
    rejected 400 "GET / HTTP/1.1\n${HOST}\n"
    rejected 400 "POST / HTTP/1.1\r\n${HOST}Content-Length: 1\r\nContent-Length: 2\r\n\r\n"
    rejected 400 "POST / HTTP/1.1\r\n${HOST}Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n"
    rejected 501 "POST / HTTP/1.1\r\n${HOST}Transfer-Encoding: gzip, chunked\r\n\r\n"
    rejected 505 "GET / HTTP/1.2\r\n${HOST}\r\n"
    rejected 505 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'
}

@test "answers a head of 16 KiB, and rejects a longer one with 431, or 414 for its request line" {
    start_server
    local start="GET / HTTP/1.1\r\n${HOST}Connection: close\r\nX: " size
    size=$(printf '%b' "$start" | wc -c)
    exchanged 200 "$start$(long $((16384 - size - 4)))\r\n\r\n"
    exchanged 200 "\r\n$start$(long $((16384 - size - 4)))\r\n\r\n"
    rejected 431 "$start$(long $((16384 - size - 3)))\r\n\r\n"
    rejected 431 "$start$(long 100000)\r\n\r\n"
    rejected 414 "GET /$(long 16384) HTTP/1.1\r\n${HOST}\r\n"
    rejected 414 "GET /$(long 100000) HTTP/1.1\r\n${HOST}\r\n"
}

# ---- persistence ----

@test "keeps or closes the connection as the client's version and Connection field ask" {
    start_server
    # Whether it stays open; the request; the Connection field of the answer.
    for case in 'open|1.1\r\nHost: a|' \
        'closed|1.1\r\nHost: a\r\nConnection: x\r\nConnection: y,, CLOSE|close' \
        'closed|1.0|close' 'open|1.0\r\nConnection: Keep-Alive|keep-alive'; do
        IFS='|' read -r outcome request connection <<<"$case"
        connect
        for _ in 1 2; do
            ask "$conn"
            [[ $header != *Connection:* ]]
        done
        send "$conn" "GET / HTTP/$request\r\n\r\n"
        receive "$conn"
        [[ $code == 200 && $body == 'Hello, World!' ]]
        [[ $(sed -n 's/^Connection: //p' <<<"$header") == "$connection" ]]
        if [[ $outcome == open ]]; then
            ask "$conn"
        else
            closed "$conn"
        fi
        disconnect "$conn"
    done
}

# ---- pipelines and pieces ----

@test "answers pipelined requests in their order, also those that are nearly the same" {
    start_server
    text=$WHOLE
    text+="GET /x HTTP/1.1\r\n$HOST\r\n"
    text+="HEAD /y HTTP/1.1\r\n$HOST\r\n"
    text+="PUT / HTTP/1.1\r\n$HOST\r\n"
    text+="\r\n$WHOLE"
    text+="GET /z HTTP/1.1\r\n${HOST}Connection: close\r\n\r\n"
    exchanged '200 404 404 405 200 404' "$text"
    text=$WHOLE$WHOLE${WHOLE/GET/PUT}$WHOLE
    text+=${WHOLE/ost/osu}
    exchanged '200 200 405 200 400' "$text"
    text=$WHOLE$WHOLE${WHOLE/Host: localhost/Host:localhost }${WHOLE/1.1/1.0}$WHOLE
    exchanged '200 200 200 200' "$text"
}

@test "sends a slow reader all of its answers" {
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

@test "answers a request that comes in pieces, cut anywhere" {
    start_server
    printf '%b' "\r\n${WHOLE}GET /x HTTP/1.1\r\n${HOST}Connection: close\r\n\r\n" |
        socat -b 1 -t "$patience" - "TCP:127.0.0.1:$port,nodelay" >"$BATS_TEST_TMPDIR/answers"
    have_codes '200 404' "$(<"$BATS_TEST_TMPDIR/answers")"
    connect
    text=$(printf '%b' "${WHOLE}x")
    text=${text%x}
    for ((i = 1; i < ${#text}; i += 3)); do
        printf '%s' "${text:0:i}" | dd bs=1k status=none >&"$conn"
        wait_for taken "$conn"
        printf '%s' "${text:i}" | dd bs=1k status=none >&"$conn"
        answered "$conn"
    done
    # The beginning of a third request comes with the first two.
    send "$conn" "$WHOLE$WHOLE$HALF"
    answered "$conn"
    answered "$conn"
    end_request "$conn"
}

# ---- bodies ----

@test "answers a request with a body at once, and never takes the body for a request" {
    start_server
    for framing in 'Content-Length: 44' 'Transfer-Encoding: chunked' \
        'Connection: keep-alive\r\nContent-Length: 5'; do
        exchange "POST /x HTTP/1.1\r\n$HOST$framing\r\n\r\n$WHOLE$WHOLE"
        echo "$answer"
        have_codes 404 "$answer"
        [[ $answer == *$'\nConnection: close\n'* ]]
    done
    # No body has come yet.
    connect
    send "$conn" "POST / HTTP/1.1\r\n${HOST}Expect: 100-continue\r\nContent-Length: 100\r\n\r\n"
    receive "$conn"
    [ "$code" = 405 ]
    announces_close
    closed "$conn"
    # An empty body is no body.
    connect
    send "$conn" "POST / HTTP/1.1\r\n${HOST}Content-Length: 0\r\n\r\n"
    receive "$conn"
    [ "$code" = 405 ]
    ask "$conn"
}

@test "a client that goes on sending a megabyte gets its answer, and no reset" {
    start_server
    head -c $MEGABYTE /dev/zero >"$BATS_TEST_TMPDIR/body"
    megabyte=$(long $MEGABYTE)
    requests=$(repeat 5000 "$WHOLE")
    for _ in 1 2 3; do
        exchanged 405 "PUT / HTTP/1.1\r\n${HOST}Content-Length: $MEGABYTE\r\n\r\n$megabyte"
        exchanged 505 "GET / HTTP/2.0\r\n${HOST}\r\n$megabyte"
        exchanged 414 "GET /$megabyte"
        exchanged 200 "GET / HTTP/1.0\r\n\r\n$megabyte"
        exchanged '200 200' "${WHOLE}GET / HTTP/1.1\r\n${HOST}Connection: close\r\n\r\n$requests"
    done
    [ "$(curl -q -sS --noproxy '*' --max-time "$patience" -o /dev/null -w '%{http_code}' \
        -T "$BATS_TEST_TMPDIR/body" "http://127.0.0.1:$port/x")" = 404 ]
}

# ---- a client that shuts its sending side ----

@test "a client that shut its sending side gets all of its answers, 400 for half a head" {
    start_server
    have_codes '200 200 200' "$(by_socat "$WHOLE$WHOLE$WHOLE")"
    have_codes '200 400' "$(by_socat "$WHOLE$IN_FIELD")"
    have_codes 400 "$(by_socat G)"
    [ -z "$(by_socat '')" ]
    repeat 20000 "$WHOLE" >"$BATS_TEST_TMPDIR/requests"
    socat -t "$patience" - "TCP:127.0.0.1:$port" <"$BATS_TEST_TMPDIR/requests" >"$BATS_TEST_TMPDIR/answers"
    [ "$(grep -ao 'HTTP/1.1 200 OK' "$BATS_TEST_TMPDIR/answers" | wc -l)" -eq 20000 ]
    [ "$(grep -aoF 'Hello, World!' "$BATS_TEST_TMPDIR/answers" | wc -l)" -eq 20000 ]
    # It is slow to read: the end comes while the server waits to send.
    repeat 1600 "$WHOLE" >"$BATS_TEST_TMPDIR/requests"
    socat -b 4096 -t "$patience" - "TCP:127.0.0.1:$port,rcvbuf=4096" <"$BATS_TEST_TMPDIR/requests" |
        { sleep 1 && cat; } >"$BATS_TEST_TMPDIR/answers"
    [ "$(grep -ao 'HTTP/1.1 200 OK' "$BATS_TEST_TMPDIR/answers" | wc -l)" -eq 1600 ]
}
