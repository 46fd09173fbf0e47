#include "wire.h"

#include "wire_change.h"

#include <errno.h>
#include <msgpack.h>
#include <string.h>

/* Small frames unpack into this many bytes, which a decoder keeps. */
#define DECODER_CHUNK 4096

struct wire_decoder {
	msgpack_zone zone;
};

bool wire_utf8_valid(const char *s, size_t len)
{
	const unsigned char *p = (const unsigned char *)s, *end = p + len;

	while (p < end) {
		uint64_t eight;
		if (end - p >= 8 &&
			(memcpy(&eight, p, sizeof eight), eight & UINT64_C(0x8080808080808080)) == 0) {
			p += 8;
			continue;
		}
		if (*p < 0x80) {
			p++;
			continue;
		}
		/* The bounds of the second byte keep out overlong forms, surrogates and what lies beyond
		 * U+10FFFF. */
		unsigned char low = 0x80, high = 0xbf;
		int more;
		if (*p >= 0xc2 && *p <= 0xdf) {
			more = 1;
		} else if (*p >= 0xe0 && *p <= 0xef) {
			more = 2;
			low = *p == 0xe0 ? 0xa0 : low;
			high = *p == 0xed ? 0x9f : high;
		} else if (*p >= 0xf0 && *p <= 0xf4) {
			more = 3;
			low = *p == 0xf0 ? 0x90 : low;
			high = *p == 0xf4 ? 0x8f : high;
		} else {
			return false;
		}
		if (end - p <= more || p[1] < low || p[1] > high)
			return false;
		for (int i = 2; i <= more; i++)
			if ((p[i] & 0xc0) != 0x80)
				return false;
		p += more + 1;
	}
	return true;
}

int wire_decoder_new(struct wire_decoder **out)
{
	struct wire_decoder *d = malloc(sizeof *d);

	if (!d)
		return -ENOMEM;
	if (!msgpack_zone_init(&d->zone, DECODER_CHUNK)) {
		free(d);
		return -ENOMEM;
	}
	*out = d;
	return 0;
}

void wire_decoder_free(struct wire_decoder *decoder)
{
	if (!decoder)
		return;
	msgpack_zone_destroy(&decoder->zone);
	free(decoder);
}

/* Decoding */

static bool get_uint(const msgpack_object *o, uint64_t *out)
{
	if (o->type != MSGPACK_OBJECT_POSITIVE_INTEGER)
		return false;
	*out = o->via.u64;
	return true;
}

static bool get_seq(const msgpack_object *o, uint64_t *out)
{
	if (o->type == MSGPACK_OBJECT_NIL) {
		*out = WIRE_SEQ_NIL;
		return true;
	}
	return get_uint(o, out);
}

static bool get_str(const msgpack_object *o, struct wire_str *out)
{
	if (o->type == MSGPACK_OBJECT_STR)
		*out = (struct wire_str){o->via.str.ptr, o->via.str.size};
	else if (o->type == MSGPACK_OBJECT_BIN)
		*out = (struct wire_str){o->via.bin.ptr, o->via.bin.size};
	else
		return false;
	/* For an empty string msgpack-c leaves the pointer at NULL, which is nil here, or at some other
	 * string. */
	if (out->len == 0)
		out->ptr = "";
	return true;
}

static bool get_str_or_nil(const msgpack_object *o, struct wire_str *out)
{
	*out = (struct wire_str){0};
	return o->type == MSGPACK_OBJECT_NIL || get_str(o, out);
}

/* 0, -EPROTO or -ENOMEM */
static int get_strs(msgpack_zone *zone, const msgpack_object *o, const struct wire_str **out, uint32_t *n)
{
	if (o->type != MSGPACK_OBJECT_ARRAY)
		return -EPROTO;
	/* One more than needed, so that an empty array is not NULL. */
	struct wire_str *strs = msgpack_zone_malloc(zone, (o->via.array.size + 1) * sizeof *strs);
	if (!strs)
		return -ENOMEM;
	for (uint32_t i = 0; i < o->via.array.size; i++)
		if (!get_str(&o->via.array.ptr[i], &strs[i]))
			return -EPROTO;
	*out = strs;
	*n = o->via.array.size;
	return 0;
}

static int get_resume(const msgpack_object *o, struct wire_hello *hello)
{
	hello->resume = o->type != MSGPACK_OBJECT_NIL;
	if (!hello->resume)
		return 0;
	if (o->type != MSGPACK_OBJECT_ARRAY || o->via.array.size < 3)
		return -EPROTO;
	const msgpack_object *e = o->via.array.ptr;
	return get_str(&e[0], &hello->epoch) && get_uint(&e[1], &hello->seq) &&
			       get_str_or_nil(&e[2], &hello->checkpoint)
		       ? 0
		       : -EPROTO;
}

