/* The library's conversation with the relay: greeting, subscriptions, what arrives and how it may arrive,
 * and what a relay must not be able to do to it. */
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

static struct wire_str pubkey_of(uint32_t i)
{
	return i < relay.frame.subscribe.n_pubkeys ? relay.frame.subscribe.pubkeys[i] : wire_str("(none)");
}

TestSuite(client_session, .fini = end, .timeout = 30);

Test(client_session, greets, .init = start)
{
	relay_accept(&app);
	struct wire_hello *hello = &relay_expect(&app, WIRE_HELLO)->hello;
	cr_assert_eq(hello->version, WIRE_VERSION);
	cr_assert(wire_str_eq(hello->name, wire_str("test")));
	cr_assert_not(hello->resume);
	cr_assert_str_eq(app_cursor(&app), "none");
	relay_welcome(&relay, "e", 7);
	app_expect(&app, "connected\nupstream live\n");
	cr_assert_str_eq(app_cursor(&app), "1 7 e");
}

Test(client_session, hears_everything, .init = start_settled)
{
	relay_send(&relay, (struct wire_frame){.type = WIRE_CHANGE,
				   .change = {.seq = 11,
					   .channel = wire_str("data"),
					   .pubkey = wire_str("alice"),
					   .client_id = wire_str("phone")}});
	relay_change(&relay, WIRE_SEQ_NIL, "bob");
	relay_send(&relay,
		(struct wire_frame){.type = WIRE_MESSAGE,
			.message = {.seq = 12, .channel = wire_str("text"), .payload = wire_str("hello")}});
	relay_send(
		&relay, (struct wire_frame){.type = WIRE_GAP,
				.gap = {.seq = 13, .cause = wire_str("upstream"), .text = wire_str("why")}});
	relay_send(&relay, (struct wire_frame){.type = WIRE_UPSTREAM,
				   .upstream = {.seq = 14, .state = wire_str("down"), .text = wire_str("")}});
	relay_send(&relay, (struct wire_frame){.type = WIRE_UPSTREAM,
				   .upstream = {.seq = 15, .state = wire_str("live"), .text = wire_str("")}});
	relay_checkpoint(&relay, 16, "cp");
	app_expect(&app, "change data alice phone 11\nchange data bob - 0 recovered\nmessage text hello 12\n"
			 "gap upstream why 13\nupstream down\nupstream live\n");
}

Test(client_session, takes_frames_byte_by_byte, .init = start_settled)
{
	char bytes[200];
	struct wire_frame frame = {.type = WIRE_CHANGE,
		.change = {.seq = 11, .channel = wire_str("data"), .pubkey = wire_str("alice")}};
	size_t len = (size_t)wire_encode(&frame, bytes, sizeof bytes);
	frame.change.seq = 12;
	len += (size_t)wire_encode(&frame, bytes + len, sizeof bytes - len);

	for (size_t i = 0; i < len; i++) {
		relay_send_bytes(&relay, bytes + i, 1);
		app_expect(&app, i == len / 2 - 1 ? "change data alice - 11\n"
				 : i == len - 1   ? "change data alice - 12\n"
						  : "");
		cr_assert_eq(pgherald_dispatch(app.h), 0);
	}
}

Test(client_session, takes_the_largest_frames, .init = start_settled)
{
	static char payload[65001];
	memset(payload, 'x', sizeof payload - 1);

	for (uint64_t seq = 11; seq < 31; seq++) {
		relay_send(&relay, (struct wire_frame){.type = WIRE_MESSAGE,
					   .message = {.seq = seq,
						   .channel = wire_str("text"),
						   .payload = wire_str(payload)}});
		relay_change(&relay, seq, "alice");
		app_turns(&app);
		char *last = strrchr(app.heard, 'x');
		cr_assert_not_null(last);
		app.heard_len = 0;
	}
}

Test(client_session, ends_strings_without_touching_the_next_frame, .init = start_settled)
{
	/* Here the last string of a GAP is followed at once by the first byte of the next. */
	for (int i = 0; i < 3; i++)
		relay_send(&relay,
			(struct wire_frame){.type = WIRE_GAP,
				.gap = {.seq = 11, .cause = wire_str("overrun"), .text = wire_str("text")}});
	relay_change(&relay, 12, "alice");
	app_expect(&app,
		"gap overrun text 11\ngap overrun text 11\ngap overrun text 11\nchange data alice - 12\n");
}

Test(client_session, ignores_what_a_later_version_may_add, .init = start_settled)
{
	static const char unknown[] = "\x92\xcc\x63\xa1z"; /* [99, "z"] */
	static const char longer[] = "\x97\x13\x0b\xa4"
				     "data\xa1"
				     "b\xc0\x00\x91\xa1z"; /* CHANGE with an extra ["z"] */

	relay_send_bytes(&relay, unknown, sizeof unknown - 1);
	relay_send_bytes(&relay, longer, sizeof longer - 1);
	app_expect(&app, "change data b - 11\n");
}

