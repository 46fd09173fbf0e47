/* What a worker is sent, with the real fan-out on a real loop: workers of each kind on socket pairs that hold
 * little, read in odd portions. Whatever the interleaving, each must get exactly what it subscribed to, whole
 * and in order. */
#include "fanout/delivery.h"
#include "base/clock.h"
#include "fanout/connection.h"
#include "fanout/decode.h"
#include "fanout/fanout.h"
#include "wire.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define FRAMES_MAX 40000

static struct ev_loop *loop;
static struct config config;
static struct fanout fanout;
static struct decode decoder;
static struct wire_decoder *reader;
static struct worker *caught_up_asked;

/* One worker's end. */
struct peer {
	int fd;
	struct worker *worker;
	unsigned char in[2 * WIRE_FRAME_MAX];
	size_t len;
	uint64_t seqs[FRAMES_MAX]; /* of changes and other frames of the backlog */
	int n;
	uint64_t ok_seq, ok_id;
	int n_gaps, n_recovered;
	bool closed;
};

static void publish(
	void *context, struct worker_ref worker, uint64_t request, unsigned topic, struct wire_str payload)
{
	(void)context;
	(void)topic;
	(void)payload;
	connection_published(&fanout, worker, request, WIRE_ERROR_NONE, NULL);
}

static void catch_up(void *context, struct worker *worker)
{
	(void)context;
	caught_up_asked = worker;
}

static void takes_more(void *context, struct worker *worker)
{
	(void)context;
	(void)worker;
}

static void forget(void *context, struct worker *worker)
{
	(void)context;
	(void)worker;
}

static void start(void)
{
	static const struct worker_requests requests = {NULL, publish, catch_up, takes_more, forget};

	loop = ev_default_loop(EVFLAG_AUTO);
	config = (struct config){.mode = MODE_LOCAL,
		.backlog_size = BACKLOG_SIZE_MIN * 16,
		.n_channels = 2,
		.channels = {{"data", CHANNEL_CHANGES}, {"log", CHANNEL_TEXT}},
		.workers_max = 4096,
		.workers_per_uid_max = 4096,
		.subscriptions_max = 1 << 20,
		.subscriptions_per_uid_max = 1 << 21,
		.subscriptions_total_max = 1 << 22,
		.worker_queue_size = 256 << 10,
		.worker_queues_per_uid_size = 64 << 20,
		.worker_queues_total_size = 128 << 20,
		.worker_publishes_max = 4096};
	decoder = (struct decode){.config = &config};
	cr_assert_eq(fanout_open(&fanout, loop, &config, &requests), 0);
	cr_assert_eq(wire_decoder_new(&reader), 0);
}

static void end(void)
{
	connection_close_all(&fanout, WIRE_BYE_NONE, "the test is over");
	fanout_close(&fanout);
	wire_decoder_free(reader);
	ev_loop_destroy(loop);
}

TestSuite(delivery, .init = start, .fini = end, .timeout = 60);

static void turn(void)
{
	ev_run(loop, EVRUN_NOWAIT);
}

static void request(struct peer *p, struct wire_frame frame)
{
	unsigned char buf[4096];
	int len = wire_encode(&frame, buf, sizeof buf);

	cr_assert_eq(send(p->fd, buf, (size_t)len, MSG_NOSIGNAL), len);
	turn();
}

static void take_frame(struct peer *p, const struct wire_frame *f)
{
	uint64_t seq = f->type == WIRE_CHANGE       ? f->change.seq
		       : f->type == WIRE_MESSAGE    ? f->message.seq
		       : f->type == WIRE_CHECKPOINT ? f->checkpoint.seq
		       : f->type == WIRE_UPSTREAM   ? f->upstream.seq
		       : f->type == WIRE_GAP        ? f->gap.seq
						    : 0;
	if (f->type == WIRE_OK) {
		/* The stream is in order: nothing up to an OK's seq comes after it. */
		p->ok_id = f->ok.id;
		p->ok_seq = f->ok.seq;
	}
	p->n_gaps += f->type == WIRE_GAP;
	p->n_recovered += f->type == WIRE_CHANGE && f->change.flags == WIRE_RECOVERED;
	p->closed |= f->type == WIRE_BYE;
	if (seq == 0 || seq == WIRE_SEQ_NIL)
		return;
	cr_assert_gt(seq, p->ok_seq, "seq %lu behind OK %lu", seq, p->ok_seq);
	cr_assert(p->n == 0 || seq > p->seqs[p->n - 1]);
	cr_assert_lt(p->n, FRAMES_MAX);
	p->seqs[p->n++] = seq;
}

