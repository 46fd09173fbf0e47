/* When a round is held back: no worker loses by it, and what no worker could be sent yet stays unread. */
#include "peers.h"
#include "stopped_clock.h"

#include <criterion/criterion.h>

TestSuite(rounds, .init = peers_start, .fini = peers_end, .timeout = 60);

/* The sends take long, so the next round waits for readers: with the clock, until the test ends. */
static void iterate_slowly(void)
{
	stopped_clock_step = 3600;
	iterate();
	stopped_clock_step = 0;
}

Test(rounds, pushes_nobody_out_of_the_backlog_by_a_round_that_is_held_back)
{
	struct peer *p = peer_open();
	bool behind = false;
	uint64_t wakes;

	subscribe(p, "data", NULL);
	for (int i = 1; i < FRAMES_MAX; i++) {
		change("bob");
		/* It does not read one round, so the next is held back, until the backlog has room no longer.
		 */
		if (!behind) {
			iterate_slowly();
			behind = true;
			continue;
		}
		wakes = fanout.n_wakes;
		iterate();
		if (fanout.n_wakes > wakes) {
			take_all(p);
			behind = false;
		}
	}
	stopped_clock_step = 1;
	take_all(p);
	cr_assert_lt(fanout.n_wakes, FRAMES_MAX / 10, "rounds are held back");
	cr_assert_eq(p->n, FRAMES_MAX - 1);
	cr_assert_null(caught_up_asked);
	peer_close(p);
}

static struct {
	bool held;
	int n_waiting; /* come when it is over */
} upstream;

/* As the relay does: what waited is read in the iteration in which it may be. */
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
	iterate_slowly();
	return p;
}

static void on_guard(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	(void)loop;
	(void)timer;
	(void)events;
}

/* Or the test goes on without it. */
static void alarm_rings(void)
{
	struct ev_loop *loop = ev_default_loop(0);
	struct ev_timer guard;

	ev_timer_init(&guard, on_guard, 1., 0.);
	ev_timer_start(loop, &guard);
	ev_run(loop, EVRUN_ONCE);
	ev_timer_stop(loop, &guard);
	iterate();
}

Test(rounds, leaves_unread_what_nobody_could_be_sent_yet)
{
	struct peer *p = peer_behind();

	uint64_t wakes = fanout.n_wakes;
	upstream.n_waiting = 1;
	change("second");
	iterate();
	cr_assert(upstream.held);
	alarm_rings();
	cr_assert_eq(upstream.n_waiting, 1, "no worker has read yet");
	cr_assert_eq(fanout.n_wakes, wakes);
	take(p, sizeof p->in);
	iterate();
	cr_assert_eq(fanout.n_wakes, wakes, "what waits unread is to go out with it");
	alarm_rings();
	cr_assert_eq(upstream.n_waiting, 0);
	/* The rest ends. */
	stopped_clock += 1;
	alarm_rings();
	take(p, sizeof p->in);
	cr_assert_eq(p->n, 3);
	cr_assert_eq(fanout.n_wakes, wakes + 1, "both go out in one round");
	peer_close(p);
}

Test(rounds, leaves_nothing_unread_for_longer_since_much_comes_from_elsewhere)
{
	struct peer *p = peer_behind();

	change("second");
	iterate();
	cr_assert(upstream.held);
	for (size_t n = 0; n <= fanout.backlog.size / 8; n += 4)
		change("bob");
	iterate();
	alarm_rings();
	cr_assert_not(upstream.held);
	peer_close(p);
}

Test(rounds, leaves_nothing_unread_where_much_comes_at_a_time)
{
	struct peer *p = peer_behind();

	for (int i = 0; i < 100; i++)
		change("bob");
	iterate();
	cr_assert_not(upstream.held);
	change("bob");
	iterate();
	cr_assert_not(upstream.held, "the rest of what came at a time");
	change("bob");
	iterate();
	cr_assert(upstream.held);
	peer_close(p);
}

Test(rounds, leaves_nothing_unread_when_the_relay_ends)
{
	struct peer *p = peer_behind();

	change("second");
	iterate();
	cr_assert(upstream.held);
	fanout_stop_reading(&fanout);
	cr_assert_not(upstream.held);
	iterate();
	cr_assert_not(upstream.held);
	peer_close(p);
}

Test(rounds, leaves_nothing_unread_of_those_who_wait_for_no_round)
{
	struct peer *all = peer_behind(), *bob = peer_open();

	subscribe(bob, "data", "bob");
	iterate();
	change("bob");
	iterate();
	cr_assert_not(upstream.held);
	take(bob, sizeof bob->in);
	cr_assert_eq(bob->n, 1);
	peer_close(all);
	peer_close(bob);
}
