VERSION ?= 1.0.0
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
TOOLS    = $(patsubst %,build/%,echo hammer http_cases manager crowd tracer second_zero.so)
TESTS    = test

# What the tests run, and what the checks run besides: command:Debian package.
TEST_TOOLS  = bats:bats curl:curl socat:socat strace:strace haproxy:haproxy nginx:nginx-light \
              ab:apache2-utils h2load:nghttp2-client systemd-socket-activate:systemd \
              ss:iproute2 pgrep:procps
CHECK_TOOLS = clang:clang clang-format:clang-format clang-tidy:clang-tidy cppcheck:cppcheck \
              shellcheck:shellcheck musl-gcc:musl-tools

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
	@echo '$(COMPILE) $(LINK) $(VERSION)' | cmp -s - $@ || echo '$(COMPILE) $(LINK) $(VERSION)' > $@

build/%.so: test/%.c
	@mkdir -p build
	$(COMPILE) -fPIC -shared $(LDFLAGS) -o $@ $<

build/%: test/%.c http.o restart.o http.h restart.h
	@mkdir -p build
	$(COMPILE) $(LDFLAGS) -pie -o $@ $< http.o restart.o

# ---- tests ----

deps: TOOLS_WANTED = $(TEST_TOOLS)
check-deps: TOOLS_WANTED = $(TEST_TOOLS) $(CHECK_TOOLS)
deps check-deps:
	@missing=; PATH=$$PATH:/usr/sbin:/sbin; \
	for tool in $(TOOLS_WANTED); do \
	    command -v $${tool%%:*} >/dev/null || missing="$$missing $${tool#*:}"; \
	done; \
	if [ "$@" = check-deps ] && ! ls /usr/lib/llvm*/lib/clang/*/lib/linux/*asan* >/dev/null 2>&1; then \
	    missing="$$missing libclang-rt-dev"; \
	fi; \
	[ -z "$$missing" ] && exit; \
	sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
	if command -v apt-get >/dev/null; then \
	    export DEBIAN_FRONTEND=noninteractive; \
	    $$sudo apt-get update && $$sudo apt-get install -y --no-install-recommends $$missing; \
	else \
	    echo "install these first (names of Debian's packages):$$missing" >&2; exit 1; \
	fi

tools: $(TOOLS)
test: all tools
	bats $(TESTS)

# The whole suite again, on a build that finds what it does wrong, and what reads the code. Leaks are
# left to the tests that count: their finder does not work in a process that strace watches.
SANITIZED = -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
check: lint
	$(MAKE) tools
	mkdir -p build/sanitized
	$(CC) -std=gnu11 -D_GNU_SOURCE -O1 -g $(SANITIZED) -DVERSION='"$(VERSION)"' \
	    -o build/sanitized/rust_graceful_restart main.c http.c restart.c
	cp build/sanitized/rust_graceful_restart build/sanitized/rust_graceful_restart1
	ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 \
	    SERVER_DIR=$(CURDIR)/build/sanitized bats $(TESTS)

SOURCES = main.c http.c restart.c $(wildcard test/*.c)
lint:
	clang-format --dry-run --Werror $(SOURCES) http.h restart.h
	cppcheck --quiet --error-exitcode=1 --enable=warning,performance,portability \
	    --inline-suppr -D_GNU_SOURCE -I. $(SOURCES)
	for source in $(SOURCES); do \
	    clang-tidy --quiet --warnings-as-errors='*' $$source -- -std=gnu11 -D_GNU_SOURCE -I. || exit; \
	done
	shellcheck -x $(wildcard test/*.sh) .ci/run
	shellcheck -x -s bats $(wildcard test/*.bats test/*.bash)

FUZZ_SECONDS ?= 600
fuzz: build/fuzz
	mkdir -p build/corpus
	build/fuzz -max_total_time=$(FUZZ_SECONDS) -max_len=20000 -dict=test/fuzz.dict \
	    -print_final_stats=1 build/corpus test/corpus
build/fuzz: test/fuzz.c http.c http.h
	@mkdir -p build
	clang -std=gnu11 -D_GNU_SOURCE -I. -O1 -g -fsanitize=fuzzer,address,undefined \
	    -fno-sanitize-recover=undefined -o $@ test/fuzz.c http.c

# ---- what a person watches ----

demo: all build/hammer
	test/demo.sh
bench: all build/hammer build/floor
	test/bench.sh
bench-restart: all build/hammer
	test/bench-restart.sh

# ---- the rest ----

install: all
	install -d $(DESTDIR)$(PREFIX)/bin
	install $(PROGRAMS) $(DESTDIR)$(PREFIX)/bin

uninstall:
	rm -f $(patsubst %,$(DESTDIR)$(PREFIX)/bin/%,$(PROGRAMS))

clean:
	rm -rf $(PROGRAMS) $(OBJECTS) .flags build

.PHONY: all tools deps check-deps test check lint fuzz demo bench bench-restart install uninstall clean FORCE
