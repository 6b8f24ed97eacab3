// A load client for WebSocket servers: one thread, epoll, no dependency. `client MODE --port N ...`, see `usage`.
//
// Whatever comes back is checked: an echo must have the bytes that were sent, in the order they were sent. Every frame
// is masked with a key of its own. Each finding is one JSON object on one line of stdout; times are in microseconds.
// Built at bench time (`load_client.py` says how). Knows no server.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
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
#define DIALLED_MAX 128        // connections that wait for their handshake at a time
#define SAMPLES_MAX 8000000    // more are counted, not kept
#define IN_BYTES_MIN 2048      // of a connection's buffer; it grows to IN_BYTES_MAX where much comes
#define IN_BYTES_MAX (4 << 20)
#define HEAD_BYTES_MAX 14
#define CONTROL_BYTES_MAX 125
#define PER_ADDRESS 8000       // connections from one of 127.0.0.2, .3, ...: a source has some 28,000 ports
#define SETTLE (2 * SECOND)    // for what is still under way at the end
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
    int port, connections, size, window, json, hello, sequence;
    double seconds, warm, rate;
    uint64_t expect, reconnect_every;
} o = {.host = "127.0.0.1", .path = "/", .origin = "", .connections = 1, .size = 64, .window = 256, .seconds = 2,
       .warm = 0.3, .rate = 20, .reconnect_every = 400};

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
        if (c->state != GONE && c->state != UNUSED) readable(c);
    }
    return n > 0 ? n : 0;
}

static void ignore(struct connection *c, const uint8_t *payload, size_t bytes, nanos at) {
    (void)c, (void)payload, (void)bytes, (void)at;
}

static nanos open_all(void) {
    nanos began = now(), deadline = began + 120 * SECOND;
    on_message = ignore;
    for (int next = 0; next < o.connections || opening;) {
        while (next < o.connections && opening < DIALLED_MAX) {
            all[next].number = next;
            dial(&all[next++]);
        }
        serve_until(now() + SECOND / 10);
        if (now() > deadline) die("the server does not answer the handshakes");
    }
    if (failed || opened != o.connections) die("the server refused connections");
    return now() - began;
}

// --- echoes

static int is_echo(struct connection *c, const uint8_t *payload, size_t bytes) {
    const char *should = expected + (c->received % RING) * echo_bytes;
    int same = c->received < c->sent && bytes == echo_bytes && !memcmp(payload, should, bytes);
    if (!same) wrong++;
    c->received++;
    return same;
}

static void ask_again(struct connection *c, const uint8_t *payload, size_t bytes, nanos at) {
    if (is_echo(c, payload, bytes)) sample(at - c->at, at);
    if (at >= warm_until) counted++;
}

static void ask(struct connection *c, nanos at) {
    (void)at;
    if (c->received < c->until) return;
    c->until++;
    c->at = now();
    push(c);
}

static void latency(double seconds) {  // closed loop on connection 0
    nanos began = now(), end = began + (nanos)(seconds * SECOND);
    warm_until = began + (nanos)(o.warm * SECOND);
    on_message = ask_again, on_batch = ask;
    ask(&all[0], began);
    while (now() < end && all[0].state == OPEN) serve_until(end);
    on_batch = NULL;
    nanos settle = now() + SETTLE;
    while (all[0].state == OPEN && all[0].received < all[0].sent && now() < settle) serve_until(settle);
    if (all[0].received < all[0].sent) wrong++;
    tell(seconds - o.warm, "");
}

static void count_echo(struct connection *c, const uint8_t *payload, size_t bytes, nanos at) {
    is_echo(c, payload, bytes);
    if (at >= warm_until) counted++;
}

static void refill(struct connection *c, nanos at) {
    (void)at;
    uint64_t limit = c->received + (uint64_t)o.window;
    if (c->part || limit - c->until >= (uint64_t)(o.window + 3) / 4) {
        c->until = limit;
        push(c);
    }
}

