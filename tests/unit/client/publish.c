/* NOTIFY and SEND: each completion runs exactly once, whatever happens to the connection, the relay or the
 * handle. */
#include "relay.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

static struct relay relay;
static struct app app;

static void short_deadline(struct pgherald_options *options)
{
	options->deadline_ms = 300;
}

static void small_queue(struct pgherald_options *options)
{
	options->queue_size = 65536;
}

static void start_with(void (*change)(struct pgherald_options *))
{
	relay_start(&relay);
	app_open(&app, &relay, NULL, change);
}

static void start(void)
{
	start_with(NULL);
	relay_greet(&app, "e", 10);
	app_expect(&app, "connected\nupstream live\n");
}

static void end(void)
{
	app_close(&app);
	relay_end(&relay);
}

/* The next frame is a NOTIFY of pubkey. Its id. */
static uint64_t expect_notify(const char *pubkey)
{
	struct wire_notify *notify = &relay_expect(&app, WIRE_NOTIFY)->notify;

	cr_assert(wire_str_eq(notify->pubkey, wire_str(pubkey)), "not %s", pubkey);
	return notify->id;
}

TestSuite(client_publish, .fini = end, .timeout = 30);

Test(client_publish, frames_say_what_was_asked, .init = start)
{
	pgherald_notify(app.h, "data", "alice", "phone", NULL, NULL);
	pgherald_notify(app.h, "data", "Zo\xc3\xab", NULL, NULL, NULL);
	pgherald_send(app.h, "text", "hello", 4, NULL, NULL);
	struct wire_notify *notify = &relay_expect(&app, WIRE_NOTIFY)->notify;
	cr_assert(wire_str_eq(notify->channel, wire_str("data")));
	cr_assert(wire_str_eq(notify->pubkey, wire_str("alice")));
	cr_assert(wire_str_eq(notify->client_id, wire_str("phone")));
	notify = &relay_expect(&app, WIRE_NOTIFY)->notify;
	cr_assert(wire_str_eq(notify->pubkey, wire_str("Zo\xc3\xab")));
	cr_assert_null(notify->client_id.ptr);
	struct wire_send *send = &relay_expect(&app, WIRE_SEND)->send;
	cr_assert(wire_str_eq(send->channel, wire_str("text")));
	cr_assert(wire_str_eq(send->payload, wire_str("hell")));
}

Test(client_publish, answers_in_any_order, .init = start)
{
	app_notify(&app, "alice", "1");
	app_notify(&app, "bob", "2");
	app_notify(&app, "carol", "3");
	app_turns(&app);
	app_expect(&app, "");
	uint64_t first = expect_notify("alice"), second = expect_notify("bob"),
		 third = expect_notify("carol");
	relay_ok(&relay, second, 12);
	relay_ok(&relay, third, 13);
	relay_ok(&relay, third, 13);
	relay_ok(&relay, 99999, 13);
	relay_ok(&relay, first, 11);
	relay_ok(&relay, first, 11);
	app_expect(&app, "done 2 0 12\ndone 3 0 13\ndone 1 0 11\n");
	app_turns(&app);
	app_expect(&app, "");
}

Test(client_publish, each_error_has_its_errno, .init = start)
{
	static const struct {
		const char *code;
		int error;
	} codes[] = {{"channel", -ENXIO}, {"invalid", -EILSEQ}, {"too-long", -EMSGSIZE}, {"limit", -EDQUOT},
		{"busy", -EBUSY}, {"timeout", -ETIMEDOUT}, {"rejected", -EREMOTEIO},
		{"unknown-type", -EPROTO}, {"of-a-later-version", -EPROTO}};

	for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++) {
		char line[64];
		app_notify(&app, "alice", codes[i].code);
		relay_error(&relay, expect_notify("alice"), codes[i].code, "");
		snprintf(line, sizeof line, "done %s %d 0\n", codes[i].code, codes[i].error);
		app_expect(&app, line);
		cr_assert_str_neq(pgherald_strerror(codes[i].error), "unknown error");
	}
	/* An ERROR that belongs to no request does not end the connection. */
	relay_send(&relay, (struct wire_frame){.type = WIRE_ERROR,
				   .error = {.code = wire_str("unknown-type"), .text = wire_str("")}});
	app_turns(&app);
	app_expect(&app, "");
}

static void note_text(struct pgherald *h, const struct pgherald_result *result, void *arg)
{
	(void)h, (void)arg;
	app_note("%s", result->text);
}

Test(client_publish, error_comes_with_the_relays_words, .init = start)
{
	pgherald_notify(app.h, "data", "alice", NULL, note_text, NULL);
	pgherald_notify(app.h, "data", "bob", NULL, note_text, NULL);
	relay_error(&relay, expect_notify("alice"), "rejected", "permission denied");
	relay_ok(&relay, expect_notify("bob"), 1);
	app_expect(&app, "permission denied\nsuccess\n");
}

Test(client_publish, waits_for_the_relay)
{
	start_with(NULL);
	relay_stop(&relay);
	app_notify(&app, "alice", "1");
	app_expect(&app, "disconnected\n");
	relay_listen(&relay);
	relay_accept(&app);
	relay_expect(&app, WIRE_HELLO);
	relay_expect_nothing(&app); /* not before the WELCOME */
	relay_welcome(&relay, "e", 1);
	relay_ok(&relay, expect_notify("alice"), 2);
	app_expect(&app, "connected\nupstream live\ndone 1 0 2\n");
}

