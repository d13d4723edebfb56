/* SPDX-License-Identifier: 0BSD */
/*
 * http.h - HTTP/1.1 (RFC 9112) without I/O: bytes in, request out; request in, response out.
 *
 * This module uses no sockets, reads no clock, allocates nothing and keeps no state. The caller
 * never looks at header text: the parser decides what to answer, whether the connection persists,
 * and how many bytes the request occupies.
 *
 *     n = http_parse(input, length, &request);
 *     n > 0    a request of n bytes: answer it; the next request starts after it
 *     n == 0   incomplete: call again with the same bytes and more of them
 *     n < 0    rejected: answer it and close the connection; more bytes do not change the verdict
 *
 * The same bytes lead to the same requests and verdicts, however they are split over calls.
 */
#ifndef HTTP_H
#define HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <time.h>

enum {
    /* The longest head in bytes, from its method to its empty line: room for the request line of
     * 8000 bytes that RFC 9112 section 3 recommends, and as much again for the fields. */
    HTTP_HEAD_MAX = 16 * 1024,
    /* The most input that the parser needs at once: a head and the empty line before it. */
    HTTP_INPUT_MAX = HTTP_HEAD_MAX + 2,
    /* The longest response in bytes: all are constant but for the date, and the tests measure
     * them. */
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
    HTTP_STATUSES, /* the number of them */
};

/* What happens to the connection after the response (RFC 9112 section 9.3). */
enum http_persistence {
    HTTP_PERSIST,      /* stays open, the default of HTTP/1.1; no Connection field */
    HTTP_KEEP_ALIVE,   /* stays open for an HTTP/1.0 client; Connection: keep-alive */
    HTTP_CLOSE,        /* closes, and no later byte is a request; Connection: close */
    HTTP_PERSISTENCES, /* the number of them */
};

struct http_request {
    enum http_status status;
    enum http_persistence persistence;
    bool head_only;            /* HEAD: the response is sent without its body */
    bool client_may_send_more; /* than was parsed: a body, or the rest of a rejected head */
};

/*
 * Parses one request head at the start of the LENGTH bytes at INPUT, which need no terminator and
 * are not kept. One empty line before the request line is skipped (RFC 9112 section 2.2).
 *
 * Returns the number of bytes that the head occupies, 0 if it is incomplete, or -1 if it is
 * rejected; never 0 for HTTP_INPUT_MAX bytes or more. Fills in REQUEST; if it returns 0, only its
 * head_only, and that as far as it is known: enough for http_reject.
 */
int http_parse(const char *input, size_t length, struct http_request *request);

/*
 * Turns REQUEST into one that is rejected with STATUS, for reasons that only the caller knows: its
 * head was incomplete at a deadline (HTTP_REQUEST_TIMEOUT) or at the end of the input
 * (HTTP_BAD_REQUEST). Its head_only stays.
 */
void http_reject(struct http_request *request, enum http_status status);

/* All responses of the server, about 7 KiB, owned by the caller. */
struct http_responses {
    struct http_response {
        char text[HTTP_RESPONSE_MAX];
        unsigned short head_length; /* in bytes, without the body */
        unsigned short length;      /* in bytes, with the body */
    } of[HTTP_STATUSES][HTTP_PERSISTENCES];
};

/*
 * Formats all RESPONSES with UTC as their date. The date has a resolution of one second
 * (RFC 9110 section 6.6.1), so once a second is enough; it takes some microseconds.
 */
void http_format(struct http_responses *responses, const struct tm *utc);

/*
 * Copies the response to REQUEST to OUTPUT, which has room for HTTP_RESPONSE_MAX bytes. Returns its
 * length in bytes.
 */
size_t http_respond(const struct http_responses *responses, const struct http_request *request,
                    char *output);

#endif