/* Read up to max bytes. */
static void take(struct peer *p, size_t max)
{
	if (max > sizeof p->in - p->len)
		max = sizeof p->in - p->len;
	ssize_t n = recv(p->fd, p->in + p->len, max, MSG_DONTWAIT);
	size_t taken = 0;
	if (n <= 0) {
		p->closed |= n == 0 || errno == ECONNRESET;
		return;
	}
	p->len += (size_t)n;
	for (;;) {
		struct wire_scanner scanner = {0};
		struct wire_frame f;
		if (wire_scan(&scanner, p->in + taken, p->len - taken) != 0)
			break;
		cr_assert_eq(wire_decode(reader, p->in + taken, scanner.offset, &f), 0);
		take_frame(p, &f);
		taken += scanner.offset;
	}
	memmove(p->in, p->in + taken, p->len - taken);
	p->len -= taken;
}

static void take_all(struct peer *p)
{
	int before;

	do {
		before = p->n;
		for (int i = 0; i < 20; i++) {
			turn();
			take(p, sizeof p->in);
		}
		/* A round may wait for the peers to read, and for a little longer. */
	} while (p->n > before || fanout_round_waits(&fanout));
}

static struct peer *peer_hello(struct wire_hello hello)
{
	struct peer *p = calloc(1, sizeof *p);
	int fds[2], small = 4096;

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
	setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
	p->fd = fds[1];
	p->worker = connection_open(&fanout, fds[0]);
	request(p, (struct wire_frame){.type = WIRE_HELLO, .hello = hello});
	return p;
}

static struct peer *peer_open(void)
{
	return peer_hello((struct wire_hello){.version = 1, .name = wire_str("test")});
}

static struct peer *peer_resume(uint64_t seq)
{
	return peer_hello((struct wire_hello){
		.version = 1, .resume = true, .epoch = wire_str(fanout.epoch), .seq = seq});
}

static void peer_close(struct peer *p)
{
	close(p->fd);
	free(p);
}

static void subscribe(struct peer *p, const char *channel, const char *pubkey)
{
	struct wire_str pubkeys[] = {wire_str(pubkey ? pubkey : "")};

	request(p, (struct wire_frame){.type = WIRE_SUBSCRIBE,
			   .subscribe = {1, wire_str(channel), pubkey ? pubkeys : NULL, pubkey != NULL}});
}

static uint64_t change(const char *pubkey)
{
	struct decoded decoded;

	cr_assert_eq(decode_recovered(&decoder, "data", wire_str(pubkey), &decoded), 0);
	fanout_decoded(&fanout, &decoded, 0);
	return fanout.backlog.head;
}

static uint64_t message(const char *payload)
{
	struct decoded decoded;

	cr_assert_eq(decode_recovered(&decoder, "log", wire_str(payload), &decoded), 0);
	fanout_decoded(&fanout, &decoded, 0);
	return fanout.backlog.head;
}

Test(delivery, reaches_those_who_subscribed)
{
	struct peer *all = peer_open(), *data = peer_open(), *bob = peer_open(), *mixed = peer_open();

	subscribe(all, "data", NULL);
	subscribe(all, "log", NULL);
	subscribe(data, "data", NULL);
	subscribe(bob, "data", "bob");
	subscribe(bob, "data", "bob");
	subscribe(mixed, "data", "bob");
	subscribe(mixed, "log", NULL);
	uint64_t ann_seq = change("ann"), bob_seq = change("bob"), log_seq = message("hello");
	take_all(all);
	take_all(data);
	take_all(bob);
	take_all(mixed);
	cr_assert_eq(all->n, 3);
	cr_assert_eq(data->n, 2);
	cr_assert_eq(data->seqs[0], ann_seq);
	cr_assert_eq(bob->n, 1);
	cr_assert_eq(bob->seqs[0], bob_seq);
	cr_assert_eq(mixed->n, 2);
	cr_assert_eq(mixed->seqs[1], log_seq);
	peer_close(all);
	peer_close(data);
	peer_close(bob);
	peer_close(mixed);
}

Test(delivery, costs_nobody_else_a_send)
{
	struct peer *ann = peer_open(), *bob = peer_open();

	subscribe(ann, "data", "ann");
	subscribe(bob, "data", "bob");
	turn();
	uint64_t wakes = fanout.n_wakes;
	for (int i = 0; i < 100; i++) {
		change("bob");
		turn();
		take(bob, 4096);
	}
	cr_assert_eq(fanout.n_wakes, wakes + 100);
	/* A worker that is never woken does not fall behind. */
	cr_assert_eq(delivery_lag(ann->worker).frames, 0);
	peer_close(ann);
	peer_close(bob);
}

