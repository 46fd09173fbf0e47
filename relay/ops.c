#include "ops.h"

#include "clock.h"
#include "relay.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct ops_connection {
	struct ops *ops;
	struct ops_connection *next, *prev;
	struct ev_io reader, writer;
	int fd;
	bool ended; /* the operator sends no more: answer what is asked, then close */
	char line[OPS_LINE_MAX];
	size_t line_len;
	bool too_long; /* the rest of the line is skipped */
	char *output;
	size_t output_start, output_len;
};

/* Commands */

static void print_seconds(FILE *out, const char *what, double seconds)
{
	fprintf(out, "%-12s %.1f s\n", what, seconds);
}

static void command_status(const struct relay *r, FILE *out)
{
	const struct fanout *f = &r->fanout;
	const struct backlog *b = &f->backlog;
	double now = clock_now();
	uint64_t kept = b->head + 1 - b->first;
	uint64_t bytes = kept ? b->end - backlog_entry(b, b->first)->start : 0;

	fprintf(out, "%-12s %s\n", "version", PGHERALD_VERSION);
	fprintf(out, "%-12s %s\n", "mode", r->config.mode == MODE_POSTGRES ? "postgres" : "local");
	print_seconds(out, "uptime", now - r->started);
	fprintf(out, "%-12s %s\n", "epoch", f->epoch);
	if (r->config.mode == MODE_POSTGRES) {
		fprintf(out, "%-12s %s for %.1f s, backend %d, database \"%s\", connects %llu\n", "upstream",
			upstream_state_name(r->upstream.state), now - r->upstream.state_since, r->upstream.backend_pid,
			r->upstream.database, (unsigned long long)r->upstream.n_connects);
		fprintf(out, "%-12s sent %llu, heard %llu, probes %llu, round trip %.1f ms\n", "canary",
			(unsigned long long)r->canary.n_sent, (unsigned long long)r->canary.n_heard,
			(unsigned long long)r->canary.n_probes, r->canary.round_trip * 1000);
		fprintf(out, "%-12s %s, waiting %u, published %llu in %llu batches, failed %llu\n", "publisher",
			r->publisher.session.conn ? "connected" : "down",
			r->publisher.queue.n + r->publisher.in_flight.n, (unsigned long long)r->publisher.n_published,
			(unsigned long long)r->publisher.n_batches, (unsigned long long)r->publisher.n_failed);
	}
	fprintf(out, "%-12s changes %llu, messages %llu, malformed %llu\n", "heard", (unsigned long long)f->n_changes,
		(unsigned long long)f->n_messages, (unsigned long long)r->decode.n_malformed);
	fprintf(out, "%-12s %llu in %llu sends\n", "deliveries", (unsigned long long)f->n_deliveries,
		(unsigned long long)f->n_wakes);
	fprintf(out, "%-12s seq %llu, frames %llu, bytes %llu of %zu\n", "backlog", (unsigned long long)b->head,
		(unsigned long long)kept, (unsigned long long)bytes, b->size);
	fprintf(out, "%-12s %u, subscriptions by pubkey %u\n", "workers", f->n_workers, f->router.n_edges);
	if (r->config.mode == MODE_POSTGRES) {
		fprintf(out, "%-12s %s\n", "last error",
			*r->upstream.last_error    ? r->upstream.last_error
			: *r->publisher.last_error ? r->publisher.last_error
						   : "none");
	}
}

static void command_version(const struct relay *r, FILE *out)
{
	(void)r;
	fprintf(out, "pgherald %s\n", PGHERALD_VERSION);
}

static void command_config(const struct relay *r, FILE *out)
{
	(void)r;
	config_print(out);
}

static void command_help(const struct relay *r, FILE *out);

static const struct command {
	const char *name;
	void (*run)(const struct relay *relay, FILE *out);
	const char *help;
} commands[] = {
	{"help", command_help, "print this"},
	{"status", command_status, "one screen; so does a blank line"},
	{"config", command_config, "each setting, its value, where it came from"},
	{"version", command_version, "the relay's version"},
};

static void command_help(const struct relay *r, FILE *out)
{
	(void)r;
	for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
		fprintf(out, "%-10s %s\n", commands[i].name, commands[i].help);
}

static void run_line(const struct relay *r, const char *line, FILE *out)
{
	size_t i = 0;

	line += strspn(line, " \t");
	size_t len = strcspn(line, " \t\r");
	if (len == 0) {
		line = "status";
		len = strlen(line);
	}
	while (i < sizeof commands / sizeof *commands &&
		(strlen(commands[i].name) != len || strncmp(commands[i].name, line, len) != 0))
		i++;
	if (i == sizeof commands / sizeof *commands)
		fprintf(out, "ERR unknown-command try \"help\"\n");
	else
		commands[i].run(r, out);
	fputc('\n', out);
}

