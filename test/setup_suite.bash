# shellcheck shell=bash
# SPDX-License-Identifier: 0BSD
# Before the first test, bats (1.7 or newer) runs this once: make builds what is missing or out of
# date. So each of the test files can be run alone, in a fresh clone too.

setup_suite() {
    local targets=(test-needs) options=()
    # Programs and tools in another folder are built by whoever names it.
    [[ -n ${SERVER_DIR-} ]] || targets+=(all)
    [[ -n ${BUILD_DIR-} ]] || targets+=(tools)
    cd "$BATS_TEST_DIRNAME/.." || return
    # What was built with another compiler or other flags is left as it is.
    [[ ! -e .flags ]] || options=(--old-file=.flags)
    # A make that runs bats offers its job server at descriptors which bats uses for something else.
    unset MAKEFLAGS MFLAGS MAKELEVEL
    make --silent "${options[@]}" "${targets[@]}" 3>&-
}
