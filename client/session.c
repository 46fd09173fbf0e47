#include "session.h"

#include "error.h"
#include "handle.h"
#include "tell.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

/* The first and the longest pause before connecting again, in nanoseconds. The socket is local, so
 * the first is short. */
#define RETRY_FIRST (50 * NSEC_PER_MSEC)
#define RETRY_LAST (2000 * NSEC_PER_MSEC)

/* Most receives of 64 KiB in one dispatch, so that the app's loop goes on. */
#define RECEIVES_PER_TURN 16

int session_init(struct session *session)
{
	*session = (struct session){0};
	return stream_init(&session->stream);
}

void session_free(struct session *session)
{
	stream_free(&session->stream);
}

/* At least half of the full pause; the rest is random. So the workers of a relay that
 * restarts do not reconnect all at once. */
static uint64_t pause_after(unsigned int failures)
{
	uint64_t pause = RETRY_LAST;
	uint16_t chance = 0;

	if (failures < 6 && RETRY_FIRST << failures < RETRY_LAST)
		pause = RETRY_FIRST << failures;
	if (getrandom(&chance, sizeof chance, GRND_NONBLOCK) < 0)
		chance = UINT16_MAX;
	return pause / 2 + pause / 2 * chance / UINT16_MAX;
}

void session_end(struct pgherald *h)
{
	struct session *s = &h->session;

	if (s->stream.fd < 0)
		return;
	/* First: if a forked child holds the socket too, closing it does not remove it from
	 * the epoll. */
	wake_forget(&h->wake, s->stream.fd);
	stream_disconnect(&s->stream);
}

/* The only way to end a connection that failed: one that broke, and one that could not be
 * made. */
static void disconnect(struct pgherald *h, const char *reason)
{
	struct session *s = &h->session;
	uint64_t now = wake_clock();
	bool was_welcomed = s->welcomed;

	session_end(h);
	if (was_welcomed && now - s->welcomed_at >= RETRY_LAST)
		s->failures = 0;
	s->retry_at = now + pause_after(s->failures++);
	s->welcomed = s->begin_due = s->output_blocked = false;
	s->begin_id = 0;
	subscriptions_restart(&h->subs);
	publishes_restart(&h->pubs);
	if (was_welcomed || strncmp(reason, s->reason, sizeof s->reason - 1) != 0) {
		snprintf(s->reason, sizeof s->reason, "%s", reason);
		tell_state(h, PGHERALD_DISCONNECTED, s->reason);
	}
}

static void disconnect_errno(struct pgherald *h, const char *what, int error)
{
	char reason[sizeof h->session.reason];

	errno = -error;
	snprintf(reason, sizeof reason, "%s: %m", what);
	disconnect(h, reason);
}

static void connect_relay(struct pgherald *h)
{
	struct session *s = &h->session;
	struct wire_frame hello = {
		.type = WIRE_HELLO, .hello = {.version = WIRE_VERSION, .name = wire_str(h->name)}};

	int r = stream_connect(&s->stream, h->socket);
	if (r == 0)
		r = wake_watch(&h->wake, s->stream.fd);
	if (r < 0) {
		disconnect_errno(h, h->socket, r);
		return;
	}
	if (h->cursor.set) {
		cursor_resume(&h->cursor, &hello.hello);
		s->begin_due = true;
	}
	size_t size;
	char *room = stream_room(&s->stream, &size);
	/* It always fits, because name and cursor are bounded. */
	stream_fill(&s->stream, (size_t)wire_encode(&hello, room, size));
}

/* Frames from the relay. Each function returns false if it closed the connection or the
 * handle does not go on. */

static bool on_welcome(struct pgherald *h, const struct wire_welcome *welcome)
{
	struct session *s = &h->session;
	bool upstream_live = wire_str_eq(welcome->upstream, wire_str("live"));

	if (s->welcomed || welcome->version != WIRE_VERSION || cursor_welcome(&h->cursor, welcome) < 0) {
		disconnect(h, "the relay broke the protocol: WELCOME");
		return false;
	}
	s->welcomed = true;
	s->welcomed_at = wake_clock();
	s->reason[0] = '\0';
	tell_state(h, PGHERALD_CONNECTED, welcome->mode.ptr ? tell_text(welcome->mode) : "");
	if (handle_goes_on(h))
		tell_state(h, upstream_live ? PGHERALD_UPSTREAM_LIVE : PGHERALD_UPSTREAM_DOWN, "");
	return handle_goes_on(h);
}

