/* The cursor: when it moves and when it must not, and how a connection resumes from it. A mistake here is a
 * silent loss, so each rule of PROTOCOL.md has its test. */
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
	app_subscribe(&app, "data", NULL, NULL);
	relay_settle(&app, "e", 10);
	app_expect(&app, "connected\nupstream live\n");
}

/* Another run of the library, from what the last one stored. */
static void start_from(const char *cursor)
{
	relay_start(&relay);
	app_open(&app, &relay, cursor, NULL);
	app_subscribe(&app, "data", NULL, NULL);
}

static void end(void)
{
	app_close(&app);
	relay_end(&relay);
}

static void expect_cursor(const char *cursor)
{
	app_turns(&app);
	cr_assert_str_eq(app_cursor(&app), cursor);
}

/* The connection breaks, and the next one's HELLO asks to resume from here. It is not yet answered. */
static void expect_resume(const char *epoch, uint64_t seq, const char *checkpoint)
{
	relay_drop(&relay);
	relay_accept(&app);
	struct wire_hello *hello = &relay_expect(&app, WIRE_HELLO)->hello;
	cr_assert(hello->resume);
	cr_assert(wire_str_eq(hello->epoch, wire_str(epoch)));
	cr_assert_eq(hello->seq, seq, "seq %lu", (unsigned long)hello->seq);
	cr_assert(wire_str_eq(hello->checkpoint, wire_str(checkpoint)));
}

/* WELCOME, and an OK to the SUBSCRIBE. The id of the BEGIN, which has no answer. */
static uint64_t begin_resume(const char *epoch, uint64_t seq)
{
	relay_welcome(&relay, epoch, seq);
	relay_ok(&relay, relay_expect(&app, WIRE_SUBSCRIBE)->subscribe.id, seq);
	return relay_expect(&app, WIRE_BEGIN)->request.id;
}

TestSuite(client_resume, .fini = end, .timeout = 30);

Test(client_resume, cursor_moves_with_each_frame, .init = start)
{
	expect_cursor("1 10 e");
	relay_change(&relay, 11, "alice");
	expect_cursor("1 11 e");
	relay_change(&relay, WIRE_SEQ_NIL, "bob");
	expect_cursor("1 11 e");
	relay_checkpoint(&relay, 12, "cp one");
	expect_cursor("1 12 e cp%20one");
	relay_send(&relay, (struct wire_frame){.type = WIRE_GAP,
				   .gap = {.seq = 13, .cause = wire_str("upstream"), .text = wire_str("")}});
	expect_cursor("1 13 e cp%20one");
	relay_send(&relay, (struct wire_frame){.type = WIRE_UPSTREAM,
				   .upstream = {.seq = 14, .state = wire_str("live"), .text = wire_str("")}});
	expect_cursor("1 14 e cp%20one");
	relay_send(&relay,
		(struct wire_frame){.type = WIRE_MESSAGE,
			.message = {.seq = 15, .channel = wire_str("text"), .payload = wire_str("")}});
	expect_cursor("1 15 e cp%20one");
	/* An OK stands in no backlog. */
	app_notify(&app, "alice", NULL);
	relay_ok(&relay, relay_expect(&app, WIRE_NOTIFY)->notify.id, 20);
	expect_cursor("1 15 e cp%20one");
	expect_resume("e", 15, "cp one");
}

static void note_cursor(struct pgherald *h, const struct pgherald_change *change, void *data)
{
	char text[PGHERALD_CURSOR_SIZE];

	(void)data;
	pgherald_cursor(h, text, sizeof text);
	app_note("%s at %s", change->pubkey, text);
}

static void hear_by_note_cursor(struct pgherald_options *options)
{
	options->on_change = note_cursor;
}

/* What is being handled is not past: were it, an app that stores the cursor and dies here would lose it. */
Test(client_resume, cursor_passes_a_change_when_its_callback_returned)
{
	relay_start(&relay);
	app_open(&app, &relay, NULL, hear_by_note_cursor);
	relay_greet(&app, "e", 10);
	relay_change(&relay, 11, "alice");
	relay_change(&relay, 12, "bob");
	app_expect(&app, "connected\nupstream live\nalice at 1 10 e\nbob at 1 11 e\n");
	expect_cursor("1 12 e");
}

Test(client_resume, replay_from_the_backlog_counts, .init = start)
{
	relay_change(&relay, 11, "alice");
	app_expect(&app, "change data alice - 11\n");
	expect_resume("e", 11, NULL);
	uint64_t begin = begin_resume("e", 30);
	expect_cursor("1 11 e");
	relay_change(&relay, 12, "bob");
	relay_checkpoint(&relay, 13, "cp");
	expect_cursor("1 13 e cp");

	/* A drop in the middle goes on where it was. */
	expect_resume("e", 13, "cp");
	begin = begin_resume("e", 30);
	relay_change(&relay, 20, "carol");
	relay_ok(&relay, begin, 30);
	expect_cursor("1 30 e cp");
	relay_change(&relay, 31, "dave");
	expect_cursor("1 31 e cp");
	app_expect(&app,
		"disconnected\nconnected\nupstream live\nchange data bob - 12\n"
		"disconnected\nconnected\nupstream live\nchange data carol - 20\nchange data dave - 31\n");
}

