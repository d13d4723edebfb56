/* SPDX-License-Identifier: 0BSD */
/* http.c - see http.h. Section numbers without an RFC refer to RFC 9112. */
#include "http.h"

#include <endian.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* Keeps code that few heads need away from the code that all heads need. */
#define COLD __attribute__((cold))

/* ---- bytes ---- */

enum {          /* classes of bytes; a byte may be in several */
    TOKEN = 1,  /* tchar: methods and field names (RFC 9110 section 5.6.2) */
    TARGET = 2, /* visible bytes except #, which starts a fragment: request targets */
    HOST = 4,   /* unreserved and sub-delims: names of hosts (RFC 3986 section 3.2.2) */
    HEX = 8,
    DIGIT = 16,
    BLANK = 32, /* space and tab */
};

enum { /* the combinations that exist, in names as wide as the columns of the table */
    BLNK = BLANK,
    HASH = TOKEN,
    MARK = TARGET,
    ODDS = TOKEN | TARGET,
    LIST = TARGET | HOST,
    WORD = TOKEN | TARGET | HOST,
    HEXA = WORD | HEX,
    NUMB = HEXA | DIGIT,
};

/* clang-format off */
static const unsigned char classes[256] = { /* none for control characters and from 127 on */
    ['\t'] = BLNK, [' '] =
    BLNK, WORD, MARK, HASH, WORD, ODDS, WORD, WORD, LIST, LIST, WORD, WORD, LIST, WORD, WORD, MARK,
    NUMB, NUMB, NUMB, NUMB, NUMB, NUMB, NUMB, NUMB, NUMB, NUMB, MARK, LIST, MARK, LIST, MARK, MARK,
    MARK, HEXA, HEXA, HEXA, HEXA, HEXA, HEXA, WORD, WORD, WORD, WORD, WORD, WORD, WORD, WORD, WORD,
    WORD, WORD, WORD, WORD, WORD, WORD, WORD, WORD, WORD, WORD, WORD, MARK, MARK, MARK, ODDS, WORD,
    ODDS, HEXA, HEXA, HEXA, HEXA, HEXA, HEXA, WORD, WORD, WORD, WORD, WORD, WORD, WORD, WORD, WORD,
    WORD, WORD, WORD, WORD, WORD, WORD, WORD, WORD, WORD, WORD, WORD, MARK, ODDS, MARK, WORD,
};
/* clang-format on */

static bool is(char byte, unsigned char class)
{
    return classes[(unsigned char)byte] & class;
}

struct slice {
    const char *start;
    const char *end;
};

static size_t length_of(struct slice s)
{
    return (size_t)(s.end - s.start);
}

static inline bool same(struct slice s, const char *text)
{
    return length_of(s) == strlen(text) && memcmp(s.start, text, strlen(text)) == 0;
}

static inline bool starts_with(const char *at, const char *end, const char *text)
{
    return end - at >= (ptrdiff_t)strlen(text) && memcmp(at, text, strlen(text)) == 0;
}

/* Ignores case. TEXT consists of letters, hyphens, colons and slashes, and S contains no control
 * characters, so that only the two cases of a letter differ in nothing but bit 0x20. */
static inline bool same_in_any_case(struct slice s, const char *text)
{
    size_t length = strlen(text);
    if (length_of(s) != length)
        return false;
    if (memcmp(s.start, text, length) == 0)
        return true;
    while (length > 0 && (s.start[length - 1] | 0x20) == (text[length - 1] | 0x20))
        length--;
    return length == 0;
}

/* Returns the end of the bytes of CLASS that start at AT. Four bytes at a time here, and eight at a
 * time in skip_value, make the parser about twice as fast for the head that a browser sends. */
static inline const char *skip(const char *at, const char *end, unsigned char class)
{
    for (; end - at >= 4; at += 4) {
        if (!is(at[0], class))
            return at;
        if (!is(at[1], class))
            return at + 1;
        if (!is(at[2], class))
            return at + 2;
        if (!is(at[3], class))
            return at + 3;
    }
    while (at < end && is(*at, class))
        at++;
    return at;
}

/* Returns the end of the field value that starts at AT: visible characters, spaces, tabs and bytes
 * over 127 (RFC 9110 section 5.5). */
