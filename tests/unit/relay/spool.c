/* The spool of recovered changes: every reader gets every row, in order, whatever the pace of the others; and
 * what all have passed is given back. */
#include "recovery/spool.h"
#include "fanout/change.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct spool spool;
static char large[CHANGE_PAYLOAD_MAX];

static void start(void)
{
	memset(large, 'x', sizeof large);
	cr_assert_eq(spool_open(&spool), 0);
}

static void end(void)
{
	spool_close(&spool);
	cr_assert_eq(spool.kept, 0);
}

TestSuite(spool, .init = start, .fini = end, .timeout = 60);

/* Row n has a length and a topic of its own; its value begins with n, as far as that fits. */
static uint32_t length_of(uint64_t n)
{
	return n % 97 == 0 ? CHANGE_PAYLOAD_MAX : (uint32_t)(n * 7 % 200);
}

static struct spool_row row_of(uint64_t n)
{
	memcpy(large, &n, length_of(n) < sizeof n ? length_of(n) : sizeof n);
	return (struct spool_row){.topic = 1 + (unsigned)(n % 63),
		.key = n * UINT64_C(0x9e3779b97f4a7c15),
		.frame = {large, length_of(n)}};
}

static void add(uint64_t n)
{
	struct spool_row row = row_of(n);

	if (!spool_has_room(&spool))
		cr_assert_eq(spool_reserve(&spool), 0);
	spool_add(&spool, &row);
}

/* Takes up to max rows, which must follow those that it has. Returns how many there were. */
static int take(struct spool_reader *reader, int max)
{
	struct spool_row row;
	int n = 0;

	for (; n < max && spool_next(&spool, reader, &row); n++) {
		struct spool_row expected = row_of(reader->n_rows - 1);
		cr_assert_eq(row.topic, expected.topic);
		cr_assert_eq(row.key, expected.key);
		cr_assert_eq(row.frame.len, expected.frame.len);
		cr_assert_arr_eq(row.frame.ptr, expected.frame.ptr, row.frame.len);
	}
	return n;
}

Test(spool, gives_each_reader_every_row_whatever_the_others_do)
{
	enum { READERS = 5, ROWS = 20000 };
	struct spool_reader readers[READERS];
	unsigned random = 1;
	uint64_t n = 0, least = 0;

	for (int i = 0; i < READERS; i++)
		spool_join(&spool, &readers[i]);
	while (least < ROWS) {
		for (int burst = rand_r(&random) % 200; burst > 0 && n < ROWS; burst--)
			add(n++);
		least = UINT64_MAX;
		uint64_t least_bytes = UINT64_MAX;
		for (int i = 0; i < READERS; i++) {
			take(&readers[i], rand_r(&random) % (50 + 50 * i));
			least = readers[i].n_rows < least ? readers[i].n_rows : least;
			least_bytes = readers[i].n_bytes < least_bytes ? readers[i].n_bytes : least_bytes;
		}
		/* At each end of what is kept there may be a chunk that is used in part, and a spare one; and
		 * a large row leaves a quarter of a chunk empty. */
		size_t most = (spool.n_bytes - least_bytes) * 4 / 3 + 3 * SPOOL_CHUNK;
		cr_assert_leq(spool.kept, most > SPOOL_WHOLE ? most : SPOOL_WHOLE);
	}
	for (int i = 0; i < READERS; i++)
		cr_assert_eq(take(&readers[i], 1), 0);
	spool_end(&spool);
	cr_assert_eq(spool.kept, SPOOL_CHUNK);
}

Test(spool, tells_before_a_row_that_there_is_no_room)
{
	struct spool_reader reader;
	uint64_t n = 0;

	spool_join(&spool, &reader);
	for (; spool_has_room(&spool); n++)
		add(n);
	cr_assert_gt(n, 3);
	cr_assert_eq(spool.kept, SPOOL_CHUNK);
	cr_assert_eq(spool_reserve(&spool), 0);
	cr_assert_eq(spool_reserve(&spool), 0, "once is enough");
	cr_assert_eq(spool.kept, 2 * SPOOL_CHUNK);
	cr_assert(spool_has_room(&spool));
	add(n++);
	spool_end(&spool);
	cr_assert_eq(take(&reader, 1000), (int)n);
	spool_trim(&spool);
	cr_assert_eq(spool.kept, SPOOL_CHUNK);
}

Test(spool, keeps_what_the_slowest_has_not_taken_until_it_leaves)
{
	struct spool_reader fast, slow;

	spool_join(&spool, &fast);
	spool_join(&spool, &slow);
	for (uint64_t n = 0; n < 3000; n++)
		add(n);
	size_t all = spool.kept;
	cr_assert_gt(all, 10 * SPOOL_CHUNK);
	cr_assert_eq(take(&fast, 3000), 3000);
	cr_assert_eq(spool.kept, all);
	cr_assert(spool_is_kept_for(&spool, &slow) && !spool_is_kept_for(&spool, &fast));
	cr_assert_eq(take(&slow, 1500), 1500);
	cr_assert_lt(spool.kept, all * 2 / 3, "half is given back");
	spool_leave(&spool, &slow);
	cr_assert_leq(spool.kept, 2 * SPOOL_CHUNK);
	add(3000);
	cr_assert_eq(take(&fast, 2), 1);
}

Test(spool, gives_late_readers_every_row_while_it_is_whole)
{
	struct spool_reader early, late;
	uint64_t n = 0;

	spool_join(&spool, &early);
	for (; spool.kept < SPOOL_WHOLE || spool_has_room(&spool); n++) {
		add(n);
		take(&early, 1);
	}
	cr_assert_not(spool.is_partial);
	spool_join(&spool, &late);
	cr_assert_eq(take(&late, 10000), (int)n);
	int more = 0;
	for (; !spool.is_partial && more < 1000; more++)
		add(n++);
	cr_assert(spool.is_partial, "all have passed the first rows");
	cr_assert_eq(take(&early, 10000), more);
	cr_assert_eq(take(&late, 10000), more);
	cr_assert_leq(spool.kept, 2 * SPOOL_CHUNK);
}

Test(spool, begins_again_when_it_is_cleared)
{
	struct spool_reader ahead, behind;

	spool_join(&spool, &ahead);
	spool_join(&spool, &behind);
	for (uint64_t n = 0; n < 3000; n++)
		add(n);
	take(&ahead, 2000);
	spool_clear(&spool);
	cr_assert_eq(spool.kept, SPOOL_CHUNK);
	spool_join(&spool, &ahead);
	spool_join(&spool, &behind);
	cr_assert_eq(take(&ahead, 1), 0);
	for (uint64_t n = 0; n < 3000; n++)
		add(n);
	cr_assert_eq(take(&ahead, 4000), 3000);
	cr_assert_eq(take(&behind, 4000), 3000);
}

Test(spool, lets_a_reader_leave_at_any_time)
{
	for (int leaves_after = 0; leaves_after < 3000; leaves_after += 271) {
		struct spool_reader stays, leaves;
		spool_join(&spool, &stays);
		spool_join(&spool, &leaves);
		for (uint64_t n = 0; n < 3000; n++)
			add(n);
		take(&leaves, leaves_after);
		spool_leave(&spool, &leaves);
		cr_assert_eq(take(&stays, 4000), 3000);
		spool_leave(&spool, &stays);
		spool_clear(&spool);
	}
}
