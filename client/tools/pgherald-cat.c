/* pgherald-cat: print what a pgherald relay tells its workers, or publish one change or
 * message. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pgherald.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "command_line.h"
#include "exit_status.h"
#include "instance.h"
#include "lines.h"

/* How long it looks for a relay, and how long a request to publish may take unless --timeout says
 * so. A relay that restarts is back by then. */
#define PATIENCE_SECONDS 5.
/* Between two looks for a relay */
#define LOOK_NANOSECONDS 100000000

struct cat {
	struct command_line asked;
	struct lines lines;
	char path[INSTANCE_PATH_SIZE]; /* of the socket; empty: the local notifier */
	char cursor[PGHERALD_CURSOR_SIZE];
	double end;          /* seconds, CLOCK_MONOTONIC; INFINITY: there is none */
	unsigned long heard; /* changes and messages */
	size_t waiting;      /* subscriptions that are not live yet */
	bool done;           /* there is nothing left to do */
	bool cursor_kept;    /* done, and cursor is the last one */
	bool was_connected;
	bool is_deaf;   /* the relay does not hear PostgreSQL */
	char away[256]; /* why there is no relay; empty: there is one, or none was tried */
	enum exit_status status;
};

static void fail(struct cat *cat, enum exit_status status, const char *what, const char *why)
{
	fprintf(stderr, "pgherald-cat: %s: %s\n", what, why);
	cat->status = status;
	cat->done = true;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Why the relay is not connected to, and what to do. */
static void say_no_relay(const struct cat *cat, const char *then)
{
	char advice[INSTANCE_TEXT_SIZE];
	int r = instance_probe(cat->path);

	instance_advise(advice, cat->path, r);
	fprintf(stderr, "pgherald-cat: cannot connect to the relay at %s: %s%s%s\n", cat->path,
		r < 0          ? strerror(-r)
		: cat->away[0] ? cat->away
			       : "it does not answer",
		advice, then);
}

/* The cursor's file */

static void read_cursor(struct cat *cat)
{
	FILE *file = fopen(cat->asked.cursor_file, "re");

	if (!file && errno != ENOENT)
		fail(cat, STATUS_FAILED, cat->asked.cursor_file, strerror(errno));
	if (!file)
		return;
	if (!fgets(cat->cursor, sizeof cat->cursor, file))
		fail(cat, STATUS_FAILED, cat->asked.cursor_file, "no cursor in it");
	cat->cursor[strcspn(cat->cursor, "\n")] = '\0';
	fclose(file);
}

/* Written to another file and renamed, so the cursor's file is always whole. */
static void store_cursor(struct cat *cat)
{
	const char *path = cat->asked.cursor_file;
	char aside[4096];
	int len = snprintf(aside, sizeof aside, "%s.new", path);
	FILE *file = len < (int)sizeof aside ? fopen(aside, "we") : NULL;
	bool good = file && fprintf(file, "%s\n", cat->cursor) > 0;

	if (file && fclose(file) != 0)
		good = false;
	if (!good || rename(aside, path) < 0)
		fail(cat, STATUS_FAILED, path, strerror(errno));
}

static void keep_cursor(struct cat *cat, struct pgherald *h)
{
	bool wanted = cat->asked.cursor_file || cat->asked.show_cursor;

	if (!wanted || cat->cursor_kept || pgherald_cursor(h, cat->cursor, sizeof cat->cursor) < 0)
		return;
	cat->cursor_kept = cat->done;
	if (cat->asked.cursor_file)
		store_cursor(cat);
}

/* Callbacks. One dispatch may bring more than the last line to print. The rest is left to the
 * next run: the cursor that is stored does not include it. */

static bool is_over(struct cat *cat, struct pgherald *h)
{
	if (cat->done)
		keep_cursor(cat, h);
	return cat->done;
}

/* result: of the function that printed a line */
static void printed(struct cat *cat, int result)
{
	if (result < 0 && !cat->done)
		fail(cat, STATUS_FAILED, "standard output", strerror(-result));
}

static void printed_counted(struct cat *cat, int result)
{
	printed(cat, result);
	cat->heard++;
	cat->done |= cat->heard == cat->asked.count;
}

static void on_change(struct pgherald *h, const struct pgherald_change *change, void *data)
{
	struct cat *cat = data;

	if (!is_over(cat, h))
		printed_counted(cat, lines_change(&cat->lines, change));
}

static void on_message(struct pgherald *h, const struct pgherald_message *message, void *data)
{
	struct cat *cat = data;

	if (!is_over(cat, h))
		printed_counted(cat, lines_message(&cat->lines, message));
}

static void on_gap(struct pgherald *h, const struct pgherald_gap *gap, void *data)
{
	struct cat *cat = data;

	if (!is_over(cat, h))
		printed(cat, lines_gap(&cat->lines, gap));
}

static void note_state(struct cat *cat, const struct pgherald_state *state)
{
	switch (state->event) {
	case PGHERALD_CONNECTED:
		cat->was_connected = true;
		cat->away[0] = '\0';
		break;
	case PGHERALD_DISCONNECTED:
		snprintf(cat->away, sizeof cat->away, "%s", state->text);
		break;
	default:
		cat->is_deaf = state->event == PGHERALD_UPSTREAM_DOWN;
	}
}

static void on_state(struct pgherald *h, const struct pgherald_state *state, void *data)
{
	struct cat *cat = data;
	bool is_first_failure = state->event == PGHERALD_DISCONNECTED && !cat->was_connected && !cat->away[0];

	note_state(cat, state);
	if (is_over(cat, h) || is_publishing(&cat->asked))
		return;
	if (is_first_failure)
		say_no_relay(cat, "; waiting for it");
	printed(cat, lines_state(&cat->lines, state));
}

static void on_subscribed(struct pgherald *h, const struct pgherald_result *result, void *arg)
{
	struct cat *cat = arg;

	if (is_over(cat, h))
		return;
	if (result->error)
		fail(cat, STATUS_FAILED, "subscribe", result->text);
	else if (--cat->waiting == 0)
		printed(cat, lines_subscribed(&cat->lines, result->seq));
}

/* The time to publish is over. */
static void publish_timed_out(struct cat *cat, double seconds)
{
	char why[160];

	cat->done = true;
	if (!cat->was_connected || cat->away[0]) {
		say_no_relay(cat, "");
		cat->status = STATUS_NO_RELAY;
		return;
	}
	snprintf(why, sizeof why, "not known to be committed within %g s, and may still be%s", seconds,
		cat->is_deaf ? "; the relay does not reach PostgreSQL" : "; is PostgreSQL slow or away?");
	fail(cat, STATUS_TIMED_OUT, "publish", why);
}

static double publish_seconds(const struct cat *cat)
{
	return cat->asked.timeout > 0 ? cat->asked.timeout : PATIENCE_SECONDS;
}

static void on_published(struct pgherald *h, const struct pgherald_result *result, void *arg)
{
	struct cat *cat = arg;

	(void)h;
	if (result->error == -ETIMEDOUT)
		publish_timed_out(cat, publish_seconds(cat));
	else if (result->error && result->error != -ECANCELED)
		fail(cat, STATUS_FAILED, "publish", result->text);
	cat->done = true;
}

static int subscribe(struct cat *cat, struct pgherald *h)
{
	const struct strings *channels = &cat->asked.channels, *pubkeys = &cat->asked.pubkeys;
	int r = 0;

	cat->waiting = channels->n * (pubkeys->n ? pubkeys->n : 1);
	for (size_t i = 0; i < channels->n && r == 0; i++) {
		const char *channel = channels->items[i];
		if (pubkeys->n == 0)
			r = pgherald_subscribe(h, channel, NULL, on_subscribed, cat);
		for (size_t j = 0; j < pubkeys->n && r == 0; j++)
			r = pgherald_subscribe(h, channel, pubkeys->items[j], on_subscribed, cat);
	}
	return r;
}

static int request(struct cat *cat, struct pgherald *h)
{
	const struct command_line *asked = &cat->asked;
	const char *channel = asked->channels.items[0];

	if (asked->notify)
		return pgherald_notify(h, channel, asked->notify, asked->client_id, on_published, cat);
	if (asked->send)
		return pgherald_send(h, channel, asked->send, strlen(asked->send), on_published, cat);
	return subscribe(cat, h);
}

/* The loop */

/* --timeout, of those that do not publish. A request to publish has its own deadline. */
static void time_is_over(struct cat *cat)
{
	char what[80];

	cat->done = true;
	if (!cat->was_connected) {
		say_no_relay(cat, "");
		cat->status = STATUS_NO_RELAY;
	} else if (cat->asked.count > 0) {
		snprintf(what, sizeof what, "heard %lu of %lu", cat->heard, cat->asked.count);
		fail(cat, STATUS_TIMED_OUT, what, "the time of --timeout is over");
	}
}

/* Milliseconds until the end, for poll(), rounded up. */
static int milliseconds_left(const struct cat *cat)
{
	double left = (cat->end - now()) * 1e3;

	return isinf(cat->end) ? -1 : left > 0 ? (int)left + 1 : 0;
}

/* Until there is nothing left to do, or SIGINT or SIGTERM asks to end. */
static void loop(struct cat *cat, struct pgherald *h)
{
	sigset_t signals;
	int r = 0;

	sigemptyset(&signals);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	struct pollfd fds[] = {{.fd = pgherald_fd(h), .events = POLLIN},
		{.fd = signalfd(-1, &signals, SFD_CLOEXEC), .events = POLLIN}};
	while (!cat->done && r >= 0) {
		r = poll(fds, 2, milliseconds_left(cat)) < 0 ? -errno : pgherald_dispatch(h);
		if (fds[1].revents)
			cat->done = true;
		if (r > 0)
			keep_cursor(cat, h);
		if (!cat->done && now() >= cat->end)
			time_is_over(cat);
	}
	if (r < 0)
		fail(cat, STATUS_FAILED, "lost", pgherald_strerror(r));
	keep_cursor(cat, h);
	close(fds[1].fd);
}

/* The start */

/* Waits a little for a relay that is being started. */
static void find_socket(struct cat *cat)
{
	static const struct timespec pause = {.tv_nsec = LOOK_NANOSECONDS};
	char why[INSTANCE_TEXT_SIZE];
	double limit = now() + PATIENCE_SECONDS;
	int r;

	if (limit > cat->end)
		limit = cat->end;
	while ((r = instance_find("relay.sock", cat->path, why)) == -ENOENT && now() < limit)
		nanosleep(&pause, NULL);
	if (r == 0)
		return;
	fprintf(stderr, "pgherald-cat: %s\n", why);
	cat->status = r == -EMLINK ? STATUS_MISUSED : STATUS_NO_RELAY;
	cat->done = true;
}

static void choose_socket(struct cat *cat)
{
	const struct command_line *asked = &cat->asked;
	const char *path = asked->socket ? asked->socket : getenv("PGHERALD_SOCKET");

	if (asked->instance) {
		if (instance_path(cat->path, asked->instance, "relay.sock") < 0)
			fail(cat, STATUS_MISUSED, asked->instance,
				"no valid instance; --instance takes the NAME of pgherald@NAME");
	} else if (!path) {
		find_socket(cat);
	} else if (snprintf(cat->path, sizeof cat->path, "%s", path) >= (int)sizeof cat->path) {
		fail(cat, STATUS_MISUSED, path, "the path of the socket is too long");
	}
}

static bool is_terminal_with_colors(void)
{
	const char *term = getenv("TERM"), *no_color = getenv("NO_COLOR");

	return isatty(STDOUT_FILENO) && !(no_color && *no_color) && term && strcmp(term, "dumb") != 0;
}

static void prepare(struct cat *cat)
{
	const struct command_line *asked = &cat->asked;

	cat->lines.json = asked->json || (!asked->human && !isatty(STDOUT_FILENO));
	cat->lines.color = is_terminal_with_colors();
	cat->end = asked->timeout > 0 ? now() + asked->timeout : INFINITY;
	choose_socket(cat);
	if (!cat->done && asked->cursor_file)
		read_cursor(cat);
	if (cat->done || !asked->since)
		return;
	if (snprintf(cat->cursor, sizeof cat->cursor, "%s", asked->since) >= (int)sizeof cat->cursor)
		fail(cat, STATUS_MISUSED, "--since", "this is not a cursor that --show-cursor printed");
}

static void open_handle(struct cat *cat, struct pgherald **h)
{
	const struct pgherald_options options = {
		.size = sizeof options,
		.socket = cat->path,
		.name = cat->asked.name ? cat->asked.name : "pgherald-cat",
		.cursor = cat->cursor[0] ? cat->cursor : NULL,
		.deadline_ms = (unsigned)(publish_seconds(cat) * 1e3),
		.data = cat,
		.on_change = on_change,
		.on_message = on_message,
		.on_gap = on_gap,
		.on_state = on_state,
	};
	int r = pgherald_open(&options, h);

	if (r == -EBADMSG && cat->asked.since)
		fail(cat, STATUS_MISUSED, "--since", "this is not a cursor that --show-cursor printed");
	else if (r == -EBADMSG)
		fail(cat, STATUS_FAILED, cat->asked.cursor_file, pgherald_strerror(r));
	else if (r < 0)
		fail(cat, STATUS_FAILED, "cannot open", pgherald_strerror(r));
}

static void serve(struct cat *cat)
{
	struct pgherald *h = NULL;

	open_handle(cat, &h);
	if (cat->done)
		return;
	/* A request to publish ends by the library's deadline, which knows more. */
	if (is_publishing(&cat->asked))
		cat->end = INFINITY;
	int r = request(cat, h);
	if (r < 0)
		fail(cat, STATUS_FAILED, "cannot ask for it", pgherald_strerror(r));
	else
		loop(cat, h);
	cat->done = true;
	cat->cursor_kept = true;
	pgherald_close(h);
	if (cat->asked.show_cursor && cat->cursor[0])
		printed(cat, lines_cursor(&cat->lines, cat->cursor));
}

/* If any of the descriptors 0 to 2 is closed, open /dev/null there. Otherwise a file or socket
 * would get that number, and the output would be written into it. */
static bool open_standard_streams(void)
{
	for (int fd = 0; fd <= 2; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == 0 ? O_RDONLY : O_WRONLY) != fd)
			return false;
	return true;
}

int main(int argc, char **argv)
{
	static struct cat cat;

	/* There is no place to report it. */
	if (!open_standard_streams())
		return EXIT_FAILURE;
	int r = command_line_parse(&cat.asked, argc, argv);
	if (r == 0) {
		prepare(&cat);
		if (!cat.done)
			serve(&cat);
	}
	command_line_free(&cat.asked);
	return r < 0 ? STATUS_DONE : r > 0 ? r : (int)cat.status;
}
