/* Sessions of the client library with a relay that sends anything, and an app that calls
 * anything, also in callbacks. The input is what they do, step by step; time passes only as it
 * says. Each completion runs exactly once, no callback runs after close, the app gets whole
 * values, the library sends only frames of a worker, a new handle accepts its cursor, and no
 * descriptor stays open. */
#include "input.h"

#include "pgherald.h"
#include "wire.h"

#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define STEPS_MAX 200
#define REQUESTS_MAX 64
#define CHANNEL_LEN_MAX 63

static struct timespec now = {1000, 0};
static char directory[] = "/tmp/pgherald-fuzz-XXXXXX";
static char path[sizeof directory + 8];
static int listener, peer = -1;
static struct wire_decoder *decoder;

/* What the relay has received, and which requests it has yet to answer. */
static unsigned char got[4 * WIRE_FRAME_MAX];
static size_t got_len;
static uint64_t asked[REQUESTS_MAX];
static unsigned n_asked;
static bool was_greeted; /* HELLO has come */

static struct input *script; /* the input, for what callbacks do */
static struct pgherald *handle;
static bool closed;
static int runs[REQUESTS_MAX]; /* of each completion; -1: its request was not accepted */
static unsigned n_requests;

int __wrap_clock_gettime(clockid_t clock, struct timespec *out);
int __wrap_clock_gettime(clockid_t clock, struct timespec *out)
{
	(void)clock;
	*out = now;
	return 0;
}

static void pass(unsigned ms)
{
	now.tv_sec += ms / 1000;
	now.tv_nsec += (long)(ms % 1000) * 1000000;
	now.tv_sec += now.tv_nsec / 1000000000;
	now.tv_nsec %= 1000000000;
}

/* The app */

static void call(bool in_callback);

static void check_text(const char *text, size_t len)
{
	must(text && strlen(text) <= len && text[len] == '\0');
}

static void on_change(struct pgherald *h, const struct pgherald_change *change, void *data)
{
	must(!closed && h == handle && data == &handle);
	must(change->channel && strlen(change->channel) < WIRE_FRAME_MAX);
	check_text(change->pubkey, change->pubkey_len);
	if (change->client_id)
		check_text(change->client_id, change->client_id_len);
	call(true);
}

static void on_message(struct pgherald *h, const struct pgherald_message *message, void *data)
{
	must(!closed && h == handle && data == &handle);
	must(message->channel && strlen(message->channel) < WIRE_FRAME_MAX);
	check_text(message->payload, message->payload_len);
	call(true);
}

static void on_gap(struct pgherald *h, const struct pgherald_gap *gap, void *data)
{
	must(!closed && h == handle && data == &handle);
	must(gap->cause && strlen(gap->cause) < WIRE_FRAME_MAX && gap->text &&
		strlen(gap->text) < WIRE_FRAME_MAX);
	call(true);
}

static void on_state(struct pgherald *h, const struct pgherald_state *state, void *data)
{
	must(!closed && h == handle && data == &handle);
	must(state->event >= PGHERALD_CONNECTED && state->event <= PGHERALD_UPSTREAM_DOWN);
	must(state->text && strlen(state->text) < WIRE_FRAME_MAX);
	call(true);
}

static void on_done(struct pgherald *h, const struct pgherald_result *result, void *arg)
{
	int *run = arg;

	must(h == handle && result->text && result->error <= 0);
	must(*run == 0 && (*run)++ == 0);
	/* While it closes, it says so. */
	if (closed)
		must(pgherald_subscribe(h, "data", NULL, NULL, NULL) == -ESHUTDOWN);
	else
		call(true);
}

static int *new_request(void)
{
	runs[n_requests] = -1;
	return &runs[n_requests++];
}

static void request_made(int *run, int r)
{
	if (r == 0)
		*run = 0;
	else
		must(r == -EINVAL || r == -EMSGSIZE || r == -EILSEQ || r == -ENOBUFS);
}

static void check_cursor(void)
{
	char text[PGHERALD_CURSOR_SIZE], again[PGHERALD_CURSOR_SIZE];
	struct pgherald_options options = {.size = sizeof options, .socket = path, .cursor = text};
	struct pgherald *next;
	int len = pgherald_cursor(handle, text, sizeof text);

	if (len == -ENODATA)
		return;
	must(len > 0 && (size_t)len == strlen(text));
	must(pgherald_open(&options, &next) == 0);
	must(pgherald_cursor(next, again, sizeof again) == len && strcmp(text, again) == 0);
	pgherald_close(next);
}

static void close_handle(void)
{
	/* Completions run inside, and see it closed. */
	closed = true;
	pgherald_close(handle);
}

