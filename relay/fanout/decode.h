/* Decodes a notification into a change or a message, once for all workers. Knows the configured
 * channels and the JSON payload; fanout.c sends the result. relay.c calls it for what the
 * upstream hears and, in local mode, for what workers publish; recovery.c for recovered
 * rows. */
#pragma once

#include "base/config.h"
#include "base/diag.h"
#include "fanout/change.h"
#include "fanout/router.h"

struct decoded {
	unsigned topic;
	const struct channel *channel; /* in the configuration */
	struct change change;          /* on a change channel; pubkey.ptr is NULL otherwise */
	struct wire_str payload;       /* on a text channel; borrowed from the caller */
	/* The router's, of topic and pubkey or payload. 0 until decoded_key() is called. */
	uint64_t key;
};

struct decode {
	const struct config *config;
	uint64_t n_malformed;
	struct diag_limit malformed_limit;
};

/* 0: *out is set, and must go to decoded_release(); it is valid as long as payload is. -ENOENT:
 * the channel is not configured. -EBADMSG: the payload is not a change; this was counted and
 * logged. -ENOMEM: it may be one. */
int decode_notification(
	struct decode *decode, const char *channel, struct wire_str payload, struct decoded *out);
/* The same for a recovered row, whose value is the pubkey itself, or the payload. stored: bytes
 * that the value has in the database's encoding. -EBADMSG: no NOTIFY can carry it: it is not
 * UTF-8, or has more than CHANGE_PAYLOAD_MAX bytes there. */
int decode_recovered(struct decode *decode, const char *channel, struct wire_str value, uint32_t stored,
	struct decoded *out);
void decoded_release(struct decoded *decoded);

/* Makes the frame; its strings are borrowed from decoded. flags are the frame's. */
void decoded_frame(const struct decoded *decoded, uint64_t seq, unsigned flags, struct wire_frame *out);
/* Hashes once, and only when called: the hash costs as much as everything else that is done to
 * a change. */
uint64_t decoded_key(struct decoded *decoded, const struct router *router);

/* 0: the channel is not configured. */
unsigned decode_topic(const struct config *config, struct wire_str channel);
