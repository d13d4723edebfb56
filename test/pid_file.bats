#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# The pid file names the process that owns the listener, at every moment.
# shellcheck disable=SC2016 # scripts in quotes are run by the successor
# shellcheck disable=SC2030,SC2031,SC2153,SC2154 # a test is a subshell; helper.bash sets the rest

bats_require_minimum_version 1.5.0
load tools/helper
load tools/crowd

# pid_in_file: the pid in the file, which holds one line of digits and nothing else.
pid_in_file() {
    local line
    IFS= read -r line <"$pid_file" && [[ $line =~ ^[1-9][0-9]*$ ]] &&
        (($(wc -c <"$pid_file") == ${#line} + 1)) && echo "$line"
}

named_in_file() {
    [[ $(pid_in_file) == "$1" ]]
}

# start_named [OPTIONS...]: starts the server with a pid file, and waits until it names it.
start_named() {
    pid_file=$BATS_TEST_TMPDIR/pid
    start_server --pid-file "$pid_file" "$@"
    wait_for named_in_file "$pid"
}

# holders: the processes that hold the listening socket at $port.
holders() {
    local inode
    inode=$(awk -v port=":$(printf '%04X' "$port")" \
        '$4 == "0A" && substr($2, 9) == port { print $10 }' /proc/net/tcp)
    find /proc/[0-9]*/fd -lname "socket:\[$inode]" 2>/dev/null | cut -d / -f 3 | sort -u
}

# held_by PID: whether it alone holds that. The old process closes the socket when it has handed
# over, which may be after its successor has written the pid file.
held_by() {
    [[ $(holders) == "$1" ]]
}

# ---- which process it names ----

@test "the pid file names the old process until its successor claims the listener" {
    start_named
    [[ $(stat -c %a "$pid_file") == 644 ]]
    for _ in 1 2 3; do
        start_slowly
        named_in_file "$pid"
        old=$pid
        stop "$old"
        go_on
        wait_for succeeded "$old"
        pid=$(serving_pid)
        mend_successor
        named_in_file "$pid"
        kill -CONT "$old"
        wait_for held_by "$pid"
        wait_gone "$old"
        named_in_file "$pid"
    done
    [[ $(echo "$pid_file"*) == "$pid_file" ]]
}

@test "a process whose restart has failed writes the pid file anew" {
    start_named --ready-timeout 1
    for script in 'exit 3' 'exec sleep 60' ''; do
        before=$(stat -c %i "$pid_file")
        successor_script "$script"
        [[ -n $script ]] || rm "$BATS_TEST_TMPDIR/${NAME}1"
        fail_restart
        [[ $(stat -c %i "$pid_file") != "$before" ]]
        named_in_file "$pid"
    done
    [[ $(echo "$pid_file"*) == "$pid_file" ]]
}

# watch_pid_file: reads it as fast as it can, until there is a file named enough. Writes a line to
# wrong whenever it was not whole, or named a process that has ended, and counts in looks.
watch_pid_file() {
    local line again looks=0
    while [[ ! -e $BATS_TEST_TMPDIR/enough ]]; do
        looks=$((looks + 1))
        if ! IFS= read -r line <"$pid_file" || [[ ! $line =~ ^[1-9][0-9]*$ ]]; then
            echo "look $looks: not whole: '$line'"
        elif gone "$line" && IFS= read -r again <"$pid_file" && [[ $again == "$line" ]]; then
            echo "look $looks: $line has ended"
        fi
    done >"$BATS_TEST_TMPDIR/wrong" 2>&1
    echo "$looks" >"$BATS_TEST_TMPDIR/looks"
}

@test "the pid file is whole and names a process that lives, whenever it is read" {
    start_named
    in_background watch_pid_file
    for _ in {1..30}; do
        restart_server
    done
    : >"$BATS_TEST_TMPDIR/enough"
    wait "$job"
    echo "looks: $(<"$BATS_TEST_TMPDIR/looks")"
    cat "$BATS_TEST_TMPDIR/wrong"
    [[ ! -s $BATS_TEST_TMPDIR/wrong ]]
    (($(<"$BATS_TEST_TMPDIR/looks") > 100))
}

# ---- the README's script ----

# take_over: runs the script that the README shows. Sets said and status.
take_over() {
    local script
    status=0
    script=$(sed -n '/^    old=/,/^$/p' "$BATS_TEST_DIRNAME/../README.md")
    said=$(PID_FILE=$pid_file timeout "$patience" bash -c "$script" 2>&1) || status=$?
}

@test "the script that the README shows tells whether a new process took over" {
    start_named
    take_over
    [[ $status == 0 && -z $said ]]
    succeeded "$pid"
    pid=$(serving_pid)
    successor_script 'exit 3'
    take_over
    [[ $status == 1 && $said == *failed* ]]
    named_in_file "$pid"
    # The server ends meanwhile: by itself, or without removing the pid file.
    for signal in TERM KILL; do
        successor_script 'kill -'$signal' $PPID; exit 3'
        take_over
        [[ $status == 1 && $said == *failed* ]]
        wait_gone "$pid"
        mend_successor
        start_named
    done
    take_over
    [[ $status == 0 && -z $said ]]
    succeeded "$pid"
}

@test "the script that the README shows ends, though the pid file is written twice at once" {
    start_named --rollback-timeout 600
    # The file system may give the second file the number of the first one.
    successor_script 'echo $$ >new; mv new pid; printf R2 >&"${RESTART_CHANNEL#*:}"; kill -KILL $$'
    for _ in {1..5}; do
        take_over
        # 0: it has looked while the file named the successor.
        ((status <= 1))
        wait_for named_in_file "$pid"
    done
}

# ---- its end ----

@test "the pid file is removed at the end by the process that it names" {
    start_named
    kill -TERM "$pid"
    ended "$pid"
    [[ ! -e $pid_file ]]
    start_named
    restart_server
    wait_gone "$old"
    wait_for named_in_file "$pid"
    kill -INT "$pid"
    wait_gone "$pid"
    [[ ! -e $pid_file ]]
    start_named
    begin_request
    kill -TERM "$pid"
    wait_log "\[$pid]: SIGTERM received"
    kill -TERM "$pid"
    ended "$pid"
    ((status == 1))
    [[ ! -e $pid_file ]]
}

@test "a process removes no pid file that names another one, and nothing in its place" {
    for instead in other nothing fifo; do
        start_named
        rm "$pid_file"
        case $instead in
        other) echo $$ >"$pid_file" ;;
        fifo) mkfifo "$pid_file" ;;
        esac
        kill -TERM "$pid"
        ended "$pid"
        ((status == 0))
        case $instead in
        other) [[ $(<"$pid_file") == "$$" ]] ;;
        nothing) [[ ! -e $pid_file ]] ;;
        fifo) [[ -p $pid_file ]] ;;
        esac
        rm -f "$pid_file"
    done
}

