#!/usr/bin/env bash
# SPDX-License-Identifier: 0BSD
# Prints the commands that scripts run although no list names them: commands.sh ALLOWED SCRIPT...
# ALLOWED is what may be run besides the commands that every Debian has. Exit status: 0 if there
# are none.
#
# The commands come from the syntax tree, so those in arrays and in quoted scripts are not seen.
# .ci/run finds these: it runs the tests with nothing in PATH that is not meant to be there.
set -euo pipefail

debian=(awk bash cat chmod cmp cp cut date dd diff dirname env find grep head id install ln ls make
    mkdir mkfifo mknod mktemp mv nproc prlimit readlink rm rmdir script sed setsid sleep sort stat tail
    tee timeout touch tr uname uniq unshare wc xargs yes)
bats=(bats_require_minimum_version load run skip)
# These run, or look for, the command that is their first argument.
runners=(client command env exec in_background needs run start_command start_proxy timeout untraced
    wait_for)

read -ra allowed <<<"$1"
shift
mapfile -t builtins < <(compgen -b)
declare -A known running
for command in "${builtins[@]}" "${debian[@]}" "${bats[@]}" "${runners[@]}" "${allowed[@]}"; do
    known[$command]=1
done
for command in "${runners[@]}"; do
    running[$command]=1
done

# syntax SCRIPT: prints "function NAME" for each function, and "command WORD..." for each command,
# with a ? in place of a word that is not a plain one.
syntax() {
    local language=bash
    [[ $1 != *.bats ]] || language=bats
    shfmt -ln "$language" --to-json <"$1" | jq -r '
        def plain: .Parts[0].Value // "?" | if test("^[A-Za-z0-9_.!-]+$") then . else "?" end;
        .. | objects |
        if .Type? == "FuncDecl" then "function \(.Name.Value)"
        elif .Type? == "CallExpr" and .Args then "command \(.Args | map(plain) | join(" "))"
        else empty end'
}

# find_unknown SCRIPT WORD...: says so if the command WORD... is not known.
find_unknown() {
    local word
    for word in "${@:2}"; do
        [[ $word != [-0-9!]* ]] || continue # an option of a command that runs others
        if [[ $word != '?' && ! ${known[$word]-} ]]; then
            echo "$1: runs $word, which the Makefile does not list" >&2
            status=1
        fi
        [[ ${running[$word]-} ]] || break
    done
}

status=0
commands=()
for script; do
    while read -r kind words; do
        if [[ $kind == function ]]; then
            known[$words]=1
        else
            commands+=("$script $words")
        fi
    done < <(syntax "$script")
done
for command in "${commands[@]}"; do
    read -ra words <<<"$command"
    find_unknown "${words[@]}"
done
exit $status
