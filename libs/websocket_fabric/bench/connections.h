// Connections of the load client: opened in numbers, read and written without blocking, every frame looked at.
//
// The modes in client.c say what is sent when, and what a message that came is compared with. One translation unit: the
// client is one small program, and its hottest functions want to be inlined.
#pragma once
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

typedef uint64_t nanos;
#define SECOND 1000000000ull
#define RING 1024              // different messages; a window may have at most so many
#define DIALLED_MAX 128        // connections that wait for their handshake at a time, if not told otherwise
#define SAMPLES_MAX 8000000    // more are counted, not kept
#define IN_BYTES_MIN 2048      // of a connection's buffer; it grows to IN_BYTES_MAX where much comes
#define IN_BYTES_MAX (4 << 20)
#define HEAD_BYTES_MAX 14
#define CONTROL_BYTES_MAX 125
#define PER_ADDRESS 8000       // connections from one of 127.0.0.2, .3, ...: a source has some 28,000 ports
#define SETTLE (20 * SECOND)   // for what is still under way at the end, if it takes so long
#define KEY "dGhlIHNhbXBsZSBub25jZQ=="
#define ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

enum { TEXT = 1, BINARY = 2, CLOSE = 8, PING = 9, PONG = 10 };
enum state { UNUSED, SHAKING, OPEN, CLOSING, GONE };

struct connection {
    int fd, number;
    enum state state;
    uint8_t *in;
    size_t used, room;
    uint64_t sent, received, until;  // messages written, echoes that came, messages that are to be written
    size_t part;                     // bytes of message `sent` that the kernel took already
    nanos at;                        // when message 0 was due (paced, soak), or the last one was sent (latency)
    uint64_t seq;                    // of the last event (sink)
    uint8_t pong[CONTROL_BYTES_MAX + HEAD_BYTES_MAX];
    size_t pong_bytes;
};

static struct {
    const char *mode, *host, *path, *origin;
    int port, connections, size, window, json, hello, sequence, dialled;
    double seconds, warm, rate;
    uint64_t expect, reconnect_every;
} o = {.host = "127.0.0.1", .path = "/", .origin = "", .connections = 1, .size = 64, .window = 256, .seconds = 2,
       .warm = 0.3, .rate = 20, .reconnect_every = 400, .dialled = DIALLED_MAX};

static struct connection *all;
static int poller, opening, opened, failed;
static uint64_t wrong, broken, counted;
static nanos *samples, warm_until;
static size_t samples_kept, samples_seen;
static uint8_t *ring;    // RING frames of the same length, one after the other
static char *expected;   // the payloads of their echoes, likewise
static size_t frame_bytes, echo_bytes;
static void (*on_message)(struct connection *, const uint8_t *, size_t, nanos);
static void (*on_batch)(struct connection *, nanos);
static void (*on_closing)(struct connection *, nanos);

static nanos now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (nanos)t.tv_sec * SECOND + (nanos)t.tv_nsec;
}

static void die(const char *what) {
    fprintf(stderr, "client: %s (%s)\n", what, strerror(errno));
    exit(1);
}

static uint32_t chance(void) {  // xorshift: masks and reconnects, not secrets
    static uint32_t x = 2463534242u;
    x ^= x << 13, x ^= x >> 17, x ^= x << 5;
    return x;
}

// --- figures

static void sample(nanos took, nanos at) {
    if (at < warm_until) return;
    samples_seen++;
    if (samples_kept < SAMPLES_MAX) samples[samples_kept++] = took;
}

static int by_size(const void *a, const void *b) {
    nanos x = *(const nanos *)a, y = *(const nanos *)b;
    return x < y ? -1 : x > y;
}

static double share_us(double share) {
    size_t at = (size_t)(share * (double)samples_kept);
    return samples_kept ? (double)samples[at < samples_kept ? at : samples_kept - 1] / 1e3 : -1;
}

static void tell(double seconds, const char *more) {
    qsort(samples, samples_kept, sizeof *samples, by_size);
    printf("{\"mode\":\"%s\",\"connections\":%d,\"seconds\":%.3f,\"messages\":%lu,\"per_s\":%.0f,\"wrong\":%lu,"
           "\"broken\":%lu,\"samples\":%zu,\"p50_us\":%.1f,\"p95_us\":%.1f,\"p99_us\":%.1f,\"max_us\":%.1f%s}\n",
           o.mode, opened, seconds, counted, seconds > 0 ? (double)counted / seconds : 0, wrong, broken, samples_seen,
           share_us(.5), share_us(.95), share_us(.99), share_us(1), more);
    fflush(stdout);
}

// --- frames out

static size_t head(uint8_t *to, int opcode, size_t bytes) {
    size_t n = 0;
    to[n++] = (uint8_t)(0x80 | opcode);
    if (bytes < 126) {
        to[n++] = (uint8_t)(0x80 | bytes);
    } else {
        int width = bytes < 65536 ? 2 : 8;
        to[n++] = (uint8_t)(0x80 | (width == 2 ? 126 : 127));
        for (int i = width - 1; i >= 0; i--) to[n++] = (uint8_t)(bytes >> (8 * i));
    }
    return n;
}

