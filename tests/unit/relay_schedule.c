/* Whose turn it is. */
#include "clock.h"
#include "schedule.h"

#include <criterion/criterion.h>

#define MANY 1000

static struct ev_loop *loop;
static struct schedule schedule;
static struct share greedy, modest;
static struct ready many[MANY], few[3];
static const struct ready *served[100 * MANY];
static unsigned n_served;

static void start(void)
{
	loop = ev_default_loop(EVFLAG_AUTO);
	schedule_open(&schedule, loop, -1, SCHEDULE_REST_SECONDS);
	schedule.n_users = 2;
	share_init(&greedy);
	share_init(&modest);
	n_served = 0;
}

static void end(void)
{
	schedule_close(&schedule);
}

TestSuite(schedule, .init = start, .fini = end, .timeout = 20);

static void note(struct ready *ready)
{
	served[n_served++] = ready;
}

/* Takes as long as a real slice, and there is always more. */
static void serve_greedy(struct ready *ready)
{
	double end = clock_now() + 0.00002;

	note(ready);
	while (clock_now() < end)
		;
	schedule_add(&schedule, ready);
}

static void all_greedy(void)
{
	for (int i = 0; i < MANY; i++) {
		ready_init(&many[i], &greedy, serve_greedy);
		schedule_add(&schedule, &many[i]);
	}
}

static void iterate(void)
{
	ev_run(loop, EVRUN_NOWAIT);
}

Test(schedule, is_round_robin_by_user_and_then_by_connection)
{
	all_greedy();
	for (int i = 0; i < 3; i++) {
		ready_init(&few[i], &modest, note);
		schedule_add(&schedule, &few[i]);
	}
	iterate();
	for (int i = 0; i < 3; i++) {
		cr_assert_eq(served[2 * i], &many[i]);
		cr_assert_eq(served[2 * i + 1], &few[i]);
	}
	cr_assert_eq(served[6], &many[3]);
}

Test(schedule, lets_those_who_ask_much_rest_and_nobody_else)
{
	all_greedy();
	iterate();
	unsigned n = n_served;
	cr_assert_lt(n, 100, "no more than one iteration may take");
	ready_init(&few[0], &modest, note);
	schedule_add(&schedule, &few[0]);
	iterate();
	cr_assert_eq(n_served, n + 1);
	cr_assert_eq(served[n], &few[0]);
	/* The loop waits for the end of the rest, and does not spin. */
	for (unsigned i = 0; n_served == n + 1; i++) {
		cr_assert_lt(i, 10);
		ev_run(loop, EVRUN_ONCE);
	}
	cr_assert_eq(served[n + 1], &many[n], "those go on who had no turn yet");
}

Test(schedule, lets_nobody_rest_for_nobody)
{
	schedule.n_users = 1;
	all_greedy();
	iterate();
	unsigned n = n_served;
	iterate();
	cr_assert_gt(n_served, n);
}

Test(schedule, serves_nobody_who_was_removed)
{
	all_greedy();
	for (int i = 0; i < MANY; i++)
		schedule_remove(&schedule, &many[i]);
	schedule_remove(&schedule, &many[0]);
	iterate();
	cr_assert_eq(n_served, 0);
	schedule_add(&schedule, &many[0]);
	schedule_add(&schedule, &many[0]);
	schedule_remove(&schedule, &many[0]);
	iterate();
	cr_assert_eq(n_served, 0, "to be added twice is once");
}
