/* Frames: every type encoded and decoded, and bytes that are not frames. */
#include "wire.h"
#include "wire_change.h"
#include "wire_request.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct wire_decoder *decoder;

static void start(void)
{
	cr_assert_eq(wire_decoder_new(&decoder), 0);
}

static void end(void)
{
	wire_decoder_free(decoder);
}

TestSuite(wire, .init = start, .fini = end);

static const struct wire_str two[] = {{"", 0}, {"bob", 3}};

static const struct wire_frame frames[] = {
	{.type = WIRE_HELLO, .hello = {.version = 1, .name = {"n", 1}}},
	{.type = WIRE_HELLO,
		.hello = {.version = 1,
			.resume = true,
			.epoch = {"e", 1},
			.seq = UINT64_C(1) << 40,
			.checkpoint = {"c", 1}}},
	{.type = WIRE_SUBSCRIBE, .subscribe = {.id = 1, .channel = {"ch", 2}}},
	{.type = WIRE_SUBSCRIBE,
		.subscribe = {.id = 1, .channel = {"ch", 2}, .pubkeys = two, .n_pubkeys = 2}},
	{.type = WIRE_UNSUBSCRIBE, .subscribe = {.id = UINT64_MAX, .channel = {"ch", 2}, .pubkeys = two}},
	{.type = WIRE_NOTIFY, .notify = {.id = 0, .channel = {"ch", 2}, .pubkey = {"", 0}}},
	{.type = WIRE_NOTIFY,
		.notify = {.id = 0, .channel = {"ch", 2}, .pubkey = {"p\0q", 3}, .client_id = {"", 0}}},
	{.type = WIRE_SEND, .send = {.id = 300, .channel = {"ch", 2}, .payload = {"x", 1}}},
	{.type = WIRE_PING, .request = {70000}},
	{.type = WIRE_BEGIN, .request = {5}},
	{.type = WIRE_OK, .ok = {5, 6}},
	{.type = WIRE_ERROR, .error = {true, 5, {"c", 1}, {"t", 1}}},
	{.type = WIRE_ERROR, .error = {.code = {"c", 1}, .text = {"t", 1}}},
	{.type = WIRE_CHANGE, .change = {WIRE_SEQ_NIL, {"ch", 2}, {"p", 1}, {0}, WIRE_RECOVERED}},
	{.type = WIRE_CHANGE, .change = {9, {"ch", 2}, {"p", 1}, {"c", 1}, 0}},
	{.type = WIRE_MESSAGE, .message = {9, {"ch", 2}, {"\xff", 1}, 0, true}},
	{.type = WIRE_CHECKPOINT, .checkpoint = {9, {"c", 1}}},
	{.type = WIRE_GAP, .gap = {WIRE_SEQ_NIL, {"overrun", 7}, {"t", 1}}},
	{.type = WIRE_UPSTREAM, .upstream = {9, {"live", 4}, {"t", 1}}},
	{.type = WIRE_BYE, .bye = {{"shutdown", 8}, {"t", 1}}},
	{.type = WIRE_WELCOME, .welcome = {1, {"e", 1}, 4, {"local", 5}, {"live", 4}, {"0.1", 3}, two, 2}},
};

/* What two encodings have in common is that they are the same. */
static void expect_same(const struct wire_frame *a, const struct wire_frame *b)
{
	static char x[WIRE_FRAME_MAX], y[WIRE_FRAME_MAX];
	int m = wire_encode(a, x, sizeof x), n = wire_encode(b, y, sizeof y);

	cr_assert_gt(m, 0);
	cr_assert_eq(m, n);
	cr_assert_arr_eq(x, y, (size_t)n);
}

Test(wire, takes_every_frame_there_and_back)
{
	for (size_t i = 0; i < sizeof frames / sizeof *frames; i++) {
		char buf[512];
		struct wire_frame back;
		struct wire_scanner scanner = {0};
		int len = wire_encode(&frames[i], buf, sizeof buf);
		cr_assert_gt(len, 0);
		/* It may come byte by byte, and more may follow it. */
		for (int part = 0; part < len; part++)
			cr_assert_eq(wire_scan(&scanner, buf, (size_t)part), -EAGAIN);
		cr_assert_eq(wire_scan(&scanner, buf, sizeof buf), 0);
		cr_assert_eq(scanner.offset, (uint32_t)len);
		cr_assert_eq(wire_decode(decoder, buf, (size_t)len, &back), 0, "frame %zu", i);
		cr_assert_eq(back.type, frames[i].type);
		expect_same(&frames[i], &back);
		for (int room = 0; room < len; room++)
			cr_assert_eq(wire_encode(&frames[i], buf, (size_t)room), -EMSGSIZE);
	}
}