static size_t frame(uint8_t *to, int opcode, const void *payload, size_t bytes) {
    size_t n = head(to, opcode, bytes);
    uint32_t key = chance();
    uint8_t mask[4];
    memcpy(mask, &key, 4);
    memcpy(to + n, mask, 4);
    n += 4;
    for (size_t i = 0; i < bytes; i++) to[n + i] = ((const uint8_t *)payload)[i] ^ mask[i & 3];
    return n + bytes;
}

static void make_ring(void) {
    static const char ask[] = "{\"type\":\"chat\",\"content\":\"%08x%.*s\",\"persona_id\":\"alice\"}";
    static const char answer[] = "{\"type\":\"token\",\"content\":\"%08x%.*s\",\"persona_id\":\"alice\"}";
    char *filler = malloc((size_t)o.size + 1), *text = malloc((size_t)o.size + 128);
    memset(filler, 'x', (size_t)o.size);
    for (int i = 0; i < RING; i++) {
        int pad = o.size - 8 - (o.json ? (int)sizeof ask - 10 : 0), bytes;
        if (pad < 0) pad = 0;
        bytes = sprintf(text, o.json ? ask : "%08x%.*s", (unsigned)i, pad, filler);
        if (!ring) ring = malloc(RING * ((size_t)bytes + HEAD_BYTES_MAX));
        frame_bytes = frame(ring + (size_t)i * frame_bytes, TEXT, text, (size_t)bytes);
        if (o.json) bytes = sprintf(text, answer, (unsigned)i, pad, filler);
        if (!expected) expected = malloc(RING * (size_t)bytes);
        echo_bytes = (size_t)bytes;
        memcpy(expected + (size_t)i * echo_bytes, text, echo_bytes);
    }
    free(filler), free(text);
}

static void push(struct connection *c) {  // write what is due; what the kernel does not take waits for the next time
    while (c->state == OPEN && (c->sent < c->until || c->pong_bytes)) {
        if (!c->part && c->pong_bytes) {
            if (write(c->fd, c->pong, c->pong_bytes) != (ssize_t)c->pong_bytes) return;
            c->pong_bytes = 0;
            continue;
        }
        uint64_t at = c->sent % RING, left = c->until - c->sent;
        size_t bytes = (size_t)(left < RING - at ? left : RING - at) * frame_bytes - c->part;
        ssize_t took = write(c->fd, ring + at * frame_bytes + c->part, bytes);
        if (took <= 0) return;
        size_t total = c->part + (size_t)took;
        c->sent += total / frame_bytes, c->part = total % frame_bytes;
        if ((size_t)took < bytes) return;
    }
}

static void send_now(struct connection *c, int opcode, const void *payload, size_t bytes) {
    uint8_t small[1024];
    if (bytes + HEAD_BYTES_MAX > sizeof small) die("a message is too long to be sent at once");
    size_t n = frame(small, opcode, payload, bytes);
    if (write(c->fd, small, n) != (ssize_t)n) broken++;
}

// --- connections

static void dial(struct connection *c) {
    int one = 1;
    char source[32], ask[512];
    struct sockaddr_in from = {.sin_family = AF_INET}, to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)o.port)};
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0) die("no socket: is the limit of open files too low?");
    sprintf(source, "127.0.0.%d", 2 + c->number / PER_ADDRESS);
    inet_pton(AF_INET, source, &from.sin_addr), inet_pton(AF_INET, o.host, &to.sin_addr);
    setsockopt(c->fd, SOL_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (bind(c->fd, (struct sockaddr *)&from, sizeof from) < 0) die("bind");
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) < 0) die("connect");
    int bytes = snprintf(ask, sizeof ask,
                         "GET %s HTTP/1.1\r\nHost: %s:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                         "Sec-WebSocket-Key: " KEY "\r\nSec-WebSocket-Version: 13\r\n%s\r\n",
                         o.path, o.host, o.port, o.origin);
    if (write(c->fd, ask, (size_t)bytes) != bytes) die("write of a handshake");
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    c->state = SHAKING;
    c->used = c->part = c->pong_bytes = 0, c->sent = c->received = c->until = 0;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
    opening++;
}

static void hang_up(struct connection *c, int reset) {
    struct linger cut = {1, 0};
    if (reset) setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &cut, sizeof cut);
    close(c->fd);
    c->state = GONE;
}

static void lost(struct connection *c) {  // the server went away and was not to
    if (c->state == SHAKING) opening--, failed++;
    broken++;
    hang_up(c, 0);
}

static size_t shaken(struct connection *c) {  // bytes of the server's answer, 0 where it is not whole
    uint8_t *end = memmem(c->in, c->used, "\r\n\r\n", 4);
    if (!end) return 0;
    size_t bytes = (size_t)(end - c->in) + 4;
    if (memcmp(c->in, "HTTP/1.1 101", 12) || !memmem(c->in, bytes, ACCEPT, strlen(ACCEPT))) {
        if (!failed) fprintf(stderr, "client: refused: %.*s\n", (int)(bytes < 400 ? bytes : 400), c->in);
        lost(c);
        return 0;
    }
    c->state = OPEN;
    opening--, opened++;
    return bytes;
}

