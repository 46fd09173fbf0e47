#include "ops/ops.h"

#include "base/clock.h"
#include "base/diag.h"
#include "base/peer.h"
#include "ops/commands.h"
#include "ops/parts.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

_Static_assert(OPS_KEPT < OPS_CONNECTIONS_MAX, "some places are left to unprivileged users");

/* Between two looks for operators who read nothing, and for tails whose readers are gone. */
#define TICK_SECONDS 1.

struct ops_client {
	struct ops_connection base;
	bool ended;    /* its peer sends no more: answer what was asked, then close */
	bool skipping; /* the rest of a line that is too long */
	size_t input_len;
	char input[OPS_LINE_MAX];
	struct ops_answer answer; /* the reply that is being made */
	struct tail tail;
	LIST_ENTRY(ops_client) next_tail; /* while tail.on */
};

static struct diag_limit refusal_limit, drop_limit;

static struct ops *ops_of(const struct ops_client *c)
{
	return (struct ops *)c->base.all;
}

/* Replies */

/* Add what print() writes to the outbox. Returns what it returns, or -ENOMEM; then nothing is
 * added. */
static int reply(struct ops_client *c, int (*print)(struct ops_client *c, FILE *out))
{
	size_t before = outbox_waiting(&c->base.outbox);
	FILE *out = outbox_stream(&c->base.outbox);

	if (!out)
		return -ENOMEM;
	int r = print(c, out);
	if (outbox_end_stream(out) < 0)
		r = -ENOMEM;
	if (r < 0)
		outbox_cut(&c->base.outbox, before);
	return r;
}

static int print_portion(struct ops_client *c, FILE *out)
{
	int r = c->answer.go_on(&c->answer, c->base.all->parts, out);

	if (r == 1)
		fputc('\n', out);
	return r;
}

static int print_too_long(struct ops_client *c, FILE *out)
{
	(void)c;
	fprintf(out, "ERR line-too-long a command has at most %d bytes\n\n", OPS_LINE_MAX - 1);
	return 0;
}

/* Tails */

/* A frame as tails show it, printed once for all of them, when the first one wants it. */
struct shown {
	const struct wire_frame *frame;
	struct outbox text, json;
	bool failed;
};

static const struct outbox *shown_as(struct shown *s, bool json)
{
	struct outbox *as = json ? &s->json : &s->text;
	FILE *out = outbox_waiting(as) > 0 || s->failed ? NULL : outbox_stream(as);

	if (out) {
		tail_print(json, s->frame, out);
		s->failed = outbox_end_stream(out) < 0;
	}
	return s->failed || outbox_waiting(as) == 0 ? NULL : as;
}

static int print_dropped(struct ops_client *c, FILE *out)
{
	tail_print_dropped(&c->tail, out);
	return 0;
}

static int show(struct ops_client *c, struct shown *s)
{
	struct outbox *outbox = &c->base.outbox;

	if (outbox_waiting(outbox) >= OPS_OUTPUT_MAX)
		return -ENOMEM;
	const struct outbox *text = shown_as(s, c->tail.json);
	if (!text || (c->tail.dropped > 0 && reply(c, print_dropped) < 0))
		return -ENOMEM;
	return outbox_add(outbox, text->bytes + text->start, outbox_waiting(text));
}

/* The fan-out appends a frame. It must not lose a connection meanwhile, so nothing is sent or
 * closed here: the writers do that. */
static void on_appended(void *context, const struct wire_frame *frame)
{
	const struct ops *ops = context;
	struct shown shown = {.frame = frame};
	struct ops_client *c;

	LIST_FOREACH(c, &ops->tails, next_tail)
	{
		if (!tail_wants(&c->tail, frame))
			continue;
		if (show(c, &shown) < 0)
			c->tail.dropped++;
		ops_connection_watch(&c->base, false);
	}
	outbox_free(&shown.text);
	outbox_free(&shown.json);
}