/* Kinds of workers, and the frames that each is owed. */
enum { EVERYTHING, ONE_CHANNEL, PUBKEYS, PUBKEYS_AND_CHANNEL, KINDS };

static bool owed(int kind, bool is_message, int user)
{
	switch (kind) {
	case EVERYTHING:
		return true;
	case ONE_CHANNEL:
		return !is_message;
	case PUBKEYS:
		return !is_message && user % 3 == 0;
	default:
		return is_message || user % 3 == 0;
	}
}

Test(delivery, is_exact_whatever_the_reader_does)
{
	static uint64_t expected[KINDS][FRAMES_MAX];
	int n_expected[KINDS] = {0};
	struct peer *peers[KINDS];
	unsigned random = 1;

	for (int kind = 0; kind < KINDS; kind++) {
		peers[kind] = peer_open();
		if (kind == EVERYTHING || kind == ONE_CHANNEL)
			subscribe(peers[kind], "data", NULL);
		if (kind == EVERYTHING || kind == PUBKEYS_AND_CHANNEL)
			subscribe(peers[kind], "log", NULL);
		for (int user = 0; user < 30 && kind >= PUBKEYS; user += 3) {
			char pubkey[16];
			snprintf(pubkey, sizeof pubkey, "user%d", user);
			subscribe(peers[kind], "data", pubkey);
		}
	}
	for (int step = 0; step < 4000; step++) {
		for (int burst = rand_r(&random) % 6; burst > 0; burst--) {
			char text[700];
			int user = rand_r(&random) % 30;
			bool is_message = rand_r(&random) % 4 == 0, for_all = rand_r(&random) % 50 == 0;
			uint64_t seq;
			snprintf(text, sizeof text, "user%d", user);
			if (for_all) {
				fanout_upstream(&fanout, true, "still");
				seq = fanout.backlog.head;
			} else if (is_message) {
				memset(text, 'x', sizeof text);
				text[rand_r(&random) % sizeof text] = '\0';
				text[sizeof text - 1] = '\0';
				seq = message(text);
			} else {
				seq = change(text);
			}
			for (int kind = 0; kind < KINDS; kind++)
				if (for_all || owed(kind, is_message, user))
					expected[kind][n_expected[kind]++] = seq;
		}
		for (int kind = 0; kind < KINDS; kind++) {
			if (rand_r(&random) % 8 == 0)
				request(peers[kind], (struct wire_frame){.type = WIRE_PING, .request = {7}});
			if (rand_r(&random) % 3)
				take(peers[kind], 1 + (size_t)rand_r(&random) % 9000);
			/* No test of falling out of the ring here. */
			while (delivery_lag(peers[kind]->worker).frames &&
				delivery_lag(peers[kind]->worker).bytes > fanout.backlog.size / 2)
				take_all(peers[kind]);
		}
		turn();
	}
	for (int kind = 0; kind < KINDS; kind++) {
		take_all(peers[kind]);
		cr_assert_eq(peers[kind]->n, n_expected[kind], "kind %d: %d of %d", kind, peers[kind]->n,
			n_expected[kind]);
		cr_assert_arr_eq(
			peers[kind]->seqs, expected[kind], (size_t)n_expected[kind] * sizeof(uint64_t));
		cr_assert_eq(peers[kind]->ok_id, 7);
		peer_close(peers[kind]);
	}
}

static void overrun(struct peer *p, const char *pubkey)
{
	for (int i = 0; i < 60000; i++)
		change(pubkey);
	cr_assert_null(caught_up_asked, "not before it reads again");
	while (!caught_up_asked) {
		turn();
		take(p, 65536);
	}
	cr_assert_eq(caught_up_asked, p->worker);
}

Test(delivery, catches_up_whoever_fell_out_of_the_backlog)
{
	struct peer *p = peer_open();
	struct decoded decoded;

	subscribe(p, "data", NULL);
	change("before");
	turn();
	overrun(p, "bob");
	p->worker->cursor = fanout.backlog.head;
	uint64_t head = change("meanwhile") - 1;
	decode_recovered(&decoder, "data", wire_str("missed"), &decoded);
	connection_recovered(p->worker, &decoded);
	connection_caught_up(p->worker, head, "1;1;0/1;3:3:", WIRE_GAP_NONE, NULL);
	int n = p->n;
	take_all(p);
	cr_assert_eq(p->n_recovered, 1);
	cr_assert_eq(p->n, n + 2, "the CHECKPOINT, and what came meanwhile");
	cr_assert_eq(p->seqs[p->n - 2], head);
	cr_assert_eq(p->seqs[p->n - 1], head + 1);
	cr_assert_eq(p->worker->passed->seq, head);
	peer_close(p);
}

