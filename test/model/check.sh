#!/usr/bin/env bash
# SPDX-License-Identifier: 0BSD
# Checks the models with spin: check.sh [claims|mutants|deep]. The default is claims and mutants.
#
#   claims    every claim holds in every state that a model can reach
#   mutants   each model with a step that is left out or in another order violates a claim
#   deep      the claims with larger bounds, which takes hours and 20 GB
#
# Prints a line for each check: states, depth, seconds, result. Exit status: 0 if all is as it
# should be. A violated claim is followed by the shortest sequence of events that leads there.
# MODEL_JOBS: how many checks run at the same time (default: as many as there are processors).
set -uo pipefail
models=$(cd "$(dirname "$0")" && pwd) || exit
folder=$(mktemp -d) || exit
trap 'rm -rf "$folder"' EXIT
trap 'exit 1' INT TERM
jobs=${MODEL_JOBS:-$(nproc)}
# Most searches take less than a second: it would take longer to compile them well, or to compress
# the states.
preprocessor='-Ptcc -E -x c'
compiler=(tcc)
states=-DNOCOMP
memory=3000 # MB for a search
hash=22     # bits
count=0
shown=0

# build FOLDER MODEL OPTIONS FLAGS...: builds the verifier, pan, in FOLDER, where the models are.
build() {
    local options
    read -ra options <<<"$3"
    cd "$1" && spin "$preprocessor" -a "${options[@]}" "$2.pml" >spin.log 2>&1 &&
        nice "${compiler[@]}" -w -DVECTORSZ=512 -DMEMLIM="$memory" "${@:4}" -o pan pan.c \
            >>spin.log 2>&1
}

