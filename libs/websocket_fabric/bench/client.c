// A load client for WebSocket servers: one thread, epoll, no dependency. `client MODE --port N ...`, see `usage`.
//
// Whatever comes back is checked: an echo must have the bytes that were sent, in the order they were sent. Every frame
// is masked with a key of its own. Each finding is one JSON object on one line of stdout; times are in microseconds.
// Built at bench time (`load_client.py` says how). Knows no server.
#include "connections.h"

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
    while (read_line(line, sizeof line)) {
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
        if (!read_line(line, sizeof line)) die("--hello wants a line for each connection");
        send_now(&all[i], TEXT, line, strlen(line));
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
          "  [--hello] [--sequence] [--expect N] [--reconnect-every N] [--dialled N]\n", stderr);
    exit(2);
}

static void read_options(int argc, char **argv) {
    static const struct option known[] = {
        {"port", 1, 0, 'p'}, {"host", 1, 0, 'H'}, {"path", 1, 0, 'P'}, {"connections", 1, 0, 'n'},
        {"seconds", 1, 0, 's'}, {"warm", 1, 0, 'w'}, {"size", 1, 0, 'b'}, {"window", 1, 0, 'W'}, {"rate", 1, 0, 'r'},
        {"json", 0, 0, 'j'}, {"hello", 0, 0, 'h'}, {"sequence", 0, 0, 'q'}, {"expect", 1, 0, 'e'},
        {"reconnect-every", 1, 0, 'R'}, {"origin", 1, 0, 'o'}, {"dialled", 1, 0, 'd'}, {0, 0, 0, 0}};
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
        case 'd': o.dialled = atoi(optarg); break;
        default: usage();
    }
    if (o.port <= 0 || o.connections < 1 || o.size < 8 || o.window < 1 || o.window > RING || !o.reconnect_every ||
        o.dialled < 1)
        usage();
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
