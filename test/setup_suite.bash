# shellcheck shell=bash
# SPDX-License-Identifier: 0BSD
# bats (1.7 or newer) runs setup_suite once, before the first test: make builds what is missing or
# older than its sources. So each test file can be run alone, even in a fresh clone.

setup_suite() {
    local targets=(test-needs)
    # Whoever names another folder with programs or tools has built them.
    [[ -n ${SERVER_DIR-} ]] || targets+=(all)
    [[ -n ${BUILD_DIR-} ]] || targets+=(tools)
    cd "$BATS_TEST_DIRNAME/.." || return
    # Without these, make leaves a version and flags that were given before as they are, and does
    # not look for the job server of a make that runs bats at descriptors that bats uses.
    unset VERSION MAKEFLAGS MFLAGS MAKELEVEL
    make --silent "${targets[@]}" 3>&-
}