/* A CHANGE is packed and read without msgpack-c where that can be. No one may see a difference. */
static void expect_alike(const struct wire_frame *frame)
{
	static unsigned char by_hand[WIRE_FRAME_MAX], by_msgpack[WIRE_FRAME_MAX];
	struct wire_scanner scanner = {0};
	struct wire_frame back;
	struct wire_change change;
	size_t taken;

	int len = wire_encode(frame, by_hand, sizeof by_hand);
	cr_assert_gt(len, 0);
	/* Where there is hardly room it is left to msgpack-c. */
	cr_assert_eq(wire_encode(frame, by_msgpack, (size_t)len), len);
	cr_assert_arr_eq(by_hand, by_msgpack, (size_t)len);

	/* Whole it is read by hand, and the fan-out relies on that; in parts, and with another header, it is
	 * left to msgpack-c. */
	cr_assert_eq(wire_change_read(by_hand, (size_t)len, &change), (size_t)len);
	cr_assert_eq(wire_next(&scanner, decoder, by_hand, (size_t)len, &back, &taken), 0);
	cr_assert_eq(taken, (size_t)len);
	expect_same(frame, &back);
	cr_assert_eq(wire_next(&scanner, decoder, by_hand, (size_t)len - 1, &back, &taken), -EAGAIN);
	cr_assert_eq(wire_next(&scanner, decoder, by_hand, (size_t)len, &back, &taken), 0);
	cr_assert_eq(taken, (size_t)len);
	expect_same(frame, &back);
	memcpy(by_msgpack, "\xdc\x00\x06", 3);
	memcpy(by_msgpack + 3, by_hand + 1, (size_t)len - 1);
	cr_assert_eq(wire_next(&scanner, decoder, by_msgpack, (size_t)len + 2, &back, &taken), 0);
	cr_assert_eq(taken, (size_t)len + 2);
	expect_same(frame, &back);
}

Test(wire, packs_and_reads_changes_by_hand_as_msgpack_does)
{
	static const uint32_t lens[] = {0, 1, 31, 32, 66, 255, 256, 7999};
	static const uint64_t seqs[] = {0, 1, 0x7f, 0x80, 0xff, 0x100, 0xffff, 0x10000, 0xffffffff,
		UINT64_C(1) << 32, UINT64_MAX - 1, WIRE_SEQ_NIL};
	static char text[8000];

	memset(text, 'x', sizeof text);
	for (size_t i = 0; i < sizeof lens / sizeof *lens; i++)
		for (size_t j = 0; j < sizeof seqs / sizeof *seqs; j++) {
			struct wire_str s = {text, lens[i]}, nil = {0};
			expect_alike(&(struct wire_frame){
				.type = WIRE_CHANGE, .change = {seqs[j], {"ch", 2}, s, nil, seqs[j] & 1}});
			expect_alike(&(struct wire_frame){
				.type = WIRE_CHANGE, .change = {seqs[j], s, {"p", 1}, s, 0}});
		}
}

static int scan(const void *bytes, size_t len)
{
	struct wire_scanner scanner = {0};

	return wire_scan(&scanner, bytes, len);
}

#define SCAN(literal) scan(literal, sizeof(literal) - 1)

Test(wire, refuses_what_is_no_frame_before_it_allocates)
{
	cr_assert_eq(SCAN("\xdd\x7f\xff\xff\xff"), -EMSGSIZE, "an array of two thousand million");
	cr_assert_eq(SCAN("\x92\x01\xdf\x00\x01\x00\x00"), -EMSGSIZE, "a map of 65536");
	cr_assert_eq(SCAN("\x92\x01\xdb\xff\xff\xff\xff"), -EMSGSIZE, "a string of 4 GB");
	cr_assert_eq(SCAN("\x92\x01\xc6\x00\x01\x00\x00"), -EMSGSIZE, "64 KiB and a few bytes");
	cr_assert_eq(SCAN("\x91\x91\x91\x91\x91"), -EBADMSG, "five deep");
	cr_assert_eq(SCAN("\x91\x91\x91\x91\x01"), 0, "four deep");
	cr_assert_eq(SCAN("\x01"), -EBADMSG, "a number");
	cr_assert_eq(SCAN("\x80"), -EBADMSG, "a map");
	cr_assert_eq(SCAN("\xc1"), -EBADMSG, "the byte that msgpack never uses");
	cr_assert_eq(SCAN("\x91\xc1"), -EBADMSG);
	cr_assert_eq(SCAN("GET / HTTP/1.0\r\n"), -EBADMSG);
	cr_assert_eq(SCAN("\x90"), 0, "an empty array is a frame, of no type");
	cr_assert_eq(SCAN("\xdd\x00\x00"), -EAGAIN);
	cr_assert_eq(SCAN(""), -EAGAIN);
}

