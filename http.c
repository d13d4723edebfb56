/* http.c - see http.h. Section numbers without a name are those of RFC 9112. */
#include "http.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* ---- bytes ---- */

enum {
    TOKEN = 1,    /* tchar: methods and field names (RFC 9110 section 5.6.2) */
    TARGET = 2,   /* what is visible, but for #, which no request target has (section 3.2) */
    VALUE = 4,    /* field-vchar, space and tab (RFC 9110 section 5.5); no other control */
    REG_NAME = 8, /* unreserved and sub-delims (RFC 3986 section 3.2.2) */
    HEX = 16,
};

/* clang-format off */
static const unsigned char class_of[256] = {
    0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    4, 15, 6, 5, 15, 7, 15, 15, 14, 14, 15, 15, 14, 15, 15, 6,
    31, 31, 31, 31, 31, 31, 31, 31, 31, 31, 6, 14, 6, 14, 6, 6,
    6, 31, 31, 31, 31, 31, 31, 15, 15, 15, 15, 15, 15, 15, 15, 15,
    15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 6, 6, 6, 7, 15,
    7, 31, 31, 31, 31, 31, 31, 15, 15, 15, 15, 15, 15, 15, 15, 15,
    15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 6, 7, 6, 15, 0,
    4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4,
    4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4,
    4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4,
    4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4,
    4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4,
    4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4,
    4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4,
    4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4,
};
/* clang-format on */

static bool is(char byte, unsigned char class)
{
    return class_of[(unsigned char)byte] & class;
}

static bool is_digit(char byte)
{
    return byte >= '0' && byte <= '9';
}

struct slice {
    const char *start;
    const char *end;
};

static size_t length_of(struct slice s)
{
    return (size_t)(s.end - s.start);
}

static bool same(struct slice s, const char *text)
{
    size_t length = strlen(text);
    return length_of(s) == length && memcmp(s.start, text, length) == 0;
}

/* TEXT: letters in lower case, and hyphens. The bit that tells cases apart makes no other byte
 * of a token or field value one of these. */
static bool same_in_any_case(struct slice s, const char *text)
{
    size_t length = strlen(text);
    if (length_of(s) != length)
        return false;
    while (length > 0 && (s.start[length - 1] | 0x20) == text[length - 1])
        length--;
    return length == 0;
}

static bool is_blank(char byte)
{
    return byte == ' ' || byte == '\t';
}

static struct slice trimmed(struct slice s)
{
    while (s.start < s.end && is_blank(s.start[0]))
        s.start++;
    while (s.start < s.end && is_blank(s.end[-1]))
        s.end--;
    return s;
}

/* ---- hosts ---- */

