#include "publishes.h"

#include <errno.h>
#include <stdlib.h>

void publishes_init(struct publishes *pubs, size_t limit)
{
	TAILQ_INIT(&pubs->sent);
	TAILQ_INIT(&pubs->queued);
	pubs->bytes = 0;
	pubs->limit = limit;
}

void publishes_free(struct publishes *pubs)
{
	struct publish *pub;

	while ((pub = publishes_any(pubs)))
		free(pub);
}

static size_t cost(size_t frame_len)
{
	return sizeof(struct publish) + frame_len;
}

int publishes_add(struct publishes *pubs, const struct wire_frame *frame, uint64_t deadline,
	pgherald_done *done, void *arg)
{
	bool notify = frame->type == WIRE_NOTIFY;
	size_t strings_len =
		notify ? frame->notify.channel.len + frame->notify.pubkey.len + frame->notify.client_id.len
		       : frame->send.channel.len + frame->send.payload.len;
	size_t size = wire_bound(strings_len);

	if (pubs->bytes + cost(size) > pubs->limit)
		return -ENOBUFS;
	/* One byte more, because the local notifier writes a NUL after the last string. */
	struct publish *pub = malloc(sizeof *pub + size + 1);
	if (!pub)
		return -ENOMEM;
	int len = wire_encode(frame, pub->frame, size);
	if (len < 0) {
		free(pub);
		return len;
	}
	pub->id = notify ? frame->notify.id : frame->send.id;
	pub->deadline = deadline;
	pub->done = done;
	pub->arg = arg;
	pub->len = (uint32_t)len;
	pubs->bytes += cost(pub->len);
	TAILQ_INSERT_TAIL(&pubs->queued, pub, link);
	return 0;
}

struct publish *publishes_next(struct publishes *pubs)
{
	return TAILQ_FIRST(&pubs->queued);
}

void publishes_sent(struct publishes *pubs, struct publish *pub)
{
	TAILQ_REMOVE(&pubs->queued, pub, link);
	TAILQ_INSERT_TAIL(&pubs->sent, pub, link);
}

static struct publish *take(struct publishes *pubs, struct publish_list *list, struct publish *pub)
{
	TAILQ_REMOVE(list, pub, link);
	pubs->bytes -= cost(pub->len);
	return pub;
}

struct publish *publishes_answered(struct publishes *pubs, uint64_t id)
{
	struct publish *pub;

	/* Answers come in roughly the order of the requests, so this search is short. */
	TAILQ_FOREACH (pub, &pubs->sent, link)
		if (pub->id >= id)
			break;
	return pub && pub->id == id ? take(pubs, &pubs->sent, pub) : NULL;
}

struct publish *publishes_any(struct publishes *pubs)
{
	struct publish_list *list = TAILQ_EMPTY(&pubs->sent) ? &pubs->queued : &pubs->sent;

	return TAILQ_EMPTY(list) ? NULL : take(pubs, list, TAILQ_FIRST(list));
}

uint64_t publishes_deadline(const struct publishes *pubs)
{
	const struct publish *first = TAILQ_FIRST(&pubs->sent);

	if (!first)
		first = TAILQ_FIRST(&pubs->queued);
	return first ? first->deadline : UINT64_MAX;
}

struct publish *publishes_expired(struct publishes *pubs, uint64_t now)
{
	return publishes_deadline(pubs) <= now ? publishes_any(pubs) : NULL;
}

void publishes_restart(struct publishes *pubs)
{
	TAILQ_CONCAT(&pubs->sent, &pubs->queued, link);
	TAILQ_CONCAT(&pubs->queued, &pubs->sent, link);
}