static bool may_tail(const struct ops_client *c)
{
	uid_t uid = c->base.place.uid;
	unsigned n = 0;
	const struct ops_client *each;

	LIST_FOREACH(each, &ops_of(c)->tails, next_tail)
	{
		n += each->base.place.uid == uid;
	}
	return n < OPS_TAILS_PER_UID_MAX || places_is_privileged(uid);
}

static void set_tail(struct ops_client *c, bool on)
{
	struct ops *ops = ops_of(c);
	struct fanout *f = ops->connections.parts->fanout;

	c->tail.on = c->base.place.lasting = on;
	if (on)
		LIST_INSERT_HEAD(&ops->tails, c, next_tail);
	else
		LIST_REMOVE(c, next_tail);
	f->tap = LIST_EMPTY(&ops->tails) ? NULL : on_appended;
	f->tap_context = ops;
}

static int print_end_of_tail(struct ops_client *c, FILE *out)
{
	if (c->tail.dropped > 0)
		tail_print_dropped(&c->tail, out);
	fputc('\n', out);
	return 0;
}

static int end_tail(struct ops_client *c)
{
	int r = reply(c, print_end_of_tail);

	set_tail(c, false);
	return r;
}

/* Lines */

static int print_reply(struct ops_client *c, FILE *out)
{
	ops_command(c->base.all->parts, c->base.place.uid, c->input, out, &c->answer);
	if (c->answer.tail.on && !may_tail(c)) {
		c->answer.tail.on = false;
		fprintf(out, "ERR busy this user has as many tails as it may; end one\n");
	}
	if (c->answer.tail.on) {
		c->tail = c->answer.tail;
		set_tail(c, true);
	}
	/* The blank line of a tail comes with the next command, that of a reply in portions
	 * with the last portion. */
	else if (!c->answer.go_on)
		fputc('\n', out);
	if (!c->answer.go_on)
		ops_answer_end(&c->answer);
	return 0;
}

/* The next line of the input. 0 or negative errno. */
static int run_input(struct ops_client *c)
{
	char *end = memchr(c->input, '\n', c->input_len);
	int r = 0;

	/* A last line without a newline is a line too; there is room for its end. */
	if (!end && c->ended && c->input_len > 0)
		end = c->input + c->input_len++;
	if (!end)
		return 0;
	*end = '\0';
	if (!c->skipping && c->tail.on)
		r = end_tail(c);
	if (r == 0)
		r = reply(c, c->skipping ? print_too_long : print_reply);
	c->skipping = false;
	size_t len = (size_t)(end + 1 - c->input);
	c->input_len -= len;
	memmove(c->input, c->input + len, c->input_len);
	return r;
}

static bool has_line(const struct ops_client *c)
{
	return c->input_len > 0 && (c->ended || memchr(c->input, '\n', c->input_len));
}

static bool has_work(const struct ops_client *c)
{
	return c->answer.go_on || has_line(c);
}

/* The next portion of what was asked, as long as the peer takes the replies. 0 or negative
 * errno. */
static int work(struct ops_client *c)
{
	if (outbox_waiting(&c->base.outbox) >= OPS_OUTPUT_MAX)
		return 0;
	if (!c->answer.go_on)
		return run_input(c);
	int r = reply(c, print_portion);
	if (r == 1)
		ops_answer_end(&c->answer);
	return r < 0 ? r : 0;
}