static bool on_ok(struct pgherald *h, const struct wire_ok *ok)
{
	struct session *s = &h->session;

	if (s->begin_id && ok->id == s->begin_id) {
		s->begin_id = 0;
		cursor_caught_up(&h->cursor, ok->seq);
		return true;
	}
	struct subscriptions_answer answer = subscriptions_live(&h->subs, ok->id, ok->seq, &h->ready);
	if (answer.known) {
		tell_ready(h);
		if (handle_goes_on(h) && answer.renewed)
			tell_refused(h, "a subscription that was refused is live");
		return handle_goes_on(h);
	}
	/* Nothing waits for the OK to an UNSUBSCRIBE, or to a request that has timed out. */
	struct publish *pub = publishes_answered(&h->pubs, ok->id);
	if (pub)
		tell_published(h, pub, (struct pgherald_result){.seq = ok->seq});
	return handle_goes_on(h);
}

static bool on_error(struct pgherald *h, const struct wire_error *error)
{
	struct session *s = &h->session;
	int code = error_of_code(error->code);
	const char *text = tell_text(error->text);

	if (!error->has_id)
		return true;
	if (s->begin_id && error->id == s->begin_id) {
		disconnect(h, "the relay refused to resume");
		return false;
	}
	struct subscriptions_answer answer =
		subscriptions_refused(&h->subs, error->id, code, text, &h->ready);
	if (answer.known) {
		tell_ready(h);
		if (handle_goes_on(h) && answer.untold)
			tell_refused(h, text);
		return handle_goes_on(h);
	}
	struct publish *pub = publishes_answered(&h->pubs, error->id);
	if (pub)
		tell_published(h, pub, (struct pgherald_result){.error = code, .text = text});
	return handle_goes_on(h);
}

static bool on_bye(struct pgherald *h, const struct wire_bye *bye)
{
	char reason[sizeof h->session.reason];

	snprintf(reason, sizeof reason, "the relay said %.*s: %.*s", (int)bye->code.len, bye->code.ptr,
		(int)bye->text.len, bye->text.ptr);
	disconnect(h, reason);
	return false;
}

static void on_upstream(struct pgherald *h, const struct wire_upstream *upstream)
{
	bool live = wire_str_eq(upstream->state, wire_str("live"));

	tell_state(h, live ? PGHERALD_UPSTREAM_LIVE : PGHERALD_UPSTREAM_DOWN, tell_text(upstream->text));
}

static bool on_frame(struct pgherald *h, const struct wire_frame *frame)
{
	uint64_t seq = WIRE_SEQ_NIL;

	switch (frame->type) {
	case WIRE_WELCOME:
		return on_welcome(h, &frame->welcome);
	case WIRE_ERROR:
		return on_error(h, &frame->error);
	case WIRE_BYE:
		return on_bye(h, &frame->bye);
	default:
		if (!h->session.welcomed) {
			disconnect(h, "the relay broke the protocol: no WELCOME");
			return false;
		}
	}
	switch (frame->type) {
	case WIRE_OK:
		return on_ok(h, &frame->ok);
	case WIRE_CHANGE:
		seq = frame->change.seq;
		tell_change(h, &frame->change);
		break;
	case WIRE_MESSAGE:
		seq = frame->message.seq;
		tell_message(h, &frame->message);
		break;
	case WIRE_GAP:
		seq = frame->gap.seq;
		tell_gap(h, &frame->gap);
		break;
	case WIRE_UPSTREAM:
		seq = frame->upstream.seq;
		on_upstream(h, &frame->upstream);
		break;
	case WIRE_CHECKPOINT:
		cursor_checkpoint(&h->cursor, &frame->checkpoint);
		break;
	default: /* a frame that only workers send: ignored like an unknown one */
		break;
	}
	/* Only after the callback has returned: the cursor promises that. */
	cursor_passed(&h->cursor, seq);
	return handle_goes_on(h);
}

