#include "relay.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

/* What takes longer than this has failed. */
#define DEADLINE_MS 5000

/* Long enough for what would happen in the next turns, though it must not. */
#define TURNS_MS 30

static struct app *current;

void sleep_ms(int ms)
{
	nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L}, NULL);
}

static long now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* What the app hears */

struct app *app_current(void)
{
	return current;
}

void app_note(const char *format, ...)
{
	size_t room = sizeof current->heard - current->heard_len;
	va_list arguments;

	va_start(arguments, format);
	int len = vsnprintf(current->heard + current->heard_len, room, format, arguments);
	va_end(arguments);
	cr_assert((size_t)len + 1 < room, "too much to write down");
	current->heard_len += (size_t)len;
	strcpy(current->heard + current->heard_len++, "\n");
}

static void on_change(struct pgherald *h, const struct pgherald_change *change, void *data)
{
	cr_assert_eq(((struct app *)data)->h, h);
	cr_assert_eq(strlen(change->pubkey), change->pubkey_len);
	cr_assert_eq(change->client_id ? strlen(change->client_id) : 0, change->client_id_len);
	app_note("change %s %s %s %lu%s", change->channel, change->pubkey,
		change->client_id ? change->client_id : "-", (unsigned long)change->seq,
		change->recovered ? " recovered" : "");
}

static void on_message(struct pgherald *h, const struct pgherald_message *message, void *data)
{
	(void)h, (void)data;
	cr_assert_eq(message->payload[message->payload_len], '\0');
	app_note("message %s %s %lu", message->channel, message->payload, (unsigned long)message->seq);
}

static void on_gap(struct pgherald *h, const struct pgherald_gap *gap, void *data)
{
	(void)h, (void)data;
	app_note("gap %s %s %lu", gap->cause, gap->text, (unsigned long)gap->seq);
}

static void on_state(struct pgherald *h, const struct pgherald_state *state, void *data)
{
	static const char *const events[] = {
		"", "connected", "disconnected", "upstream live", "upstream down"};

	(void)h, (void)data;
	app_note("%s", events[state->event]);
	cr_assert_not_null(state->text);
}

void app_done(struct pgherald *h, const struct pgherald_result *result, void *arg)
{
	(void)h;
	cr_assert_not_null(result->text);
	app_note("done %s %d %lu", (const char *)arg, result->error, (unsigned long)result->seq);
}

void *app_label(const char *label)
{
	return (void *)(uintptr_t)label;
}

void app_subscribe(struct app *app, const char *channel, const char *pubkey, const char *label)
{
	int r = pgherald_subscribe(app->h, channel, pubkey, label ? app_done : NULL, app_label(label));
	cr_assert_eq(r, 0, "%s", pgherald_strerror(r));
}

void app_notify(struct app *app, const char *pubkey, const char *label)
{
	int r = pgherald_notify(app->h, "data", pubkey, NULL, label ? app_done : NULL, app_label(label));
	cr_assert_eq(r, 0, "%s", pgherald_strerror(r));
}

void app_open(
	struct app *app, struct relay *relay, const char *cursor, void (*change)(struct pgherald_options *))
{
	*app = (struct app){.relay = relay};
	app->options = (struct pgherald_options){
		.size = sizeof app->options,
		.socket = relay ? relay->path : "",
		.name = "test",
		.cursor = cursor,
		.data = app,
		.on_change = on_change,
		.on_message = on_message,
		.on_gap = on_gap,
		.on_state = on_state,
	};
	if (change)
		change(&app->options);
	current = app;
	int r = pgherald_open(&app->options, &app->h);
	cr_assert_eq(r, 0, "%s", pgherald_strerror(r));
}

void app_close(struct app *app)
{
	pgherald_close(app->h);
	app->h = NULL;
}

/* What pgherald_dispatch() returned, if the descriptor asked for it. */
static int poll_and_dispatch(struct app *app)
{
	struct pollfd pfd = {.fd = app->h ? pgherald_fd(app->h) : -1, .events = POLLIN};

	return poll(&pfd, 1, 5) > 0 ? pgherald_dispatch(app->h) : 0;
}

/* One turn of an event loop. */
static void app_turn(struct app *app)
{
	int r = app->waits ? pgherald_wait(app->h, 5) : poll_and_dispatch(app);

	if (r == -ESHUTDOWN)
		app->h = NULL;
	else
		cr_assert_geq(r, 0, "dispatch: %s", pgherald_strerror(r));
}

void app_turns(struct app *app)
{
	long end = now_ms() + TURNS_MS;

	while (now_ms() < end)
		app_turn(app);
}

void app_expect(struct app *app, const char *lines)
{
	long end = now_ms() + DEADLINE_MS;

	while (app->heard_len < strlen(lines) && now_ms() < end)
		app_turn(app);
	cr_assert_str_eq(app->heard, lines);
	app->heard_len = 0;
	app->heard[0] = '\0';
}

const char *app_cursor(struct app *app)
{
	static char text[PGHERALD_CURSOR_SIZE];

	int r = pgherald_cursor(app->h, text, sizeof text);
	if (r == -ENODATA)
		return "none";
	cr_assert_eq(r, (int)strlen(text));
	return text;
}

/* The relay */

void relay_listen(struct relay *relay)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	strcpy(address.sun_path, relay->path);
	relay->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	cr_assert_geq(relay->listener, 0);
	cr_assert_eq(bind(relay->listener, (struct sockaddr *)&address, sizeof address), 0);
	cr_assert_eq(listen(relay->listener, 8), 0);
}

