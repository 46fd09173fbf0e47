/* Many users: a worker whose streams come and go, and what a reconnect costs it. */
#include "relay.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define USERS 100000

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

static const char *user(int i)
{
	static char pubkey[65];

	snprintf(pubkey, sizeof pubkey, "%064x", i * 2654435761u);
	return pubkey;
}

static double seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Take SUBSCRIBEs until they name n users, and answer them. Returns how many frames. */
static int take_users(int n)
{
	int frames = 0;

	for (; n > 0; frames++) {
		struct wire_subscribe *subscribe = &relay_expect(&app, WIRE_SUBSCRIBE)->subscribe;
		n -= (int)subscribe->n_pubkeys;
		relay_ok(&relay, subscribe->id, 10);
	}
	cr_assert_eq(n, 0);
	return frames;
}

TestSuite(client_scale, .init = start, .fini = end, .timeout = 120);

Test(client_scale, reconnect_restores_every_user_in_one_go)
{
	for (int i = 0; i < USERS; i++)
		for (int streams = 0; streams < 2; streams++)
			app_subscribe(&app, "data", user(i), NULL);
	relay_greet(&app, "e", 10);
	cr_assert_lt(take_users(USERS), USERS / 400);
	relay_expect_nothing(&app);

	relay_drop(&relay);
	relay_greet(&app, "e", 10);
	double before = seconds();
	cr_assert_lt(take_users(USERS), USERS / 400);
	relay_expect(&app, WIRE_BEGIN);
	cr_log_info("restored in %.0f ms", (seconds() - before) * 1000);
	cr_assert_lt(seconds() - before, 5); /* far less in truth; here a sanitizer may be at work */

	/* The first stream of each user ends, and nothing needs to be said; then the second. */
	for (int i = 0; i < USERS; i++)
		cr_assert_eq(pgherald_unsubscribe(app.h, "data", user(i)), 0);
	relay_expect_nothing(&app);
	for (int i = 0; i < USERS; i++)
		cr_assert_eq(pgherald_unsubscribe(app.h, "data", user(i)), 0);
	for (uint32_t left = USERS; left > 0;)
		left -= relay_expect(&app, WIRE_UNSUBSCRIBE)->subscribe.n_pubkeys;
	cr_assert_eq(pgherald_unsubscribe(app.h, "data", user(0)), -ENOENT);
}

Test(client_scale, drop_while_users_are_being_restored)
{
	for (int i = 0; i < USERS / 10; i++)
		app_subscribe(&app, "data", user(i), NULL);
	for (int round = 0; round < 3; round++) {
		relay_greet(&app, "e", 10);
		take_users(2048); /* whole frames of them */
		relay_drop(&relay);
	}
	relay_greet(&app, "e", 10);
	take_users(USERS / 10);
	relay_expect(&app, WIRE_BEGIN);
	relay_expect_nothing(&app);
}