static int get_info(msgpack_zone *zone, const msgpack_object *o, struct wire_welcome *welcome)
{
	if (o->type != MSGPACK_OBJECT_MAP)
		return -EPROTO;
	for (uint32_t i = 0; i < o->via.map.size; i++) {
		const msgpack_object_kv *kv = &o->via.map.ptr[i];
		struct wire_str key;
		bool good = true;
		if (!get_str(&kv->key, &key))
			return -EPROTO;
		if (wire_str_eq(key, wire_str("mode")))
			good = get_str(&kv->val, &welcome->mode);
		else if (wire_str_eq(key, wire_str("upstream")))
			good = get_str(&kv->val, &welcome->upstream);
		else if (wire_str_eq(key, wire_str("version")))
			good = get_str(&kv->val, &welcome->relay_version);
		else if (wire_str_eq(key, wire_str("channels"))) {
			int r = get_strs(zone, &kv->val, &welcome->channels, &welcome->n_channels);
			if (r < 0)
				return r;
		}
		if (!good)
			return -EPROTO;
	}
	return 0;
}

/* How many elements a frame of this type has at least; 0 for a type that is unknown. */
static uint32_t elements_of(uint64_t type)
{
	switch (type) {
	case WIRE_HELLO:
	case WIRE_SUBSCRIBE:
	case WIRE_UNSUBSCRIBE:
	case WIRE_SEND:
	case WIRE_ERROR:
	case WIRE_GAP:
	case WIRE_UPSTREAM:
		return 4;
	case WIRE_NOTIFY:
	case WIRE_WELCOME:
	case WIRE_MESSAGE:
		return 5;
	case WIRE_PING:
	case WIRE_BEGIN:
		return 2;
	case WIRE_OK:
	case WIRE_CHECKPOINT:
	case WIRE_BYE:
		return 3;
	case WIRE_CHANGE:
		return 6;
	default:
		return 0;
	}
}

static int decode_elements(msgpack_zone *zone, const msgpack_object *e, struct wire_frame *f)
{
	int r = 0;
	bool good = true;

	switch (f->type) {
	case WIRE_HELLO:
		good = get_uint(&e[1], &f->hello.version) && get_str_or_nil(&e[2], &f->hello.name);
		r = get_resume(&e[3], &f->hello);
		break;
	case WIRE_SUBSCRIBE:
	case WIRE_UNSUBSCRIBE:
		good = get_uint(&e[1], &f->subscribe.id) && get_str(&e[2], &f->subscribe.channel);
		if (e[3].type != MSGPACK_OBJECT_NIL)
			r = get_strs(zone, &e[3], &f->subscribe.pubkeys, &f->subscribe.n_pubkeys);
		break;
	case WIRE_NOTIFY:
		good = get_uint(&e[1], &f->notify.id) && get_str(&e[2], &f->notify.channel) &&
		       get_str(&e[3], &f->notify.pubkey) && get_str_or_nil(&e[4], &f->notify.client_id);
		break;
	case WIRE_SEND:
		good = get_uint(&e[1], &f->send.id) && get_str(&e[2], &f->send.channel) &&
		       get_str(&e[3], &f->send.payload);
		break;
	case WIRE_PING:
	case WIRE_BEGIN:
		good = get_uint(&e[1], &f->request.id);
		break;
	case WIRE_WELCOME:
		good = get_uint(&e[1], &f->welcome.version) && get_str(&e[2], &f->welcome.epoch) &&
		       get_uint(&e[3], &f->welcome.seq);
		r = get_info(zone, &e[4], &f->welcome);
		break;
	case WIRE_OK:
		good = get_uint(&e[1], &f->ok.id) && get_uint(&e[2], &f->ok.seq);
		break;
	case WIRE_ERROR:
		f->error.has_id = e[1].type != MSGPACK_OBJECT_NIL;
		good = (!f->error.has_id || get_uint(&e[1], &f->error.id)) &&
		       get_str(&e[2], &f->error.code) && get_str(&e[3], &f->error.text);
		break;
	case WIRE_CHANGE:
		good = get_seq(&e[1], &f->change.seq) && get_str(&e[2], &f->change.channel) &&
		       get_str(&e[3], &f->change.pubkey) && get_str_or_nil(&e[4], &f->change.client_id) &&
		       get_uint(&e[5], &f->change.flags);
		break;
	case WIRE_MESSAGE:
		good = get_seq(&e[1], &f->message.seq) && get_str(&e[2], &f->message.channel) &&
		       get_str(&e[3], &f->message.payload) && get_uint(&e[4], &f->message.flags);
		f->message.binary = e[3].type == MSGPACK_OBJECT_BIN;
		break;
	case WIRE_CHECKPOINT:
		good = get_seq(&e[1], &f->checkpoint.seq) && get_str(&e[2], &f->checkpoint.checkpoint);
		break;
	case WIRE_GAP:
		good = get_seq(&e[1], &f->gap.seq) && get_str(&e[2], &f->gap.cause) &&
		       get_str(&e[3], &f->gap.text);
		break;
	case WIRE_UPSTREAM:
		good = get_seq(&e[1], &f->upstream.seq) && get_str(&e[2], &f->upstream.state) &&
		       get_str(&e[3], &f->upstream.text);
		break;
	case WIRE_BYE:
		good = get_str(&e[1], &f->bye.code) && get_str(&e[2], &f->bye.text);
		break;
	}
	return r < 0 ? r : good ? 0 : -EPROTO;
}

