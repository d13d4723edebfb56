# shellcheck shell=bash
# SPDX-License-Identifier: 0BSD
# shellcheck disable=SC2034 # what functions set is for the tests
# What the bats files share. Each test has a folder of its own with copies of both programs, runs
# its servers there, and ends with all of them gone.
#
#   SERVER_DIR   folder of the two programs under test, default: the project's root
#
# Tests run side by side, on a machine that may be busy. So they wait for a state and not for a time:
# what must happen has $patience seconds, and the server's own timeouts are ten times as long, but
# where a test is about one of them.
#
# bats runs commands of its own before each command of a test and of the functions that it calls
# (set -o functrace), in order to report where a test failed. In loops these take most of the time.
# So functions that wait or search turn that off for what they call, until they return.
#
# Names that the functions set: pid and port of the server started last, log (its standard error).

SERVER_DIR=${SERVER_DIR:-${BATS_TEST_DIRNAME%/*}}
BUILD_DIR=${BUILD_DIR:-${BATS_TEST_DIRNAME%/*}/build}
NAME=rust_graceful_restart

[[ -x $SERVER_DIR/$NAME && -x $SERVER_DIR/${NAME}1 && -x $BUILD_DIR/manager ]] ||
    { echo "no programs in $SERVER_DIR or no tools in $BUILD_DIR: make all tools" >&2; exit 1; }
patience=60
PATIENT=(--ready-timeout 600 --drain-timeout 600 --idle-timeout 600 --request-timeout 600)

# Nothing ever comes here, as nothing is sent: to wait for a moment, without a process for that.
exec {never}<>/dev/udp/127.0.0.1/9

# For builds that check themselves: out of memory is for the server to handle.
export ASAN_OPTIONS=allocator_may_return_null=1${ASAN_OPTIONS:+:$ASAN_OPTIONS}

setup() {
    prepare
    install_server "$BATS_TEST_TMPDIR"
}

# What each setup begins with. Sets log.
prepare() {
    log=$BATS_TEST_TMPDIR/log
    # What is sent to a connection that is closed fails, and ends nothing.
    trap : PIPE
    # Once bash has written anything, echo writes what it is given in one go, as send wants it.
    echo >/dev/null
}

teardown() {
    end_all
    no_defects
}

# What a build that checks itself has found. A server that ends at once may leave connections.
no_defects() {
    local -
    set +o functrace
    local process
    says_defect || return 0
    if grep -Es -A 30 'ERROR: AddressSanitizer: |runtime error: ' "$BATS_TEST_TMPDIR"/log*; then
        return 1
    fi
    while read -r process; do
        if ! logged "\[$process]: .*ending at once"; then
            grep -A 30 "^==$process==ERROR" "$log"
            return 1
        fi
    done < <(sed -nE 's/^==([0-9]+)==ERROR: LeakSanitizer: .*/\1/p' "$log")
}

# Whether a log tells of one.
says_defect() {
    local file
    for file in "$BATS_TEST_TMPDIR"/log*; do
        [[ ! -e $file || ! $(<"$file") =~ Sanitizer:\ |runtime\ error:\  ]] || return 0
    done
    return 1
}

# needs COMMAND: skips the test where COMMAND is missing.
needs() {
    command -v "$1" >/dev/null || skip "needs $1"
}

# need TOOL: one of build/.
need() {
    [[ -x $BUILD_DIR/$1 ]] && return
    echo "build/$1 is missing: make build/$1"
    return 1
}

# ---- servers ----

# Copies both programs into FOLDER, where a test may break them.
install_server() {
    [[ -d $1 ]] || mkdir "$1"
    cp --remove-destination "$SERVER_DIR/$NAME" "$SERVER_DIR/${NAME}1" "$1"
}

# start_server [OPTIONS...]: starts a patient server on a port that the kernel picks, and waits for
# it.
start_server() {
    start_command "./$NAME" -l 127.0.0.1:0 "${PATIENT[@]}" "$@"
    wait_listening
}

# start_command COMMAND...: starts COMMAND in the background, in the test's folder. It inherits of
# our descriptors above 2 those that the caller redirects, up to 9, and no others. Sets pid.
start_command() {
    (
        cd "$BATS_TEST_TMPDIR" || exit
        set +o functrace
        close_descriptors
        exec "$@" </dev/null 2>>"$log" >>"$log.out"
    ) &
    pid=$!
}

# Closes 3 and 4, which bats uses, and all from 10 on.
close_descriptors() {
    local fd
    for fd in "/proc/$BASHPID/fd"/*; do
        fd=${fd##*/}
        ((fd < 10 && fd != 3 && fd != 4)) || eval "exec $fd>&-"
    done
}

