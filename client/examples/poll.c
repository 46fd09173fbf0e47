/* The library without an event loop: the ten lines of pgherald.h in a program that has other input.
 * It reads names from standard input, publishes that their data changed, and prints all changes.
 *
 *	poll <names */
#include <errno.h>
#include <pgherald.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define CHANNEL "data_sync_changes"

static void on_change(struct pgherald *h, const struct pgherald_change *change, void *data)
{
	(void)h, (void)data;
	printf("%s changed\n", change->pubkey);
	fflush(stdout);
}

static void on_subscribed(struct pgherald *h, const struct pgherald_result *result, void *arg)
{
	(void)h, (void)arg;
	printf("poll: %s\n", result->error ? result->text : "subscribed");
	fflush(stdout);
}

static void on_published(struct pgherald *h, const struct pgherald_result *result, void *arg)
{
	(void)h, (void)arg;
	if (result->error)
		fprintf(stderr, "poll: not published: %s\n", result->text);
}

/* A terminal gives one line a read(). 1; 0 at the end of the input; negative errno. */
static int publish_line(struct pgherald *h)
{
	char name[256];
	ssize_t len = read(STDIN_FILENO, name, sizeof name - 1);

	if (len <= 0)
		return len < 0 ? -errno : 0;
	name[len] = '\0';
	name[strcspn(name, "\n")] = '\0';
	int r = pgherald_notify(h, CHANNEL, name, NULL, on_published, NULL);
	return r < 0 ? r : 1;
}

int main(void)
{
	struct pgherald_options options = {.size = sizeof options, .on_change = on_change};
	struct pollfd pfds[2] = {{.fd = STDIN_FILENO, .events = POLLIN}, {.events = POLLIN}};
	struct pgherald *h;

	int r = pgherald_open(&options, &h);
	if (r < 0) {
		fprintf(stderr, "poll: %s\n", pgherald_strerror(r));
		return 1;
	}
	pfds[1].fd = pgherald_fd(h); /* the same as long as h lives */
	r = pgherald_subscribe(h, CHANNEL, NULL, on_subscribed, NULL);
	while (r >= 0) {
		r = poll(pfds, 2, -1) < 0 ? -errno : 0;
		if (r == 0 && pfds[0].revents) {
			r = publish_line(h);
			if (r == 0)
				pfds[0].fd = -1; /* end of the input: poll() ignores it */
		}
		if (r >= 0 && pfds[1].revents)
			r = pgherald_dispatch(h);
	}
	fprintf(stderr, "poll: %s\n", pgherald_strerror(r));
	pgherald_close(h);
	return 1;
}
