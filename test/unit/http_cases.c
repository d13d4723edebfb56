/* SPDX-License-Identifier: 0BSD */
/*
 * http_cases - what http_parse and http_respond answer, case by case; prints TAP.
 *
 * Each input is parsed right before a page that cannot be read and right behind another, so that
 * a single byte too far faults; and at every length, as http.h promises that any split of the same
 * bytes gives the same answers:
 *
 *     ANSWERS  the whole input is one request; each shorter part of it waits for more, and
 *              whatever comes behind it changes nothing
 *     REJECTS  the last byte of the input is the first wrong one: each shorter part waits, and
 *              whatever comes behind it changes nothing
 *     WAITS    nothing is decided yet
 */
#include "http.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    ROOM = 8 * HTTP_HEAD_MAX, /* whole pages, more than any input here */
    MUCH = 4 * HTTP_HEAD_MAX
};

enum verdict {
    WAIT,
    TAKE,
    REJECT
};

enum {
    NOTHING = 0,
    HEAD = 1,
    MORE = 2
}; /* head_only, client_may_send_more */

struct row {
    const char *name;
    const char *bytes;
    size_t length;
    enum verdict verdict;
    enum http_status status;
    enum http_persistence persistence;
    unsigned flags;
};

#define BYTES(text)                         (text), sizeof(text) - 1
#define ANSWERS(status, persistence, flags) TAKE, HTTP_##status, HTTP_##persistence, (flags)
#define REJECTS(status)                     REJECT, HTTP_##status, HTTP_CLOSE, MORE
#define REJECTS_HEAD(status)                REJECT, HTTP_##status, HTTP_CLOSE, MORE | HEAD
#define WAITS                               WAIT, HTTP_OK, HTTP_CLOSE, NOTHING
#define WAITS_HEAD                          WAIT, HTTP_OK, HTTP_CLOSE, HEAD

/* What most of them come to. */
#define FINE ANSWERS(OK, PERSIST, NOTHING)
#define BAD  REJECTS(BAD_REQUEST)

/* The parts that most inputs have in common. */
#define GET   "GET / HTTP/1.1\r\n"
#define POST  "POST / HTTP/1.1\r\n"
#define GET10 "GET / HTTP/1.0\r\n"
#define HOST  "Host: h\r\n"
#define END   "\r\n"

static const struct row request_lines[] = {
    {"GET of the root", BYTES(GET HOST END), FINE},
    {"HEAD of the root", BYTES("HEAD / HTTP/1.1\r\n" HOST END), ANSWERS(OK, PERSIST, HEAD)},
    {"another path", BYTES("GET /x HTTP/1.1\r\n" HOST END), ANSWERS(NOT_FOUND, PERSIST, NOTHING)},
    {"HEAD of another path", BYTES("HEAD /x HTTP/1.1\r\n" HOST END),
     ANSWERS(NOT_FOUND, PERSIST, HEAD)},
    {"another method", BYTES(POST HOST END), ANSWERS(METHOD_NOT_ALLOWED, PERSIST, NOTHING)},
    {"another method on another path", BYTES("POST /x HTTP/1.1\r\n" HOST END),
     ANSWERS(NOT_FOUND, PERSIST, NOTHING)},
    {"a method is case-sensitive", BYTES("get / HTTP/1.1\r\n" HOST END),
     ANSWERS(METHOD_NOT_ALLOWED, PERSIST, NOTHING)},
    {"head is not HEAD", BYTES("head / HTTP/1.1\r\n" HOST END),
     ANSWERS(METHOD_NOT_ALLOWED, PERSIST, NOTHING)},
    {"GETS is not GET", BYTES("GETS / HTTP/1.1\r\n" HOST END),
     ANSWERS(METHOD_NOT_ALLOWED, PERSIST, NOTHING)},
    {"GE is not GET", BYTES("GE / HTTP/1.1\r\n" HOST END),
     ANSWERS(METHOD_NOT_ALLOWED, PERSIST, NOTHING)},
    {"HEADER is not HEAD", BYTES("HEADER / HTTP/1.1\r\n" HOST END),
     ANSWERS(METHOD_NOT_ALLOWED, PERSIST, NOTHING)},
    {"a method of one letter", BYTES("X / HTTP/1.1\r\n" HOST END),
     ANSWERS(METHOD_NOT_ALLOWED, PERSIST, NOTHING)},
    {"a method of every kind of token character",
     BYTES("!#$%&'*+-.^_`|~09azAZ / HTTP/1.1\r\n" HOST END),
     ANSWERS(METHOD_NOT_ALLOWED, PERSIST, NOTHING)},
    {"M-SEARCH", BYTES("M-SEARCH / HTTP/1.1\r\n" HOST END),
     ANSWERS(METHOD_NOT_ALLOWED, PERSIST, NOTHING)},
    {"TRACE", BYTES("TRACE / HTTP/1.1\r\n" HOST END),
     ANSWERS(METHOD_NOT_ALLOWED, PERSIST, NOTHING)},
    {"DELETE", BYTES("DELETE / HTTP/1.1\r\n" HOST END),
     ANSWERS(METHOD_NOT_ALLOWED, PERSIST, NOTHING)},
    {"an empty line ahead", BYTES("\r\n" GET HOST END), FINE},
    {"an empty line ahead of HEAD", BYTES("\r\nHEAD / HTTP/1.1\r\n" HOST END),
     ANSWERS(OK, PERSIST, HEAD)},

    {"nothing at all", BYTES(""), WAITS},
    {"an empty line alone", BYTES("\r\n"), WAITS},
    {"HEAD is known once its method has ended", BYTES("HEAD "), WAITS_HEAD},
    {"HEAD is known while its fields come", BYTES("HEAD / HTTP/1.1\r\nHos"), WAITS_HEAD},
    {"GET is no HEAD while its fields come", BYTES("GET / HTTP/1.1\r\nHEAD"), WAITS},
    {"a head without its empty line", BYTES(GET HOST), WAITS},
    {"a head with half an empty line", BYTES(GET HOST "\r"), WAITS},

    {"two empty lines ahead", BYTES("\r\n\r"), BAD},
    {"a bare LF ahead", BYTES("\n"), BAD},
    {"a bare LF behind an empty line", BYTES("\r\n\n"), BAD},
    {"a bare CR ahead", BYTES("\rG"), BAD},
    {"a space ahead", BYTES(" "), BAD},
    {"a space behind an empty line", BYTES("\r\n "), BAD},
    {"a tab ahead", BYTES("\t"), BAD},
    {"a NUL ahead", BYTES("\0"), BAD},
    {"a byte order mark ahead", BYTES("\xef"), BAD},
    {"a field where the request line belongs", BYTES("Host:"), BAD},
    {"a request line of words", BYTES("Extra lineGET /"), BAD},
    {"a method only", BYTES("GET\r"), BAD},
    {"a method and a bare LF", BYTES("GET\n"), BAD},
    {"a tab behind the method", BYTES("GET\t"), BAD},
    {"a NUL in the method", BYTES("GE\0"), BAD},
    {"a NUL behind the method", BYTES("GET\0"), BAD},
    {"a high byte in the method", BYTES("G\xc9"), BAD},
    {"brackets in the method", BYTES("GET["), BAD},
    {"a quoted method", BYTES("\""), BAD},
    {"two spaces behind the method", BYTES("GET  "), BAD},
    {"a tab for the second space", BYTES("GET /\t"), BAD},
    {"two spaces behind the target", BYTES("GET /  "), BAD},
    {"a word between target and version", BYTES("GET / x"), BAD},
    {"a space in the target", BYTES("GET /a b"), BAD},
    {"a second request line in the target", BYTES("GET /HTTP/1.1 /"), BAD},
    {"a vertical tab for a space", BYTES("GET\v"), BAD},
    {"a form feed for the second space", BYTES("GET /\f"), BAD},
    {"a bare CR for a space", BYTES("GET\r"), BAD},
    {"a rejected HEAD", BYTES("HEAD  "), REJECTS_HEAD(BAD_REQUEST)},
    {"a rejected HEAD behind an empty line", BYTES("\r\nHEAD  "), REJECTS_HEAD(BAD_REQUEST)},
    {"a HEAD rejected by its fields", BYTES("HEAD / HTTP/1.1\r\n" HOST "a "),
     REJECTS_HEAD(BAD_REQUEST)},
    {"a HEAD without Host", BYTES("HEAD / HTTP/1.1\r\n\r\n"), REJECTS_HEAD(BAD_REQUEST)},
};

static const struct row versions[] = {
    {"HTTP/1.0", BYTES(GET10 END), ANSWERS(OK, CLOSE, NOTHING)},
    {"HTTP/1.0 with Host", BYTES(GET10 HOST END), ANSWERS(OK, CLOSE, NOTHING)},
    {"HTTP/1.0 HEAD", BYTES("HEAD / HTTP/1.0\r\n\r\n"), ANSWERS(OK, CLOSE, HEAD)},
    {"HTTP/1.0 of another path", BYTES("GET /x HTTP/1.0\r\n\r\n"),
     ANSWERS(NOT_FOUND, CLOSE, NOTHING)},
    {"HTTP/1.0 with another method", BYTES("PUT / HTTP/1.0\r\n\r\n"),
     ANSWERS(METHOD_NOT_ALLOWED, CLOSE, NOTHING)},

    {"HTTP/1.2", BYTES("GET / HTTP/1.2\r\n"), REJECTS(VERSION_NOT_SUPPORTED)},
    {"HTTP/1.9", BYTES("GET / HTTP/1.9\r\n"), REJECTS(VERSION_NOT_SUPPORTED)},
    {"HTTP/0.9 by name", BYTES("GET / HTTP/0.9\r\n"), REJECTS(VERSION_NOT_SUPPORTED)},
    {"HTTP/0.0", BYTES("GET / HTTP/0.0\r\n"), REJECTS(VERSION_NOT_SUPPORTED)},
    {"HTTP/0.1", BYTES("GET / HTTP/0.1\r\n"), REJECTS(VERSION_NOT_SUPPORTED)},
    {"HTTP/2.0", BYTES("GET / HTTP/2.0\r\n"), REJECTS(VERSION_NOT_SUPPORTED)},
    {"HTTP/2.1", BYTES("GET / HTTP/2.1\r\n"), REJECTS(VERSION_NOT_SUPPORTED)},
    {"HTTP/3.0", BYTES("GET / HTTP/3.0\r\n"), REJECTS(VERSION_NOT_SUPPORTED)},
    {"HTTP/5.6", BYTES("POST / HTTP/5.6\r\n"), REJECTS(VERSION_NOT_SUPPORTED)},
    {"HTTP/9.9", BYTES("GET / HTTP/9.9\r\n"), REJECTS(VERSION_NOT_SUPPORTED)},
    {"HEAD of HTTP/2.0", BYTES("HEAD / HTTP/2.0\r\n"), REJECTS_HEAD(VERSION_NOT_SUPPORTED)},

    {"HTTP/0.9 style: no version", BYTES("GET /\r"), BAD},
    {"HTTP/0.9 style with a bare LF", BYTES("GET /\n"), BAD},
    {"no version but its space", BYTES("GET / \r"), BAD},
    {"a lower-case version", BYTES("GET / h"), BAD},
    {"a mixed-case version", BYTES("GET / Ht"), BAD},
    {"HTTPS", BYTES("GET / HTTPS"), BAD},
    {"HTP/1.1", BYTES("GET / HTP"), BAD},
    {"ICE/1.0", BYTES("SOURCE / I"), BAD},
    {"RTSP/1.0", BYTES("DESCRIBE / R"), BAD},
    {"SIP/2.0", BYTES("INVITE / S"), BAD},
    {"HTTP without a number", BYTES("GET / HTTP\r"), BAD},
    {"HTTP/ without a number", BYTES("GET / HTTP/\r"), BAD},
    {"HTTP/1 without a minor number", BYTES("GET / HTTP/1\r"), BAD},
    {"HTTP/1. without a minor number", BYTES("GET / HTTP/1.\r"), BAD},
    {"HTTP/.1 without a major number", BYTES("GET / HTTP/."), BAD},
    {"HTTP/01.1", BYTES("GET / HTTP/01"), BAD},
    {"HTTP/11.1", BYTES("GET / HTTP/11"), BAD},
    {"HTTP/1.10", BYTES("GET / HTTP/1.10"), BAD},
    {"HTTP/1.11", BYTES("GET / HTTP/1.11"), BAD},
    {"HTTP/1,1", BYTES("GET / HTTP/1,"), BAD},
    {"HTTP/1:1", BYTES("GET / HTTP/1:"), BAD},
    {"HTTP/-1.1", BYTES("GET / HTTP/-"), BAD},
    {"HTTP/+1.1", BYTES("GET / HTTP/+"), BAD},
    {"HTTP/a.b", BYTES("GET / HTTP/a"), BAD},
    {"HTTP/1.a", BYTES("GET / HTTP/1.a"), BAD},
    {"HTTP/ 1.1", BYTES("GET / HTTP/ "), BAD},
    {"HTTP/1 .1", BYTES("GET / HTTP/1 "), BAD},
    {"HTTP/1. 1", BYTES("GET / HTTP/1. "), BAD},
    {"HTTP\\1.1", BYTES("GET / HTTP\\"), BAD},
    {"a superscript digit", BYTES("GET / HTTP/\xc2"), BAD},
    {"a space behind the version", BYTES("GET / HTTP/1.1 "), BAD},
    {"a tab behind the version", BYTES("GET / HTTP/1.1\t"), BAD},
    {"a NUL behind the version", BYTES("GET / HTTP/1.1\0"), BAD},
    {"a word behind the version", BYTES("GET / HTTP/1.1x"), BAD},
    {"a bare LF behind the version", BYTES("GET / HTTP/1.1\n"), BAD},
    {"a bare CR behind the version", BYTES("GET / HTTP/1.1\rH"), BAD},
    {"two CR behind the version", BYTES("GET / HTTP/1.1\r\r"), BAD},
    {"LF CR behind the version", BYTES("GET / HTTP/1.1\n"), BAD},
    {"a bare LF behind HTTP/2.0", BYTES("GET / HTTP/2.0\n"), BAD},
    {"a bare CR behind HTTP/2.0", BYTES("GET / HTTP/2.0\r\r"), BAD},
};

