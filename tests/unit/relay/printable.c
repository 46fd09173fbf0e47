/* What a terminal may be given. */
#include "base/printable.h"
#include "ops/report.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void expect(const char *text, const char *shown)
{
	char buf[256];
	size_t n = printable_copy(buf, sizeof buf, text, strlen(text));

	cr_assert_eq(n, strlen(shown), "%s", buf);
	cr_assert_str_eq(buf, shown);
}

Test(printable, leaves_text_as_it_is)
{
	expect("", "");
	expect("plain \"text\" \\ ~", "plain \"text\" \\ ~");
	expect("Grüße, привет, 你好, 🎉, ❤️, é",
		"Grüße, привет, 你好, 🎉, ❤️, é");
}

Test(printable, escapes_what_a_terminal_obeys)
{
	expect("\x1b[2J\r\n\t\x7f", "\\x1b[2J\\x0d\\x0a\\x09\\x7f");
	expect("\xc2\x9b"
	       "31m",
		"\\xc2\\x9b31m");
	expect("\xc2\x80\xc2\x9f\xc2\xa0", "\\xc2\\x80\\xc2\\x9f\xc2\xa0");
	expect("\xe2\x80\xae"
	       "evil\xe2\x80\xac",
		"\\xe2\\x80\\xaeevil\\xe2\\x80\\xac");
	expect("\xe2\x81\xa6\xe2\x81\xa9\xe2\x80\x8f\xd8\x9c",
		"\\xe2\\x81\\xa6\\xe2\\x81\\xa9\\xe2\\x80\\x8f\\xd8\\x9c");
	expect("\xe2\x80\xa8\xe2\x80\xa9", "\\xe2\\x80\\xa8\\xe2\\x80\\xa9");
}

Test(printable, escapes_what_nobody_sees)
{
	expect("a\xe2\x80\x8b"
	       "b\xef\xbb\xbf"
	       "c\xc2\xad",
		"a\\xe2\\x80\\x8bb\\xef\\xbb\\xbfc\\xc2\\xad");
	expect("\xf3\xa0\x81\x81", "\\xf3\\xa0\\x81\\x81");
}

Test(printable, escapes_what_is_no_utf8)
{
	expect("\xff\xfe", "\\xff\\xfe");
	expect("a\xc3", "a\\xc3");
	expect("\xc0\x80\xed\xa0\x80", "\\xc0\\x80\\xed\\xa0\\x80");
	expect("\xe2\x80", "\\xe2\\x80");
	expect("\x9b", "\\x9b");
}

Test(printable, is_cut_between_characters)
{
	char buf[8];

	cr_assert_eq(printable_copy(buf, sizeof buf, "aaaaaé", 7), 7);
	cr_assert_str_eq(buf, "aaaaaé");
	cr_assert_eq(printable_copy(buf, sizeof buf, "aaaaaaé", 8), 6);
	cr_assert_str_eq(buf, "aaaaaa");
	cr_assert_eq(printable_copy(buf, sizeof buf, "aaaa\n", 5), 4);
}

static char shown[256];

static const char *json(const char *text)
{
	FILE *out = fmemopen(shown, sizeof shown, "w");

	report_escape_json(out, text, strlen(text));
	fclose(out);
	return shown;
}

Test(printable, json_says_the_same_in_its_own_words)
{
	cr_assert_str_eq(json("a\"b\\c"), "\"a\\\"b\\\\c\"");
	cr_assert_str_eq(json("\x1b\xc2\x9b\xe2\x80\xae\xe2\x80\x8b"), "\"\\u001b\\u009b\\u202e\\u200b\"");
	cr_assert_str_eq(json("\xf3\xa0\x81\x81"), "\"\\udb40\\udc41\"");
	cr_assert_str_eq(json("\xff"), "\"\\ufffd\"");
	cr_assert_str_eq(json("🎉é"), "\"🎉é\"");
}
