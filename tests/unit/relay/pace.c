/* When a round of sends may begin: at once when its receivers keep up, later when they do not, and never so
 * late as to wait for those who stand still. */
#include "fanout/pace.h"
#include "stopped_clock.h"

#include <criterion/criterion.h>
#include <sys/socket.h>
#include <unistd.h>

#define SOCKETS 16
/* Turns of the loop, each of which ends at a timer: far more than any round waits for. */
#define TURNS_MAX 1000
/* Seconds that the sends of a round take. */
#define SENDING 0.001

static struct ev_loop *loop;
static struct pace pace;
static int ours[SOCKETS], theirs[SOCKETS];

static void start(void)
{
	loop = ev_loop_new(EVFLAG_AUTO);
	cr_assert_eq(pace_open(&pace, loop), 0);
	for (int i = 0; i < SOCKETS; i++) {
		int pair[2];
		cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
		ours[i] = pair[0];
		theirs[i] = pair[1];
	}
}

static void end(void)
{
	for (int i = 0; i < SOCKETS; i++) {
		close(ours[i]);
		close(theirs[i]);
	}
	pace_close(&pace);
	ev_loop_destroy(loop);
}

TestSuite(pace, .init = start, .fini = end, .timeout = 60);

static void round_that_takes(double seconds, int n)
{
	pace_begin(&pace);
	stopped_clock += seconds;
	for (int i = 0; i < n; i++) {
		cr_assert_eq(send(ours[i], "frame", 5, 0), 5);
		pace_sent(&pace, ours[i]);
	}
	pace_end(&pace);
}

static void round_of(int n)
{
	round_that_takes(SENDING, n);
}

static void read_all(int from, int to)
{
	char buf[64];

	for (int i = from; i < to; i++)
		while (recv(theirs[i], buf, sizeof buf, 0) > 0)
			;
}

/* Turn the loop, which nothing but the pace's own timer wakes. */
static bool is_allowed_in_time(void)
{
	for (int turn = 0; turn < TURNS_MAX; turn++) {
		if (pace_allows(&pace, 2))
			return true;
		ev_run(loop, EVRUN_ONCE);
		stopped_clock += SENDING / 10;
	}
	return false;
}

Test(pace, allows_the_first_round)
{
	cr_assert(pace_allows(&pace, 2));
}

Test(pace, allows_a_round_at_once_when_all_have_read)
{
	round_of(SOCKETS);
	read_all(0, SOCKETS);
	cr_assert(pace_allows(&pace, 2));
}

Test(pace, holds_a_round_back_until_most_have_read)
{
	round_of(SOCKETS);
	cr_assert_not(pace_allows(&pace, 2));
	read_all(0, SOCKETS);
	cr_assert(is_allowed_in_time());
}

Test(pace, rests_the_longer_the_more_frames_wait)
{
	round_of(SOCKETS);
	cr_assert_not(pace_allows(&pace, 1));
	read_all(0, SOCKETS);
	stopped_clock += SENDING;
	cr_assert_not(pace_allows(&pace, 3));
	stopped_clock += 2.9 * PACE_REST_A_FRAME;
	cr_assert_not(pace_allows(&pace, 3));
	stopped_clock += 0.2 * PACE_REST_A_FRAME;
	cr_assert(pace_allows(&pace, 3));
}

Test(pace, starts_anew_with_each_round)
{
	round_of(SOCKETS);
	cr_assert_not(pace_allows(&pace, 2));
	cr_assert(is_allowed_in_time());
	read_all(0, SOCKETS);
	round_of(SOCKETS);
	read_all(0, SOCKETS);
	cr_assert(pace_allows(&pace, 2));
}

Test(pace, does_not_wait_for_ever_for_those_who_stand_still)
{
	round_of(SOCKETS);
	cr_assert(is_allowed_in_time());
}

Test(pace, does_not_wait_for_those_who_have_stood_still_for_long)
{
	round_of(SOCKETS);
	stopped_clock += 1;
	cr_assert(pace_allows(&pace, 2));
}

Test(pace, does_not_wait_as_long_as_the_relay_itself_stood_still)
{
	round_that_takes(3600, SOCKETS);
	cr_assert(is_allowed_in_time());
}

Test(pace, does_not_wait_for_a_few_that_stand_still)
{
	round_of(SOCKETS);
	read_all(0, SOCKETS - PACE_SAMPLE / 2 + 1);
	cr_assert(pace_allows(&pace, 2));
}

Test(pace, does_not_wait_when_nobody_was_sent_anything)
{
	round_of(0);
	cr_assert(pace_allows(&pace, 2));
}

Test(pace, does_not_wait_for_whoever_has_left)
{
	round_of(SOCKETS);
	for (int i = 0; i < SOCKETS; i++)
		pace_forget(&pace, ours[i]);
	cr_assert(pace_allows(&pace, 2));
}
