/* The library's conversation with the relay, as far as the conformance suite does not test it:
 * what only this library promises, or what depends on where in a dispatch it happens. */
#include "relay.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

static struct relay relay;
static struct app app;

static void start(void)
{
	relay_start(&relay);
	app_open(&app, &relay, NULL, NULL);
}

static void end(void)
{
	app_close(&app);
	relay_end(&relay);
}

/* Connected, subscribed to all of "data", and nothing of that left in what was heard. */
static void start_settled(void)
{
	start();
	app_subscribe(&app, "data", NULL, "all");
	relay_settle(&app, "e", 10);
	app_expect(&app, "connected\nupstream live\ndone all 0 10\n");
}

static void expect_cursor(const char *cursor)
{
	app_turns(&app);
	cr_assert_str_eq(app_cursor(&app), cursor);
}

TestSuite(client_session, .fini = end, .timeout = 30);

Test(client_session, frames_of_workers_mean_nothing, .init = start_settled)
{
	static const char ping[] = "\x92\x05\x01";

	relay_send_bytes(&relay, ping, sizeof ping - 1);
	relay_change(&relay, 11, "alice");
	app_expect(&app, "change data alice - 11\n");
}

Test(client_session, coming_back_for_a_moment_leaves_nothing_at_the_relay, .init = start)
{
	app_subscribe(&app, "data", "alice", NULL);
	relay_settle(&app, "e", 10);
	pgherald_unsubscribe(app.h, "data", "alice");
	app_subscribe(&app, "data", "alice", NULL);
	pgherald_unsubscribe(app.h, "data", "alice");
	relay_expect(&app, WIRE_UNSUBSCRIBE);
	app_subscribe(&app, "data", "alice", NULL);
	relay_expect(&app, WIRE_SUBSCRIBE);
	relay_expect_nothing(&app);
}

static void relay_leaves(struct pgherald *h, const struct pgherald_result *result, void *arg)
{
	(void)h, (void)result, (void)arg;
	relay_change(&relay, 11, "alice");
	relay_drop(&relay);
}

/* The relay leaves between the moments when a dispatch reads and when it sends. */
Test(client_session, reads_what_the_relay_said_when_it_cannot_send, .init = start_settled)
{
	app_notify(&app, "alice", NULL);
	app_notify(&app, "bob", NULL); /* waits for the dispatch */
	cr_assert_eq(pgherald_subscribe(app.h, "data", NULL, relay_leaves, NULL), 0);
	cr_assert_eq(pgherald_dispatch(app.h), 3);
	app_expect(&app, "change data alice - 11\ndisconnected\n");
}

Test(client_session, keeps_its_descriptor, .init = start_settled)
{
	int fd = pgherald_fd(app.h);

	for (int i = 0; i < 3; i++) {
		relay_drop(&relay);
		relay_settle(&app, "e", 10);
		cr_assert_eq(pgherald_fd(app.h), fd);
	}
}

Test(client_session, overlong_checkpoint_leaves_the_older_one, .init = start_settled)
{
	char checkpoint[3001] = "";

	relay_checkpoint(&relay, 11, "cp");
	memset(checkpoint, '%', sizeof checkpoint - 1);
	relay_checkpoint(&relay, 12, checkpoint);
	expect_cursor("1 12 e cp");
	/* The longest that is kept fits the buffer that the header promises. */
	checkpoint[2000] = '\0';
	relay_checkpoint(&relay, 13, checkpoint);
	app_turns(&app);
	cr_assert_eq(strlen(app_cursor(&app)), strlen("1 13 e ") + 3 * 2000);
	char small[100];
	cr_assert_eq(pgherald_cursor(app.h, small, sizeof small), -ENOSPC);
	cr_assert_eq(pgherald_cursor(app.h, small, 0), -ENOSPC);
}

Test(client_session, null_arguments, .init = start)
{
	cr_assert_eq(pgherald_notify(app.h, NULL, "alice", NULL, NULL, NULL), -EINVAL);
	cr_assert_eq(pgherald_notify(app.h, "data", NULL, NULL, NULL, NULL), -EINVAL);
	cr_assert_eq(pgherald_send(app.h, NULL, "", 0, NULL, NULL), -EINVAL);
	cr_assert_eq(pgherald_send(app.h, "text", NULL, 0, NULL, NULL), -EINVAL);
	cr_assert_eq(pgherald_subscribe(app.h, NULL, NULL, NULL, NULL), -EINVAL);
	cr_assert_eq(pgherald_unsubscribe(app.h, NULL, NULL), -EINVAL);
}
