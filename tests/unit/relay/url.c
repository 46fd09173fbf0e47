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
	refused("postgres://app@h/d?ssl=false", "\"ssl\"");
	refused("postgres://app@h/d?sslmode", "\"sslmode\" has no value");
	refused("postgres://app@h/d?options=-csearch_path=x", "\"options\" contains a =; write it as %3D");
	refused("postgres://app@h/d?Sslmode=require", "\"Sslmode\"; write it in lower case");
	refused("host=h dbname=d schema=public", "\"schema\"");
	refused("host=h username = app password=hunter2", "\"username\"");
	refused("Host=h;Port=5432;Username=app;Password=hunter2", "\"Host\"; write it in lower case");
	refused("DATABASE_URL=postgresql://app:hunter2@h/d", "\"DATABASE_URL\"");
	refused("host=h port=x;password=hunter2", "\"port\" contains another URL or parameter");
}

Test(url, says_what_is_missing)
{
	refused("app:hunter2@h/d", "neither a URL (postgresql://...) nor parameters");
	refused("host=h port", "no = after it");
	refused("host=h password=hun hunter2", "after the password");
	refused("host=h password='hunter2", "unterminated quoted string");
	refused("postgresql://app@[::1/d", "matching \"]\"");
	refused("postgresql://app@[::1]x/d", "character \"x\"");
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
	refused("hunter=", "");
	refused("hunter=x", "");
	refused("postgresql://app@h/d?password=x&hunter", "%26");
	refused("postgresql://app@h/d?sslpassword=x&hunter=y", "%26");
	refused("postgresql://app@h/d?password=hunter=x", "%3D");
	refused("host=h password=x hunter=y", "quotes around a password");
	refused("host=h password=x h", "quotes around a password");
	refused("postgresql://h:/hunter2@h/d", "percent-encode");
}

Test(url, refuses_a_password_in_another_value)
{
	static const char *const urls[] = {
		"host= password=hunter2 dbname=d",
		"host=h user= password=hunter2",
		"host=h,port=5432,password=hunter2",
		"host=h;port=5432;Password=hunter2;",
		"host=h dbname=d;pwd=hunter2",
		"service=x&password=hunter2",
		"postgresql://app@h/d&password=hunter2",
		"postgresql://app@h/d;passwd=hunter2",
		"postgresql://h/d?user=app%26password%3Dhunter2",
		"host=postgresql://app:hunter2@h/d",
		"dbname=postgresql://app:hunter2@h/d",
	};

	for (size_t i = 0; i < sizeof urls / sizeof *urls; i++)
		refused(urls[i], "contains another URL or parameter");
	refused("host=app:hunter2@h dbname=d", "host contains an @");
	refused("host=a,app:hunter2@h dbname=d", "host contains an @");
}

Test(url, takes_an_at_sign_where_it_belongs)
{
	option_is("host=@/run/pg dbname=tenant@prod", "host", "@/run/pg");
	option_is("host=@/run/pg dbname=tenant@prod", "dbname", "tenant@prod");
	option_is("postgresql://app:hunter2@h/tenant%40prod", "dbname", "tenant@prod");
	option_is("postgresql://app:hunter2@h/tenant@prod", "dbname", "tenant@prod");
	option_is("postgresql:///tenant@prod?host=/run/a@b", "host", "/run/a@b");
	option_is("host=@a,/run/a@b,h dbname=d", "host", "@a,/run/a@b,h");
	option_is("host=h options='-c my.password=hunter2'", "options", "-c my.password=hunter2");
	option_is("postgresql:///d?host=@/run/pg", "host", "@/run/pg");
	option_is("postgresql://%40%2Frun%2Fpg/d", "host", "@/run/pg");
	option_is("postgresql://app:hunter?2@h/d", "password", "hunter?2");
}