static inline const char *skip_value(const char *at, const char *end)
{
    const uint64_t each = 0x0101010101010101;
    for (; end - at >= 8; at += 8) {
        uint64_t bytes;
        memcpy(&bytes, at, sizeof bytes);
        bytes = le64toh(bytes);
        /* Bit 7 marks control characters. Carries reach only later bytes: the first mark is right.
         */
        uint64_t control = bytes - each * ' ', del = bytes + each;
        uint64_t marks = (control | del) & ~bytes & each * 0x80;
        if (marks) {
            at += __builtin_ctzll(marks) / 8;
            break;
        }
    }
    while (at < end && ((unsigned char)*at < ' ' ? *at == '\t' : *at != 0x7f))
        at++;
    return at;
}

static struct slice trimmed(struct slice s)
{
    s.start = skip(s.start, s.end, BLANK);
    while (s.start < s.end && is(s.end[-1], BLANK))
        s.end--;
    return s;
}

/* Returns the number that DIGITS represent, or -1 if they are no number or one above MOST. */
static COLD int64_t read_number(struct slice digits, int64_t most)
{
    int64_t number = 0;
    if (digits.start == digits.end)
        return -1;
    for (const char *at = digits.start; at < digits.end; at++) {
        if (!is(*at, DIGIT) || __builtin_mul_overflow(number, 10, &number) ||
            __builtin_add_overflow(number, *at - '0', &number) || number > most)
            return -1;
    }
    return number;
}

/* ---- hosts ---- */

static bool is_ipv4(struct slice s)
{
    for (int dots = 0;; dots++) {
        const char *stop = skip(s.start, s.end, DIGIT);
        if (read_number((struct slice){s.start, stop}, 255) < 0)
            return false;
        if (*s.start == '0' && stop - s.start > 1)
            return false;
        if (stop == s.end)
            return dots == 3;
        if (*stop != '.')
            return false;
        s.start = stop + 1;
    }
}

enum {
    IPV6_GROUPS = 8,
    IPV6_INVALID, /* more than an address has */
};

/* Returns the number of groups of an IPv6 address in S, or IPV6_INVALID. A group is one to four
 * hexadecimal digits, and a colon separates two groups. If S is the LAST part of the address, an
 * IPv4 address may replace its last two groups. */
static int count_groups(struct slice s, bool last)
{
    if (s.start == s.end)
        return 0;
    for (int groups = 1;; groups++) {
        const char *stop = skip(s.start, s.end, HEX);
        if (last && stop < s.end && *stop == '.')
            return is_ipv4(s) ? groups + 1 : IPV6_INVALID;
        if (stop == s.start || stop - s.start > 4)
            return IPV6_INVALID;
        if (stop == s.end)
            return groups;
        if (*stop != ':')
            return IPV6_INVALID;
        s.start = stop + 1;
    }
}

/* Eight groups, one or more of which a single :: may replace (RFC 3986 section 3.2.2). */
static bool is_ipv6(struct slice s)
{
    const char *gap = memmem(s.start, length_of(s), "::", 2);
    if (!gap)
        return count_groups(s, true) == IPV6_GROUPS;
    return count_groups((struct slice){s.start, gap}, false) +
               count_groups((struct slice){gap + 2, s.end}, true) <
           IPV6_GROUPS;
}

/* Returns the end of the host at START, or START if there is none (RFC 3986 section 3.2.2). */
static COLD const char *end_of_host(const char *start, const char *end)
{
    if (start < end && *start == '[') {
        const char *stop = memchr(start, ']', (size_t)(end - start));
        return stop && is_ipv6((struct slice){start + 1, stop}) ? stop + 1 : start;
    }
    const char *at = skip(start, end, HOST);
    while (end - at >= 3 && *at == '%' && is(at[1], HEX) && is(at[2], HEX))
        at = skip(at + 3, end, HOST);
    return at;
}

/* Returns the end of the host and optional port at START, or NULL if there are none or they are
 * invalid (RFC 9110 sections 4.2.1 and 7.2). Most hosts are plain names, and most ports short. */
