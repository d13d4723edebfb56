#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# The server is replaced while it runs.
# shellcheck disable=SC2016 # scripts in quotes are run by the successor
# shellcheck disable=SC2030,SC2031,SC2153,SC2154 # a test is a subshell; helper.bash sets the rest

bats_require_minimum_version 1.5.0
load tools/helper

# A client with half a request sent, and one that is idle: sets half and idle.
open_clients() {
    connect
    half=$conn
    send "$half" "$HALF"
    wait_for taken "$half"
    connect
    idle=$conn
    ask "$idle"
}

# No client has noticed the restart that failed, nothing is left of it, and the next one works.
# Takes the number of descriptors that were open before.
nothing_happened() {
    local name
    serves
    ask "$idle"
    send "$half" "$REST"
    answered "$half"
    wait_for childless "$pid"
    [[ $(serving_pid) == "$pid" ]]
    wait_for has_descriptors "$pid" "$1"
    find_successor
    rm -rf "${BATS_TEST_TMPDIR:?}/$name"
    mend_successor
    restart_in_the_end
    serves
    wait_gone "$old"
}

@test "the log says where the server listens, and its version" {
    start_server
    logged "^$NAME\[$pid]: listening on 127\.0\.0\.1:$port, version [^ ]+$"
    serves
}

@test "a restart replaces the process, there and back and there again" {
    start_server
    first=$pid
    [[ "/proc/$pid/exe" -ef "$BATS_TEST_TMPDIR/$NAME" ]]
    for name in "${NAME}1" "$NAME" "${NAME}1"; do
        restart_server
        [[ "/proc/$pid/exe" -ef "$BATS_TEST_TMPDIR/$name" ]]
        logged "^$name\[$pid]: listening on 127\.0\.0\.1:$port \(inherited fd [0-9]+\)"
        serves
        [[ $(get_status /other) == 404 ]]
        wait_gone "$old"
    done
    ended "$first"
    ((status == 0))
}

@test "a restart runs the file that is there now" {
    start_server
    cp "$SERVER_DIR/${NAME}1" "$BATS_TEST_TMPDIR/new"
    mv "$BATS_TEST_TMPDIR/new" "$BATS_TEST_TMPDIR/${NAME}1"
    restart_server
    [[ "/proc/$pid/exe" -ef "$BATS_TEST_TMPDIR/${NAME}1" ]]
    serves
}

@test "requests in flight are answered by the old process, new connections by the new one" {
    start_server
    connect
    slow=$conn
    send "$slow" "$HALF"
    wait_for taken "$slow"
    restart_server
    # By the time that the successor has answered, the old process has had its turn.
    for ((i = 0; i < 20; i++)); do
        serves
        alive "$old"
    done
    connect
    ask "$conn"
    holds "$pid" "$conn"
    holds "$old" "$slow"
    send "$slow" "$REST"
    answered "$slow"
    ended "$old"
    ((status == 0))
}

# Asks over and over, each time over a new connection, until it is ended; all_well tells how it went.
ask_over_and_over() {
    in_background curl -q -sS --noproxy '*' --fail -H 'Connection: close' -o /dev/null \
        -w '%{stderr}%{http_code}\n' "http://127.0.0.1:$port/?[1-1000000]" \
        2>"$BATS_TEST_TMPDIR/codes"
}

# answers_since COUNT: whether answers have come since there were COUNT of them.
answers_since() {
    (($(wc -l <"$BATS_TEST_TMPDIR/codes") > $1))
}

all_well() {
    wait_for answers_since "$(wc -l <"$BATS_TEST_TMPDIR/codes")"
    end_job "$job"
    # The last line may be cut off.
    sed -i '$d' "$BATS_TEST_TMPDIR/codes"
    run ! grep -vx 200 "$BATS_TEST_TMPDIR/codes"
}

@test "no connection is refused and no request lost while it is restarted over and over" {
    start_server
    ask_over_and_over
    for ((i = 0; i < 20; i++)); do
        restart_server
    done
    all_well
}