int wire_decode(struct wire_decoder *decoder, const void *buf, size_t len, struct wire_frame *out)
{
	msgpack_object o;
	size_t offset = 0;
	uint64_t type;

	msgpack_zone_clear(&decoder->zone);
	switch (msgpack_unpack(buf, len, &offset, &decoder->zone, &o)) {
	case MSGPACK_UNPACK_SUCCESS:
		break;
	case MSGPACK_UNPACK_NOMEM_ERROR:
		return -ENOMEM;
	default:
		return -EPROTO;
	}
	if (o.type != MSGPACK_OBJECT_ARRAY || o.via.array.size == 0 || !get_uint(&o.via.array.ptr[0], &type))
		return -EPROTO;
	uint32_t least = elements_of(type);
	if (least == 0)
		return -ENOTSUP;
	if (o.via.array.size < least)
		return -EPROTO;
	*out = (struct wire_frame){.type = (enum wire_type)type};
	return decode_elements(&decoder->zone, o.via.array.ptr, out);
}

int wire_next(struct wire_scanner *scanner, struct wire_decoder *decoder, const void *buf, size_t len,
	struct wire_frame *out, size_t *frame_len)
{
	if (scanner->offset == 0 && (*frame_len = wire_change_read(buf, len, &out->change)) > 0) {
		out->type = WIRE_CHANGE;
		return 0;
	}
	int r = wire_scan(scanner, buf, len);
	if (r < 0)
		return r;
	*frame_len = scanner->offset;
	*scanner = (struct wire_scanner){0};
	return wire_decode(decoder, buf, *frame_len, out);
}

/* Encoding */

/* What msgpack-c writes into. Once a write did not fit, full stays set and the frame is void. */
struct room {
	char *next, *end;
	bool full;
};

static int room_write(void *data, const char *bytes, size_t len)
{
	struct room *room = data;

	if (room->full || (size_t)(room->end - room->next) < len) {
		room->full = true;
		return -1;
	}
	memcpy(room->next, bytes, len);
	room->next += len;
	return 0;
}

static void put_str(msgpack_packer *pk, struct wire_str s)
{
	if (!s.ptr) {
		msgpack_pack_nil(pk);
		return;
	}
	msgpack_pack_str(pk, s.len);
	msgpack_pack_str_body(pk, s.ptr, s.len);
}

static void put_bin(msgpack_packer *pk, struct wire_str s)
{
	msgpack_pack_bin(pk, s.len);
	msgpack_pack_bin_body(pk, s.ptr, s.len);
}

static void put_seq(msgpack_packer *pk, uint64_t seq)
{
	if (seq == WIRE_SEQ_NIL)
		msgpack_pack_nil(pk);
	else
		msgpack_pack_uint64(pk, seq);
}

static void put_strs(msgpack_packer *pk, const struct wire_str *strs, uint32_t n)
{
	msgpack_pack_array(pk, n);
	for (uint32_t i = 0; i < n; i++)
		put_str(pk, strs[i]);
}

static void put_resume(msgpack_packer *pk, const struct wire_hello *hello)
{
	if (!hello->resume) {
		msgpack_pack_nil(pk);
		return;
	}
	msgpack_pack_array(pk, 3);
	put_str(pk, hello->epoch);
	msgpack_pack_uint64(pk, hello->seq);
	put_str(pk, hello->checkpoint);
}