static void hold_rounds_back(double seconds)
{
	fanout.pace.n_sends = 1;
	fanout.pace.phase = PACE_RESTING;
	fanout.pace.until = clock_now() + seconds;
	fanout.pace.alarm = 0;
}

Test(delivery, pushes_nobody_out_of_the_backlog_by_a_round_that_is_held_back)
{
	struct peer *p = peer_open();

	subscribe(p, "data", NULL);
	for (int i = 1; i < FRAMES_MAX; i++) {
		hold_rounds_back(3600);
		change("bob");
		turn();
		take(p, sizeof p->in);
	}
	hold_rounds_back(0);
	take_all(p);
	cr_assert_eq(p->n, FRAMES_MAX - 1);
	cr_assert_null(caught_up_asked);
	peer_close(p);
}

static struct {
	bool held;
	int n_waiting; /* come when it is over */
} upstream;

/* As main's: what waited is read in the turn in which it may be. */
static void on_hold(void *context, bool held, size_t ahead)
{
	(void)context;
	cr_assert_leq(ahead, fanout.backlog.size / 8, "more than a round may wait for");
	upstream.held = held;
	for (; !held && upstream.n_waiting > 0; upstream.n_waiting--)
		change("waited");
}

/* It subscribes to all, and has not read what it was sent last. */
static struct peer *peer_behind(void)
{
	struct peer *p = peer_open();

	fanout.hold = on_hold;
	upstream.held = false;
	subscribe(p, "data", NULL);
	take_all(p);
	change("first");
	turn();
	fanout.pace.ended += 3600;
	return p;
}

static void alarm_rings(void)
{
	fanout.pace.alarm = 0;
	fanout.pace.on_alarm(fanout.pace.context);
	turn();
}

Test(delivery, leaves_unread_what_nobody_could_be_sent_yet)
{
	struct peer *p = peer_behind();

	uint64_t wakes = fanout.n_wakes;
	upstream.n_waiting = 1;
	change("second");
	turn();
	cr_assert(upstream.held);
	alarm_rings();
	cr_assert_eq(upstream.n_waiting, 1, "nobody has read yet");
	cr_assert_eq(fanout.n_wakes, wakes);
	take(p, sizeof p->in);
	turn();
	cr_assert_eq(fanout.n_wakes, wakes, "what waits unread is to go out with it");
	alarm_rings();
	cr_assert_eq(upstream.n_waiting, 0);
	/* The pace's own alarm ends the rest. */
	while (fanout.n_wakes == wakes)
		turn();
	take(p, sizeof p->in);
	cr_assert_eq(p->n, 3);
	cr_assert_eq(fanout.n_wakes, wakes + 1, "both go out in one round");
	peer_close(p);
}

Test(delivery, leaves_nothing_unread_for_longer_since_much_comes_from_elsewhere)
{
	struct peer *p = peer_behind();

	change("second");
	turn();
	cr_assert(upstream.held);
	for (size_t n = 0; n <= fanout.backlog.size / 8; n += 4)
		change("bob");
	turn();
	/* And the next round would have to wait long as well. */
	fanout.pace.ended += 3600;
	alarm_rings();
	cr_assert_not(upstream.held);
	peer_close(p);
}

Test(delivery, leaves_nothing_unread_where_much_comes_at_a_time)
{
	struct peer *p = peer_behind();

	for (int i = 0; i < 100; i++)
		change("bob");
	turn();
	cr_assert_not(upstream.held);
	change("bob");
	turn();
	cr_assert_not(upstream.held, "the rest of what came at a time");
	change("bob");
	turn();
	cr_assert(upstream.held);
	peer_close(p);
}

Test(delivery, leaves_nothing_unread_when_the_relay_ends)
{
	struct peer *p = peer_behind();

	change("second");
	turn();
	cr_assert(upstream.held);
	fanout_stop_reading(&fanout);
	cr_assert_not(upstream.held);
	turn();
	cr_assert_not(upstream.held);
	peer_close(p);
}

