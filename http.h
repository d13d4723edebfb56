/* SPDX-License-Identifier: 0BSD */
/*
 * http.h - HTTP/1.1 as a function of bytes: bytes in, request out; request in, response out.
 *
 * Knows no sockets, keeps no clock, allocates nothing, has no state of its own. All that follows
 * from the text of a head is decided here: the caller learns what to answer, whether the
 * connection persists, and how many bytes the request took, and never looks at header text.
 *
 *     n = http_parse(input, length, &request);
 *     n > 0    a request of n bytes: answer it; the next one starts behind it
 *     n == 0   incomplete: call again, from the same first byte, with more of it
 *     n < 0    refused: answer it, and close; more bytes do not change the verdict
 *
 * Any split of the same bytes over any number of calls leads to the same requests and verdicts.
 */
#ifndef HTTP_H
#define HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <time.h>

enum {
    /* The longest head, from its method to its empty line: room for the 8000-byte request line
     * that RFC 9112 section 3 asks for, and as much again for the fields. */
    HTTP_HEAD_MAX = 16 * 1024,
    /* Input that a parser ever needs at once: a head, and the empty line that may precede it. */
    HTTP_INPUT_MAX = HTTP_HEAD_MAX + 2,
    /* No response is longer: each is a constant text, which test/http_cases.c measures. */
    HTTP_RESPONSE_MAX = 256,
};

enum http_status {
    HTTP_OK,
    HTTP_BAD_REQUEST,
    HTTP_NOT_FOUND,
    HTTP_METHOD_NOT_ALLOWED,
    HTTP_REQUEST_TIMEOUT,
    HTTP_URI_TOO_LONG,
    HTTP_FIELDS_TOO_LARGE,
    HTTP_NOT_IMPLEMENTED,
    HTTP_VERSION_NOT_SUPPORTED,
    HTTP_STATUSES, /* how many there are */
};

/* What becomes of the connection after the response (RFC 9112 section 9.3). */
enum http_persistence {
    HTTP_PERSIST,      /* stays open, as HTTP/1.1 does without a word */
    HTTP_PERSIST_ECHO, /* stays open for HTTP/1.0, which has to be told: Connection: keep-alive */
    HTTP_CLOSE,        /* ends: Connection: close; nothing behind the head is a request */
    HTTP_PERSISTENCES, /* how many there are */
};

struct http_request {
    enum http_status status;
    enum http_persistence persistence;
    bool head_only;    /* HEAD: the response is sent without its body */
    bool more_to_come; /* the client may go on sending: a body, or the rest of a refused head */
};

/*
 * Reads one request head from the LENGTH bytes at INPUT, which need no terminator and are not
 * kept. One empty line ahead of the request line is skipped (RFC 9112 section 2.2).
 *
 * Returns the number of bytes taken, 0 if the head is not whole yet, or -1 if it is refused.
 * Never 0 for HTTP_INPUT_MAX bytes or more. REQUEST is filled in unless 0 is returned; when it is,
 * only head_only is set, as far as it is known, for http_refuse.
 */
int http_parse(const char *input, size_t length, struct http_request *request);

/*
 * Makes REQUEST one that is refused with STATUS, for what only the caller can see: a head that was
 * not whole in time (HTTP_REQUEST_TIMEOUT), or that ended in the middle (HTTP_BAD_REQUEST).
 */
void http_refuse(struct http_request *request, enum http_status status);

/* Every response this server gives, ready to be copied; about 7 KiB, owned by the caller. */
struct http_responses {
    struct {
        char text[HTTP_RESPONSE_MAX];
        unsigned short date_at; /* where the 29 bytes of the date start */
        unsigned short head;    /* bytes without the body */
        unsigned short whole;   /* bytes with it */
    } of[HTTP_STATUSES][HTTP_PERSISTENCES];
};

/* Formats RESPONSES, dated UTC. */
void http_format(struct http_responses *responses, const struct tm *utc);

/* Dates RESPONSES, formatted before, anew: once a second is enough (RFC 9110 section 6.6.1). */
void http_date(struct http_responses *responses, const struct tm *utc);

/*
 * Copies the response to REQUEST to OUTPUT, which has room for HTTP_RESPONSE_MAX bytes.
 * Returns its length.
 */
size_t http_respond(const struct http_responses *responses, const struct http_request *request,
                    char *output);

#endif