# Waits until process $pid listens, and has opened what it opens after that. Sets port.
wait_listening() {
    wait_log "\[$pid]: listening on [^ ]*:([0-9]+)"
    port=${BASH_REMATCH[1]}
    wait_for settled "$pid"
}

# settled PID: whether the process waits for something to happen, or has ended.
settled() {
    local stat
    { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 0
    [[ ${stat##*) } == [SZ]* ]]
}

# A port that no process uses, no other test gets, and the kernel gives to none by itself.
free_port() {
    local first port
    read -r first _ </proc/sys/net/ipv4/ip_local_port_range
    while
        port=$((first / 2 + RANDOM % (first / 2)))
        [[ $(exec ss -Htan "sport = :$port or dport = :$port") ]] ||
            ! mkdir "${PORTS_DIR:-$BATS_RUN_TMPDIR}/port.$port" 2>/dev/null
    do :; done
    echo "$port"
}

# Sets serving to the process that serves: of those that live the last that said so. Nothing: none
# does.
find_serving() {
    local lines i
    mapfile -t lines <"$log"
    for ((i = ${#lines[@]} - 1; i >= 0; i--)); do
        [[ ${lines[i]} =~ \[([0-9]+)\]:?' listening on ' ]] || continue
        serving=${BASH_REMATCH[1]}
        gone "$serving" || return 0
    done
    serving=
}

serving_pid() {
    local -
    set +o functrace
    local serving
    find_serving
    echo "$serving"
}

# succeeded PID: whether a process after PID serves.
succeeded() {
    local serving
    find_serving
    [[ -n $serving && $serving != "$1" ]]
}

# names PID: whether the test's pid file names it.
names() {
    [[ -e $BATS_TEST_TMPDIR/pid_file && $(<"$BATS_TEST_TMPDIR/pid_file") == "$1" ]]
}

# Asks the process that serves for a restart, and waits until its successor serves and it has
# handed over; if the server has a pid file, until the successor has received that, too. Sets old
# and pid.
restart_server() {
    local -
    set +o functrace
    local serving
    find_serving
    old=$serving
    kill -USR1 "$old"
    wait_for succeeded "$old"
    wait_log "\[$old]: handed over"
    find_serving
    pid=$serving
    [[ ! -e $BATS_TEST_TMPDIR/pid_file ]] || wait_for names "$pid"
}

# The same with a ready timeout so short that a busy machine may miss it: five times at most.
restart_in_the_end() {
    local -
    set +o functrace
    local serving handed late tries
    find_serving
    old=$serving
    handed=$(count_log "\[$old]: handed over")
    for ((tries = 0; tries < 5; tries++)); do
        late=$(count_log 'was not ready within')
        kill -USR1 "$old"
        wait_for decided "$handed" "$late" || return 1
        (($(count_log "\[$old]: handed over") == handed)) || break
    done
    wait_for succeeded "$old"
    find_serving
    pid=$serving
}

# decided HANDED LATE: whether there are more lines of either kind by now.
decided() {
    (($(count_log "\[$old]: handed over") > $1 || $(count_log 'was not ready within') > $2))
}

# Whether the restart has been decided, either way.
restart_decided() {
    logged 'restart failed' || logged 'handed over'
}

# Asks the process that serves for a restart that fails, and waits until it says so.
fail_restart() {
    local failures serving
    failures=$(count_log 'restart failed')
    find_serving
    kill -USR1 "$serving"
    wait_for failed_more_than "$failures"
}

failed_more_than() {
    (($(count_log 'restart failed') > $1))
}

# Waits for the background process PID, a child of the test. Sets status.
ended() {
    wait_gone "$1"
    status=0
    wait "$1" || status=$?
}

# Sets name to the file name of the next successor.
find_successor() {
    local lines line
    name=''
    mapfile -t lines <"$log"
    for line in "${lines[@]}"; do
        [[ ! $line =~ ^([^[]+)\[[0-9]+\]': listening on ' ]] || name=${BASH_REMATCH[1]}
    done
    [[ $name == *1 ]] && name=${name%1} || name+=1
}

# successor_script LINES: makes the next successor a bash script that runs LINES, in which
# "become" turns it into the real program under the right name.
successor_script() {
    local -
    set +o functrace
    local name program
    find_successor
    program=$BATS_TEST_TMPDIR/$name
    cp "$SERVER_DIR/$name" "$program.real"
    printf '%s\n' '#!/bin/bash' \
        "become() { exec -a './$name' '$program.real' \"\$@\"; }" "$1" >"$program.new"
    install "$program.new" "$program"
}

# Puts the real programs back.
mend_successor() {
    install_server "$BATS_TEST_TMPDIR"
}

# start_slowly: restarts process $pid; its successor waits, before it becomes the program, until
# go_on.
start_slowly() {
    rm -f "$BATS_TEST_TMPDIR/started" "$BATS_TEST_TMPDIR/go"
    successor_script ': >started; until [[ -e go ]]; do sleep 0.02; done; become "$@"'
    kill -USR1 "$pid"
    wait_for test -e "$BATS_TEST_TMPDIR/started"
}

go_on() {
    : >"$BATS_TEST_TMPDIR/go"
}

# claim_unread: restarts process $pid; its successor has claimed the listener, and the old process,
# which is stopped, has not read that. Sets old and pid.
claim_unread() {
    start_slowly
    old=$pid
    stop "$old"
    go_on
    wait_for succeeded "$old"
    pid=$(serving_pid)
    mend_successor
}

# ---- waiting ----

# untraced COMMAND...: runs it without what bats does before each command of a function, see above.
untraced() {
    local -
    set +o functrace
    "$@"
}

# wait_for COMMAND...: polls until it succeeds, for $patience seconds (or $deadline) at most, at ever
# longer intervals.
wait_for() {
    local -
    set +o functrace
    poll "$@" && return
    echo "waited in vain for: $*"
    tail -n 50 "$log"
    return 1
}

poll() {
    local end=$((SECONDS + ${deadline:-$patience})) interval=10
    until "$@"; do
        ((SECONDS <= end)) || return 1
        pause "$interval"
        ((interval >= 200)) || ((interval += interval / 4))
    done
}

# pause MILLISECONDS
pause() {
    local seconds
    printf -v seconds '%d.%03d' $(($1 / 1000)) $(($1 % 1000))
    read -r -t "$seconds" -u "$never" || true
}

# says FILE REGEX: whether a line of the file matches. Sets BASH_REMATCH. It is asked so often that
# a process each time would be most of what a test costs.
says() {
    local -
    set +o functrace
    find_line "$@"
}

find_line() {
    local line lines=()
    [[ ! -e $1 ]] || mapfile -t lines <"$1"
    for line in "${lines[@]}"; do
        [[ ! $line =~ $2 ]] || return 0
    done
    return 1
}

logged() {
    says "$log" "$1"
}

# count_log REGEX: how many lines of the log match.
count_log() {
    grep -Ec -- "$1" "$log" || true
}

wait_log() {
    wait_for logged "$1"
}

# gone PID: whether the process has ended, reaped or not.
gone() {
    local stat
    { read -r stat <"/proc/${1:-none}/stat"; } 2>/dev/null || return 0
    [[ ${stat##*) } == Z* ]]
}

wait_gone() {
    wait_for gone "$1"
}

alive() {
    ! gone "$1"
}

# ---- servers without a log ----

# holder_of_port: the process that holds the listener at $port; one of them, if there are several.
holder_of_port() {
    [[ $(exec ss -Htlnp "sport = :$port") =~ .*pid=([0-9]+) ]] && echo "${BASH_REMATCH[1]}"
}

# Whether a connection to $port succeeds.
accepts() {
    (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null
}

# queue_length: prints how many connections wait at $port to be accepted.
queue_length() {
    ss -Htln "sport = :$port" | awk '{ print $2 }'
}

# Whether process $pid listens. Sets port.
finds_port() {
    [[ $(exec ss -Htlnp) =~ :([0-9]+)\ [^$'\n']*pid=$pid, ]] && port=${BASH_REMATCH[1]}
}

# Whether no process listens at $port.
refuses() {
    [[ -z $(holder_of_port) ]]
}

# Whether $pid listens, and answers. Sets port.
serves_at_all() {
    finds_port && serves
}

# handed_on PID: whether a process other than PID alone holds the listener at $port.
handed_on() {
    local holders
    holders=$(exec ss -Htlnp "sport = :$port")
    [[ $holders =~ pid=([0-9]+), && ${BASH_REMATCH[1]} != "$1" ]] || return 1
    [[ ${holders//"pid=${BASH_REMATCH[1]},"/} != *pid=* ]]
}

# stopped PID: whether it stands still after SIGSTOP.
stopped() {
    local stat
    read -r stat <"/proc/$1/stat"
    [[ ${stat##*) } == [Tt]* ]]
}

stop() {
    kill -STOP "$1"
    wait_for stopped "$1"
}

# ---- looking into processes ----

# descriptors PID: how many it has open.
descriptors() {
    local open=("/proc/$1/fd"/*)
    [[ -L ${open[0]} ]] || open=()
    echo "${#open[@]}"
}

has_descriptors() {
    (($(descriptors "$1") == $2))
}

# children PID: the pids of its children, ended ones that wait to be reaped too.
children() {
    local pids=()
    find_children "$1"
    ((${#pids[@]} == 0)) || printf '%s\n' "${pids[@]}"
}

childless() {
    local pids=()
    find_children "$1"
    ((${#pids[@]} == 0))
}

# find_children PID: sets pids to them.
find_children() {
    { read -ra pids <"/proc/$1/task/$1/children"; } 2>/dev/null || true
}

# ended_child PID: whether it has a child that has ended and waits to be reaped.
ended_child() {
    [[ $(ps -o stat= --ppid "$1") == Z* ]]
}

# traced PID: whether strace has it.
traced() {
    says "/proc/$1/status" '^TracerPid:\s+[1-9]'
}

# Whether the server is built with AddressSanitizer, which keeps freed memory for a while.
is_checked() {
    grep -q __asan_init "$SERVER_DIR/$NAME"
}

# resident PID: its resident memory, in KiB.
resident() {
    status_of "$1" VmRSS
}

# status_of PID KEY: the first word of what /proc/PID/status says of KEY.
status_of() {
    says "/proc/$1/status" "^$2:\s+(\S+)" && echo "${BASH_REMATCH[1]}"
}

# processor_time PID: clock ticks that it has used.
processor_time() {
    local stat
    read -r stat <"/proc/$1/stat"
    # shellcheck disable=SC2086 # fields
    set -- ${stat##*) }
    echo $((${12} + ${13}))
}

# times_woken PID: how often it has gone on after it waited.
times_woken() {
    status_of "$1" voluntary_ctxt_switches
}

# sleeps PID: whether the process sleeps at least now and then: one that spins is always running, or
# waits for a processor, however loaded the machine is.
sleeps() {
    local stat tries times=0
    for ((tries = 0; tries < 20; tries++)); do
        read -r stat <"/proc/$1/stat"
        [[ ${stat##*) } != S* ]] || ((++times))
        pause 50
    done
    ((times >= 4))
}

# does_not_spin PID: it sleeps, and runs for less than a third of the second from now, and of what
# that second takes on a machine that is busy. What spins runs all the time; what tries again many
# times a second takes a tenth where system calls are slow.
does_not_spin() {
    local before after begun=${EPOCHREALTIME/[.,]/} took
    read -r before _ <"/proc/$1/schedstat"
    sleeps "$1" || return 1
    read -r after _ <"/proc/$1/schedstat"
    took=$((${EPOCHREALTIME/[.,]/} - begun))
    echo "ran for $(((after - before) / 1000)) of $took us"
    (((after - before) / 1000 < took / 3))
}

# ---- one request, one connection (curl) ----

# get [PATH]: prints the body and sets nothing; fails if there is no whole answer.
get() {
    curl -q -sS --noproxy '*' --max-time "$patience" "http://127.0.0.1:$port${1:-/}"
}

# get_status [PATH]: prints the status code.
get_status() {
    curl -q -sS --noproxy '*' --max-time "$patience" -o /dev/null -w '%{http_code}' \
        "http://127.0.0.1:$port${1:-/}"
}

# serves: whether a request over a new connection is answered as it should be.
serves() {
    local -
    set +o functrace
    is_served
}

is_served() {
    local conn failed=0
    connect 2>/dev/null || return 1
    ask "$conn" || failed=1
    disconnect "$conn"
    return $failed
}

# ---- connections held open by the test ----

# connect: opens a connection. Sets conn, its descriptor.
connect() {
    exec {conn}<>"/dev/tcp/127.0.0.1/$port"
}

# connect_many N: opens N connections. Sets conns.
connect_many() {
    local -
    set +o functrace
    connect_each "$1"
}

connect_each() {
    conns=()
    for ((i = 0; i < $1; i++)); do
        connect
        conns+=("$conn")
    done
}

disconnect() {
    local fd=$1
    exec {fd}>&-
}

# send FD TEXT: sends TEXT, with escapes as of printf %b, in one write. Fails if it cannot. What is
# short, and has no line's beginning at its end, echo writes at once, which takes no process.
send() {
    local text
    ((${#2} >= 1000)) || printf -v text '%b' "$2"
    if [[ -n $text && $2 != *\\[0x]* && ($text == *$'\n' || $text != *$'\n'*) ]]; then
        echo -n "$text" 1>&"$1" 2>/dev/null
    else
        printf '%b' "$2" | dd bs=1M iflag=fullblock status=none 2>/dev/null 1>&"$1"
    fi
}

# What a client asks for, whole and in two halves.
{
    WHOLE='GET / HTTP/1.1\r\nHost: localhost\r\n\r\n'
    HALF='GET /?'
    REST='rest HTTP/1.1\r\nHost: localhost\r\n\r\n'
}

# receive FD: reads one whole response. Sets code, header (its lines, without CR) and body.
# Fails if the connection ends, or nothing comes for $patience seconds.
receive() {
    local -
    set +o functrace
    read_response "$1"
}

read_response() {
    local line length=0
    code='' header='' body=''
    while IFS= read -r -t "$patience" -u "$1" line; do
        line=${line%$'\r'}
        [[ -n $line ]] || break
        [[ -n $code ]] || read -r _ code _ <<<"$line"
        header+=$line$'\n'
        [[ ${line,,} != content-length:* ]] || length=$((10#${line#*: }))
    done 2>/dev/null
    [[ -n $code && -z $line ]] || return 1
    ((length == 0)) || LC_ALL=C IFS= read -r -t "$patience" -u "$1" -N "$length" body 2>/dev/null
}

# begin_request: sends half a request over a new connection, and waits until the server has read it.
# Sets conn, and half to the same.
begin_request() {
    local -
    set +o functrace
    connect
    half=$conn
    send "$half" "$HALF"
    wait_for taken "$half"
}

# end_request FD: sends the other half: the right answer comes, and leaves the connection open.
end_request() {
    send "$1" "$REST"
    answered "$1"
}

# end_last_request FD: the same, but the answer announces that the server closes the connection.
end_last_request() {
    send "$1" "$REST"
    receive "$1"
    [[ $code == 200 && $body == 'Hello, World!' ]]
    announces_close
    disconnect "$1"
}

# ask FD: asks once more over the open connection FD: the right answer must come, and leave it
# open.
ask() {
    local -
    set +o functrace
    send "$1" "$WHOLE" && answered "$1"
}

# ask_many FD...: asks over all of them at once: the right answers come, and leave them open.
ask_many() {
    local -
    set +o functrace
    ask_all "$@"
}

ask_all() {
    local fd text length
    # Each answer is as long as the first.
    send "$1" "$WHOLE"
    answered "$1"
    length=$((${#header} + $(wc -l <<<"$header") + 1 + ${#body}))
    {
        for fd; do
            # shellcheck disable=SC2059 # escapes, and nothing else
            printf "$WHOLE" >&"$fd"
        done
        # Without a timeout of its own: read -t cannot do with a descriptor above 1023.
        for fd; do
            IFS= read -r -u "$fd" -N "$length" text || exit
            [[ $text == 'HTTP/1.1 200 '*'Hello, World!' && ${text,,} != *'connection:'* ]] || exit
        done
    } &
    ended $!
    ((status == 0))
}

# answered FD: the right answer comes over FD, and leaves it open.
answered() {
    local -
    set +o functrace
    receive "$1" && [[ $code == 200 && $body == 'Hello, World!' ]] && ! announces_close
}

announces_close() {
    [[ $'\n'${header,,} == *$'\n'connection:*([ ])close* ]]
}

# receive_all FD: reads all that comes until the server closes the connection. Sets all. Fails on a
# reset, and if the end does not come in good time.
receive_all() {
    local complaint=$BATS_TEST_TMPDIR/complaint.$BASHPID status=0
    LC_ALL=C IFS= read -r -t "$patience" -d '' -u "$1" all 2>"$complaint" || status=$?
    ((status == 1)) && [[ ! -s $complaint ]]
}

# closed FD: whether the server closes the connection, with nothing more sent, in good time. A reset
# counts as a failure.
closed() {
    receive_all "$1" && [[ -z $all ]]
}

# closes_gracefully BEGUN: the client of the idle connection $conn notices nothing worse than a
# graceful close: a request that it sends within a second of BEGUN, in microseconds, is answered.
closes_gracefully() {
    local -
    set +o functrace
    local took
    send "$conn" "$WHOLE" || true
    took=$((${EPOCHREALTIME/[.,]/} - $1))
    if ! receive "$conn"; then
        ((took > 900000)) # on a machine that was too busy
        disconnect "$conn"
        return
    fi
    [[ $code == 200 && $body == 'Hello, World!' ]]
    announces_close
    closed "$conn"
    disconnect "$conn"
}

# server_end FD: looks at the server's end of the test's connection FD. Sets inode, 0 while it waits
# to be accepted; unread and unsent, how many bytes wait to be read, and to be sent. Fails once it is
# gone.
server_end() {
    local -
    set +o functrace
    find_end "$1"
}

find_end() {
    local ours
    local -A ends=() clients=()
    find_inode "$1"
    find_ends
    find_end_of "$ours"
}

# Sets ours, the inode of the test's descriptor FD.
find_inode() {
    local key
    while read -r key ours; do
        [[ $key != ino: ]] || break
    done <"/proc/self/fdinfo/$1"
    # Linux before 5.14 does not say it there.
    [[ -n $ours ]] || ours=$(readlink "/proc/self/fd/$1" | tr -dc '0-9')
}

# Sets ends: inode, unread and unsent of the server's ends, by the client's port; and clients: the
# ports of sockets, by their inode.
find_ends() {
    local received queued here there rest inode
    while read -r _ received queued here there rest; do
        inode=${rest##*ino:}
        inode=${inode%% *}
        here=${here##*:}
        [[ $here != "$port" ]] || ends[${there##*:}]="$inode $received $queued"
        clients[$inode]=$here
    done < <(exec ss -Htne "sport = :$port or dport = :$port")
}

# Looks the test's socket with the inode OURS up in what find_ends has found.
find_end_of() {
    local client=${clients[$1]-}
    [[ -n $client && -n ${ends[$client]-} ]] || return 1
    read -r inode unread unsent <<<"${ends[$client]}"
}

# client_state FD: the state of the test's end of its connection FD, as ss names it.
client_state() {
    local ours
    ours=$(readlink "/proc/self/fd/$1" | tr -dc '0-9')
    ss -Htne "dport = :$port" | awk -v ino="ino:$ours" '{ for (i = 6; i <= NF; i++) if ($i == ino) print $1 }'
}

# server_has_closed FD: whether the server's FIN has come over the connection FD.
server_has_closed() {
    [[ $(client_state "$1") == CLOSE-WAIT ]]
}

# holds PID FD: whether process PID holds the server's end of the test's connection FD.
holds() {
    local inode unread unsent
    server_end "$2" && ((inode > 0)) || return 1
    [[ $(exec readlink "/proc/$1/fd"/* 2>/dev/null) == *"socket:[$inode]"* ]]
}

# holds_all PID FD...: whether it holds all of them. Sets held to those that it does, and others.
holds_all() {
    local -
    set +o functrace
    find_held "$@"
    ((${#others[@]} == 0))
}

find_held() {
    local fd ours inode unread unsent sockets
    local -A ends=() clients=()
    held=() others=()
    find_ends
    sockets=$(exec readlink "/proc/$1/fd"/* 2>/dev/null) || true
    for fd in "${@:2}"; do
        find_inode "$fd"
        if find_end_of "$ours" && [[ $sockets == *"socket:[$inode]"* ]]; then
            held+=("$fd")
        else
            others+=("$fd")
        fi
    done
}

# taken FD: whether the server has read all that was sent over the test's connection FD.
taken() {
    local inode unread unsent
    server_end "$1" && ((inode > 0 && unread == 0))
}

# ---- the end ----

# in_background COMMAND...: runs it, to be ended with the test. Sets job.
in_background() {
    "$@" <&0 3>&- &
    job=$!
}

# end_job PID: ends a background process, and waits for that. One that has ended already
# gets no signal: another process may have its pid.
end_job() {
    ! says "/proc/$1/status" "^PPid:\s+$BASHPID$" || kill "$1" 2>/dev/null || true
    wait "$1" || true
}

# programs: the processes whose program is the test's, be it deleted. For a subshell, which ends
# with it.
programs() {
    cd /proc || exit
    exec find [0-9]*/exe -maxdepth 0 -lname "${BATS_TEST_TMPDIR:?}/*" -printf '%h\n' 2>/dev/null
}

# programs_are PID...: whether these processes run them, and no others.
programs_are() {
    local process running
    mapfile -t running < <(programs)
    ((${#running[@]} == $#)) || return 1
    for process; do
        [[ " ${running[*]} " == *" $process "* ]] || return 1
    done
}

# Sets processes to those whose working folder is the test's, or one in it.
find_left_over() {
    local process folder
    processes=()
    for process in /proc/[0-9]*; do
        for folder in "${BATS_TEST_TMPDIR:?}" "$BATS_TEST_TMPDIR"/*/; do
            [[ $process/cwd -ef $folder ]] || continue
            processes+=("${process##*/}")
            break
        done
    done
}

# none_left_but [PID]
none_left_but() {
    local -
    set +o functrace
    local processes
    find_left_over
    [[ ${processes[*]} == "${1-}" ]]
}

# Whether all servers but the one that serves have ended.
only_one_left() {
    local -
    set +o functrace
    local serving
    find_serving
    programs_are "$serving"
}

# all_gone PID...
all_gone() {
    local process
    for process; do
        gone "$process" || return 1
    done
}

# Ends what the test started: first as a user would, so that checked builds can write what they
# found, then by force.
end_all() {
    local -
    set +o functrace
    local process processes
    find_left_over
    # TERM and INT are two requests to end, and the second is carried out at once.
    for process in "${processes[@]}"; do
        kill -CONT "$process" 2>/dev/null || true
        kill -TERM "$process" 2>/dev/null || true
        kill -INT "$process" 2>/dev/null || true
    done
    if ((${#processes[@]})); then
        deadline=10 wait_for all_gone "${processes[@]}" >/dev/null || true
        find_left_over
    fi
    # Not those that have ended: another process may have their pids.
    jobs -pr >"$BATS_TEST_TMPDIR/jobs"
    for process in "${processes[@]}" $(<"$BATS_TEST_TMPDIR/jobs"); do
        kill -KILL "$process" 2>/dev/null || true
    done
    wait 2>/dev/null || true
}