void relay_start(struct relay *relay)
{
	*relay = (struct relay){.directory = "/tmp/pgherald-XXXXXX", .fd = -1};
	cr_assert_not_null(mkdtemp(relay->directory));
	snprintf(relay->path, sizeof relay->path, "%s/relay.sock", relay->directory);
	cr_assert_eq(wire_decoder_new(&relay->decoder), 0);
	relay_listen(relay);
}

void relay_drop(struct relay *relay)
{
	if (relay->fd >= 0)
		close(relay->fd);
	relay->fd = -1;
	relay->in_start = relay->in_end = 0;
}

void relay_stop(struct relay *relay)
{
	relay_drop(relay);
	if (relay->listener >= 0)
		close(relay->listener);
	relay->listener = -1;
	unlink(relay->path);
}

void relay_end(struct relay *relay)
{
	relay_stop(relay);
	wire_decoder_free(relay->decoder);
	rmdir(relay->directory);
}

void relay_accept(struct app *app)
{
	struct relay *relay = app->relay;
	long end = now_ms() + DEADLINE_MS;

	cr_assert_eq(relay->fd, -1, "connected twice");
	while (relay->fd < 0 && now_ms() < end) {
		app_turn(app);
		relay->fd = accept4(relay->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	}
	cr_assert_geq(relay->fd, 0, "no connection");
}

/* Cut the next frame out of what has come. */
static bool next_frame(struct relay *relay)
{
	struct wire_scanner scanner = {0};
	char *start = relay->in + relay->in_start;

	int r = wire_scan(&scanner, start, relay->in_end - relay->in_start);
	if (r == -EAGAIN)
		return false;
	cr_assert_eq(r, 0, "the worker sent no frame");
	cr_assert_eq(wire_decode(relay->decoder, start, scanner.offset, &relay->frame), 0);
	relay->in_start += scanner.offset;
	return true;
}

static void receive(struct relay *relay)
{
	memmove(relay->in, relay->in + relay->in_start, relay->in_end - relay->in_start);
	relay->in_end -= relay->in_start;
	relay->in_start = 0;
	ssize_t n = recv(relay->fd, relay->in + relay->in_end, sizeof relay->in - relay->in_end, 0);
	if (n > 0)
		relay->in_end += (size_t)n;
}

struct wire_frame *relay_expect(struct app *app, enum wire_type type)
{
	struct relay *relay = app->relay;
	long end = now_ms() + DEADLINE_MS;

	while (!next_frame(relay)) {
		cr_assert_lt(now_ms(), end, "the worker sent nothing more, but %d should come", type);
		app_turn(app);
		receive(relay);
	}
	cr_assert_eq(relay->frame.type, type, "frame %d instead of %d", relay->frame.type, type);
	return &relay->frame;
}

void relay_expect_nothing(struct app *app)
{
	struct relay *relay = app->relay;

	app_turns(app);
	if (relay->fd >= 0) {
		receive(relay);
		cr_assert_not(next_frame(relay), "frame %d", relay->frame.type);
	} else {
		cr_assert_lt(accept(relay->listener, NULL, NULL), 0, "it connected");
	}
}

void relay_send_bytes(struct relay *relay, const void *bytes, size_t len)
{
	const char *p = bytes;

	while (len > 0) {
		ssize_t n = send(relay->fd, p, len, MSG_NOSIGNAL);
		cr_assert(n > 0 || errno == EAGAIN, "send: %s", strerror(errno));
		if (n < 0) {
			app_turn(current);
			continue;
		}
		p += n;
		len -= (size_t)n;
	}
}

static void relay_send(struct relay *relay, struct wire_frame frame)
{
	char buf[WIRE_FRAME_MAX];

	int len = wire_encode(&frame, buf, sizeof buf);
	cr_assert_gt(len, 0);
	relay_send_bytes(relay, buf, (size_t)len);
}

static void relay_welcome(struct relay *relay, const char *epoch, uint64_t seq)
{
	static const struct wire_str channels[] = {{"data", 4}, {"text:text", 9}};

	relay_send(relay, (struct wire_frame){
				  .type = WIRE_WELCOME,
				  .welcome = {.version = WIRE_VERSION,
					  .epoch = wire_str(epoch),
					  .seq = seq,
					  .mode = wire_str("postgres"),
					  .upstream = wire_str("live"),
					  .relay_version = wire_str("test"),
					  .channels = channels,
					  .n_channels = 2},
			  });
}

void relay_ok(struct relay *relay, uint64_t id, uint64_t seq)
{
	relay_send(relay, (struct wire_frame){.type = WIRE_OK, .ok = {.id = id, .seq = seq}});
}

void relay_change(struct relay *relay, uint64_t seq, const char *pubkey)
{
	relay_send(relay, (struct wire_frame){.type = WIRE_CHANGE,
				  .change = {.seq = seq,
					  .channel = wire_str("data"),
					  .pubkey = wire_str(pubkey),
					  .flags = seq == WIRE_SEQ_NIL ? WIRE_RECOVERED : 0}});
}

void relay_checkpoint(struct relay *relay, uint64_t seq, const char *checkpoint)
{
	relay_send(relay, (struct wire_frame){.type = WIRE_CHECKPOINT,
				  .checkpoint = {.seq = seq, .checkpoint = wire_str(checkpoint)}});
}

void relay_greet(struct app *app, const char *epoch, uint64_t seq)
{
	relay_accept(app);
	relay_expect(app, WIRE_HELLO);
	relay_welcome(app->relay, epoch, seq);
}

void relay_settle(struct app *app, const char *epoch, uint64_t seq)
{
	relay_greet(app, epoch, seq);
	bool resume = app->relay->frame.hello.resume;
	relay_ok(app->relay, relay_expect(app, WIRE_SUBSCRIBE)->subscribe.id, seq);
	if (resume)
		relay_ok(app->relay, relay_expect(app, WIRE_BEGIN)->request.id, seq);
}