Test(client_publish, sent_again_when_the_connection_broke_before_the_answer, .init = start)
{
	app_notify(&app, "alice", "1");
	app_notify(&app, "bob", "2");
	app_notify(&app, "carol", "3");
	expect_notify("alice");
	relay_ok(&relay, expect_notify("bob"), 11);
	app_expect(&app, "done 2 0 11\n");
	app_notify(&app, "dave", "4"); /* not sent when the next dispatch finds the connection broken */
	relay_drop(&relay);
	app_expect(&app, "disconnected\n");
	app_notify(&app, "eve", "5");
	relay_greet(&app, "e", 20);
	relay_ok(&relay, relay_expect(&app, WIRE_BEGIN)->request.id, 20);
	relay_ok(&relay, expect_notify("alice"), 21);
	relay_ok(&relay, expect_notify("carol"), 22);
	relay_ok(&relay, expect_notify("dave"), 23);
	relay_ok(&relay, expect_notify("eve"), 24);
	app_expect(&app, "connected\nupstream live\ndone 1 0 21\ndone 3 0 22\ndone 4 0 23\ndone 5 0 24\n");
	relay_expect_nothing(&app);
}

Test(client_publish, deadline_without_an_answer)
{
	start_with(short_deadline);
	app_notify(&app, "alice", "1");
	relay_greet(&app, "e", 10);
	uint64_t id = expect_notify("alice");
	sleep_ms(150);
	app_notify(&app, "bob", "2");
	app_expect(&app, "connected\nupstream live\ndone 1 -110 0\n");
	relay_ok(&relay, id, 11); /* too late */
	relay_ok(&relay, expect_notify("bob"), 12);
	app_expect(&app, "done 2 0 12\n");
}

Test(client_publish, deadline_without_a_relay)
{
	start_with(short_deadline);
	relay_stop(&relay);
	app_notify(&app, "alice", "1");
	app_expect(&app, "disconnected\ndone 1 -110 0\n");
	relay_listen(&relay);
	relay_greet(&app, "e", 10);
	relay_expect_nothing(&app); /* not sent any more */
}

Test(client_publish, answer_that_is_there_counts_however_late_the_app_looks)
{
	start_with(short_deadline);
	app_notify(&app, "alice", "1");
	relay_greet(&app, "e", 10);
	relay_ok(&relay, expect_notify("alice"), 11);
	sleep_ms(400);
	app_expect(&app, "connected\nupstream live\ndone 1 0 11\n");
}

Test(client_publish, queue_is_bounded)
{
	char pubkey[4097] = "";
	int n = 0, r;

	start_with(small_queue);
	memset(pubkey, 'x', sizeof pubkey - 1);
	while ((r = pgherald_notify(app.h, "data", pubkey, NULL, NULL, NULL)) == 0)
		n++;
	cr_assert_eq(r, -ENOBUFS);
	cr_assert(n >= 14 && n <= 16, "%d", n);
	relay_greet(&app, "e", 10);
	relay_ok(&relay, expect_notify(pubkey), 11);
	app_turns(&app);
	cr_assert_eq(pgherald_notify(app.h, "data", pubkey, NULL, NULL, NULL), 0);
	cr_assert_eq(pgherald_notify(app.h, "data", pubkey, NULL, NULL, NULL), -ENOBUFS);
}

Test(client_publish, close_cancels_what_is_due, .init = start)
{
	app_notify(&app, "alice", "sent");
	expect_notify("alice");
	app_notify(&app, "bob", "queued");
	app_subscribe(&app, "data", NULL, "subscribe");
	app_close(&app);
	app_expect(&app, "done subscribe -125 0\ndone sent -125 0\ndone queued -125 0\n");
}

Test(client_publish, bad_arguments, .init = start)
{
	char longest[8001];

	memset(longest, 'x', sizeof longest);
	longest[8000] = '\0';
	cr_assert_eq(pgherald_notify(app.h, "data", longest, NULL, NULL, NULL), -EMSGSIZE);
	cr_assert_eq(pgherald_notify(app.h, "data", "alice", longest, NULL, NULL), -EMSGSIZE);
	cr_assert_eq(pgherald_send(app.h, "text", longest, 8000, NULL, NULL), -EMSGSIZE);
	cr_assert_eq(pgherald_send(app.h, "text", longest, 7999, NULL, NULL), 0);
	cr_assert_eq(pgherald_subscribe(app.h, "data", longest, NULL, NULL), -EMSGSIZE);
	longest[64] = '\0';
	cr_assert_eq(pgherald_notify(app.h, longest, "alice", NULL, NULL, NULL), -EINVAL);
	cr_assert_eq(pgherald_notify(app.h, longest + 1, "alice", NULL, NULL, NULL), 0);
	cr_assert_eq(pgherald_notify(app.h, "", "alice", NULL, NULL, NULL), -EINVAL);
	cr_assert_eq(pgherald_notify(app.h, NULL, "alice", NULL, NULL, NULL), -EINVAL);
	cr_assert_eq(pgherald_notify(app.h, "data", NULL, NULL, NULL, NULL), -EINVAL);
	cr_assert_eq(pgherald_send(app.h, "text", NULL, 0, NULL, NULL), -EINVAL);
	cr_assert_eq(pgherald_notify(app.h, "data", "\xff", NULL, NULL, NULL), -EILSEQ);
	cr_assert_eq(pgherald_notify(app.h, "data", "alice", "\xed\xa0\x80", NULL, NULL), -EILSEQ);
	cr_assert_eq(pgherald_send(app.h, "text", "a\0b", 3, NULL, NULL), -EILSEQ);
	cr_assert_eq(pgherald_subscribe(app.h, "d\xff", NULL, NULL, NULL), -EILSEQ);
	cr_assert_eq(pgherald_subscribe(app.h, "data", "\xff", NULL, NULL), -EILSEQ);
	cr_assert_eq(pgherald_unsubscribe(app.h, "data", "\xff"), -EILSEQ);
}
