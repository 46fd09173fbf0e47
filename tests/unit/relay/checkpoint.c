/* Tokens from workers and other relays, and the history. */
#include "base/checkpoint.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

Test(checkpoint, is_parsed)
{
	struct checkpoint_parts p;

	cr_assert_eq(
		checkpoint_parse("7710933244930072546;1795847886123456;1/1511B10;724:730:725,728", &p), 0);
	cr_assert_eq(p.system_identifier, UINT64_C(7710933244930072546));
	cr_assert_eq(p.run, UINT64_C(1795847886123456));
	cr_assert_eq(p.lsn, (UINT64_C(1) << 32) + 0x1511b10);
	cr_assert_str_eq(p.snapshot, "724:730:725,728");
	cr_assert_eq(p.xmin, 724);
	cr_assert_eq(p.xmax, 730);
	cr_assert_eq(checkpoint_parse("1;0;0/0;3:3:", &p), 0);
}

Test(checkpoint, is_refused_when_it_is_malformed)
{
	static const char *const bad[] = {"", "x", "1;1;0/0", "1;1;0/0;", "1;1;0/0;3:3",
		"1;1;0/0;4:3:", "1;1;0/0;3:9:2", "1;1;0/0;3:9:9", "1;1;0/0;3:9:5,4", "1;1;0/0;3:9:5,",
		"1;1;0/0;3:9:5,,6", "1;1;0/0;3:9:5 ", "-1;1;0/0;3:3:", " 1;1;0/0;3:3:", "1;1;0;3:3:",
		"1;1;g/0;3:3:", "1;1;0x1/0;3:3:", "1;0000000A;0/0;3:3:", "1;99999999999999999999;0/0;3:3:",
		"99999999999999999999;1;0/0;3:3:", "1;1;0/0;3:3:'; DROP TABLE records; --"};
	struct checkpoint_parts p;

	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		cr_assert_eq(checkpoint_parse(bad[i], &p), -EBADMSG, "%s", bad[i]);
}

Test(checkpoint, is_of_a_later_moment)
{
	cr_assert(checkpoint_is_newer("1;1;0/20;3:3:", "1;1;0/10;3:3:"));
	cr_assert_not(checkpoint_is_newer("1;1;0/10;3:3:", "1;1;0/10;3:3:"));
	cr_assert(checkpoint_is_newer("1;2;0/10;3:3:", "1;1;0/20;3:3:"), "of the run that is heard");
	cr_assert_not(checkpoint_is_newer("x", "1;1;0/10;3:3:"));
}

Test(checkpoint, of_a_run_that_is_unknown_is_compared_with_none)
{
	static const char unknown[] = "1;0;0/10;3:3:";

	cr_assert_not(checkpoint_same_run(unknown, unknown));
	cr_assert_not(checkpoint_covers(unknown, unknown));
	cr_assert_not(checkpoint_precedes(unknown, unknown));
}

Test(checkpoint, of_a_cluster_that_is_unknown_is_known_by_its_run)
{
	cr_assert(checkpoint_same_run("0;7;0/10;3:3:", "1;7;0/10;3:3:"));
	cr_assert(checkpoint_same_run("0;7;0/10;3:3:", "0;7;0/10;3:3:"));
	cr_assert_not(checkpoint_same_run("0;7;0/10;3:3:", "1;8;0/10;3:3:"));
	cr_assert_not(checkpoint_same_run("2;7;0/10;3:3:", "1;7;0/10;3:3:"));
	cr_assert_str_eq(checkpoint_before_both("0;7;0/10;3:3:", "1;7;0/20;4:4:").text, "1;7;0/10;3:3:");
}

Test(checkpoint, without_an_LSN_is_ordered_by_its_snapshot)
{
	cr_assert(checkpoint_is_newer("1;7;0/0;3:5:", "1;7;0/0;3:4:"));
	cr_assert(checkpoint_is_newer("1;7;0/0;4:5:", "1;7;0/9;3:5:"));
	cr_assert_not(checkpoint_is_newer("1;7;0/9;3:4:", "1;7;0/0;3:4:"));
	cr_assert(checkpoint_precedes("1;7;0/0;3:4:", "1;7;0/9;3:4:"));
}