static void throughput(void) {  // `window` messages under way on every connection
    nanos began = now(), end = began + (nanos)(o.seconds * SECOND);
    warm_until = began + (nanos)(o.warm * SECOND);
    on_message = count_echo, on_batch = refill;
    for (int i = 0; i < o.connections; i++) refill(&all[i], began);
    while (now() < end) serve_until(end);
    nanos settle = now() + SETTLE;
    uint64_t so_far = counted, left = 0;
    on_batch = NULL;
    do {  // what was sent must come back
        left = 0;
        for (int i = 0; i < o.connections; i++) {
            all[i].until = all[i].sent + (all[i].part ? 1 : 0);
            push(&all[i]);
            left += all[i].sent - all[i].received;
        }
    } while (left && serve_until(settle) && now() < settle);
    wrong += left, counted = so_far;
    tell(o.seconds - o.warm, "");
}

static nanos due(struct connection *c, uint64_t message) {
    return c->at + (nanos)((double)message * SECOND / o.rate);
}

static void paced_echo(struct connection *c, const uint8_t *payload, size_t bytes, nanos at) {
    nanos asked = due(c, c->received);  // from when it was due: a server that stalls is not spared the wait
    if (is_echo(c, payload, bytes)) sample(at - asked, at);
    if (at >= warm_until) counted++;
}

static void paced(void) {  // every connection sends `rate` messages a second, one after the other in turn
    nanos began = now(), end = began + (nanos)(o.seconds * SECOND);
    warm_until = began + (nanos)(o.warm * SECOND);
    on_message = paced_echo;
    for (int i = 0; i < o.connections; i++) all[i].at = began + (nanos)(SECOND / o.rate * i / o.connections);
    int turn = 0;
    for (nanos at = now(); at < end; at = now()) {
        struct connection *c = &all[turn];
        if (due(c, c->until) <= at) {
            c->until++, push(c);
            turn = (turn + 1) % o.connections;
        } else {
            serve_until(due(c, c->until) < end ? due(c, c->until) : end);
        }
    }
    nanos settle = now() + SETTLE;
    uint64_t left;
    do {
        left = 0;
        for (int i = 0; i < o.connections; i++) left += all[i].sent - all[i].received;
    } while (left && serve_until(settle) && now() < settle);
    wrong += left;
    tell(o.seconds - o.warm, "");
}

// --- many open connections, told what to do line by line on stdin: `sweep`, `latency SECONDS`

static void sweep(void) {  // one echo on each: all are alive
    nanos began = now(), deadline = began + 60 * SECOND;
    uint64_t answered = 0;
    on_message = count_echo, on_batch = NULL;
    for (int i = 0; i < o.connections; i++) {
        all[i].until++, push(&all[i]);
        if (i % DIALLED_MAX == 0) serve_until(now());
    }
    do {
        serve_until(now() + SECOND / 10);
        answered = 0;
        for (int i = 0; i < o.connections; i++) answered += all[i].state == OPEN && all[i].received == all[i].sent;
    } while (answered < (uint64_t)o.connections && now() < deadline && !broken);
    printf("{\"mode\":\"sweep\",\"alive\":%lu,\"wrong\":%lu,\"broken\":%lu,\"seconds\":%.2f}\n", answered, wrong,
           broken, (double)(now() - began) / SECOND);
    fflush(stdout);
}

static void hold(void) {
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        samples_kept = samples_seen = 0, counted = 0;
        if (!strncmp(line, "sweep", 5)) sweep();
        else if (!strncmp(line, "latency ", 8)) latency(atof(line + 8));
        else die("stdin takes: sweep, latency SECONDS");
    }
}

// --- receiving what others send: `t=NANOSECONDS` in a message is when it was sent (CLOCK_MONOTONIC)

static void event_came(struct connection *c, const uint8_t *payload, size_t bytes, nanos at) {
    const uint8_t *sent = memmem(payload, bytes, "t=", 2);
    if (!sent) return;
    counted++;
    nanos then = strtoull((const char *)sent + 2, NULL, 10);
    if (at >= then) sample(at - then, at);
    if (!o.sequence) return;
    const uint8_t *seq = memmem(payload, bytes, "\"seq\":", 6);
    uint64_t number = seq ? strtoull((const char *)seq + 6, NULL, 10) : 0;
    if (c->seq && number != c->seq + 1) wrong++;
    c->seq = number;
}