static void put_info(msgpack_packer *pk, const struct wire_welcome *welcome)
{
	msgpack_pack_map(pk, 4);
	put_str(pk, wire_str("mode"));
	put_str(pk, welcome->mode);
	put_str(pk, wire_str("upstream"));
	put_str(pk, welcome->upstream);
	put_str(pk, wire_str("channels"));
	put_strs(pk, welcome->channels, welcome->n_channels);
	put_str(pk, wire_str("version"));
	put_str(pk, welcome->relay_version);
}

int wire_encode(const struct wire_frame *f, void *buf, size_t size)
{
	if (f->type == WIRE_CHANGE) {
		const struct wire_change *c = &f->change;
		size_t bound = wire_bound((size_t)c->channel.len + c->pubkey.len + c->client_id.len);
		if (bound <= size && bound <= WIRE_FRAME_MAX)
			return wire_change_write(c, buf);
	}

	struct room room = {
		.next = buf, .end = (char *)buf + (size < WIRE_FRAME_MAX ? size : WIRE_FRAME_MAX)};
	msgpack_packer pk;

	msgpack_packer_init(&pk, &room, room_write);
	msgpack_pack_array(&pk, elements_of(f->type));
	msgpack_pack_uint8(&pk, (uint8_t)f->type);
	switch (f->type) {
	case WIRE_HELLO:
		msgpack_pack_uint64(&pk, f->hello.version);
		put_str(&pk, f->hello.name);
		put_resume(&pk, &f->hello);
		break;
	case WIRE_SUBSCRIBE:
	case WIRE_UNSUBSCRIBE:
		msgpack_pack_uint64(&pk, f->subscribe.id);
		put_str(&pk, f->subscribe.channel);
		if (f->subscribe.pubkeys)
			put_strs(&pk, f->subscribe.pubkeys, f->subscribe.n_pubkeys);
		else
			msgpack_pack_nil(&pk);
		break;
	case WIRE_NOTIFY:
		msgpack_pack_uint64(&pk, f->notify.id);
		put_str(&pk, f->notify.channel);
		put_str(&pk, f->notify.pubkey);
		put_str(&pk, f->notify.client_id);
		break;
	case WIRE_SEND:
		msgpack_pack_uint64(&pk, f->send.id);
		put_str(&pk, f->send.channel);
		put_str(&pk, f->send.payload);
		break;
	case WIRE_PING:
	case WIRE_BEGIN:
		msgpack_pack_uint64(&pk, f->request.id);
		break;
	case WIRE_WELCOME:
		msgpack_pack_uint64(&pk, f->welcome.version);
		put_str(&pk, f->welcome.epoch);
		msgpack_pack_uint64(&pk, f->welcome.seq);
		put_info(&pk, &f->welcome);
		break;
	case WIRE_OK:
		msgpack_pack_uint64(&pk, f->ok.id);
		msgpack_pack_uint64(&pk, f->ok.seq);
		break;
	case WIRE_ERROR:
		if (f->error.has_id)
			msgpack_pack_uint64(&pk, f->error.id);
		else
			msgpack_pack_nil(&pk);
		put_str(&pk, f->error.code);
		put_str(&pk, f->error.text);
		break;
	case WIRE_CHANGE:
		put_seq(&pk, f->change.seq);
		put_str(&pk, f->change.channel);
		put_str(&pk, f->change.pubkey);
		put_str(&pk, f->change.client_id);
		msgpack_pack_uint64(&pk, f->change.flags);
		break;
	case WIRE_MESSAGE:
		put_seq(&pk, f->message.seq);
		put_str(&pk, f->message.channel);
		if (f->message.binary)
			put_bin(&pk, f->message.payload);
		else
			put_str(&pk, f->message.payload);
		msgpack_pack_uint64(&pk, f->message.flags);
		break;
	case WIRE_CHECKPOINT:
		put_seq(&pk, f->checkpoint.seq);
		put_str(&pk, f->checkpoint.checkpoint);
		break;
	case WIRE_GAP:
		put_seq(&pk, f->gap.seq);
		put_str(&pk, f->gap.cause);
		put_str(&pk, f->gap.text);
		break;
	case WIRE_UPSTREAM:
		put_seq(&pk, f->upstream.seq);
		put_str(&pk, f->upstream.state);
		put_str(&pk, f->upstream.text);
		break;
	case WIRE_BYE:
		put_str(&pk, f->bye.code);
		put_str(&pk, f->bye.text);
		break;
	}
	return room.full ? -EMSGSIZE : (int)(room.next - (char *)buf);
}
