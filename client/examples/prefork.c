/* A prefork server: a master forks workers and restarts those that die. Each worker opens its own
 * handle after the fork and keeps its cursor in a file, so the worker that replaces a dead one
 * hears what was missed.
 *
 *	prefork DIRECTORY WORKERS     print the changes that each worker hears */
#include <errno.h>
#include <limits.h>
#include <pgherald.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define WORKERS_MAX 64

struct worker {
	int number;
	char cursor_file[PATH_MAX];
};

/* The worker */

static void on_change(struct pgherald *h, const struct pgherald_change *change, void *data)
{
	const struct worker *worker = data;

	(void)h;
	printf("worker %d: %s changed\n", worker->number, change->pubkey);
	fflush(stdout);
}

/* Changes may be missing: a real worker reads again what it holds of users' data. */
static void on_gap(struct pgherald *h, const struct pgherald_gap *gap, void *data)
{
	const struct worker *worker = data;

	(void)h;
	printf("worker %d: gap: %s\n", worker->number, gap->text);
	fflush(stdout);
}

static void on_subscribed(struct pgherald *h, const struct pgherald_result *result, void *arg)
{
	const struct worker *worker = arg;

	(void)h;
	printf("worker %d: %s\n", worker->number, result->error ? result->text : "subscribed");
	fflush(stdout);
}

/* The stored cursor, or NULL. */
static const char *load_cursor(const struct worker *worker, char *buf, int size)
{
	FILE *file = fopen(worker->cursor_file, "re");
	bool good = file && fgets(buf, size, file);

	if (file)
		fclose(file);
	return good ? buf : NULL;
}

/* Written to another file and renamed: a worker may be killed at any moment. */
static int store_cursor(const struct worker *worker, struct pgherald *h)
{
	char cursor[PGHERALD_CURSOR_SIZE], aside[PATH_MAX + 4];

	if (pgherald_cursor(h, cursor, sizeof cursor) < 0)
		return 0;
	snprintf(aside, sizeof aside, "%s.new", worker->cursor_file);
	FILE *file = fopen(aside, "we");
	if (!file)
		return -errno;
	int r = fputs(cursor, file) < 0 ? -EIO : 0;
	if (fclose(file) != 0)
		r = -errno;
	return r == 0 && rename(aside, worker->cursor_file) < 0 ? -errno : r;
}

static int work(struct worker *worker)
{
	char stored[PGHERALD_CURSOR_SIZE];
	struct pgherald_options options = {
		.size = sizeof options,
		.name = "prefork",
		.cursor = load_cursor(worker, stored, sizeof stored),
		.data = worker,
		.on_change = on_change,
		.on_gap = on_gap,
	};
	struct pgherald *h;

	int r = pgherald_open(&options, &h);
	if (r < 0)
		return r;
	r = pgherald_subscribe(h, "data_sync_changes", NULL, on_subscribed, worker);
	while (r >= 0) {
		r = pgherald_wait(h, -1);
		/* After the callbacks: the cursor says that their changes are handled. */
		if (r > 0)
			r = store_cursor(worker, h);
	}
	pgherald_close(h);
	return r;
}

/* The master */

static pid_t start(const char *directory, int number)
{
	struct worker worker = {.number = number};
	pid_t master = getpid();

	snprintf(worker.cursor_file, sizeof worker.cursor_file, "%s/cursor.%d", directory, number);
	pid_t pid = fork();
	if (pid != 0)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != master)
		_exit(1);
	int r = work(&worker);
	fprintf(stderr, "prefork: worker %d: %s\n", number, pgherald_strerror(r));
	_exit(1);
}

int main(int argc, char **argv)
{
	pid_t workers[WORKERS_MAX];
	int n = argc == 3 ? (int)strtol(argv[2], NULL, 10) : 0;

	if (n < 1 || n > WORKERS_MAX) {
		fprintf(stderr, "usage: prefork DIRECTORY WORKERS\n");
		return 2;
	}
	for (int i = 0; i < n; i++)
		workers[i] = start(argv[1], i);
	for (;;) {
		pid_t dead = wait(NULL);
		if (dead < 0 && errno == EINTR)
			continue;
		if (dead < 0)
			break;
		for (int i = 0; i < n; i++)
			if (workers[i] == dead) {
				poll(NULL, 0, 100); /* do not spin when one dies at once */
				workers[i] = start(argv[1], i);
			}
	}
	perror("prefork");
	return 1;
}
