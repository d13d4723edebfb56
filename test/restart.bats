#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# The server is replaced while it runs: by which program, and what that program inherits.
# shellcheck disable=SC2016 # scripts in quotes are run by the successor
# shellcheck disable=SC2030,SC2031,SC2153,SC2154 # a test is a subshell; helper.bash sets the rest

bats_require_minimum_version 1.5.0
load tools/helper

@test "a restart replaces the process, there and back and there again, and closes no connection" {
    start_server
    first=$pid
    connect
    ask "$conn"
    [[ "/proc/$pid/exe" -ef "$BATS_TEST_TMPDIR/$NAME" ]]
    for name in "${NAME}1" "$NAME" "${NAME}1"; do
        restart_server
        [[ "/proc/$pid/exe" -ef "$BATS_TEST_TMPDIR/$name" ]]
        logged "^$name\[$pid]: listening on 127\.0\.0\.1:$port \(inherited fd [0-9]+\)"
        serves
        [[ $(get_status /other) == 404 ]]
        wait_for holds "$pid" "$conn"
        ask "$conn"
        wait_gone "$old"
        ask "$conn"
    done
    ended "$first"
    ((status == 0))
}

@test "the old process answers requests in flight, and the new process all new connections" {
    start_server
    begin_request
    slow=$half
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
    end_request "$slow"
    ended "$old"
    ((status == 0))
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

@test "a process that a wrapper script leaves behind does not make the server spin" {
    start_server
    # It has all descriptors open that the successor is given.
    successor_script 'sleep 600 & become "$@"'
    restart_server
    wait_gone "$old"
    does_not_spin "$pid"
    mend_successor
    restart_server
    serves
}

# ---- what the successor is, and what it inherits ----

@test "a successor's name has one 1 more at its end, or one less" {
    mkdir -p "$BATS_TEST_TMPDIR/a1/v1"
    for name in srv srv1 srv11 1 11; do
        cp "$SERVER_DIR/$NAME" "$BATS_TEST_TMPDIR/a1/v1/$name"
        cp "$SERVER_DIR/$NAME" "$BATS_TEST_TMPDIR/$name"
    done
    # A name that ends with a 1 loses it, but the name 1 gets another; folders do not count.
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

@test "a successor gets the options as they were given, if any, and the listener's number" {
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
    # A process that was started without options, as the original program starts it.
    successor_script 'exec -a "./rust_graceful_restart" "./rust_graceful_restart.real" "${@: -1}"'
    restart_server
    mend_successor
    restart_server
    restart_server
    mapfile -d '' -t argv <"/proc/$pid/cmdline"
    ((${#argv[@]} == 2))
    [[ ${argv[0]} == "./$NAME" && ${argv[1]} =~ ^[0-9]+$ ]]
}

quoted() {
    echo "${*@Q}"
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

# signals PID: the signals that it blocks and ignores, but for 32 and 33, which are libc's own.
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
    begin_request
    connect
    ask "$conn"
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

# ---- whose channel it is ----

@test "RESTART_CHANNEL and RESTART_SUPERVISOR of another process are ignored, and not passed on" {
    for value in '' : 1 :9 1:9 "$BASHPID:" "$BASHPID:-1" "$BASHPID:8" "$BASHPID:9" \
        "$BASHPID:99999999999999999999" "x$BASHPID:9" "$(printf '9%.0s' {1..3000}):9"; do
        # 9 is open, and no socket; 8 is not open.
        start_command env RESTART_CHANNEL="$value" "./$NAME" -l 127.0.0.1:0 9</dev/null
        wait_listening
        serves
        tr '\0' '\n' <"/proc/$pid/environ" | grep -qxF "RESTART_CHANNEL=$value"
        restart_server
        [[ $(tr '\0' '\n' <"/proc/$pid/environ" | grep '^RESTART_CHANNEL=') =~ =$old:[0-9]+$ ]]
        serves
        kill "$pid"
    done
    for value in '' 1:2 1:9:9 "$BASHPID:9:9" "$BASHPID:9:9:9"; do
        start_command env RESTART_SUPERVISOR="$value" "./$NAME" -l 127.0.0.1:0 9</dev/null
        wait_listening
        restart_server
        run ! grep -qz ^RESTART_SUPERVISOR "/proc/$pid/environ"
        serves
        kill "$pid"
    done
    # A socket of another kind.
    start_server
    connect
    start_command env RESTART_CHANNEL="$BASHPID:9" "./$NAME" -l 127.0.0.1:0 9<&"$conn"
    wait_listening
    serves
    restart_server
    serves
}

@test "a channel that another program inherited and passed on is ignored" {
    start_server
    # The successor is not the old process's child, but its grandchild.
    successor_script 'become "$@" & wait'
    kill -USR1 "$pid"
    wait_for succeeded "$pid"
    grandchild=$(serving_pid)
    serves
    # It never reports, so all that is to be expected is that nothing is lost.
    kill -TERM "$grandchild"
    wait_gone "$grandchild"
    wait_log "\[$pid]: restart failed"
    serves
    mend_successor
    pid=$(sed -nE '1s/.*\[([0-9]+)].*/\1/p' "$log")
    kill -USR1 "$pid"
    wait_log "\[$pid]: handed over"
    serves
}

# ---- without reports ----

# Asks over and over, each time over a new connection, until all_answered.
ask_over_and_over() {
    in_background curl -q -sS --noproxy '*' --fail -H 'Connection: close' -o /dev/null \
        -w '%{stderr}%{http_code}\n' "http://127.0.0.1:$port/?[1-1000000]" \
        2>"$BATS_TEST_TMPDIR/codes"
}

# answers_since COUNT: whether answers have come since there were COUNT of them.
answers_since() {
    (($(wc -l <"$BATS_TEST_TMPDIR/codes") > $1))
}

# Each request has been answered, and the last restart has not ended the answers.
all_answered() {
    wait_for answers_since "$(wc -l <"$BATS_TEST_TMPDIR/codes")"
    end_job "$job"
    # The last line may be cut off.
    sed -i '$d' "$BATS_TEST_TMPDIR/codes"
    run ! grep -vx 200 "$BATS_TEST_TMPDIR/codes"
}

@test "with --ready-timeout 0 the server hands over as soon as the successor is executed" {
    start_server --ready-timeout 0
    begin_request
    connect
    idle=$conn
    connect
    ask "$conn"
    # The channel's variable is missing: a descriptor is all that such a program needs to know.
    successor_script 'echo "${RESTART_CHANNEL-none}" >channel; become "$@"'
    begun=${EPOCHREALTIME/[.,]/}
    kill -USR1 "$pid"
    wait_for succeeded "$pid"
    wait_log "\[$pid]: draining"
    [[ $(<"$BATS_TEST_TMPDIR/channel") == none ]]
    # Idle connections are closed, with a moment left for a request that is on its way.
    closes_gracefully "$begun"
    closed "$idle"
    serves
    end_last_request "$half"
    ended "$pid"
    ((status == 0))
    serves
}

@test "with --ready-timeout 0 no request over a new connection is lost, and an execution may fail" {
    start_server --ready-timeout 0
    ask_over_and_over
    for ((i = 0; i < 20; i++)); do
        pid=$(serving_pid)
        kill -USR1 "$pid"
        wait_for succeeded "$pid"
    done
    all_answered
    pid=$(serving_pid)
    connect
    ask "$conn"
    wait_for childless "$pid"
    wait_for settled "$pid"
    before=$(descriptors "$pid")
    find_successor
    rm "$BATS_TEST_TMPDIR/$name"
    fail_restart
    logged "\[$pid]: restart failed: .*No such file or directory"
    serves
    ask "$conn"
    wait_for has_descriptors "$pid" "$before"
    mend_successor
    kill -USR1 "$pid"
    wait_for succeeded "$pid"
    # Until then the old process may accept a connection, and close it after its answer.
    wait_log "\[$pid]: handed over"
    serves
}
