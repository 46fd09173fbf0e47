/* The frame scanner and the decoder, of both ends. The input is a stream, and before it the
 * places where it is cut in pieces: with any cuts, the same frames come out. What the scanner
 * accepts is a frame to msgpack-c too, at a cost bounded by its length. The hand-written code
 * that reads and writes a CHANGE, and reads a request, agrees with msgpack-c. What was decoded
 * encodes to the same bytes. */
#include "wire.h"
#include "input.h"
#include "wire_change.h"
#include "wire_request.h"

#include <errno.h>
#include <msgpack.h>
#include <sanitizer/allocator_interface.h>

#define FRAMES_MAX 4096
#define TEARS_MAX 16

/* What came out of the stream with one way of cutting it. */
struct reading {
	struct {
		uint32_t len;
		int result;
	} frames[FRAMES_MAX];
	int n;
	int end; /* why it stopped: what wire_next() said last */
};

static struct wire_decoder *decoder;
static size_t allocated;

static void on_malloc(const volatile void *p, size_t size)
{
	(void)p;
	allocated += size;
}

static void on_free(const volatile void *p)
{
	(void)p;
}

/* Encoding may turn bin into str, leave out elements that this version does not know, and write
 * the largest seq as nil, for which it stands. */
static bool is_text(const msgpack_object *o)
{
	return o->type == MSGPACK_OBJECT_STR || o->type == MSGPACK_OBJECT_BIN;
}

static bool same(const msgpack_object *was, const msgpack_object *is);

static bool same_map(const msgpack_object *was, const msgpack_object *is)
{
	for (uint32_t i = 0; i < is->via.map.size; i++) {
		const msgpack_object_kv *kv = &is->via.map.ptr[i];
		bool found = false;
		for (uint32_t j = was->via.map.size; j-- > 0 && !found;) {
			found = same(&was->via.map.ptr[j].key, &kv->key);
			if (found && !same(&was->via.map.ptr[j].val, &kv->val))
				return false;
		}
		/* Without channels, the list is empty. */
		if (!found && !(kv->val.type == MSGPACK_OBJECT_ARRAY && kv->val.via.array.size == 0))
			return false;
	}
	return true;
}

static bool same(const msgpack_object *was, const msgpack_object *is)
{
	if (is_text(was) && is_text(is))
		return was->via.str.size == is->via.str.size &&
		       (is->via.str.size == 0 ||
			       memcmp(was->via.str.ptr, is->via.str.ptr, is->via.str.size) == 0);
	if (is->type == MSGPACK_OBJECT_NIL && was->type == MSGPACK_OBJECT_POSITIVE_INTEGER)
		return was->via.u64 == WIRE_SEQ_NIL;
	if (was->type != is->type)
		return false;
	switch (is->type) {
	case MSGPACK_OBJECT_NIL:
		return true;
	case MSGPACK_OBJECT_POSITIVE_INTEGER:
		return was->via.u64 == is->via.u64;
	case MSGPACK_OBJECT_MAP:
		return same_map(was, is);
	case MSGPACK_OBJECT_ARRAY:
		for (uint32_t i = 0; i < is->via.array.size; i++)
			if (i >= was->via.array.size || !same(&was->via.array.ptr[i], &is->via.array.ptr[i]))
				return false;
		return true;
	default:
		return false;
	}
}

static msgpack_object unpack(msgpack_zone *zone, const void *bytes, size_t len)
{
	msgpack_object o;
	size_t offset = 0;

	must(msgpack_zone_init(zone, 1024));
	int r = msgpack_unpack(bytes, len, &offset, zone, &o);
	must(r == MSGPACK_UNPACK_SUCCESS && offset == len && o.type == MSGPACK_OBJECT_ARRAY);
	return o;
}

/* The relay never encodes a WELCOME that leaves anything out. */
static bool can_be_encoded(const struct wire_frame *f)
{
	return f->type != WIRE_WELCOME ||
	       (f->welcome.mode.ptr && f->welcome.upstream.ptr && f->welcome.relay_version.ptr);
}

