#include "ops.h"

#include "clock.h"
#include "diag.h"
#include "ops_commands.h"
#include "relay.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* So that an operator who asks much at once holds up no worker. */
#define LINES_A_TURN 8

static struct diag_limit refusal_limit, drop_limit;

static void close_connection(struct ops_connection *c)
{
	struct ops *ops = c->ops;

	if (c->tail.on && --ops->n_tails == 0)
		ops->relay->fanout.tap = NULL;
	ev_io_stop(ops->relay->loop, &c->reader);
	ev_io_stop(ops->relay->loop, &c->writer);
	ev_timer_stop(ops->relay->loop, &c->turn);
	close(c->fd);
	if (c->next)
		c->next->prev = c->prev;
	if (c->prev)
		c->prev->next = c->next;
	else
		ops->connections = c->next;
	ops->n_connections--;
	outbox_free(&c->outbox);
	free(c);
}

static void drop(struct ops_connection *c, const char *why)
{
	c->ops->n_dropped++;
	diag_limited(&drop_limit, DIAG_WARNING, "an operator's connection is dropped: %s uid=%u", why,
		(unsigned)c->uid);
	close_connection(c);
}

/* Replies */

/* What print_to() writes, into the outbox. 0 or -ENOMEM, then none of it. */
static int reply(struct ops_connection *c,
	void (*print_to)(struct ops_connection *c, const void *what, FILE *out), const void *what)
{
	size_t before = outbox_waiting(&c->outbox);
	FILE *out = outbox_stream(&c->outbox);

	if (!out)
		return -ENOMEM;
	print_to(c, what, out);
	int r = outbox_end_stream(out);
	if (r < 0)
		outbox_cut(&c->outbox, before);
	return r;
}

static void print_reply(struct ops_connection *c, const void *line, FILE *out)
{
	bool tailed = c->tail.on;

	ops_command(c, line, out);
	/* A tail has no end of its own: its blank line comes with the next command. */
	if (!c->tail.on || tailed)
		fputc('\n', out);
}

static void print_end_of_tail(struct ops_connection *c, const void *nothing, FILE *out)
{
	(void)nothing;
	if (c->tail.dropped > 0)
		tail_print_dropped(&c->tail, out);
	fputc('\n', out);
}

static void print_too_long(struct ops_connection *c, const void *nothing, FILE *out)
{
	(void)c;
	(void)nothing;
	fprintf(out, "ERR line-too-long a command has at most %d bytes\n\n", OPS_LINE_MAX - 1);
}

static int end_tail(struct ops_connection *c)
{
	int r = reply(c, print_end_of_tail, NULL);

	c->tail.on = false;
	if (--c->ops->n_tails == 0)
		c->ops->relay->fanout.tap = NULL;
	return r;
}

/* Tails */

static void print_frame(struct ops_connection *c, const void *frame, FILE *out)
{
	if (c->tail.dropped > 0)
		tail_print_dropped(&c->tail, out);
	tail_print(&c->tail, frame, out);
}

/* The fan-out appends a frame. Nothing is sent or closed from here: the writer does, when the loop comes to
 * it. */
static void on_appended(void *context, const struct wire_frame *frame)
{
	struct ops *ops = context;

	for (struct ops_connection *c = ops->connections; c; c = c->next) {
		if (!c->tail.on || !tail_wants(&c->tail, frame))
			continue;
		uint64_t dropped = c->tail.dropped;
		if (outbox_waiting(&c->outbox) >= OPS_OUTPUT_MAX || reply(c, print_frame, frame) < 0)
			c->tail.dropped = dropped + 1;
		ev_io_start(ops->relay->loop, &c->writer);
	}
}

void ops_tail_begin(struct ops_connection *c, const struct tail *tail)
{
	struct fanout *f = &c->ops->relay->fanout;

	c->tail = *tail;
	c->tail.on = true;
	c->ops->n_tails++;
	f->tap = on_appended;
	f->tap_context = c->ops;
}

static void print_dropped(struct ops_connection *c, const void *nothing, FILE *out)
{
	(void)nothing;
	tail_print_dropped(&c->tail, out);
}

/* Lines */

/* 0 or negative errno. */
static int run_line(struct ops_connection *c, char *line)
{
	int r = c->tail.on ? end_tail(c) : 0;

	c->ops->n_commands++;
	return r < 0 ? r : reply(c, print_reply, line);
}

/* The next lines of the input, as long as their replies are taken. 0 or negative errno. */
static int run_input(struct ops_connection *c)
{
	size_t start = 0;
	int r = 0;

	for (int i = 0; i < LINES_A_TURN && r == 0 && start < c->input_len; i++) {
		if (outbox_waiting(&c->outbox) >= OPS_OUTPUT_MAX)
			break;
		char *line = c->input + start, *end = memchr(line, '\n', c->input_len - start);
		/* A last line without a newline is a line too; there is room for its end. */
		if (!end && c->ended)
			end = c->input + c->input_len++;
		if (!end)
			break;
		*end = '\0';
		start = (size_t)(end + 1 - c->input);
		r = c->skipping ? reply(c, print_too_long, NULL) : run_line(c, line);
		c->skipping = false;
	}
	c->input_len -= start;
	memmove(c->input, c->input + start, c->input_len);
	return r;
}

