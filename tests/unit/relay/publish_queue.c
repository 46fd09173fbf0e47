/* Who publishes next, and who has to make room. */
#include "postgres/publish_queue.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

static struct publish_queue queue;

static void start(void)
{
	publish_queue_open(&queue, 100, 80, 10000);
}

static void end(void)
{
	for (struct publish_request *r; (r = publish_queue_take(&queue));)
		publish_queue_free(&queue, r);
	cr_assert_eq(queue.n, 0);
	cr_assert_eq(queue.bytes, 0);
	cr_assert(LIST_EMPTY(&queue.shares));
	publish_queue_close(&queue);
}

TestSuite(publish_queue, .init = start, .fini = end);

static void put(uid_t uid, uint32_t slot, uint64_t request, uint32_t len)
{
	static const char payload[1000];
	struct publish_origin origin = {.uid = uid, .slot = slot, .source = slot + 1, .request = request};

	cr_assert_eq(publish_queue_add(&queue, &origin, "ch", payload, len, 1.), 0);
}

static void expect_next(uid_t uid, uint32_t slot, uint64_t request)
{
	struct publish_request *r = publish_queue_take(&queue);

	cr_assert_not_null(r);
	cr_assert_eq(r->origin.uid, uid);
	cr_assert_eq(r->origin.slot, slot);
	cr_assert_eq(r->origin.request, request);
	publish_queue_free(&queue, r);
}

static enum publish_room room(uid_t uid, size_t len, uid_t *evicted)
{
	struct publish_request *r;
	enum publish_room room = publish_queue_make_room(&queue, uid, len, &r);

	cr_assert_eq(room == PUBLISH_ROOM_BY_EVICTION, r != NULL);
	if (r) {
		*evicted = r->origin.uid;
		publish_queue_free(&queue, r);
	}
	return room;
}

Test(publish_queue, is_round_robin_by_user_and_then_by_connection)
{
	struct publish_request *under_way[2];

	for (uint32_t slot = 0; slot < 2; slot++)
		for (uint64_t i = 0; i < 40; i++)
			put(1, slot, i, 5);
	put(2, 7, 0, 5);
	put(2, 7, 1, 5);
	/* The last that came had nothing under way. */
	expect_next(1, 1, 0);
	expect_next(2, 7, 0);
	expect_next(1, 1, 1);
	expect_next(2, 7, 1);
	for (uint64_t i = 2; i < PUBLISH_IN_A_ROW; i++)
		expect_next(1, 1, i);
	for (uint64_t i = 0; i < PUBLISH_IN_A_ROW; i++)
		expect_next(1, 0, i);
	expect_next(1, 1, PUBLISH_IN_A_ROW);
	/* One that publishes now and then is next, but not when it does all the time. */
	put(1, 9, 0, 5);
	under_way[0] = publish_queue_take(&queue);
	cr_assert_eq(under_way[0]->origin.slot, 9);
	put(1, 9, 1, 5);
	under_way[1] = publish_queue_take(&queue);
	cr_assert_neq(under_way[1]->origin.slot, 9);
	put(3, 9, 0, 5);
	expect_next(1, 1, PUBLISH_IN_A_ROW + 2);
	expect_next(3, 9, 0);
	publish_queue_free(&queue, under_way[0]);
	publish_queue_free(&queue, under_way[1]);
}

Test(publish_queue, lets_one_user_have_it_all_but_its_limit)
{
	uid_t evicted;

	for (uint64_t i = 0; i < 80; i++) {
		cr_assert_eq(room(1, 5, &evicted), PUBLISH_ROOM);
		put(1, 0, i, 5);
	}
	cr_assert_eq(room(1, 5, &evicted), PUBLISH_FULL_FOR_USER);
	cr_assert_eq(room(2, 5, &evicted), PUBLISH_ROOM);
	expect_next(1, 0, 0);
	cr_assert_eq(room(1, 5, &evicted), PUBLISH_ROOM);
}

Test(publish_queue, makes_room_at_the_cost_of_who_has_most)
{
	uid_t evicted = 0;

	for (uint64_t i = 0; i < 60; i++)
		put(1, 0, i, 5);
	for (uint64_t i = 0; i < 40; i++)
		put(2, 10, i, 5);
	cr_assert_eq(room(1, 5, &evicted), PUBLISH_FULL, "who has most makes itself none");
	for (uint64_t i = 0; i < 33; i++) {
		cr_assert_eq(room(3, 5, &evicted), PUBLISH_ROOM_BY_EVICTION, "%lu", i);
		put(3, 11, i, 5);
	}
	/* A third each, and no user takes from another any more. */
	cr_assert_eq(room(3, 5, &evicted), PUBLISH_FULL);
	cr_assert_eq(room(2, 5, &evicted), PUBLISH_FULL);
	cr_assert_leq(queue.n, 100);
	/* What was asked first is still there. */
	expect_next(1, 0, 0);
	expect_next(2, 10, 0);
	expect_next(3, 11, 0);
}

Test(publish_queue, counts_bytes_too)
{
	uid_t evicted = 0;

	for (uint64_t i = 0; i < 8; i++)
		put(1, 0, i, 1000);
	cr_assert_eq(room(1, 2001, &evicted), PUBLISH_FULL);
	put(2, 1, 0, 1000);
	put(2, 1, 1, 1000);
	cr_assert_eq(room(3, 1000, &evicted), PUBLISH_ROOM_BY_EVICTION);
	cr_assert_eq(evicted, 1);
}

Test(publish_queue, leaves_what_postgresql_has)
{
	struct publish_request *taken[50];
	uid_t evicted = 0;

	for (uint64_t i = 0; i < 80; i++)
		put(1, 0, i, 5);
	for (uint64_t i = 0; i < 20; i++)
		put(2, 1, i, 5);
	for (int i = 0; i < 50; i++)
		taken[i] = publish_queue_take(&queue);
	cr_assert_eq(room(3, 5, &evicted), PUBLISH_ROOM_BY_EVICTION, "what is taken has its place");
	cr_assert_eq(evicted, 1);
	/* Answered, it is not the oldest any more; and it still counts. */
	cr_assert_eq(publish_queue_oldest(&queue), taken[0]);
	publish_queue_answered(&queue, taken[0]);
	cr_assert_neq(publish_queue_oldest(&queue), taken[0]);
	cr_assert_eq(queue.n, 99);
	for (int i = 0; i < 50; i++)
		publish_queue_free(&queue, taken[i]);
	cr_assert_eq(queue.n, 49);
}

/* A worker left, its requests did not, and its slot is another user's by now. */
Test(publish_queue, keeps_users_apart_who_have_a_slot_one_after_the_other)
{
	put(1, 0, 0, 5);
	put(2, 0, 1, 5);
	put(1, 0, 2, 5);
	expect_next(1, 0, 2);
	expect_next(2, 0, 1);
	expect_next(1, 0, 0);
}
