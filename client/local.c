#include "local.h"

#include "handle.h"
#include "tell.h"

#include <stdlib.h>

static void deliver(struct pgherald *h, const struct wire_frame *frame, uint64_t seq)
{
	static const struct wire_str nil = {0};

	if (frame->type == WIRE_NOTIFY) {
		struct wire_change change = {
			.seq = seq,
			.channel = frame->notify.channel,
			.pubkey = frame->notify.pubkey,
			.client_id = frame->notify.client_id,
		};
		if (subscriptions_match(&h->subs, change.channel, change.pubkey))
			tell_change(h, &change);
	} else {
		struct wire_message message = {
			.seq = seq, .channel = frame->send.channel, .payload = frame->send.payload};
		if (subscriptions_match(&h->subs, message.channel, nil))
			tell_message(h, &message);
	}
}

static void publish(struct pgherald *h, struct publish *pub)
{
	struct wire_frame frame;

	/* The library encoded the frame itself: it can only fail for lack of memory. */
	int r = wire_decode(h->decoder, pub->frame, pub->len, &frame);
	uint64_t seq = r < 0 ? 0 : ++h->local_seq;

	tell_done(h, pub->done, pub->arg, (struct pgherald_result){.error = r, .seq = seq});
	if (r == 0 && handle_goes_on(h))
		deliver(h, &frame, seq);
	free(pub);
}

void local_turn(struct pgherald *h)
{
	uint64_t first_new = h->next_id;
	struct publish *pub;

	if (!h->local_told) {
		h->local_told = true;
		tell_state(h, PGHERALD_CONNECTED, "in-process");
		if (handle_goes_on(h))
			tell_state(h, PGHERALD_UPSTREAM_LIVE, "");
	}
	if (handle_goes_on(h))
		tell_ready(h);
	while (handle_goes_on(h) && (pub = publishes_next(&h->pubs)) && pub->id < first_new)
		publish(h, publishes_any(&h->pubs));
}
