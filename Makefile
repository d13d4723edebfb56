# SPDX-License-Identifier: 0BSD
VERSION ?= 3.0.0
CC      ?= cc
CFLAGS  ?= -O2 -g
LDFLAGS ?=
PREFIX  ?= /usr/local
DESTDIR ?=

WARNINGS = -Wall -Wextra -Wpedantic -Wshadow -Wconversion
HARDENED = -fPIE -fstack-protector-strong -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2
COMPILE  = $(CC) -std=gnu11 -D_GNU_SOURCE -I. $(WARNINGS) $(HARDENED) $(CPPFLAGS) $(CFLAGS)
LINK     = -pie -Wl,-z,relro,-z,now $(LDFLAGS)

PROGRAMS = rust_graceful_restart rust_graceful_restart1
OBJECTS  = http.o restart.o

all: $(PROGRAMS)

# The same program under two names, so that each file can be replaced while the other one runs.
# main.c is not compiled to an object file, because each of them keeps the version that it was built
# with.
$(PROGRAMS): main.c http.h restart.h $(OBJECTS) Makefile
	$(COMPILE) -DVERSION='"$(VERSION)"' $(LINK) -o $@ main.c $(OBJECTS)

http.o: http.c http.h
	$(COMPILE) -c -o $@ http.c
restart.o: restart.c restart.h
	$(COMPILE) -c -o $@ restart.c

# Whoever gives a version, or flags on the command line, wants a new build. A later make without
# them, such as "make install", leaves what was built as it is.
$(PROGRAMS): $(if $(filter file,$(origin VERSION)),,FORCE)
$(OBJECTS): $(if $(findstring command,$(foreach name,CC CFLAGS CPPFLAGS LDFLAGS,$(origin $(name)))),FORCE)
FORCE:

install: all
	install -d $(DESTDIR)$(PREFIX)/bin
	for program in $(PROGRAMS); do \
	    install $$program $(DESTDIR)$(PREFIX)/bin/.$$program.new && \
	    mv -f $(DESTDIR)$(PREFIX)/bin/.$$program.new $(DESTDIR)$(PREFIX)/bin/$$program || exit; \
	done

uninstall:
	rm -f $(PROGRAMS:%=$(DESTDIR)$(PREFIX)/bin/%)

clean:
	rm -rf $(PROGRAMS) $(OBJECTS) build

help:
	@echo 'make                build the server under both names (VERSION, CC, CFLAGS, LDFLAGS)'
	@echo 'make install        install both programs as they were built (PREFIX, DESTDIR)'
	@echo 'make uninstall      remove them'
	@echo 'make clean          remove what was built'
	@echo
	@echo 'make deps           install the tools that the tests need'
	@echo 'make check-deps     install all tools that the tests, lint, sanitize and fuzz can use'
	@echo 'make test           run the tests; also called check (TESTS=test/FILE.bats: only that file)'
	@echo 'make sanitize       run the tests on a build with AddressSanitizer and UBSan (TESTS)'
	@echo 'make lint           check the style of all sources and scripts'
	@echo 'make fuzz           fuzz the parser (FUZZ_SECONDS; AGAINST=COMMIT: compare it with another)'
	@echo 'make model          check the protocol of a restart in every order of events'
	@echo 'make soak           restart, stop and kill at random; also called chaos'
	@echo '                    (CHAOS_SECONDS, CHAOS_MODE, CHAOS_SEED and more: test/soak/chaos.sh)'
	@echo
	@echo 'make demo           watch ten restarts and a rollback'
	@echo 'make bench          measure CPU time, beside other servers'
	@echo 'make bench-restart  measure what clients notice of restarts, beside other servers'
	@echo
	@echo 'A target that needs a tool which is not installed says how to install it.'

.PHONY: all install uninstall clean help FORCE

include test/Makefile
