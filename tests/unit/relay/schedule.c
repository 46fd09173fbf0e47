/* Whose turn it is. */
#include "fanout/schedule.h"
#include "stopped_clock.h"

#include <criterion/criterion.h>

#define MANY 1000

static struct ev_loop *loop;
static struct schedule schedule;
static struct share greedy, modest;
static struct ready many[MANY], few[3];
static const struct ready *served[100 * MANY];
static unsigned n_served;

/* An iteration has no time but for one slice, and a rest ends when the test says so. */
static void start(void)
{
	loop = ev_default_loop(EVFLAG_AUTO);
	schedule_open(&schedule, loop, -1, 1000);
	stopped_clock_step = 1;
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

/* There is always more. */
static void serve_greedy(struct ready *ready)
{
	note(ready);
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
	schedule.rest_seconds = 0;
	all_greedy();
	for (int i = 0; i < 3; i++) {
		ready_init(&few[i], &modest, note);
		schedule_add(&schedule, &few[i]);
	}
	for (int i = 0; i < 7; i++)
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
	cr_assert_eq(n, 1, "no more than one iteration may take");
	iterate();
	cr_assert_eq(n_served, n, "they rest");
	ready_init(&few[0], &modest, note);
	schedule_add(&schedule, &few[0]);
	iterate();
	cr_assert_eq(n_served, n + 1);
	cr_assert_eq(served[n], &few[0]);
	cr_assert(ev_is_active(&schedule.rest) && !ev_is_active(&schedule.busy),
		"the loop waits, and does not spin");
	ev_feed_event(loop, &schedule.rest, EV_TIMER);
	iterate();
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

#define USERS 20

static struct share flooding[USERS];
static struct ready floods[USERS];

static void all_flood(void)
{
	for (int i = 0; i < USERS; i++) {
		share_init(&flooding[i]);
		ready_init(&floods[i], &flooding[i], serve_greedy);
		schedule_add(&schedule, &floods[i]);
	}
}

Test(schedule, serves_a_user_that_comes_next_and_once_a_round)
{
	schedule.rest_seconds = 0;
	all_flood();
	for (int i = 0; i < USERS + 5; i++)
		iterate();
	ready_init(&few[0], &modest, serve_greedy);
	schedule_add(&schedule, &few[0]);
	iterate();
	cr_assert_eq(served[USERS + 5], &few[0], "it had no turn in this round");
	for (int i = 0; i < USERS - 5; i++)
		iterate();
	for (int i = 5; i < USERS; i++)
		cr_assert_eq(served[USERS + 1 + i], &floods[i], "it takes no turn from those who wait");
	iterate();
	cr_assert_eq(served[2 * USERS + 1], &floods[0]);
}

Test(schedule, is_not_deceived_by_a_user_that_leaves_and_comes_again)
{
	schedule.rest_seconds = 0;
	all_flood();
	ready_init(&few[0], &modest, note);
	for (int i = 0; i < 2 * (USERS + 1); i++) {
		schedule_add(&schedule, &few[0]);
		iterate();
	}
	int n = 0;
	for (unsigned i = 0; i < n_served; i++)
		n += served[i] == &few[0];
	cr_assert_eq(n, 2, "one turn a round, as all others");
}

Test(schedule, serves_those_who_rested_before_those_who_came_again_meanwhile)
{
	all_flood();
	iterate();
	ready_init(&few[0], &modest, note);
	for (int i = 0; i < 2; i++) {
		schedule_add(&schedule, &few[0]);
		iterate();
		cr_assert_eq(served[n_served - 1], &few[0], "the others rest");
	}
	schedule_add(&schedule, &few[0]);
	unsigned n = n_served;
	ev_feed_event(loop, &schedule.rest, EV_TIMER);
	iterate();
	cr_assert_eq(served[n], &floods[1]);
}
