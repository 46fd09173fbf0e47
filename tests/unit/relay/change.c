/* The JSON payload: the bytes that the Go service would write, and whatever JSON it might read. jansson
 * says what is JSON. */
#include "fanout/change.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void expect_encoded(struct wire_str pubkey, struct wire_str client_id, const char *payload)
{
	char buf[CHANGE_PAYLOAD_MAX];
	int len = change_encode(pubkey, client_id, buf, sizeof buf);

	cr_assert_eq(len, (int)strlen(payload), "%d", len);
	cr_assert_arr_eq(buf, payload, (size_t)len);
}

Test(change, is_written_as_the_go_service_does)
{
	struct wire_str nil = {0};

	expect_encoded(wire_str("02ab"), wire_str("1-2"), "{\"p\":\"02ab\",\"c\":\"1-2\"}");
	expect_encoded(wire_str("02ab"), nil, "{\"p\":\"02ab\"}");
	expect_encoded(wire_str(""), wire_str(""), "{\"p\":\"\",\"c\":\"\"}");
	expect_encoded(wire_str("a\"\\\n\r\t\x01\x7f"), nil, "{\"p\":\"a\\\"\\\\\\n\\r\\t\\u0001\x7f\"}");
	expect_encoded(wire_str("<&>"), nil, "{\"p\":\"\\u003c\\u0026\\u003e\"}");
	expect_encoded(wire_str("\xe2\x80\xa8\xe2\x80\xa9\xe2\x80\xaa"), nil,
		"{\"p\":\"\\u2028\\u2029\xe2\x80\xaa\"}");
	expect_encoded((struct wire_str){"a\0b", 3}, nil, "{\"p\":\"a\\u0000b\"}");
}

Test(change, is_refused_when_too_long_or_no_utf8)
{
	char pubkey[CHANGE_PAYLOAD_MAX], buf[CHANGE_PAYLOAD_MAX];
	struct wire_str nil = {0};

	memset(pubkey, 'x', sizeof pubkey);
	cr_assert_eq(change_encode((struct wire_str){pubkey, CHANGE_PAYLOAD_MAX - 8}, nil, buf, sizeof buf),
		CHANGE_PAYLOAD_MAX);
	cr_assert_eq(change_encode((struct wire_str){pubkey, CHANGE_PAYLOAD_MAX - 7}, nil, buf, sizeof buf),
		-EMSGSIZE);
	cr_assert_eq(change_encode(wire_str("\xff"), nil, buf, sizeof buf), -EILSEQ);
	cr_assert_eq(change_encode(wire_str("\xed\xa0\x80"), nil, buf, sizeof buf), -EILSEQ);
	cr_assert_eq(change_encode(wire_str("a"), wire_str("\xc0\x80"), buf, sizeof buf), -EILSEQ);
}

static void expect_decoded(const char *payload, const char *pubkey, const char *client_id)
{
	struct change change;

	cr_assert_eq(change_decode(payload, strlen(payload), &change), 0, "%s", payload);
	cr_assert(wire_str_eq(change.pubkey, wire_str(pubkey)), "%s", payload);
	cr_assert(wire_str_eq(change.client_id, wire_str(client_id)), "%s", payload);
	change_release(&change);
}

static void expect_malformed(const char *payload)
{
	struct change change;

	cr_assert_eq(change_decode(payload, strlen(payload), &change), -EBADMSG, "%s", payload);
}

Test(change, is_read_from_json_with_numbers_that_nothing_holds)
{
	char digits[401], payload[1024];

	expect_decoded("{\"p\":\"x\",\"n\":1e400}", "x", NULL);
	expect_decoded("{\"n\":[-1.5E+99999, 0.1e-9999],\"p\":\"x\",\"c\":\"1e999\"}", "x", "1e999");
	memset(digits, '9', 400);
	digits[400] = '\0';
	snprintf(payload, sizeof payload, "{\"p\":\"%s\",\"n\":%s}", digits, digits);
	expect_decoded(payload, digits, NULL);
	expect_malformed("{\"p\":\"x\",\"n\":01e400}");
	expect_malformed("{\"p\":\"x\",\"n\":1e}");
	expect_malformed("{\"p\":\"x\",\"n\":1e400.5}");
	expect_malformed("{\"p\":\"x\",\"n\":--1e400}");
}

Test(change, is_read_from_json_with_halves_of_pairs_elsewhere)
{
	expect_decoded("{\"p\":\"x\",\"n\":\"\\ud83d\"}", "x", NULL);
	expect_decoded("{\"p\":\"x\",\"\\udc00\":\"\\ud83d\\n\\ud83d\\ude00\"}", "x", NULL);
	expect_decoded("{\"p\":\"\\ud83d\\ude00\",\"n\":\"\\udC00\"}", "\xf0\x9f\x98\x80", NULL);
	expect_decoded("{\"p\":\"\\\\ud83d\",\"n\":\"\\ud83d\"}", "\\ud83d", NULL);
	expect_decoded("{\"p\":\"\\uffff\"}", "\xef\xbf\xbf", NULL);
	expect_malformed("{\"p\":\"\\ud83d\"}");
	expect_malformed("{\"p\":\"x\",\"c\":\"\\ude00\\ud83d\"}");
	expect_malformed("{\"p\":\"x\",\"n\":\"\\ud8\"}");
	expect_malformed("{\"p\":\"x\",\"n\":\"\\ud83d");
	expect_malformed("{\"p\":\"x\",\"n\":\"\\");
}