/* What the peer sent, until there is a line. 0; a negative errno: it is gone. */
static int take_bytes(struct ops_client *c)
{
	/* One byte is kept for the NUL after a last line. */
	size_t room = sizeof c->input - 1 - c->input_len;

	if (c->ended || has_line(c))
		return 0;
	ssize_t n = recv(c->base.fd, c->input + c->input_len, room, MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	c->base.place.active = clock_now();
	c->input_len += (size_t)n;
	c->ended = n == 0;
	if (c->input_len == sizeof c->input - 1 && !has_line(c)) {
		c->skipping = true;
		/* One byte stands for the line until its end comes. */
		c->input_len = 1;
	}
	return 0;
}

static int send_replies(struct ops_client *c)
{
	int r = ops_connection_send(&c->base);

	/* Perhaps no frame follows for long that would show it. */
	if (r == 0 && c->tail.on && c->tail.dropped > 0)
		r = reply(c, print_dropped);
	return r;
}

static void serve(struct ops_connection *connection)
{
	struct ops_client *c = (struct ops_client *)connection;
	int r = take_bytes(c);

	if (r == 0)
		r = work(c);
	if (r == 0)
		r = send_replies(c);
	if (r == -ENOMEM) {
		ops_connection_drop(connection, "out of memory");
	} else if ((r < 0 && r != -EAGAIN) || (r == 0 && c->ended && !c->tail.on && !has_work(c))) {
		ops_connection_close(connection);
	} else {
		if (has_work(c) && outbox_waiting(&connection->outbox) < OPS_OUTPUT_MAX)
			ops_connection_schedule(connection);
		ops_connection_watch(connection, !c->ended && !has_line(c));
	}
}

/* Connections */

static void on_closed(struct ops_connection *connection)
{
	struct ops_client *c = (struct ops_client *)connection;

	if (c->tail.on)
		set_tail(c, false);
	ops_answer_end(&c->answer);
}

static void on_dropped(const struct ops_connection *c, const char *why)
{
	diag_limited(&drop_limit, DIAG_WARNING, "dropped an operator's connection: %s uid=%u", why,
		(unsigned)c->place.uid);
}

static void on_refused(const struct ops_connections *all, int fd)
{
	static const char busy[] = "ERR busy too many connections\n\n";

	(void)!send(fd, busy, sizeof busy - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
	diag_limited(&refusal_limit, DIAG_WARNING,
		"refused an operator: the ops socket has %u connections, all of them busy", all->places.n);
}

void ops_tick(struct ops *ops)
{
	double now = clock_now();

	for (struct ops_connection *each = ops_connections_first(&ops->connections), *next; each;
		each = next) {
		const struct ops_client *c = (struct ops_client *)each;
		bool stalled =
			outbox_waiting(&each->outbox) > 0 && now - each->outbox.progress > OPS_STALL_SECONDS;
		next = ops_connections_next(each);
		if (c->tail.on && c->ended && peer_is_gone(each->fd))
			ops_connection_close(each);
		else if (!c->tail.on && stalled)
			ops_connection_drop(each, "it asks and does not read the replies");
		else
			each->place.lasting = c->tail.on && !stalled;
	}
	if (!ops_connections_first(&ops->connections))
		ev_timer_stop(ops->connections.parts->loop, &ops->tick);
}

static void on_tick(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	(void)loop;
	(void)events;
	ops_tick(timer->data);
}

static void on_opened(struct ops_connection *connection)
{
	struct ops *ops = (struct ops *)connection->all;

	if (!ev_is_active(&ops->tick))
		ev_timer_again(connection->all->parts->loop, &ops->tick);
}

void ops_init(struct ops *ops, struct parts *parts)
{
	static const struct ops_connection_kind kind = {
		.size = sizeof(struct ops_client),
		.n_max = OPS_CONNECTIONS_MAX,
		.n_kept = OPS_KEPT,
		.idle_seconds = OPS_IDLE_SECONDS,
		.opened = on_opened,
		.serve = serve,
		.closed = on_closed,
		.dropped = on_dropped,
		.refused = on_refused,
	};

	*ops = (struct ops){0};
	LIST_INIT(&ops->tails);
	ev_timer_init(&ops->tick, on_tick, TICK_SECONDS, TICK_SECONDS);
	ops->tick.data = ops;
	ops_connections_open(&ops->connections, &kind, parts);
}

void ops_close(struct ops *ops)
{
	ops_connections_close(&ops->connections);
	ev_timer_stop(ops->connections.parts->loop, &ops->tick);
}