static void encode_again(const void *bytes, size_t len, const struct wire_frame *frame)
{
	static unsigned char again[WIRE_FRAME_MAX], twice[WIRE_FRAME_MAX];
	msgpack_zone zone, zone_again;
	struct wire_frame frame_again;
	struct wire_scanner scanner = {0};

	if (!can_be_encoded(frame))
		return;
	int n = wire_encode(frame, again, sizeof again);
	/* Only this may grow: a WELCOME without channels gets an empty list. */
	if (frame->type == WIRE_WELCOME && n == -EMSGSIZE)
		return;
	must(n > 0 && (frame->type == WIRE_WELCOME || (size_t)n <= len));
	must(wire_encode(frame, twice, (size_t)n) == n && memcmp(again, twice, (size_t)n) == 0);
	must(wire_encode(frame, twice, (size_t)n - 1) == -EMSGSIZE);
	must(wire_scan(&scanner, again, (size_t)n) == 0 && scanner.offset == (uint32_t)n);
	msgpack_object was = unpack(&zone, bytes, len), is = unpack(&zone_again, again, (size_t)n);
	must(same(&was, &is));
	msgpack_zone_destroy(&zone);
	msgpack_zone_destroy(&zone_again);
	must(wire_decode(decoder, again, (size_t)n, &frame_again) == 0 && frame_again.type == frame->type);
	must(wire_encode(&frame_again, twice, sizeof twice) == n && memcmp(again, twice, (size_t)n) == 0);
}

static void compare_change(const struct wire_change *a, const struct wire_change *b)
{
	must(a->seq == b->seq && a->flags == b->flags && wire_str_eq(a->channel, b->channel));
	must(wire_str_eq(a->pubkey, b->pubkey) && wire_str_eq(a->client_id, b->client_id));
}

static void compare_pubkeys(
	const unsigned char *bytes, size_t len, struct wire_strs strs, const struct wire_subscribe *s)
{
	struct wire_str str;
	uint32_t n = strs.left;

	must((strs.offset > 0) == (s->pubkeys != NULL) && n == s->n_pubkeys);
	for (uint32_t i = 0; i < n; i++)
		must(wire_strs_next(&strs, bytes, len, &str) && wire_str_eq(str, s->pubkeys[i]));
	must(!wire_strs_next(&strs, bytes, len, &str));
}

static bool are_strings(const unsigned char *bytes, size_t len, struct wire_strs strs)
{
	struct wire_str str;

	while (strs.left > 0)
		if (!wire_strs_next(&strs, bytes, len, &str))
			return false;
	return true;
}

/* r and f: from wire_decode(). */
static void compare_request(const unsigned char *bytes, size_t len, int r, const struct wire_frame *f)
{
	struct wire_frame read;
	struct wire_strs pubkeys;
	int result = wire_request_read(bytes, len, &read, &pubkeys);

	if (result == 0 && read.type >= WIRE_WELCOME) {
		must(r != -ENOTSUP);
		return;
	}
	if (result == 0 && r == -EPROTO) {
		must(!are_strings(bytes, len, pubkeys));
		return;
	}
	must(result == r);
	if (r < 0)
		return;
	must(read.type == f->type);
	switch (f->type) {
	case WIRE_HELLO:
		must(read.hello.version == f->hello.version && read.hello.resume == f->hello.resume &&
			read.hello.seq == f->hello.seq && wire_str_eq(read.hello.name, f->hello.name) &&
			wire_str_eq(read.hello.epoch, f->hello.epoch) &&
			wire_str_eq(read.hello.checkpoint, f->hello.checkpoint));
		break;
	case WIRE_SUBSCRIBE:
	case WIRE_UNSUBSCRIBE:
		must(read.subscribe.id == f->subscribe.id &&
			wire_str_eq(read.subscribe.channel, f->subscribe.channel));
		compare_pubkeys(bytes, len, pubkeys, &f->subscribe);
		break;
	case WIRE_NOTIFY:
		must(read.notify.id == f->notify.id && wire_str_eq(read.notify.channel, f->notify.channel) &&
			wire_str_eq(read.notify.pubkey, f->notify.pubkey) &&
			wire_str_eq(read.notify.client_id, f->notify.client_id));
		break;
	case WIRE_SEND:
		must(read.send.id == f->send.id && wire_str_eq(read.send.channel, f->send.channel) &&
			wire_str_eq(read.send.payload, f->send.payload));
		break;
	default:
		must(read.request.id == f->request.id);
	}
}