/* Subscriptions */

Test(client_session, batches_and_counts_subscriptions, .init = start)
{
	app_subscribe(&app, "data", "alice", "alice 1");
	app_subscribe(&app, "data", "bob", NULL);
	app_subscribe(&app, "data", "alice", "alice 2");
	app_subscribe(&app, "data", "carol", NULL);
	cr_assert_eq(pgherald_unsubscribe(app.h, "data", "carol"), 0);
	cr_assert_eq(pgherald_unsubscribe(app.h, "data", "carol"), -ENOENT);
	cr_assert_eq(pgherald_unsubscribe(app.h, "other", "alice"), -ENOENT);
	relay_greet(&app, "e", 10);
	relay_expect(&app, WIRE_SUBSCRIBE);
	cr_assert_eq(relay.frame.subscribe.n_pubkeys, 2);
	cr_assert(wire_str_eq(pubkey_of(0), wire_str("alice")));
	cr_assert(wire_str_eq(pubkey_of(1), wire_str("bob")));
	relay_ok(&relay, relay.frame.subscribe.id, 12);
	app_expect(&app, "connected\nupstream live\ndone alice 1 0 12\ndone alice 2 0 12\n");

	/* One that is live already is told so, and the relay not asked again. */
	app_subscribe(&app, "data", "alice", "alice 3");
	app_expect(&app, "done alice 3 0 12\n");
	cr_assert_eq(pgherald_unsubscribe(app.h, "data", "alice"), 0);
	cr_assert_eq(pgherald_unsubscribe(app.h, "data", "alice"), 0);
	relay_expect_nothing(&app);
	cr_assert_eq(pgherald_unsubscribe(app.h, "data", "alice"), 0);
	cr_assert_eq(pgherald_unsubscribe(app.h, "data", "alice"), -ENOENT);
	relay_expect(&app, WIRE_UNSUBSCRIBE);
	cr_assert_eq(relay.frame.subscribe.n_pubkeys, 1);
	cr_assert(wire_str_eq(pubkey_of(0), wire_str("alice")));
}

Test(client_session, subscription_for_all_stands_beside, .init = start)
{
	app_subscribe(&app, "data", "alice", NULL);
	app_subscribe(&app, "data", NULL, NULL);
	app_subscribe(&app, "text", NULL, NULL);
	app_subscribe(&app, "data", "", NULL);
	relay_greet(&app, "e", 10);
	relay_expect(&app, WIRE_SUBSCRIBE);
	cr_assert(wire_str_eq(pubkey_of(0), wire_str("alice")));
	cr_assert_null(relay_expect(&app, WIRE_SUBSCRIBE)->subscribe.pubkeys);
	relay_expect(&app, WIRE_SUBSCRIBE);
	cr_assert_eq(relay.frame.subscribe.n_pubkeys, 1);
	cr_assert_eq(pubkey_of(0).len, 0);
	cr_assert(wire_str_eq(relay_expect(&app, WIRE_SUBSCRIBE)->subscribe.channel, wire_str("text")));
	pgherald_unsubscribe(app.h, "data", NULL);
	cr_assert_null(relay_expect(&app, WIRE_UNSUBSCRIBE)->subscribe.pubkeys);
	relay_expect_nothing(&app);
}

Test(client_session, unsubscribing_before_it_is_live_cancels, .init = start)
{
	app_subscribe(&app, "data", "alice", "1");
	pgherald_unsubscribe(app.h, "data", "alice");
	app_subscribe(&app, "data", "bob", "2");
	relay_greet(&app, "e", 10);
	relay_expect(&app, WIRE_SUBSCRIBE);
	cr_assert(wire_str_eq(pubkey_of(0), wire_str("bob")));
	pgherald_unsubscribe(app.h, "data", "bob");
	relay_expect(&app, WIRE_UNSUBSCRIBE);
	relay_ok(&relay, 1, 10);
	app_expect(&app, "done 1 -125 0\nconnected\nupstream live\ndone 2 -125 0\n");
	relay_expect_nothing(&app);
}