/* Handle the frames that have arrived whole. Returns false as above. */
static bool handle_frames(struct pgherald *h)
{
	struct wire_frame frame;
	char *end;
	int r;

	while ((r = stream_frame(&h->session.stream, h->decoder, &frame, &end)) == 0 || r == -ENOTSUP) {
		if (r == -ENOTSUP)
			continue;
		/* The NUL after the frame's last string overwrites the first byte of the
		 * next frame. */
		char behind = *end;
		bool go_on = on_frame(h, &frame);
		*end = behind;
		if (!go_on)
			return false;
	}
	if (r == -EAGAIN)
		return true;
	disconnect(h, r == -ENOMEM ? "out of memory" : "the relay broke the protocol: no frame");
	return false;
}

/* ended: the relay has closed, so read up to the end. Returns true if there may be more. */
static bool receive(struct pgherald *h, bool ended)
{
	for (int i = 0; i < RECEIVES_PER_TURN; i++) {
		int n = stream_receive(&h->session.stream);
		if (n == -EAGAIN)
			return false;
		if (n < 0) {
			disconnect_errno(h, "connection lost", n);
			return false;
		}
		if (!handle_frames(h))
			return false;
		/* A receive only to learn that this was all would cost every wake a system
		 * call. */
		if (!ended && !stream_full(&h->session.stream))
			return false;
	}
	return true;
}

bool session_turn(struct pgherald *h, uint64_t now, enum wake_socket socket)
{
	struct session *s = &h->session;

	if (s->stream.fd >= 0)
		return socket != WAKE_QUIET && receive(h, socket == WAKE_ENDED);
	if (now >= s->retry_at)
		connect_relay(h);
	return false;
}

/* Fill the empty buffer with what is due, as far as it fits, in this order: (UN)SUBSCRIBEs,
 * BEGIN, requests to publish. */
static void fill(struct pgherald *h)
{
	struct session *s = &h->session;
	struct publish *pub;
	size_t size;
	char *room = stream_room(&s->stream, &size);
	int len;

	while ((len = subscriptions_encode(&h->subs, h->next_id, room, size)) > 0) {
		h->next_id++;
		stream_fill(&s->stream, (size_t)len);
		room = stream_room(&s->stream, &size);
	}
	if (len < 0)
		return;
	if (s->begin_due) {
		struct wire_frame begin = {.type = WIRE_BEGIN, .request = {.id = h->next_id}};
		len = wire_encode(&begin, room, size);
		if (len < 0)
			return;
		s->begin_due = false;
		s->begin_id = h->next_id++;
		stream_fill(&s->stream, (size_t)len);
		room = stream_room(&s->stream, &size);
	}
	while (s->welcomed && (pub = publishes_next(&h->pubs)) && pub->len <= size) {
		memcpy(room, pub->frame, pub->len);
		publishes_sent(&h->pubs, pub);
		stream_fill(&s->stream, pub->len);
		room = stream_room(&s->stream, &size);
	}
}

void session_flush(struct pgherald *h)
{
	struct session *s = &h->session;
	int r = 0;

	if (s->stream.fd < 0)
		return;
	do {
		if (s->stream.out_end == 0)
			fill(h);
		if (s->stream.out_end == 0)
			break;
		r = stream_flush(&s->stream);
	} while (r == 0);

	if (r < 0 && r != -EAGAIN) {
		/* What the relay sent before it closed can still be read, above all its
		 * reason. */
		receive(h, true);
		if (s->stream.fd >= 0 && handle_goes_on(h))
			disconnect_errno(h, "connection lost", r);
		return;
	}
	if (s->output_blocked != (r == -EAGAIN)) {
		s->output_blocked = r == -EAGAIN;
		wake_on_output(&h->wake, s->stream.fd, s->output_blocked);
	}
}

bool session_send_first(struct pgherald *h)
{
	struct session *s = &h->session;

	if (!s->welcomed || s->stream.out_end > 0 || publishes_in_flight(&h->pubs))
		return false;
	fill(h);
	/* The next dispatch meets an error again, and ends the connection. */
	return stream_flush(&s->stream) == 0 && !publishes_next(&h->pubs);
}
