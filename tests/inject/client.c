/* An app of libpgherald in which one of the library's calls fails once, and what the library
 * promises then. Its argument is the socket of a relay in local mode.
 *
 * - A call that fails returns an errno that pgherald.h lists for it, and has no effect: made again,
 *   it succeeds.
 * - A completion runs once. Error 0 is true: what was published is heard, or there is a gap; a
 *   subscription hears. Any other error is one that pgherald.h lists.
 * - The descriptor is readable for each dispatch that is needed.
 * - Changes between two handles are delivered to the second, or there is a gap.
 * - At the end no more descriptors are open than before. The sanitizer looks for leaks. */
#include "pgherald.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* What takes longer has failed. A publish may take its deadline, and then be made again. */
#define DEADLINE_SECONDS 8
#define PUBLISH_MS 2000
#define KEYS_MAX 16

#define must(condition)                                                                                      \
	do {                                                                                                 \
		if (!(condition)) {                                                                          \
			fprintf(stderr, "broken promise, line %d: %s\n", __LINE__, #condition);              \
			_exit(3);                                                                            \
		}                                                                                            \
	} while (0)

/* A handle and what it heard. */
struct app {
	struct pgherald *h;
	char heard[KEYS_MAX][64];
	int n_heard;
	bool gap;
};

struct answer {
	int runs, error;
};

static bool is_one_of(int error, const int *errors)
{
	while (*errors && *errors != error)
		errors++;
	return *errors != 0;
}

static void on_change(struct pgherald *h, const struct pgherald_change *change, void *data)
{
	struct app *app = data;

	must(app->h == h && app->n_heard < KEYS_MAX);
	snprintf(app->heard[app->n_heard++], sizeof *app->heard, "%s", change->pubkey);
}

static void on_message(struct pgherald *h, const struct pgherald_message *message, void *data)
{
	struct app *app = data;

	must(app->h == h && app->n_heard < KEYS_MAX);
	snprintf(app->heard[app->n_heard++], sizeof *app->heard, "%s", message->payload);
}

static void on_gap(struct pgherald *h, const struct pgherald_gap *gap, void *data)
{
	(void)h, (void)gap;
	((struct app *)data)->gap = true;
}

static void on_done(struct pgherald *h, const struct pgherald_result *result, void *arg)
{
	struct answer *answer = arg;

	(void)h;
	answer->runs++;
	answer->error = result->error;
}

static void open_app(struct app *app, const char *socket, const char *cursor)
{
	static const int errors[] = {-ENOMEM, -EMFILE, -ENFILE, -ENOSPC, 0};
	struct pgherald_options options = {.size = sizeof options,
		.socket = socket,
		.name = "inject",
		.cursor = cursor,
		.deadline_ms = PUBLISH_MS,
		.data = app,
		.on_change = on_change,
		.on_message = on_message,
		.on_gap = on_gap};

	*app = (struct app){0};
	int r = pgherald_open(&options, &app->h);
	if (r < 0) {
		must(is_one_of(r, errors) && !app->h);
		r = pgherald_open(&options, &app->h);
	}
	must(r == 0 && app->h);
}

/* Dispatches as an app's loop does: only when the descriptor is readable. */
static void run_until(struct app *app, bool (*condition)(struct app *app, const void *arg), const void *arg)
{
	struct timespec start, now;

	clock_gettime(CLOCK_MONOTONIC, &start);
	while (!condition(app, arg)) {
		struct pollfd pfd = {.fd = pgherald_fd(app->h), .events = POLLIN};
		must(poll(&pfd, 1, DEADLINE_SECONDS * 1000) == 1);
		int r = pgherald_dispatch(app->h);
		/* Apps must expect an interrupted wait. */
		must(r >= 0 || r == -EINTR);
		clock_gettime(CLOCK_MONOTONIC, &now);
		must(now.tv_sec - start.tv_sec < DEADLINE_SECONDS);
	}
}

static bool is_answered(struct app *app, const void *arg)
{
	const struct answer *answer = arg;

	(void)app;
	must(answer->runs <= 1);
	return answer->runs == 1;
}

static bool is_heard(struct app *app, const void *arg)
{
	for (int i = 0; i < app->n_heard; i++)
		if (strcmp(app->heard[i], arg) == 0)
			return true;
	return app->gap;
}

static void subscribe(struct app *app, const char *channel, const char *pubkey)
{
	struct answer answer = {0};
	int r = pgherald_subscribe(app->h, channel, pubkey, on_done, &answer);

	if (r < 0) {
		must(r == -ENOMEM);
		r = pgherald_subscribe(app->h, channel, pubkey, on_done, &answer);
	}
	must(r == 0);
	run_until(app, is_answered, &answer);
	must(answer.error == 0);
}

/* text: a pubkey, or on the channel "log" a payload. */
static int publish_once(struct app *app, const char *channel, const char *text, struct answer *answer)
{
	*answer = (struct answer){0};
	if (strcmp(channel, "log") == 0)
		return pgherald_send(app->h, channel, text, strlen(text), on_done, answer);
	return pgherald_notify(app->h, channel, text, "me", on_done, answer);
}

static void publish(struct app *app, const char *channel, const char *text)
{
	static const int errors[] = {-ENXIO, -EACCES, -EMSGSIZE, -EBUSY, -EREMOTEIO, -EILSEQ, -EPROTO,
		-ETIMEDOUT, -ECANCELED, -ENOMEM, 0};
	struct answer answer;
	int r = publish_once(app, channel, text, &answer);

	if (r < 0) {
		must(r == -ENOMEM);
		r = publish_once(app, channel, text, &answer);
	}
	must(r == 0);
	run_until(app, is_answered, &answer);
	if (answer.error) {
		must(is_one_of(answer.error, errors));
		must(publish_once(app, channel, text, &answer) == 0);
		run_until(app, is_answered, &answer);
		must(answer.error == 0);
	}
}

static int count_fds(void)
{
	DIR *directory = opendir("/proc/self/fd");
	int n = 0;

	must(directory);
	while (readdir(directory))
		n++;
	closedir(directory);
	return n;
}

static void talk_to_relay(const char *socket)
{
	char cursor[PGHERALD_CURSOR_SIZE], keys[4][32];
	struct app app, other;

	for (int i = 0; i < 4; i++)
		snprintf(keys[i], sizeof keys[i], "key%d-%d", i, (int)getpid());
	open_app(&app, socket, NULL);
	subscribe(&app, "data_sync_changes", keys[0]);
	subscribe(&app, "data_sync_changes", NULL);
	subscribe(&app, "log", NULL);
	for (int i = 0; i < 3; i++) {
		publish(&app, i == 2 ? "log" : "data_sync_changes", keys[i]);
		run_until(&app, is_heard, keys[i]);
	}
	int r = pgherald_unsubscribe(app.h, "log", NULL);
	must(r == 0);
	must(pgherald_cursor(app.h, cursor, sizeof cursor) > 0);
	pgherald_close(app.h);

	open_app(&other, socket, NULL);
	publish(&other, "data_sync_changes", keys[3]);
	pgherald_close(other.h);

	open_app(&app, socket, cursor);
	subscribe(&app, "data_sync_changes", NULL);
	run_until(&app, is_heard, keys[3]);
	pgherald_close(app.h);
}

static void talk_to_nobody(void)
{
	struct app app;

	open_app(&app, "", NULL);
	subscribe(&app, "data_sync_changes", NULL);
	subscribe(&app, "log", NULL);
	publish(&app, "data_sync_changes", "one");
	run_until(&app, is_heard, "one");
	publish(&app, "log", "two");
	run_until(&app, is_heard, "two");
	pgherald_close(app.h);
}

int main(int argc, char **argv)
{
	int fds = count_fds();

	must(argc == 2);
	talk_to_relay(argv[1]);
	talk_to_nobody();
	must(count_fds() == fds);
	return 0;
}