# fails_harmlessly REGEX: the next restart fails, for a reason that matches, and no client notices.
fails_harmlessly() {
    echo "$1"
    open_clients
    before=$(descriptors "$pid")
    fail_restart
    logged "\[$pid]: restart failed: .*$1"
    nothing_happened "$before"
    disconnect "$idle"
    disconnect "$half"
}

@test "a successor that cannot be executed leaves the service as it was, and no shell tries it" {
    start_server
    rm "$BATS_TEST_TMPDIR/${NAME}1"
    fails_harmlessly "cannot start \\./${NAME}1: No such file or directory"

    chmod a-x "$BATS_TEST_TMPDIR/$NAME"
    fails_harmlessly "cannot start \\./$NAME: Permission denied"

    echo "touch '$BATS_TEST_TMPDIR/ran'" >"$BATS_TEST_TMPDIR/${NAME}1"
    fails_harmlessly "cannot start \\./${NAME}1: Exec format error"
    [[ ! -e $BATS_TEST_TMPDIR/ran ]]

    rm "$BATS_TEST_TMPDIR/$NAME"
    mkdir "$BATS_TEST_TMPDIR/$NAME"
    fails_harmlessly "cannot start \\./$NAME: Permission denied"
    (($(count_log 'successor started') == 4)) # those that worked
}

@test "a successor that ends before it is ready leaves the service as it was" {
    start_server
    successor_script 'exit 7'
    fails_harmlessly 'exited with status 7'
    # Too early, though well.
    successor_script 'exit 0'
    fails_harmlessly 'exited with status 0'
    successor_script 'kill -SEGV $$'
    fails_harmlessly 'was ended by signal 11 \(Segmentation fault\)'
}

@test "a successor that is not ready in time is killed, and leaves the service as it was" {
    start_server --ready-timeout 3
    open_clients
    before=$(descriptors "$pid")
    # It does not end for anything less than SIGKILL.
    successor_script 'trap "" TERM INT HUP; echo $$ >successor; while :; do sleep 0.1; done'
    fail_restart
    logged "\[$pid]: restart failed: .*not ready (in|within|after) 3 s"
    gone "$(<"$BATS_TEST_TMPDIR/successor")"
    nothing_happened "$before"
}

@test "a successor that ended before its claim was read leaves the service as it was" {
    start_server
    open_clients
    before=$(descriptors "$pid")
    successor_script 'kill -STOP $PPID; printf R2 >&"${RESTART_CHANNEL#*:}"; exit 9'
    kill -USR1 "$pid"
    wait_for ended_child "$pid"
    kill -CONT "$pid"
    wait_log "\[$pid]: restart failed: .*status 9"
    nothing_happened "$before"
}

# Whether process PID is stopped and has a child that waits to be reaped.
ended_child() {
    [[ $(ps -o stat= -p "$1") == T* ]] && [[ $(ps -o stat= --ppid "$1") == Z* ]]
}

@test "nothing piles up over restarts, whether they work or fail" {
    start_server
    before=$(descriptors "$pid")
    for ((i = 0; i < 5; i++)); do
        successor_script 'exit 1'
        fail_restart
        find_successor
        rm "$BATS_TEST_TMPDIR/$name"
        fail_restart
        mend_successor
        for ((j = 0; j < 4; j++)); do
            restart_server
            wait_gone "$old"
        done
    done
    wait_for childless "$pid"
    wait_for has_descriptors "$pid" "$before"
    serves
}

@test "SIGUSR1 is logged and otherwise ignored while a restart is pending" {
    start_server
    successor_script 'touch started; until [[ -e go ]]; do sleep 0.1; done; become "$@"'
    kill -USR1 "$pid"
    wait_for test -e "$BATS_TEST_TMPDIR/started"
    before=$(count_log "\[$pid]:")
    kill -USR1 "$pid"
    wait_log "\[$pid]: .*SIGUSR1.*(pending|ignored)"
    (($(count_log "\[$pid]:") > before))
    (($(children "$pid" | wc -l) == 1))
    serves
    touch "$BATS_TEST_TMPDIR/go"
    wait_for succeeded "$pid"
    (($(count_log "\[$pid]: successor started") == 1))
    ended "$pid"
    ((status == 0))
    serves
    restart_server
    serves
}

