VERSION ?= 1.0.0
CC      ?= cc
CFLAGS  ?= -O2 -g
LDFLAGS ?=
PREFIX  ?= /usr/local
DESTDIR ?=

WARNINGS = -Wall -Wextra -Wpedantic -Wshadow -Wconversion
HARDENED = -fPIE -fstack-protector-strong -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2
COMPILE  = $(CC) -std=gnu11 -D_GNU_SOURCE -I. $(WARNINGS) $(HARDENED) $(CFLAGS) $(CPPFLAGS)
LINK     = $(CC) -pie $(CFLAGS) $(LDFLAGS) -Wl,-z,relro,-z,now

PROGRAMS = rust_graceful_restart rust_graceful_restart1

all: $(PROGRAMS)

# The same program twice, as two files: each can be replaced while the other runs.
$(PROGRAMS): main.o http.o restart.o
	$(LINK) -o $@ main.o http.o restart.o

main.o: main.c http.h restart.h .flags
	$(COMPILE) -DVERSION='"$(VERSION)"' -c -o $@ main.c
http.o: http.c http.h .flags
	$(COMPILE) -c -o $@ http.c
restart.o: restart.c restart.h .flags
	$(COMPILE) -c -o $@ restart.c

# Changes when the commands do, so that `make VERSION=2 rust_graceful_restart1` does what it says.
.flags: FORCE
	@echo '$(COMPILE) $(LINK) $(VERSION)' | cmp -s - $@ || echo '$(COMPILE) $(LINK) $(VERSION)' > $@

clean:
	rm -rf $(PROGRAMS) main.o http.o restart.o .flags build

.PHONY: all clean FORCE
