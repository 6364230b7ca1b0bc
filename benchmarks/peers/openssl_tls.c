/* SPDX-License-Identifier: MIT
 *
 * OpenSSL and blocking sockets, nothing else: what TLS 1.3 costs in C. Needs OpenSSL's headers (apt-get install libssl-dev). `openssl_tls server PEM HELLO` and `openssl_tls client PEM PORT`
 * are run by `openssl_tls.py` and understand the commands "send", "received" and "ping" of its Python peers. */

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { CHUNK_LEN = 64 * 1024, READ_LEN = 256 * 1024, MESSAGE_LEN = 64 };

static unsigned char buffer[READ_LEN];
static char line[4096];

static void check(int is_right, const char *what)
{
    if (!is_right) {
        perror(what);
        ERR_print_errors_fp(stderr);
        exit(1);
    }
}

static long number_of(const char *name)
{
    const char *at = strstr(line, name);
    check(at != NULL, name);
    return atol(at + strlen(name));
}

static SSL_CTX *context_make(int is_server, const char *pem)
{
    SSL_CTX *context = SSL_CTX_new(is_server ? TLS_server_method() : TLS_client_method());
    check(context != NULL, "context");
    check(SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION), "TLS 1.3");
    check(SSL_CTX_set_ciphersuites(context, "TLS_AES_256_GCM_SHA384"), "suite");
    check(SSL_CTX_set1_groups_list(context, "X25519"), "group");
    SSL_CTX_set_num_tickets(context, 0);
    if (is_server) {
        check(SSL_CTX_use_certificate_chain_file(context, pem), "certificate");
        check(SSL_CTX_use_PrivateKey_file(context, pem, SSL_FILETYPE_PEM), "key");
    } else {
        check(SSL_CTX_load_verify_locations(context, pem, NULL), "trusted certificate");
        SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    }
    return context;
}

static SSL *connection_make(SSL_CTX *context, int descriptor)
{
    int one = 1;
    SSL *tls = SSL_new(context);
    check(tls && setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) == 0, "connection");
    check(SSL_set_fd(tls, descriptor), "connection");
    return tls;
}

static int listener_make(int *port)
{
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t own_len = sizeof own;
    int descriptor = socket(AF_INET, SOCK_STREAM, 0);
    check(bind(descriptor, (struct sockaddr *)&own, own_len) == 0 && listen(descriptor, 1) == 0, "listen");
    check(getsockname(descriptor, (struct sockaddr *)&own, &own_len) == 0, "listen");
    *port = ntohs(own.sin_port);
    return descriptor;
}

static SSL *accepted(SSL_CTX *context, int listener)
{
    SSL *tls = connection_make(context, accept(listener, NULL, NULL));
    check(SSL_accept(tls) > 0, "accept");
    return tls;
}

static void server_run(const char *pem, const char *service, const char *hello)
{
    long total = 0;
    int port, n, listener = listener_make(&port);
    SSL_CTX *context = context_make(1, pem);
    printf("{\"ok\": {\"port\": %d, \"certificate\": %s}}\n", port, hello);
    fflush(stdout);
    if (strcmp(service, "echo") == 0) {
        SSL *tls = accepted(context, listener);
        while ((n = SSL_read(tls, buffer, MESSAGE_LEN)) > 0)
            check(SSL_write(tls, buffer, n) > 0, "write");
        return;
    }
    SSL *tls = NULL;
    while (fgets(line, sizeof line, stdin)) {
        for (long wanted = number_of("\"total\": "); total < wanted; total += n) {
            tls = tls ? tls : accepted(context, listener);
            n = SSL_read(tls, buffer, READ_LEN);
            check(n > 0, "read");
        }
        puts("{\"ok\": null}");
        fflush(stdout);
    }
}

static long long now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static int samples_order(const void *a, const void *b)
{
    long long first = *(const long long *)a, second = *(const long long *)b;
    return (first > second) - (first < second);
}

static void ping(SSL *tls, long n)
{
    long long *samples_ns = calloc((size_t)n, sizeof *samples_ns);
    check(samples_ns != NULL, "ping");
    for (long idx = 0; idx < n; idx++) {
        long long started_ns = now_ns();
        check(SSL_write(tls, buffer, MESSAGE_LEN) > 0, "write");
        check(SSL_read(tls, buffer, MESSAGE_LEN) > 0, "read");
        samples_ns[idx] = now_ns() - started_ns;
    }
    qsort(samples_ns, (size_t)n, sizeof *samples_ns, samples_order);
    printf("{\"ok\": {\"p50_us\": %.3f, \"p99_us\": %.3f}}\n", (double)samples_ns[n / 2] / 1e3, (double)samples_ns[n * 99 / 100] / 1e3);
    free(samples_ns);
}

static void client_run(const char *pem, int port)
{
    struct sockaddr_in target = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons((unsigned short)port)};
    int descriptor = socket(AF_INET, SOCK_STREAM, 0);
    check(connect(descriptor, (struct sockaddr *)&target, sizeof target) == 0, "connect");
    SSL *tls = connection_make(context_make(0, pem), descriptor);
    puts("{\"ok\": {}}");
    fflush(stdout);
    RAND_bytes(buffer, CHUNK_LEN);
    while (fgets(line, sizeof line, stdin)) {
        if (!SSL_is_init_finished(tls))
            check(SSL_connect(tls) > 0, "handshake"); /* the server answers once it is told to receive */
        if (strstr(line, "\"ping\"")) {
            ping(tls, number_of("\"n\": "));
        } else {
            for (long left = number_of("\"length\": "); left > 0; left -= CHUNK_LEN)
                check(SSL_write(tls, buffer, CHUNK_LEN) > 0, "write");
            puts("{\"ok\": null}");
        }
        fflush(stdout);
    }
}

int main(int argc, char **argv)
{
    check(argc == 5, "usage: openssl_tls server PEM SERVICE HELLO | client PEM PORT -");
    if (strcmp(argv[1], "server") == 0)
        server_run(argv[2], argv[3], argv[4]);
    else
        client_run(argv[2], atoi(argv[3]));
    return 0;
}
