#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# systemd: its notifications, socket activation, and the unit files.
# shellcheck disable=SC2016 # scripts in quotes are run by the successor
# shellcheck disable=SC2030,SC2031,SC2153,SC2154 # a test is a subshell; helper.bash sets the rest

bats_require_minimum_version 1.5.0
load tools/helper

units=$BATS_TEST_DIRNAME/examples

# ---- playing the service manager ----

# manage ADDRESS [all]: plays the service manager at ADDRESS, for the servers that are started from
# now on. Sets manager.
manage() {
    notes=$BATS_TEST_TMPDIR/notes
    rm -f "$notes"
    (cd "$BATS_TEST_TMPDIR" && exec "$BUILD_DIR/manager" "$@" </dev/null >notes 3>&-) &
    manager=$!
    wait_for says "$notes" '^ready$'
    export NOTIFY_SOCKET=$1
}

# The manager's queue is full, and it does not read.
fill_queue() {
    kill -USR1 "$manager"
    wait_for says "$notes" '^full$'
}

# notes: prints the notifications, a line each: PID TEXT, with N for the number of microseconds and
# SERVING for the version and the time.
notes() {
    sed -E '/^(ready|full)$/d
        s/^([0-9]+) [0-9]+ /\1 /
        s/(MONOTONIC_USEC)=[0-9]+/\1=N/
        s/STATUS=[^ |]+, since [0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}$/STATUS=SERVING/' \
        "$notes"
}

# accepted: prints the notifications that the manager did not ignore, without barriers.
accepted() {
    notes | grep -v -e ' ignored ' -e ' BARRIER=1$'
}

noted() {
    says <(notes) "$1"
}

wait_note() {
    wait_for noted "$1"
}

# only_noted: whether the notifications are those of standard input, and no others.
only_noted() {
    diff - <(notes)
}

# restart_notes: prints the notifications of a restart of $old into $pid.
restart_notes() {
    echo "$old RELOADING=1|MONOTONIC_USEC=N|STATUS=
$old MAINPID=$pid|READY=1
$old BARRIER=1
$pid STATUS=SERVING"
}

