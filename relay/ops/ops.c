#include "ops/ops.h"

#include "base/clock.h"
#include "base/diag.h"
#include "ops/commands.h"
#include "ops/parts.h"

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct diag_limit refusal_limit, drop_limit;

static struct ops_connection *connection_of(struct place *place)
{
	return (struct ops_connection *)((char *)place - offsetof(struct ops_connection, place));
}

static struct ops_connection *first_connection(const struct ops *ops)
{
	struct place *first = TAILQ_FIRST(&ops->places.all);

	return first ? connection_of(first) : NULL;
}

static struct ops_connection *next_connection(const struct ops_connection *c)
{
	struct place *next = TAILQ_NEXT(&c->place, next);

	return next ? connection_of(next) : NULL;
}

static void end_answer(struct ops_connection *c)
{
	metrics_page_end(&c->answer.page);
	c->answer = (struct ops_answer){0};
}

static void close_connection(struct ops_connection *c)
{
	struct ops *ops = c->ops;
	struct fanout *f = ops->parts->fanout;

	if (c->tail.on && --ops->n_tails == 0)
		f->tap = NULL;
	ev_io_stop(f->loop, &c->reader);
	ev_io_stop(f->loop, &c->writer);
	schedule_remove(&f->asking, &c->ready);
	close(c->fd);
	places_give_up(&ops->places, &c->place);
	users_put(&f->users, c->user);
	end_answer(c);
	outbox_free(&c->outbox);
	free(c);
}

static void drop(struct ops_connection *c, const char *why)
{
	c->ops->n_dropped++;
	diag_limited(&drop_limit, DIAG_WARNING, "an operator's connection is dropped: %s uid=%u", why,
		(unsigned)c->place.uid);
	close_connection(c);
}

static void schedule(struct ops_connection *c)
{
	schedule_add(&c->ops->parts->fanout->asking, &c->ready);
}

/* Replies */

/* What print_to() writes, into the outbox. What it returns, or -ENOMEM: then none of it. */
static int reply(struct ops_connection *c,
	int (*print_to)(struct ops_connection *c, const void *what, FILE *out), const void *what)
{
	size_t before = outbox_waiting(&c->outbox);
	FILE *out = outbox_stream(&c->outbox);

	if (!out)
		return -ENOMEM;
	int r = print_to(c, what, out);
	if (outbox_end_stream(out) < 0)
		r = -ENOMEM;
	if (r < 0)
		outbox_cut(&c->outbox, before);
	return r;
}

static int print_reply(struct ops_connection *c, const void *line, FILE *out)
{
	bool tailed = c->tail.on;

	ops_command(c, line, out);
	/* A tail has no end of its own: its blank line comes with the next command. That of a reply in
	 * portions comes with the last of them. */
	if (!c->answer.go_on && (!c->tail.on || tailed))
		fputc('\n', out);
	return 0;
}

static int print_portion(struct ops_connection *c, const void *nothing, FILE *out)
{
	(void)nothing;
	int r = c->answer.go_on(c, out);
	if (r == 1)
		fputc('\n', out);
	return r;
}

static int print_end_of_tail(struct ops_connection *c, const void *nothing, FILE *out)
{
	(void)nothing;
	if (c->tail.dropped > 0)
		tail_print_dropped(&c->tail, out);
	fputc('\n', out);
	return 0;
}

static int print_too_long(struct ops_connection *c, const void *nothing, FILE *out)
{
	(void)c;
	(void)nothing;
	fprintf(out, "ERR line-too-long a command has at most %d bytes\n\n", OPS_LINE_MAX - 1);
	return 0;
}

static int end_tail(struct ops_connection *c)
{
	int r = reply(c, print_end_of_tail, NULL);

	c->tail.on = c->place.lasting = false;
	if (--c->ops->n_tails == 0)
		c->ops->parts->fanout->tap = NULL;
	return r;
}

void ops_answer_begin(
	struct ops_connection *c, bool json, int (*go_on)(struct ops_connection *connection, FILE *out))
{
	c->answer = (struct ops_answer){.go_on = go_on, .json = json, .table = {.measuring = !json}};
}

/* Tails */

/* A frame as tails show it, printed when the first of them wants it: there may be many tails. */
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

static int print_dropped(struct ops_connection *c, const void *nothing, FILE *out)
{
	(void)nothing;
	tail_print_dropped(&c->tail, out);
	return 0;
}

