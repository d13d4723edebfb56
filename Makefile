# SPDX-License-Identifier: 0BSD
# The version that was last given, so that `make VERSION=2.1.0 && make install` installs it.
GIVEN   := $(shell cat .version 2>/dev/null)
VERSION ?= $(or $(GIVEN),3.0.0)
CC      ?= cc
CFLAGS  ?= -O2 -g
LDFLAGS ?=
PREFIX  ?= /usr/local
DESTDIR ?=

WARNINGS = -Wall -Wextra -Wpedantic -Wshadow -Wconversion
HARDENED = -fPIE -fstack-protector-strong -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2
COMPILE  = $(CC) -std=gnu11 -D_GNU_SOURCE -I. $(WARNINGS) $(HARDENED) $(CPPFLAGS) $(CFLAGS)
LINK     = $(CC) -pie -Wl,-z,relro,-z,now $(CFLAGS) $(LDFLAGS)

PROGRAMS = rust_graceful_restart rust_graceful_restart1
OBJECTS  = main.o http.o restart.o
TOOLS    = $(patsubst %,build/%,echo forker library hammer http_cases manager peer crowd tracer \
           second_zero.so)
TESTS    = $(wildcard test/*.bats)

# The commands that are run besides a compiler, make and what every Debian has, each as
# command:Debian package. A test that needs one of MORE_TOOLS is skipped where that is missing.
TEST_TOOLS  = bats:bats curl:curl ip:iproute2 pgrep:procps ps:procps socat:socat ss:iproute2 \
              strace:strace
MORE_TOOLS  = ab:apache2-utils h2load:nghttp2-client haproxy:haproxy nginx:nginx-light \
              systemd-analyze:systemd systemd-socket-activate:systemd
LINT_TOOLS  = clang-format:clang-format clang-tidy:clang-tidy cppcheck:cppcheck jq:jq \
              shellcheck:shellcheck shfmt:shfmt
FUZZ_TOOLS  = clang:clang $(SANITIZER):libclang-rt-dev
CHECK_TOOLS = $(LINT_TOOLS) $(FUZZ_TOOLS) musl-gcc:musl-tools
PROXY_TOOLS = haproxy:haproxy nginx:nginx-light
BENCH_TOOLS = $(PROXY_TOOLS) gnuplot:gnuplot-nox wrk:wrk lighttpd:lighttpd h2o:h2o valgrind:valgrind
SANITIZER   = /usr/lib/llvm*/lib/clang/*/lib/linux/*asan*

all: $(PROGRAMS)

# The same program twice, as two files: each can be replaced while the other runs.
$(PROGRAMS): $(OBJECTS)
	$(LINK) -o $@ $(OBJECTS)

main.o: main.c http.h restart.h .flags
	$(COMPILE) -DVERSION='"$(VERSION)"' -c -o $@ main.c
http.o: http.c http.h .flags
	$(COMPILE) -c -o $@ http.c
restart.o: restart.c restart.h .flags
	$(COMPILE) -c -o $@ restart.c

# Changes when the commands do, so that `make VERSION=2 rust_graceful_restart1` does what it says.
.flags: FORCE
	@[ '$(origin VERSION)' = file ] || echo '$(VERSION)' > .version
	@echo '$(COMPILE) $(LINK) $(VERSION)' | cmp -s - $@ || echo '$(COMPILE) $(LINK) $(VERSION)' > $@

vpath %.c test/tools test/unit test/examples test/bench

build/%.so: %.c
	@mkdir -p build
	$(COMPILE) -fPIC -shared $(LDFLAGS) -o $@ $<

build/%: %.c http.o restart.o http.h restart.h
	@mkdir -p build
	$(COMPILE) $(LDFLAGS) -pie -o $@ $< http.o restart.o

# ---- tests ----

# Of the tools in $(1), the packages of those that are missing.
missing = $(sort $(shell PATH=$$PATH:/usr/sbin:/sbin; for tool in $(1); do \
    { command -v $${tool%:*} || ls $${tool%:*}; } >/dev/null 2>&1 || echo $$tool | cut -d : -f 2; done))

# Says in one line which of the tools in $(1) are missing, and what installs them: require stops
# there, with advise the target does without them.
require = @packages='$(call missing,$(1))'; [ -z "$$packages" ] || \
    { echo "not installed: $$packages (run: $(2))" >&2; exit 1; }
advise  = @packages='$(call missing,$(1))'; [ -z "$$packages" ] || \
    echo "left out, not installed: $$packages (Debian: apt-get install $$packages)" >&2

deps: PACKAGES = $(call missing,$(TEST_TOOLS))
check-deps: PACKAGES = $(call missing,$(TEST_TOOLS) $(MORE_TOOLS) $(CHECK_TOOLS))
deps check-deps:
	@packages='$(PACKAGES)'; [ -n "$$packages" ] || exit 0; \
	root=env; [ "$$(id -u)" = 0 ] || root='sudo env'; \
	if command -v apt-get >/dev/null && command -v $${root%% *} >/dev/null; then \
	    $$root apt-get update && $$root DEBIAN_FRONTEND=noninteractive \
	        apt-get install -y --no-install-recommends $$packages; \
	else \
	    echo "install these first (names of Debian's packages): $$packages" >&2; exit 1; \
	fi

# Version 2.0.0, where the clone has its history: it and this build succeed each other in the tests.
SECOND = 3a7af98
build/2.0.0/rust_graceful_restart:
	@! git cat-file -e $(SECOND) 2>/dev/null || { mkdir -p $(@D) && \
	    git archive $(SECOND) | tar -x -C $(@D) main.c http.c http.h restart.c restart.h && \
	    $(CC) -std=gnu11 -D_GNU_SOURCE -DVERSION='"2.0.0"' -O2 -o $@ $(@D)/*.c; }

tools: $(TOOLS) build/2.0.0/rust_graceful_restart
test-needs:
	$(call require,$(TEST_TOOLS),make deps)
test: test-needs all tools
	test/tools/run.sh $(TESTS)

# The whole suite again, on a build that finds what it does wrong, and what reads the code. Leaks are
# left to the tests that count: their finder does not work in a process that strace watches.
SANITIZED = -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
check: test-needs lint
	$(MAKE) tools
	mkdir -p build/sanitized
	$(CC) -std=gnu11 -D_GNU_SOURCE -O1 -g $(SANITIZED) -DVERSION='"$(VERSION)"' \
	    -o build/sanitized/rust_graceful_restart main.c http.c restart.c
	cp build/sanitized/rust_graceful_restart build/sanitized/rust_graceful_restart1
	ASAN_OPTIONS=detect_leaks=0:handle_segv=0:allocator_may_return_null=1 \
	    SERVER_DIR=$(CURDIR)/build/sanitized test/tools/run.sh $(TESTS)

SOURCES = main.c http.c restart.c $(wildcard test/*/*.c)
commands = $(foreach tool,$(1),$(firstword $(subst :, ,$(tool))))
lint:
	$(call require,$(LINT_TOOLS),make check-deps)
	clang-format --dry-run --Werror $(SOURCES) http.h restart.h
	cppcheck --quiet --error-exitcode=1 --enable=warning,performance,portability \
	    --inline-suppr -D_GNU_SOURCE -I. $(SOURCES)
	for source in $(SOURCES); do \
	    clang-tidy --quiet --warnings-as-errors='*' $$source -- -std=gnu11 -D_GNU_SOURCE -I. || exit; \
	done
	shellcheck -x $(wildcard test/*/*.sh) .ci/run
	shellcheck -x -s bats $(wildcard test/*.bats test/*.bash test/*/*.bash)
	test/tools/commands.sh '$(call commands,$(TEST_TOOLS) $(MORE_TOOLS))' \
	    $(wildcard test/*.bats test/*.bash test/*/*.bash) test/soak/chaos.sh test/tools/run.sh
	test/tools/commands.sh '$(call commands,pgrep $(BENCH_TOOLS))' \
	    $(wildcard test/bench/*.sh) test/examples/demo.sh

# AGAINST=COMMIT: the parser of that commit must give the same answers.
FUZZ_SECONDS ?= 600
FUZZED = clang -std=gnu11 -D_GNU_SOURCE -I. -O1 -g -fsanitize=fuzzer,address,undefined \
    -fno-sanitize-recover=undefined
fuzz:
	$(call require,$(FUZZ_TOOLS),make check-deps)
	mkdir -p build/corpus
	$(if $(AGAINST),mkdir -p build/against && \
	    git archive $(AGAINST) http.c http.h | tar -x -C build/against && \
	    $(FUZZED) -c -o build/against.o build/against/http.c \
	    $(foreach name,parse refuse reject format date respond,-Dhttp_$(name)=other_http_$(name)))
	$(FUZZED) -o build/fuzz test/unit/fuzz.c http.c $(if $(AGAINST),-DAGAINST build/against.o)
	build/fuzz -max_total_time=$(FUZZ_SECONDS) -max_len=20000 -dict=test/unit/fuzz.dict \
	    -print_final_stats=1 build/corpus test/unit/corpus

# CHAOS_SECONDS, CHAOS_SEED, CHAOS_MODE: see there.
chaos: all build/hammer
	$(call require,pgrep:procps,make deps)
	test/soak/chaos.sh

# ---- what a person watches ----

demo: all build/hammer
	test/examples/demo.sh
bench: all build/hammer build/floor
	$(call advise,$(BENCH_TOOLS))
	test/bench/bench.sh
bench-restart: all build/hammer
	$(call require,pgrep:procps,make deps)
	$(call advise,$(PROXY_TOOLS))
	test/bench/bench-restart.sh

# ---- the rest ----

help:
	@echo 'make                build the server, under both names'
	@echo 'make install        install it (PREFIX, DESTDIR; VERSION=... builds that version)'
	@echo 'make deps test      install the tools for the tests, and run the tests'
	@echo 'make check-deps     install all tools that tests, checks and fuzzing can use'
	@echo 'make check          lint, and run the tests on a sanitized build'
	@echo 'make fuzz           fuzz the parser (FUZZ_SECONDS; AGAINST=COMMIT compares two)'
	@echo 'make chaos          restart, stop and kill at random (CHAOS_SECONDS, CHAOS_SEED)'
	@echo 'make demo           ten restarts and a rollback, to watch'
	@echo 'make bench          CPU time beside other servers'
	@echo 'make bench-restart  what clients notice of restarts, beside other servers'
	@echo 'make clean          remove what was built'

install: all
	install -d $(DESTDIR)$(PREFIX)/bin
	install $(PROGRAMS) $(DESTDIR)$(PREFIX)/bin

uninstall:
	rm -f $(patsubst %,$(DESTDIR)$(PREFIX)/bin/%,$(PROGRAMS))

clean:
	rm -rf $(PROGRAMS) $(OBJECTS) .flags .version build

.PHONY: all help tools deps check-deps test-needs test check lint fuzz chaos demo bench bench-restart install uninstall clean FORCE