/* A frame of its own, and what wire_next() made of it. */
static void decode(const unsigned char *bytes, size_t len, int result, const struct wire_frame *read)
{
	/* An allocation of its own size, so that the sanitizer sees a read past the end. */
	unsigned char *copy = malloc(len);
	struct wire_scanner scanner = {0};
	struct wire_frame frame;
	struct wire_change change;
	msgpack_zone zone;

	must(copy);
	memcpy(copy, bytes, len);
	must(wire_scan(&scanner, copy, len) == 0 && scanner.offset == len);
	if (result == 0 && read->type == WIRE_CHANGE) {
		/* The strings are borrowed: compare them before the decoder's memory is used
		 * again. */
		must(wire_decode(decoder, copy, len, &frame) == 0 && frame.type == WIRE_CHANGE);
		compare_change(&read->change, &frame.change);
		if (wire_change_read(copy, len, &change) == len)
			compare_change(&change, &frame.change);
	} else {
		must(wire_change_read(copy, len, &change) == 0);
	}
	allocated = 0;
	int r = wire_decode(decoder, copy, len, &frame);
	/* An element takes at least a byte, its object and string 40, and a zone's chunk
	 * doubles. */
	must(allocated <= 64 * 1024 + 128 * len);
	must(r == result && (r == 0 || r == -EPROTO || r == -ENOTSUP));
	compare_request(copy, len, r, &frame);
	unpack(&zone, copy, len);
	msgpack_zone_destroy(&zone);
	if (r == 0)
		encode_again(copy, len, &frame);
	free(copy);
}

/* What a reader does that has this much of the stream; start: of the frame that is
 * arriving. */
static void arrive(
	struct reading *r, struct wire_scanner *scanner, const uint8_t *stream, size_t *start, size_t len)
{
	while (r->end == -EAGAIN && *start < len && r->n < FRAMES_MAX) {
		/* Of its own size, too. */
		unsigned char *copy = malloc(len - *start);
		must(copy);
		memcpy(copy, stream + *start, len - *start);
		size_t frame_len = 0;
		struct wire_frame frame;
		int result = wire_next(scanner, decoder, copy, len - *start, &frame, &frame_len);
		if (result == -EAGAIN || result == -EMSGSIZE || result == -EBADMSG) {
			free(copy);
			r->end = result;
			return;
		}
		must(frame_len > 0 && frame_len <= len - *start && frame_len <= WIRE_FRAME_MAX);
		must(scanner->offset == 0 && scanner->depth == 0);
		decode(copy, frame_len, result, &frame);
		r->frames[r->n].len = (uint32_t)frame_len;
		r->frames[r->n++].result = result;
		*start += frame_len;
		free(copy);
	}
}

static struct reading *read_torn(const uint8_t *stream, size_t len, const size_t *tears, int n_tears)
{
	struct reading *r = calloc(1, sizeof *r);
	struct wire_scanner scanner = {0};
	size_t start = 0;

	must(r);
	r->end = -EAGAIN;
	for (int i = 0; i < n_tears; i++)
		if (tears[i] < len && tears[i] > start)
			arrive(r, &scanner, stream, &start, tears[i]);
	arrive(r, &scanner, stream, &start, len);
	return r;
}

static struct reading *read_byte_by_byte(const uint8_t *stream, size_t len)
{
	struct reading *r = calloc(1, sizeof *r);
	struct wire_scanner scanner = {0};
	size_t start = 0;

	must(r);
	r->end = -EAGAIN;
	for (size_t i = 1; i <= len; i++)
		arrive(r, &scanner, stream, &start, i);
	return r;
}

static void compare(const struct reading *a, struct reading *b)
{
	must(a->n == b->n && a->end == b->end);
	for (int i = 0; i < a->n; i++)
		must(a->frames[i].len == b->frames[i].len && a->frames[i].result == b->frames[i].result);
	free(b);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	__sanitizer_install_malloc_and_free_hooks(on_malloc, on_free);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, data + size};
	size_t tears[TEARS_MAX];
	int n_tears = (int)(input_byte(&in) % TEARS_MAX);

	for (int i = 0; i < n_tears; i++)
		tears[i] = (i > 0 ? tears[i - 1] : 0) + input_byte(&in);
	must(wire_decoder_new(&decoder) == 0);
	size_t len = (size_t)(in.end - in.next);
	struct reading *whole = read_torn(in.next, len, NULL, 0);
	compare(whole, read_torn(in.next, len, tears, n_tears));
	if (len <= 512)
		compare(whole, read_byte_by_byte(in.next, len));
	free(whole);
	wire_decoder_free(decoder);
	return 0;
}
