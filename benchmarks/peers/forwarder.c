/* SPDX-License-Identifier: MIT
 *
 * A plain TCP forwarder: what a relay process costs when it neither opens nor seals anything. `forwarder PORT` listens on a loopback
 * port of the kernel's choice, says so as `{"port": N}`, joins every connection with one to PORT, and ends with its stdin.
 *
 * One shared read buffer; what is read is written at once; what the kernel refuses is copied aside, and that source is not read
 * until it is gone. The end of either side closes both. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

enum { READ_LEN = 256 * 1024, BACKLOG = 128 };

/* One end of a joined pair; freed when both are closed. `write` and `rest` serve bytes that came from `other`. */
typedef struct side {
    uv_tcp_t tcp;
    uv_write_t write;
    uv_connect_t connect;
    struct side *other;
    char *rest;
    int closed;
} side_t;

static char read_buffer[READ_LEN];
static struct sockaddr_in target;

static void check(int rc, const char *what)
{
    if (rc < 0) {
        fprintf(stderr, "forwarder: %s: %s\n", what, uv_strerror(rc));
        exit(1);
    }
}

static void side_closed(uv_handle_t *handle)
{
    side_t *side = handle->data;
    side->closed = 1;
    if (side->other->closed) {
        free(side->other);
        free(side);
    }
}

static void pair_close(side_t *side)
{
    if (!uv_is_closing((uv_handle_t *)&side->tcp))
        uv_close((uv_handle_t *)&side->tcp, side_closed);
    if (!uv_is_closing((uv_handle_t *)&side->other->tcp))
        uv_close((uv_handle_t *)&side->other->tcp, side_closed);
}

static void buffer_lend(uv_handle_t *handle, size_t suggested_len, uv_buf_t *buf)
{
    (void)handle, (void)suggested_len;
    *buf = uv_buf_init(read_buffer, READ_LEN);
}

static void side_read(uv_stream_t *stream, ssize_t n_read, const uv_buf_t *buf);

static void rest_written(uv_write_t *write, int status)
{
    side_t *side = write->data;
    free(side->rest);
    side->rest = NULL;
    if (status < 0)
        pair_close(side);
    else if (!uv_is_closing((uv_handle_t *)&side->other->tcp))
        uv_read_start((uv_stream_t *)&side->other->tcp, buffer_lend, side_read);
}

static void side_read(uv_stream_t *stream, ssize_t n_read, const uv_buf_t *buf)
{
    side_t *other = ((side_t *)stream->data)->other;
    if (n_read == 0)
        return;
    if (n_read < 0) {
        pair_close(other);
        return;
    }
    uv_buf_t out = uv_buf_init(buf->base, (unsigned)n_read);
    int n_written = uv_try_write((uv_stream_t *)&other->tcp, &out, 1);
    if (n_written == UV_EAGAIN)
        n_written = 0;
    if (n_written < 0) {
        pair_close(other);
    } else if (n_written < n_read) {
        size_t rest_len = (size_t)(n_read - n_written);
        other->rest = malloc(rest_len);
        memcpy(other->rest, buf->base + n_written, rest_len);
        out = uv_buf_init(other->rest, (unsigned)rest_len);
        uv_read_stop(stream);
        check(uv_write(&other->write, (uv_stream_t *)&other->tcp, &out, 1, rest_written), "write");
    }
}

static void target_connected(uv_connect_t *connect, int status)
{
    side_t *side = connect->data;
    if (status < 0) {
        fprintf(stderr, "forwarder: connect: %s\n", uv_strerror(status));
        pair_close(side);
        return;
    }
    uv_read_start((uv_stream_t *)&side->tcp, buffer_lend, side_read);
    uv_read_start((uv_stream_t *)&side->other->tcp, buffer_lend, side_read);
}

static side_t *side_create(uv_loop_t *loop)
{
    side_t *side = calloc(1, sizeof *side);
    if (!side)
        check(UV_ENOMEM, "accept");
    uv_tcp_init(loop, &side->tcp);
    side->tcp.data = side->write.data = side->connect.data = side;
    return side;
}

static void source_accept(uv_stream_t *listener, int status)
{
    check(status, "accept");
    side_t *in = side_create(listener->loop), *out = side_create(listener->loop);
    in->other = out;
    out->other = in;
    check(uv_accept(listener, (uv_stream_t *)&in->tcp), "accept");
    uv_tcp_nodelay(&in->tcp, 1);
    check(uv_tcp_connect(&out->connect, &out->tcp, (struct sockaddr *)&target, target_connected), "connect");
    uv_tcp_nodelay(&out->tcp, 1);
}

static void stdin_read(uv_stream_t *stream, ssize_t n_read, const uv_buf_t *buf)
{
    (void)buf;
    if (n_read < 0)
        uv_stop(stream->loop);
}

int main(int argc, char **argv)
{
    uv_loop_t *loop = uv_default_loop();
    uv_tcp_t listener;
    uv_pipe_t input;
    struct sockaddr_in own;
    int own_len = sizeof own;

    if (argc != 2)
        check(UV_EINVAL, "usage: forwarder PORT");
    check(uv_ip4_addr("127.0.0.1", atoi(argv[1]), &target), "target");
    check(uv_ip4_addr("127.0.0.1", 0, &own), "address");
    check(uv_tcp_init(loop, &listener), "socket");
    check(uv_tcp_bind(&listener, (struct sockaddr *)&own, 0), "bind");
    check(uv_listen((uv_stream_t *)&listener, BACKLOG, source_accept), "listen");
    check(uv_tcp_getsockname(&listener, (struct sockaddr *)&own, &own_len), "listen");
    check(uv_pipe_init(loop, &input, 0), "stdin");
    check(uv_pipe_open(&input, 0), "stdin");
    check(uv_read_start((uv_stream_t *)&input, buffer_lend, stdin_read), "stdin");
    printf("{\"ok\": {\"port\": %d}}\n", ntohs(own.sin_port));
    fflush(stdout);
    uv_run(loop, UV_RUN_DEFAULT);
    return 0;
}
