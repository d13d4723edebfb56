/* SPDX-License-Identifier: 0BSD */
/*
 * parse.c - what the parser needs for a head: http_parse, and picohttpparser and llhttp where they
 * were compiled in (PICOHTTPPARSER, LLHTTP), in turns.
 *
 *     parse [ROUNDS]            prints Markdown: nanoseconds of CPU time a head, median (lowest-
 *                               highest), and the ratio to http_parse, median of the rounds'
 *     parse PARSER HEAD COUNT   parses one head COUNT times, for a tool that counts instructions
 *
 * Neither of the others checks what http_parse does: that there is one Host and that it is one,
 * what Connection and (picohttpparser) the codings and lengths say, how long the head is.
 */
#include "http.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#ifdef PICOHTTPPARSER
#include "picohttpparser.h"
#endif
#ifdef LLHTTP
#include "llhttp.h"
#endif

enum {
    BATCH = 100000, /* heads in one turn */
    ROUNDS_MAX = 1001,
};

static const struct {
    const char *name;
    const char *text;
} heads[] = {
    {"wrk", "GET / HTTP/1.1\r\n"
            "Host: 127.0.0.1:8080\r\n\r\n"},
    {"Firefox", "GET / HTTP/1.1\r\n"
                "Host: localhost:8080\r\n"
                "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 "
                "Firefox/128.0\r\n"
                "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n"
                "Accept-Language: en-US,en;q=0.5\r\n"
                "Accept-Encoding: gzip, deflate, br\r\n"
                "Connection: keep-alive\r\n"
                "Upgrade-Insecure-Requests: 1\r\n"
                "Priority: u=0, i\r\n\r\n"},
    {"picohttpparser's", /* the request of its bench.c */
     "GET /wp-content/uploads/2010/03/hello-kitty-darth-vader-pink.jpg HTTP/1.1\r\n"
     "Host: www.kittyhell.com\r\n"
     "User-Agent: Mozilla/5.0 (Macintosh; U; Intel Mac OS X 10.6; ja-JP-mac; rv:1.9.2.3) "
     "Gecko/20100401 Firefox/3.6.3 Pathtraq/0.9\r\n"
     "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n"
     "Accept-Language: ja,en-us;q=0.7,en;q=0.3\r\n"
     "Accept-Encoding: gzip,deflate\r\n"
     "Accept-Charset: Shift_JIS,utf-8;q=0.7,*;q=0.7\r\n"
     "Keep-Alive: 115\r\n"
     "Connection: keep-alive\r\n"
     "Cookie: wp_ozh_wsa_visits=2; wp_ozh_wsa_visit_lasttime=xxxxxxxxxx; "
     "__utma=xxxxxxxxx.xxxxxxxxxx.xxxxxxxxxx.xxxxxxxxxx.xxxxxxxxxx.x; "
     "__utmz=xxxxxxxxx.xxxxxxxxxx.x.x.utmccn=(referral)|utmcsr=reader.livedoor.com|"
     "utmcct=/reader/|utmcmd=referral\r\n\r\n"},
};

static void check(bool right)
{
    if (!right) {
        fprintf(stderr, "parse: a head was not taken whole\n");
        exit(1);
    }
}

static void ours(const char *head, size_t length, int count)
{
    struct http_request request;
    for (int i = 0; i < count; i++)
        check(http_parse(head, length, &request) == (int)length);
}

#ifdef PICOHTTPPARSER
static void pico(const char *head, size_t length, int count)
{
    struct phr_header fields[32];
    const char *method, *path;
    size_t method_length, path_length;
    int minor;
    for (int i = 0; i < count; i++) {
        size_t found = sizeof fields / sizeof *fields;
        check(phr_parse_request(head, length, &method, &method_length, &path, &path_length, &minor,
                                fields, &found, 0) == (int)length);
    }
}
#endif

#ifdef LLHTTP
/* One parser, as for one connection. */
static void llhttp(const char *head, size_t length, int count)
{
    llhttp_settings_t settings;
    llhttp_t parser;
    llhttp_settings_init(&settings);
    llhttp_init(&parser, HTTP_REQUEST, &settings);
    for (int i = 0; i < count; i++)
        check(llhttp_execute(&parser, head, length) == HPE_OK);
}
#endif

static const struct {
    const char *name;
    void (*parse)(const char *head, size_t length, int count);
} parsers[] = {
    {"http_parse", ours},
#ifdef PICOHTTPPARSER
    {"picohttpparser", pico},
#endif
#ifdef LLHTTP
    {"llhttp", llhttp},
#endif
};

enum {
    HEADS = sizeof heads / sizeof *heads,
    PARSERS = sizeof parsers / sizeof *parsers,
};

static double results[PARSERS][HEADS][ROUNDS_MAX];

static double turn(int parser, int head)
{
    struct timespec from, to;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &from);
    parsers[parser].parse(heads[head].text, strlen(heads[head].text), BATCH);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &to);
    return ((double)(to.tv_sec - from.tv_sec) * 1e9 + (double)(to.tv_nsec - from.tv_nsec)) / BATCH;
}

static int compare(const void *a, const void *b)
{
    double difference = *(const double *)a - *(const double *)b;
    return (difference > 0) - (difference < 0);
}

/* Of ROUNDS values, which are sorted for it. */
static double median(double *values, int rounds)
{
    qsort(values, (size_t)rounds, sizeof *values, compare);
    return values[rounds / 2];
}

static void print(int rounds)
{
    printf("|");
    for (int h = 0; h < HEADS; h++)
        printf(" | %s, %zu bytes", heads[h].name, strlen(heads[h].text));
    printf(" |\n|---|---:|---:|---:|\n");
    for (int p = PARSERS - 1; p >= 0; p--) { /* http_parse, whose rounds are the measure, last */
        printf("| %s", parsers[p].name);
        for (int h = 0; h < HEADS; h++) {
            double ratios[ROUNDS_MAX];
            for (int r = 0; r < rounds; r++)
                ratios[r] = results[p][h][r] / results[0][h][r];
            double ratio = median(ratios, rounds), time = median(results[p][h], rounds);
            printf(" | %.1f (%.1f-%.1f), %.2f", time, results[p][h][0], results[p][h][rounds - 1],
                   ratio);
        }
        printf(" |\n");
    }
}

int main(int argc, char **argv)
{
    int rounds = argc == 2 ? atoi(argv[1]) : 25;
    for (int p = 0; argc == 4 && p < PARSERS; p++)
        if (strcmp(argv[1], parsers[p].name) == 0) {
            const char *text = heads[atoi(argv[2]) % HEADS].text;
            parsers[p].parse(text, strlen(text), atoi(argv[3]));
            return 0;
        }
    if (rounds < 1 || rounds > ROUNDS_MAX || argc > 2)
        return 2;
    for (int r = 0; r < rounds; r++)
        for (int h = 0; h < HEADS; h++)
            for (int p = 0; p < PARSERS; p++)
                results[(p + r) % PARSERS][h][r] = turn((p + r) % PARSERS, h);
    print(rounds);
    return 0;
}