@test "SIGUSR1 is logged and otherwise ignored while the process is draining" {
    start_server -p pid_file
    connect
    send "$conn" "$HALF"
    wait_for taken "$conn"
    restart_server
    kill -USR1 "$old"
    wait_log "\[$old]: .*SIGUSR1.*(draining|ignored)"
    kill -TERM "$pid"
    wait_log "\[$pid]: .*SIGTERM"
    send "$conn" "$REST"
    answered "$conn" || [[ $code == 200 ]]
    ended "$old"
    ((status == 0))
    (($(count_log 'successor started') == 1))
}

@test "SIGTERM with a restart pending ends the successor, and finishes a request in flight" {
    # A successor that obeys, and one that only SIGKILL ends.
    for on_term in - "''"; do
        : >"$log"
        start_server
        open_clients
        rm -f "$BATS_TEST_TMPDIR/successor"
        successor_script "trap $on_term TERM; echo \$\$ >successor; while :; do sleep 0.1; done"
        kill -USR1 "$pid"
        wait_for test -s "$BATS_TEST_TMPDIR/successor"
        successor=$(<"$BATS_TEST_TMPDIR/successor")
        kill -TERM "$pid"
        wait_log "\[$pid]: .*SIGTERM"
        wait_gone "$successor"
        send "$half" "$REST"
        receive "$half"
        [[ $code == 200 ]]
        announces_close
        ended "$pid"
        ((status == 0))
        [[ $on_term != - ]] || logged "\[$pid]: successor $successor was ended by signal 15"
        [[ $on_term == - ]] || logged "\[$pid]: successor $successor was ended by signal 9"
        disconnect "$half"
        disconnect "$idle"
        mend_successor
    done
}

# SIGNAL ends the server as a user would have it.
ends_gracefully() {
    start_server
    open_clients
    kill -"$1" "$pid"
    wait_log "\[$pid]: .*SIG$1"
    wait_for refuses
    send "$half" "$REST"
    receive "$half"
    [[ $code == 200 && $body == 'Hello, World!' ]]
    announces_close
    closed "$half"
    disconnect "$half"
    closed "$idle"
    disconnect "$idle"
    ended "$pid"
    ((status == 0))
}