/* Connections */

static void close_connection(struct ops_connection *c)
{
	struct ev_loop *loop = c->ops->relay->loop;

	ev_io_stop(loop, &c->reader);
	ev_io_stop(loop, &c->writer);
	close(c->fd);
	if (c->next)
		c->next->prev = c->prev;
	if (c->prev)
		c->prev->next = c->next;
	else
		c->ops->connections = c->next;
	c->ops->n_connections--;
	free(c->output);
	free(c);
}

/* The connection may be gone after this. */
static void flush(struct ops_connection *c)
{
	struct ev_loop *loop = c->ops->relay->loop;

	while (c->output_start < c->output_len) {
		ssize_t n = send(c->fd, c->output + c->output_start, c->output_len - c->output_start,
			MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			ev_io_start(loop, &c->writer);
			return;
		}
		if (n < 0) {
			close_connection(c);
			return;
		}
		c->output_start += (size_t)n;
	}
	ev_io_stop(loop, &c->writer);
	free(c->output);
	c->output = NULL;
	c->output_start = c->output_len = 0;
	if (c->ended)
		close_connection(c);
}

/* Run the line and queue its reply. 0 or negative errno. */
static int answer(struct ops_connection *c)
{
	char *reply = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&reply, &len);

	if (!out)
		return -ENOMEM;
	c->line[c->line_len] = '\0';
	if (c->too_long)
		fprintf(out, "ERR line-too-long a command has at most %d bytes\n\n", OPS_LINE_MAX - 1);
	else
		run_line(c->ops->relay, c->line, out);
	c->line_len = 0;
	c->too_long = false;
	int r = fclose(out) == 0 ? 0 : -ENOMEM;
	if (r == 0 && c->output_len - c->output_start + len > OPS_OUTPUT_MAX)
		r = -EMSGSIZE;
	char *output = r == 0 ? realloc(c->output, c->output_len + len) : NULL;
	if (output) {
		memcpy(output + c->output_len, reply, len);
		c->output = output;
		c->output_len += len;
	} else if (r == 0) {
		r = -ENOMEM;
	}
	free(reply);
	return r;
}

static int take_byte(struct ops_connection *c, char byte)
{
	if (byte == '\n')
		return answer(c);
	if (c->line_len == OPS_LINE_MAX - 1)
		c->too_long = true;
	else
		c->line[c->line_len++] = byte;
	return 0;
}

static void on_readable(struct ev_loop *loop, struct ev_io *watcher, int events)
{
	struct ops_connection *c = watcher->data;
	char buf[4096];
	int r = 0;

	(void)events;
	ssize_t n = recv(c->fd, buf, sizeof buf, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0) {
		close_connection(c);
		return;
	}
	for (ssize_t i = 0; i < n && r == 0; i++)
		r = take_byte(c, buf[i]);
	if (n == 0) {
		/* A last line without a newline is a line too. */
		if (c->line_len > 0 || c->too_long)
			r = answer(c);
		c->ended = true;
		ev_io_stop(loop, &c->reader);
	}
	if (r < 0)
		close_connection(c);
	else
		flush(c);
}

static void on_writable(struct ev_loop *loop, struct ev_io *watcher, int events)
{
	(void)loop;
	(void)events;
	flush(watcher->data);
}

void ops_init(struct ops *ops, const struct relay *relay)
{
	*ops = (struct ops){.relay = relay};
}

void ops_accepted(void *context, int fd)
{
	struct ops *ops = context;
	struct ops_connection *c = ops->n_connections < OPS_CONNECTIONS_MAX ? calloc(1, sizeof *c) : NULL;

	if (!c) {
		static const char busy[] = "ERR busy too many connections\n\n";
		(void)!send(fd, busy, sizeof busy - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
		close(fd);
		return;
	}
	c->ops = ops;
	c->fd = fd;
	c->next = ops->connections;
	if (c->next)
		c->next->prev = c;
	ops->connections = c;
	ops->n_connections++;
	ev_io_init(&c->reader, on_readable, fd, EV_READ);
	ev_io_init(&c->writer, on_writable, fd, EV_WRITE);
	c->reader.data = c->writer.data = c;
	ev_io_start(ops->relay->loop, &c->reader);
}

void ops_close(struct ops *ops)
{
	while (ops->connections)
		close_connection(ops->connections);
}
