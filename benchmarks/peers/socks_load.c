/* SPDX-License-Identifier: MIT
 *
 * A program that uses a SOCKS5 proxy, and the target that it asks the proxy for: blocking sockets and threads, so that next to nothing but the proxy costs. `socks_load PORT` is run by
 * `socks_load.py`. The target is sent a length in 8 bytes and answers with as many bytes and its end; asked for none it answers with one, and holds the connection. */

#include <arpa/inet.h>
#include <endian.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CHUNK_LEN = 64 * 1024, N_TARGET_THREADS = 256, N_AT_ONCE_MAX = 256, STACK_LEN = 256 * 1024 };

static char chunk[CHUNK_LEN]; /* what the target sends */
static int listener, target_port, proxy_port;
static char line[4096];

typedef struct {
    pthread_t thread;
    long n;          /* connections to make, one after the other */
    uint64_t length; /* to ask for */
    _Atomic uint64_t received_len;
} lane_t;

static lane_t lanes[N_AT_ONCE_MAX];
static pthread_barrier_t start;

static void check(int is_right, const char *what)
{
    if (!is_right) {
        perror(what);
        exit(1);
    }
}

static long number_of(const char *name)
{
    const char *at = strstr(line, name);
    check(at != NULL, name);
    return atol(at + strlen(name));
}

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void read_all(int descriptor, void *buffer, size_t length)
{
    check(recv(descriptor, buffer, length, MSG_WAITALL) == (ssize_t)length, "read");
}

static void write_all(int descriptor, const void *buffer, size_t length)
{
    check(send(descriptor, buffer, length, MSG_NOSIGNAL) == (ssize_t)length, "write");
}

static void *target_run(void *ignored)
{
    for (;;) {
        int one = 1, descriptor = accept(listener, NULL, NULL);
        uint64_t length;
        check(descriptor >= 0, "accept");
        setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        read_all(descriptor, &length, sizeof length);
        length = be64toh(length);
        if (length == 0) {
            write_all(descriptor, chunk, 1); /* held: the descriptor stays open */
            continue;
        }
        for (; length > 0; length -= length < CHUNK_LEN ? length : CHUNK_LEN)
            write_all(descriptor, chunk, length < CHUNK_LEN ? length : CHUNK_LEN);
        close(descriptor);
    }
    return ignored;
}

static int connection_make(void)
{
    struct sockaddr_in proxy = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons((unsigned short)proxy_port)};
    unsigned char request[] = {5, 1, 0, 1, 127, 0, 0, 1, (unsigned char)(target_port >> 8), (unsigned char)target_port}, reply[10];
    int one = 1, descriptor = socket(AF_INET, SOCK_STREAM, 0);
    check(connect(descriptor, (struct sockaddr *)&proxy, sizeof proxy) == 0, "connect");
    setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    write_all(descriptor, "\5\1\0", 3);
    read_all(descriptor, reply, 2);
    check(reply[0] == 5 && reply[1] == 0, "greeting");
    write_all(descriptor, request, sizeof request);
    read_all(descriptor, reply, 10);
    check(reply[1] == 0, "the proxy refused");
    return descriptor;
}

static void length_ask(int descriptor, uint64_t length)
{
    length = htobe64(length);
    write_all(descriptor, &length, sizeof length);
}

static void answer_read(int descriptor, lane_t *lane)
{
    char buffer[CHUNK_LEN];
    uint64_t received_len = 0;
    ssize_t n;
    while ((n = recv(descriptor, buffer, sizeof buffer, 0)) > 0) {
        received_len += (uint64_t)n;
        atomic_fetch_add(&lane->received_len, (uint64_t)n);
    }
    check(n == 0 && received_len == lane->length, "answer");
    close(descriptor);
}

static void *lane_run(void *lane_)
{
    lane_t *lane = lane_;
    for (long idx = 0; idx < lane->n; idx++) {
        int descriptor = connection_make();
        length_ask(descriptor, lane->length);
        answer_read(descriptor, lane);
    }
    return NULL;
}

static void *download_run(void *lane_)
{
    lane_t *lane = lane_;
    int descriptor = connection_make();
    pthread_barrier_wait(&start);
    length_ask(descriptor, lane->length);
    answer_read(descriptor, lane);
    return NULL;
}

static void thread_start(pthread_t *thread, void *(*run)(void *), void *argument)
{
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_LEN);
    check(pthread_create(thread, &attributes, run, argument) == 0, "thread");
}