static bool is_ipv4(struct slice s)
{
    for (int part = 0; part < 4; part++) {
        int value = 0;
        const char *first = s.start;
        while (s.start < s.end && is_digit(s.start[0]) && s.start - first < 3)
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

/* Returns where the reg-name at the start of S ends. */
static const char *end_of_reg_name(struct slice s)
{
    for (; s.start < s.end; s.start++) {
        if (is(s.start[0], REG_NAME))
            continue;
        if (s.start[0] != '%' || s.end - s.start < 3 || !is(s.start[1], HEX) ||
            !is(s.start[2], HEX))
            break;
        s.start += 2;
    }
    return s.start;
}

static bool is_port(struct slice s)
{
    int value = 0;
    for (; s.start < s.end && value <= UINT16_MAX; s.start++) {
        if (!is_digit(s.start[0]))
            return false;
        value = value * 10 + (s.start[0] - '0');
    }
    return value <= UINT16_MAX;
}

/* uri-host [ ":" port ], not empty (RFC 9110 sections 4.2.1 and 7.2). */
static bool is_authority(struct slice s)
{
    const char *host_end;
    if (s.start < s.end && s.start[0] == '[') {
        host_end = memchr(s.start, ']', length_of(s));
        if (!host_end || !is_ipv6((struct slice){s.start + 1, host_end}))
            return false;
        host_end++;
    } else {
        host_end = end_of_reg_name(s);
        if (host_end == s.start)
            return false;
    }
    return host_end == s.end || (*host_end == ':' && is_port((struct slice){host_end + 1, s.end}));
}

/* ---- heads ---- */

/* How far a step of the parser came. */
enum step {
    DONE,
    STARVED, /* the bytes end here */
    WRONG,   /* request->status says what */
};

struct parser {
    const char *at;
    const char *end;
    struct http_request *request;
    bool http_1_0;
    bool asked_close;
    bool asked_keep_alive;
    bool has_host;
    bool has_length;
    uint64_t content_length;
    int codings; /* Transfer-Encoding fields */
    bool chunked;
};

static enum step wrong(struct parser *p, enum http_status status)
{
    p->request->status = status;
    return WRONG;
}

/* How many of the bytes from AT on, eight at a time, are neither controls nor DEL: what field
 * values are made of, tabs and ends apart. */
static size_t plain(const char *at, const char *end)
{
    const uint64_t each = 0x0101010101010101, high = each * 0x80;
    const char *start = at;
    for (; end - at >= 8; at += 8) {
        uint64_t bytes, del;
        memcpy(&bytes, at, sizeof bytes);
        del = bytes ^ each * 0x7f;
        /* The high bit of a byte of the difference: it was below, and borrowed. */
        if ((((bytes - each * 0x20) & ~bytes) | ((del - each) & ~del)) & high)
            break;
    }
    return (size_t)(at - start);
}

/* Takes the bytes of CLASS; DONE when one that is none follows, at p->at. */
static enum step take(struct parser *p, unsigned char class, struct slice *taken)
{
    const char *at = p->at;
    if (class == VALUE)
        at += plain(at, p->end);
    while (at < p->end && is(*at, class))
        at++;
    *taken = (struct slice){p->at, at};
    p->at = at;
    return at == p->end ? STARVED : DONE;
}

/* Takes TEXT. Inline, so that its length is known. */
static inline enum step expect(struct parser *p, const char *text)
{
    const size_t length = strlen(text), there = (size_t)(p->end - p->at);
    if (there >= length && memcmp(p->at, text, length) == 0) {
        p->at += length;
        return DONE;
    }
    if (there < length && memcmp(p->at, text, there) == 0)
        return STARVED;
    return wrong(p, HTTP_BAD_REQUEST);
}

static enum step expect_digit(struct parser *p, char *digit)
{
    if (p->at == p->end)
        return STARVED;
    *digit = *p->at;
    return is_digit(*p->at++) ? DONE : wrong(p, HTTP_BAD_REQUEST);
}

/* Takes a word of CLASS and the one SEPARATOR behind it. */
static enum step take_word(struct parser *p, unsigned char class, char separator,
                           struct slice *word)
{
    if (take(p, class, word) == STARVED)
        return STARVED;
    if (word->start == word->end || *p->at != separator)
        return wrong(p, HTTP_BAD_REQUEST);
    p->at++;
    return DONE;
}

/* The path and query of an http URI (RFC 9110 section 4.2.1); no slice where it is none. */
static struct slice path_of_uri(struct slice target)
{
    const size_t length = sizeof "http://" - 1;
    if (length_of(target) < length ||
        !same_in_any_case((struct slice){target.start, target.start + length - 3}, "http") ||
        memcmp(target.start + length - 3, "://", 3) != 0)
        return (struct slice){NULL, NULL};
    const char *authority = target.start + length;
    const char *path = authority;
    while (path < target.end && *path != '/' && *path != '?')
        path++;
    if (!is_authority((struct slice){authority, path}))
        return (struct slice){NULL, NULL};
    return (struct slice){path, target.end};
}

/* What METHOD on TARGET deserves (section 3.2). */
static enum http_status route(struct slice method, struct slice target)
{
    bool readable = same(method, "GET") || same(method, "HEAD");
    if (same(target, "*"))
        return same(method, "OPTIONS") ? HTTP_METHOD_NOT_ALLOWED : HTTP_BAD_REQUEST;
    struct slice path = target.start[0] == '/' ? target : path_of_uri(target);
    if (!path.start)
        return HTTP_BAD_REQUEST;
    if (path.start < path.end && path.start[0] == '/')
        path.start++;
    if (path.start < path.end && path.start[0] != '?')
        return HTTP_NOT_FOUND;
    return readable ? HTTP_OK : HTTP_METHOD_NOT_ALLOWED;
}

static enum step parse_version(struct parser *p, char *major, char *minor)
{
    enum step step = expect(p, "HTTP/");
    if (step == DONE)
        step = expect_digit(p, major);
    if (step == DONE)
        step = expect(p, ".");
    if (step == DONE)
        step = expect_digit(p, minor);
    return step == DONE ? expect(p, "\r\n") : step;
}

static enum step parse_request_line(struct parser *p)
{
    struct slice method, target;
    char major, minor;
    enum step step = take_word(p, TOKEN, ' ', &method);
    if (step != DONE)
        return step;
    p->request->head_only = same(method, "HEAD");
    step = take_word(p, TARGET, ' ', &target);
    if (step == DONE)
        step = parse_version(p, &major, &minor);
    if (step != DONE)
        return step;
    if (major != '1' || minor > '1')
        return wrong(p, HTTP_VERSION_NOT_SUPPORTED);
    p->http_1_0 = minor == '0';
    p->request->status = route(method, target);
    return p->request->status == HTTP_BAD_REQUEST ? WRONG : DONE;
}

/* A list (RFC 9110 section 5.6.1) that may go on in further fields of the name. */
static void read_connection(struct parser *p, struct slice list)
{
    while (list.start < list.end) {
        const char *comma = memchr(list.start, ',', length_of(list));
        struct slice option = trimmed((struct slice){list.start, comma ? comma : list.end});
        if (same_in_any_case(option, "close"))
            p->asked_close = true;
        else if (same_in_any_case(option, "keep-alive"))
            p->asked_keep_alive = true;
        list.start = comma ? comma + 1 : list.end;
    }
}

/* RFC 9110 section 8.6: digits, and the same number wherever it is said again. */
static enum step read_content_length(struct parser *p, struct slice digits)
{
    uint64_t value = 0;
    if (digits.start == digits.end)
        return wrong(p, HTTP_BAD_REQUEST);
    for (; digits.start < digits.end; digits.start++) {
        if (!is_digit(*digits.start))
            return wrong(p, HTTP_BAD_REQUEST);
        uint64_t digit = (uint64_t)(*digits.start - '0');
        if (value > (INT64_MAX - digit) / 10)
            return wrong(p, HTTP_BAD_REQUEST);
        value = value * 10 + digit;
    }
    if (p->has_length && value != p->content_length)
        return wrong(p, HTTP_BAD_REQUEST);
    p->has_length = true;
    p->content_length = value;
    return DONE;
}

static enum step read_field(struct parser *p, struct slice name, struct slice value)
{
    switch (length_of(name)) {
    case 4:
        if (!same_in_any_case(name, "host"))
            break;
        if (p->has_host || !is_authority(value))
            return wrong(p, HTTP_BAD_REQUEST);
        p->has_host = true;
        break;
    case 10:
        if (same_in_any_case(name, "connection"))
            read_connection(p, value);
        break;
    case 14:
        if (same_in_any_case(name, "content-length"))
            return read_content_length(p, value);
        break;
    case 17:
        if (same_in_any_case(name, "transfer-encoding"))
            p->chunked = p->codings++ == 0 && same_in_any_case(value, "chunked");
        break;
    }
    return DONE;
}

/* A name that is a token leaves no way in for folding, and none for space before the colon
 * (sections 5.1 and 5.2). */
static enum step parse_field_line(struct parser *p)
{
    struct slice name, value;
    enum step step = take_word(p, TOKEN, ':', &name);
    if (step != DONE)
        return step;
    if (take(p, VALUE, &value) == STARVED)
        return STARVED;
    step = expect(p, "\r\n");
    return step == DONE ? read_field(p, name, trimmed(value)) : step;
}

/* What only the whole head tells: framing (section 6.3), Host (3.2), persistence (9.3). */
static enum step judge(struct parser *p)
{
    struct http_request *r = p->request;
    if (p->codings && (p->http_1_0 || p->has_length))
        return wrong(p, HTTP_BAD_REQUEST);
    if (!p->has_host && !p->http_1_0)
        return wrong(p, HTTP_BAD_REQUEST);
    if (p->codings && !p->chunked)
        return wrong(p, HTTP_NOT_IMPLEMENTED);
    r->more_to_come = p->codings || p->content_length > 0;
    if (r->more_to_come || p->asked_close || (p->http_1_0 && !p->asked_keep_alive))
        r->persistence = HTTP_CLOSE;
    else
        r->persistence = p->http_1_0 ? HTTP_PERSIST_ECHO : HTTP_PERSIST;
    return DONE;
}

static enum step parse_fields(struct parser *p)
{
    for (;;) {
        if (p->at == p->end)
            return STARVED;
        bool last = *p->at == '\r';
        enum step step = last ? expect(p, "\r\n") : parse_field_line(p);
        if (step != DONE)
            return step;
        if (last)
            return judge(p);
    }
}

int http_parse(const char *input, size_t length, struct http_request *request)
{
    struct parser p = {.at = input, .end = input + length, .request = request};
    *request = (struct http_request){0};
    enum step step = length && input[0] == '\r' ? expect(&p, "\r\n") : DONE;
    bool cut = p.end - p.at >= HTTP_HEAD_MAX;
    if (cut)
        p.end = p.at + HTTP_HEAD_MAX;
    enum http_status too_long = HTTP_URI_TOO_LONG;
    if (step == DONE)
        step = parse_request_line(&p);
    if (step == DONE) {
        too_long = HTTP_FIELDS_TOO_LARGE;
        step = parse_fields(&p);
    }
    if (step == DONE)
        return (int)(p.at - input);
    if (step == STARVED && !cut)
        return 0;
    http_refuse(request, step == STARVED ? too_long : request->status);
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