static void sink(void) {
    nanos first = 0, last = 0, end;
    on_message = event_came;
    for (int i = 0; o.hello && i < o.connections; i++) {
        char line[900];
        if (!fgets(line, sizeof line, stdin)) die("--hello wants a line for each connection");
        send_now(&all[i], TEXT, line, strcspn(line, "\n"));
        serve_until(now());
    }
    printf("{\"mode\":\"ready\",\"connections\":%d}\n", opened);
    fflush(stdout);
    end = now() + (nanos)(o.seconds * SECOND);
    warm_until = 0;
    for (uint64_t before = 0; counted < o.expect && now() < end; before = counted) {
        serve_until(end);
        if (counted == before) continue;
        last = now();
        if (!first) first = last, warm_until = first + (nanos)(o.warm * SECOND);
    }
    tell(first ? (double)(last - first) / SECOND : 0, "");
}

static void heard(struct connection *c, const uint8_t *payload, size_t bytes, nanos at) {
    if (c != all) event_came(c, payload, bytes, at);  // whether a speaker hears itself is the server's affair
}

static void fan_out(void) {  // connection 0 says something, all the others must hear it
    char text[64];
    uint64_t heard_by = (uint64_t)o.connections - 1, said = 0;
    nanos quiet = now() + SECOND / 2;  // a server may say 101 before it counts a connection among its listeners
    while (serve_until(quiet) || now() < quiet) {}
    nanos began = now(), end = began + (nanos)(o.seconds * SECOND);
    on_message = heard;
    warm_until = began + (nanos)(o.warm * SECOND);
    uint64_t before_warm = 0;
    while (now() < end) {
        nanos next = o.rate > 0 ? began + (nanos)((double)said * SECOND / o.rate) : 0;
        if (o.rate > 0 ? next <= now() : counted >= said * heard_by) {
            send_now(&all[0], TEXT, text, (size_t)sprintf(text, "{\"said\":\"t=%lu \"}", now()));
            said++;
        } else {
            serve_until(o.rate > 0 && next < end ? next : end);
        }
        if (now() < warm_until) before_warm = counted;
    }
    nanos settle = now() + SETTLE;
    uint64_t in_time = counted;
    while (counted < said * heard_by && now() < settle) serve_until(settle);
    wrong += said * heard_by - counted;
    counted = in_time - before_warm;
    tell(o.seconds - o.warm, "");
}

// --- minutes of echoes with connections that leave, politely or not

static uint64_t closed_well, cut_off;

static void again(struct connection *c, nanos at) {
    wrong += c->sent - c->received;  // all that was sent before the closing frame must have come before the answer
    closed_well++;
    hang_up(c, 0);
    dial(c);
    c->at = at + SECOND / 100;
}

static void leave(struct connection *c, nanos at) {
    static const uint8_t normal[2] = {3, 0xe8};
    if (chance() & 1) {
        send_now(c, CLOSE, normal, 2);
        c->state = CLOSING;
    } else {
        cut_off++;
        hang_up(c, 1);
        dial(c);
        c->at = at + SECOND / 100;
    }
}

static void soak(void) {
    nanos began = now(), end = began + (nanos)(o.seconds * SECOND), settle = end + SETTLE;
    char more[96];
    warm_until = began;
    on_message = paced_echo, on_closing = again;
    for (int i = 0; i < o.connections; i++) all[i].at = began + (nanos)(SECOND / o.rate * i / o.connections);
    for (nanos at = now(), next; at < end; at = now()) {
        next = end;
        for (int i = 0; i < o.connections; i++) {
            struct connection *c = &all[i];
            if (c->state == OPEN && due(c, c->until) <= at) {
                c->until++, push(c);
                if (chance() % o.reconnect_every == 0 && !c->part) leave(c, at);
            }
            if (c->state == OPEN && due(c, c->until) < next) next = due(c, c->until);
        }
        serve_until(next);
    }
    uint64_t left;
    do {
        left = 0;
        for (int i = 0; i < o.connections; i++) left += all[i].sent - all[i].received;
    } while (left && serve_until(settle) && now() < settle);
    wrong += left;
    sprintf(more, ",\"closed\":%lu,\"cut\":%lu", closed_well, cut_off);
    opened = o.connections;
    tell(o.seconds, more);
}

