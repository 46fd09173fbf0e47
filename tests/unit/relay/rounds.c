/* When a round is held back: no worker loses by it. */
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