static void call(bool in_callback)
{
	static const char *const channels[] = {"data", "log", "data", ""};
	static const char *const pubkeys[] = {NULL, "alice", "bob", ""};
	unsigned what = input_byte(script);
	const char *channel = channels[what >> 4 & 3], *pubkey = pubkeys[what >> 6];
	char *text;
	int r, *run;

	if (in_callback)
		must(pgherald_dispatch(handle) == -EDEADLK);
	/* The last request stands for many: a batch of subscriptions. */
	if (n_requests + 8 > REQUESTS_MAX)
		return;
	switch (what % 16) {
	case 1:
	case 2:
		run = new_request();
		/* Without a completion it counts as one that has run. */
		r = pgherald_subscribe(handle, channel, pubkey, what & 1 ? on_done : NULL, run);
		request_made(run, r);
		*run += r == 0 && !(what & 1);
		break;
	case 3:
		r = pgherald_unsubscribe(handle, channel, pubkey);
		must(r == 0 || r == -ENOENT || r == -EINVAL);
		break;
	case 4:
	case 5:
		run = new_request();
		r = pgherald_notify(handle, channel, pubkey, what & 1 ? "me" : NULL, on_done, run);
		request_made(run, r);
		break;
	case 6:
		text = input_text(script);
		run = new_request();
		r = pgherald_send(handle, channel, text, strlen(text), on_done, run);
		free(text);
		request_made(run, r);
		break;
	case 7:
		check_cursor();
		break;
	case 8:
		if (in_callback && what & 0x80)
			close_handle();
		break;
	case 9:
		text = input_text(script);
		run = new_request();
		r = pgherald_subscribe(handle, "data", text, on_done, run);
		free(text);
		request_made(run, r);
		break;
	default:
		break;
	}
}

/* False: a callback closed it. */
static bool dispatch(void)
{
	int r = pgherald_dispatch(handle);

	must(r == -ESHUTDOWN ? closed : r >= 0 && !closed);
	return !closed;
}

/* The relay */

static void hang_up(void)
{
	if (peer >= 0)
		close(peer);
	peer = -1;
	got_len = 0;
	n_asked = 0;
	was_greeted = false;
}

static void take_frame(const struct wire_frame *f)
{
	uint64_t id;

	must((f->type == WIRE_HELLO) == !was_greeted);
	was_greeted = true;
	switch (f->type) {
	case WIRE_HELLO:
		must(f->hello.version == WIRE_VERSION);
		return;
	case WIRE_SUBSCRIBE:
	case WIRE_UNSUBSCRIBE:
		must(f->subscribe.channel.len >= 1 && f->subscribe.channel.len <= CHANNEL_LEN_MAX);
		id = f->subscribe.id;
		break;
	case WIRE_NOTIFY:
		id = f->notify.id;
		break;
	case WIRE_SEND:
		id = f->send.id;
		break;
	case WIRE_BEGIN:
		id = f->request.id;
		break;
	default:
		must(!"a worker's frame");
	}
	if (n_asked < REQUESTS_MAX)
		asked[n_asked++] = id;
}

static void receive(void)
{
	size_t taken = 0;

	if (peer < 0) {
		peer = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (peer < 0)
			return;
	}
	ssize_t n = recv(peer, got + got_len, sizeof got - got_len, MSG_DONTWAIT);
	if (n <= 0) {
		if (n == 0 || errno != EAGAIN)
			hang_up();
		return;
	}
	got_len += (size_t)n;
	for (;;) {
		struct wire_scanner scanner = {0};
		struct wire_frame f;
		int r = wire_scan(&scanner, got + taken, got_len - taken);
		must(r == 0 || r == -EAGAIN);
		if (r < 0)
			break;
		must(wire_decode(decoder, got + taken, scanner.offset, &f) == 0);
		take_frame(&f);
		taken += scanner.offset;
	}
	memmove(got, got + taken, got_len - taken);
	got_len -= taken;
}