static void lanes_start(void *(*run)(void *), long n_lanes, long n, uint64_t length)
{
    for (long idx = 0; idx < n_lanes; idx++) {
        lanes[idx].n = n;
        lanes[idx].length = length;
        atomic_store(&lanes[idx].received_len, 0);
        thread_start(&lanes[idx].thread, run, &lanes[idx]);
    }
}

static void lanes_join(long n_lanes)
{
    for (long idx = 0; idx < n_lanes; idx++)
        pthread_join(lanes[idx].thread, NULL);
}

/* "connections": so many, so many at once, each asks for `length` bytes and reads to the end. */
static void connections_run(long n, long n_at_once, uint64_t length)
{
    double started_s = now_s();
    lanes_start(lane_run, n_at_once, n / n_at_once, length);
    lanes_join(n_at_once);
    printf("{\"ok\": {\"connections_per_s\": %.3f}}\n", (double)(n / n_at_once * n_at_once) / (now_s() - started_s));
}

/* "hold": so many more connections that have carried a byte each way stay open. */
static void hold_run(long n)
{
    char byte;
    while (n-- > 0) {
        int descriptor = connection_make();
        length_ask(descriptor, 0);
        read_all(descriptor, &byte, 1);
    }
    puts("{\"ok\": null}");
}

static void least_and_most(uint64_t *lens, long n, uint64_t *least_len, uint64_t *most_len)
{
    *least_len = UINT64_MAX;
    *most_len = 0;
    for (long idx = 0; idx < n; idx++) {
        *least_len = lens[idx] < *least_len ? lens[idx] : *least_len;
        *most_len = lens[idx] > *most_len ? lens[idx] : *most_len;
    }
}

static void received_lens(uint64_t *lens, long n)
{
    for (long idx = 0; idx < n; idx++)
        lens[idx] = atomic_load(&lanes[idx].received_len);
}

/* "downloads": so many at once; what each receives between the first byte of the last and the end of the first. */
static void downloads_run(long n, uint64_t length)
{
    uint64_t began[N_AT_ONCE_MAX], lens[N_AT_ONCE_MAX], least_len, most_len;
    struct timespec pause = {.tv_nsec = 1000000};
    pthread_barrier_init(&start, NULL, (unsigned)n + 1);
    lanes_start(download_run, n, 1, length);
    pthread_barrier_wait(&start);
    double started_s = now_s();
    do {
        nanosleep(&pause, NULL);
        received_lens(began, n);
        least_and_most(began, n, &least_len, &most_len);
    } while (least_len == 0 && most_len < length);
    double window_s = now_s();
    do {
        nanosleep(&pause, NULL);
        received_lens(lens, n);
        least_and_most(lens, n, &least_len, &most_len);
    } while (most_len < length);
    window_s = now_s() - window_s;
    for (long idx = 0; idx < n; idx++)
        lens[idx] -= began[idx];
    least_and_most(lens, n, &least_len, &most_len);
    lanes_join(n);
    printf("{\"ok\": {\"slowest_share\": %.5f, \"window_s\": %.4f, \"mb_per_s\": %.3f}}\n", most_len ? (double)least_len / (double)most_len : 0, window_s,
           (double)n * (double)length / (now_s() - started_s) / 1e6);
}

static void descriptors_raise(void)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static void target_start(void)
{
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof here;
    pthread_t thread;
    listener = socket(AF_INET, SOCK_STREAM, 0);
    check(bind(listener, (struct sockaddr *)&here, sizeof here) == 0 && listen(listener, 1024) == 0, "listen");
    getsockname(listener, (struct sockaddr *)&here, &length);
    target_port = ntohs(here.sin_port);
    for (int idx = 0; idx < N_TARGET_THREADS; idx++)
        thread_start(&thread, target_run, NULL);
}

int main(void)
{
    descriptors_raise();
    target_start();
    printf("{\"ok\": {\"port\": %d}}\n", target_port);
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        if (strstr(line, "\"proxy\"")) {
            proxy_port = (int)number_of("\"port\": ");
            puts("{\"ok\": null}");
        } else if (strstr(line, "\"connections\"")) {
            connections_run(number_of("\"n\": "), number_of("\"n_at_once\": "), (uint64_t)number_of("\"length\": "));
        } else if (strstr(line, "\"hold\"")) {
            hold_run(number_of("\"n\": "));
        } else if (strstr(line, "\"downloads\"")) {
            downloads_run(number_of("\"n\": "), (uint64_t)number_of("\"length\": "));
        }
        fflush(stdout);
    }
    return 0;
}
