/* The wire protocol of PROTOCOL.md: one struct for each frame, to and from msgpack. Pure code
 * without I/O. The relay and the client library call it. It leaves out what a frame means, and
 * when it may be sent.
 *
 * Decoding has two steps; wire_next() does both. wire_scan() finds where a frame ends and
 * proves that it is harmless: msgpack-c allocates what a header declares, and five bytes can
 * declare 8 GB. wire_decode() then unpacks it. A usual CHANGE needs neither:
 * wire_change_read() reads it by hand. Strings in a decoded frame point into the buffer that
 * was decoded. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define WIRE_VERSION 1
/* Bytes. PROTOCOL.md promises it: changing it changes the protocol. */
#define WIRE_FRAME_MAX 65536
#define WIRE_DEPTH_MAX 4

enum wire_type {
	WIRE_HELLO = 0,
	WIRE_SUBSCRIBE = 1,
	WIRE_UNSUBSCRIBE = 2,
	WIRE_NOTIFY = 3,
	WIRE_SEND = 4,
	WIRE_PING = 5,
	WIRE_BEGIN = 6,
	WIRE_WELCOME = 16,
	WIRE_OK = 17,
	WIRE_ERROR = 18,
	WIRE_CHANGE = 19,
	WIRE_MESSAGE = 20,
	WIRE_CHECKPOINT = 21,
	WIRE_GAP = 22,
	WIRE_UPSTREAM = 23,
	WIRE_BYE = 24,
};

/* The codes of ERROR and BYE, and the causes of a GAP. PROTOCOL.md says what each means. 0
 * exists in C only: the request succeeded, the worker left by itself, nothing was missed. */
enum wire_error_code {
	WIRE_ERROR_NONE,
	WIRE_ERROR_CHANNEL,
	WIRE_ERROR_INVALID,
	WIRE_ERROR_TOO_LONG,
	WIRE_ERROR_LIMIT,
	WIRE_ERROR_BUSY,
	WIRE_ERROR_TIMEOUT,
	WIRE_ERROR_REJECTED,
	WIRE_ERROR_UNKNOWN_TYPE,
	WIRE_ERROR_DENIED,
	WIRE_ERRORS_N,
};
enum wire_bye_code {
	WIRE_BYE_NONE,
	WIRE_BYE_SHUTDOWN,
	WIRE_BYE_EVICTED,
	WIRE_BYE_PROTOCOL,
	WIRE_BYE_DENIED,
	WIRE_BYE_LIMIT,
	WIRE_BYES_N,
};
enum wire_gap_cause {
	WIRE_GAP_NONE,
	WIRE_GAP_OVERRUN,
	WIRE_GAP_RESTART,
	WIRE_GAP_UPSTREAM,
	WIRE_GAP_RECOVERY,
	WIRE_GAPS_N,
};

/* The name in the frame, by code; NULL for none. */
extern const char *const wire_error_names[WIRE_ERRORS_N];
extern const char *const wire_bye_names[WIRE_BYES_N];
extern const char *const wire_gap_names[WIRE_GAPS_N];

/* Bit 0 of a CHANGE's or MESSAGE's flags: found in the database, not heard live. */
#define WIRE_RECOVERED 1u

/* The seq of a frame that is for one worker alone and is not in the backlog. nil on the
 * wire. */
#define WIRE_SEQ_NIL UINT64_MAX

/* A borrowed string: not NUL-terminated, and it may contain any byte. ptr is NULL for nil. */
struct wire_str {
	const char *ptr;
	uint32_t len;
};

struct wire_hello {
	uint64_t version;
	struct wire_str name; /* nil when the worker gave none */
	bool resume;          /* the three fields below are set */
	struct wire_str epoch;
	uint64_t seq;
	struct wire_str checkpoint; /* nil when the worker had none */
};

/* SUBSCRIBE and UNSUBSCRIBE */
struct wire_subscribe {
	uint64_t id;
	struct wire_str channel;
	const struct wire_str *pubkeys; /* NULL for all */
	uint32_t n_pubkeys;
};

/* NOTIFY */
struct wire_notify {
	uint64_t id;
	struct wire_str channel, pubkey;
	struct wire_str client_id; /* may be nil */
};

/* SEND */
struct wire_send {
	uint64_t id;
	struct wire_str channel, payload;
};

/* PING and BEGIN */
struct wire_request {
	uint64_t id;
};

struct wire_welcome {
	uint64_t version;
	struct wire_str epoch;
	uint64_t seq;
	struct wire_str mode, upstream, relay_version;
	const struct wire_str *channels; /* each "name" or "name:text" */
	uint32_t n_channels;
};

