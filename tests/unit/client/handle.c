/* The handle as an app meets it: options, the descriptor in an event loop, what may be done inside
 * callbacks, waiting, and the local notifier. */
#include "relay.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

static struct relay relay;
static struct app app;

static void end(void)
{
	app_close(&app);
	relay_end(&relay);
}

static void start_with(void (*change)(struct pgherald_options *))
{
	relay_start(&relay);
	app_open(&app, &relay, NULL, change);
	app_subscribe(&app, "data", NULL, NULL);
	relay_settle(&app, "e", 10);
	app_expect(&app, "connected\nupstream live\n");
}

static void start(void)
{
	start_with(NULL);
}

/* Options */

TestSuite(client_options, .timeout = 30);

Test(client_options, other_versions)
{
	struct {
		struct pgherald_options options;
		char later[64];
	} later = {.options = {.size = sizeof later, .socket = ""}};
	struct pgherald *h;

	cr_assert_eq(pgherald_open(&later.options, &h), 0);
	pgherald_close(h);
	later.later[63] = 1;
	cr_assert_eq(pgherald_open(&later.options, &h), -E2BIG);
	/* An app of an earlier version: what it does not know is not read. */
	later.options = (struct pgherald_options){
		.size = offsetof(struct pgherald_options, queue_size), .socket = "", .queue_size = 1};
	cr_assert_eq(pgherald_open(&later.options, &h), 0);
	pgherald_close(h);
	later.options.size = 0;
	cr_assert_eq(pgherald_open(&later.options, &h), -EINVAL);
}

Test(client_options, socket_from_the_environment, .fini = end)
{
	relay_start(&relay);
	setenv("PGHERALD_SOCKET", relay.path, 1);
	app.relay = &relay;
	cr_assert_eq(pgherald_open(NULL, &app.h), 0);
	relay_accept(&app);
	struct wire_hello *hello = &relay_expect(&app, WIRE_HELLO)->hello;
	cr_assert(wire_str_eq(hello->name, wire_str(program_invocation_short_name)));
	setenv("PGHERALD_SOCKET", "", 1);
	struct pgherald *local;
	cr_assert_eq(pgherald_open(NULL, &local), 0);
	cr_assert_eq(pgherald_notify(local, "data", "alice", NULL, NULL, NULL), 0);
	pgherald_close(local);
}

Test(client_options, words_for_each_error)
{
	static const int errors[] = {E2BIG, EBADMSG, EBUSY, ECANCELED, ECHILD, EDEADLK, EDQUOT, EILSEQ, EINTR,
		EINVAL, EMFILE, ENFILE, EMSGSIZE, ENAMETOOLONG, ENOBUFS, ENODATA, ENOENT, ENOMEM, ENOSPC,
		ENXIO, EPROTO, EREMOTEIO, ESHUTDOWN, ETIMEDOUT, 0};

	for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
		cr_assert_str_neq(pgherald_strerror(-errors[i]), "unknown error");
		cr_assert_str_eq(pgherald_strerror(-errors[i]), pgherald_strerror(errors[i]));
	}
	cr_assert_str_eq(pgherald_strerror(-99999), "unknown error");
}

/* The descriptor */

TestSuite(client_loop, .fini = end, .timeout = 30);

static int epoll_of_app(uint32_t events)
{
	struct epoll_event event = {.events = events};
	int epoll = epoll_create1(EPOLL_CLOEXEC);

	cr_assert_eq(epoll_ctl(epoll, EPOLL_CTL_ADD, pgherald_fd(app.h), &event), 0);
	return epoll;
}

/* Dispatch if the descriptor says so within a moment. */
static bool epoll_turn(int epoll)
{
	struct epoll_event event;

	if (epoll_wait(epoll, &event, 1, 300) == 0)
		return false;
	cr_assert_geq(pgherald_dispatch(app.h), 0);
	return true;
}

static void count_change(struct pgherald *h, const struct pgherald_change *change, void *data)
{
	static uint64_t last = 10;

	(void)h, (void)data;
	cr_assert_eq(change->seq, ++last);
}

static void hear_by_count_change(struct pgherald_options *options)
{
	options->on_change = count_change;
}