# verify FOLDER MODEL OPTIONS SEARCH: searches all states, for cycles too if SEARCH is not empty.
# Sets figures, and violated: the text of the violated assertion; empty if there is none.
verify() {
    local kind=(-DSAFETY "$states")
    [[ ! $4 ]] || kind=(-DNP -DCOLLAPSE) # spin cannot look for cycles without a compression
    if ! build "$1" "$2" "$3" "${kind[@]}" ||
        ! nice ./pan -E ${4:+-l} -m20000 -w"$hash" >pan.log 2>&1; then
        violated="cannot check: $(tail -n 3 spin.log pan.log 2>&1)"
        return
    fi
    figures=$(awk '/states, stored/ { states = $1 } /depth reached/ { depth = $6 + 0 }
        /elapsed time/ { time = $4 }
        END { printf "%12d %6d %8.1f", states, depth, time }' pan.log)
    violated=$(sed -nE 's/^pan:1: (.*) \(at depth.*/\1/p' pan.log)
    # A search that did not see every state proves nothing.
    if [[ ! $violated ]] &&
        { ! grep -q 'errors: 0$' pan.log || grep -q 'too small\|MEMLIM\|memory$' pan.log; }; then
        violated="incomplete: $(grep -m 1 'too small\|MEMLIM\|memory$\|error' pan.log)"
    fi
}

# explain MODEL OPTIONS: prints the events of the shortest violation.
explain() {
    local options
    read -ra options <<<"$2"
    build . "$1" "$2" -DSAFETY -DBFS -DCOLLAPSE && ./pan -E >pan.log 2>&1
    # It may warn that the trail is as old as the model.
    spin "$preprocessor" -t -B "${options[@]}" "$1.pml" 2>&1 |
        sed -n '/^spin: warning/d; /^spin:/q; s/^ */    /p'
}

# check EXPECTED NAME MODEL OPTIONS SEARCH [FILE SCRIPT]: EXPECTED is what the violated assertion
# has to contain; empty: no claim may be violated. SEARCH: see verify. sed first changes FILE by
# SCRIPT.
check() {
    local own=$folder/models.$count violated='' figures='' before result=holds
    mkdir "$own" && cp "$models"/*.pml "$own"
    if [[ ${6-} ]]; then
        before=$(<"$own/$6")
        sed -i -E "$7" "$own/$6"
        [[ $before != "$(<"$own/$6")" ]] || violated='the mutant is the model'
    fi
    [[ $violated ]] || verify "$own" "$3" "$4" "$5"
    if [[ $1 ]]; then
        result='found '
        [[ $violated == *"$1"* ]] || result="NOT FOUND (${violated:-no claim is violated})"
    elif [[ $violated ]]; then
        result="VIOLATED ($violated)"
    fi
    printf '%s  %s  %s\n' "${figures:-$(printf '%28s' '')}" "$result" "$3: $2"
    [[ $result == holds || $result == 'found ' ]] && return
    [[ $1 ]] || explain "$3" "$4"
    touch "$folder/failed"
}

# These run in the background.

# holds NAME MODEL OPTIONS: the claims hold. rests: and it comes to rest, whatever it does before.
holds() {
    spawn '' "$@" ''
}
rests() {
    spawn '' "$@" cycles
}
# mutant EXPECTED NAME MODEL OPTIONS FILE SCRIPT; restless: one that does not come to rest.
mutant() {
    spawn "${@:1:4}" '' "${@:5}"
}
restless() {
    spawn 'non-progress cycle' "${@:1:3}" cycles "${@:4}"
}
spawn() {
    ((++count <= jobs)) || wait -n
    show
    {
        check "$@" >"$folder/$count"
        mv "$folder/$count" "$folder/$count.result"
    } &
}

# show: prints the results that are there, in order.
show() {
    while [[ -e $folder/$((shown + 1)).result ]]; do
        cat "$folder/$((++shown)).result"
    done
}

claims() {
    holds 'two restarts, any fault' succession '-DSTOPS=0'
    holds 'the same with --ready-timeout 0' succession '-DSTOPS=0 -DREADY=0'
    holds 'a restart, any fault, SIGTERM' succession '-DRESTARTS=1'
    holds 'the same without a rollback timeout' succession '-DRESTARTS=1 -DROLLBACK=0'
    holds 'the same with --ready-timeout 0' succession '-DRESTARTS=1 -DREADY=0'
    holds 'the same with an older build' succession '-DRESTARTS=1 -DOLD=1'
    holds 'two restarts, an older build' succession '-DSTOPS=0 -DFAULTS=0 -DOLD=1'
    holds 'a restart, SIGTERM' succession '-DRESTARTS=1 -DFAULTS=0'
    holds 'a restart, two faults, SIGTERM twice' succession '-DRESTARTS=1 -DFAULTS=2 -DSTOPS=2'
    rests 'a restart, any fault, SIGTERM' succession '-DRESTARTS=1'
    holds 'a connection, two restarts, no rollback timeout' succession \
        '-DCONNECTIONS=1 -DFAULTS=0 -DSTOPS=0 -DROLLBACK=0'
    holds 'two connections, a restart, any fault' succession \
        '-DCONNECTIONS=2 -DRESTARTS=1 -DSTOPS=0'
    holds 'SIGUSR1, SIGTERM, any fault' supervisor ''
    holds 'SIGUSR1 twice' supervisor '-DRESTARTS=2 -DFAULTS=0 -DSTOPS=0'
    holds 'SIGUSR1, any fault, the supervisor is killed' supervisor '-DKILLS=1 -DSTOPS=0'
    holds 'two restarts, NotifyAccess=main' manager ''
    holds 'two restarts, NotifyAccess=all' manager '-DACCESS=all'
    holds 'a restart, SIGTERM' manager '-DRESTARTS=1 -DSTOPS=1'
    holds 'a restart, a crash' manager '-DACCESS=all -DRESTARTS=1 -DFAULTS=1'
}

# The first word of each is in the assertion that spin must find violated.
mutants() {
    # 1. requests are not refused, and one process owns the listeners
    mutant listens 'stops accepting when it forks' succession '-DSTOPS=0' server.pml \
        's/( *p\[i \+ 1\].listens = 1;) forked/\1 p[i].listens = 0; forked/'
    mutant listens 'kills without a last look at the channel' succession '-DSTOPS=0' server.pml \
        's/given_up = 1; hear_successor\(i\)/given_up = 1/'
    mutant listens 'ends the rollback at the drain timeout' succession '-DSTOPS=0' server.pml \
        's/(p\[me\].refuses = 1;)/\1 p[me].rollback = 0;/'
    mutant owners 'does not register the owner' succession '-DSTOPS=0' server.pml \
        's/^(#define other_owner\(i\)).*/\1 false/; s/^(#define is_replaced\(i\)).*/\1 false/'
    mutant owners 'the child does not look who owns' succession '-DSTOPS=0' server.pml \
        's/is_replaced\(i\) \|\| !may_register/!may_register/'
    mutant owners 'serves again unless it has heard of the execution' succession \
        '-DREADY=0 -DSTOPS=0 -DFAULTS=0' server.pml \
        's/\(gone -> replaced : p\[i\]\.claimed\)/p[i].claimed \&\& (!gone || replaced)/'
    # 2. the pid file
    mutant pid_file 'writes the pid file again while it starts a successor' succession '-DSTOPS=0' \
        server.pml 's/unannounced && p\[me\].phase == SERVING/unannounced \&\& owns(me)/'
    mutant pid_file 'does not write the pid file after a failure' succession \
        '-DSTOPS=0 -DRESTARTS=1' server.pml '/^inline serve_again/,/^}/s/announce\(i\)/skip/'
    # 3. connections
    mutant 'at[0]' 'leaves before its predecessor' succession \
        '-DSTOPS=0 -DFAULTS=0 -DROLLBACK=0 -DCONNECTIONS=1' server.pml \
        's/!p\[me\].predecessor && notified/notified/'
    # 4. a successor holds none before it has claimed
    mutant 'at[0]' 'accepts before it has claimed' succession \
        '-DSTOPS=0 -DFAULTS=0 -DRESTARTS=1 -DCONNECTIONS=1' succession.pml \
        's/&& owns\(i\)\)$/\&\& (owns(i) || p[i].phase == INHERITING))/'
    mutant 'at[0]' 'kills without shutdown' succession \
        '-DSTOPS=0 -DFAULTS=0 -DRESTARTS=1 -DCONNECTIONS=1' server.pml \
        's/p\[i \+ 1\].given_up = 1;//'
    # 5. whoever is told to end does
    mutant doomed 'does not pass SIGTERM on' succession '-DFAULTS=0 -DRESTARTS=1' server.pml \
        's/terminate\(i \+ 1, PREDECESSOR\)/skip/'
    mutant phase 'waits for a successor that hangs' succession '-DRESTARTS=1' server.pml \
        '/phase == DRAINING && pending\(me\) -> give_up/d'
    # 6. SIGTERM is final
    mutant stopping 'takes an exit with status 0 for a crash' succession '-DFAULTS=0 -DRESTARTS=1' \
        server.pml 's/\(well && p\[i\].claimed\) \|\| //'
    # 7. they come to rest
    restless 'announces again and again' succession '-DRESTARTS=1' server.pml \
        's/p\[me\].unannounced && //'
    # the supervisor's
    mutant 'owner==pid_of' 'reports to the supervisor only before it has claimed' supervisor '' \
        supervisor.pml \
        's/^(#define tell_owner\(i\)).*/\1 if :: p[i].phase == INHERITING -> tell(O, i) :: else fi/'
    mutant stops 'tells one owner of SIGTERM' supervisor '-DFAULTS=0' supervisor.pml \
        's/:: stops && /:: false \&\& /'
    mutant stops_sent 'remembers only the last owner that it told' supervisor '-DFAULTS=0' \
        supervisor.pml 's/(:: stops && )!told\[owner\]/\1last_told != owner/
            s/told\[owner\] = 1/last_told = owner/; s/^bit told.*/byte last_told;/'
    mutant stops_sent 'counts the predecessor and the supervisor together' supervisor '-DFAULTS=0' \
        server.pml 's/^(#define SUPERVISOR) .*/\1 2/'
    mutant asked 'forgets a SIGUSR1 that it has sent' supervisor \
        '-DSTOPS=0 -DFAULTS=0 -DRESTARTS=2' supervisor.pml 's/wanted\+\+;/wanted = 0;/'
    mutant dead 'only children of the supervisor end with it (PR_SET_PDEATHSIG)' supervisor \
        '-DSTOPS=0 -DKILLS=1' supervisor.pml 's/p\[i\].life != FORKED ->/!p[i].has_parent ->/'
    # the service manager's
    mutant well 'ends before the manager has answered' manager '' manager.pml \
        's/^(#define notified\(i\)).*/\1 true/'
    mutant main_pid 'names the main process once' manager '' manager.pml \
        '/^#define left_predecessor/,/fi$/s/notify_main\(.*\)/skip/'
}

deep() {
    compiler=("${CC:-cc}" -O2)
    states=-DCOLLAPSE
    memory=20000
    hash=28
    jobs=1
    holds 'two restarts, any fault, SIGTERM' succession ''
    holds 'the same without a rollback timeout' succession '-DROLLBACK=0'
    holds 'the same with --ready-timeout 0' succession '-DREADY=0'
    holds 'two restarts, SIGTERM, older builds' succession '-DFAULTS=0 -DOLD=ALL'
    rests 'two restarts, any fault' succession '-DSTOPS=0'
    holds 'two restarts, two faults' succession '-DFAULTS=2 -DSTOPS=0'
    holds 'three restarts, any fault, four generations' succession \
        '-DSTOPS=0 -DRESTARTS=3 -DPLACES=4'
    holds 'a connection, two restarts, any fault' succession '-DCONNECTIONS=1 -DSTOPS=0'
    holds 'a connection, a restart, any fault, SIGTERM' succession '-DCONNECTIONS=1 -DRESTARTS=1'
    holds 'SIGUSR1 twice, SIGTERM' supervisor '-DRESTARTS=2 -DFAULTS=0'
    holds 'SIGUSR1 twice, any fault' supervisor '-DRESTARTS=2 -DSTOPS=0'
    holds 'three restarts, SIGTERM' manager '-DRESTARTS=3 -DSTOPS=1'
}

case ${1-} in
claims | mutants | deep) kinds=$1 ;;
'') kinds='claims mutants' ;;
*) sed -n '/^# Checks/,/^set/s/^# *//p' "$0" >&2 && exit 2 ;;
esac
echo '      states  depth  seconds'
for kind in $kinds; do
    "$kind"
done
wait
show
[[ ! -e $folder/failed ]]