Test(checkpoint, covers_what_it_sees_itself)
{
	const char *of_one_moment[] = {"1;1;0/10;3:3:", "1;1;0/20;3:3:"};
	/* Whatever their LSNs say: each snapshot sees more than the previous one. */
	const char *in_order[] = {"1;1;0/60;3:3:", "1;1;0/50;3:6:3,4", "1;1;0/40;3:7:3,4", "1;1;0/30;4:7:4",
		"1;1;0/20;7:7:", "1;1;0/10;9:9:"};
	size_t n = sizeof in_order / sizeof *in_order;

	cr_assert(checkpoint_covers(of_one_moment[0], of_one_moment[1]));
	cr_assert(checkpoint_covers(of_one_moment[1], of_one_moment[0]));
	for (size_t i = 0; i < n; i++)
		for (size_t j = 0; j < n; j++)
			cr_assert_eq(checkpoint_covers(in_order[i], in_order[j]), i >= j, "%s, %s",
				in_order[i], in_order[j]);
	/* one that was shortened, and a range of which all are running */
	cr_assert(checkpoint_covers("1;1;0/10;5:5:", "1;1;0/10;5:8:5,6,7"));
	cr_assert_not(checkpoint_covers("1;1;0/10;5:5:", "1;1;0/10;5:8:5,7"));
	cr_assert_not(checkpoint_covers("1;1;0/10;5:5:", "1;1;0/10;4:18446744073709551615:4"));
	cr_assert_not(checkpoint_covers("1;1;0/10;9:9:", "2;1;0/10;3:3:"));
	cr_assert_not(checkpoint_covers("1;2;0/10;9:9:", "1;1;0/10;3:3:"), "ids of another run mean nothing");
	cr_assert_not(checkpoint_covers("", "1;1;0/10;3:3:"));
	cr_assert_not(checkpoint_covers("1;1;0/10;3:3:", ""));
}

Test(checkpoint, precedes_in_its_own_run_only)
{
	cr_assert(checkpoint_precedes("1;1;0/10;3:3:", "1;1;0/10;3:3:"));
	cr_assert(checkpoint_precedes("1;1;0/10;9:9:", "1;1;0/20;3:3:"));
	cr_assert_not(checkpoint_precedes("1;1;0/20;3:3:", "1;1;0/10;9:9:"));
	cr_assert_not(checkpoint_precedes("1;1;0/10;3:3:", "1;2;0/20;3:3:"));
	cr_assert_not(checkpoint_precedes("1;1;0/10;3:3:", "2;1;0/20;3:3:"));
	cr_assert_not(checkpoint_precedes("", "1;1;0/20;3:3:"));
}

Test(checkpoint, before_both_sees_no_more_than_either)
{
	const char *a = "1;1;0/20;5:9:6", *b = "1;1;0/10;7:7:";
	struct token before = checkpoint_before_both(a, b);

	cr_assert_str_eq(before.text, "1;1;0/10;5:5:");
	cr_assert(checkpoint_covers(a, before.text) && checkpoint_covers(b, before.text));
}

Test(checkpoint, token_of_any_text_that_fits)
{
	char text[CHECKPOINT_TOKEN_MAX + 1] = "";

	cr_assert_not(token_is_set(&(struct token){0}));
	memset(text, 'x', CHECKPOINT_TOKEN_MAX);
	struct token token = token_of(text), assigned = token;
	cr_assert(token_is_set(&assigned));
	cr_assert_str_eq(assigned.text, text);
}

Test(checkpoint, is_found_by_the_cursor)
{
	struct checkpoint_history history = {0};

	cr_assert_null(checkpoint_history_latest(&history));
	cr_assert_null(checkpoint_history_at(&history, 10));
	for (uint64_t seq = 10; seq <= 1000; seq += 10)
		checkpoint_history_add(&history, checkpoint_new(wire_str("t"), seq));
	cr_assert_eq(history.n, CHECKPOINT_HISTORY_MAX);
	cr_assert_eq(checkpoint_history_latest(&history)->seq, 1000);
	cr_assert_eq(checkpoint_history_at(&history, 999)->seq, 990);
	cr_assert_eq(checkpoint_history_at(&history, 990)->seq, 990);
	cr_assert_eq(checkpoint_history_at(&history, 5000)->seq, 1000);
	cr_assert_null(checkpoint_history_at(&history, 100), "older than the history");
	/* Who passed one keeps it when the history does not. */
	struct checkpoint *kept = checkpoint_ref(history.items[0]);
	checkpoint_history_clear(&history);
	cr_assert_str_eq(kept->token, "t");
	checkpoint_unref(kept);
}

Test(checkpoint, waits_until_it_is_old_enough)
{
	struct checkpoint_waiting waiting = {0};

	cr_assert_str_empty(checkpoint_waiting_take(&waiting, 100).text);
	for (int i = 0; i < 2 * CHECKPOINT_WAITING_MAX; i++) {
		struct token token = {{(char)('a' + i)}};
		checkpoint_waiting_add(&waiting, &token, i);
	}
	cr_assert_str_empty(checkpoint_waiting_take(&waiting, -0.5).text);
	struct token due = checkpoint_waiting_take(&waiting, 2.5);
	cr_assert_str_eq(due.text, "c", "the newest that is due");
	cr_assert_str_empty(checkpoint_waiting_take(&waiting, 2.5).text, "once");
	due = checkpoint_waiting_take(&waiting, 1000);
	cr_assert_str_eq(due.text, "h", "those that came while there was no room are left out");
	checkpoint_waiting_add(&waiting, &due, 1001);
	checkpoint_waiting_clear(&waiting);
	cr_assert_str_empty(checkpoint_waiting_take(&waiting, 2000).text);
}
