#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# Random events at random times: soak/chaos.sh says which, and how to repeat them.
# shellcheck disable=SC2034,SC2154 # helper.bash sets and uses them

load tools/helper

setup() {
    prepare
}

# chaos MODE OPTIONS: five seconds of it.
chaos() {
    SERVER_DIR=$SERVER_DIR CHAOS_MODE=$1 CHAOS_OPTIONS=$2 CHAOS_SECONDS=5 CHAOS_PAUSE=20 \
        CHAOS_KEEP=$BATS_TEST_TMPDIR/chaos "$BATS_TEST_DIRNAME/soak/chaos.sh" 3>&-
}

@test "no request and no connection is lost in random restarts, stops and bad successors" {
    chaos 1 ''
}

@test "no connection is refused when processes are killed at random and another one can serve" {
    chaos 2 ''
}
