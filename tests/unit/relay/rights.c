/* What a role can call, and what stands in the place of what it cannot. */
#include "postgres/rights.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

Test(rights, are_read)
{
	struct rights rights = {0};

	cr_assert_eq(rights_read(&rights, "01111111 \"the relays\""), 0);
	cr_assert_str_eq(rights.role, "\"the relays\"");
	cr_assert_not(rights_have(&rights, RIGHT_CLUSTER));
	for (unsigned i = RIGHT_RUN; i < RIGHTS_N; i++)
		cr_assert(rights_have(&rights, (enum right)i));
	cr_assert_eq(rights_read(&rights, "11111111 app"), 0);
	cr_assert(rights_have(&rights, RIGHT_CLUSTER));
}

Test(rights, that_cannot_be_read_stay)
{
	static const char *const bad[] = {"", "1111111 app", "111111111 app", "1111111", "21111111"};
	struct rights rights = {0};

	cr_assert_eq(rights_read(&rights, "01111111 app"), 0);
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		cr_assert_eq(rights_read(&rights, bad[i]), -EBADMSG, "%s", bad[i]);
		cr_assert_eq(rights_read_trial(&rights, bad[i]), -EBADMSG, "%s", bad[i]);
	}
	cr_assert_not(rights_have(&rights, RIGHT_CLUSTER));
	cr_assert_str_eq(rights.role, "app");
}

Test(rights, that_failed_are_missing_until_the_next_connection)
{
	struct rights rights = {0};

	cr_assert_eq(rights_read_trial(&rights, "11011111"), 0);
	cr_assert_eq(rights_read(&rights, "11111111 app"), 0);
	cr_assert_not(rights_have(&rights, RIGHT_LSN));
}

Test(rights, make_a_token_of_no_run_where_it_could_not_be_compared)
{
	struct rights rights = {0};

	cr_assert(strstr(rights_token_sql(&rights, "lsn", "s", "noted").text, "CASE WHEN noted THEN"));
	rights.withheld = 1U << RIGHT_SNAPSHOT;
	cr_assert(strstr(rights_token_sql(&rights, "lsn", "s", "noted").text, "CASE WHEN false THEN 0"));
}

Test(rights, compare_identities_by_what_is_known)
{
	cr_assert(rights_same_identity("1/2/3", "1/2/3"));
	cr_assert(rights_same_identity("?/2/3", "1/2/3"));
	cr_assert(rights_same_identity("?/2/3", "1/2/?"));
	cr_assert_not(rights_same_identity("?/2/3", "1/4/3"));
	cr_assert_not(rights_same_identity("1/2/3", "1/2/33"));
	cr_assert_not(rights_same_identity("1/2", "1/2/3"));
	cr_assert_not(rights_same_identity("", "1/2/3"));
}