Test(change, is_read_from_any_json)
{
	expect_decoded("{\"p\":\"a\",\"c\":\"b\"}", "a", "b");
	expect_decoded("{\"p\":\"a\"}", "a", NULL);
	expect_decoded("{\"p\":\"a\",\"c\":null}", "a", NULL);
	expect_decoded("{\"p\":\"a\",\"c\":\"\"}", "a", "");
	expect_decoded(" \t\r\n{ \"c\" : \"b\" , \"p\" : \"a\" } \n", "a", "b");
	expect_decoded("{\"p\":\"\\u0061\\u00e9\\ud83d\\ude00\"}", "a\xc3\xa9\xf0\x9f\x98\x80", NULL);
	expect_decoded("{\"p\":\"\xc3\xa9\"}", "\xc3\xa9", NULL);
	expect_decoded("{\"p\":\"a\",\"n\":123456789012345678901234567890,\"x\":[{\"p\":1}]}", "a", NULL);
	expect_decoded("{\"p\":\"first\",\"p\":\"last\"}", "last", NULL);
	expect_decoded("{\"p\":\"first\",\"p\":1,\"c\":2,\"\\u0070\":\"last\",\"c\":null}", "last", NULL);
	expect_decoded("{\"p\":\"\\b\\f\\n\\r\\t\\/\\\"\\\\\",\"c\":\"\\u0041\"}", "\b\f\n\r\t/\"\\", "A");
	expect_decoded("{\"pp\":1,\"\":2,\"q\":[true,false,null,{}],\"a\\u0000b\":{\"p\":[]},\"p\":\"a\"}",
		"a", NULL);
}

/* A role can notify them: none may be deeper than the relay reads. */
Test(change, is_read_however_deep_the_rest_is)
{
	static const char begin[] = "{\"p\":\"x\",\"n\":";
	char payload[CHANGE_PAYLOAD_MAX + 1] = "";
	size_t depth = (CHANGE_PAYLOAD_MAX - sizeof begin) / 2;
	char *end = stpcpy(payload, begin);

	memset(end, '[', depth);
	memset(end + depth, ']', depth);
	strcpy(end + 2 * depth, "}");
	expect_decoded(payload, "x", NULL);
	end[depth] = '}';
	expect_malformed(payload);
	end[depth] = '[';
	expect_malformed(payload);
	memset(end, '[', 2 * depth);
	expect_malformed(payload);
}

Test(change, is_refused_when_it_is_none)
{
	static const char *const bad[] = {"", "{", "{}", "[]", "null", "\"p\"", "{\"p\":1}", "{\"p\":null}",
		"{\"c\":\"b\"}", "{\"p\":\"a\",\"c\":1}", "{\"p\":\"a\",\"c\":[]}", "{\"p\":\"a\"} x",
		"{\"p\":\"a\"", "{\"p\":\"a\",}", "{'p':'a'}", "{\"p\":\"a\x01\"}", "{\"p\":\"\xff\"}",
		"{\"p\":\"\\ud800\"}", "{\"p\":\"a\",\"n\":[}]}", "{\"p\":\"a\",\"n\":[1,]}",
		"{\"p\":\"a\",\"n\":{1:2}}", "{\"p\":\"a\",\"n\":truth}", "{\"p\":\"a\",\"n\":nul}",
		"{\"p\":\"a\",\"n\":\"\\x\"}", "[{\"p\":\"a\"}]", "{\"p\":\"a\",\"c\":\"b\"}}",
		"{\"p\":\"a\"\"c\":\"b\"}"};
	struct change change;

	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		cr_assert_eq(change_decode(bad[i], strlen(bad[i]), &change), -EBADMSG, "%s", bad[i]);
}

/* Breaks good payloads at random places; the seed is fixed, so that a failure comes again. */
Test(change, is_read_as_jansson_reads_it)
{
	static const char *const seeds[] = {"{\"p\":\"02ab\",\"c\":\"1-2\"}", "{\"p\":\"x\"}",
		"{\"p\":\"\",\"c\":\"\"}",
		"{\"n\":[1,-0.5e+3,{\"p\":null},[]],\"p\":\"\\u0061\\n\",\"c\":\"\\/\"}",
		"{\"\\u0070\" : \"\\ud83d\\ude00\xc3\xa9\", \"c\": null, \"n\": [ true , false ] }"};
	static const char bytes[] = "\"\\{}[]:,pc a\x01\x7f\xc3\xa9n0-.eu";
	unsigned random = 1;

	for (int round = 0; round < 500000; round++) {
		char payload[80];
		struct change change;
		strcpy(payload, seeds[round % 5]);
		size_t len = strlen(payload);
		for (int hits = 1 + round % 3; hits-- > 0;)
			payload[(size_t)rand_r(&random) % len] =
				bytes[(size_t)rand_r(&random) % (sizeof bytes - 1)];
		json_t *root = json_loadb(payload, len, JSON_ALLOW_NUL, NULL),
		       *p = json_object_get(root, "p"), *c = json_object_get(root, "c");
		bool good = json_is_string(p) && (!c || json_is_null(c) || json_is_string(c));
		cr_assert_eq(change_decode(payload, len, &change), good ? 0 : -EBADMSG, "%s", payload);
		if (good) {
			cr_assert(wire_str_eq(change.pubkey, wire_str(json_string_value(p))), "%s", payload);
			cr_assert(
				wire_str_eq(change.client_id, wire_str(json_string_value(c))), "%s", payload);
			change_release(&change);
		}
		json_decref(root);
	}
}