refuses() {
    ! (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null
}

@test "SIGTERM and SIGINT: a request in flight is answered with Connection: close, then status 0" {
    ends_gracefully TERM
    ends_gracefully INT
}

@test "a second SIGTERM or SIGINT ends it at once, with status 1" {
    for pair in 'TERM TERM' 'TERM INT' 'INT TERM' 'INT INT'; do
        read -r first second <<<"$pair"
        start_server
        connect
        send "$conn" "$HALF"
        wait_for taken "$conn"
        kill -"$first" "$pid"
        wait_log "\[$pid]: .*SIG$first"
        wait_for refuses
        alive "$pid"
        kill -"$second" "$pid"
        ended "$pid"
        ((status == 1))
        disconnect "$conn"
    done
}

@test "a second SIGTERM does not leave a pending successor behind" {
    start_server
    connect
    send "$conn" "$HALF"
    wait_for taken "$conn"
    successor_script 'echo $$ >successor; trap "" TERM; while :; do sleep 0.1; done'
    kill -USR1 "$pid"
    wait_for test -s "$BATS_TEST_TMPDIR/successor"
    kill -TERM "$pid"
    wait_log "\[$pid]: .*SIGTERM"
    kill -TERM "$pid"
    ended "$pid"
    wait_gone "$(<"$BATS_TEST_TMPDIR/successor")"
}

# connect_and_ask COUNT: asks over so many connections. Sets waiting.
connect_and_ask() {
    waiting=()
    for ((i = 0; i < $1; i++)); do
        connect
        waiting+=("$conn")
        printf 'GET / HTTP/1.0\r\n\r\n' >&"$conn"
    done
}

all_are_answered() {
    local line
    for conn in "${waiting[@]}"; do
        IFS= read -r -t "$patience" -u "$conn" line
        [[ $line == 'HTTP/1.1 200 '* ]]
        disconnect "$conn"
    done
}

@test "connections that wait to be accepted when SIGTERM comes are answered" {
    start_server
    kill -STOP "$pid"
    # More than are accepted before anything else has its turn.
    connect_and_ask 200
    kill -TERM "$pid"
    kill -CONT "$pid"
    all_are_answered
    ended "$pid"
    ((status == 0))
}

@test "a request that comes within a second of SIGTERM over an idle connection is answered" {
    # A machine that was too busy to send it in time says nothing.
    for ((i = 0; i < 50; i++)); do
        start_server
        connect
        ask "$conn"
        begun=${EPOCHREALTIME/[.,]/}
        kill -TERM "$pid"
        wait_for refuses
        send "$conn" "$WHOLE" || true
        took=$((${EPOCHREALTIME/[.,]/} - begun))
        ! receive "$conn" || break
        ((took > 900000))
        disconnect "$conn"
    done
    [[ $code == 200 ]]
    announces_close
    disconnect "$conn"
    ended "$pid"
    ((status == 0))
}

@test "a connection that never sent a byte holds up neither the end nor a restart" {
    start_server
    connect
    wait_for holds "$pid" "$conn"
    restart_server
    ended "$old"
    ((status == 0))
    kill -TERM "$pid"
    closed "$conn"
    disconnect "$conn"
    wait_gone "$pid"
}

@test "an old process that takes too long cuts its requests, says how many, and ends" {
    start_server --drain-timeout 1
    for ((i = 0; i < 3; i++)); do
        connect
        halves[i]=$conn
        send "$conn" "$HALF"
        wait_for taken "$conn"
    done
    restart_server
    ended "$old"
    ((status == 0))
    logged "\[$old]: drain(ing)? time.*\b3\b"
    for conn in "${halves[@]}"; do
        run timeout "$patience" cat <&"$conn"
        ((status != 124))
    done
    serves
}

@test "a shutdown that takes too long cuts its requests, says how many, and ends" {
    start_server --drain-timeout 1
    connect
    send "$conn" "$HALF"
    wait_for taken "$conn"
    kill -TERM "$pid"
    ended "$pid"
    ((status == 0))
    logged "\[$pid]: drain(ing)? time.*\b1\b"
}

@test "an old process that dies while its successor starts does not take the service along" {
    start_server
    successor_script 'echo $$ >successor; until [[ -e go ]]; do sleep 0.1; done; become "$@"'
    kill -USR1 "$pid"
    wait_for test -s "$BATS_TEST_TMPDIR/successor"
    connect
    kill -KILL "$pid"
    wait_gone "$pid"
    touch "$BATS_TEST_TMPDIR/go"
    # Meanwhile, what connects waits in the queue of the one listener.
    serves
    old=$pid
    wait_for succeeded "$old"
    pid=$(serving_pid)
    [[ $pid == "$(<"$BATS_TEST_TMPDIR/successor")" ]]
    restart_server
    serves
}

@test "a successor gets the options as they were given, and the listener's number" {
    local options=(-l 127.0.0.1:0 --idle-timeout=61 --drain-timeout 31 -p 'pid file')
    start_command "./$NAME" "${options[@]}"
    wait_listening
    for name in "./${NAME}1" "./$NAME" "./${NAME}1"; do
        restart_server
        mapfile -d '' -t argv <"/proc/$pid/cmdline"
        fd=${argv[-1]}
        [[ $fd =~ ^[0-9]+$ ]]
        logged "\[$pid]: listening .*\(inherited fd $fd\)"
        [[ ${argv[*]@Q} == "$(quoted "$name" "${options[@]}" "$fd")" ]]
    done
}

quoted() {
    echo "${*@Q}"
}

@test "without options a successor gets the listener's number and nothing else" {
    start_server
    # A process without options is what the original program starts.
    successor_script 'exec -a "./rust_graceful_restart1" "./rust_graceful_restart1.real" "${@: -1}"'
    restart_server
    cp "$SERVER_DIR/${NAME}1" "$BATS_TEST_TMPDIR/new"
    mv "$BATS_TEST_TMPDIR/new" "$BATS_TEST_TMPDIR/${NAME}1"
    restart_server
    restart_server
    mapfile -d '' -t argv <"/proc/$pid/cmdline"
    ((${#argv[@]} == 2))
    [[ ${argv[0]} == "./${NAME}1" && ${argv[1]} =~ ^[0-9]+$ ]]
}

@test "a successor gets the environment as it was, and the channel" {
    local given=("PATH=$PATH" EMPTY= 'STRANGE=a b=c' "ASAN_OPTIONS=$ASAN_OPTIONS")
    start_command env -i "${given[@]}" "./$NAME" -l 127.0.0.1:0
    wait_listening
    for ((i = 0; i < 3; i++)); do
        restart_server
        mapfile -d '' -t environment <"/proc/$pid/environ"
        printf '%s\n' "${environment[@]}" | grep -v '^RESTART_CHANNEL=' | sort \
            >"$BATS_TEST_TMPDIR/environment"
        diff "$BATS_TEST_TMPDIR/environment" <(printf '%s\n' "${given[@]}" | sort)
        [[ $(printf '%s\n' "${environment[@]}" | grep -c "^RESTART_CHANNEL=$old:[0-9]\+$") == 1 ]]
    done
}

@test "a successor starts in the folder of the first process, wherever that folder is now" {
    mkdir "$BATS_TEST_TMPDIR/here"
    install_server "$BATS_TEST_TMPDIR/here"
    start_command bash -c "cd here && exec ./$NAME -l 127.0.0.1:0"
    wait_listening
    mv "$BATS_TEST_TMPDIR/here" "$BATS_TEST_TMPDIR/there"
    for ((i = 0; i < 2; i++)); do
        restart_server
        [[ "/proc/$pid/cwd" -ef "$BATS_TEST_TMPDIR/there" ]]
    done
    serves
}

@test "a successor gets the signal mask and the ignored signals that the first process was given" {
    local given=(env "--ignore-signal=HUP,USR2,CHLD" "--block-signal=WINCH,ALRM,USR1")
    start_command "${given[@]}" tail -f /dev/null
    wait_for runs "$pid" tail
    signals "$pid" >"$BATS_TEST_TMPDIR/given"
    grep -Eq '^SigBlk: .*[1-9a-f]' "$BATS_TEST_TMPDIR/given"
    start_command "${given[@]}" "./$NAME" -l 127.0.0.1:0
    wait_listening
    restart_server
    restart_server
    # It touches no signals, and follows whatever it is given for file names.
    find_successor
    program=$BATS_TEST_TMPDIR/$name
    printf '#!/usr/bin/env -S tail -q -f /dev/null --\n' >"$program.new"
    chmod +x "$program.new"
    mv "$program.new" "$program"
    kill -USR1 "$pid"
    wait_log "\[$pid]: successor started"
    successor=$(children "$pid")
    wait_for runs "$successor" tail
    diff "$BATS_TEST_TMPDIR/given" <(signals "$successor")
}

runs() {
    [[ $(<"/proc/$1/comm") == "$2" ]]
}

# The signals that process PID blocks and ignores, but for 32 and 33, which are libc's own.
signals() {
    local kind mask
    while read -r kind mask; do
        printf '%s %x\n' "$kind" $((16#$mask & ~(3 << 31)))
    done < <(grep -E '^Sig(Blk|Ign)' "/proc/$1/status")
}

@test "SIGPIPE and SIGXFSZ end a successor's program as they would any other" {
    start_server
    successor_script 'grep "^SigIgn" /proc/self/status >signals; become "$@"'
    restart_server
    # Bits 12 and 24.
    read -r _ ignored <"$BATS_TEST_TMPDIR/signals"
    (((16#$ignored & 0x1001000) == 0))
    # The server itself ignores them.
    read -r _ ignored < <(grep '^SigIgn' "/proc/$pid/status")
    (((16#$ignored & 0x1001000) == 0x1001000))
}

@test "a server whose starter ignored SIGCHLD restarts, and notices a restart that fails" {
    start_command env --ignore-signal=CHLD "./$NAME" -l 127.0.0.1:0
    wait_listening
    restart_server
    successor_script 'exit 3'
    fail_restart
    childless "$pid"
    mend_successor
    serves
    restart_server
    serves
}

@test "a successor has no descriptor open but 0, 1, 2, the listener and the channel" {
    start_command "./$NAME" -l 127.0.0.1:0 7</dev/null 8>"$BATS_TEST_TMPDIR/8" 9<"$0"
    wait_listening
    open_clients
    successor_script 'find /proc/$$/fd -mindepth 1 -printf "%f %l\n" >fds
        echo "$RESTART_CHANNEL ${@: -1}" >numbers; become "$@"'
    restart_server
    read -r channel listener <"$BATS_TEST_TMPDIR/numbers"
    channel=${channel#*:}
    # Bash has its script open at 255.
    diff <(cut -d ' ' -f 1 "$BATS_TEST_TMPDIR/fds" | sort) \
        <(printf '%s\n' 0 1 2 "$listener" "$channel" 255 | sort)
    grep -q "^0 /dev/null$" "$BATS_TEST_TMPDIR/fds"
    grep -q "^1 $log.out$" "$BATS_TEST_TMPDIR/fds"
    grep -q "^2 $log$" "$BATS_TEST_TMPDIR/fds"
    grep -q "^$listener socket:" "$BATS_TEST_TMPDIR/fds"
    grep -q "^$channel socket:" "$BATS_TEST_TMPDIR/fds"
}

@test "a successor's name has one 1 more at its end, or one less" {
    mkdir -p "$BATS_TEST_TMPDIR/a1/v1"
    for name in srv srv1 srv11 1 11; do
        cp "$SERVER_DIR/$NAME" "$BATS_TEST_TMPDIR/a1/v1/$name"
        cp "$SERVER_DIR/$NAME" "$BATS_TEST_TMPDIR/$name"
    done
    # What ends with a 1 loses it, but a mere 1 gets another; the folder's name does not count.
    for names in srv,srv1,srv srv11,srv1,srv 1,11,1; do
        IFS=, read -r first second third <<<"$names"
        for folder in a1/v1 .; do
            start_command "$folder/$first" -l 127.0.0.1:0
            wait_listening
            for name in "$second" "$third"; do
                restart_server
                mapfile -d '' -t argv <"/proc/$pid/cmdline"
                [[ ${argv[0]} == "$folder/$name" ]]
                [[ "/proc/$pid/exe" -ef "$BATS_TEST_TMPDIR/$folder/$name" ]]
                logged "^$name\[$pid]: listening"
                serves
            done
        done
    done
}

@test "a name without a slash is looked up in PATH" {
    mkdir "$BATS_TEST_TMPDIR/bin"
    install_server "$BATS_TEST_TMPDIR/bin"
    rm "$BATS_TEST_TMPDIR/$NAME" "$BATS_TEST_TMPDIR/${NAME}1"
    start_command env PATH="/nowhere:$BATS_TEST_TMPDIR/bin:$PATH" "$NAME" -l 127.0.0.1:0
    wait_listening
    for name in "${NAME}1" "$NAME"; do
        restart_server
        mapfile -d '' -t argv <"/proc/$pid/cmdline"
        [[ ${argv[0]} == "$name" ]]
        [[ "/proc/$pid/exe" -ef "$BATS_TEST_TMPDIR/bin/$name" ]]
        serves
    done
}

@test "a name that is too long for a file fails the restart, not the service" {
    long=$(printf 'x%.0s' {1..4095})
    start_command bash -c "exec -a '$long' ./$NAME -l 127.0.0.1:0"
    wait_for serves_at_all
    for ((i = 1; i <= 2; i++)); do
        kill -USR1 "$pid"
        wait_for failed_more_than $((i - 1))
        logged 'restart failed: cannot start x+: its other name: File name too long'
        serves
    done
    [[ $(holder_of_port) == "$pid" ]]
}

@test "with --ready-timeout 0 the server hands over as soon as the successor is executed" {
    start_server --ready-timeout 0
    connect
    send "$conn" "$HALF"
    wait_for taken "$conn"
    # This is all that a program needs to know that takes nothing but a descriptor.
    successor_script 'echo "${RESTART_CHANNEL-none}" >channel; become "$@"'
    kill -USR1 "$pid"
    wait_for succeeded "$pid"
    wait_log "\[$pid]: draining"
    [[ $(<"$BATS_TEST_TMPDIR/channel") == none ]]
    serves
    send "$conn" "$REST"
    receive "$conn"
    [[ $code == 200 ]]
    announces_close
    ended "$pid"
    ((status == 0))
    serves
}

@test "with --ready-timeout 0 a successor that cannot be executed leaves the service as it was" {
    start_server --ready-timeout 0
    open_clients
    before=$(descriptors "$pid")
    rm "$BATS_TEST_TMPDIR/${NAME}1"
    fail_restart
    logged "\[$pid]: restart failed: .*No such file or directory"
    serves
    ask "$idle"
    wait_for has_descriptors "$pid" "$before"
    mend_successor
    kill -USR1 "$pid"
    wait_for succeeded "$pid"
    serves
}

@test "with --ready-timeout 0 no request over a new connection is lost" {
    start_server --ready-timeout 0
    ask_over_and_over
    for ((i = 0; i < 20; i++)); do
        pid=$(serving_pid)
        kill -USR1 "$pid"
        wait_for succeeded "$pid"
    done
    all_well
}

@test "the log tells a restart step by step" {
    start_server
    connect
    idle=$conn
    ask "$idle"
    connect
    send "$conn" "$HALF"
    wait_for taken "$conn"
    restart_server
    wait_for holds "$pid" "$idle"
    send "$conn" "${REST/HTTP/ HTTP}" # which is refused, and closes the connection
    receive_all "$conn"
    disconnect "$conn"
    ended "$old"
    diff <(grep "\[$old]:" "$log") - <<EOT
${NAME}[$old]: listening on 127.0.0.1:$port, version $(version)
${NAME}[$old]: SIGUSR1 received: restarting
${NAME}[$old]: successor started: $pid (./${NAME}1)
${NAME}[$old]: handed over to $pid
${NAME}[$old]: ended: 1 connections handed over, 1 finished here
EOT
    diff <(grep "\[$pid]:" "$log") - <<<"${NAME}1[$pid]: listening on 127.0.0.1:$port \
(inherited fd 3), version $(version)"
    kill -TERM "$pid"
    wait_gone "$pid"
    diff <(grep "\[$pid]:" "$log" | tail -n +2) - <<EOT
${NAME}1[$pid]: SIGTERM received: ending gracefully
${NAME}1[$pid]: draining: 1 connections
${NAME}1[$pid]: ended: 0 connections handed over, 1 finished here
EOT
    # Nothing but whole lines, each under a name and a pid that are real.
    [[ $(grep -Evc "^$NAME(\[$old]|1\[$pid]): .+$" "$log") == 0 ]]
}

version() {
    local said
    said=$("$SERVER_DIR/$NAME" --version)
    echo "${said#* }"
}

@test "each line of the log is one write" {
    command -v strace >/dev/null || skip 'needs strace'
    start_command strace -D -ff -qq -o "$BATS_TEST_TMPDIR/trace" -e trace=write,writev \
        -e write=2 "./$NAME" -l 127.0.0.1:0 "${PATIENT[@]}"
    wait_listening
    restart_server
    wait_gone "$old"
    kill -TERM "$pid"
    wait_gone "$pid"
    [[ $(cat "$BATS_TEST_TMPDIR"/trace.* | grep -Ec 'write\(2, "rust_graceful_restart.*= ') == \
        "$(count_log "^$NAME")" ]]
}

@test "it serves and restarts with all standard streams closed, and no client gets log lines" {
    (cd "$BATS_TEST_TMPDIR" && exec "./$NAME" -l 127.0.0.1:0 3>&- <&- >&- 2>&-) &
    pid=$!
    wait_for serves_at_all
    for ((i = 0; i < 3; i++)); do
        connect
        send "$conn" "$HALF"
        wait_for taken "$conn"
        old=$pid
        kill -USR1 "$old"
        wait_for handed_on "$old"
        pid=$(holder_of_port)
        send "$conn" "$REST"
        answered "$conn"
        wait_gone "$old"
        serves
        [[ -z $(timeout 0.5 cat <&"$conn") ]]
        disconnect "$conn"
    done
    kill -TERM "$pid"
    wait_gone "$pid"
}

@test "it serves and restarts with standard error a full pipe that no process reads" {
    mkfifo "$BATS_TEST_TMPDIR/pipe"
    exec {pipe}<>"$BATS_TEST_TMPDIR/pipe"
    dd if=/dev/zero bs=4096 oflag=nonblock status=none 1>&"$pipe" 2>/dev/null || true
    # dd made the description non-blocking: the server gets one that blocks.
    (cd "$BATS_TEST_TMPDIR" && exec "./$NAME" -l 127.0.0.1:0 </dev/null 2>pipe 3>&- {pipe}>&-) &
    pid=$!
    deaf_to_its_log
}

@test "it serves and restarts with standard error a pipe that no process has open any more" {
    mkfifo "$BATS_TEST_TMPDIR/pipe"
    exec {pipe}<>"$BATS_TEST_TMPDIR/pipe"
    (cd "$BATS_TEST_TMPDIR" && exec "./$NAME" -l 127.0.0.1:0 </dev/null 2>pipe 3>&- {pipe}>&-) &
    pid=$!
    wait_for serves_at_all
    exec {pipe}>&-
    deaf_to_its_log
}

# It serves, restarts, and answers a request in flight when it is told to end.
deaf_to_its_log() {
    wait_for serves_at_all
    for ((i = 0; i < 2; i++)); do
        old=$pid
        kill -USR1 "$old"
        wait_for handed_on "$old"
        pid=$(holder_of_port)
        serves
        wait_gone "$old"
    done
    connect
    send "$conn" "$HALF"
    wait_for taken "$conn"
    kill -TERM "$pid"
    wait_for refuses
    send "$conn" "$REST"
    receive "$conn"
    [[ $code == 200 ]]
    announces_close
    disconnect "$conn"
    wait_gone "$pid"
}

@test "it serves and restarts with standard error a file at its size limit, and ends gracefully" {
    # The file is full from the beginning, or once it has a line or two.
    for limit in 0 100 200; do
        rm -f "$BATS_TEST_TMPDIR/full"
        (cd "$BATS_TEST_TMPDIR" &&
            exec prlimit "--fsize=$limit" "./$NAME" -l 127.0.0.1:0 </dev/null 2>>full 3>&-) &
        pid=$!
        deaf_to_its_log
        (($(stat -c %s "$BATS_TEST_TMPDIR/full") == limit))
    done
}