# ---- a pid file that cannot be written ----

# rejected WHY: the server does not start with $pid_file, and prints the reason in one line.
rejected() {
    run -1 bash -c "cd '$BATS_TEST_TMPDIR'; ${limit:-} exec ./$NAME -l 127.0.0.1:0 -p '$pid_file'" 3>&-
    [[ $output =~ ^$NAME\[[0-9]+\]:\ cannot\ write\ pid\ file\ $pid_file:\ $1$ ]]
}

@test "a server that cannot write its pid file ends with status 1, and leaves no file behind" {
    pid_file=$BATS_TEST_TMPDIR/missing/pid rejected 'No such file or directory'
    pid_file=/dev/full/pid rejected 'Not a directory'
    limit='ulimit -f 0;' pid_file=pid rejected 'File too large'
    [[ -z $(find "$BATS_TEST_TMPDIR" -name 'pid*') ]]
}

@test "a pid file that cannot be renamed into place leaves no temporary file" {
    need_strace
    run -1 bash -c "cd '$BATS_TEST_TMPDIR'; exec strace -qq -o trace \
        -e 'inject=?rename,?renameat,?renameat2:error=EACCES' ./$NAME -l 127.0.0.1:0 -p pid" 3>&-
    [[ $output == *': cannot write pid file pid: Permission denied' ]]
    [[ -z $(find "$BATS_TEST_TMPDIR" -name 'pid*') ]]
}

@test "rejects a pid file that exists and is not a regular file, and does not replace it" {
    echo text >"$BATS_TEST_TMPDIR/target"
    mkdir "$BATS_TEST_TMPDIR/folder"
    mkfifo "$BATS_TEST_TMPDIR/fifo"
    ln -s target "$BATS_TEST_TMPDIR/link"
    ln -s missing "$BATS_TEST_TMPDIR/dangling"
    mknod "$BATS_TEST_TMPDIR/device" c 1 3 2>/dev/null || echo 'without a device: not permitted'
    before=$(cd "$BATS_TEST_TMPDIR" && stat -c '%n %i' ./*)
    for pid_file in folder fifo link dangling device; do
        [[ ! -e $BATS_TEST_TMPDIR/$pid_file && ! -L $BATS_TEST_TMPDIR/$pid_file ]] ||
            rejected 'it is not a regular file'
    done
    [[ $(cd "$BATS_TEST_TMPDIR" && stat -c '%n %i' ./*) == "$before" ]]
    [[ $(<"$BATS_TEST_TMPDIR/target") == text ]]
}

# start_in_folder: starts the server with a pid file in a folder that can be removed.
start_in_folder() {
    mkdir "$BATS_TEST_TMPDIR/run"
    pid_file=$BATS_TEST_TMPDIR/run/pid
    start_server -p "$pid_file"
    wait_for named_in_file "$pid"
}

@test "a successor that cannot write the pid file has failed" {
    start_in_folder
    rm -r "$BATS_TEST_TMPDIR/run"
    fail_restart
    logged "${NAME}1\[[0-9]+]: cannot write pid file $pid_file: No such file or directory"
    logged "\[$pid]: restart failed: successor [0-9]+ exited with status 1"
    serves
    mkdir "$BATS_TEST_TMPDIR/run"
    # The old process, which tries again each second, leaves the file to its successor meanwhile.
    start_slowly
    sleep 1.5
    go_on
    wait_for succeeded "$pid"
    wait_for named_in_file "$(serving_pid)"
    wait_gone "$pid"
}

@test "a pid file that cannot be written anew after a failed restart changes all the same" {
    need_strace
    start_named
    in_trouble '?rename,?renameat,?renameat2' error=ENOSPC
    before=$(stat -c %i%z "$pid_file")
    successor_script 'exit 3'
    fail_restart
    [[ $(stat -c %i%z "$pid_file") != "$before" ]]
    named_in_file "$pid"
    logged "\[$pid]: cannot write pid file $pid_file: No space left on device"
    mended
}

@test "a successor without a predecessor serves, and tries again to write the pid file" {
    start_in_folder
    start_slowly
    kill -KILL "$pid"
    rm -r "$BATS_TEST_TMPDIR/run"
    go_on
    wait_for succeeded "$pid"
    pid=$(serving_pid)
    serves
    sleep 2.5
    (($(count_log "cannot write pid file $pid_file: No such file or directory") == 1))
    mkdir "$BATS_TEST_TMPDIR/run"
    wait_for named_in_file "$pid"
}
