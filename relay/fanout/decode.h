/* A notification as PostgreSQL gives it -> a change or a message, once for all workers. Knows the configured
 * channels and the JSON payload; appending it is the fan-out's business. Called for what the upstream hears,
 * for recovered rows, and in local mode for what workers publish. */
#pragma once

#include "base/config.h"
#include "base/diag.h"
#include "fanout/change.h"
#include "fanout/router.h"

struct decoded {
	unsigned topic; /* the channel's place in the configuration plus one */
	const struct channel *channel;
	struct change change;    /* on a change channel; pubkey.ptr is NULL otherwise */
	struct wire_str payload; /* on a text channel */
	uint64_t key; /* the router's, of topic and pubkey or payload; 0 until decoded_key() is asked */
};

struct decode {
	const struct config *config;
	uint64_t n_malformed;
	struct diag_limit malformed_limit;
};

/* 0: *out is set; pass it to decoded_release(). -ENOENT: the channel is not configured. -EBADMSG: the payload
 * is no change; it was counted and logged. -ENOMEM: it may be one. */
int decode_notification(
	struct decode *decode, const char *channel, struct wire_str payload, struct decoded *out);
/* The same for a recovered row, whose value is the pubkey itself, or the payload. -EBADMSG: no NOTIFY
 * carries the value: it is not UTF-8, or longer than a notification can be. */
int decode_recovered(struct decode *decode, const char *channel, struct wire_str value, struct decoded *out);
void decoded_release(struct decoded *decoded);

/* The frame that tells of it; its strings are borrowed from decoded. flags are the frame's. */
void decoded_frame(const struct decoded *decoded, uint64_t seq, unsigned flags, struct wire_frame *out);
/* The router's key of it. A hash costs as much as all else that is done to a change, so it is taken once, and
 * only when somebody asks. */
uint64_t decoded_key(struct decoded *decoded, const struct router *router);

/* 1 and up; 0 when the channel is not configured. */
unsigned decode_topic(const struct config *config, struct wire_str channel);