static const struct row targets[] = {
    {"an empty query", BYTES("GET /? HTTP/1.1\r\n" HOST END), FINE},
    {"a query", BYTES("GET /?a=b&c HTTP/1.1\r\n" HOST END), FINE},
    {"a query of question marks and slashes", BYTES("GET /?//../? HTTP/1.1\r\n" HOST END), FINE},
    {"a query that looks like a version", BYTES("GET /?HTTP/1.1 HTTP/1.1\r\n" HOST END), FINE},
    {"every visible character in a query",
     BYTES("GET /?!\"$%&'()*+,-./09:;<=>?@AZ[\\]^_`az{|}~ HTTP/1.1\r\n" HOST END), FINE},
    {"a query with another method", BYTES("POST /?x HTTP/1.1\r\n" HOST END),
     ANSWERS(METHOD_NOT_ALLOWED, PERSIST, NOTHING)},
    {"two slashes", BYTES("GET // HTTP/1.1\r\n" HOST END), ANSWERS(NOT_FOUND, PERSIST, NOTHING)},
    {"two slashes and a host", BYTES("GET //h/ HTTP/1.1\r\n" HOST END),
     ANSWERS(NOT_FOUND, PERSIST, NOTHING)},
    {"a dot", BYTES("GET /. HTTP/1.1\r\n" HOST END), ANSWERS(NOT_FOUND, PERSIST, NOTHING)},
    {"dots", BYTES("GET /../../etc/passwd HTTP/1.1\r\n" HOST END),
     ANSWERS(NOT_FOUND, PERSIST, NOTHING)},
    {"an escaped slash", BYTES("GET /%2f HTTP/1.1\r\n" HOST END),
     ANSWERS(NOT_FOUND, PERSIST, NOTHING)},
    {"an escaped question mark", BYTES("GET /%3f HTTP/1.1\r\n" HOST END),
     ANSWERS(NOT_FOUND, PERSIST, NOTHING)},
    {"an escaped NUL", BYTES("GET /%00 HTTP/1.1\r\n" HOST END),
     ANSWERS(NOT_FOUND, PERSIST, NOTHING)},
    {"escaped line ends", BYTES("GET /%0d%0aX:%20y HTTP/1.1\r\n" HOST END),
     ANSWERS(NOT_FOUND, PERSIST, NOTHING)},
    {"a parameter", BYTES("GET /;x HTTP/1.1\r\n" HOST END), ANSWERS(NOT_FOUND, PERSIST, NOTHING)},
    {"quotes in a path", BYTES("GET /with_\"stupid\"_quotes?foo=\"bar\" HTTP/1.1\r\n" HOST END),
     ANSWERS(NOT_FOUND, PERSIST, NOTHING)},
    {"a path that is an asterisk", BYTES("OPTIONS /* HTTP/1.1\r\n" HOST END),
     ANSWERS(NOT_FOUND, PERSIST, NOTHING)},
    {"a path that is a URI", BYTES("GET /http://h/ HTTP/1.1\r\n" HOST END),
     ANSWERS(NOT_FOUND, PERSIST, NOTHING)},

    {"OPTIONS of the server", BYTES("OPTIONS * HTTP/1.1\r\n" HOST END),
     ANSWERS(METHOD_NOT_ALLOWED, PERSIST, NOTHING)},
    {"OPTIONS of the server by HTTP/1.0", BYTES("OPTIONS * HTTP/1.0\r\n" END),
     ANSWERS(METHOD_NOT_ALLOWED, CLOSE, NOTHING)},
    {"OPTIONS of the root", BYTES("OPTIONS / HTTP/1.1\r\n" HOST END),
     ANSWERS(METHOD_NOT_ALLOWED, PERSIST, NOTHING)},
    {"OPTIONS of another path", BYTES("OPTIONS /x HTTP/1.1\r\n" HOST END),
     ANSWERS(NOT_FOUND, PERSIST, NOTHING)},

    {"a URI", BYTES("GET http://h/ HTTP/1.1\r\n" HOST END), FINE},
    {"a URI by HTTP/1.0", BYTES("GET http://h/ HTTP/1.0\r\n" END), ANSWERS(OK, CLOSE, NOTHING)},
    {"a URI without a path", BYTES("GET http://h HTTP/1.1\r\n" HOST END), FINE},
    {"a URI with a query only", BYTES("GET http://h?x HTTP/1.1\r\n" HOST END), FINE},
    {"a URI with a query that has a slash", BYTES("GET http://h?/x HTTP/1.1\r\n" HOST END), FINE},
    {"a URI with a query that has an at sign", BYTES("GET http://h?a@b:c HTTP/1.1\r\n" HOST END),
     FINE},
    {"a URI with root and query", BYTES("GET http://h/?x HTTP/1.1\r\n" HOST END), FINE},
    {"a URI with a path", BYTES("GET http://h/x HTTP/1.1\r\n" HOST END),
     ANSWERS(NOT_FOUND, PERSIST, NOTHING)},
    {"a URI with a path that has an at sign", BYTES("GET http://h/a@b:c HTTP/1.1\r\n" HOST END),
     ANSWERS(NOT_FOUND, PERSIST, NOTHING)},
    {"a URI with two slashes for a path", BYTES("GET http://h// HTTP/1.1\r\n" HOST END),
     ANSWERS(NOT_FOUND, PERSIST, NOTHING)},
    {"a URI with a port", BYTES("GET http://h:80/ HTTP/1.1\r\n" HOST END), FINE},
    {"a URI with an empty port", BYTES("GET http://h:/ HTTP/1.1\r\n" HOST END), FINE},
    {"a URI with an empty port and no path", BYTES("GET http://h: HTTP/1.1\r\n" HOST END), FINE},
    {"a URI with an IPv4 address", BYTES("GET http://127.0.0.1:8080/ HTTP/1.1\r\n" HOST END), FINE},
    {"a URI with an IPv6 address", BYTES("GET http://[::1]/ HTTP/1.1\r\n" HOST END), FINE},
    {"a URI with an IPv6 address and a port",
     BYTES("GET http://[::1]:8080?x HTTP/1.1\r\n" HOST END), FINE},
    {"a URI with an escape at its end", BYTES("GET http://a%41 HTTP/1.1\r\n" HOST END), FINE},
    {"a URI in capitals", BYTES("GET HTTP://H/ HTTP/1.1\r\n" HOST END), FINE},
    {"a URI in mixed case", BYTES("GET hTtP://h/ HTTP/1.1\r\n" HOST END), FINE},
    {"a URI of another host than Host", BYTES("GET http://other/ HTTP/1.1\r\n" HOST END), FINE},
    {"HEAD of a URI", BYTES("HEAD http://h/ HTTP/1.1\r\n" HOST END), ANSWERS(OK, PERSIST, HEAD)},
    {"another method on a URI", BYTES("POST http://h HTTP/1.1\r\n" HOST END),
     ANSWERS(METHOD_NOT_ALLOWED, PERSIST, NOTHING)},
    {"OPTIONS of a URI without a path", BYTES("OPTIONS http://h HTTP/1.1\r\n" HOST END),
     ANSWERS(METHOD_NOT_ALLOWED, PERSIST, NOTHING)},

    {"a URI needs Host all the same", BYTES("GET http://h/ HTTP/1.1\r\n\r\n"), BAD},
    {"a target that is a fragment", BYTES("GET #"), BAD},
    {"a fragment", BYTES("GET /#"), BAD},
    {"a fragment in a path", BYTES("GET /x#"), BAD},
    {"a fragment behind a query", BYTES("GET /?x#"), BAD},
    {"a fragment in a URI", BYTES("GET http://h/#"), BAD},
    {"a fragment behind a host", BYTES("GET http://h#"), BAD},
    {"a high byte in a path", BYTES("GET /\xce"), BAD},
    {"a high byte in a query", BYTES("GET /?\xce"), BAD},
    {"a high byte for a path", BYTES("GET \xce"), BAD},
    {"a no-break space", BYTES("GET /\xa0"), BAD},
    {"a NUL in a path", BYTES("GET /\0"), BAD},
    {"a NUL in a query", BYTES("GET /?\0"), BAD},
    {"a DEL in a path", BYTES("GET /\x7f"), BAD},
    {"an escape in a path", BYTES("GET /\x1b"), BAD},
    {"a bare CR in a path", BYTES("GET /a\r"), BAD},

    /* What form a target has is judged when its line ends. */
    {"GET of the server", BYTES("GET * HTTP/1.1\r\n"), BAD},
    {"M-SEARCH of the server", BYTES("M-SEARCH * HTTP/1.1\r\n"), BAD},
    {"lower-case options of the server", BYTES("options * HTTP/1.1\r\n"), BAD},
    {"OPTIONS of two asterisks", BYTES("OPTIONS ** HTTP/1.1\r\n"), BAD},
    {"OPTIONS of an asterisk and a query", BYTES("OPTIONS *?x HTTP/1.1\r\n"), BAD},
    {"OPTIONS of an asterisk and a path", BYTES("OPTIONS */ HTTP/1.1\r\n"), BAD},
    {"a target that is a query", BYTES("GET ?x HTTP/1.1\r\n"), BAD},
    {"a relative path", BYTES("GET index.html HTTP/1.1\r\n"), BAD},
    {"a relative path of dots", BYTES("GET ../x HTTP/1.1\r\n"), BAD},
    {"a backslash", BYTES("GET \\x HTTP/1.1\r\n"), BAD},
    {"https", BYTES("GET https://h/ HTTP/1.1\r\n"), BAD},
    {"ws", BYTES("GET ws://h/ HTTP/1.1\r\n"), BAD},
    {"ftp", BYTES("GET ftp://h/ HTTP/1.1\r\n"), BAD},
    {"file", BYTES("GET file:/// HTTP/1.1\r\n"), BAD},
    {"a scheme as long as http", BYTES("GET ldap://h/ HTTP/1.1\r\n"), BAD},
    {"a scheme behind which no colon stands", BYTES("GET http;//h/ HTTP/1.1\r\n"), BAD},
    {"a scheme with half of its slashes", BYTES("GET http:/xh/ HTTP/1.1\r\n"), BAD},
    {"no scheme", BYTES("GET ://h/ HTTP/1.1\r\n"), BAD},
    {"a scheme only", BYTES("GET http HTTP/1.1\r\n"), BAD},
    {"a scheme cut short", BYTES("GET htt://h/ HTTP/1.1\r\n"), BAD},
    {"a scheme with a tail", BYTES("GET httpx://h/ HTTP/1.1\r\n"), BAD},
    {"a scheme without slashes", BYTES("GET http:h HTTP/1.1\r\n"), BAD},
    {"a scheme with one slash", BYTES("GET http:/h/ HTTP/1.1\r\n"), BAD},
    {"a URI without a host", BYTES("GET http:// HTTP/1.1\r\n"), BAD},
    {"a URI with a path for a host", BYTES("GET http:///x HTTP/1.1\r\n"), BAD},
    {"a URI with a query for a host", BYTES("GET http://?x HTTP/1.1\r\n"), BAD},
    {"a URI with a port for a host", BYTES("GET http://:80/ HTTP/1.1\r\n"), BAD},
    {"a URI with a user", BYTES("GET http://u@h/ HTTP/1.1\r\n"), BAD},
    {"a URI with a user and a password", BYTES("GET http://u:p@h/ HTTP/1.1\r\n"), BAD},
    {"a URI with an odd user", BYTES("GET http://a%12:b!&*$@h:1234/toto HTTP/1.1\r\n"), BAD},
    {"a URI with an empty user", BYTES("GET http://@h/ HTTP/1.1\r\n"), BAD},
    {"a URI with a port that is no number", BYTES("GET http://h:x/ HTTP/1.1\r\n"), BAD},
    {"a URI with a port too high", BYTES("GET http://h:65536/ HTTP/1.1\r\n"), BAD},
    {"a URI with two ports", BYTES("GET http://h:1:2/ HTTP/1.1\r\n"), BAD},
    {"a URI with a backslash for a slash", BYTES("GET http://h\\x HTTP/1.1\r\n"), BAD},
    {"a URI with half an escape in its host", BYTES("GET http://h%4/ HTTP/1.1\r\n"), BAD},
    {"a URI with a pipe in its host", BYTES("GET http://h|/ HTTP/1.1\r\n"), BAD},
    {"a URI with an open bracket", BYTES("GET http://[::1/ HTTP/1.1\r\n"), BAD},
    {"a URI with a bad IPv6 address", BYTES("GET http://[1]/ HTTP/1.1\r\n"), BAD},
    {"a URI with a zone", BYTES("GET http://[fe80::1%25eth0]/ HTTP/1.1\r\n"), BAD},
    {"a URI with a bare IPv6 address", BYTES("GET http://::1/ HTTP/1.1\r\n"), BAD},
    {"CONNECT to a name", BYTES("CONNECT example.com:443 HTTP/1.1\r\n"), BAD},
    {"CONNECT to a name without a port", BYTES("CONNECT h HTTP/1.1\r\n"), BAD},
    {"CONNECT to an address", BYTES("CONNECT 127.0.0.1:22 HTTP/1.1\r\n"), BAD},
    {"CONNECT to an IPv6 address", BYTES("CONNECT [::1]:22 HTTP/1.1\r\n"), BAD},
    {"GET of an authority", BYTES("GET localhost:8080 HTTP/1.1\r\n"), BAD},
    {"a bad form of target for HEAD", BYTES("HEAD * HTTP/1.1\r\n"), REJECTS_HEAD(BAD_REQUEST)},
    {"a bad form of target by HTTP/1.0", BYTES("GET x HTTP/1.0\r\n"), BAD},
    {"the version is judged before the form of a target", BYTES("GET x HTTP/1.2\r\n"),
     REJECTS(VERSION_NOT_SUPPORTED)},
};