// --- the command line

static void usage(void) {
    fputs("client latency|paced|throughput|hold|sink|fan-out|soak --port N [--host ADDRESS] [--path PATH]\n"
          "  [--origin URL] [--connections N] [--seconds S] [--warm S] [--size BYTES] [--window N] [--rate N] [--json]\n"
          "  [--hello] [--sequence] [--expect N] [--reconnect-every N]\n", stderr);
    exit(2);
}

static void read_options(int argc, char **argv) {
    static const struct option known[] = {
        {"port", 1, 0, 'p'}, {"host", 1, 0, 'H'}, {"path", 1, 0, 'P'}, {"connections", 1, 0, 'n'},
        {"seconds", 1, 0, 's'}, {"warm", 1, 0, 'w'}, {"size", 1, 0, 'b'}, {"window", 1, 0, 'W'}, {"rate", 1, 0, 'r'},
        {"json", 0, 0, 'j'}, {"hello", 0, 0, 'h'}, {"sequence", 0, 0, 'q'}, {"expect", 1, 0, 'e'},
        {"reconnect-every", 1, 0, 'R'}, {"origin", 1, 0, 'o'}, {0, 0, 0, 0}};
    static char origin[200];
    int c;
    if (argc < 2) usage();
    o.mode = argv[1];
    while ((c = getopt_long(argc - 1, argv + 1, "", known, NULL)) != -1) switch (c) {
        case 'p': o.port = atoi(optarg); break;
        case 'H': o.host = optarg; break;
        case 'P': o.path = optarg; break;
        case 'n': o.connections = atoi(optarg); break;
        case 's': o.seconds = atof(optarg); break;
        case 'w': o.warm = atof(optarg); break;
        case 'b': o.size = atoi(optarg); break;
        case 'W': o.window = atoi(optarg); break;
        case 'r': o.rate = atof(optarg); break;
        case 'j': o.json = 1; break;
        case 'h': o.hello = 1; break;
        case 'q': o.sequence = 1; break;
        case 'e': o.expect = strtoull(optarg, NULL, 10); break;
        case 'R': o.reconnect_every = strtoull(optarg, NULL, 10); break;
        case 'o': snprintf(origin, sizeof origin, "Origin: %s\r\n", optarg); o.origin = origin; break;
        default: usage();
    }
    if (o.port <= 0 || o.connections < 1 || o.size < 8 || o.window < 1 || o.window > RING || !o.reconnect_every) usage();
}

int main(int argc, char **argv) {
    static const struct { const char *name; void (*run)(void); } modes[] = {
        {"paced", paced}, {"throughput", throughput}, {"hold", hold}, {"sink", sink}, {"fan-out", fan_out},
        {"soak", soak}};
    struct rlimit files;
    signal(SIGPIPE, SIG_IGN);
    read_options(argc, argv);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    all = calloc((size_t)o.connections, sizeof *all);
    samples = malloc(SAMPLES_MAX * sizeof *samples);
    if (!all || !samples || (poller = epoll_create1(EPOLL_CLOEXEC)) < 0) die("start");
    make_ring();
    nanos took = open_all();
    printf("{\"mode\":\"open\",\"connections\":%d,\"seconds\":%.3f}\n", opened, (double)took / SECOND);
    fflush(stdout);
    if (!strcmp(o.mode, "latency")) return latency(o.seconds), 0;
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
        if (!strcmp(o.mode, modes[i].name)) return modes[i].run(), 0;
    usage();
}