static int show(struct ops_connection *c, struct shown *s)
{
	if (outbox_waiting(&c->outbox) >= OPS_OUTPUT_MAX)
		return -ENOMEM;
	const struct outbox *text = shown_as(s, c->tail.json);
	if (!text || (c->tail.dropped > 0 && reply(c, print_dropped, NULL) < 0))
		return -ENOMEM;
	return outbox_add(&c->outbox, text->bytes + text->start, outbox_waiting(text));
}

/* The fan-out appends a frame. Nothing is sent or closed from here: the writer does, when the loop comes to
 * it. */
static void on_appended(void *context, const struct wire_frame *frame)
{
	struct ops *ops = context;
	struct shown shown = {.frame = frame};

	for (struct ops_connection *c = first_connection(ops); c; c = next_connection(c)) {
		if (!c->tail.on || !tail_wants(&c->tail, frame))
			continue;
		if (show(c, &shown) < 0)
			c->tail.dropped++;
		if (!ev_is_active(&c->writer))
			ev_io_start(ops->parts->loop, &c->writer);
	}
	outbox_free(&shown.text);
	outbox_free(&shown.json);
}

unsigned ops_tails_of(const struct ops *ops, uid_t uid)
{
	unsigned n = 0;

	for (struct ops_connection *c = first_connection(ops); c; c = next_connection(c))
		n += c->tail.on && c->place.uid == uid;
	return n;
}

void ops_tail_begin(struct ops_connection *c, const struct tail *tail)
{
	struct fanout *f = c->ops->parts->fanout;

	c->tail = *tail;
	c->tail.on = c->place.lasting = true;
	c->ops->n_tails++;
	f->tap = on_appended;
	f->tap_context = c->ops;
}

/* Lines */

/* 0 or negative errno. */
static int run_line(struct ops_connection *c, char *line)
{
	int r = c->tail.on ? end_tail(c) : 0;

	return r < 0 ? r : reply(c, print_reply, line);
}

/* The next line of the input. 0 or negative errno. */
static int run_input(struct ops_connection *c)
{
	char *end = memchr(c->input, '\n', c->input_len);

	/* A last line without a newline is a line too; there is room for its end. */
	if (!end && c->ended && c->input_len > 0)
		end = c->input + c->input_len++;
	if (!end)
		return 0;
	*end = '\0';
	int r = c->skipping ? reply(c, print_too_long, NULL) : run_line(c, c->input);
	c->skipping = false;
	size_t len = (size_t)(end + 1 - c->input);
	c->input_len -= len;
	memmove(c->input, c->input + len, c->input_len);
	return r;
}

static bool has_line(const struct ops_connection *c)
{
	return c->input_len > 0 && (c->ended || memchr(c->input, '\n', c->input_len));
}

static bool has_work(const struct ops_connection *c)
{
	return c->answer.go_on || has_line(c);
}

/* The next portion of what is asked, as long as the replies are taken. 0 or negative errno. */
static int work(struct ops_connection *c)
{
	if (outbox_waiting(&c->outbox) >= OPS_OUTPUT_MAX)
		return 0;
	if (!c->answer.go_on)
		return run_input(c);
	int r = reply(c, print_portion, NULL);
	if (r == 1)
		end_answer(c);
	return r < 0 ? r : 0;
}

static int send_replies(struct ops_connection *c)
{
	size_t before = outbox_waiting(&c->outbox);
	int r = outbox_send(&c->outbox, c->fd);

	if (outbox_waiting(&c->outbox) < before)
		c->place.active = clock_now();
	/* Perhaps nothing follows for long that would show it. */
	if (r == 0 && c->tail.on && c->tail.dropped > 0)
		r = reply(c, print_dropped, NULL);
	return r;
}

/* Watch for what is missing: bytes of it, or room for ours. */
static void wait_for_peer(struct ops_connection *c)
{
	struct ev_loop *loop = c->ops->parts->loop;

	if (outbox_waiting(&c->outbox) > 0)
		ev_io_start(loop, &c->writer);
	if (has_work(c) && outbox_waiting(&c->outbox) < OPS_OUTPUT_MAX)
		schedule(c);
	if (!c->ended && !has_line(c))
		ev_io_start(loop, &c->reader);
}

