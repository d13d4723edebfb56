#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# The protocol of a restart in every order of events: the models in test/model hold what they claim,
# can fail, and speak of the same phases, messages and functions as the code.

ROOT=$BATS_TEST_DIRNAME/..
MODELS=$BATS_TEST_DIRNAME/model

# check_models KIND: other tests wait for the time meanwhile, so one check runs at a time.
check_models() {
    local tool
    for tool in spin tcc; do
        command -v "$tool" >/dev/null || skip "needs $tool"
    done
    ! grep -qs __asan_init "${SERVER_DIR-}/rust_graceful_restart" ||
        skip 'a checked build changes nothing in the models'
    MODEL_JOBS=1 "$MODELS/check.sh" "$1"
}

# list_modelled TYPE: prints the names that an mtype of the models lists, in alphabetical order.
list_modelled() {
    sed -nE "s/^mtype:$1 = \{ (.*) \};/\1/p" "$MODELS"/*.pml | tr -d ' ' | tr , '\n' | sort
}

@test "every claim holds in every state of the models" {
    check_models claims
}

@test "the models violate a claim when a step is left out or in another order" {
    check_models mutants
}

@test "the models have the phases of restart.h, and the messages and functions of restart.c" {
    local functions name unknown=0
    diff <(list_modelled phase) <(sed -n '/^enum restart_phase/,/^}/p' "$ROOT/restart.h" |
        sed -n 's/^ *RESTART_\([A-Z_]*\).*/\1/p' | sort)
    diff <(list_modelled message) \
        <(sed -nE 's/.*send_message\([^"]*, "([A-Z][0-9]?)".*/\1/p' "$ROOT/restart.c" | sort -u)
    diff <(list_modelled word) \
        <(sed -nE "s/.*tell_supervisor\(r, '([A-Z])'.*/\1/p" "$ROOT/restart.c" | sort -u)
    # Comments name a function as name().
    mapfile -t functions < <(grep -h '^ \*' "$MODELS"/*.pml | grep -oE '[a-z_]+\(\)' | sort -u)
    ((${#functions[@]} > 10))
    for name in "${functions[@]%??}"; do
        grep -qE "^[a-z][a-z_ ]*[ *]$name\(|^__attribute__.* $name\(" "$ROOT/restart.c" || {
            echo "no function of restart.c: $name"
            unknown=1
        }
    done
    ((!unknown))
}
