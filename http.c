/* SPDX-License-Identifier: 0BSD */
/* http.c - see http.h. Section numbers without a name are those of RFC 9112. */
#include "http.h"

#include <endian.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* For what few heads come to: the compiler keeps it out of the way of the others. */
#define COLD __attribute__((cold))

/* ---- bytes ---- */

enum {
    TOKEN = 1,    /* tchar: methods and field names (RFC 9110 section 5.6.2) */
    TARGET = 2,   /* what is visible, but for #, which no request target has (section 3.2) */
    VALUE = 4,    /* VCHAR, space and tab: a field value, together with all bytes over 127 */
    REG_NAME = 8, /* unreserved and sub-delims (RFC 3986 section 3.2.2) */
    HEX = 16,
    DIGIT = 32,
    BLANK = 64,
};

/* clang-format off */
static const unsigned char class_of[256] = { /* 0 from 128 on */
    0, 0, 0, 0, 0, 0, 0, 0, 0, 68, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    68, 15, 6, 5, 15, 7, 15, 15, 14, 14, 15, 15, 14, 15, 15, 6,
    63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 6, 14, 6, 14, 6, 6,
    6, 31, 31, 31, 31, 31, 31, 15, 15, 15, 15, 15, 15, 15, 15, 15,
    15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 6, 6, 6, 7, 15,
    7, 31, 31, 31, 31, 31, 31, 15, 15, 15, 15, 15, 15, 15, 15, 15,
    15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 6, 7, 6, 15, 0,
};
/* clang-format on */

static bool is(char byte, unsigned char class)
{
    return class_of[(unsigned char)byte] & class;
}

struct slice {
    const char *start;
    const char *end;
};

static size_t length_of(struct slice s)
{
    return (size_t)(s.end - s.start);
}

/* Inline, as the next two, so that the length of TEXT is known. */
static inline bool same(struct slice s, const char *text)
{
    return length_of(s) == strlen(text) && memcmp(s.start, text, strlen(text)) == 0;
}

/* TEXT: letters and hyphens, spelled as usual. The bit that tells cases apart makes no other byte
 * of a token or field value one of these. */
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

/* Returns where the bytes of CLASS end. */
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