static const struct row fields[] = {
    {"an empty value", BYTES(GET HOST "X:\r\n" END), FINE},
    {"a value of blanks", BYTES(GET HOST "X: \t \r\n" END), FINE},
    {"no blank behind the colon", BYTES(GET "Host:h\r\n" END), FINE},
    {"blanks around a value", BYTES(GET "Host: \t h \t \r\n" END), FINE},
    {"names as long as those that matter",
     BYTES(GET HOST "Hast: x\r\nConnectiom: close\r\nContent-Lengtn: x\r\n"
                    "Transfer-Encodimg: x\r\n" END),
     FINE},
    {"a colon in a value", BYTES(GET HOST "X: :\r\n" END), FINE},
    {"a value of colons", BYTES(GET HOST "X:::\r\n" END), FINE},
    {"a value of high bytes", BYTES(GET HOST "X: \x80\xff\r\n" END), FINE},
    {"a name of every kind of token character", BYTES(GET HOST "!#$%&'*+-.^_`|~09azAZ: x\r\n" END),
     FINE},
    {"names in any case", BYTES(GET "hOsT: h\r\n" END), FINE},
    {"a value that looks like a request", BYTES(GET HOST "X: GET / HTTP/1.1\r\n" END), FINE},
    {"the same field again", BYTES(GET HOST "X: a\r\nX: b\r\n" END), FINE},
    {"what a browser sends",
     BYTES(GET "Host: localhost:8080\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:109.0)\r\n"
               "Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\n"
               "Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\n"
               "Upgrade-Insecure-Requests: 1\r\nCookie: a=b; c=\"d\"\r\n" END),
     FINE},

    {"a space ahead of the first name", BYTES(GET " "), BAD},
    {"a tab ahead of the first name", BYTES(GET "\t"), BAD},
    {"a folded line", BYTES(GET HOST "X: a\r\n "), BAD},
    {"a line folded by a tab", BYTES(GET HOST "X: a\r\n\t"), BAD},
    {"a folded Host", BYTES(GET "Host:h\r\n\t"), BAD},
    {"an empty line of one space", BYTES(GET HOST " "), BAD},
    {"a space before the colon", BYTES(GET "Host "), BAD},
    {"a tab before the colon", BYTES(GET "Host\t"), BAD},
    {"a space in a name", BYTES(GET HOST "X "), BAD},
    {"an empty name", BYTES(GET HOST ":"), BAD},
    {"an empty first name", BYTES(GET ":"), BAD},
    {"a line without a colon", BYTES(GET HOST "abc\r"), BAD},
    {"a line without a colon ended by LF", BYTES(GET HOST "abc\n"), BAD},
    {"brackets in a name", BYTES(GET HOST "X-Invalid["), BAD},
    {"an at sign in a name", BYTES(GET HOST "Fo@"), BAD},
    {"a slash in a name", BYTES(GET HOST "a/"), BAD},
    {"a comma in a name", BYTES(GET HOST "a,"), BAD},
    {"a semicolon in a name", BYTES(GET HOST "a;"), BAD},
    {"an equals sign in a name", BYTES(GET HOST "a="), BAD},
    {"a quoted name", BYTES(GET HOST "\""), BAD},
    {"a high byte in a name", BYTES(GET HOST "X\xe9"), BAD},
    {"a NUL in a name", BYTES(GET HOST "X\0"), BAD},
    {"a NUL before the colon", BYTES(GET "Host\0"), BAD},
    {"a control character in a name", BYTES(GET HOST "Foo\001"), BAD},
    {"a bare CR in a name", BYTES(GET HOST "X\r"), BAD},
    {"a NUL in a value", BYTES(GET HOST "X: a\0"), BAD},
    {"a NUL at the start of a value", BYTES(GET HOST "X:\0"), BAD},
    {"a bell in a value", BYTES(GET HOST "X: test\a"), BAD},
    {"an escape in a value", BYTES(GET HOST "X: \x1b"), BAD},
    {"a DEL in a value", BYTES(GET HOST "X: \x7f"), BAD},
    {"a vertical tab in a value", BYTES(GET HOST "X: \v"), BAD},
    {"a bare CR in a value", BYTES(GET HOST "X: a\rb"), BAD},
    {"a bare CR at the start of a value", BYTES(GET HOST "X:\rb"), BAD},
    {"a bare LF in a value", BYTES(GET HOST "X: a\n"), BAD},
    {"two CR at the end of a value", BYTES(GET HOST "X: a\r\r"), BAD},
    {"a bare LF behind Host", BYTES("GET / HTTP/1.1\r\nHost: x\n"), BAD},
    {"a bare LF for the empty line", BYTES(GET HOST "\n"), BAD},
    {"a bare CR for the empty line", BYTES(GET HOST "\rX"), BAD},
    {"two CR for the empty line", BYTES(GET HOST "\r\r"), BAD},
    {"a NUL for the empty line", BYTES(GET HOST "\0"), BAD},
};

static const struct row hosts[] = {
    {"a name with dots", BYTES(GET "Host: www.example.com\r\n" END), FINE},
    {"a name with a dot at its end", BYTES(GET "Host: h.\r\n" END), FINE},
    {"a name with an underscore", BYTES(GET "Host: a_b\r\n" END), FINE},
    {"a name of every character a name may have", BYTES(GET "Host: azAZ09-._~!$&'()*+,;=\r\n" END),
     FINE},
    {"a name with escapes", BYTES(GET "Host: %41%e2%82%aC\r\n" END), FINE},
    {"an escape among the characters a name may have",
     BYTES(GET "Host: azAZ09-._~!$&'()*+,;=%41azAZ09-._~!$&'()*+,;=\r\n" END), FINE},
    {"a port", BYTES(GET "Host: h:8080\r\n" END), FINE},
    {"an empty port", BYTES(GET "Host: h:\r\n" END), FINE},
    {"the highest port", BYTES(GET "Host: h:65535\r\n" END), FINE},
    {"a port with zeros ahead", BYTES(GET "Host: h:0000000000080\r\n" END), FINE},
    {"a port of five digits with a zero ahead", BYTES(GET "Host: a:08080\r\n" END), FINE},
    {"an IPv4 address", BYTES(GET "Host: 127.0.0.1\r\n" END), FINE},
    {"an IPv4 address and a port", BYTES(GET "Host: 127.0.0.1:80\r\n" END), FINE},
    {"a name that is almost an IPv4 address", BYTES(GET "Host: 1.2.3.256\r\n" END), FINE},
    {"an IPv6 address", BYTES(GET "Host: [::1]\r\n" END), FINE},
    {"an IPv6 address and a port", BYTES(GET "Host: [::1]:8080\r\n" END), FINE},
    {"an IPv6 address and an empty port", BYTES(GET "Host: [::1]:\r\n" END), FINE},
    {"the empty IPv6 address", BYTES(GET "Host: [::]\r\n" END), FINE},
    {"an IPv6 address of eight groups", BYTES(GET "Host: [1:2:3:4:5:6:7:8]\r\n" END), FINE},
    {"an IPv6 address in either case", BYTES(GET "Host: [FE80::aBcD:0123]\r\n" END), FINE},
    {"an IPv6 address with a gap at its end", BYTES(GET "Host: [1:2:3:4:5:6:7::]\r\n" END), FINE},
    {"an IPv6 address with a gap for one group", BYTES(GET "Host: [1::3:4:5:6:7:8]\r\n" END), FINE},
    {"an IPv6 address with a gap ahead", BYTES(GET "Host: [::2:3:4:5:6:7:8]\r\n" END), FINE},
    {"an IPv4 address in an IPv6 address", BYTES(GET "Host: [::ffff:1.2.3.4]\r\n" END), FINE},
    {"an IPv4 address behind six groups", BYTES(GET "Host: [1:2:3:4:5:6:255.0.10.99]\r\n" END),
     FINE},
    {"an IPv4 address behind a gap", BYTES(GET "Host: [::1.2.3.4]\r\n" END), FINE},
    {"Host behind other fields", BYTES(GET "A: b\r\nC: d\r\n" HOST END), FINE},
    {"names that Host is a part of", BYTES(GET "X-Host: x\r\nHosts: y\r\nHos: z\r\n" HOST END),
     FINE},

    {"no field at all", BYTES(GET END), BAD},
    {"no Host", BYTES(GET "X: y\r\n" END), BAD},
    {"no Host but names that it is a part of", BYTES(GET "X-Host: x\r\nHosts: y\r\n" END), BAD},
    {"no Host for another path", BYTES("GET /x HTTP/1.1\r\n" END), BAD},
    {"no Host for another method", BYTES(POST END), BAD},
    {"the same Host again", BYTES(GET HOST HOST), BAD},
    {"another Host", BYTES(GET HOST "Host: g\r\n"), BAD},
    {"another Host, elsewhere and in another case", BYTES(GET HOST "X: y\r\nhOST: g\r\n"), BAD},
    {"an empty Host behind another", BYTES(GET HOST "Host:\r\n"), BAD},
    {"two Hosts in HTTP/1.0", BYTES(GET10 HOST HOST), BAD},
    {"two Hosts beside a URI", BYTES("GET http://h/ HTTP/1.1\r\n" HOST HOST), BAD},
    {"a bad Host beside a URI", BYTES("GET http://h/ HTTP/1.1\r\nHost: a b\r\n"), BAD},
    {"a bad Host in HTTP/1.0", BYTES(GET10 "Host: a b\r\n"), BAD},
    {"an empty Host", BYTES(GET "Host:\r\n"), BAD},
    {"an empty Host in HTTP/1.0", BYTES(GET10 "Host:\r\n"), BAD},
    {"a Host of blanks", BYTES(GET "Host: \t \r\n"), BAD},
    {"a port without a name", BYTES(GET "Host: :80\r\n"), BAD},
    {"a colon", BYTES(GET "Host: :\r\n"), BAD},
    {"a space in a name of a host", BYTES(GET "Host: a b\r\n"), BAD},
    {"a tab in a name of a host", BYTES(GET "Host: a\tb\r\n"), BAD},
    {"a list of hosts", BYTES(GET "Host: a, b\r\n"), BAD},
    {"a space before the port", BYTES(GET "Host: h :80\r\n"), BAD},
    {"a space behind the colon of a port", BYTES(GET "Host: h: 80\r\n"), BAD},
    {"a user", BYTES(GET "Host: u@h\r\n"), BAD},
    {"a user and a password", BYTES(GET "Host: u:p@h\r\n"), BAD},
    {"a user behind a port", BYTES(GET "Host: h:80@evil\r\n"), BAD},
    {"a URI for a host", BYTES(GET "Host: http://h\r\n"), BAD},
    {"a path behind a host", BYTES(GET "Host: h/\r\n"), BAD},
    {"a query behind a host", BYTES(GET "Host: h?x\r\n"), BAD},
    {"a fragment behind a name", BYTES(GET "Host: h#\r\n"), BAD},
    {"a backslash behind a host", BYTES(GET "Host: h\\\r\n"), BAD},
    {"a quoted host", BYTES(GET "Host: \"h\"\r\n"), BAD},
    {"a host in angle brackets", BYTES(GET "Host: <h>\r\n"), BAD},
    {"a pipe in a host", BYTES(GET "Host: a|b\r\n"), BAD},
    {"a high byte in a host", BYTES(GET "Host: h\xc3\xa9\r\n"), BAD},
    {"half an escape", BYTES(GET "Host: h%4\r\n"), BAD},
    {"a percent sign only", BYTES(GET "Host: %\r\n"), BAD},
    {"an invalid escape", BYTES(GET "Host: h%4g\r\n"), BAD},
    {"a pipe after an escape", BYTES(GET "Host: a%41|bc\r\n"), BAD},
    {"an at sign after an escape", BYTES(GET "Host: a%41@bc\r\n"), BAD},
    {"an escape without a percent sign", BYTES(GET "Host: h@41\r\n"), BAD},
    {"an escape cut by the port", BYTES(GET "Host: h%4:0\r\n"), BAD},
    {"a port too high", BYTES(GET "Host: h:65536\r\n"), BAD},
    {"a digit behind the highest port", BYTES(GET "Host: h:655350\r\n"), BAD},
    {"a letter behind the highest port", BYTES(GET "Host: h:65535x\r\n"), BAD},
    {"a port of 2^32 + 80", BYTES(GET "Host: h:4294967376\r\n"), BAD},
    {"a port of 2^64 + 80", BYTES(GET "Host: h:18446744073709551696\r\n"), BAD},
    {"a port of letters", BYTES(GET "Host: h:http\r\n"), BAD},
    {"a port with a letter at its end", BYTES(GET "Host: h:80x\r\n"), BAD},
    {"a negative port", BYTES(GET "Host: h:-1\r\n"), BAD},
    {"a port with a plus", BYTES(GET "Host: h:+80\r\n"), BAD},
    {"two ports", BYTES(GET "Host: h:80:80\r\n"), BAD},
    {"two colons", BYTES(GET "Host: h::80\r\n"), BAD},
    {"a bare IPv6 address", BYTES(GET "Host: ::1\r\n"), BAD},
    {"an open bracket", BYTES(GET "Host: [::1\r\n"), BAD},
    {"an open bracket only", BYTES(GET "Host: [\r\n"), BAD},
    {"a closing bracket", BYTES(GET "Host: ::1]\r\n"), BAD},
    {"empty brackets", BYTES(GET "Host: []\r\n"), BAD},
    {"a name in brackets", BYTES(GET "Host: [h]\r\n"), BAD},
    {"an IPv4 address in brackets", BYTES(GET "Host: [1.2.3.4]\r\n"), BAD},
    {"a name ahead of brackets", BYTES(GET "Host: a[::1]\r\n"), BAD},
    {"a name behind brackets", BYTES(GET "Host: [::1]a\r\n"), BAD},
    {"a port behind brackets without a colon", BYTES(GET "Host: [::1]80\r\n"), BAD},
    {"a bad port behind brackets", BYTES(GET "Host: [::1]:x\r\n"), BAD},
    {"a port too high behind brackets", BYTES(GET "Host: [::1]:65536\r\n"), BAD},
    {"brackets in brackets", BYTES(GET "Host: [[::1]]\r\n"), BAD},
    {"a zone", BYTES(GET "Host: [fe80::1%25eth0]\r\n"), BAD},
    {"a bare zone", BYTES(GET "Host: [fe80::1%eth0]\r\n"), BAD},
    {"an address of the future", BYTES(GET "Host: [v1.x]\r\n"), BAD},
    {"an IPv6 address of one group", BYTES(GET "Host: [1]\r\n"), BAD},
    {"an IPv6 address of seven groups", BYTES(GET "Host: [1:2:3:4:5:6:7]\r\n"), BAD},
    {"an IPv6 address of nine groups", BYTES(GET "Host: [1:2:3:4:5:6:7:8:9]\r\n"), BAD},
    {"an IPv6 address of eight groups and a gap", BYTES(GET "Host: [1::2:3:4:5:6:7:8]\r\n"), BAD},
    {"an IPv6 address of eight groups and a gap ahead", BYTES(GET "Host: [::1:2:3:4:5:6:7:8]\r\n"),
     BAD},
    {"an IPv6 address of eight groups and a gap behind", BYTES(GET "Host: [1:2:3:4:5:6:7:8::]\r\n"),
     BAD},
    {"an IPv6 address with two gaps", BYTES(GET "Host: [1::2::3]\r\n"), BAD},
    {"an IPv6 address with two gaps that touch", BYTES(GET "Host: [::::]\r\n"), BAD},
    {"an IPv6 address of three colons", BYTES(GET "Host: [:::]\r\n"), BAD},
    {"an IPv6 address of one colon", BYTES(GET "Host: [:]\r\n"), BAD},
    {"an IPv6 address with a colon ahead", BYTES(GET "Host: [:1::2]\r\n"), BAD},
    {"an IPv6 address with a colon behind", BYTES(GET "Host: [::1:]\r\n"), BAD},
    {"an IPv6 address with a group too long", BYTES(GET "Host: [12345::]\r\n"), BAD},
    {"an IPv6 address with a group of zeros too long", BYTES(GET "Host: [00000::]\r\n"), BAD},
    {"an IPv6 address with a letter that is no digit", BYTES(GET "Host: [::g]\r\n"), BAD},
    {"an IPv6 address with a semicolon for a colon", BYTES(GET "Host: [::1;2]\r\n"), BAD},
    {"an IPv6 address with a space", BYTES(GET "Host: [:: 1]\r\n"), BAD},
    {"a part of an IPv4 address too high", BYTES(GET "Host: [::1.2.3.256]\r\n"), BAD},
    {"a part of an IPv4 address of 2^32 + 1", BYTES(GET "Host: [::4294967297.0.0.1]\r\n"), BAD},
    {"a part of an IPv4 address too long", BYTES(GET "Host: [::1.2.3.0004]\r\n"), BAD},
    {"a part of an IPv4 address with a zero ahead", BYTES(GET "Host: [::1.2.3.04]\r\n"), BAD},
    {"an IPv4 address of three parts", BYTES(GET "Host: [::1.2.3]\r\n"), BAD},
    {"an IPv4 address of five parts", BYTES(GET "Host: [::1.2.3.4.5]\r\n"), BAD},
    {"an IPv4 address with an empty part", BYTES(GET "Host: [::1..3.4]\r\n"), BAD},
    {"an IPv4 address with a dot behind", BYTES(GET "Host: [::1.2.3.4.]\r\n"), BAD},
    {"an IPv4 address with a letter", BYTES(GET "Host: [::a.2.3.4]\r\n"), BAD},
    {"an IPv4 address with a hyphen for a dot", BYTES(GET "Host: [::1.2-3.4]\r\n"), BAD},
    {"an IPv4 address in the middle", BYTES(GET "Host: [::1.2.3.4:5]\r\n"), BAD},
    {"an IPv4 address ahead of a gap", BYTES(GET "Host: [1.2.3.4::]\r\n"), BAD},
    {"an IPv4 address behind seven groups", BYTES(GET "Host: [1:2:3:4:5:6:7:1.2.3.4]\r\n"), BAD},
    {"an IPv4 address behind six groups and a gap", BYTES(GET "Host: [1:2:3:4:5:6::1.2.3.4]\r\n"),
     BAD},
};

