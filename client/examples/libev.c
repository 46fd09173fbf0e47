/* The library in a libev loop: one watcher, on one descriptor, as long as the program runs.
 *
 *	libev [PUBKEY]     print the changes of PUBKEY, or all */
#include <ev.h>
#include <pgherald.h>
#include <stdio.h>

static void on_change(struct pgherald *h, const struct pgherald_change *change, void *data)
{
	(void)h, (void)data;
	printf("%s changed\n", change->pubkey);
	fflush(stdout);
}

static void on_subscribed(struct pgherald *h, const struct pgherald_result *result, void *arg)
{
	(void)h;
	printf("%s: %s\n", (const char *)arg, result->error ? result->text : "subscribed");
	fflush(stdout);
}

static void on_readable(struct ev_loop *loop, ev_io *watcher, int events)
{
	(void)events;
	int r = pgherald_dispatch(watcher->data);
	if (r < 0) {
		fprintf(stderr, "libev: %s\n", pgherald_strerror(r));
		ev_break(loop, EVBREAK_ALL);
	}
}

int main(int argc, char **argv)
{
	struct pgherald_options options = {.size = sizeof options, .on_change = on_change};
	struct ev_loop *loop = ev_default_loop(EVFLAG_AUTO);
	struct pgherald *h;
	ev_io watcher;

	int r = pgherald_open(&options, &h);
	if (r == 0)
		r = pgherald_subscribe(
			h, "data_sync_changes", argc > 1 ? argv[1] : NULL, on_subscribed, argv[0]);
	if (r < 0) {
		fprintf(stderr, "libev: %s\n", pgherald_strerror(r));
		return 1;
	}
	ev_io_init(&watcher, on_readable, pgherald_fd(h), EV_READ);
	watcher.data = h;
	ev_io_start(loop, &watcher);
	ev_run(loop, 0);
	return 1;
}