static bool has_line(const struct ops_connection *c)
{
	return c->input_len > 0 && (c->ended || memchr(c->input, '\n', c->input_len));
}

/* Run what is asked, and send. The connection may be gone after this. */
static void serve(struct ops_connection *c)
{
	struct ev_loop *loop = c->ops->relay->loop;
	int r = run_input(c);

	if (r == 0)
		r = outbox_send(&c->outbox, c->fd);
	/* Perhaps nothing follows for long that would show it. */
	if (r == 0 && c->tail.on && c->tail.dropped > 0)
		r = reply(c, print_dropped, NULL);
	if (r == -ENOMEM) {
		drop(c, "out of memory");
	} else if ((r < 0 && r != -EAGAIN) || (r == 0 && c->ended && !c->tail.on && !has_line(c))) {
		close_connection(c);
	} else {
		if (outbox_waiting(&c->outbox) > 0)
			ev_io_start(loop, &c->writer);
		else
			ev_io_stop(loop, &c->writer);
		if (c->ended || has_line(c))
			ev_io_stop(loop, &c->reader);
		else
			ev_io_start(loop, &c->reader);
		/* A socket that takes more need not count as writable, so the writer could wait for ever. */
		if (has_line(c) && outbox_waiting(&c->outbox) == 0)
			timer_arm(loop, &c->turn, 0);
	}
}

static void on_readable(struct ev_loop *loop, struct ev_io *watcher, int events)
{
	struct ops_connection *c = watcher->data;

	(void)loop;
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
	c->active = clock_now();
	c->input_len += (size_t)n;
	if (n == 0)
		c->ended = true;
	if (c->input_len == sizeof c->input - 1 && !memchr(c->input, '\n', c->input_len)) {
		c->skipping = true;
		/* One byte stands for the line until its end comes. */
		c->input_len = 1;
	}
	serve(c);
}

static void on_writable(struct ev_loop *loop, struct ev_io *watcher, int events)
{
	(void)loop;
	(void)events;
	serve(watcher->data);
}

static void on_turn(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	(void)loop;
	(void)events;
	serve(timer->data);
}

/* Connections */

static bool make_room(struct ops *ops)
{
	struct ops_connection *idlest = NULL;

	if (ops->n_connections < OPS_CONNECTIONS_MAX)
		return true;
	for (struct ops_connection *c = ops->connections; c; c = c->next)
		if (!c->tail.on && (!idlest || c->active < idlest->active))
			idlest = c;
	if (!idlest || clock_now() - idlest->active < OPS_IDLE_SECONDS)
		return false;
	drop(idlest, "others wait for its place");
	return true;
}

static void refuse(struct ops *ops, int fd)
{
	static const char busy[] = "ERR busy too many connections\n\n";

	(void)!send(fd, busy, sizeof busy - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
	close(fd);
	ops->n_dropped++;
	diag_limited(&refusal_limit, DIAG_WARNING,
		"an operator is refused: the ops socket has %d connections, all of them busy",
		OPS_CONNECTIONS_MAX);
}

void ops_accepted(void *context, int fd)
{
	struct ops *ops = context;
	struct ops_connection *c = make_room(ops) ? calloc(1, sizeof *c) : NULL;
	struct ucred peer = {.uid = (uid_t)-1};
	socklen_t len = sizeof peer;

	if (!c) {
		refuse(ops, fd);
		return;
	}
	getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len);
	c->ops = ops;
	c->fd = fd;
	c->uid = peer.uid;
	c->active = clock_now();
	c->next = ops->connections;
	if (c->next)
		c->next->prev = c;
	ops->connections = c;
	ops->n_connections++;
	ops->n_accepted++;
	ev_io_init(&c->reader, on_readable, fd, EV_READ);
	ev_io_init(&c->writer, on_writable, fd, EV_WRITE);
	timer_init(&c->turn, on_turn, c);
	c->reader.data = c->writer.data = c;
	ev_io_start(ops->relay->loop, &c->reader);
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

	for (struct ops_connection *c = ops->connections, *next; c; c = next) {
		next = c->next;
		if (c->tail.on && c->ended && is_gone(c))
			close_connection(c);
		else if (!c->tail.on && outbox_waiting(&c->outbox) > 0 &&
			 now - c->outbox.progress > OPS_STALL_SECONDS)
			drop(c, "it asks and does not read the replies");
	}
}

void ops_init(struct ops *ops, struct relay *relay)
{
	*ops = (struct ops){.relay = relay};
}

void ops_close(struct ops *ops)
{
	while (ops->connections)
		close_connection(ops->connections);
}
