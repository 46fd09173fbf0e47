/* Texts of databases in UTF-8. tests/pg/test_encodings.py compares every character with PostgreSQL's. */
#include "postgres/encoding.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

static struct encoding *opened(const char *name)
{
	struct encoding *e = NULL;

	cr_assert_eq(encoding_open(&e, name), 0, "%s", name);
	return e;
}

static void expect(struct encoding *e, const char *text, const char *utf8)
{
	struct wire_str out = encoding_text(e, wire_str(text));

	cr_assert_eq(out.len, strlen(utf8), "%s", out.ptr);
	cr_assert_str_eq(out.ptr, utf8);
	cr_assert_str_eq(encoding_name(e, text), utf8);
}

Test(encoding, converts_to_utf8)
{
	static const struct {
		const char *name, *text, *utf8;
	} cases[] = {
		{"WIN1251", "{\"p\":\"\xef\xf0\xe8\xe2\xe5\xf2\"}", "{\"p\":\"привет\"}"},
		{"KOI8R", "\xd0\xd2\xc9\xd7\xc5\xd4", "привет"},
		{"LATIN1", "Zo\xeb \x85", "Zoë \xc2\x85"},
		{"LATIN9", "\xa4", "€"},
		{"WIN1252", "\x80 10", "€ 10"},
		{"EUC_JP", "\xc6\xfc\xcb\xdc \x8e\xb1 \xad\xa1 \xa1\xc1", "日本 ｱ ① ～"},
		{"EUC_CN", "\xc4\xe3\xba\xc3", "你好"},
		{"EUC_KR", "\xb0\xa1", "가"},
		{"EUC_TW", "\xc4\xa1\x8e\xa2\xa1\xa1", "一乂"},
	};

	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct encoding *e = opened(cases[i].name);
		expect(e, cases[i].text, cases[i].utf8);
		expect(e, "ascii", "ascii");
		encoding_close(e);
	}
}

Test(encoding, converts_characters_that_combine_as_postgresql_does)
{
	/* An a and a combining grave accent stay two characters. */
	struct encoding *e = opened("WIN1258");
	expect(e, "a\xcc", "a\xcc\x80");
	expect(e, "a", "a");
	encoding_close(e);
	/* A Hebrew letter and a point */
	e = opened("WIN1255");
	expect(e, "\xe0\xc7", "\xd7\x90\xd6\xb7");
	encoding_close(e);
	/* One character there, two in Unicode */
	e = opened("EUC_JIS_2004");
	expect(e, "\xa4\xf7", "か\xe3\x82\x9a");
	expect(e, "x\xa1\xefy\xa1\xb1", "x¥y‾");
	encoding_close(e);
}

Test(encoding, leaves_what_cannot_be_converted_as_it_is)
{
	struct encoding *e = opened("WIN1251");
	expect(e, "\xef \x98", "\xef \x98");
	expect(e, "\xef", "п");
	encoding_close(e);
	e = opened("EUC_JP");
	expect(e, "\xa9\xa1", "\xa9\xa1");
	expect(e, "\xc6\xfc\xcb", "\xc6\xfc\xcb");
	expect(e, "\xcb\xdc", "本");
	encoding_close(e);
}

Test(encoding, converts_the_longest_that_a_notify_carries)
{
	char text[ENCODING_TEXT_MAX + 2], name[ENCODING_NAME_MAX + 1] = "";
	struct encoding *e = opened("WIN1252");

	memset(text, 0x80, sizeof text);
	text[ENCODING_TEXT_MAX] = '\0';
	struct wire_str out = encoding_text(e, wire_str(text));
	cr_assert_eq(out.len, ENCODING_UTF8_MAX);
	cr_assert(wire_utf8_valid(out.ptr, out.len) && !out.ptr[out.len]);
	memset(name, 0x80, ENCODING_NAME_MAX);
	cr_assert_eq(strlen(encoding_name(e, name)), ENCODING_NAME_UTF8_MAX);
	cr_assert_eq(strncmp(out.ptr, "€€", 6), 0, "the name does not end the text");
	struct wire_str longer = {text, ENCODING_TEXT_MAX + 1};
	cr_assert_eq(encoding_text(e, longer).ptr, text);
	encoding_close(e);
}

Test(encoding, converts_nothing_without_an_encoding)
{
	struct encoding *e = NULL;

	expect(NULL, "caf\xe9", "caf\xe9");
	cr_assert_eq(encoding_text(NULL, wire_str("")).len, 0);
	cr_assert(!encoding_must_convert("UTF8") && !encoding_must_convert("SQL_ASCII"));
	cr_assert(encoding_must_convert("WIN1251") && encoding_must_convert("MULE_INTERNAL"));
	cr_assert_eq(encoding_open(&e, "MULE_INTERNAL"), -EINVAL);
	encoding_close(NULL);
}
