/* Who must give way when there is no room for more recovered changes. */
#include "recovery/shortage.h"

#include <criterion/criterion.h>

#define LOOKS(seconds) ((int)((seconds) / SHORTAGE_LOOK_SECONDS))

static struct catch_up catch_up;
static struct catch_up_user users[2];
static struct catch_up_question questions[2];
static struct catch_up_waiter waiters[2], waiting;
static struct catch_up_lane *lane;
static bool paused;

/* In the place of the relay's: no question is under way here. */
bool changes_is_paused(const struct changes_since *changes)
{
	(void)changes;
	return paused;
}

static void add_user(struct catch_up_user *u)
{
	TAILQ_INIT(&u->waiting);
	TAILQ_INIT(&u->questions);
	TAILQ_INSERT_TAIL(&catch_up.users, u, link);
}

/* One waiter, which must be given n_rows rows and takes none. */
static void add_question(struct catch_up_user *u, int i, int n_rows)
{
	struct catch_up_question *q = &questions[i];
	struct spool_row row = {.topic = 1, .frame = {"user", 4}};

	q->user = u;
	TAILQ_INIT(&q->waiters);
	TAILQ_INIT(&q->hungry);
	TAILQ_INSERT_TAIL(&u->questions, q, link);
	cr_assert_eq(spool_open(&q->spool), 0);
	waiters[i].question = q;
	TAILQ_INSERT_TAIL(&q->waiters, &waiters[i], sibling);
	spool_join(&q->spool, &waiters[i].reader);
	for (; n_rows > 0; n_rows--) {
		if (!spool_has_room(&q->spool))
			cr_assert_eq(spool_reserve(&q->spool), 0);
		spool_add(&q->spool, &row);
	}
	u->kept += q->spool.kept;
}

static void pause_lane(int i)
{
	paused = true;
	lane->question = &questions[i];
	questions[i].lane = questions[i].user->lane = lane;
}

static void wait_for_a_lane(struct catch_up_user *u)
{
	TAILQ_INSERT_TAIL(&u->waiting, &waiting, link);
}

static void take_a_row(int i)
{
	struct spool_row row;

	cr_assert(spool_next(&questions[i].spool, &waiters[i].reader, &row));
}

/* n_looks looks, after which no member is overdue. */
static void nobody_is_overdue(int n_looks)
{
	for (; n_looks > 0; n_looks--)
		cr_assert_null(shortage_mark_overdue(&catch_up), "%d looks too early", n_looks);
}

static void start(void)
{
	lane = &catch_up.lanes[0];
	TAILQ_INIT(&catch_up.users);
	add_user(&users[0]);
	add_user(&users[1]);
}

static void end(void)
{
	for (int i = 0; i < 2; i++)
		if (questions[i].user)
			spool_close(&questions[i].spool);
}

TestSuite(shortage, .init = start, .fini = end);

Test(shortage, lasts_while_somebody_is_to_be_given_what_there_is_no_room_for)
{
	add_question(&users[0], 0, 100);
	cr_assert_not(shortage_lasts(&catch_up));
	pause_lane(0);
	cr_assert(shortage_lasts(&catch_up));
	paused = false;
	cr_assert_not(shortage_lasts(&catch_up), "it will ask again");
	users[1].refused = true;
	cr_assert_not(shortage_lasts(&catch_up), "who was refused is gone");
	wait_for_a_lane(&users[1]);
	cr_assert(shortage_lasts(&catch_up));
}

Test(shortage, blames_a_worker_that_takes_nothing)
{
	add_question(&users[0], 0, 100);
	pause_lane(0);
	nobody_is_overdue(LOOKS(SHORTAGE_STALL_SECONDS) - 1);
	cr_assert_eq(shortage_mark_overdue(&catch_up), &questions[0]);
	cr_assert(waiters[0].overdue);
}

Test(shortage, blames_nobody_who_reads_at_whatever_pace_while_nobody_waits)
{
	add_question(&users[0], 0, 100);
	pause_lane(0);
	for (int i = 0; i < 90; i++) {
		nobody_is_overdue(LOOKS(10));
		take_a_row(0);
	}
}

Test(shortage, adds_up_while_others_wait)
{
	add_question(&users[0], 0, 100);
	pause_lane(0);
	wait_for_a_lane(&users[1]);
	for (int i = LOOKS(SHORTAGE_PATIENCE_SECONDS); i > 1; i--) {
		take_a_row(0);
		nobody_is_overdue(1);
	}
	take_a_row(0);
	cr_assert_eq(shortage_mark_overdue(&catch_up), &questions[0]);
}

Test(shortage, counts_as_waiting_who_has_taken_all_that_a_paused_lane_has_read)
{
	add_question(&users[0], 0, 100);
	pause_lane(0);
	TAILQ_INSERT_TAIL(&questions[0].hungry, &waiting, link);
	nobody_is_overdue(LOOKS(SHORTAGE_PATIENCE_SECONDS) - 1);
	cr_assert_eq(shortage_mark_overdue(&catch_up), &questions[0]);
}

Test(shortage, blames_nobody_whom_the_relay_has_yet_to_feed)
{
	add_question(&users[0], 0, 100);
	pause_lane(0);
	waiters[0].feeding.waits = true;
	nobody_is_overdue(LOOKS(10 * SHORTAGE_STALL_SECONDS));
}

Test(shortage, blames_of_all_users_the_one_that_holds_most)
{
	add_question(&users[0], 0, 100);
	add_question(&users[1], 1, 10000);
	pause_lane(0);
	nobody_is_overdue(LOOKS(SHORTAGE_STALL_SECONDS) - 1);
	cr_assert_eq(shortage_mark_overdue(&catch_up), &questions[1]);
	cr_assert_not(waiters[0].overdue);
}

Test(shortage, blames_of_a_user_the_worker_for_which_most_is_kept)
{
	add_question(&users[0], 0, 100);
	add_question(&users[0], 1, 10000);
	pause_lane(0);
	nobody_is_overdue(LOOKS(SHORTAGE_STALL_SECONDS) - 1);
	cr_assert_eq(shortage_mark_overdue(&catch_up), &questions[1]);
}