static void frame_came(struct connection *c, int opcode, const uint8_t *payload, size_t bytes, nanos at) {
    if (opcode == TEXT || opcode == BINARY) {
        on_message(c, payload, bytes, at);
    } else if (opcode == PING && bytes <= CONTROL_BYTES_MAX) {
        c->pong_bytes = frame(c->pong, PONG, payload, bytes);
        push(c);
    } else if (opcode == CLOSE) {
        if (c->state == CLOSING && on_closing) {
            if (bytes < 2 || payload[0] != 3 || payload[1] != 0xe8) wrong++;
            on_closing(c, at);
        } else {
            if (!broken && bytes >= 2)
                fprintf(stderr, "client: closed by the server, %d %.*s\n", payload[0] << 8 | payload[1],
                        (int)bytes - 2, payload + 2);
            lost(c);
        }
    } else if (opcode != PONG) {
        wrong++;
    }
}

static size_t frames(struct connection *c, size_t at, nanos when) {  // takes whole frames; gives where the rest begins
    while ((c->state == OPEN || c->state == CLOSING) && c->used - at >= 2) {
        const uint8_t *b = c->in + at;
        size_t left = c->used - at, bytes = b[1] & 127, skip = 2;
        if (!(b[0] & 0x80) || b[1] & 0x80) wrong++;  // nobody here has reason to fragment, and servers do not mask
        if (bytes >= 126) {
            size_t width = bytes == 126 ? 2 : 8;
            if (left < skip + width) break;
            bytes = 0;
            for (size_t i = 0; i < width; i++) bytes = bytes << 8 | b[skip + i];
            skip += width;
        }
        if (left - skip < bytes || left < skip) break;
        frame_came(c, b[0] & 15, b + skip, bytes, when);
        at += skip + bytes;
    }
    return at;
}

static void readable(struct connection *c) {
    if (c->used == c->room) {
        c->room = c->room ? c->room * 2 : IN_BYTES_MIN;
        if (c->room > IN_BYTES_MAX) die("a server's message is too long");
        c->in = realloc(c->in, c->room);
    }
    ssize_t got = read(c->fd, c->in + c->used, c->room - c->used);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN) lost(c);
        return;
    }
    nanos at = now();
    size_t taken = 0;
    c->used += (size_t)got;
    if (c->state == SHAKING && !(taken = shaken(c))) return;
    taken = frames(c, taken, at);
    if (c->state != OPEN && c->state != CLOSING) return;
    memmove(c->in, c->in + taken, c->used - taken);
    c->used -= taken;
    if (on_batch) on_batch(c, at);
}

static int serve_until(nanos deadline) {  // handle what comes; returns the number of events, 0 at the deadline
    struct epoll_event events[512];
    nanos at = now(), wait = deadline > at ? deadline - at : 0;
    struct timespec t = {(time_t)(wait / SECOND), (long)(wait % SECOND)};
    int n = epoll_pwait2(poller, events, 512, &t, NULL);
    for (int i = 0; i < n; i++) {
        struct connection *c = events[i].data.ptr;
        if (!c) continue;  // stdin, which read_line reads
        if (c->state != GONE && c->state != UNUSED) readable(c);
    }
    return n > 0 ? n : 0;
}

static void ignore(struct connection *c, const uint8_t *payload, size_t bytes, nanos at) {
    (void)c, (void)payload, (void)bytes, (void)at;
}

static int read_line(char *line, size_t size) {  // the next one of stdin; meanwhile pings are answered. 0 at its end
    static char kept[65536];
    static size_t used;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    char *end;
    while (!(end = memchr(kept, '\n', used))) {
        struct pollfd said = {0, POLLIN, 0};
        int polled = !epoll_ctl(poller, EPOLL_CTL_ADD, 0, &event);
        while (!poll(&said, 1, 0)) serve_until(now() + SECOND);
        if (polled) epoll_ctl(poller, EPOLL_CTL_DEL, 0, &event);
        ssize_t got = read(0, kept + used, sizeof kept - used);
        if (got <= 0) return 0;
        used += (size_t)got;
    }
    size_t bytes = (size_t)(end - kept);
    if (bytes >= size) die("a line is too long");
    memcpy(line, kept, bytes), line[bytes] = 0;
    used -= bytes + 1;
    memmove(kept, end + 1, used);
    return 1;
}

static nanos open_all(void) {
    nanos began = now(), deadline = began + 120 * SECOND;
    on_message = ignore;
    for (int next = 0; next < o.connections || opening;) {
        while (next < o.connections && opening < o.dialled) {
            all[next].number = next;
            dial(&all[next++]);
        }
        serve_until(now() + SECOND / 10);
        if (now() > deadline) die("the server does not answer the handshakes");
    }
    if (failed || opened != o.connections) die("the server refused connections");
    return now() - began;
}
