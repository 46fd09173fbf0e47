/* The ring: what it keeps, what it gives up, and that a frame is whole wherever it lies. */
#include "base/config.h"
#include "fanout/backlog.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

static struct backlog backlog;

static void start(void)
{
	cr_assert_eq(backlog_open(&backlog, BACKLOG_SIZE_MIN), 0);
}

static void end(void)
{
	backlog_close(&backlog);
}

TestSuite(backlog, .init = start, .fini = end);

static uint64_t append(size_t len)
{
	memset(backlog_reserve(&backlog), (int)((backlog.head + 1) & 0xff), len);
	return backlog_commit(&backlog, len, 3, backlog.head + 1);
}

Test(backlog, counts_from_one)
{
	cr_assert_eq(backlog.head, 0);
	cr_assert_eq(append(10), 1);
	cr_assert_eq(append(20), 2);
	cr_assert_eq(backlog.first, 1);
	cr_assert_eq(backlog_entry(&backlog, 2)->start, 10);
	cr_assert_eq(backlog_end_of(&backlog, 1), 10);
	cr_assert_eq(backlog_end_of(&backlog, 2), 30);
}

Test(backlog, keeps_the_newest_frames_whole)
{
	for (int i = 0; i < 5000; i++) {
		append(1 + (size_t)(i * 37) % 900);
		cr_assert_leq(backlog.end - backlog_entry(&backlog, backlog.first)->start, backlog.size);
		for (uint64_t seq = backlog.first; seq <= backlog.head; seq += 1 + (backlog.head - seq) / 3) {
			const struct backlog_entry *e = backlog_entry(&backlog, seq);
			const unsigned char *bytes = backlog_bytes(&backlog, e->start);
			size_t len = backlog_end_of(&backlog, seq) - e->start;
			cr_assert_eq(e->key, seq);
			cr_assert_eq(e->topic, 3);
			/* Contiguous even where it runs over the ring's end. */
			cr_assert_eq(bytes[0], (unsigned char)seq);
			cr_assert_eq(bytes[len - 1], (unsigned char)seq);
		}
	}
	cr_assert_gt(backlog.first, 1);
	cr_assert_gt(backlog.end - backlog_entry(&backlog, backlog.first)->start,
		backlog.size - 2 * BACKLOG_FRAME_MAX);
}

Test(backlog, takes_the_largest_frames)
{
	for (int i = 0; i < 100; i++)
		append(BACKLOG_FRAME_MAX);
	cr_assert_eq(backlog.head, 100);
	cr_assert_geq(backlog.head + 1 - backlog.first, backlog.size / BACKLOG_FRAME_MAX);
}

Test(backlog, runs_out_of_entries_before_bytes_without_harm)
{
	for (int i = 0; i < 10000; i++)
		append(2);
	cr_assert_eq(backlog.head + 1 - backlog.first, backlog.entries_max);
	cr_assert_eq(backlog_entry(&backlog, backlog.first)->key, backlog.first);
}
