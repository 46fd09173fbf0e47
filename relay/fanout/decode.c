#include "fanout/decode.h"

#include <errno.h>
#include <string.h>

unsigned decode_topic(const struct config *config, struct wire_str channel)
{
	for (unsigned i = 0; i < config->n_channels; i++)
		if (!config->channels[i].gone && wire_str_eq(wire_str(config->channels[i].name), channel))
			return i + 1;
	return 0;
}

static int find_channel(const struct decode *d, const char *channel, struct decoded *out)
{
	*out = (struct decoded){.topic = decode_topic(d->config, wire_str(channel))};
	if (out->topic == 0)
		return -ENOENT;
	out->channel = &d->config->channels[out->topic - 1];
	return 0;
}

int decode_notification(struct decode *d, const char *channel, struct wire_str payload, struct decoded *out)
{
	int r = find_channel(d, channel, out);

	if (r < 0)
		return r;
	if (out->channel->kind == CHANNEL_TEXT) {
		out->payload = payload;
		return 0;
	}
	r = change_decode(payload.ptr, payload.len, &out->change);
	if (r == -EBADMSG) {
		d->n_malformed++;
		diag_limited(&d->malformed_limit, DIAG_WARNING,
			"dropped a payload that is not a change; find who notifies there channel=\"%s\" length=%u",
			channel, payload.len);
		diag(DIAG_DEBUG, "the payload that is not a change: %.*s", (int)payload.len, payload.ptr);
	}
	return r;
}

int decode_recovered(
	struct decode *d, const char *channel, struct wire_str value, uint32_t stored, struct decoded *out)
{
	int r = find_channel(d, channel, out);

	if (r < 0)
		return r;
	bool is_text = out->channel->kind == CHANNEL_TEXT;
	if (stored > CHANGE_PAYLOAD_MAX || value.len > CHANGE_UTF8_MAX ||
		(!is_text && !wire_utf8_valid(value.ptr, value.len)))
		return -EBADMSG;
	if (is_text)
		out->payload = value;
	else
		out->change.pubkey = value;
	return 0;
}

void decoded_release(struct decoded *decoded)
{
	change_release(&decoded->change);
}

void decoded_frame(const struct decoded *d, uint64_t seq, unsigned flags, struct wire_frame *out)
{
	struct wire_str channel = wire_str(d->channel->name);

	if (d->channel->kind == CHANNEL_CHANGES)
		*out = (struct wire_frame){.type = WIRE_CHANGE,
			.change = {seq, channel, d->change.pubkey, d->change.client_id, flags}};
	else
		*out = (struct wire_frame){.type = WIRE_MESSAGE,
			.message = {seq, channel, d->payload, flags,
				.binary = !wire_utf8_valid(d->payload.ptr, d->payload.len)}};
}

uint64_t decoded_key(struct decoded *d, const struct router *router)
{
	if (!d->key)
		d->key = router_key(router, d->topic,
			d->channel->kind == CHANNEL_CHANGES ? d->change.pubkey : d->payload);
	return d->key;
}