static inline const char *end_of_authority(const char *start, const char *end)
{
    const char *at = skip(start, end, HOST);
    if (at == start || (at < end && *at == '%'))
        at = end_of_host(start, end);
    if (at == start)
        return NULL;
    if (at == end || *at != ':')
        return at;
    struct slice port = {at + 1, skip(at + 1, end, DIGIT)};
    if (length_of(port) < 5 || (length_of(port) == 5 && memcmp(port.start, "65535", 5) <= 0))
        return port.end;
    return read_number(port, 65535) >= 0 ? port.end : NULL;
}

/* ---- heads ---- */

/* The state of the parser. Each of its steps takes the place where it starts, and returns the place
 * where the next one starts, or NULL if the head is incomplete or rejected. */
struct head {
    const char *end; /* of the input, or of the longest head */
    struct http_request *request;
    int64_t content_length; /* -1: there is no such field */
    int codings;            /* number of Transfer-Encoding fields */
    bool incomplete;
    bool http_1_0;
    bool asked_close;
    bool asked_keep_alive;
    bool has_host;
    bool chunked; /* the only coding */
};

static COLD const char *incomplete(struct head *h)
{
    h->incomplete = true;
    return NULL;
}

static COLD const char *rejected(struct head *h, enum http_status status)
{
    http_reject(h->request, status);
    return NULL;
}

/* Parses TEXT, in which # is any digit. */
static COLD const char *parse_text(struct head *h, const char *at, const char *text)
{
    for (; *text; text++, at++) {
        if (at == h->end)
            return incomplete(h);
        if (*text == '#' ? !is(*at, DIGIT) : *at != *text)
            return rejected(h, HTTP_BAD_REQUEST);
    }
    return at;
}

static inline const char *parse_line_end(struct head *h, const char *at)
{
    return starts_with(at, h->end, "\r\n") ? at + 2 : parse_text(h, at, "\r\n");
}

/* Parses bytes of CLASS, at least one, and the SEPARATOR after them. */
static inline const char *parse_word(struct head *h, const char *at, unsigned char class,
                                     char separator)
{
    const char *stop = skip(at, h->end, class);
    if (stop == h->end)
        return incomplete(h);
    return stop > at && *stop == separator ? stop + 1 : rejected(h, HTTP_BAD_REQUEST);
}

static const char *parse_version(struct head *h, const char *at)
{
    if (starts_with(at, h->end, "HTTP/1.1\r\n"))
        return at + strlen("HTTP/1.1\r\n");
    const char *next = parse_text(h, at, "HTTP/#.#\r\n");
    if (next && memcmp(at, "HTTP/1.0", 8) != 0)
        return rejected(h, HTTP_VERSION_NOT_SUPPORTED);
    h->http_1_0 = true;
    return next;
}

/* Returns the path of an http URI, or NULL if URI is not one (RFC 9110 section 4.2.1). */
static COLD const char *path_of_uri(struct slice uri)
{
    const size_t scheme = strlen("http://");
    if (length_of(uri) < scheme ||
        !same_in_any_case((struct slice){uri.start, uri.start + scheme}, "http://"))
        return NULL;
    const char *path = end_of_authority(uri.start + scheme, uri.end);
    return path && (path == uri.end || *path == '/' || *path == '?') ? path : NULL;
}

/* Returns the status of a valid request, or HTTP_BAD_REQUEST if its target is invalid (section
 * 3.2). */
static enum http_status route(struct slice method, struct slice target, bool get_or_head)
{
    const char *path = target.start;
    if (*path != '/') {
        if (same(target, "*") && same(method, "OPTIONS"))
            return HTTP_METHOD_NOT_ALLOWED;
        path = path_of_uri(target);
    }
    if (!path)
        return HTTP_BAD_REQUEST;
    if (path < target.end && *path == '/')
        path++;
    if (path < target.end && *path != '?')
        return HTTP_NOT_FOUND;
    return get_or_head ? HTTP_OK : HTTP_METHOD_NOT_ALLOWED;
}