static void serve(struct ready *ready)
{
	struct ops_connection *c =
		(struct ops_connection *)((char *)ready - offsetof(struct ops_connection, ready));
	int r = work(c);

	if (r == 0)
		r = send_replies(c);
	if (r == -ENOMEM)
		drop(c, "out of memory");
	else if ((r < 0 && r != -EAGAIN) || (r == 0 && c->ended && !c->tail.on && !has_work(c)))
		close_connection(c);
	else
		wait_for_peer(c);
}

static void on_readable(struct ev_loop *loop, struct ev_io *watcher, int events)
{
	struct ops_connection *c = watcher->data;

	if (events & EV_ERROR) {
		drop(c, "the kernel watches no more sockets for the relay");
		return;
	}
	/* One byte is kept for the NUL behind a last line. */
	ssize_t n = recv(c->fd, c->input + c->input_len, sizeof c->input - 1 - c->input_len, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0) {
		close_connection(c);
		return;
	}
	c->place.active = clock_now();
	c->input_len += (size_t)n;
	if (n == 0)
		c->ended = true;
	if (c->input_len == sizeof c->input - 1 && !memchr(c->input, '\n', c->input_len)) {
		c->skipping = true;
		/* One byte stands for the line until its end comes. */
		c->input_len = 1;
	}
	ev_io_stop(loop, &c->reader);
	schedule(c);
}

static void on_writable(struct ev_loop *loop, struct ev_io *watcher, int events)
{
	(void)events;
	ev_io_stop(loop, watcher);
	schedule(watcher->data);
}

/* Connections */

static void refuse(struct ops *ops, int fd)
{
	static const char busy[] = "ERR busy too many connections\n\n";

	(void)!send(fd, busy, sizeof busy - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
	close(fd);
	ops->n_dropped++;
	diag_limited(&refusal_limit, DIAG_WARNING,
		"an operator is refused: the ops socket has %u connections, all of them busy", ops->places.n);
}

static struct ops_connection *make_connection(struct ops *ops, uid_t uid)
{
	struct place *victim;

	if (!places_room(&ops->places, uid, &victim))
		return NULL;
	if (victim)
		drop(connection_of(victim), "others wait for its place");
	struct ops_connection *c = calloc(1, sizeof *c);
	struct user *user = c ? users_get(&ops->parts->fanout->users, uid) : NULL;
	if (!user) {
		free(c);
		return NULL;
	}
	c->ops = ops;
	c->user = user;
	ready_init(&c->ready, &user->asking, serve);
	places_take(&ops->places, &c->place, uid);
	return c;
}

void ops_accepted(void *context, int fd)
{
	struct ops *ops = context;
	struct ucred peer = {.uid = (uid_t)-1};
	socklen_t len = sizeof peer;

	getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len);
	struct ops_connection *c = make_connection(ops, peer.uid);
	if (!c) {
		refuse(ops, fd);
		return;
	}
	c->fd = fd;
	ops->n_accepted++;
	ev_io_init(&c->reader, on_readable, fd, EV_READ);
	ev_io_init(&c->writer, on_writable, fd, EV_WRITE);
	c->reader.data = c->writer.data = c;
	ev_io_start(ops->parts->loop, &c->reader);
}

/* A peer that has shut its side looks the same to the reader as one that is gone. */
static bool is_gone(const struct ops_connection *c)
{
	struct pollfd p = {.fd = c->fd};

	return poll(&p, 1, 0) == 1 && (p.revents & (POLLHUP | POLLERR));
}

void ops_tick(struct ops *ops)
{
	double now = clock_now();

	for (struct ops_connection *c = first_connection(ops), *next; c; c = next) {
		bool stalled = outbox_waiting(&c->outbox) > 0 && now - c->outbox.progress > OPS_STALL_SECONDS;
		next = next_connection(c);
		if (c->tail.on && c->ended && is_gone(c))
			close_connection(c);
		else if (!c->tail.on && stalled)
			drop(c, "it asks and does not read the replies");
		else
			c->place.lasting = c->tail.on && !stalled;
	}
}

void ops_init(struct ops *ops, struct parts *parts)
{
	*ops = (struct ops){.parts = parts};
	places_open(&ops->places, OPS_CONNECTIONS_MAX, OPS_KEPT, OPS_IDLE_SECONDS);
}

void ops_close(struct ops *ops)
{
	for (struct ops_connection *c; (c = first_connection(ops));)
		close_connection(c);
}