static const struct row connections[] = {
    {"close", BYTES(GET HOST "Connection: close\r\n" END), ANSWERS(OK, CLOSE, NOTHING)},
    {"close in any case", BYTES(GET HOST "cOnNeCtIoN: cLoSe\r\n" END), ANSWERS(OK, CLOSE, NOTHING)},
    {"close ahead of Host", BYTES(GET "Connection: close\r\n" HOST END),
     ANSWERS(OK, CLOSE, NOTHING)},
    {"close of HEAD", BYTES("HEAD / HTTP/1.1\r\n" HOST "Connection: close\r\n" END),
     ANSWERS(OK, CLOSE, HEAD)},
    {"close of another path", BYTES("GET /x HTTP/1.1\r\n" HOST "Connection: close\r\n" END),
     ANSWERS(NOT_FOUND, CLOSE, NOTHING)},
    {"close of another method", BYTES(POST HOST "Connection: close\r\n" END),
     ANSWERS(METHOD_NOT_ALLOWED, CLOSE, NOTHING)},
    {"close first in a list", BYTES(GET HOST "Connection: close, x\r\n" END),
     ANSWERS(OK, CLOSE, NOTHING)},
    {"close last in a list", BYTES(GET HOST "Connection: x, close\r\n" END),
     ANSWERS(OK, CLOSE, NOTHING)},
    {"close in a list without blanks", BYTES(GET HOST "Connection:x,close,y\r\n" END),
     ANSWERS(OK, CLOSE, NOTHING)},
    {"close in a list with empty elements", BYTES(GET HOST "Connection: , ,\t,close ,,\r\n" END),
     ANSWERS(OK, CLOSE, NOTHING)},
    {"close in a list with tabs", BYTES(GET HOST "Connection:\tx\t,\tclose\t\r\n" END),
     ANSWERS(OK, CLOSE, NOTHING)},
    {"close in a first field", BYTES(GET HOST "Connection: close\r\nConnection: x\r\n" END),
     ANSWERS(OK, CLOSE, NOTHING)},
    {"close in a last field", BYTES(GET HOST "Connection: x\r\nconnection: close\r\n" END),
     ANSWERS(OK, CLOSE, NOTHING)},
    {"close wins over keep-alive behind it",
     BYTES(GET HOST "Connection: close, keep-alive\r\n" END), ANSWERS(OK, CLOSE, NOTHING)},
    {"close wins over keep-alive ahead of it",
     BYTES(GET HOST "Connection: keep-alive\r\nConnection: close\r\n" END),
     ANSWERS(OK, CLOSE, NOTHING)},
    {"keep-alive says nothing new in HTTP/1.1", BYTES(GET HOST "Connection: keep-alive\r\n" END),
     FINE},
    {"an empty list", BYTES(GET HOST "Connection:\r\n" END), FINE},
    {"a list of commas", BYTES(GET HOST "Connection: ,,,\r\n" END), FINE},
    {"words that close is a part of",
     BYTES(GET HOST
           "Connection: closed, xclose, clos, close;x, \"close\", x close, close x\r\n" END),
     FINE},
    {"fields that Connection is a part of",
     BYTES(GET HOST "X-Connection: close\r\nConnections: close\r\nProxy-Connection: close\r\n" END),
     FINE},
    {"an upgrade is not taken up",
     BYTES(GET HOST
           "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\n" END),
     FINE},

    {"HTTP/1.0 keep-alive", BYTES(GET10 "Connection: keep-alive\r\n" END),
     ANSWERS(OK, KEEP_ALIVE, NOTHING)},
    {"HTTP/1.0 keep-alive in any case", BYTES(GET10 "connection: Keep-Alive\r\n" END),
     ANSWERS(OK, KEEP_ALIVE, NOTHING)},
    {"HTTP/1.0 keep-alive in a list", BYTES(GET10 "Connection: x,, keep-alive ,y\r\n" END),
     ANSWERS(OK, KEEP_ALIVE, NOTHING)},
    {"HTTP/1.0 keep-alive in a last field",
     BYTES(GET10 "Connection: x\r\nConnection: keep-alive\r\n" END),
     ANSWERS(OK, KEEP_ALIVE, NOTHING)},
    {"HTTP/1.0 keep-alive of HEAD", BYTES("HEAD / HTTP/1.0\r\nConnection: keep-alive\r\n" END),
     ANSWERS(OK, KEEP_ALIVE, HEAD)},
    {"HTTP/1.0 keep-alive of another path",
     BYTES("GET /x HTTP/1.0\r\nConnection: keep-alive\r\n" END),
     ANSWERS(NOT_FOUND, KEEP_ALIVE, NOTHING)},
    {"HTTP/1.0 keep-alive and close", BYTES(GET10 "Connection: keep-alive, close\r\n" END),
     ANSWERS(OK, CLOSE, NOTHING)},
    {"HTTP/1.0 close", BYTES(GET10 "Connection: close\r\n" END), ANSWERS(OK, CLOSE, NOTHING)},
    {"HTTP/1.0 words that keep-alive is a part of",
     BYTES(GET10 "Connection: keep-alives, xkeep-alive, keep alive, keep-alive;x\r\n" END),
     ANSWERS(OK, CLOSE, NOTHING)},
    {"HTTP/1.0 Keep-Alive as a field", BYTES(GET10 "Keep-Alive: timeout=5\r\n" END),
     ANSWERS(OK, CLOSE, NOTHING)},
    {"HTTP/1.0 Proxy-Connection", BYTES(GET10 "Proxy-Connection: keep-alive\r\n" END),
     ANSWERS(OK, CLOSE, NOTHING)},
};

static const struct row lengths[] = {
    {"no bytes", BYTES(POST HOST "Content-Length: 0\r\n" END),
     ANSWERS(METHOD_NOT_ALLOWED, PERSIST, NOTHING)},
    {"no bytes of GET", BYTES(GET HOST "Content-Length: 0\r\n" END), FINE},
    {"no bytes, with zeros", BYTES(GET HOST "Content-Length: 0000\r\n" END), FINE},
    {"no bytes, twice", BYTES(GET HOST "Content-Length: 0\r\nContent-Length: 00\r\n" END), FINE},
    {"no bytes in HTTP/1.0", BYTES(GET10 "Connection: keep-alive\r\nContent-Length: 0\r\n" END),
     ANSWERS(OK, KEEP_ALIVE, NOTHING)},
    {"some bytes", BYTES(POST HOST "Content-Length: 5\r\n" END),
     ANSWERS(METHOD_NOT_ALLOWED, CLOSE, MORE)},
    {"some bytes of GET", BYTES(GET HOST "Content-Length: 5\r\n" END), ANSWERS(OK, CLOSE, MORE)},
    {"some bytes of HEAD", BYTES("HEAD / HTTP/1.1\r\n" HOST "Content-Length: 5\r\n" END),
     ANSWERS(OK, CLOSE, HEAD | MORE)},
    {"some bytes for another path", BYTES("PUT /x HTTP/1.1\r\n" HOST "Content-Length: 5\r\n" END),
     ANSWERS(NOT_FOUND, CLOSE, MORE)},
    {"some bytes in HTTP/1.0",
     BYTES("POST / HTTP/1.0\r\nContent-Length: 5\r\nConnection: keep-alive\r\n" END),
     ANSWERS(METHOD_NOT_ALLOWED, CLOSE, MORE)},
    {"some bytes and close", BYTES(POST HOST "Content-Length: 5\r\nConnection: close\r\n" END),
     ANSWERS(METHOD_NOT_ALLOWED, CLOSE, MORE)},
    {"some bytes and keep-alive",
     BYTES(POST HOST "Content-Length: 5\r\nConnection: keep-alive\r\n" END),
     ANSWERS(METHOD_NOT_ALLOWED, CLOSE, MORE)},
    {"some bytes that wait to be asked for",
     BYTES(POST HOST "Expect: 100-continue\r\nContent-Length: 5\r\n" END),
     ANSWERS(METHOD_NOT_ALLOWED, CLOSE, MORE)},
    {"in any case", BYTES(POST HOST "cONTENT-lENGTH: 5\r\n" END),
     ANSWERS(METHOD_NOT_ALLOWED, CLOSE, MORE)},
    {"blanks around a length", BYTES(POST HOST "Content-Length:\t 5 \t\r\n" END),
     ANSWERS(METHOD_NOT_ALLOWED, CLOSE, MORE)},
    {"no blank ahead of a length", BYTES(POST HOST "Content-Length:5\r\n" END),
     ANSWERS(METHOD_NOT_ALLOWED, CLOSE, MORE)},
    {"zeros ahead of a length", BYTES(POST HOST "Content-Length: 007\r\n" END),
     ANSWERS(METHOD_NOT_ALLOWED, CLOSE, MORE)},
    {"many zeros ahead of a length",
     BYTES(POST HOST "Content-Length: 00000000000000000000000000000000000000000000000007\r\n" END),
     ANSWERS(METHOD_NOT_ALLOWED, CLOSE, MORE)},
    {"the same length twice", BYTES(POST HOST "Content-Length: 5\r\nContent-Length: 5\r\n" END),
     ANSWERS(METHOD_NOT_ALLOWED, CLOSE, MORE)},
    {"the same length with zeros",
     BYTES(POST HOST "Content-Length: 5\r\nContent-Length: 05\r\n" END),
     ANSWERS(METHOD_NOT_ALLOWED, CLOSE, MORE)},
    {"the greatest length, 2^63 - 1",
     BYTES(POST HOST "Content-Length: 9223372036854775807\r\n" END),
     ANSWERS(METHOD_NOT_ALLOWED, CLOSE, MORE)},
    {"fields that Content-Length is a part of",
     BYTES(GET HOST "X-Content-Length: 5\r\nContent_Length: 5\r\nContent-Lengt: 5\r\n"
                    "Content-Length-: 5\r\nContentLength: 5\r\n" END),
     FINE},

    {"a length of 2^63", BYTES(POST HOST "Content-Length: 9223372036854775808\r\n"), BAD},
    {"a length of 2^64 - 1", BYTES(POST HOST "Content-Length: 18446744073709551615\r\n"), BAD},
    {"a length of 2^64", BYTES(POST HOST "Content-Length: 18446744073709551616\r\n"), BAD},
    {"a length of 2^64 + 5", BYTES(POST HOST "Content-Length: 18446744073709551621\r\n"), BAD},
    {"a length of ten times 2^64 + 5", BYTES(POST HOST "Content-Length: 184467440737095516165\r\n"),
     BAD},
    {"a length of 99 digits",
     BYTES(POST HOST "Content-Length: 9999999999999999999999999999999999999999999999999999999999999"
                     "99999999999999999999999999999999999999\r\n"),
     BAD},
    {"a negative length", BYTES(POST HOST "Content-Length: -1\r\n"), BAD},
    {"a negative nothing", BYTES(POST HOST "Content-Length: -0\r\n"), BAD},
    {"a negative length that overflows",
     BYTES(POST HOST "Content-Length: -123456789123456789123456789\r\n"), BAD},
    {"a length with a plus", BYTES(POST HOST "Content-Length: +5\r\n"), BAD},
    {"a length of letters", BYTES(POST HOST "Content-Length: abc\r\n"), BAD},
    {"a length with a letter at its end", BYTES(POST HOST "Content-Length: 5x\r\n"), BAD},
    {"a length with a letter ahead", BYTES(POST HOST "Content-Length: x5\r\n"), BAD},
    {"a hexadecimal length", BYTES(POST HOST "Content-Length: 0x5\r\n"), BAD},
    {"hexadecimal digits", BYTES(POST HOST "Content-Length: 5a\r\n"), BAD},
    {"an octal length", BYTES(POST HOST "Content-Length: 0o5\r\n"), BAD},
    {"a length with an exponent", BYTES(POST HOST "Content-Length: 1e1\r\n"), BAD},
    {"a length with a fraction", BYTES(POST HOST "Content-Length: 5.0\r\n"), BAD},
    {"a length with an underscore", BYTES(POST HOST "Content-Length: 1_0\r\n"), BAD},
    {"a length with a space inside", BYTES(POST HOST "Content-Length: 4 2\r\n"), BAD},
    {"a length with a tab inside", BYTES(POST HOST "Content-Length: 4\t2\r\n"), BAD},
    {"a list of lengths", BYTES(POST HOST "Content-Length: 5, 5\r\n"), BAD},
    {"a list of lengths without a space", BYTES(POST HOST "Content-Length: 5,5\r\n"), BAD},
    {"a list of one length", BYTES(POST HOST "Content-Length: 5,\r\n"), BAD},
    {"a list with an empty element ahead", BYTES(POST HOST "Content-Length: ,5\r\n"), BAD},
    {"a length with a parameter", BYTES(POST HOST "Content-Length: 5;x\r\n"), BAD},
    {"a quoted length", BYTES(POST HOST "Content-Length: \"5\"\r\n"), BAD},
    {"an empty length", BYTES(POST HOST "Content-Length:\r\n"), BAD},
    {"a length of blanks", BYTES(POST HOST "Content-Length: \t \r\n"), BAD},
    {"digits of another script", BYTES(POST HOST "Content-Length: \xd9\xa5\r\n"), BAD},
    {"a no-break space ahead of a length",
     BYTES(POST HOST "Content-Length: \xa0"
                     "5\r\n"),
     BAD},
    {"another length", BYTES(POST HOST "Content-Length: 5\r\nContent-Length: 6\r\n"), BAD},
    {"nothing, then something", BYTES(POST HOST "Content-Length: 0\r\nContent-Length: 6\r\n"), BAD},
    {"something, then nothing", BYTES(POST HOST "Content-Length: 6\r\ncontent-length: 0\r\n"), BAD},
    {"a length, then an empty one", BYTES(POST HOST "Content-Length: 5\r\nContent-Length:\r\n"),
     BAD},
    {"another length far behind",
     BYTES(POST "Content-Length: 5\r\n" HOST "X: y\r\nZ: z\r\n"
                "Content-Length: 4\r\n"),
     BAD},
    {"a third length",
     BYTES(POST HOST "Content-Length: 5\r\nContent-Length: 5\r\n"
                     "Content-Length: 4\r\n"),
     BAD},
    {"a bad length in HTTP/1.0", BYTES("POST / HTTP/1.0\r\nContent-Length: x\r\n"), BAD},
    {"a bad length of GET", BYTES(GET HOST "Content-Length: x\r\n"), BAD},
    {"a bad length for another path", BYTES("GET /x HTTP/1.1\r\n" HOST "Content-Length: x\r\n"),
     BAD},
};