static const char *parse_request_line(struct head *h, const char *at)
{
    /* Most requests are GET, which is quicker to compare than to parse. */
    bool get = starts_with(at, h->end, "GET ");
    const char *target = get ? at + 4 : parse_word(h, at, TOKEN, ' ');
    if (!target)
        return NULL;
    struct slice method = {at, target - 1};
    h->request->head_only = !get && same(method, "HEAD");
    const char *version = parse_word(h, target, TARGET, ' ');
    const char *next = version ? parse_version(h, version) : NULL;
    if (!next)
        return NULL;
    h->request->status =
        route(method, (struct slice){target, version - 1}, get || h->request->head_only);
    return h->request->status == HTTP_BAD_REQUEST ? rejected(h, HTTP_BAD_REQUEST) : next;
}

/* A request may have several Connection fields, and each is a list (RFC 9110 section 5.6.1). */
static void read_connection(struct head *h, struct slice list)
{
    while (list.start < list.end) {
        const char *comma = memchr(list.start, ',', length_of(list));
        struct slice option = trimmed((struct slice){list.start, comma ? comma : list.end});
        if (same_in_any_case(option, "close"))
            h->asked_close = true;
        else if (same_in_any_case(option, "keep-alive"))
            h->asked_keep_alive = true;
        list.start = comma ? comma + 1 : list.end;
    }
}

/* A request may have several Content-Length fields with the same number (RFC 9110 section 8.6). */
static bool read_content_length(struct head *h, struct slice digits)
{
    int64_t before = h->content_length;
    h->content_length = read_number(digits, INT64_MAX);
    return h->content_length >= 0 && (before < 0 || before == h->content_length);
}

/* Parses the rest of a Host line (section 3.2). Every request has one, so that it pays to read a
 * valid value only once. */
static const char *parse_host(struct head *h, const char *at)
{
    const char *stop = end_of_authority(skip(at, h->end, BLANK), h->end);
    if (stop)
        stop = skip(stop, h->end, BLANK);
    if (stop && starts_with(stop, h->end, "\r\n") && !h->has_host) {
        h->has_host = true;
        return stop + 2;
    }
    stop = parse_line_end(h, skip_value(at, h->end));
    return stop ? rejected(h, HTTP_BAD_REQUEST) : NULL;
}

/* Returns false if the field must be rejected. */
static inline bool read_field(struct head *h, struct slice name, struct slice value)
{
    if (same_in_any_case(name, "Connection"))
        read_connection(h, value);
    else if (same_in_any_case(name, "Content-Length"))
        return read_content_length(h, trimmed(value));
    else if (same_in_any_case(name, "Transfer-Encoding"))
        h->chunked = h->codings++ == 0 && same_in_any_case(trimmed(value), "chunked");
    return true;
}

/* Because a name is a token, this rejects folded lines and spaces before the colon (sections 5.1
 * and 5.2). */
static const char *parse_field(struct head *h, const char *at)
{
    const char *value = parse_word(h, at, TOKEN, ':');
    if (!value)
        return NULL;
    struct slice name = {at, value - 1};
    if (same_in_any_case(name, "Host"))
        return parse_host(h, value);
    const char *stop = skip_value(value, h->end);
    const char *next = parse_line_end(h, stop);
    if (next && !read_field(h, name, (struct slice){value, stop}))
        return rejected(h, HTTP_BAD_REQUEST);
    return next;
}

/* Checks what only the complete head shows: framing (section 6.3), Host (section 3.2) and
 * persistence (section 9.3). */
static const char *judge(struct head *h, const char *end)
{
    struct http_request *r = h->request;
    if (h->codings && (h->http_1_0 || h->content_length >= 0))
        return rejected(h, HTTP_BAD_REQUEST);
    if (!h->has_host && !h->http_1_0)
        return rejected(h, HTTP_BAD_REQUEST);
    if (h->codings && !h->chunked)
        return rejected(h, HTTP_NOT_IMPLEMENTED);
    r->client_may_send_more = h->codings || h->content_length > 0;
    if (r->client_may_send_more || h->asked_close || (h->http_1_0 && !h->asked_keep_alive))
        r->persistence = HTTP_CLOSE;
    else
        r->persistence = h->http_1_0 ? HTTP_KEEP_ALIVE : HTTP_PERSIST;
    return end;
}

