/* SPDX-License-Identifier: 0BSD */
/*
 * fuzz - libFuzzer looks for bytes with which http_parse breaks a law of http.h:
 *
 *   - it reads the bytes it is given and no others (each part of them is parsed in a block of just
 *     its size, which AddressSanitizer watches);
 *   - what is decided stays decided, whatever follows, and any split leads to the same answers;
 *   - no more is taken than there is, and HTTP_INPUT_MAX bytes are always enough to decide;
 *   - a reader of an answered head, in the simplest of ways, finds the same end of it, and the same
 *     framing of what follows: a head with two readings is never answered with the connection open;
 *   - no response is longer than HTTP_RESPONSE_MAX;
 *   - built with AGAINST, the parser of another commit, whose struct http_request has the same
 *     layout: both answer the same.
 */
#include "http.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define LAW(holds)                                                                                 \
    do {                                                                                           \
        if (!(holds)) {                                                                            \
            fprintf(stderr, "broken at line %d: %s\n", __LINE__, #holds);                          \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

enum {
    SPLITS = 8,       /* of each request */
    ANSWERS_MAX = 32, /* looked at in one input */
};

struct answer {
    int taken;
    struct http_request request;
};

#ifdef AGAINST
int other_http_parse(const char *input, size_t length, struct http_request *request);
#else
#define other_http_parse http_parse
#endif

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);

static bool same(struct answer a, struct answer b)
{
    return a.taken == b.taken && a.request.head_only == b.request.head_only &&
           (a.taken == 0 || (a.request.status == b.request.status &&
                             a.request.persistence == b.request.persistence &&
                             a.request.client_may_send_more == b.request.client_may_send_more));
}

static struct answer parse(const char *bytes, size_t length)
{
    struct answer a, other;
    char *copy = malloc(length ? length : 1);
    LAW(copy != NULL);
    memcpy(copy, bytes, length);
    /* No byte of an empty block can be read. */
    a.taken = http_parse(length ? copy : copy + 1, length, &a.request);
    other.taken = other_http_parse(length ? copy : copy + 1, length, &other.request);
    LAW(same(a, other));
    free(copy);
    return a;
}

/* Anything, but always the same for the same input. */
static size_t draw(uint64_t *state, size_t below)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (size_t)(*state >> 33) % below;
}

/* ---- the simplest reader ---- */

struct simple {
    size_t lines;
    int hosts;
    int lengths;
    bool has_body; /* or may have, by some reading */
    bool http_1_0;
};

static bool starts(const char *line, size_t length, const char *text)
{
    return length >= strlen(text) && strncasecmp(line, text, strlen(text)) == 0;
}

static void read_line(struct simple *s, const char *line, size_t length)
{
    for (size_t i = 0; i < length; i++)
        LAW((unsigned char)line[i] >= ' ' || (s->lines > 0 && line[i] == '\t'));
    if (s->lines++ == 0) {
        s->http_1_0 = length > 8 && memcmp(line + length - 8, "HTTP/1.0", 8) == 0;
        LAW(s->http_1_0 || (length > 8 && memcmp(line + length - 8, "HTTP/1.1", 8) == 0));
        const char *space = memchr(line, ' ', length);
        LAW(space && memrchr(line, ' ', length) == line + length - 9);
        LAW(memchr(space + 1, ' ', length - (size_t)(space + 1 - line)) == line + length - 9);
        return;
    }
    const char *colon = memchr(line, ':', length);
    LAW(colon && colon > line && colon[-1] != ' ' && colon[-1] != '\t' && line[0] != ' ' &&
        line[0] != '\t');
    s->hosts += starts(line, length, "host:");
    if (starts(line, length, "content-length:")) {
        s->lengths++;
        for (const char *c = colon + 1; c < line + length; c++) {
            LAW(strchr("0123456789 \t", *c));
            s->has_body |= *c != '0' && *c != ' ' && *c != '\t';
        }
    }
    if (starts(line, length, "transfer-encoding:")) {
        s->has_body = true;
        LAW(!s->http_1_0);
    }
}

/* An answered head of LENGTH bytes, of which the first two may be an empty line. */
static void check_head(const char *bytes, size_t length, const struct http_request *r)
{
    struct simple s = {0};
    const char *at = bytes, *end = bytes + length;
    if (*at == '\r')
        at += 2;
    LAW(end - at <= HTTP_HEAD_MAX);
    const char *empty = memmem(at, (size_t)(end - at), "\r\n\r\n", 4);
    LAW(empty && empty + 4 == end);
    while (at < end - 2) {
        const char *stop = memmem(at, (size_t)(end - at), "\r\n", 2);
        read_line(&s, at, (size_t)(stop - at));
        at = stop + 2;
    }
    LAW(s.hosts == 1 || (s.hosts == 0 && s.http_1_0));
    LAW(!s.has_body || (r->persistence == HTTP_CLOSE && r->client_may_send_more));
    LAW(s.has_body || !r->client_may_send_more);
    LAW(r->persistence != HTTP_PERSIST || !s.http_1_0);
    LAW(r->persistence != HTTP_KEEP_ALIVE || s.http_1_0);
    LAW(r->status == HTTP_OK || r->status == HTTP_NOT_FOUND ||
        r->status == HTTP_METHOD_NOT_ALLOWED);
}

/* ---- the laws ---- */

static void check_response(const struct http_request *request)
{
    static struct http_responses responses;
    static const struct tm epoch = {.tm_year = 70, .tm_mday = 1, .tm_wday = 4};
    char output[HTTP_RESPONSE_MAX];
    if (!responses.of[0][0].length)
        http_format(&responses, &epoch);
    LAW(request->status < HTTP_STATUSES && request->persistence < HTTP_PERSISTENCES);
    size_t length = http_respond(&responses, request, output);
    LAW(length > 0 && length <= sizeof output);
    LAW(!request->head_only || memcmp(output + length - 4, "\r\n\r\n", 4) == 0);
}

/* The one answer to the first LENGTH bytes: shorter parts of them are waited on, or already say the
 * same. */
static void check_parts(const char *bytes, size_t length, struct answer whole, uint64_t *state)
{
    for (int i = 0; i < SPLITS && length > 0; i++) {
        size_t cut = draw(state, length);
        struct answer part = parse(bytes, cut);
        LAW(part.taken <= (int)cut);
        LAW(part.taken == 0 || same(part, whole));
        LAW(whole.taken != 0 || part.taken == 0);
        LAW(whole.taken <= 0 || cut >= (size_t)whole.taken || part.taken == 0);
        LAW(!part.request.head_only || whole.request.head_only);
    }
}

static void check_answer(const char *bytes, size_t length, struct answer a)
{
    LAW(a.taken >= -1 && a.taken <= (int)length);
    LAW(a.taken != 0 || length < HTTP_INPUT_MAX);
    if (a.taken == 0)
        http_reject(&a.request, HTTP_REQUEST_TIMEOUT);
    if (a.taken <= 0)
        LAW(a.request.persistence == HTTP_CLOSE && a.request.client_may_send_more);
    else
        check_head(bytes, (size_t)a.taken, &a.request);
    check_response(&a.request);
}

/* The answers to all that comes in one piece. */
static size_t read_whole(const char *bytes, size_t length, struct answer *answers, uint64_t *state)
{
    size_t count = 0, done = 0;
    while (count < ANSWERS_MAX) {
        struct answer a = parse(bytes + done, length - done);
        check_answer(bytes + done, length - done, a);
        check_parts(bytes + done, length - done, a, state);
        if (a.taken == 0)
            break;
        answers[count++] = a;
        if (a.request.persistence == HTTP_CLOSE)
            break;
        done += (size_t)a.taken;
    }
    return count;
}

/* The same answers come where it arrives in pieces. */
static void read_pieces(const char *bytes, size_t length, const struct answer *answers,
                        size_t count, uint64_t *state)
{
    size_t next = 0, done = 0, come = 0;
    while (come < length && next < count) {
        size_t piece = draw(state, 4) == 0 ? draw(state, length - come) : draw(state, 48);
        come = come + 1 + piece < length ? come + 1 + piece : length;
        while (next < count) {
            struct answer a = parse(bytes + done, come - done);
            if (a.taken == 0)
                break;
            LAW(same(a, answers[next]));
            next++;
            if (a.request.persistence == HTTP_CLOSE)
                break;
            done += (size_t)a.taken;
        }
    }
    LAW(next == count);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct answer answers[ANSWERS_MAX];
    uint64_t state = 14695981039346656037u; /* FNV-1a of the input: draws are part of it */
    for (size_t i = 0; i < size; i++)
        state = (state ^ data[i]) * 1099511628211u;
    size_t count = read_whole((const char *)data, size, answers, &state);
    read_pieces((const char *)data, size, answers, count, &state);
    return 0;
}

/* Now and then one byte is repeated until the input is about as long as a head may be: mutations
 * alone do not find the way there. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    uint64_t state = seed;
    size_t wanted = HTTP_HEAD_MAX - 8 + draw(&state, 16);
    if (draw(&state, 64) != 0 || size == 0 || size >= wanted || max < wanted)
        return LLVMFuzzerMutate(data, size, max);
    size_t at = draw(&state, size), more = wanted - size;
    memmove(data + at + more, data + at, size - at);
    memset(data + at, data[at], more);
    return wanted;
}
