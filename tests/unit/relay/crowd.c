/* When the loop waits so that the requests of many workers come together. */
#include "postgres/crowd.h"

#include <criterion/criterion.h>

#define START 100.

static struct crowd crowd;

/* n_workers publish in a window, which ends now. Returns the wait from then on. */
static double after(double now, unsigned n_workers)
{
	for (unsigned i = 0; i < n_workers; i++)
		crowd_request(&crowd, i, START);
	return crowd_wait(&crowd, now);
}

static void begin(void)
{
	crowd_wait(&crowd, START);
}

TestSuite(crowd, .init = begin);

Test(crowd, of_many_workers_requests_come_together)
{
	cr_assert_eq(after(START + 1.5 * CROWD_WINDOW, CROWD_WORKERS), CROWD_WAIT);
}

Test(crowd, of_few_workers_none_waits)
{
	cr_assert_eq(after(START + 1.5 * CROWD_WINDOW, CROWD_WORKERS - 1), 0);
}

Test(crowd, workers_that_wait_for_answers_get_them_at_once)
{
	for (unsigned i = 0; i < CROWD_SLOTS; i++)
		crowd_answered(&crowd, i, START - CROWD_PROMPT / 2);
	cr_assert_eq(after(START + 1.5 * CROWD_WINDOW, CROWD_SLOTS), 0);
}

Test(crowd, workers_that_send_many_at_a_time_wait_for_nobody)
{
	for (unsigned i = 0; i < CROWD_EACH_MAX * CROWD_SLOTS; i++)
		crowd_request(&crowd, i, START);
	cr_assert_eq(after(START + 1.5 * CROWD_WINDOW, CROWD_SLOTS), 0);
}

Test(crowd, a_burst_after_a_pause_is_no_crowd)
{
	cr_assert_eq(after(START + 1, CROWD_SLOTS), 0);
}

Test(crowd, lasts_until_the_next_window_is_over)
{
	after(START + 1.5 * CROWD_WINDOW, CROWD_SLOTS);
	cr_assert_eq(crowd_wait(&crowd, START + 2 * CROWD_WINDOW), CROWD_WAIT);
	cr_assert_eq(crowd_wait(&crowd, START + 3 * CROWD_WINDOW), 0);
}