static const char *parse_fields(struct head *h, const char *at)
{
    while (at && at < h->end && *at != '\r')
        at = parse_field(h, at);
    at = at ? parse_line_end(h, at) : NULL;
    return at ? judge(h, at) : NULL;
}

int http_parse(const char *input, size_t length, struct http_request *request)
{
    struct head h = {.end = input + length, .request = request, .content_length = -1};
    request->head_only = false;
    const char *start = length > 0 && *input == '\r' ? parse_line_end(&h, input) : input;
    bool full = start && h.end - start >= HTTP_HEAD_MAX;
    if (full)
        h.end = start + HTTP_HEAD_MAX;
    const char *fields = start ? parse_request_line(&h, start) : NULL;
    const char *end = fields ? parse_fields(&h, fields) : NULL;
    if (end)
        return (int)(end - input);
    if (h.incomplete && !full)
        return 0;
    if (h.incomplete)
        http_reject(request, fields ? HTTP_FIELDS_TOO_LARGE : HTTP_URI_TOO_LONG);
    return -1;
}

void http_reject(struct http_request *request, enum http_status status)
{
    request->status = status;
    request->persistence = HTTP_CLOSE;
    request->client_may_send_more = true;
}

/* ---- responses ---- */

static const struct {
    const char *line;
    const char *field;
    const char *body;
} answers[HTTP_STATUSES] = {
    [HTTP_OK] = {"200 OK", "", "Hello, World!"},
    [HTTP_BAD_REQUEST] = {"400 Bad Request", "", "Bad request"},
    [HTTP_NOT_FOUND] = {"404 Not Found", "", "Not found"},
    [HTTP_METHOD_NOT_ALLOWED] = {"405 Method Not Allowed", "Allow: GET, HEAD\r\n",
                                 "Method not allowed"},
    [HTTP_REQUEST_TIMEOUT] = {"408 Request Timeout", "", "Request timeout"},
    [HTTP_URI_TOO_LONG] = {"414 URI Too Long", "", "URI too long"},
    [HTTP_FIELDS_TOO_LARGE] = {"431 Request Header Fields Too Large", "",
                               "Request header fields too large"},
    [HTTP_NOT_IMPLEMENTED] = {"501 Not Implemented", "", "Not implemented"},
    [HTTP_VERSION_NOT_SUPPORTED] = {"505 HTTP Version Not Supported", "",
                                    "HTTP version not supported"},
};

static const char *const connection_fields[HTTP_PERSISTENCES] = {
    [HTTP_PERSIST] = "",
    [HTTP_KEEP_ALIVE] = "Connection: keep-alive\r\n",
    [HTTP_CLOSE] = "Connection: close\r\n",
};

void http_format(struct http_responses *responses, const struct tm *utc)
{
    /* strftime would name days and months in the language of the locale. */
    static const char days[7][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
    static const char months[12][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                       "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    char date[96];
    /* IMF-fixdate (RFC 9110 section 5.6.7). */
    snprintf(date, sizeof date, "%s, %02d %s %04d %02d:%02d:%02d GMT", days[utc->tm_wday],
             utc->tm_mday, months[utc->tm_mon], utc->tm_year + 1900, utc->tm_hour, utc->tm_min,
             utc->tm_sec);
    for (int status = 0; status < HTTP_STATUSES; status++) {
        for (int persistence = 0; persistence < HTTP_PERSISTENCES; persistence++) {
            struct http_response *r = &responses->of[status][persistence];
            const char *body = answers[status].body;
            int length = snprintf(r->text, sizeof r->text,
                                  "HTTP/1.1 %s\r\nDate: %s\r\n"
                                  "Content-Type: text/plain; charset=utf-8\r\n"
                                  "%s%sContent-Length: %zu\r\n\r\n%s",
                                  answers[status].line, date, answers[status].field,
                                  connection_fields[persistence], strlen(body), body);
            r->length = (unsigned short)length;
            r->head_length = (unsigned short)(length - (int)strlen(body));
        }
    }
}

size_t http_respond(const struct http_responses *responses, const struct http_request *request,
                    char *output)
{
    const struct http_response *r = &responses->of[request->status][request->persistence];
    size_t length = request->head_only ? r->head_length : r->length;
    memcpy(output, r->text, length);
    return length;
}
