/* What is shown of URLs, and of what servers say. */
#include "base/redact.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char buf[1024];

static void start(void)
{
	unsetenv("PGPASSWORD");
}

TestSuite(redact, .init = start, .fini = redact_forget);

static void learn(const char *url)
{
	char error[200];

	cr_assert_eq(redact_learn(url, error, sizeof error), 0, "%s: %s", url, error);
}

static void expect_url(const char *url, const char *shown)
{
	learn(url);
	cr_assert_str_eq(redact_url(url, buf, sizeof buf), shown);
}

Test(redact, shows_the_parts_of_a_url)
{
	expect_url("postgres://app:hunter2@db.example:6432/sync",
		"user=app password=*** dbname=sync host=db.example port=6432");
	expect_url("postgresql://app@/sync?host=/run/postgresql&sslmode=require",
		"user=app dbname=sync host=/run/postgresql sslmode=require");
	expect_url(
		"host=a,b port=1,2 user='an app' password=x", "user='an app' password=*** host=a,b port=1,2");
	expect_url("postgres://app:x@a:1,b:2/sync?target_session_attrs=read-write",
		"user=app password=*** dbname=sync host=a,b port=1,2 target_session_attrs=read-write");
}

/* Where only the part after an @ is not encoded. */
Test(redact, hides_what_stands_after_the_user)
{
	expect_url("postgres://app%3Ahunter2@h/d", "user=*** dbname=d host=h");
	cr_assert_str_eq(redact("role \"app:hunter2\" does not exist", buf, sizeof buf),
		"role \"app:***\" does not exist");
}

/* However it is written. */
Test(redact, shows_no_password_of_a_url)
{
	static const char *const urls[] = {
		"postgres://app:hunter2zebra9@h/d",
		"postgres://app:hunter2%7aebra9@h/d",
		"postgres://app@h/d?password=hunter2zebra9",
		"postgres://app@h/d?password=hunter2%7Aebra9",
		"postgres://app@h/d?sslpassword=hunter2%7aebra9&sslmode=require",
		"postgres://app@h/d?sslmode=require&sslpassword=hunter2zebra9",
		"host=h password=hunter2zebra9 dbname=d",
		"host=h password='hunter2zebra9' dbname=d",
		"host=h password='hunter2\\'\\\\zebra9' dbname=d",
		"host=h password = hunter2\\ zebra9 dbname=d",
		"host=h sslpassword='hunter2zebra9' dbname=d",
		"postgres://app:hunter2zebra9@a,b:5433/d",
	};

	for (size_t i = 0; i < sizeof urls / sizeof *urls; i++) {
		learn(urls[i]);
		redact_url(urls[i], buf, sizeof buf);
		cr_assert(strstr(buf, "dbname=d") && strstr(buf, "***"), "%s", buf);
		cr_assert_not(strstr(buf, "hunter2") || strstr(buf, "ebra9") || strstr(buf, "%7"), "%s", buf);
		redact_forget();
	}
}

Test(redact, shows_no_other_option_that_may_hold_a_secret)
{
	expect_url("host=h options='-c my.token=hunter2'", "host=h options=***");
	expect_url("host=h passfile=/etc/secret", "passfile=*** host=h");
	/* A database may be called as the password is. */
	expect_url("postgres://app:hunter2@h/hunter2", "user=app password=*** dbname=*** host=h");
}

static void expect(const char *text, const char *shown)
{
	cr_assert_str_eq(redact(text, buf, sizeof buf), shown);
}

Test(redact, leaves_words_alone)
{
	learn("postgres://app:x@h/d");
	expect("database \"postgres\" does not exist", "database \"postgres\" does not exist");
	expect("invalid option \"x\"", "invalid option \"***\"");
	learn("postgres://app:on@h/d");
	expect("connection to server on socket failed: no connection",
		"connection to server *** socket failed: no connection");
	learn("postgres://app:connection@h/d");
	expect("too many connections", "too many connections");
}

Test(redact, finds_a_password_that_is_no_word_anywhere)
{
	learn("postgres://app:hunter2zebra9@h/d");
	expect("database \"my_hunter2zebra9_db\" does not exist", "database \"my_***_db\" does not exist");
	learn("postgres://app:pa%20ss%27w%C3%B6rd@h/d");
	expect("no pa ss'wörd here", "no *** here");
}

Test(redact, leaves_no_tail_of_a_longer_one)
{
	static const char *const urls[] = {"postgres://app:hunter2!@h/d", "postgres://app:hunter2!zebra@h/d"};

	for (int first = 0; first < 2; first++) {
		learn(urls[first]);
		learn(urls[!first]);
		expect("got hunter2!zebra and hunter2! here", "got *** and *** here");
		redact_forget();
	}
}

Test(redact, knows_many_and_those_of_the_environment)
{
	char url[100];

	for (int i = 0; i < 40; i++) {
		snprintf(url, sizeof url, "postgres://app:secret-%d@h/d", i);
		learn(url);
	}
	expect("secret-0 secret-39", "*** ***");
	setenv("PGPASSWORD", "from the environment", 1);
	learn("postgres://app@h/d");
	expect("it is from the environment", "it is ***");
}

Test(redact, makes_one_line)
{
	char small[8];

	expect("first\n\tsecond\n", "first; second");
	expect("", "");
	redact("a long text that does not fit", small, sizeof small);
	cr_assert_lt(strlen(small), sizeof small);
}

Test(redact, refuses_a_url_with_a_piece_of_a_password_elsewhere)
{
	static const char *const urls[] = {"postgres://app:Hunter2@Zebra9@h/d",
		"postgres://app:Hunter2/Zebra9@h/d", "http://h/d", "postgres://app@h/d?no_such_option=Zebra9",
		"host=h password=Hunter2 Zebra9"};
	char error[200];

	for (size_t i = 0; i < sizeof urls / sizeof *urls; i++) {
		cr_assert_eq(redact_learn(urls[i], error, sizeof error), -EINVAL, "%s", urls[i]);
		cr_assert_not(strstr(error, "Hunter2") || strstr(error, "Zebra9"), "%s", error);
		redact_forget();
	}
}