# start_traced [OPTIONS OF STRACE...] -- [OPTIONS...]: starts the server; what it and its successors
# call is in the file calls. Leaks cannot be looked for in a process that is traced.
start_traced() {
    local options=()
    while (($#)) && [[ $1 != -- ]]; do
        options+=("$1")
        shift
    done
    export ASAN_OPTIONS=detect_leaks=0
    calls=$BATS_TEST_TMPDIR/calls
    start_command strace -D -f -qq -o "$calls" "${options[@]}" "./$NAME" -l 127.0.0.1:0 \
        "${PATIENT[@]}" "${@:2}"
    wait_listening
}

# Ends the process that serves as a user does, and waits for the notifications.
stop_server() {
    pid=$(serving_pid)
    kill -TERM "$pid"
    wait_gone "$pid"
    wait_note "^$pid STOPPING=1$"
    wait_note "^$pid ended$"
}

@test "notifies the service manager when it serves and when it ends, and of nothing else" {
    for address in "$BATS_TEST_TMPDIR/notify" "@$BATS_TEST_TMPDIR/notify"; do
        for signal in TERM INT; do
            manage "$address"
            start_server
            wait_note "^$pid READY=1"
            kill -"$signal" "$pid"
            ended "$pid"
            ((status == 0))
            wait_note "^$pid ended$"
            only_noted <<<"$pid READY=1|STATUS=SERVING
$pid STOPPING=1
$pid ended"
            kill "$manager"
            wait_gone "$manager"
            rm -f "$BATS_TEST_TMPDIR/notify"
        done
    done
}

@test "sends READY=1 only once it listens" {
    manage "$BATS_TEST_TMPDIR/notify"
    start_traced -e trace=listen,sendmsg
    wait_note READY=1
    wait_for says "$calls" READY=1
    [[ $(grep -Eo 'listen\(|READY=1' "$calls" | tr '\n' ' ') == 'listen( READY=1 ' ]]
}

@test "notifies of each restart, and when it began by the monotonic clock, from the main process" {
    local before came began expected
    manage "$BATS_TEST_TMPDIR/notify"
    start_server
    expected="$pid READY=1|STATUS=SERVING"
    for _ in 1 2 3; do
        restart_server
        wait_gone "$old"
        wait_note "^$pid STATUS="
        expected+=$'\n'$(restart_notes)
    done
    stop_server
    only_noted <<<"$expected
$pid STOPPING=1
$pid ended"
    before=$(sed -nE 's/^[0-9]+ ([0-9]+) READY=1\|STATUS=.*/\1/p' "$notes")
    read -r came began < <(sed -nE \
        's/^[0-9]+ ([0-9]+) RELOADING=1\|MONOTONIC_USEC=([0-9]+)\|.*/\1 \2/p' "$notes")
    echo "ready $before, restart began $began, notified $came"
    ((before < began && began <= came))
}

# has_notes COUNT: whether there are so many lines by now.
has_notes() {
    (($(notes | wc -l) >= $1))
}

# fails_with WHY: a restart fails, and the service manager is notified WHY, a regular expression.
fails_with() {
    local told
    told=$(notes | wc -l)
    fail_restart
    wait_for has_notes $((told + 2))
    notes | tail -n +$((told + 1)) >"$BATS_TEST_TMPDIR/told"
    cat "$BATS_TEST_TMPDIR/told"
    [[ $(wc -l <"$BATS_TEST_TMPDIR/told") == 2 ]]
    sed -n 1p "$BATS_TEST_TMPDIR/told" | grep -qx "$pid RELOADING=1|MONOTONIC_USEC=N|STATUS="
    sed -n 2p "$BATS_TEST_TMPDIR/told" | grep -Eqx "$pid READY=1\|STATUS=restart failed: $1"
    serves
}

@test "notifies after each failed restart why it failed, and that the server is ready" {
    manage "$BATS_TEST_TMPDIR/notify"
    start_server -p pid_file
    wait_note READY=1
    rm "$BATS_TEST_TMPDIR/${NAME}1"
    fails_with '.*No such file or directory'
    mend_successor
    chmod -x "$BATS_TEST_TMPDIR/${NAME}1"
    fails_with '.*Permission denied'
    echo garbage >"$BATS_TEST_TMPDIR/${NAME}1"
    chmod +x "$BATS_TEST_TMPDIR/${NAME}1"
    fails_with '.*Exec format error'
    mend_successor
    successor_script 'exit 3'
    fails_with 'successor [0-9]+ exited with status 3'
    successor_script 'kill -KILL $$'
    fails_with 'successor [0-9]+ was ended by signal 9 \(Killed\)'
    mend_successor
    told=$(notes | wc -l)
    restart_server
    wait_note "^$pid STATUS="
    diff <(notes | tail -n +$((told + 1)) | grep -v ended) <(restart_notes)
}

@test "notifies after a rollback that the old process is the main one again, and why" {
    manage "$BATS_TEST_TMPDIR/notify" all
    start_server -p pid_file --rollback-timeout 60
    restart_server
    wait_note "^$old MAINPID=$pid"
    bad=$pid
    kill -KILL "$bad"
    wait_note 'STATUS=rolled back'
    serves
    restart_server
    wait_note "^$old MAINPID=$pid"
    # A successor sends its status when the old process has ended.
    diff <(accepted | grep -v ' ended$') - <<<"$old READY=1|STATUS=SERVING
$old RELOADING=1|MONOTONIC_USEC=N|STATUS=
$old MAINPID=$bad|READY=1
$old MAINPID=$old|READY=1|STATUS=rolled back: successor $bad was ended by signal 9 (Killed)
$old RELOADING=1|MONOTONIC_USEC=N|STATUS=
$old MAINPID=$pid|READY=1"
}

@test "a process that is no longer the main one sends nothing when it is told to end" {
    manage "$BATS_TEST_TMPDIR/notify"
    start_server -p pid_file
    begin_request
    restart_server
    kill -TERM "$old"
    wait_log "\[$old]: SIGTERM received"
    end_request "$half"
    wait_gone "$old"
    disconnect "$half"
    wait_note "^$pid STATUS="
    only_noted <<<"$old READY=1|STATUS=SERVING
$(restart_notes)"
}

@test "SIGTERM in the middle of a restart is notified once, and ends the successor" {
    manage "$BATS_TEST_TMPDIR/notify"
    start_server
    successor_script ': >started; exec sleep 60'
    kill -USR1 "$pid"
    wait_for test -e "$BATS_TEST_TMPDIR/started"
    successor=$(children "$pid")
    kill -TERM "$pid"
    ended "$pid"
    ((status == 0))
    gone "$successor"
    wait_note "^$pid ended$"
    only_noted <<<"$pid READY=1|STATUS=SERVING
$pid RELOADING=1|MONOTONIC_USEC=N|STATUS=
$pid STOPPING=1
$pid ended"
}

@test "a service manager that does not exist does no harm" {
    for address in "$BATS_TEST_TMPDIR/missing" "@$BATS_TEST_TMPDIR/missing" /dev/null / '' \
        "/$(printf 'x%.0s' {1..200})"; do
        NOTIFY_SOCKET=$address start_server
        serves
        restart_server
        serves
        wait_gone "$old"
        kill -TERM "$pid"
        wait_gone "$pid"
    done
}

# ---- a service manager that is busy ----

# is_main PID: whether PID is the last main process that was notified, and the only one left.
is_main() {
    programs_are "$1" && [[ $(accepted | sed -n 's/.* MAINPID=\([0-9]*\)|.*/\1/p' | tail -n 1) == "$1" ]]
}

@test "no process ends before the service manager has read which one is the main one" {
    manage "$BATS_TEST_TMPDIR/notify"
    start_server
    wait_note READY=1
    expected="$pid READY=1|STATUS=SERVING"
    for _ in 1 2; do
        kill -STOP "$manager"
        all=("$pid")
        for _ in 1 2; do
            restart_server
            all+=("$pid")
            expected+="
$old RELOADING=1|MONOTONIC_USEC=N|STATUS=
$old MAINPID=$pid|READY=1"
        done
        # They have nothing else to do, and are still there after a while.
        sleep 0.5
        programs_are "${all[@]}"
        serves
        kill -CONT "$manager"
        wait_for is_main "$pid"
        wait_note "^$pid STATUS="
        expected+="
$pid STATUS=SERVING"
    done
    diff <(accepted) - <<<"$expected"
    run ! logged 'service manager'
}

@test "a restart before the manager has read of the last one leaves the main process known" {
    manage "$BATS_TEST_TMPDIR/notify"
    start_server
    claim_unread
    first=$old
    restart_server
    # The manager ignores this process so far.
    wait_note "^$old ignored MAINPID=$pid|READY=1$"
    alive "$old"
    kill -CONT "$first"
    wait_for is_main "$pid"
    run ! grep ended "$notes"
}

@test "messages for a service manager whose queue is full are sent once it reads" {
    manage "$BATS_TEST_TMPDIR/notify"
    fill_queue
    start_server
    connect
    ask "$conn"
    kill -CONT "$manager"
    wait_note "^$pid READY=1"
    fill_queue
    restart_server
    ask "$conn"
    programs_are "$old" "$pid"
    kill -CONT "$manager"
    wait_note "^$pid STATUS="
    wait_gone "$old"
    only_noted <<<"$old READY=1|STATUS=SERVING
$(restart_notes)"
    run ! logged 'service manager'
}

@test "a service manager that reads nothing delays the end of a restart for 5 s" {
    manage "$BATS_TEST_TMPDIR/notify"
    start_server
    wait_note READY=1
    fill_queue
    connect
    ask "$conn"
    local begun=${EPOCHREALTIME/[.,]/}
    restart_server
    wait_gone "$old"
    (($((${EPOCHREALTIME/[.,]/} - begun)) > 4000000))
    logged "\[$old]: the service manager has read nothing for 5 s"
    ask "$conn"
    kill -USR1 "$pid"
    wait_log "\[$pid]: SIGUSR1 received: restarting"
    wait_for succeeded "$pid"
    ask "$conn"
}

@test "a process that was stopped for 5 s does not blame a service manager that has read" {
    manage "$BATS_TEST_TMPDIR/notify"
    start_server
    wait_note READY=1
    stop "$manager"
    restart_server
    stop "$old"
    kill -CONT "$manager"
    wait_note "^$old BARRIER=1$"
    sleep 5.5
    kill -CONT "$old"
    wait_gone "$old"
    run ! logged 'has read nothing'
}

# Sets all to the processes that run the test's programs.
find_programs() {
    mapfile -t all < <(programs)
    ((${#all[@]} > 0))
}

@test "SIGUSR1 for all processes, twice at once, leaves the manager no dead main process" {
    manage "$BATS_TEST_TMPDIR/notify"
    start_server
    connect
    for _ in {1..10}; do
        # find_programs may miss a process that has just been started.
        wait_for find_programs
        kill -USR1 "${all[@]}" 2>/dev/null || true
        kill -USR1 "${all[@]}" 2>/dev/null || true
        ask "$conn"
    done
    wait_for only_one_left
    wait_for is_main "$(serving_pid)"
    (($(accepted | grep -c MAINPID=) >= 5))
    run ! grep ended "$notes"
    run ! logged 'service manager'
}

@test "with --supervise no other main process is notified" {
    manage "$BATS_TEST_TMPDIR/notify" all
    start_command "./$NAME" --supervise -l 127.0.0.1:0 -p pid_file "${PATIENT[@]}"
    supervisor=$pid
    wait_log "\[([0-9]+)]: listening on "
    pid=${BASH_REMATCH[1]}
    wait_note "^$pid READY=1"
    restart_server
    wait_note "^$pid STATUS="
    kill -TERM "$supervisor"
    ended "$supervisor"
    wait_note "^$pid STOPPING=1$"
    diff <(notes | grep -v ' ended$') - <<<"$old READY=1|STATUS=SERVING
$old RELOADING=1|MONOTONIC_USEC=N|STATUS=
$old READY=1
$old BARRIER=1
$pid STATUS=SERVING
$pid STOPPING=1"
}

@test "after a rollback no restart begins before the service manager has read" {
    manage "$BATS_TEST_TMPDIR/notify" all
    start_server --pid-file "$BATS_TEST_TMPDIR/pid_file" --rollback-timeout 60
    wait_note READY=1
    wait_for settled "$pid"
    before=$(descriptors "$pid")
    for _ in 1 2 3; do
        kill -STOP "$manager"
        restart_server
        kill -KILL "$pid"
        wait_log "\[$old]: rolled back: successor $pid "
        restarts=$(count_log 'SIGUSR1 received: restarting')
        failures=$(count_log 'restart failed')
        rm "$BATS_TEST_TMPDIR/${NAME}1"
        kill -USR1 "$old"
        sleep 0.5
        (($(count_log 'SIGUSR1 received: restarting') == restarts))
        kill -CONT "$manager"
        wait_for failed_more_than "$failures"
        mend_successor
    done
    run ! logged 'service manager'
    wait_for has_descriptors "$old" "$before"
}

# ---- socket activation ----

# activate [OPTIONS...] -- COMMAND...: starts COMMAND as a service manager does at the first
# connection to a socket of its own, and makes that connection. Sets pid and port.
activate() {
    local options=()
    needs systemd-socket-activate
    while [[ $1 != -- ]]; do
        options+=("$1")
        shift
    done
    port=$(free_port)
    start_command systemd-socket-activate -l "127.0.0.1:$port" "${options[@]}" "${@:2}"
    wait_log '^Listening on '
    connect
}

# The environment that the process that serves was given.
environment() {
    tr '\0' '\n' <"/proc/$(serving_pid)/environ"
}

@test "serves the socket that the service manager passes, through restarts, instead of --listen" {
    activate --fdname=web -E KEPT=1 -E LISTEN_PIDFDID=7 -- "./$NAME" --listen 127.0.0.1:1
    send "$conn" "$WHOLE"
    answered "$conn"
    wait_log "\[$pid]: listening on 127\.0\.0\.1:$port \(inherited fd 3\)"
    serves
    environment | grep -q '^LISTEN_FDS=1$'
    for _ in 1 2 3; do
        restart_server
        environment | grep -q '^KEPT=1$'
        [[ ! $(environment) =~ LISTEN_ ]]
        logged "\[$pid]: listening on 127\.0\.0\.1:$port \(inherited fd 3\)"
        ask "$conn"
        serves
        wait_gone "$old"
    done
}

@test "FD takes precedence over the socket that the service manager passes" {
    other=$(free_port)
    activate -l "127.0.0.1:$other" -- "./$NAME" 4
    wait_log "\[$pid]: listening on 127\.0\.0\.1:$other \(inherited fd 4\)"
    port=$other
    serves
}

@test "serves Unix sockets from the service manager, and names them in the log" {
    needs systemd-socket-activate
    socket=$BATS_TEST_TMPDIR/socket
    start_command systemd-socket-activate -l "$socket" -l "@$socket" "./$NAME"
    wait_log '^Listening on .* as 4'
    [[ $(curl -q -sS --unix-socket "$socket" http://localhost/) == 'Hello, World!' ]]
    for _ in 1 2; do
        logged "\[$pid]: listening on unix:$socket \(inherited fd 3\)"
        logged "\[$pid]: listening on unix:@$socket \(inherited fd 4\)"
        [[ $(curl -q -sS --unix-socket "$socket" http://localhost/) == 'Hello, World!' ]]
        [[ $(curl -q -sS --abstract-unix-socket "$socket" http://localhost/) == 'Hello, World!' ]]
        restart_server
    done
}

@test "rejects sockets from the manager that are too many, not streams or not open, with status 2" {
    local sockets=()
    start_command bash -c "exec 3<&-; LISTEN_PID=\$\$ LISTEN_FDS=1 exec ./$NAME -l 127.0.0.1:0"
    ended "$pid"
    ((status == 2))
    logged 'cannot listen on inherited fd 3: '
    needs systemd-socket-activate
    : >"$log"
    for i in {3..19}; do
        sockets+=(-l "$BATS_TEST_TMPDIR/socket$i")
    done
    start_command systemd-socket-activate "${sockets[@]}" "./$NAME"
    wait_log '^Listening on .*socket19'
    socat -u /dev/null "UNIX-CONNECT:$BATS_TEST_TMPDIR/socket3"
    ended "$pid"
    ((status == 2))
    logged 'cannot listen on inherited fd 19: there are too many'
    run ! logged "$NAME\[$pid]: listening on"
    : >"$log"
    start_command systemd-socket-activate --seqpacket -l "$BATS_TEST_TMPDIR/socket" "./$NAME"
    wait_log '^Listening on '
    socat -u /dev/null "UNIX-CONNECT:$BATS_TEST_TMPDIR/socket,type=5"
    ended "$pid"
    ((status == 2))
    logged "$NAME\[$pid]: cannot listen on inherited fd 3"
}

@test "leaves sockets alone that were meant for another process" {
    for listen_pid in 1 '' x "$$ " 0; do
        LISTEN_PID=$listen_pid LISTEN_FDS=1 LISTEN_FDNAMES=web start_server
        logged "\[$pid]: listening on 127\.0\.0\.1:$port, version"
        restart_server
        [[ ! $(environment) =~ LISTEN_ ]]
        kill -TERM "$pid"
        wait_gone "$pid"
    done
    LISTEN_FDS=1 start_server
}

# ---- the unit files ----

# verified UNIT...: systemd finds nothing wrong with UNITs, as they are in the test's folder.
verified() {
    local unit said
    for unit; do
        said=$(cd "$BATS_TEST_TMPDIR" && systemd-analyze verify "./$unit" 2>&1) || true
        echo "$unit: $said"
        [[ -z $said ]]
    done
}

@test "systemd finds nothing wrong with the unit files" {
    needs systemd-analyze
    local unit
    for unit in "$units/$NAME"*; do
        sed "s,=/usr/local/bin/,=$BATS_TEST_TMPDIR/," "$unit" >"$BATS_TEST_TMPDIR/${unit##*/}"
    done
    # An instance, not the template.
    mv "$BATS_TEST_TMPDIR/$NAME@.service" "$BATS_TEST_TMPDIR/$NAME@0.service"
    verified "$NAME.service" "$NAME@0.service" "$NAME.socket"
    # The check would notice.
    sed -i 's/^Type=.*/Type=nonsense/' "$BATS_TEST_TMPDIR/$NAME.service"
    run ! verified "$NAME.service"
}

@test "the template differs from the service only where several instances must" {
    run diff "$units/$NAME.service" "$units/$NAME@.service"
    diff <(grep '^[<>]' <<<"$output") - <<'EOT'
< Description=Web server that is replaced while it runs
> Description=Web server that is replaced while it runs, instance %i
<     --rollback-timeout 10
>     --rollback-timeout 10 --reuse-port
> # One user for all instances: no other user may listen on the same address.
> User=%p
EOT
}

# setting UNIT NAME: prints the value of NAME in the unit file UNIT.
setting() {
    sed -e ':join; /\\$/{N; s/\\\n */ /; b join}' "$1" | sed -n "s/^$2=//p"
}

# run_command NAME: runs the command of the unit file for NAME, as systemd does for the process that
# serves, with the pid file at $pid_file, and for $patience seconds at most.
run_command() {
    local command
    command=$(setting "$units/$NAME.service" "$1")
    command=${command//'%t/%N'/"${pid_file%/*}"}
    command=${command//%%/%}
    MAINPID=$(serving_pid) timeout "$patience" bash -c "${command#-}"
}

# start_named: starts the server with a pid file, and waits until it names it.
start_named() {
    pid_file=$BATS_TEST_TMPDIR/pid
    start_server --pid-file "$pid_file"
    wait_for named_in_file "$pid"
}

named_in_file() {
    [[ $(<"$pid_file") == "$1" ]]
}

# The connection is open in the test only.
stop_without_connection() {
    disconnect "$conn"
    run_command ExecStop
}

@test "ExecReload= restarts, and ExecStop= waits for the end" {
    start_named
    run_command ExecReload
    succeeded "$pid"
    wait_gone "$pid"
    pid=$(serving_pid)
    named_in_file "$pid"
    begin_request
    in_background stop_without_connection
    wait_log "\[$pid]: SIGTERM received"
    alive "$job"
    end_last_request "$half"
    ended "$job"
    ((status == 0))
    gone "$pid"
}

@test "ExecReload= ends as soon as the outcome is known" {
    start_named
    # The ready timeout is ten minutes.
    successor_script 'exit 3'
    run -1 run_command ExecReload
    logged 'restart failed: successor [0-9]+ exited with status 3'
    # A slow version is waited for.
    start_slowly
    in_background run_command ExecReload
    sleep 0.5
    alive "$job"
    go_on
    ended "$job"
    ((status == 0))
    named_in_file "$(serving_pid)"
    succeeded "$pid"
}

@test "ExecReload= fails if the server ends meanwhile" {
    for signal in KILL TERM; do
        start_named
        successor_script ': >started; exec sleep 60'
        in_background run_command ExecReload
        wait_for test -e "$BATS_TEST_TMPDIR/started"
        kill -"$signal" "$pid"
        ended "$job"
        ((status == 1))
        rm "$BATS_TEST_TMPDIR/started"
        mend_successor
    done
}

# syscall_filter SET: the names of the system calls in SET, and in the sets of which it consists.
syscall_filter() {
    local name
    while read -r name; do
        case $name in
        '#'* | "$1") ;;
        @*) syscall_filter "$name" ;;
        *) echo "$name" ;;
        esac
    done < <(systemd-analyze syscall-filter "$1")
}

# Starts, serves, restarts, is rolled back, fails to restart, and ends, with everything on; its calls
# are in calls.
live_a_life() {
    manage "$BATS_TEST_TMPDIR/notify"
    start_traced -- --pid-file "$BATS_TEST_TMPDIR/pid" --rollback-timeout 60
    connect
    ask "$conn"
    restart_server
    ask "$conn"
    disconnect "$conn"
    kill -KILL "$pid"
    wait_log "\[$old]: rolled back"
    serves
    rm "$BATS_TEST_TMPDIR/${NAME}1"
    fail_restart
    begin_request
    pid=$(serving_pid)
    kill -TERM "$pid"
    send "$half" "$REST"
    receive "$half"
    disconnect "$half"
    wait_gone "$pid"
}

@test "the unit files' restrictions forbid nothing that the server does" {
    needs systemd-analyze
    live_a_life
    local unit=$units/$NAME.service
    sed -nE 's/^[0-9]+ +([a-z_0-9]+)\(.*/\1/p' "$calls" | sort -u >"$BATS_TEST_TMPDIR/used"
    sed -nE 's/.*socket(pair)?\(([A-Z_0-9]+),.*/\2/p' "$calls" | sort -u >"$BATS_TEST_TMPDIR/families"
    grep -qx clone3 "$BATS_TEST_TMPDIR/used" || grep -qx -e clone -e vfork "$BATS_TEST_TMPDIR/used"
    grep -qx AF_INET "$BATS_TEST_TMPDIR/families"
    run ! grep -vxFf <(syscall_filter "$(setting "$unit" SystemCallFilter)") "$BATS_TEST_TMPDIR/used"
    run ! grep -vxFf <(setting "$unit" RestrictAddressFamilies | tr ' ' '\n') \
        "$BATS_TEST_TMPDIR/families"
    # MemoryDenyWriteExecute
    run ! grep -E 'PROT_WRITE\|PROT_EXEC' "$calls"
}