static const struct row codings[] = {
    {"chunked", BYTES(POST HOST "Transfer-Encoding: chunked\r\n" END),
     ANSWERS(METHOD_NOT_ALLOWED, CLOSE, MORE)},
    {"chunked of GET", BYTES(GET HOST "Transfer-Encoding: chunked\r\n" END),
     ANSWERS(OK, CLOSE, MORE)},
    {"chunked of HEAD", BYTES("HEAD / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n" END),
     ANSWERS(OK, CLOSE, HEAD | MORE)},
    {"chunked for another path",
     BYTES("PUT /x HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n" END),
     ANSWERS(NOT_FOUND, CLOSE, MORE)},
    {"chunked in any case", BYTES(POST HOST "tRANSFER-eNCODING: cHUNKED\r\n" END),
     ANSWERS(METHOD_NOT_ALLOWED, CLOSE, MORE)},
    {"blanks around chunked", BYTES(POST HOST "Transfer-Encoding:\t chunked \t\r\n" END),
     ANSWERS(METHOD_NOT_ALLOWED, CLOSE, MORE)},
    {"no blank ahead of chunked", BYTES(POST HOST "Transfer-Encoding:chunked\r\n" END),
     ANSWERS(METHOD_NOT_ALLOWED, CLOSE, MORE)},
    {"chunked and keep-alive",
     BYTES(POST HOST "Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n" END),
     ANSWERS(METHOD_NOT_ALLOWED, CLOSE, MORE)},
    {"chunked with trailers announced",
     BYTES(POST HOST "TE: trailers\r\nTrailer: X\r\nTransfer-Encoding: chunked\r\n" END),
     ANSWERS(METHOD_NOT_ALLOWED, CLOSE, MORE)},
    {"TE says what the client takes, not what it sends",
     BYTES(GET HOST "TE: gzip, chunked\r\n" END), FINE},
    {"a content coding is no transfer coding", BYTES(GET HOST "Content-Encoding: chunked\r\n" END),
     FINE},
    {"fields that Transfer-Encoding is a part of",
     BYTES(GET HOST "X-Transfer-Encoding: chunked\r\nTransfer_Encoding: chunked\r\n"
                    "Transfer-Encodin: chunked\r\nTransfer-Encodings: chunked\r\n"
                    "TransferEncoding: chunked\r\n" END),
     FINE},

    {"another coding", BYTES(POST HOST "Transfer-Encoding: gzip\r\n" END),
     REJECTS(NOT_IMPLEMENTED)},
    {"another coding of HEAD", BYTES("HEAD / HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip\r\n" END),
     REJECTS_HEAD(NOT_IMPLEMENTED)},
    {"another coding for another path",
     BYTES("GET /x HTTP/1.1\r\n" HOST "Transfer-Encoding: gzip\r\n" END), REJECTS(NOT_IMPLEMENTED)},
    {"identity", BYTES(POST HOST "Transfer-Encoding: identity\r\n" END), REJECTS(NOT_IMPLEMENTED)},
    {"no coding", BYTES(POST HOST "Transfer-Encoding:\r\n" END), REJECTS(NOT_IMPLEMENTED)},
    {"a coding of blanks", BYTES(POST HOST "Transfer-Encoding: \t\r\n" END),
     REJECTS(NOT_IMPLEMENTED)},
    {"chunked behind another coding", BYTES(POST HOST "Transfer-Encoding: gzip, chunked\r\n" END),
     REJECTS(NOT_IMPLEMENTED)},
    {"chunked ahead of another coding", BYTES(POST HOST "Transfer-Encoding: chunked, gzip\r\n" END),
     REJECTS(NOT_IMPLEMENTED)},
    {"chunked ahead of identity", BYTES(POST HOST "Transfer-Encoding: chunked, identity\r\n" END),
     REJECTS(NOT_IMPLEMENTED)},
    {"chunked twice in a list", BYTES(POST HOST "Transfer-Encoding: chunked, chunked\r\n" END),
     REJECTS(NOT_IMPLEMENTED)},
    {"chunked and an empty element", BYTES(POST HOST "Transfer-Encoding: chunked,\r\n" END),
     REJECTS(NOT_IMPLEMENTED)},
    {"an empty element and chunked", BYTES(POST HOST "Transfer-Encoding: , chunked\r\n" END),
     REJECTS(NOT_IMPLEMENTED)},
    {"chunked with a parameter", BYTES(POST HOST "Transfer-Encoding: chunked;q=1\r\n" END),
     REJECTS(NOT_IMPLEMENTED)},
    {"chunked with an empty parameter", BYTES(POST HOST "Transfer-Encoding: chunked;\r\n" END),
     REJECTS(NOT_IMPLEMENTED)},
    {"quoted chunked", BYTES(POST HOST "Transfer-Encoding: \"chunked\"\r\n" END),
     REJECTS(NOT_IMPLEMENTED)},
    {"chunked in single quotes", BYTES(POST HOST "Transfer-Encoding: 'chunked'\r\n" END),
     REJECTS(NOT_IMPLEMENTED)},
    {"xchunked", BYTES(POST HOST "Transfer-Encoding: xchunked\r\n" END), REJECTS(NOT_IMPLEMENTED)},
    {"chunkedx", BYTES(POST HOST "Transfer-Encoding: chunkedx\r\n" END), REJECTS(NOT_IMPLEMENTED)},
    {"chunkedchunked", BYTES(POST HOST "Transfer-Encoding: chunkedchunked\r\n" END),
     REJECTS(NOT_IMPLEMENTED)},
    {"chunk", BYTES(POST HOST "Transfer-Encoding: chunk\r\n" END), REJECTS(NOT_IMPLEMENTED)},
    {"chunked and a word", BYTES(POST HOST "Transfer-Encoding: chunked x\r\n" END),
     REJECTS(NOT_IMPLEMENTED)},
    {"a word and chunked", BYTES(POST HOST "Transfer-Encoding: x chunked\r\n" END),
     REJECTS(NOT_IMPLEMENTED)},
    {"chunked behind a colon", BYTES(POST HOST "Transfer-Encoding:: chunked\r\n" END),
     REJECTS(NOT_IMPLEMENTED)},
    {"chunked with a Kelvin sign",
     BYTES(POST HOST "Transfer-Encoding: chun\xe2\x84\xaa"
                     "ed\r\n" END),
     REJECTS(NOT_IMPLEMENTED)},
    {"chunked behind a no-break space",
     BYTES(POST HOST "Transfer-Encoding: \xa0"
                     "chunked\r\n" END),
     REJECTS(NOT_IMPLEMENTED)},
    {"chunked behind a next line",
     BYTES(POST HOST "Transfer-Encoding: \x85"
                     "chunked\r\n" END),
     REJECTS(NOT_IMPLEMENTED)},
    {"chunked in two fields",
     BYTES(POST HOST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n" END),
     REJECTS(NOT_IMPLEMENTED)},
    {"chunked, then another field",
     BYTES(POST HOST "Transfer-Encoding: chunked\r\nTransfer-encoding: cow\r\n" END),
     REJECTS(NOT_IMPLEMENTED)},
    {"another field, then chunked",
     BYTES(POST HOST "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n" END),
     REJECTS(NOT_IMPLEMENTED)},
    {"chunked, then an empty field",
     BYTES(POST HOST "Transfer-Encoding: chunked\r\nTransfer-Encoding:\r\n" END),
     REJECTS(NOT_IMPLEMENTED)},
    {"an empty field, then chunked",
     BYTES(POST HOST "Transfer-Encoding:\r\nTransfer-Encoding: chunked\r\n" END),
     REJECTS(NOT_IMPLEMENTED)},
    {"three fields",
     BYTES(POST HOST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"
                     "Transfer-Encoding: chunked\r\n" END),
     REJECTS(NOT_IMPLEMENTED)},

    {"a length ahead of chunked",
     BYTES(POST HOST "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n" END), BAD},
    {"a length behind chunked",
     BYTES(POST HOST "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n" END), BAD},
    {"a length of nothing beside chunked",
     BYTES(POST HOST "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n" END), BAD},
    {"a length beside another coding",
     BYTES(POST HOST "Content-Length: 6\r\nTransfer-Encoding: gzip\r\n" END), BAD},
    {"a length beside no coding",
     BYTES(POST HOST "Content-Length: 6\r\nTransfer-Encoding:\r\n" END), BAD},
    {"a length between two codings",
     BYTES(POST HOST
           "Transfer-Encoding: chunked\r\nContent-Length: 6\r\nTransfer-Encoding: x\r\n" END),
     BAD},
    {"chunked in HTTP/1.0", BYTES("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n" END), BAD},
    {"chunked in HTTP/1.0 with keep-alive",
     BYTES(GET10 HOST "Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n" END), BAD},
    {"another coding in HTTP/1.0", BYTES("POST / HTTP/1.0\r\nTransfer-Encoding: gzip\r\n" END),
     BAD},
    {"no coding in HTTP/1.0", BYTES("POST / HTTP/1.0\r\nTransfer-Encoding:\r\n" END), BAD},
    {"two codings in HTTP/1.0",
     BYTES("POST / HTTP/1.0\r\nTransfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n" END), BAD},
    {"chunked without Host", BYTES(POST "Transfer-Encoding: chunked\r\n" END), BAD},
    {"another coding without Host", BYTES(POST "Transfer-Encoding: gzip\r\n" END), BAD},
};

/* Ways in which two readers are known to disagree on where a request ends. */
static const struct row smuggling[] = {
    {"a space before the colon of Transfer-Encoding", BYTES(POST HOST "Transfer-Encoding "), BAD},
    {"a tab before the colon of Transfer-Encoding", BYTES(POST HOST "Transfer-Encoding\t"), BAD},
    {"a vertical tab before the colon", BYTES(POST HOST "Transfer-Encoding\v"), BAD},
    {"a CR before the colon", BYTES(POST HOST "Transfer-Encoding\r"), BAD},
    {"a line end before the colon", BYTES(POST HOST "Transfer-Encoding\n"), BAD},
    {"a NUL before the colon of Content-Length", BYTES(POST HOST "Content-Length\0"), BAD},
    {"a space before the colon of Content-Length", BYTES(POST HOST "Content-Length "), BAD},
    {"a space ahead of Transfer-Encoding", BYTES(POST HOST " "), BAD},
    {"a vertical tab ahead of Transfer-Encoding", BYTES(POST HOST "\v"), BAD},
    {"a DEL ahead of Transfer-Encoding", BYTES(POST HOST "\x7f"), BAD},
    {"Transfer-Encoding in the fold of another field", BYTES(POST HOST "X: X\r\n "), BAD},
    {"Transfer-Encoding behind a bare LF", BYTES(POST HOST "X: X\n"), BAD},
    {"Transfer-Encoding behind a bare CR", BYTES(POST HOST "X: X\rT"), BAD},
    {"Transfer-Encoding folded", BYTES(POST HOST "Transfer-Encoding:\r\n "), BAD},
    {"chunked folded by a tab", BYTES(POST HOST "Transfer-Encoding: chunked\r\n\t"), BAD},
    {"chunked behind a vertical tab", BYTES(POST HOST "Transfer-Encoding: \v"), BAD},
    {"chunked behind a form feed", BYTES(POST HOST "Transfer-Encoding:\f"), BAD},
    {"chunked ahead of a NUL", BYTES(POST HOST "Transfer-Encoding: chunked\0"), BAD},
    {"chunked behind a NUL", BYTES(POST HOST "Transfer-Encoding: \0"), BAD},
    {"chunked ahead of two CR", BYTES(POST HOST "Transfer-Encoding: chunked\r\r"), BAD},
    {"chunked ahead of a bare LF", BYTES(POST HOST "Transfer-Encoding: chunked\n"), BAD},
    {"chunked behind a bare CR", BYTES(POST HOST "Transfer-Encoding: \rc"), BAD},
    {"Content-Length folded", BYTES(POST HOST "Content-Length: 5\r\n "), BAD},
    {"an empty Content-Length ahead of a fold", BYTES(POST HOST "Content-Length:\r\n"), BAD},
    {"Content-Length ahead of a bare LF", BYTES(POST HOST "Content-Length: 5\n"), BAD},
    {"Content-Length behind a vertical tab", BYTES(POST HOST "Content-Length: \v"), BAD},
    {"Content-Length ahead of a NUL", BYTES(POST HOST "Content-Length: 5\0"), BAD},
    {"Content-Length behind a bare CR", BYTES(POST HOST "X: y\rC"), BAD},
    {"Content-Length behind keep-alive and a bare CR", BYTES(POST HOST "Connection: keep-alive\rC"),
     BAD},
    {"a field on the request line", BYTES("POST / HTTP/1.1 "), BAD},
    {"an encoded line end in a name", BYTES(POST HOST "X%0d%0aTransfer-Encoding: chunked\r\n" END),
     ANSWERS(METHOD_NOT_ALLOWED, PERSIST, NOTHING)},
    {"LF CR for a line end", BYTES(POST HOST "X: y\n"), BAD},
    {"a line separator for a line end", BYTES(GET HOST "X: y\xe2\x80\xa8Y: z\r\n" END), FINE},
    {"a request line in a high-byte encoding", BYTES("G\0"), BAD},
    {"hop-by-hop Content-Length",
     BYTES(POST HOST "Connection: Content-Length\r\n"
                     "Content-Length: 5\r\n" END),
     ANSWERS(METHOD_NOT_ALLOWED, CLOSE, MORE)},
    {"hop-by-hop Transfer-Encoding",
     BYTES(POST HOST "Connection: Transfer-Encoding\r\n"
                     "Transfer-Encoding: chunked\r\n" END),
     ANSWERS(METHOD_NOT_ALLOWED, CLOSE, MORE)},
    {"an upgrade with a body",
     BYTES(POST HOST "Connection: Upgrade\r\nUpgrade: websocket\r\n"
                     "Content-Length: 5\r\n" END),
     ANSWERS(METHOD_NOT_ALLOWED, CLOSE, MORE)},
    {"an expectation with no body", BYTES(GET HOST "Expect: 100-continue\r\n" END), FINE},
    {"a method override", BYTES(GET HOST "X-HTTP-Method-Override: POST\r\n" END), FINE},
};

/* What is no HTTP/1 at all. */
static const struct row strangers[] = {
    {"an HTTP/2 preface", BYTES("PRI * HTTP/2.0\r\n"), REJECTS(VERSION_NOT_SUPPORTED)},
    {"a TLS hello", BYTES("\x16"), BAD},
    {"an SSLv2 hello", BYTES("\x80"), BAD},
    {"an SSH banner", BYTES("SSH-2.0-OpenSSH_9.2p1\r"), BAD},
    {"SMTP", BYTES("EHLO example.com\r"), BAD},
    {"redis", BYTES("*1\r"), BAD},
    {"a PROXY header", BYTES("PROXY TCP4 1"), BAD},
    {"a PROXY header, version 2", BYTES("\r\n\r"), BAD},
    {"a shell's escape", BYTES("("), BAD},
    {"a response", BYTES("HTTP/"), BAD},
    {"half a sentence", BYTES("hello\r"), BAD},
    {"memcached", BYTES("get key\r"), BAD},
    {"XML", BYTES("<"), BAD},
    {"JSON", BYTES("{"), BAD},
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define TABLE(rows)  #rows, rows, COUNT(rows)

static const struct table {
    const char *name;
    const struct row *rows;
    size_t count;
} tables[] = {
    {TABLE(request_lines)}, {TABLE(versions)},    {TABLE(targets)}, {TABLE(fields)},
    {TABLE(hosts)},         {TABLE(connections)}, {TABLE(lengths)}, {TABLE(codings)},
    {TABLE(smuggling)},     {TABLE(strangers)},
};

/* ---- TAP ---- */

static int cases;
static int failures;
static bool failed; /* the current case */

/* Only the first failure of a case is shown: the others follow from it. */
__attribute__((format(printf, 1, 2))) static void fail(const char *format, ...)
{
    va_list arguments;
    if (failed)
        return;
    failed = true;
    fputs("# ", stdout);
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    putchar('\n');
}

static void finish(const char *group, const char *name)
{
    printf("%sok %d - %s: %s\n", failed ? "not " : "", ++cases, group, name);
    failures += failed;
    failed = false;
}

/* ---- looking at one input ---- */

static char *first_byte; /* of ROOM bytes with an unreadable page at either end */

static void make_room(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *all = mmap(NULL, ROOM + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED || mprotect(all + page, ROOM, PROT_READ | PROT_WRITE) < 0) {
        perror("Bail out! mmap");
        exit(1);
    }
    first_byte = all + page;
}

struct outcome {
    int taken;
    enum http_status status;
    enum http_persistence persistence;
    unsigned flags;
};

static struct outcome outcome_at(const char *at, size_t length, bool filled)
{
    struct http_request r = {HTTP_STATUSES, HTTP_PERSISTENCES, filled, filled};
    struct outcome o = {.taken = http_parse(at, length, &r)};
    o.flags = r.head_only ? HEAD : NOTHING;
    if (o.taken != 0) {
        o.status = r.status;
        o.persistence = r.persistence;
        o.flags |= r.client_may_send_more ? MORE : NOTHING;
    }
    return o;
}

static bool same(struct outcome a, struct outcome b)
{
    return a.taken == b.taken && a.status == b.status && a.persistence == b.persistence &&
           a.flags == b.flags;
}

/* What becomes of the bytes: the same wherever they are, and whatever the request held before. */
static struct outcome look(const char *bytes, size_t length)
{
    memcpy(first_byte, bytes, length);
    struct outcome ahead = outcome_at(first_byte, length, false);
    char *at = first_byte + ROOM - length;
    memcpy(at, bytes, length);
    struct outcome behind = outcome_at(at, length, true);
    if (!same(ahead, behind))
        fail("%zu bytes: the outcome depends on more than the bytes", length);
    return behind;
}

static void expect(const char *bytes, size_t length, struct outcome wanted)
{
    struct outcome got = look(bytes, length);
    if (!same(got, wanted))
        fail("%zu bytes: taken %d, status %d, persistence %d, flags %u; "
             "wanted %d, %d, %d, %u",
             length, got.taken, (int)got.status, (int)got.persistence, got.flags, wanted.taken,
             (int)wanted.status, (int)wanted.persistence, wanted.flags);
}

/* Fewer bytes than it takes: nothing is decided but, at some point, that it is a HEAD. */
static void expect_waiting(const char *bytes, size_t length, bool *is_head)
{
    struct outcome got = look(bytes, length);
    if (got.taken != 0)
        fail("%zu bytes: decided too early: taken %d, status %d", length, got.taken,
             (int)got.status);
    if (*is_head && !(got.flags & HEAD))
        fail("%zu bytes: no longer a HEAD", length);
    *is_head = got.flags & HEAD;
}

/* What comes behind a decided head must not matter. */
static const struct {
    const char *bytes;
    size_t length;
} tails[] = {
    {BYTES("\r\n")},
    {BYTES("\r\n\r\n")},
    {BYTES("\n\n")},
    {BYTES("\0")},
    {BYTES("GET / HTTP/1.1\r\nHost: h\r\n\r\n")},
    {BYTES(" \t: ")},
    {BYTES("\xff\xfe\xfd")},
    {BYTES("X: y\r\n\r\n")},
    {BYTES("0\r\n\r\nGET /")},
};

static void check_row(const struct row *row)
{
    char bytes[1024];
    bool is_head = false;
    struct outcome wanted = {0, HTTP_OK, (enum http_persistence)0, row->flags};
    if (row->verdict != WAIT)
        wanted = (struct outcome){row->verdict == TAKE ? (int)row->length : -1, row->status,
                                  row->persistence, row->flags};
    for (size_t part = 0; part < row->length; part++)
        expect_waiting(row->bytes, part, &is_head);
    if (is_head && !(row->flags & HEAD))
        fail("no longer a HEAD");
    expect(row->bytes, row->length, wanted);
    memcpy(bytes, row->bytes, row->length);
    for (size_t i = 0; row->verdict != WAIT && i < COUNT(tails); i++) {
        memcpy(bytes + row->length, tails[i].bytes, tails[i].length);
        for (size_t length = 1; length <= tails[i].length; length++)
            expect(bytes, row->length + length, wanted);
    }
}

static void check_tables(void)
{
    for (size_t t = 0; t < COUNT(tables); t++) {
        for (size_t i = 0; i < tables[t].count; i++) {
            check_row(&tables[t].rows[i]);
            finish(tables[t].name, tables[t].rows[i].name);
        }
    }
}

/* ---- every byte in every place ---- */

#define DIGITS  "0123456789"
#define LETTERS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
#define TCHARS  "!#$%&'*+-.^_`|~" DIGITS LETTERS
#define VISIBLE "!\"$%&'()*+,-./:;<=>?@[\\]^_`{|}~" DIGITS LETTERS /* but # */

/* HIGH: and so may all bytes from 0x80 on. */
enum {
    HIGH = 1
};

static const struct place {
    const char *name;
    const char *ahead;
    const char *allowed; /* what may follow; any other byte is rejected at once */
    int others;
} places[] = {
    {"at the start", "", TCHARS "\r", 0},
    {"behind a CR ahead", "\r", "\n", 0},
    {"behind an empty line ahead", "\r\n", TCHARS, 0},
    {"in a method", "GE", TCHARS " ", 0},
    {"at the start of a target", "GET ", VISIBLE, 0},
    {"in a path", "GET /a", VISIBLE " ", 0},
    {"in a query", "GET /?a", VISIBLE " ", 0},
    {"in a URI", "GET http://a", VISIBLE " ", 0},
    {"behind an asterisk", "OPTIONS *", VISIBLE " ", 0},
    {"at the start of a version", "GET / ", "H", 0},
    {"in the name of a protocol", "GET / HT", "T", 0},
    {"for the slash of a version", "GET / HTTP", "/", 0},
    {"for the major version", "GET / HTTP/", DIGITS, 0},
    {"for the dot of a version", "GET / HTTP/1", ".", 0},
    {"for the minor version", "GET / HTTP/1.", DIGITS, 0},
    {"behind a version", "GET / HTTP/1.1", "\r", 0},
    {"behind the CR of a request line", "GET / HTTP/1.1\r", "\n", 0},
    {"behind the CR of another version", "GET / HTTP/2.0\r", "", 0},
    {"behind a request line", GET, TCHARS "\r", 0},
    {"behind a field line", GET HOST, TCHARS "\r", 0},
    {"in a name", GET "a", TCHARS ":", 0},
    {"behind a colon", GET "a:", VISIBLE "# \t\r", HIGH},
    {"behind a blank", GET "a: ", VISIBLE "# \t\r", HIGH},
    {"in a value", GET "a: b", VISIBLE "# \t\r", HIGH},
    {"in the value of Host", GET "Host: h", VISIBLE "# \t\r", HIGH},
    {"in a length", GET "Content-Length: 1", VISIBLE "# \t\r", HIGH},
    {"in a coding", GET "Transfer-Encoding: chun", VISIBLE "# \t\r", HIGH},
    {"behind the CR of a field", GET "a: b\r", "\n", 0},
    {"behind the CR of an empty value", GET "a:\r", "\n", 0},
    {"behind the CR of the empty line", GET HOST "\r", "\n", 0},
};

static bool in(const char *set, int byte)
{
    return byte && strchr(set, byte);
}

static void check_place(const struct place *place)
{
    char bytes[64];
    size_t length = strlen(place->ahead);
    memcpy(bytes, place->ahead, length);
    for (int byte = 0; byte < 256; byte++) {
        bytes[length] = (char)byte;
        struct outcome got = look(bytes, length + 1);
        bool allowed = in(place->allowed, byte) || (place->others == HIGH && byte >= 0x80);
        bool rejected = got.taken < 0 && got.persistence == HTTP_CLOSE && (got.flags & MORE);
        if (allowed && rejected)
            fail("byte %#x is rejected", (unsigned)byte);
        if (!allowed && !rejected)
            fail("byte %#x is not rejected", (unsigned)byte);
        if (!allowed && got.status != HTTP_BAD_REQUEST &&
            !(byte == '\n' && got.status == HTTP_VERSION_NOT_SUPPORTED))
            fail("byte %#x is rejected with status %d", (unsigned)byte, (int)got.status);
    }
}

/* Whole heads with any byte between AHEAD and BEHIND: which bytes make one that is answered, and
 * which of these one that closes the connection. */
static const struct middle {
    const char *name;
    const char *ahead;
    const char *behind;
    const char *answered;
    int others;
    const char *closing;
} middles[] = {
    {"in the name of a field", GET HOST "a", "b: c\r\n\r\n", TCHARS ":", 0, ""},
    {"in the value of a field", GET HOST "X: a", "b\r\n\r\n", VISIBLE "# \t", HIGH, ""},
    {"in the name of a host", GET "Host: a", "b\r\n\r\n", LETTERS DIGITS "-._~!$&'()*+,;=", 0, ""},
    {"ahead of a host", GET "Host:", "b\r\n\r\n", LETTERS DIGITS "-._~!$&'()*+,;= \t", 0, ""},
    {"behind a host", GET "Host: a", "\r\n\r\n", LETTERS DIGITS "-._~!$&'()*+,;= \t:", 0, ""},
    {"behind a port", GET "Host: a:1", "\r\n\r\n", DIGITS " \t", 0, ""},
    {"behind an address", GET "Host: [::1]", "\r\n\r\n", " \t:", 0, ""},
    {"in an address", GET "Host: [1::", "]\r\n\r\n", DIGITS "abcdefABCDEF", 0, ""},
    {"for the first digit of an escape", GET "Host: %", "1\r\n\r\n", DIGITS "abcdefABCDEF", 0, ""},
    {"for the second digit of an escape", GET "Host: %1", "\r\n\r\n", DIGITS "abcdefABCDEF", 0, ""},
    {"in the host of a URI", "GET http://a", "b HTTP/1.1\r\nHost: h\r\n\r\n",
     LETTERS DIGITS "-._~!$&'()*+,;=/?", 0, ""},
    {"in a length", GET HOST "Content-Length: 1", "1\r\n\r\n", DIGITS, 0, DIGITS},
    {"ahead of a length", GET HOST "Content-Length:", "1\r\n\r\n", DIGITS " \t", 0, DIGITS " \t"},
    {"behind a length", GET HOST "Content-Length: 1", "\r\n\r\n", DIGITS " \t", 0, DIGITS " \t"},
    {"for a length", GET HOST "Content-Length: ", "\r\n\r\n", DIGITS, 0, "123456789"},
    {"behind the name of a length", GET HOST "Content-Length", ": 1\r\n\r\n", TCHARS, 0, ""},
    {"in a coding", GET HOST "Transfer-Encoding: chun", "ed\r\n\r\n", "kK", 0, "kK"},
    {"ahead of a coding", GET HOST "Transfer-Encoding:", "chunked\r\n\r\n", " \t", 0, " \t"},
    {"behind a coding", GET HOST "Transfer-Encoding: chunked", "\r\n\r\n", " \t", 0, " \t"},
    {"behind the name of a coding", GET HOST "Transfer-Encoding", ": chunked\r\n\r\n", TCHARS, 0,
     ""},
    {"in an option", GET HOST "Connection: cl", "se\r\n\r\n", VISIBLE "# \t", HIGH, "oO"},
    {"ahead of an option", GET HOST "Connection:", "close\r\n\r\n", VISIBLE "# \t", HIGH, ", \t"},
    {"behind an option", GET HOST "Connection: close", "\r\n\r\n", VISIBLE "# \t", HIGH, ", \t"},
    {"between two options", GET HOST "Connection: close", "x\r\n\r\n", VISIBLE "# \t", HIGH, ","},
};

static void check_middle(const struct middle *middle)
{
    char bytes[128];
    size_t ahead = strlen(middle->ahead), behind = strlen(middle->behind);
    memcpy(bytes, middle->ahead, ahead);
    memcpy(bytes + ahead + 1, middle->behind, behind);
    for (int byte = 0; byte < 256; byte++) {
        bytes[ahead] = (char)byte;
        struct outcome got = look(bytes, ahead + 1 + behind);
        bool answered = in(middle->answered, byte) || (middle->others == HIGH && byte >= 0x80);
        if (answered != (got.taken > 0))
            fail("byte %#x: taken %d", (unsigned)byte, got.taken);
        else if (answered && in(middle->closing, byte) != (got.persistence == HTTP_CLOSE))
            fail("byte %#x: persistence %d", (unsigned)byte, (int)got.persistence);
    }
}

/* A value of any length, with any byte in any place of it, among low or high ones. */
static void check_values(char filler)
{
    enum {
        LONGEST = 33
    };
    static const char ahead[] = GET HOST "X:", behind[] = {'\r', '\n', '\r', '\n'};
    char bytes[128];
    const size_t start = sizeof ahead - 1;
    memcpy(bytes, ahead, sizeof ahead);
    for (size_t length = 1; length <= LONGEST; length++) {
        for (size_t place = 0; place < length; place++) {
            for (int byte = 0; byte < 256; byte++) {
                memset(bytes + start, filler, length);
                memcpy(bytes + start + length, behind, sizeof behind);
                bytes[start + place] = (char)byte;
                bool allowed = in(VISIBLE "# \t", byte) || byte >= 0x80;
                struct outcome got = look(bytes, start + length + sizeof behind);
                if (allowed != (got.taken == (int)(start + length + sizeof behind)))
                    fail("byte %#x at %zu of %zu: taken %d", (unsigned)byte, place, length,
                         got.taken);
            }
        }
    }
}

static void check_bytes(void)
{
    for (size_t i = 0; i < COUNT(places); i++) {
        check_place(&places[i]);
        finish("every byte", places[i].name);
    }
    for (size_t i = 0; i < COUNT(middles); i++) {
        check_middle(&middles[i]);
        finish("every byte in a whole head", middles[i].name);
    }
    check_values('a');
    finish("every byte in a whole head", "in every place of a value");
    check_values('\xff');
    finish("every byte in a whole head", "in every place of a value of high bytes");
}

/* ---- limits ---- */

/* HEAD, as many of FILLER as make the whole TOTAL bytes long, and TAIL. */
static const struct limit {
    const char *name;
    const char *head;
    char filler;
    const char *tail;
    size_t total;
    enum verdict verdict;
    enum http_status status;
    enum http_persistence persistence;
    unsigned flags;
} limits[] = {
    {"a head of just the limit", GET HOST "X: ", 'a', "\r\n\r\n", HTTP_HEAD_MAX, FINE},
    {"a head of one byte less", GET HOST "X: ", 'a', "\r\n\r\n", HTTP_HEAD_MAX - 1, FINE},
    {"a head of just the limit behind an empty line", "\r\n" GET HOST "X: ", 'a', "\r\n\r\n",
     HTTP_HEAD_MAX + 2, FINE},
    {"a head of just the limit, of blanks", GET HOST "X:", ' ', "\r\n\r\n", HTTP_HEAD_MAX, FINE},
    {"a head of just the limit, of one name", GET HOST, 'X', ":\r\n\r\n", HTTP_HEAD_MAX, FINE},
    {"a head of just the limit, of a host", GET "Host: ", 'h', "\r\n\r\n", HTTP_HEAD_MAX, FINE},
    {"a head of just the limit, of a port", GET "Host: h:", '0', "\r\n\r\n", HTTP_HEAD_MAX, FINE},
    {"a head of just the limit, of options", GET HOST "Connection: close", ',', "\r\n\r\n",
     HTTP_HEAD_MAX, ANSWERS(OK, CLOSE, NOTHING)},
    {"a head of just the limit, of a length", GET HOST "Content-Length: ", '0', "\r\n\r\n",
     HTTP_HEAD_MAX, FINE},
    {"a head of just the limit, of a length that is too great", GET HOST "Content-Length: ", '9',
     "\r\n", HTTP_HEAD_MAX - 2, BAD},
    {"a head of just the limit, of HEAD", "HEAD / HTTP/1.1\r\n" HOST "X: ", 'a', "\r\n\r\n",
     HTTP_HEAD_MAX, ANSWERS(OK, PERSIST, HEAD)},
    {"a head of just the limit, of a path", "GET /", 'a', " HTTP/1.1\r\nHost: h\r\n\r\n",
     HTTP_HEAD_MAX, ANSWERS(NOT_FOUND, PERSIST, NOTHING)},
    {"a head of just the limit, of a query", "GET /?", 'a', " HTTP/1.1\r\nHost: h\r\n\r\n",
     HTTP_HEAD_MAX, FINE},
    {"a head of just the limit, of a method", "", 'A', " / HTTP/1.1\r\nHost: h\r\n\r\n",
     HTTP_HEAD_MAX, ANSWERS(METHOD_NOT_ALLOWED, PERSIST, NOTHING)},
    {"a request line of just the limit, of HTTP/1.0", "GET /", 'a', " HTTP/1.0\r\n\r\n",
     HTTP_HEAD_MAX, ANSWERS(NOT_FOUND, CLOSE, NOTHING)},
    {"a request line of 8000 bytes", "GET /", 'a', " HTTP/1.1\r\nHost: h\r\n\r\n", 8000 + 13,
     ANSWERS(NOT_FOUND, PERSIST, NOTHING)},

    {"a head of one byte more", GET HOST "X: ", 'a', "\r\n\r\n", HTTP_HEAD_MAX + 1,
     REJECTS(FIELDS_TOO_LARGE)},
    {"a head of one byte more behind an empty line", "\r\n" GET HOST "X: ", 'a', "\r\n\r\n",
     HTTP_HEAD_MAX + 3, REJECTS(FIELDS_TOO_LARGE)},
    {"a HEAD of one byte more", "HEAD / HTTP/1.1\r\n" HOST "X: ", 'a', "\r\n\r\n",
     HTTP_HEAD_MAX + 1, REJECTS_HEAD(FIELDS_TOO_LARGE)},
    {"a head of one byte more, of HTTP/1.0", GET10 "X: ", 'a', "\r\n\r\n", HTTP_HEAD_MAX + 1,
     REJECTS(FIELDS_TOO_LARGE)},
    {"a head of one byte more, of a path", "GET /", 'a', " HTTP/1.1\r\nHost: h\r\n\r\n",
     HTTP_HEAD_MAX + 1, REJECTS(FIELDS_TOO_LARGE)},
    {"a request line of just the limit", "GET /", 'a', " HTTP/1.1\r\nH", HTTP_HEAD_MAX + 1,
     REJECTS(FIELDS_TOO_LARGE)},
    {"a request line of one byte more", "GET /", 'a', " HTTP/1.1\r\n", HTTP_HEAD_MAX + 1,
     REJECTS(URI_TOO_LONG)},
    {"a request line of one byte more behind an empty line", "\r\nGET /", 'a', " HTTP/1.1\r\n",
     HTTP_HEAD_MAX + 3, REJECTS(URI_TOO_LONG)},
    {"a request line of one byte more, of HEAD", "HEAD /", 'a', " HTTP/1.1\r\n", HTTP_HEAD_MAX + 1,
     REJECTS_HEAD(URI_TOO_LONG)},
    {"a path without end", "GET /", 'a', "", HTTP_INPUT_MAX, REJECTS(URI_TOO_LONG)},
    {"a path without end, much too long", "GET /", 'a', "", MUCH, REJECTS(URI_TOO_LONG)},
    {"a query without end", "GET /?", 'a', "", HTTP_INPUT_MAX, REJECTS(URI_TOO_LONG)},
    {"a URI without end", "GET http://", 'a', "", HTTP_INPUT_MAX, REJECTS(URI_TOO_LONG)},
    {"a method without end", "", 'A', "", HTTP_INPUT_MAX, REJECTS(URI_TOO_LONG)},
    {"a method without end behind an empty line", "\r\n", 'A', "", HTTP_INPUT_MAX,
     REJECTS(URI_TOO_LONG)},
    {"a name without end", GET HOST, 'A', "", HTTP_INPUT_MAX, REJECTS(FIELDS_TOO_LARGE)},
    {"a value without end", GET HOST "X: ", 'A', "", HTTP_INPUT_MAX, REJECTS(FIELDS_TOO_LARGE)},
    {"a value without end, much too long", GET HOST "X: ", 'A', "", MUCH,
     REJECTS(FIELDS_TOO_LARGE)},
    {"blanks without end", GET HOST "X:", '\t', "", HTTP_INPUT_MAX, REJECTS(FIELDS_TOO_LARGE)},
    {"a value without end behind an empty line", "\r\n" GET HOST "X:", ' ', "", HTTP_INPUT_MAX,
     REJECTS(FIELDS_TOO_LARGE)},
    {"a length without end", GET HOST "Content-Length: ", '1', "", HTTP_INPUT_MAX,
     REJECTS(FIELDS_TOO_LARGE)},
};

/* At every length of interest: near either end, near the limit, and some between. */
static bool of_interest(size_t length, size_t total)
{
    return length < 40 || length + 40 > total || length % 509 == 0 ||
           (length + 8 > HTTP_HEAD_MAX && length < HTTP_HEAD_MAX + 8);
}

static void check_limit(const struct limit *limit)
{
    static char bytes[ROOM];
    size_t head = strlen(limit->head), tail = strlen(limit->tail), total = limit->total;
    struct outcome wanted = {limit->verdict == TAKE ? (int)total : -1, limit->status,
                             limit->persistence, limit->flags};
    bool is_head = false;
    memcpy(bytes, limit->head, head);
    memset(bytes + head, limit->filler, total - head - tail);
    memcpy(bytes + total - tail, limit->tail, tail);
    size_t part = 0;
    while (part < total && (!of_interest(part, total) || look(bytes, part).taken == 0)) {
        if (of_interest(part, total))
            expect_waiting(bytes, part, &is_head);
        part++;
    }
    if (part < HTTP_HEAD_MAX && part < total)
        fail("%zu bytes: decided too early", part);
    if (part > HTTP_INPUT_MAX)
        fail("%zu bytes: decided too late", part);
    for (; part < total; part++)
        if (of_interest(part, total))
            expect(bytes, part, wanted);
    expect(bytes, total, wanted);
    memcpy(bytes + total, "\r\n\r\n", 4);
    expect(bytes, total + 4, wanted);
}

/* Many short lines are as good as one long one. */
static void check_many_fields(size_t lines, struct outcome wanted)
{
    static char bytes[ROOM];
    size_t length = (size_t)sprintf(bytes, "%s%s", GET, HOST);
    for (size_t i = 0; i < lines; i++)
        length += (size_t)sprintf(bytes + length, "a:\r\n");
    length += (size_t)sprintf(bytes + length, "\r\n");
    if (wanted.taken > 0)
        wanted.taken = (int)length;
    expect(bytes, length, wanted);
}

static void check_limits(void)
{
    for (size_t i = 0; i < COUNT(limits); i++) {
        check_limit(&limits[i]);
        finish("limits", limits[i].name);
    }
    size_t fit = (HTTP_HEAD_MAX - strlen(GET HOST END)) / strlen("a:\r\n");
    check_many_fields(fit, (struct outcome){1, HTTP_OK, HTTP_PERSIST, NOTHING});
    finish("limits", "as many fields as fit");
    check_many_fields(fit + 1, (struct outcome){-1, HTTP_FIELDS_TOO_LARGE, HTTP_CLOSE, MORE});
    finish("limits", "one field more than fits");
}

/* ---- pipelines ---- */

/* Requests behind each other, and what a server says to them: one letter for each answer. */
static const struct pipeline {
    const char *name;
    const char *bytes;
    size_t length;
    const char *answers; /* o 200, n 404, m 405; capital: and close; h: HEAD; !: rejected */
} pipelines[] = {
    {"one", BYTES(GET HOST END), "o"},
    {"three of a kind", BYTES(GET HOST END GET HOST END GET HOST END), "ooo"},
    {"three of different kinds", BYTES(GET HOST END "GET /x HTTP/1.1\r\n" HOST END POST HOST END),
     "onm"},
    {"an empty line between two", BYTES(GET HOST END END GET HOST END), "oo"},
    {"an empty line at the end", BYTES(GET HOST END END), "o"},
    {"two empty lines between two", BYTES(GET HOST END END END GET HOST END), "o!"},
    {"HEAD between two GETs", BYTES(GET HOST END "HEAD / HTTP/1.1\r\n" HOST END GET HOST END),
     "oho"},
    {"close ends it", BYTES(GET HOST END GET HOST "Connection: close\r\n" END GET HOST END), "oO"},
    {"HTTP/1.0 ends it", BYTES(GET HOST END GET10 END GET HOST END), "oO"},
    {"HTTP/1.0 that stays", BYTES(GET10 "Connection: keep-alive\r\n" END GET HOST END), "oo"},
    {"an error ends it", BYTES(GET HOST END "GET  / HTTP/1.1\r\n" HOST END GET HOST END), "o!"},
    {"an error in the fields ends it", BYTES(GET HOST END GET HOST " x\r\n" END GET HOST END),
     "o!"},
    {"half a request at the end", BYTES(GET HOST END GET HOST), "o"},
    {"CL.0: a request in a body", BYTES(POST HOST "Content-Length: 44\r\n" END GET HOST END), "M"},
    {"CL.0: a request in the body of GET",
     BYTES(GET HOST "Content-Length: 44\r\n" END "GET /x HTTP/1.1\r\n" HOST END), "O"},
    {"0.CL: a body that is not announced",
     BYTES(POST HOST "Content-Length: 0\r\n" END "GET /x HTTP/1.1\r\nX: " GET HOST END), "mn"},
    {"CL.TE",
     BYTES(POST HOST "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n" END
                     "0\r\n\r\nG" GET HOST END),
     "!"},
    {"TE.CL",
     BYTES(POST HOST "Content-length: 4\r\nTransfer-Encoding: chunked\r\n" END
                     "5c\r\nGPOST / HTTP/1.1\r\n" HOST END "0\r\n\r\n"),
     "!"},
    {"TE.TE with two fields",
     BYTES(POST HOST "Transfer-Encoding: chunked\r\nTransfer-encoding: cow\r\n" END
                     "0\r\n\r\n" GET HOST END),
     "!"},
    {"TE.0: a request behind the last chunk",
     BYTES("OPTIONS / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n" END
           "0\r\n\r\n" GET HOST END),
     "M"},
    {"TE.0: a request in a chunk",
     BYTES(GET HOST "Transfer-Encoding: chunked\r\n" END "2c\r\n" GET HOST END "0\r\n\r\n"), "O"},
    {"a chunk size that overflows",
     BYTES(GET HOST "Transfer-Encoding: chunked\r\n" END "10000000000000000\r\n" GET HOST END),
     "O"},
    {"a chunk size with blanks",
     BYTES(GET HOST "Transfer-Encoding: chunked\r\n" END "0 \t\r\n\r\n" GET HOST END), "O"},
    {"a chunk extension with a bare LF",
     BYTES(GET HOST "Transfer-Encoding: chunked\r\n" END "2;\nxx\r\n0\r\n\r\n" GET HOST END), "O"},
    {"a chunk without end",
     BYTES(GET HOST "Transfer-Encoding: chunked\r\n" END "0\r\n" GET HOST END), "O"},
    {"a chunk size with a sign",
     BYTES(GET HOST "Transfer-Encoding: chunked\r\n" END "-1\r\n" GET HOST END), "O"},
    {"a tunnel that is not made", BYTES("CONNECT h:80 HTTP/1.1\r\n" HOST END GET HOST END), "!"},
    {"an upgrade that is not made",
     BYTES(GET HOST "Connection: Upgrade\r\nUpgrade: websocket\r\n" END GET HOST END), "oo"},
    {"an expectation that is not met",
     BYTES(POST HOST "Expect: 100-continue\r\nContent-Length: 44\r\n" END GET HOST END), "M"},
    {"a bare CR makes no second request", BYTES(GET HOST "X: y\r\r\n\r\n" GET HOST END), "!"},
    {"a bare LF makes no second request", BYTES(GET HOST "X: y\n\r\n" GET HOST END), "!"},
    {"a NUL makes no second request", BYTES(GET HOST "X: \0\r\n\r\n" GET HOST END), "!"},
    {"an HTTP/2 preface behind a request", BYTES(GET HOST END "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
     "o!"},
};

static char letter(int taken, const struct http_request *r)
{
    bool ends = r->persistence == HTTP_CLOSE;
    if (taken < 0)
        return '!';
    if (r->head_only)
        return ends ? 'H' : 'h';
    if (r->status == HTTP_OK)
        return ends ? 'O' : 'o';
    if (r->status == HTTP_NOT_FOUND)
        return ends ? 'N' : 'n';
    return ends ? 'M' : 'm';
}

/* Feeds the bytes in the parts that end at SPLITS, the way a server would. */
static void answers_of(const struct pipeline *p, const size_t *splits, size_t count, char *answers)
{
    size_t done = 0;
    for (size_t i = 0; i <= count; i++) {
        size_t end = i < count ? splits[i] : p->length;
        while (done < end) {
            struct http_request r;
            int n = http_parse(p->bytes + done, end - done, &r);
            if (n == 0)
                break;
            *answers++ = letter(n, &r);
            *answers = '\0';
            if (r.persistence == HTTP_CLOSE)
                return;
            done += (size_t)n;
        }
    }
}

static void check_split(const struct pipeline *p, const size_t *splits, size_t count)
{
    char answers[64] = "";
    answers_of(p, splits, count, answers);
    if (strcmp(answers, p->answers) != 0)
        fail("%zu splits, %zu first: '%s', wanted '%s'", count, count ? splits[0] : 0, answers,
             p->answers);
}

static void check_pipelines(void)
{
    size_t each[1024];
    for (size_t i = 0; i < COUNT(each); i++)
        each[i] = i;
    for (size_t i = 0; i < COUNT(pipelines); i++) {
        const struct pipeline *p = &pipelines[i];
        for (size_t first = 0; first <= p->length; first++)
            for (size_t second = first; second <= p->length; second++)
                check_split(p, (size_t[]){first, second}, 2);
        check_split(p, each, p->length);
        finish("pipelines", p->name);
    }
}

/* ---- responses ---- */

static const struct tm sunday = {.tm_year = 94,
                                 .tm_mon = 10,
                                 .tm_mday = 6,
                                 .tm_wday = 0,
                                 .tm_hour = 8,
                                 .tm_min = 49,
                                 .tm_sec = 37};
static const char sunday_text[] = "Sun, 06 Nov 1994 08:49:37 GMT";

static const struct answer {
    enum http_status status;
    const char *line;
    const char *body; /* NULL: any */
} answers[] = {
    {HTTP_OK, "200 OK", "Hello, World!"},
    {HTTP_BAD_REQUEST, "400 Bad Request", NULL},
    {HTTP_NOT_FOUND, "404 Not Found", "Not found"},
    {HTTP_METHOD_NOT_ALLOWED, "405 Method Not Allowed", NULL},
    {HTTP_REQUEST_TIMEOUT, "408 Request Timeout", NULL},
    {HTTP_URI_TOO_LONG, "414 URI Too Long", NULL},
    {HTTP_FIELDS_TOO_LARGE, "431 Request Header Fields Too Large", NULL},
    {HTTP_NOT_IMPLEMENTED, "501 Not Implemented", NULL},
    {HTTP_VERSION_NOT_SUPPORTED, "505 HTTP Version Not Supported", NULL},
};

/* The value of the one field NAME in HEAD, copied to VALUE; "" if there is none. */
static void field(const char *head, const char *name, char value[HTTP_RESPONSE_MAX])
{
    size_t length = strlen(name);
    int found = 0;
    *value = '\0';
    for (const char *line = strstr(head, "\r\n"); line; line = strstr(line + 2, "\r\n")) {
        if (strncasecmp(line + 2, name, length) != 0 || line[2 + length] != ':')
            continue;
        const char *start = line + 2 + length + 1 + strspn(line + 2 + length + 1, " ");
        snprintf(value, HTTP_RESPONSE_MAX, "%.*s", (int)strcspn(start, "\r"), start);
        found++;
    }
    if (found > 1)
        fail("%s is there %d times", name, found);
}

static void expect_field(const char *head, const char *name, const char *wanted)
{
    char value[HTTP_RESPONSE_MAX];
    field(head, name, value);
    if (strcmp(value, wanted) != 0)
        fail("%s is '%s', not '%s'", name, value, wanted);
}

/* Copies the response into a block of just its greatest size, and ends it with a NUL. */
static size_t respond(const struct http_responses *responses, const struct http_request *request,
                      char text[HTTP_RESPONSE_MAX + 1])
{
    char *at = first_byte + ROOM - HTTP_RESPONSE_MAX;
    size_t length = http_respond(responses, request, at);
    if (length > HTTP_RESPONSE_MAX)
        fail("%zu bytes are too many", length);
    memcpy(text, at, length);
    text[length] = '\0';
    if (strlen(text) != length)
        fail("a NUL at byte %zu of %zu", strlen(text), length);
    return length;
}

static void check_response(const struct http_responses *responses, const struct answer *answer,
                           enum http_persistence persistence)
{
    static const char *const said[HTTP_PERSISTENCES] = {"", "keep-alive", "close"};
    struct http_request r = {answer->status, persistence, false, false};
    char whole[HTTP_RESPONSE_MAX + 1], head[HTTP_RESPONSE_MAX + 1], length[32];
    respond(responses, &r, whole);
    r.head_only = true;
    size_t head_length = respond(responses, &r, head);
    const char *body = strstr(whole, "\r\n\r\n");
    if (!body) {
        fail("no empty line");
        return;
    }
    body += 4;
    if (head_length != (size_t)(body - whole) || memcmp(head, whole, head_length) != 0)
        fail("the response to HEAD is not that to GET without its body");
    if (strncmp(whole, "HTTP/1.1 ", 9) != 0 ||
        strncmp(whole + 9, answer->line, strlen(answer->line)) != 0 ||
        strncmp(whole + 9 + strlen(answer->line), "\r\n", 2) != 0)
        fail("the status line is not that of %s", answer->line);
    if (answer->body && strcmp(body, answer->body) != 0)
        fail("the body is '%s'", body);
    snprintf(length, sizeof length, "%zu", strlen(body));
    expect_field(head, "Content-Length", length);
    expect_field(head, "Date", sunday_text);
    expect_field(head, "Connection", said[persistence]);
    expect_field(head, "Content-Type", "text/plain; charset=utf-8");
    expect_field(head, "Allow", answer->status == HTTP_METHOD_NOT_ALLOWED ? "GET, HEAD" : "");
    expect_field(head, "Transfer-Encoding", "");
}

static void check_responses(const struct http_responses *responses)
{
    static const char *const persistences[] = {"stays", "stays, said so", "closes"};
    char name[80];
    for (size_t i = 0; i < COUNT(answers); i++) {
        for (int p = 0; p < HTTP_PERSISTENCES; p++) {
            check_response(responses, &answers[i], (enum http_persistence)p);
            snprintf(name, sizeof name, "%s, %s", answers[i].line, persistences[p]);
            finish("responses", name);
        }
    }
}

static void check_date(struct http_responses *responses, const struct tm *utc, const char *text)
{
    http_format(responses, utc);
    for (int s = 0; s < HTTP_STATUSES; s++) {
        for (int p = 0; p < HTTP_PERSISTENCES; p++) {
            struct http_request r = {(enum http_status)s, (enum http_persistence)p, false, false};
            char response[HTTP_RESPONSE_MAX + 1];
            respond(responses, &r, response);
            expect_field(response, "Date", text);
        }
    }
}

static void check_dates(struct http_responses *responses)
{
    static const char *const days[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
    static const char *const months[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                         "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    char text[64];
    for (int month = 0; month < 12; month++) {
        int day = month % 7;
        struct tm utc = {.tm_year = 126,
                         .tm_mon = month,
                         .tm_mday = month + 1,
                         .tm_wday = day,
                         .tm_hour = 23,
                         .tm_min = 59,
                         .tm_sec = 60};
        snprintf(text, sizeof text, "%s, %02d %s 2026 23:59:60 GMT", days[day], month + 1,
                 months[month]);
        check_date(responses, &utc, text);
    }
    finish("responses", "each month and day is named as HTTP names it");
}

static void check_rejection(const char *bytes, bool is_head)
{
    struct http_request r = {HTTP_STATUSES, HTTP_PERSISTENCES, !is_head, false};
    if (http_parse(bytes, strlen(bytes), &r) != 0)
        fail("'%s' is not waiting", bytes);
    http_reject(&r, HTTP_REQUEST_TIMEOUT);
    if (r.status != HTTP_REQUEST_TIMEOUT || r.persistence != HTTP_CLOSE ||
        !r.client_may_send_more || r.head_only != is_head)
        fail("status %d, persistence %d, may send more %d, head only %d", (int)r.status,
             (int)r.persistence, r.client_may_send_more, r.head_only);
}

static void check_rejections(void)
{
    check_rejection("", false);
    check_rejection("\r\n", false);
    check_rejection("GET / HTTP/1.1\r\nHost: h", false);
    check_rejection("HEAD / HTTP/1.1\r\nHost: h", true);
    finish("responses", "a head that did not come in time is rejected, and HEAD stays HEAD");
}

int main(void)
{
    struct http_responses responses;
    make_room();
    check_tables();
    check_bytes();
    check_limits();
    check_pipelines();
    http_format(&responses, &sunday);
    check_responses(&responses);
    check_dates(&responses);
    check_rejections();
    printf("1..%d\n", cases);
    if (failures)
        printf("# %d of %d failed\n", failures, cases);
    return failures ? 1 : 0;
}