struct wire_ok {
	uint64_t id;
	uint64_t seq;
};

struct wire_error {
	bool has_id;
	uint64_t id;
	struct wire_str code, text;
};

struct wire_change {
	uint64_t seq;
	struct wire_str channel, pubkey;
	struct wire_str client_id; /* may be nil */
	uint64_t flags;
};

struct wire_message {
	uint64_t seq;
	struct wire_str channel, payload;
	uint64_t flags;
	bool binary; /* payload is not valid UTF-8, so it is packed as bin */
};

struct wire_checkpoint {
	uint64_t seq;
	struct wire_str checkpoint;
};

struct wire_gap {
	uint64_t seq;
	struct wire_str cause, text;
};

struct wire_upstream {
	uint64_t seq;
	struct wire_str state, text;
};

struct wire_bye {
	struct wire_str code, text;
};

struct wire_frame {
	enum wire_type type;
	union {
		struct wire_hello hello;
		struct wire_subscribe subscribe;
		struct wire_notify notify;
		struct wire_send send;
		struct wire_request request;
		struct wire_welcome welcome;
		struct wire_ok ok;
		struct wire_error error;
		struct wire_change change;
		struct wire_message message;
		struct wire_checkpoint checkpoint;
		struct wire_gap gap;
		struct wire_upstream upstream;
		struct wire_bye bye;
	};
};

/* A decoder owns the arrays of decoded frames, so that decoding a small frame allocates
 * nothing. */
struct wire_decoder;

/* 0 or -ENOMEM. Free *out with wire_decoder_free(). */
int wire_decoder_new(struct wire_decoder **out);
void wire_decoder_free(struct wire_decoder *decoder);

/* The place of a scan in a frame that is still arriving, so that each byte is scanned once
 * even if bytes arrive one by one. All zero at the start of a frame. */
struct wire_scanner {
	/* Every byte before it is harmless. It may be beyond the bytes that have arrived. */
	uint32_t offset;
	uint32_t depth;
	uint32_t left[WIRE_DEPTH_MAX]; /* elements still to come, by depth */
};

/* Continue with the frame that begins at buf, of which len bytes have arrived so far. Allocates
 * nothing, whatever the frame's headers declare.
 *
 * Returns 0 when the frame is complete: its length is scanner->offset. Otherwise:
 * -EAGAIN    valid so far, but more bytes are needed
 * -EMSGSIZE  larger than WIRE_FRAME_MAX
 * -EBADMSG   not a msgpack array, or nested deeper than WIRE_DEPTH_MAX */
int wire_scan(struct wire_scanner *scanner, const void *buf, size_t len);

/* Unpack one frame that wire_scan() accepted. Its strings are valid as long as buf, its arrays
 * until the next wire_decode() with this decoder.
 *
 * Returns 0, or:
 * -EPROTO   a known type whose elements have the wrong types
 * -ENOTSUP  an unknown type
 * -ENOMEM */
int wire_decode(struct wire_decoder *decoder, const void *buf, size_t len, struct wire_frame *out);

/* Scan and decode the frame that begins at buf, of which len bytes have arrived so far.
 * Returns what wire_scan() and wire_decode() return. On 0, -EPROTO, -ENOTSUP and -ENOMEM,
 * *frame_len is the frame's length, and the scanner is reset for the next frame. On -EAGAIN
 * call again with the same scanner when more bytes have arrived. After -EBADMSG or -EMSGSIZE
 * the rest of the stream cannot be read. */
int wire_next(struct wire_scanner *scanner, struct wire_decoder *decoder, const void *buf, size_t len,
	struct wire_frame *out, size_t *frame_len);

/* Pack one frame into buf. Returns its length, or -EMSGSIZE when it is larger than size or
 * WIRE_FRAME_MAX. */
int wire_encode(const struct wire_frame *frame, void *buf, size_t size);

/* Most bytes that a frame takes which has at most seven elements, and strings of this length
 * in all. */
static inline size_t wire_bound(size_t strings_len)
{
	return 64 + strings_len;
}

static inline struct wire_str wire_str(const char *s)
{
	return (struct wire_str){s, s ? (uint32_t)strlen(s) : 0};
}

static inline bool wire_str_eq(struct wire_str a, struct wire_str b)
{
	return a.len == b.len && !a.ptr == !b.ptr && (a.len == 0 || memcmp(a.ptr, b.ptr, a.len) == 0);
}

/* The code with this name. WIRE_ERROR_NONE if this version does not know the name. */
enum wire_error_code wire_error_code(struct wire_str name);

bool wire_utf8_valid(const char *s, size_t len);