/* Returns where the field value ends (RFC 9110 section 5.5). */
static inline const char *skip_value(const char *at, const char *end)
{
    const uint64_t each = 0x0101010101010101;
    for (; end - at >= 8; at += 8) {
        uint64_t bytes;
        memcpy(&bytes, at, sizeof bytes);
        bytes = le64toh(bytes); /* the first byte is the lowest: carries disturb only later ones */
        uint64_t control = bytes - each * ' ', del = bytes + each;
        uint64_t marks = (control | del) & ~bytes & each * 0x80;
        if (marks) {
            at += __builtin_ctzll(marks) / 8;
            break;
        }
    }
    while (at < end && (is(*at, VALUE) || (*at & 0x80)))
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

/* ---- hosts ---- */

static bool is_ipv4(struct slice s)
{
    for (int part = 0; part < 4; part++) {
        int value = 0;
        const char *first = s.start;
        while (s.start < s.end && is(s.start[0], DIGIT) && s.start - first < 3)
            value = value * 10 + (*s.start++ - '0');
        if (s.start == first || value > 255 || (first[0] == '0' && s.start - first > 1))
            return false;
        if (part < 3 && (s.start == s.end || *s.start++ != '.'))
            return false;
    }
    return s.start == s.end;
}

/* Eight groups of up to four digits, of which one :: may stand for one or more, and an IPv4
 * address for the last two (RFC 3986 section 3.2.2). */
static bool is_ipv6(struct slice s)
{
    int groups = 0;
    bool gap = false;
    if (length_of(s) >= 2 && s.start[0] == ':' && s.start[1] == ':') {
        gap = true;
        s.start += 2;
    }
    while (s.start < s.end) {
        const char *first = s.start;
        while (s.start < s.end && is(*s.start, HEX))
            s.start++;
        if (s.start < s.end && *s.start == '.') {
            groups += 2;
            return is_ipv4((struct slice){first, s.end}) && (gap ? groups < 8 : groups == 8);
        }
        if (s.start == first || s.start - first > 4)
            return false;
        groups++;
        if (s.start == s.end)
            break;
        if (*s.start++ != ':' || s.start == s.end)
            return false;
        if (*s.start == ':') {
            if (gap)
                return false;
            gap = true;
            s.start++;
        }
    }
    return gap ? groups < 8 : groups == 8;
}

/* Returns where the reg-name ends that goes on with % AT. */
static COLD const char *end_of_escaped(const char *at, const char *end)
{
    while (end - at >= 3 && *at == '%' && is(at[1], HEX) && is(at[2], HEX))
        at = skip(at + 3, end, REG_NAME);
    return at;
}

/* Returns where the IPv6 address in brackets ends, or START if it is none. */
static COLD const char *end_of_literal(const char *start, const char *end)
{
    const char *stop = memchr(start, ']', (size_t)(end - start));
    return stop && is_ipv6((struct slice){start + 1, stop}) ? stop + 1 : start;
}

/* Digits without a limit, of which those after leading zeros are a port. */
static COLD bool is_port(const char *at, const char *end)
{
    while (at < end && *at == '0')
        at++;
    return end - at < 5 || (end - at == 5 && memcmp(at, "65535", 5) <= 0);
}

/* uri-host [ ":" port ], not empty (RFC 9110 sections 4.2.1 and 7.2). Returns where it ends, or
 * NULL if it is none. */
static inline const char *end_of_authority(const char *at, const char *end)
{
    const char *host = at;
    at = skip(at, end, REG_NAME);
    if (at < end && *at == '%')
        at = end_of_escaped(at, end);
    else if (at < end && at == host && *at == '[')
        at = end_of_literal(at, end);
    if (at == host)
        return NULL;
    if (at == end || *at != ':')
        return at;
    const char *port = at + 1;
    at = skip(port, end, DIGIT);
    return at - port < 5 || is_port(port, at) ? at : NULL;
}

/* ---- heads ---- */

/* A head as far as it was read. Each step of the parser takes the place where it starts and returns
 * where the next one starts, or NULL: the bytes end too early (starved), or the head is wrong, and
 * request->status says how. */
struct head {
    const char *end; /* of the bytes there are */
    struct http_request *request;
    uint64_t content_length;
    int codings; /* Transfer-Encoding fields */
    bool starved;
    bool http_1_0;
    bool asked_close;
    bool asked_keep_alive;
    bool has_host;
    bool has_length;
    bool chunked;
};

static COLD const char *starve(struct head *h)
{
    h->starved = true;
    return NULL;
}

static COLD const char *wrong(struct head *h, enum http_status status)
{
    h->request->status = status;
    return NULL;
}

/* Takes TEXT, in which 0 stands for any digit. */
static COLD const char *expect_slowly(struct head *h, const char *at, const char *text)
{
    for (; *text; text++, at++) {
        if (at == h->end)
            return starve(h);
        if (*text == '0' ? !is(*at, DIGIT) : *at != *text)
            return wrong(h, HTTP_BAD_REQUEST);
    }
    return at;
}

static inline const char *expect_line_end(struct head *h, const char *at)
{
    if (h->end - at >= 2 && memcmp(at, "\r\n", 2) == 0)
        return at + 2;
    return expect_slowly(h, at, "\r\n");
}

/* The path and query of an http URI (RFC 9110 section 4.2.1); no slice where it is none. */
static COLD struct slice path_of_uri(struct slice target)
{
    const size_t length = sizeof "http://" - 1;
    if (length_of(target) < length ||
        !same_in_any_case((struct slice){target.start, target.start + length - 3}, "http") ||
        memcmp(target.start + length - 3, "://", 3) != 0)
        return (struct slice){NULL, NULL};
    const char *path = end_of_authority(target.start + length, target.end);
    if (path && path < target.end && *path != '/' && *path != '?')
        path = NULL;
    return (struct slice){path, target.end};
}

/* What a request for TARGET deserves (section 3.2); READABLE: by a method that reads it. */
static enum http_status route(struct slice method, struct slice target, bool readable)
{
    struct slice path = target;
    if (*target.start != '/') {
        if (same(target, "*"))
            return same(method, "OPTIONS") ? HTTP_METHOD_NOT_ALLOWED : HTTP_BAD_REQUEST;
        path = path_of_uri(target);
        if (!path.start)
            return HTTP_BAD_REQUEST;
    }
    if (path.start < path.end && *path.start == '/')
        path.start++;
    if (path.start < path.end && *path.start != '?')
        return HTTP_NOT_FOUND;
    return readable ? HTTP_OK : HTTP_METHOD_NOT_ALLOWED;
}

static const char *parse_version(struct head *h, const char *at)
{
    static const char usual[] = "HTTP/1.1\r\n";
    if (h->end - at >= (ptrdiff_t)sizeof usual - 1 && memcmp(at, usual, sizeof usual - 1) == 0)
        return at + sizeof usual - 1;
    const char *next = expect_slowly(h, at, "HTTP/0.0\r\n");
    if (next && (at[5] != '1' || at[7] > '1'))
        return wrong(h, HTTP_VERSION_NOT_SUPPORTED);
    h->http_1_0 = next && at[7] == '0';
    return next;
}

/* Takes the word from AT to STOP, and the one SEPARATOR behind it. */
static inline const char *end_word(struct head *h, const char *at, const char *stop, char separator)
{
    if (stop == h->end)
        return starve(h);
    return stop > at && *stop == separator ? stop + 1 : wrong(h, HTTP_BAD_REQUEST);
}

static const char *parse_request_line(struct head *h, const char *at)
{
    /* Most are GET, and need no look at each letter. */
    bool get = h->end - at >= 4 && memcmp(at, "GET ", 4) == 0;
    const char *target = get ? at + 4 : end_word(h, at, skip(at, h->end, TOKEN), ' ');
    if (!target)
        return NULL;
    struct slice method = {at, target - 1};
    h->request->head_only = !get && same(method, "HEAD");
    const char *version = end_word(h, target, skip(target, h->end, TARGET), ' ');
    const char *next = version ? parse_version(h, version) : NULL;
    if (!next)
        return NULL;
    h->request->status =
        route(method, (struct slice){target, version - 1}, get || h->request->head_only);
    return h->request->status == HTTP_BAD_REQUEST ? NULL : next;
}

/* A list (RFC 9110 section 5.6.1) that may go on in further fields of the name. */
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

/* RFC 9110 section 8.6: digits, and the same number wherever it is said again. */
static bool read_content_length(struct head *h, struct slice digits)
{
    uint64_t value = 0;
    if (digits.start == digits.end)
        return false;
    for (; digits.start < digits.end; digits.start++) {
        uint64_t digit = (uint64_t)(*digits.start - '0');
        if (!is(*digits.start, DIGIT) || value > (INT64_MAX - digit) / 10)
            return false;
        value = value * 10 + digit;
    }
    if (h->has_length && value != h->content_length)
        return false;
    h->has_length = true;
    h->content_length = value;
    return true;
}

/* Takes the rest of the line of a Host field (section 3.2), the one field that each request has:
 * its value is looked at once. */
static const char *parse_host(struct head *h, const char *at)
{
    const char *stop = end_of_authority(skip(at, h->end, BLANK), h->end);
    if (stop)
        stop = skip(stop, h->end, BLANK);
    if (stop && h->end - stop >= 2 && memcmp(stop, "\r\n", 2) == 0 && !h->has_host) {
        h->has_host = true;
        return stop + 2;
    }
    stop = expect_line_end(h, skip_value(at, h->end));
    return stop ? wrong(h, HTTP_BAD_REQUEST) : NULL;
}

/* False where a field of this NAME must not be so. Most names are told apart by their length. */
static inline bool read_field(struct head *h, struct slice name, struct slice value)
{
    switch (length_of(name)) {
    case 10:
        if (same_in_any_case(name, "Connection"))
            read_connection(h, value);
        break;
    case 14:
        if (same_in_any_case(name, "Content-Length"))
            return read_content_length(h, trimmed(value));
        break;
    case 17:
        if (same_in_any_case(name, "Transfer-Encoding"))
            h->chunked = h->codings++ == 0 && same_in_any_case(trimmed(value), "chunked");
        break;
    }
    return true;
}

/* A name that is a token leaves no way in for folding, and none for space before the colon
 * (sections 5.1 and 5.2). */
static const char *parse_field(struct head *h, const char *at)
{
    const char *value = end_word(h, at, skip(at, h->end, TOKEN), ':');
    if (!value)
        return NULL;
    struct slice name = {at, value - 1};
    if (same_in_any_case(name, "Host"))
        return parse_host(h, value);
    const char *stop = skip_value(value, h->end);
    const char *next = expect_line_end(h, stop);
    if (next && !read_field(h, name, (struct slice){value, stop}))
        return wrong(h, HTTP_BAD_REQUEST);
    return next;
}

static const char *parse_fields(struct head *h, const char *at)
{
    while (at && at < h->end && *at != '\r')
        at = parse_field(h, at);
    return at ? expect_line_end(h, at) : NULL;
}

/* What only the whole head tells: framing (section 6.3), Host (3.2), persistence (9.3). */
static const char *judge(struct head *h, const char *end)
{
    struct http_request *r = h->request;
    if (h->codings && (h->http_1_0 || h->has_length))
        return wrong(h, HTTP_BAD_REQUEST);
    if (!h->has_host && !h->http_1_0)
        return wrong(h, HTTP_BAD_REQUEST);
    if (h->codings && !h->chunked)
        return wrong(h, HTTP_NOT_IMPLEMENTED);
    r->more_to_come = h->codings || h->content_length > 0;
    if (r->more_to_come || h->asked_close || (h->http_1_0 && !h->asked_keep_alive))
        r->persistence = HTTP_CLOSE;
    else
        r->persistence = h->http_1_0 ? HTTP_PERSIST_ECHO : HTTP_PERSIST;
    return end;
}

int http_parse(const char *input, size_t length, struct http_request *request)
{
    struct head h = {.end = input + length, .request = request};
    *request = (struct http_request){0};
    const char *start = length && *input == '\r' ? expect_line_end(&h, input) : input;
    if (start && h.end - start > HTTP_HEAD_MAX)
        h.end = start + HTTP_HEAD_MAX;
    const char *fields = start ? parse_request_line(&h, start) : NULL;
    const char *end = fields ? parse_fields(&h, fields) : NULL;
    if (end && judge(&h, end))
        return (int)(end - input);
    if (h.starved && (!start || h.end - start < HTTP_HEAD_MAX))
        return 0;
    if (h.starved)
        request->status = fields ? HTTP_FIELDS_TOO_LARGE : HTTP_URI_TOO_LONG;
    http_refuse(request, request->status);
    return -1;
}

void http_refuse(struct http_request *request, enum http_status status)
{
    request->status = status;
    request->persistence = HTTP_CLOSE;
    request->more_to_come = true;
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
    [HTTP_PERSIST_ECHO] = "Connection: keep-alive\r\n",
    [HTTP_CLOSE] = "Connection: close\r\n",
};

/* IMF-fixdate (RFC 9110 section 5.6.7), always this long. */
enum {
    DATE_LENGTH = sizeof "Sun, 06 Nov 1994 08:49:37 GMT" - 1
};

void http_format(struct http_responses *responses, const struct tm *utc)
{
    for (int status = 0; status < HTTP_STATUSES; status++) {
        for (int persistence = 0; persistence < HTTP_PERSISTENCES; persistence++) {
            const char *body = answers[status].body;
            int start = snprintf(NULL, 0, "HTTP/1.1 %s\r\nDate: ", answers[status].line);
            int whole = snprintf(responses->of[status][persistence].text, HTTP_RESPONSE_MAX,
                                 "HTTP/1.1 %s\r\nDate: %*s\r\nContent-Type: text/plain; "
                                 "charset=utf-8\r\n"
                                 "%s%sContent-Length: %zu\r\n\r\n%s",
                                 answers[status].line, (int)DATE_LENGTH, "", answers[status].field,
                                 connection_fields[persistence], strlen(body), body);
            responses->of[status][persistence].date_at = (unsigned short)start;
            responses->of[status][persistence].whole = (unsigned short)whole;
            responses->of[status][persistence].head = (unsigned short)(whole - (int)strlen(body));
        }
    }
    http_date(responses, utc);
}

void http_date(struct http_responses *responses, const struct tm *utc)
{
    /* strftime would name days and months in the locale's language. */
    static const char days[7][4] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
    static const char months[12][4] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                       "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    char date[96];
    snprintf(date, sizeof date, "%s, %02d %s %04d %02d:%02d:%02d GMT", days[utc->tm_wday],
             utc->tm_mday, months[utc->tm_mon], utc->tm_year + 1900, utc->tm_hour, utc->tm_min,
             utc->tm_sec);
    for (int status = 0; status < HTTP_STATUSES; status++)
        for (int persistence = 0; persistence < HTTP_PERSISTENCES; persistence++)
            memcpy(responses->of[status][persistence].text +
                       responses->of[status][persistence].date_at,
                   date, DATE_LENGTH);
}

size_t http_respond(const struct http_responses *responses, const struct http_request *request,
                    char *output)
{
    size_t length = request->head_only ? responses->of[request->status][request->persistence].head
                                       : responses->of[request->status][request->persistence].whole;
    memcpy(output, responses->of[request->status][request->persistence].text, length);
    return length;
}
