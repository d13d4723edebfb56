#!/usr/bin/env bash
# SPDX-License-Identifier: 0BSD
# Runs bats files: run.sh FILE... Many of them run at the same time, because tests mostly wait. A
# file in which a test has failed runs once more, alone: a busy machine can be late for a deadline.
# Prints the results of each file once it has ended, and then which tests failed, and how many.
# Exit status: 0 if no test failed.
#
#   JOBS         how many files run at the same time (default 8; 0: all)
#   SKIPS_FAIL   if set, a skipped test has failed, unless a checked build cannot run it
set -uo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export PORTS_DIR=${PORTS_DIR:-$folder}

# shellcheck disable=SC2016 # the other bash expands this
# The lock keeps the results of a file together.
printf '%s\0' "$@" | xargs -0 -P "${JOBS:-8}" -I FILE bash -c '
    bats --tap "$2" >"$1/${2##*/}" 2>&1
    flock "$1" cat "$1/${2##*/}"' - "$folder" FILE

# all_passed RESULTS: whether as many tests passed, or were skipped, as the file has.
all_passed() {
    [[ $(sed -n 's/^1\.\.//p' "$1") == "$(grep -c '^ok ' "$1")" ]]
}

for file; do
    results=$folder/${file##*/}
    all_passed "$results" && continue
    echo "$file once more:"
    bats --tap "$file" >"$results" 2>&1
    cat "$results"
done
cd "$folder" || exit

# results REGEX: the lines of the results that match, each behind the name of its file.
results() {
    grep -EH "$1" ./*.bats
}

# Prints the tests that were skipped and should not have been.
find_unexcused() {
    [[ ${SKIPS_FAIL-} ]] && results '^ok .*# skip' | grep -v '# skip a checked build'
}

planned=$(results '^1\.\.' | awk -F '[.]' '{ sum += $NF } END { print sum + 0 }')
unexcused=$(find_unexcused | wc -l)
skipped=$(($(results '^ok .*# skip' | wc -l) - unexcused))
passed=$(results '^ok ' | grep -vc '# skip')
# Those that did not run at all have failed, too.
failed=$((planned - passed - skipped))
results '^not ok '
find_unexcused
echo "$passed passed, $failed failed, $skipped skipped"
((failed == 0 && passed > 0))