Test(client_session, subscribing_again_asks_again, .init = start)
{
	app_subscribe(&app, "data", "alice", "1");
	relay_greet(&app, "e", 10);
	uint64_t first = relay_expect(&app, WIRE_SUBSCRIBE)->subscribe.id;
	pgherald_unsubscribe(app.h, "data", "alice");
	relay_expect(&app, WIRE_UNSUBSCRIBE);
	app_subscribe(&app, "data", "alice", "2");
	uint64_t second = relay_expect(&app, WIRE_SUBSCRIBE)->subscribe.id;
	app_expect(&app, "connected\nupstream live\ndone 1 -125 0\n");
	relay_ok(&relay, first, 10);
	app_turns(&app);
	app_expect(&app, "");
	relay_ok(&relay, second, 11);
	app_expect(&app, "done 2 0 11\n");
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

Test(client_session, refused_subscription_is_told, .init = start)
{
	app_subscribe(&app, "nope", NULL, "nope");
	app_subscribe(&app, "data", NULL, "data");
	relay_greet(&app, "e", 10);
	relay_error(&relay, relay_expect(&app, WIRE_SUBSCRIBE)->subscribe.id, "channel", "no such channel");
	relay_ok(&relay, relay_expect(&app, WIRE_SUBSCRIBE)->subscribe.id, 10);
	app_expect(&app, "connected\nupstream live\ndone nope -6 0\ndone data 0 10\n");
}

Test(client_session, refused_subscription_stands_and_its_return_is_a_gap, .init = start)
{
	app_subscribe(&app, "data", "alice", NULL);
	app_subscribe(&app, "data", "bob", NULL);
	relay_greet(&app, "e", 10);
	relay_error(&relay, relay_expect(&app, WIRE_SUBSCRIBE)->subscribe.id, "limit", "too many");
	app_expect(&app, "connected\nupstream live\ngap refused too many 0\n");
	relay_expect_nothing(&app);

	/* A further holder asks again. */
	app_subscribe(&app, "data", "bob", "bob");
	relay_ok(&relay, relay_expect(&app, WIRE_SUBSCRIBE)->subscribe.id, 12);
	app_expect(&app, "done bob 0 12\ngap refused a subscription that was refused is live 0\n");

	/* And so does a new connection. */
	relay_drop(&relay);
	relay_settle(&app, "e", 20);
	app_expect(&app, "disconnected\nconnected\nupstream live\n"
			 "gap refused a subscription that was refused is live 0\n");
}

/* What a relay must not be able to do */

static void expect_reconnect(void)
{
	app_expect(&app, "disconnected\n");
	relay_drop(&relay);
	relay_settle(&app, "e", 10);
	app_expect(&app, "connected\nupstream live\n");
}

Test(client_session, survives_garbage, .init = start_settled)
{
	static const struct {
		const char *bytes;
		size_t len;
	} garbage[] = {
		{"garbage", 7},
		{"\xdd\x7f\xff\xff\xff", 5}, /* an array of 2^31 elements */
		{"\x92\x11\xa1x", 4},        /* OK without its seq */
		{"\x92\x05\x01", 3},         /* a worker's frame, of no meaning: no fault */
		{"\x96\x13\x0b\xa4"
		 "data\x05\xc0\x00",
			11},                     /* CHANGE with a number for a pubkey */
		{"\x91\x91\x91\x91\x91\x01", 6}, /* nested too deep */
		{"\x95\x10\x01\xa1"
		 "e\x0a\x80",
			7}, /* a second WELCOME */
		{"\xc1", 1},
	};

	for (size_t i = 0; i < sizeof garbage / sizeof garbage[0]; i++) {
		relay_send_bytes(&relay, garbage[i].bytes, garbage[i].len);
		if (i == 3) {
			app_turns(&app);
			app_expect(&app, "");
		} else {
			expect_reconnect();
		}
	}
}

Test(client_session, takes_no_frame_before_welcome, .init = start)
{
	relay_accept(&app);
	relay_expect(&app, WIRE_HELLO);
	relay_change(&relay, 1, "alice");
	app_expect(&app, "disconnected\n");
}

Test(client_session, takes_no_other_version, .init = start)
{
	relay_accept(&app);
	relay_expect(&app, WIRE_HELLO);
	relay_send_bytes(&relay,
		"\x95\x10\x02\xa1"
		"e\x0a\x80",
		7);
	app_expect(&app, "disconnected\n");
}

Test(client_session, reads_what_the_relay_said_before_it_closed, .init = start_settled)
{
	relay_change(&relay, 11, "alice");
	relay_send(&relay, (struct wire_frame){.type = WIRE_BYE,
				   .bye = {.code = wire_str("shutdown"), .text = wire_str("")}});
	app_notify(&app, "alice", NULL);
	relay_drop(&relay);
	app_expect(&app, "change data alice - 11\ndisconnected\n");
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

Test(client_session, waits_for_a_relay, .init = start_settled)
{
	relay_stop(&relay);
	app_expect(&app, "disconnected\ndisconnected\n"); /* broken; then no relay there */
	sleep_ms(200);
	app_turns(&app);
	app_expect(&app, ""); /* for the same reason: not told again */
	relay_listen(&relay);
	relay_settle(&app, "e", 10);
	app_expect(&app, "connected\nupstream live\n");
}
