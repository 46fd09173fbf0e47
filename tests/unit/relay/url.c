/* What is said of a connection URL that cannot work names what is wrong, and never the password. */
#include "base/url.h"

#include <criterion/criterion.h>
#include <string.h>

static char why[200];

static void refused(const char *url, const char *word)
{
	PQconninfoOption *options = url_parse(url, why, sizeof why);

	cr_assert_null(options, "%s", url);
	cr_assert(strstr(why, word), "%s: %s, without %s", url, why, word);
	cr_assert_null(strstr(why, "hunter"), "%s: %s", url, why);
}

static void option_is(const char *url, const char *keyword, const char *value)
{
	PQconninfoOption *options = url_parse(url, why, sizeof why), *o = options;

	cr_assert_not_null(options, "%s: %s", url, why);
	while (o->keyword && strcmp(o->keyword, keyword) != 0)
		o++;
	cr_assert_str_eq(o->val, value);
	PQconninfoFree(options);
}

Test(url, names_the_parameter_that_is_wrong)
{
	refused("postgresql://app:hunter2@h/d?schema=public", "\"schema\"");
	refused("postgres://app@h/d?sslmode=require&pgbouncer=true", "\"pgbouncer\"");
	refused("postgres://h/d?connection_limit=1", "\"connection_limit\"");
	option_is("postgres://app@h/d?ssl=true", "sslmode", "require");
}

Test(url, names_the_scheme_or_the_quote_that_is_wrong)
{
	refused("jdbc:postgresql://h/d?user=app&password=hunter2", "\"jdbc:postgresql://\"");
	refused("postgresql+asyncpg://app:hunter2@h/d", "\"postgresql+asyncpg://\"");
	refused("mysql://app:hunter2@h/d", "\"mysql://\"");
	refused("\"postgresql://app:hunter2@h/d\"", "quote");
	refused("'postgresql://app:hunter2@h/d'", "quote");
}

Test(url, names_the_place_of_a_bad_escape)
{
	refused("postgresql://app:hunter%zz@h/d", "character 24");
	refused("postgresql://app:hunter%", "%25");
}

Test(url, quotes_nothing_that_may_be_a_password)
{
	refused("postgresql://app:hunter2@x@h/d", "percent-encode");
	refused("postgresql://app:hunter2/x@h/d", "percent-encode");
	refused("postgresql://app:hunter2@x/y@h/d", "percent-encode");
	refused("postgresql://app:1/hunter?hunter=x@h/d", "");
	refused("hunter2", "");
}

Test(url, takes_an_at_sign_where_it_belongs)
{
	option_is("host=@/run/pg dbname=tenant@prod", "host", "@/run/pg");
	option_is("host=@/run/pg dbname=tenant@prod", "dbname", "tenant@prod");
	option_is("postgresql://app:hunter2@h/tenant%40prod", "dbname", "tenant@prod");
	option_is("postgresql:///d?host=@/run/pg", "host", "@/run/pg");
	option_is("postgresql://%40%2Frun%2Fpg/d", "host", "@/run/pg");
	option_is("postgresql://app:hunter?2@h/d", "password", "hunter?2");
}
