/* What a worker missed: sent again from the backlog, or caught up when it fell out of it. */
#include "peers.h"

#include <criterion/criterion.h>

TestSuite(replay, .init = peers_start, .fini = peers_end, .timeout = 60);

static void overrun(struct peer *p, const char *pubkey)
{
	for (int i = 0; i < 60000; i++)
		change(pubkey);
	cr_assert_null(caught_up_asked, "not before it reads again");
	while (!caught_up_asked) {
		iterate();
		take(p, 65536);
	}
	cr_assert_eq(caught_up_asked, p->worker);
}

Test(replay, catches_up_whoever_fell_out_of_the_backlog)
{
	struct peer *p = peer_open();
	struct wire_frame missed = {.type = WIRE_CHANGE,
		.change = {WIRE_SEQ_NIL, wire_str("data"), wire_str("missed"), {0}, WIRE_RECOVERED}};
	char frame[100];

	subscribe(p, "data", NULL);
	change("before");
	iterate();
	overrun(p, "bob");
	uint64_t head = change("meanwhile") - 1;
	uint32_t len = (uint32_t)wire_encode(&missed, frame, sizeof frame);
	connection_recovered(p->worker, 1, 0, (struct wire_str){frame, len});
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

Test(replay, tells_a_worker_by_pubkey_of_its_overrun_too)
{
	struct peer *p = peer_open();

	subscribe(p, "data", "bob");
	change("bob");
	iterate();
	overrun(p, "bob");
	connection_caught_up(p->worker, fanout.backlog.head, NULL, WIRE_GAP_OVERRUN, "test");
	take_all(p);
	cr_assert_eq(p->n_gaps, 1);
	uint64_t seq = change("bob");
	take_all(p);
	cr_assert_eq(p->seqs[p->n - 1], seq);
	peer_close(p);
}

Test(replay, replays_from_the_backlog)
{
	struct peer *p = peer_open();
	uint64_t seqs[10];

	for (int i = 0; i < 10; i++)
		seqs[i] = change(i % 2 ? "bob" : "ann");
	peer_close(p);
	iterate();

	p = peer_resume(seqs[3]);
	subscribe(p, "data", "bob");
	change("bob");
	iterate();
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
Test(replay, replays_by_pubkey_what_came_when_nobody_subscribed_by_one)
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

Test(replay, walks_to_the_end_without_anything_new_to_come)
{
	uint64_t seq = change("bob");

	for (int i = 1; i < 20000; i++)
		change("ann");
	iterate();
	struct peer *p = peer_resume(seq - 1);
	subscribe(p, "data", "carol");
	p->ok_seq = 0;
	request(p, (struct wire_frame){.type = WIRE_BEGIN, .request = {9}});
	take_all(p);
	cr_assert_eq(p->ok_id, 9);
	peer_close(p);
}