/* Here a wake that is lost once is lost for good. */
Test(client_loop, edge_triggered)
{
	enum { CHANGES = 100000 };
	static char bytes[CHANGES * 48];
	size_t len = 0, sent = 0;

	start_with(hear_by_count_change);
	int epoll = epoll_of_app(EPOLLIN | EPOLLET);
	for (uint64_t i = 1; i <= CHANGES; i++) {
		struct wire_frame frame = {.type = WIRE_CHANGE,
			.change = {.seq = 10 + i,
				.channel = wire_str("data"),
				.pubkey = wire_str("somebody-in-particular")}};
		len += (size_t)wire_encode(&frame, bytes + len, sizeof bytes - len);
	}
	/* Far more than the socket holds, and far more than one dispatch takes in when the buffer is
	 * large. */
	setsockopt(relay.fd, SOL_SOCKET, SO_SNDBUF, &(int){4 << 20}, sizeof(int));
	while (sent < len) {
		ssize_t n = send(relay.fd, bytes + sent, len - sent, 0);
		sent += n > 0 ? (size_t)n : 0;
		cr_assert(n > 0 || epoll_turn(epoll));
	}
	while (epoll_turn(epoll))
		;
	cr_assert_str_eq(app_cursor(&app), "1 100010 e");

	app_notify(&app, "alice", "1");
	app_notify(&app, "bob", "2");
	cr_assert(epoll_turn(epoll));
	relay_expect(&app, WIRE_NOTIFY);
	relay_ok(&relay, relay_expect(&app, WIRE_NOTIFY)->notify.id, 1);
	cr_assert(epoll_turn(epoll));
	relay_drop(&relay);
	while (relay.fd < 0) {
		cr_assert(epoll_turn(epoll));
		relay.fd = accept4(relay.listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	}
	close(epoll);
}

static void ask_again(struct pgherald *h, const struct pgherald_result *result, void *arg)
{
	(void)result;
	if (++*(int *)arg < 10)
		pgherald_subscribe(h, "data", NULL, ask_again, arg);
}

/* What a dispatch leaves to the next one wakes the loop again, although the loop did not sleep. */
Test(client_loop, edge_triggered_when_something_is_left, .init = start)
{
	static int n;
	int epoll = epoll_of_app(EPOLLIN | EPOLLET);

	pgherald_subscribe(app.h, "data", NULL, ask_again, &n);
	while (epoll_turn(epoll))
		;
	cr_assert_eq(n, 10);
	close(epoll);
}

Test(client_loop, idle_handle_sleeps, .init = start)
{
	app_notify(&app, "alice", NULL);
	relay_ok(&relay, relay_expect(&app, WIRE_NOTIFY)->notify.id, 1);
	app_turns(&app);
	int epoll = epoll_of_app(EPOLLIN);
	cr_assert_not(epoll_turn(epoll));
	close(epoll);
}

Test(client_loop, wait_blocks_until_something_is_heard, .init = start)
{
	relay_checkpoint(&relay, 11, "cp");
	cr_assert_eq(pgherald_wait(app.h, 50), 0); /* no callback: nothing heard */
	cr_assert_eq(pgherald_wait(app.h, 0), 0);
	relay_change(&relay, 12, "alice");
	cr_assert_eq(pgherald_wait(app.h, -1), 1);
	app_notify(&app, "alice", "1");
	cr_assert_eq(pgherald_wait(app.h, 20), 0);
	relay_ok(&relay, relay_expect(&app, WIRE_NOTIFY)->notify.id, 1);
	cr_assert_eq(pgherald_wait(app.h, 5000), 1);
}

/* Whether the worker has sent something, without a dispatch. */
static bool has_sent(void)
{
	char byte;

	return recv(relay.fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
}

Test(client_loop, the_first_request_of_an_app_that_polls_is_sent_at_once, .init = start)
{
	app_notify(&app, "alice", "1");
	cr_assert(has_sent());
	uint64_t first = relay_expect(&app, WIRE_NOTIFY)->notify.id;
	/* Those that follow go together. */
	app_notify(&app, "bob", "2");
	app_notify(&app, "carol", "3");
	cr_assert_not(has_sent());
	relay_expect(&app, WIRE_NOTIFY);
	relay_ok(&relay, relay_expect(&app, WIRE_NOTIFY)->notify.id, 12);
	relay_ok(&relay, first, 11);
	app_expect(&app, "done 3 0 12\ndone 1 0 11\n");
}

static void start_waiting(void)
{
	relay_start(&relay);
	app_open(&app, &relay, NULL, NULL);
	app.waits = true;
	app_subscribe(&app, "data", NULL, NULL);
	relay_settle(&app, "e", 10);
	app_expect(&app, "connected\nupstream live\n");
}

Test(client_loop, an_app_that_only_waits, .init = start_waiting)
{
	app_notify(&app, "alice", "1");
	app_notify(&app, "bob", "2");
	cr_assert_not(has_sent());
	relay_expect(&app, WIRE_NOTIFY);
	relay_ok(&relay, relay_expect(&app, WIRE_NOTIFY)->notify.id, 11);
	app_expect(&app, "done 2 0 11\n");
	relay_drop(&relay);
	relay_settle(&app, "e", 11);
	relay_expect(&app, WIRE_NOTIFY);
	app_expect(&app, "disconnected\nconnected\nupstream live\n");
}

/* A dispatch sends and receives, also if the app has queued something before each. */
Test(client_loop, an_app_that_only_dispatches, .init = start_waiting)
{
	relay_change(&relay, 11, "alice");
	app_notify(&app, "alice", NULL);
	cr_assert_eq(pgherald_dispatch(app.h), 1);
	cr_assert(has_sent());
}

Test(client_loop, the_descriptor_is_readable_for_what_was_queued_before, .init = start_waiting)
{
	app_notify(&app, "alice", NULL);
	int epoll = epoll_of_app(EPOLLIN | EPOLLET);
	cr_assert(epoll_turn(epoll));
	cr_assert(has_sent());
	cr_assert_not(epoll_turn(epoll));
	close(epoll);
}

static void on_alarm(int number)
{
	(void)number;
}

Test(client_loop, wait_ends_with_a_signal, .init = start)
{
	struct itimerval soon = {.it_value = {.tv_usec = 50000}};

	sigaction(SIGALRM, &(struct sigaction){.sa_handler = on_alarm}, NULL);
	setitimer(ITIMER_REAL, &soon, NULL);
	cr_assert_eq(pgherald_wait(app.h, -1), -EINTR);
}

/* Inside callbacks */

TestSuite(client_callbacks, .fini = end, .timeout = 30);

static void close_it(struct pgherald *h, const char *where)
{
	app_note("closing in %s", where);
	app_current()->h = NULL;
	pgherald_close(h);
	pgherald_close(h);
	app_note("closed");
}

static void close_on_change(struct pgherald *h, const struct pgherald_change *change, void *data)
{
	(void)data;
	close_it(h, change->pubkey);
	cr_assert_str_eq(change->pubkey, "alice");
}

static void close_on_state(struct pgherald *h, const struct pgherald_state *state, void *data)
{
	(void)data;
	if (state->event == PGHERALD_DISCONNECTED)
		close_it(h, "state");
}

static void close_on_connected(struct pgherald *h, const struct pgherald_state *state, void *data)
{
	(void)data, (void)state;
	close_it(h, "connected");
}

static void close_on_done(struct pgherald *h, const struct pgherald_result *result, void *arg)
{
	if (result->error == 0)
		close_it(h, arg);
	else
		app_note("done %s %d", (char *)arg, result->error);
}

static void hear_by_close_on_change(struct pgherald_options *options)
{
	options->on_change = close_on_change;
}

static void hear_by_close_on_state(struct pgherald_options *options)
{
	options->on_state = close_on_state;
}

static void hear_by_close_on_connected(struct pgherald_options *options)
{
	options->on_state = close_on_connected;
}

Test(client_callbacks, close_in_on_state)
{
	relay_start(&relay);
	app_open(&app, &relay, NULL, hear_by_close_on_state);
	relay_greet(&app, "e", 10);
	app_turns(&app);
	relay_drop(&relay);
	app_expect(&app, "closing in state\nclosed\n");

	/* Already when it cannot connect */
	relay_stop(&relay);
	app_open(&app, &relay, NULL, hear_by_close_on_state);
	app_expect(&app, "closing in state\nclosed\n");
	relay_listen(&relay);
	app_open(&app, &relay, NULL, hear_by_close_on_connected);
	app_subscribe(&app, "data", NULL, "1");
	relay_greet(&app, "e", 10);
	app_expect(&app, "closing in connected\ndone 1 -125 0\nclosed\n");
}

Test(client_callbacks, close_in_a_completion, .init = start)
{
	/* Of several that become known together, and of requests of both kinds. */
	pgherald_subscribe(app.h, "data", "alice", close_on_done, app_label("1"));
	pgherald_subscribe(app.h, "data", "bob", close_on_done, app_label("2"));
	pgherald_subscribe(app.h, "text", NULL, close_on_done, app_label("3"));
	pgherald_notify(app.h, "data", "alice", NULL, close_on_done, app_label("4"));
	relay_ok(&relay, relay_expect(&app, WIRE_SUBSCRIBE)->subscribe.id, 11);
	/* The second is live as the first is; it is told so in the course of the close. */
	while (app.h)
		app_turns(&app);
	cr_assert(strstr(app.heard, "closing in 1\n") == app.heard, "%s", app.heard);
	cr_assert_not_null(strstr(app.heard, "done 3 -125\n"));
	cr_assert_not_null(strstr(app.heard, "done 4 -125\n"));
	app.heard_len = 0;
	app.heard[0] = '\0';
	app_turns(&app);
	app_expect(&app, "");
}

static void call_everything(struct pgherald *h, const struct pgherald_change *change, void *data)
{
	char text[PGHERALD_CURSOR_SIZE];

	(void)data;
	cr_assert_eq(pgherald_dispatch(h), -EDEADLK);
	cr_assert_eq(pgherald_wait(h, 100), -EDEADLK);
	cr_assert_geq(pgherald_fd(h), 0);
	cr_assert_gt(pgherald_cursor(h, text, sizeof text), 0);
	cr_assert_eq(pgherald_subscribe(h, "data", change->pubkey, app_done, app_label("subscribe")), 0);
	cr_assert_eq(pgherald_unsubscribe(h, "data", NULL), change->seq == 11 ? 0 : -ENOENT);
	cr_assert_eq(pgherald_notify(h, "data", change->pubkey, NULL, app_done, app_label("notify")), 0);
	cr_assert_eq(pgherald_send(h, "text", "x", 1, NULL, NULL), 0);
}

static void hear_by_call_everything(struct pgherald_options *options)
{
	options->on_change = call_everything;
}

Test(client_callbacks, calls_in_a_callback)
{
	start_with(hear_by_call_everything);
	relay_change(&relay, 11, "alice");
	/* Sent when the dispatch ends; no further one is needed. */
	relay_expect(&app, WIRE_UNSUBSCRIBE);
	relay_ok(&relay, relay_expect(&app, WIRE_SUBSCRIBE)->subscribe.id, 11);
	relay_ok(&relay, relay_expect(&app, WIRE_NOTIFY)->notify.id, 12);
	relay_expect(&app, WIRE_SEND);
	app_expect(&app, "done subscribe 0 11\ndone notify 0 12\n");
	relay_change(&relay, 12, "alice");
	app_expect(&app, "done subscribe 0 11\n");
}

static void try_everything_closed(struct pgherald *h, const struct pgherald_result *result, void *arg)
{
	char text[100];

	app_note("done %s %d", (char *)arg, result->error);
	cr_assert_eq(pgherald_fd(h), -ESHUTDOWN);
	cr_assert_eq(pgherald_dispatch(h), -ESHUTDOWN);
	cr_assert_eq(pgherald_wait(h, 0), -ESHUTDOWN);
	cr_assert_eq(pgherald_subscribe(h, "data", NULL, app_done, NULL), -ESHUTDOWN);
	cr_assert_eq(pgherald_unsubscribe(h, "data", NULL), -ESHUTDOWN);
	cr_assert_eq(pgherald_notify(h, "data", "alice", NULL, app_done, NULL), -ESHUTDOWN);
	cr_assert_eq(pgherald_send(h, "text", "", 0, app_done, NULL), -ESHUTDOWN);
	cr_assert_eq(pgherald_cursor(h, text, sizeof text), -ESHUTDOWN);
	pgherald_close(h);
}

Test(client_callbacks, calls_in_a_completion_of_close, .init = start)
{
	pgherald_notify(app.h, "data", "alice", NULL, try_everything_closed, app_label("1"));
	pgherald_subscribe(app.h, "text", NULL, try_everything_closed, app_label("2"));
	app_close(&app);
	app_expect(&app, "done 2 -125\ndone 1 -125\n");
}

static void subscribe_again(struct pgherald *h, const struct pgherald_result *result, void *arg)
{
	(void)result;
	if (++*(int *)arg < 100000)
		pgherald_subscribe(h, "data", NULL, subscribe_again, arg);
}

Test(client_callbacks, endless_requests_do_not_hold_up_the_loop, .init = start)
{
	static int n; /* the last completion runs in the close at the end */

	pgherald_subscribe(app.h, "data", NULL, subscribe_again, &n);
	for (int i = 1; i < 5; i++) {
		struct pollfd pfd = {.fd = pgherald_fd(app.h), .events = POLLIN};
		cr_assert_eq(poll(&pfd, 1, 1000), 1);
		cr_assert_eq(pgherald_dispatch(app.h), 1);
		cr_assert_eq(n, i);
	}
	n = 100000;
}

/* The local notifier */

static void start_local(void)
{
	app_open(&app, NULL, NULL, NULL);
}

static void end_local(void)
{
	app_close(&app);
}

TestSuite(client_local, .init = start_local, .fini = end_local, .timeout = 30);

static void echo(struct pgherald *h, const struct pgherald_change *change, void *data)
{
	(void)data;
	app_note("heard %lu", (unsigned long)change->seq);
	pgherald_notify(h, "data", "alice", NULL, NULL, NULL);
}

static void hear_by_echo(struct pgherald_options *options)
{
	options->on_change = echo;
}

Test(client_local, an_echo_does_not_hold_up_the_loop)
{
	app_close(&app);
	app_open(&app, NULL, NULL, hear_by_echo);
	app_subscribe(&app, "data", NULL, NULL);
	app_notify(&app, "alice", NULL);
	cr_assert_eq(pgherald_wait(app.h, 1000), 3);
	for (int i = 0; i < 5; i++)
		cr_assert_eq(pgherald_wait(app.h, 1000), 1);
	app_close(&app);
	app_expect(&app, "connected\nupstream live\nheard 1\nheard 2\nheard 3\nheard 4\nheard 5\nheard 6\n");
}

static void subscribe_in_callback(struct pgherald *h, const struct pgherald_result *result, void *arg)
{
	(void)result, (void)arg;
	pgherald_subscribe(h, "data", "bob", app_done, app_label("bob"));
	pgherald_notify(h, "data", "bob", NULL, NULL, NULL);
}

Test(client_local, subscribes_in_a_callback)
{
	pgherald_subscribe(app.h, "data", "alice", subscribe_in_callback, NULL);
	app_expect(&app, "connected\nupstream live\ndone bob 0 0\nchange data bob - 1\n");
}

Test(client_local, closes_in_callbacks)
{
	app_close(&app);
	app_open(&app, NULL, NULL, hear_by_close_on_change);
	app_subscribe(&app, "data", NULL, NULL);
	app_notify(&app, "alice", "1");
	app_notify(&app, "alice", "2");
	app_expect(&app, "connected\nupstream live\ndone 1 0 1\nclosing in alice\ndone 2 -125 0\nclosed\n");
	app_open(&app, NULL, NULL, hear_by_close_on_connected);
	app_notify(&app, "alice", "1");
	app_expect(&app, "closing in connected\ndone 1 -125 0\nclosed\n");
	app_open(&app, NULL, NULL, NULL);
	app_subscribe(&app, "data", NULL, NULL);
	pgherald_notify(app.h, "data", "alice", NULL, close_on_done, app_label("1"));
	app_expect(&app, "connected\nupstream live\nclosing in 1\nclosed\n");
}
