/* What a worker is sent: exactly what it subscribed to, whole and in order, however it reads. */
#include "fanout/delivery.h"
#include "peers.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

TestSuite(delivery, .init = peers_start, .fini = peers_end, .timeout = 60);

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
	iterate();
	uint64_t wakes = fanout.n_wakes;
	for (int i = 0; i < 100; i++) {
		change("bob");
		iterate();
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
		iterate();
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
		iterate();
	}
	cr_assert_lt(sent, (long)len * 5000);
	cr_assert_leq(p->worker->private.end - p->worker->private.start, config.worker_queue_size + 64,
		"one answer beyond it");
	cr_assert_not(p->worker->reading);
	take_all(p);
	for (int i = 0; i < 2000; i++) {
		iterate();
		take(p, sizeof p->in);
	}
	cr_assert(p->worker->reading, "and reads again when it does");
	peer_close(p);
}