Test(client_resume, catch_up_from_the_database_starts_again_after_a_drop, .init = start)
{
	relay_checkpoint(&relay, 11, "cp");
	expect_cursor("1 11 e cp");
	for (int i = 0; i < 3; i++) {
		expect_resume("e", 11, "cp");
		begin_resume("new", 5);
		relay_change(&relay, WIRE_SEQ_NIL, "alice");
		expect_cursor("1 11 e cp");
		/* A relay should not send these here. If it does, they mean nothing in the old epoch. */
		relay_change(&relay, 900, "bob");
		relay_checkpoint(&relay, 901, "later");
		expect_cursor("1 11 e cp");
	}
	expect_resume("e", 11, "cp");
	relay_ok(&relay, begin_resume("new", 5), 6);
	expect_cursor("1 6 new cp");
	relay_checkpoint(&relay, 7, "later");
	expect_cursor("1 7 new later");
	expect_resume("new", 7, "later");
}

Test(client_resume, catch_up_of_one_that_fell_out_of_the_backlog, .init = start)
{
	relay_checkpoint(&relay, 11, "cp");
	relay_change(&relay, WIRE_SEQ_NIL, "alice");
	expect_cursor("1 11 e cp");
	relay_send(&relay,
		(struct wire_frame){.type = WIRE_GAP,
			.gap = {.seq = WIRE_SEQ_NIL, .cause = wire_str("overrun"), .text = wire_str("")}});
	expect_cursor("1 11 e cp");
	relay_checkpoint(&relay, 500, "cp2");
	expect_cursor("1 500 e cp2");
}

Test(client_resume, drop_between_welcome_and_begin, .init = start)
{
	for (int i = 0; i < 3; i++) {
		expect_resume("e", 10, NULL);
		relay_welcome(&relay, "new", 3);
		expect_cursor("1 10 e");
	}
}

Test(client_resume, begin_comes_behind_all_subscriptions)
{
	relay_start(&relay);
	app_open(&app, &relay, "1 5 e cp", NULL);
	cr_assert_str_eq(app_cursor(&app), "1 5 e cp");
	app_subscribe(&app, "data", "alice", "alice");
	app_subscribe(&app, "text", NULL, NULL);
	relay_accept(&app);
	/* In one go: nothing of it waits for the WELCOME. */
	cr_assert(relay_expect(&app, WIRE_HELLO)->hello.resume);
	uint64_t alice = relay_expect(&app, WIRE_SUBSCRIBE)->subscribe.id;
	relay_expect(&app, WIRE_SUBSCRIBE);
	uint64_t begin = relay_expect(&app, WIRE_BEGIN)->request.id;
	relay_welcome(&relay, "e", 9);
	relay_ok(&relay, alice, 9);
	app_expect(&app, "connected\nupstream live\ndone alice 0 9\n");
	relay_ok(&relay, begin, 9);
	expect_cursor("1 9 e cp");
	/* Once only. */
	app_subscribe(&app, "data", "bob", NULL);
	relay_expect(&app, WIRE_SUBSCRIBE);
	relay_expect_nothing(&app);
}

Test(client_resume, refusal_of_begin_starts_again, .init = start)
{
	expect_resume("e", 10, NULL);
	relay_error(&relay, begin_resume("e", 10), "invalid", "");
	app_expect(&app, "disconnected\nconnected\nupstream live\ndisconnected\n");
	expect_resume("e", 10, NULL);
}

Test(client_resume, resumes_after_its_own_restart)
{
	char stored[PGHERALD_CURSOR_SIZE];

	start();
	relay_checkpoint(&relay, 11, "7512,1,0/16B3748,%\n\xc3\xab 100:100:");
	expect_cursor("1 11 e 7512,1,0/16B3748,%25%0A%C3%AB%20100:100:");
	strcpy(stored, app_cursor(&app));
	end();

	start_from(stored);
	cr_assert_str_eq(app_cursor(&app), stored);
	relay_accept(&app);
	struct wire_hello *hello = &relay_expect(&app, WIRE_HELLO)->hello;
	cr_assert_eq(hello->seq, 11);
	cr_assert(wire_str_eq(hello->checkpoint, wire_str("7512,1,0/16B3748,%\n\xc3\xab 100:100:")));
}

Test(client_resume, overlong_checkpoint_leaves_the_older_one, .init = start)
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

Test(client_cursor, what_is_no_cursor_is_refused)
{
	static const char *const bad[] = {"", "1", "1 ", "2 10 e", "1 x e", "1 -1 e", "1 10",
		"1 18446744073709551616 e", "1 10 e%2", "1 10 e%GG", "1 10 e\n", "1 10 e cp x", "1 10  e cp",
		"garbage"};
	static const char *const good[] = {
		"1 10 e", "1 0 ", "1 18446744073709551615 e", "1 10 e ", "1 10 e%00 cp"};
	struct pgherald_options options = {.size = sizeof options, .socket = "/nowhere"};
	struct pgherald *h;
	char text[PGHERALD_CURSOR_SIZE];

	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		options.cursor = bad[i];
		cr_assert_eq(pgherald_open(&options, &h), -EBADMSG, "'%s'", bad[i]);
	}
	for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
		options.cursor = good[i];
		cr_assert_eq(pgherald_open(&options, &h), 0, "'%s'", good[i]);
		pgherald_cursor(h, text, sizeof text);
		cr_assert_str_eq(text, good[i]);
		pgherald_close(h);
	}
}