Test(delivery, leaves_nothing_unread_of_those_who_wait_for_no_round)
{
	struct peer *all = peer_behind(), *bob = peer_open();

	subscribe(bob, "data", "bob");
	turn();
	change("bob");
	turn();
	cr_assert_not(upstream.held);
	take(bob, sizeof bob->in);
	cr_assert_eq(bob->n, 1);
	peer_close(all);
	peer_close(bob);
}

Test(delivery, tells_a_worker_by_pubkey_of_its_overrun_too)
{
	struct peer *p = peer_open();

	subscribe(p, "data", "bob");
	change("bob");
	turn();
	overrun(p, "bob");
	connection_caught_up(p->worker, fanout.backlog.head, NULL, WIRE_GAP_OVERRUN, "test");
	take_all(p);
	cr_assert_eq(p->n_gaps, 1);
	uint64_t seq = change("bob");
	take_all(p);
	cr_assert_eq(p->seqs[p->n - 1], seq);
	peer_close(p);
}

Test(delivery, replays_from_the_backlog)
{
	struct peer *p = peer_open();
	uint64_t seqs[10];

	for (int i = 0; i < 10; i++)
		seqs[i] = change(i % 2 ? "bob" : "ann");
	peer_close(p);
	turn();

	p = peer_resume(seqs[3]);
	subscribe(p, "data", "bob");
	change("bob");
	turn();
	take(p, sizeof p->in);
	cr_assert_eq(p->n, 0, "nothing before BEGIN");
	p->ok_seq = 0;
	request(p, (struct wire_frame){.type = WIRE_BEGIN, .request = {9}});
	take_all(p);
	cr_assert_eq(p->n, 4);
	cr_assert_eq(p->seqs[0], seqs[5]);
	cr_assert_eq(p->seqs[3], seqs[9] + 1);
	cr_assert_eq(p->ok_id, 9);
	cr_assert_eq(p->ok_seq, seqs[9] + 1);
	peer_close(p);
}

/* Such a frame has no key yet. */
Test(delivery, replays_by_pubkey_what_came_when_nobody_subscribed_by_one)
{
	static const char *const payloads[] = {"{\"p\":\"bob\"}", "{\"p\":\"ann\",\"c\":\"\"}",
		"{\"p\":\"bob\",\"c\":\"\"}", "{\"p\":\"bob\",\"c\":\"phone\"}"};
	struct decoded decoded;

	for (int i = 0; i < 4; i++) {
		cr_assert_eq(decode_notification(&decoder, "data", wire_str(payloads[i]), &decoded), 0);
		fanout_decoded(&fanout, &decoded, 0);
		decoded_release(&decoded);
	}
	struct peer *p = peer_resume(0);
	subscribe(p, "data", "bob");
	p->ok_seq = 0;
	request(p, (struct wire_frame){.type = WIRE_BEGIN, .request = {9}});
	take_all(p);
	cr_assert_eq(p->n, 3);
	cr_assert_eq(p->seqs[1], 3);
	peer_close(p);
}

Test(delivery, walks_to_the_end_without_anything_new_to_come)
{
	uint64_t seq = change("bob");

	for (int i = 1; i < 20000; i++)
		change("ann");
	turn();
	struct peer *p = peer_resume(seq - 1);
	subscribe(p, "data", "carol");
	p->ok_seq = 0;
	request(p, (struct wire_frame){.type = WIRE_BEGIN, .request = {9}});
	take_all(p);
	cr_assert_eq(p->ok_id, 9);
	peer_close(p);
}

Test(delivery, stops_reading_a_worker_that_does_not_read)
{
	struct peer *p = peer_open();
	unsigned char pings[4096];
	size_t len = 0;
	long sent = 0;

	while (len + 16 < sizeof pings)
		len += (size_t)wire_encode(&(struct wire_frame){.type = WIRE_PING, .request = {1}},
			pings + len, sizeof pings - len);
	for (int i = 0; i < 5000; i++) {
		ssize_t n = send(p->fd, pings, len, MSG_NOSIGNAL);
		sent += n > 0 ? n : 0;
		turn();
	}
	cr_assert_lt(sent, (long)len * 5000);
	cr_assert_leq(p->worker->private.end - p->worker->private.start, config.worker_queue_size + 64,
		"one answer beyond it");
	cr_assert_not(p->worker->reading);
	take_all(p);
	for (int i = 0; i < 2000; i++) {
		turn();
		take(p, sizeof p->in);
	}
	cr_assert(p->worker->reading, "and reads again when it does");
	peer_close(p);
}