static void send_bytes(const void *bytes, size_t len)
{
	if (peer >= 0 && len > 0)
		(void)!send(peer, bytes, len, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void send_frame(const struct wire_frame *f)
{
	static unsigned char buf[WIRE_FRAME_MAX];
	int len = wire_encode(f, buf, sizeof buf);

	must(len > 0);
	send_bytes(buf, (size_t)len);
}

/* The answer to the next request or the second next: OK, or ERROR with any code. */
static void answer(struct input *in)
{
	static const char *const codes[] = {"channel", "invalid", "too-long", "limit", "busy", "timeout",
		"rejected", "unknown-type", "denied", "of a later version"};
	unsigned how = input_byte(in), which = how >> 7;

	if (which >= n_asked)
		return;
	uint64_t id = asked[which];
	memmove(asked + which, asked + which + 1, (--n_asked - which) * sizeof *asked);
	if (how % 16 < 10)
		send_frame(&(struct wire_frame){.type = WIRE_ERROR,
			.error = {true, id, wire_str(codes[how % 16]), wire_str("text")}});
	else
		send_frame(&(struct wire_frame){.type = WIRE_OK, .ok = {id, input_byte(in)}});
}

/* A valid frame, with elements that mean something. */
static void say(struct input *in)
{
	static const char *const pubkeys[] = {"alice", "", "bob", "carol"};
	unsigned a = input_byte(in), seq = input_byte(in);
	char *text = input_text(in);
	struct wire_str str = wire_str(text), channel = wire_str(a & 0x10 ? "log" : "data"),
			pubkey = wire_str(pubkeys[a >> 6]);
	uint64_t at = seq == 0xff ? WIRE_SEQ_NIL : seq;
	struct wire_frame f;

	switch (a % 8) {
	case 0:
	case 1:
		f = (struct wire_frame){.type = WIRE_WELCOME,
			.welcome = {1, str, seq, wire_str("local"), wire_str(a & 8 ? "live" : "down"),
				wire_str("1"), &channel, 1}};
		break;
	case 2:
	case 3:
		f = (struct wire_frame){.type = WIRE_CHANGE,
			.change = {at, channel, pubkey, a & 8 ? str : (struct wire_str){0}, a >> 6}};
		break;
	case 4:
		f = (struct wire_frame){.type = WIRE_MESSAGE, .message = {at, channel, str, 0, a & 8}};
		break;
	case 5:
		f = (struct wire_frame){.type = WIRE_CHECKPOINT, .checkpoint = {at, str}};
		break;
	case 6:
		f = (struct wire_frame){.type = a & 8 ? WIRE_GAP : WIRE_UPSTREAM, .gap = {at, str, str}};
		if (!(a & 8))
			f.upstream = (struct wire_upstream){at, wire_str(a & 0x40 ? "live" : "down"), str};
		break;
	default:
		f = (struct wire_frame){.type = WIRE_BYE, .bye = {str, str}};
		break;
	}
	send_frame(&f);
	free(text);
}

/* False: a callback closed the handle. */
static bool step(struct input *in)
{
	unsigned what = input_byte(in);
	struct span bytes;

	switch (what % 8) {
	case 0:
		bytes = input_span(in, input_u16(in));
		send_bytes(bytes.bytes, bytes.len);
		break;
	case 1:
	case 2:
		say(in);
		break;
	case 3:
	case 4:
		answer(in);
		break;
	case 5:
		call(false);
		break;
	case 6:
		if (what & 8)
			hang_up();
		else
			pass(what * 32);
		break;
	default:
		break;
	}
	/* Without a dispatch in between, more arrives at once. */
	return what & 0x80 || (dispatch() && (receive(), true));
}

static void open_handle(struct input *in)
{
	static const char *const cursors[] = {
		NULL, "1 7 epoch", "1 3 epoch 7;00000001;0/1234;5:5:", "1 0 ", "garbage"};
	struct pgherald_options options = {.size = sizeof options,
		.socket = path,
		.name = "fuzz",
		.queue_size = 64 * 1024,
		.data = &handle,
		.on_change = on_change,
		.on_message = on_message,
		.on_gap = on_gap,
		.on_state = on_state};
	unsigned how = input_byte(in);

	options.cursor = cursors[how % 5];
	if (how & 0x40)
		options.socket = "";
	int r = pgherald_open(&options, &handle);
	must(r == 0 || (r == -EBADMSG && how % 5 == 4));
	if (r < 0)
		handle = NULL;
}

static void at_exit(void)
{
	unlink(path);
	rmdir(directory);
}

static void listen_on_path(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	must(mkdtemp(directory));
	snprintf(path, sizeof path, "%s/socket", directory);
	strcpy(address.sun_path, path);
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	must(listener >= 0 && bind(listener, (struct sockaddr *)&address, sizeof address) == 0);
	must(listen(listener, 8) == 0);
	atexit(at_exit);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	listen_on_path();
	must(wire_decoder_new(&decoder) == 0);
	return 0;
}

/* The descriptor that the next open() would return. */
static int next_fd(void)
{
	int fd = dup(listener);

	must(fd >= 0);
	close(fd);
	return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, data + size};
	int fd = next_fd(), accepted;
	bool open = true;

	script = &in;
	closed = false;
	n_requests = 0;
	open_handle(&in);
	if (!handle)
		return 0;
	/* It connects, and sends HELLO. */
	if (dispatch()) {
		receive();
		for (int i = 0; i < STEPS_MAX && input_more(&in) && open; i++)
			open = step(&in);
	}
	if (!closed) {
		check_cursor();
		close_handle();
	}
	for (unsigned i = 0; i < n_requests; i++)
		must(runs[i] == 1 || runs[i] == -1);
	hang_up();
	while ((accepted = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0)
		close(accepted);
	must(next_fd() == fd);
	return 0;
}