static int decode(const void *bytes, size_t len, struct wire_frame *out)
{
	cr_assert_eq(scan(bytes, len), 0);
	return wire_decode(decoder, bytes, len, out);
}

#define DECODE(literal, out) decode(literal, sizeof(literal) - 1, out)

Test(wire, refuses_frames_with_wrong_elements)
{
	struct wire_frame f;

	cr_assert_eq(DECODE("\x90", &f), -EPROTO);
	cr_assert_eq(DECODE("\x91\xa1x", &f), -EPROTO);
	cr_assert_eq(DECODE("\x91\x63", &f), -ENOTSUP, "type 99");
	cr_assert_eq(DECODE("\x91\x05", &f), -EPROTO, "PING without an id");
	cr_assert_eq(DECODE("\x92\x05\xff", &f), -EPROTO, "PING with id -1");
	cr_assert_eq(DECODE("\x94\x01\x01\xa1"
			    "c\x91\x01",
			     &f),
		-EPROTO, "a pubkey that is a number");
	cr_assert_eq(DECODE("\x94\x00\x01\xc0\x92\xa1"
			    "e\x01",
			     &f),
		-EPROTO, "a resume of two elements");
}

Test(wire, ignores_what_later_versions_add)
{
	struct wire_frame f;

	cr_assert_eq(DECODE("\x94\x05\x07\xa1x\x81\x01\x02", &f), 0);
	cr_assert_eq(f.type, WIRE_PING);
	cr_assert_eq(f.request.id, 7);
}

Test(wire, reads_bin_as_str)
{
	struct wire_frame f;

	cr_assert_eq(DECODE("\x94\x04\x01\xc4\x01"
			    "c\xc4\x02xy",
			     &f),
		0);
	cr_assert(wire_str_eq(f.send.channel, wire_str("c")));
	cr_assert(wire_str_eq(f.send.payload, wire_str("xy")));
}

/* What holds of all bytes, the fuzz target says; here is one of each kind. */
static void read_by_hand(const unsigned char *bytes, size_t len)
{
	struct wire_frame f;
	struct wire_strs pubkeys;
	struct wire_str pubkey;

	if (wire_request_read(bytes, len, &f, &pubkeys) < 0)
		return;
	while (wire_strs_next(&pubkeys, bytes, len, &pubkey))
		;
}

Test(wire, reads_requests_by_hand_as_msgpack_does)
{
	for (size_t i = 0; i < sizeof frames / sizeof *frames; i++) {
		unsigned char buf[512];
		struct wire_frame read;
		struct wire_strs pubkeys;
		struct wire_str strs[16];
		int len = wire_encode(&frames[i], buf, sizeof buf);
		cr_assert_eq(wire_request_read(buf, (size_t)len, &read, &pubkeys), 0, "frame %zu", i);
		cr_assert_eq(read.type, frames[i].type);
		if (read.type >= WIRE_WELCOME)
			continue;
		if (read.type == WIRE_SUBSCRIBE || read.type == WIRE_UNSUBSCRIBE) {
			uint32_t n = 0;
			read.subscribe.pubkeys = pubkeys.offset ? strs : NULL;
			while (wire_strs_next(&pubkeys, buf, (size_t)len, &strs[n]))
				n++;
			read.subscribe.n_pubkeys = n;
		}
		expect_same(&frames[i], &read);
	}
}

Test(wire, never_reads_beyond_random_bytes)
{
	unsigned random = 1;
	struct wire_frame f;

	for (int round = 0; round < 300000; round++) {
		/* Of its own size, so that the sanitizer sees a byte too many. */
		size_t len = 1 + (size_t)rand_r(&random) % 24;
		unsigned char *bytes = malloc(len);
		struct wire_scanner scanner = {0};
		for (size_t i = 0; i < len; i++)
			bytes[i] = (unsigned char)rand_r(&random);
		bytes[0] = (unsigned char)(0x90 | (rand_r(&random) & 7));
		bytes[len > 1] = (unsigned char)(rand_r(&random) % 26);
		if (wire_scan(&scanner, bytes, len) == 0) {
			(void)wire_decode(decoder, bytes, scanner.offset, &f);
			read_by_hand(bytes, scanner.offset);
		}
		free(bytes);
	}
}

Test(wire, knows_utf8)
{
	cr_assert(wire_utf8_valid("a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\xf4\x8f\xbf\xbf", 14));
	static const char *const bad[] = {"\x80", "\xc0\x80", "\xc3", "\xe0\x9f\x80", "\xe2\x82",
		"\xed\xa0\x80", "\xf0\x8f\x80\x80", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff"};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
		cr_assert_not(wire_utf8_valid(bad[i], strlen(bad[i])), "%zu", i);
}
