#!/usr/bin/env bats
# SPDX-License-Identifier: 0BSD
# make install and make uninstall, also while the server runs, and tools that are missing.
# shellcheck disable=SC2030,SC2031,SC2153,SC2154 # a test is a subshell; helper.bash sets the rest

bats_require_minimum_version 1.5.0
load tools/helper

# A copy of the source and the built programs, so that other tests' programs are not built anew.
setup_file() {
    unset PREFIX DESTDIR VERSION CFLAGS # what the environment says is not tested here
    export source=$BATS_FILE_TMPDIR/source
    mkdir -p "$source/test"
    cd "$BATS_TEST_DIRNAME/.." || return
    cp -p test/Makefile "$source/test"
    cp -p Makefile ./*.[cho] "$NAME" "${NAME}1" "$source"
    make_here all
}

setup() {
    prepare
    root=$BATS_TEST_TMPDIR/root
    mkdir "$root"
}

make_here() {
    make -s -C "$source" "$@" 3>&-
}

# installed: prints type, mode and name of each file in the root.
installed() {
    (cd "$root" && find . -mindepth 1 -printf '%y %m %P\n' | sort -k 3)
}

@test "make install installs both programs, which all users may run, and nothing else" {
    umask 077
    make_here install DESTDIR="$root" PREFIX=/usr
    diff <(installed) - <<EOT
d 755 usr
d 755 usr/bin
f 755 usr/bin/$NAME
f 755 usr/bin/${NAME}1
EOT
    cmp "$source/$NAME" "$root/usr/bin/$NAME"
    cmp "$source/${NAME}1" "$root/usr/bin/${NAME}1"
    # To /usr/local by default, and without DESTDIR.
    rm -r "${root:?}/usr"
    make_here install DESTDIR="$root"
    [[ $(installed | tail -n 2) == "f 755 usr/local/bin/$NAME
f 755 usr/local/bin/${NAME}1" ]]
    rm -r "${root:?}/usr"
    make_here install PREFIX="$root/opt"
    [[ $(installed | tail -n 2) == "f 755 opt/bin/$NAME
f 755 opt/bin/${NAME}1" ]]
}

# installed_versions: prints the versions of the two programs in the root.
installed_versions() {
    "$root/usr/bin/$NAME" --version
    "$root/usr/bin/${NAME}1" --version
}

@test "make install installs what was built, with the version and the flags that were given then" {
    cp -rp "$source" "$BATS_TEST_TMPDIR/source"
    source=$BATS_TEST_TMPDIR/source
    default="$NAME $(sed -n 's/^VERSION ?= //p' "$source/Makefile")"
    make_here VERSION=9.8.7 CFLAGS='-O0 -U_FORTIFY_SOURCE -g0'
    cp "$source/$NAME" "$BATS_TEST_TMPDIR/built"
    make_here install DESTDIR="$root" PREFIX=/usr
    cmp "$root/usr/bin/$NAME" "$BATS_TEST_TMPDIR/built"
    [[ $(installed_versions) == "$NAME 9.8.7"$'\n'"$NAME 9.8.7" ]]
    # One of the two files, and a version from the environment.
    VERSION=9.8.8 make_here "${NAME}1"
    make_here install DESTDIR="$root" PREFIX=/usr
    [[ $(installed_versions) == "$NAME 9.8.7"$'\n'"$NAME 9.8.8" ]]
    make_here clean
    CFLAGS='-O0 -U_FORTIFY_SOURCE -g0' make_here install DESTDIR="$root" PREFIX=/usr
    [[ $(installed_versions) == "$default"$'\n'"$default" ]]
}

@test "make uninstall removes what make install installed, and nothing else" {
    mkdir -p "$root/usr/bin"
    echo another >"$root/usr/bin/${NAME}2"
    before=$(installed)
    make_here install DESTDIR="$root" PREFIX=/usr
    [[ $(installed | wc -l) == 5 ]]
    make_here uninstall DESTDIR="$root" PREFIX=/usr
    diff <(installed) - <<<"$before"
    [[ $(<"$root/usr/bin/${NAME}2") == another ]]
    make_here uninstall DESTDIR="$root" PREFIX=/usr
    [[ -x $source/$NAME && -x $source/${NAME}1 ]]
}

@test "make install replaces programs that run, and the next restart runs what is installed then" {
    make_here install DESTDIR="$root" PREFIX=/usr
    # Not in front of PATH, which may lead to programs that are installed on this machine.
    PATH=$root/usr/bin start_command "$NAME" -l 127.0.0.1:0 "${PATIENT[@]}"
    wait_listening
    connect
    ask "$conn"
    cp -rp "$source" "$BATS_TEST_TMPDIR/source"
    source=$BATS_TEST_TMPDIR/source
    make_here install DESTDIR="$root" PREFIX=/usr VERSION=9.8.7
    ask "$conn"
    [[ ! /proc/$pid/exe -ef $root/usr/bin/$NAME ]]
    restart_server
    logged "\[$pid]: listening on .*version 9\.8\.7$"
    ask "$conn"
    wait_gone "$old"
    restart_server
    logged "^$NAME\[$pid]: listening on .*version 9\.8\.7$"
    ask "$conn"
    # A server whose successor has been uninstalled serves on.
    make_here uninstall DESTDIR="$root" PREFIX=/usr
    fail_restart
    logged "restart failed: .*No such file or directory"
    ask "$conn"
    make_here install DESTDIR="$root" PREFIX=/usr
    restart_server
    ask "$conn"
}

@test "a target whose tools are missing prints in one line how to install them" {
    bin=$BATS_TEST_TMPDIR/bin
    mkdir "$bin"
    for command in cat cut ls make sh; do
        ln -s "$(command -v "$command")" "$bin"
    done
    for wanted in test:curl.*make\ deps check:curl.*make\ deps sanitize:curl.*make\ deps \
        lint:shellcheck.*make\ check-deps fuzz:clang.*make\ check-deps soak:procps.*make\ deps \
        bench-restart:procps.*make\ deps; do
        PATH=$bin run -2 make_here "${wanted%%:*}"
        [[ ${lines[0]} =~ ^not\ installed:.*${wanted#*:}\)$ ]]
        [[ ${#lines[@]} == 2 && ${lines[1]} == 'make: ***'* ]]
    done
}
