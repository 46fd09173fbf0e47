#include "tell.h"

#include <stdlib.h>

const char *tell_text(struct wire_str s)
{
	if (!s.ptr)
		return NULL;
	if (s.len == 0)
		return "";
	/* The buffer is ours to write to, and what follows the string in its frame is
	 * already decoded. */
	char *p = (char *)(uintptr_t)s.ptr;
	p[s.len] = '\0';
	return p;
}

static uint64_t place(uint64_t seq)
{
	return seq == WIRE_SEQ_NIL ? 0 : seq;
}

void tell_change(struct pgherald *h, const struct wire_change *change)
{
	struct pgherald_change told = {
		.channel = tell_text(change->channel),
		.pubkey = tell_text(change->pubkey),
		.pubkey_len = change->pubkey.len,
		.client_id = tell_text(change->client_id),
		.client_id_len = change->client_id.len,
		.seq = place(change->seq),
		.recovered = (change->flags & WIRE_RECOVERED) != 0,
	};

	if (!h->options.on_change)
		return;
	h->callbacks++;
	h->options.on_change(h, &told, h->options.data);
}

void tell_message(struct pgherald *h, const struct wire_message *message)
{
	struct pgherald_message told = {
		.channel = tell_text(message->channel),
		.payload = tell_text(message->payload),
		.payload_len = message->payload.len,
		.seq = place(message->seq),
		.recovered = (message->flags & WIRE_RECOVERED) != 0,
	};

	if (!h->options.on_message)
		return;
	h->callbacks++;
	h->options.on_message(h, &told, h->options.data);
}

static void tell_gap_of(struct pgherald *h, const struct pgherald_gap *told)
{
	if (!h->options.on_gap)
		return;
	h->callbacks++;
	h->options.on_gap(h, told, h->options.data);
}

void tell_gap(struct pgherald *h, const struct wire_gap *gap)
{
	tell_gap_of(h, &(struct pgherald_gap){.cause = tell_text(gap->cause),
			       .text = tell_text(gap->text),
			       .seq = place(gap->seq)});
}

void tell_refused(struct pgherald *h, const char *text)
{
	tell_gap_of(h, &(struct pgherald_gap){.cause = "refused", .text = text});
}

void tell_state(struct pgherald *h, enum pgherald_event event, const char *text)
{
	struct pgherald_state told = {.event = event, .text = text};

	if (!h->options.on_state)
		return;
	h->callbacks++;
	h->options.on_state(h, &told, h->options.data);
}

void tell_done(struct pgherald *h, pgherald_done *done, void *arg, struct pgherald_result result)
{
	if (!done)
		return;
	if (!result.text)
		result.text = pgherald_strerror(result.error);
	h->callbacks++;
	done(h, &result, arg);
}

void tell_published(struct pgherald *h, struct publish *pub, struct pgherald_result result)
{
	pgherald_done *done = pub->done;
	void *arg = pub->arg;

	free(pub);
	tell_done(h, done, arg, result);
}

void tell_ready(struct pgherald *h)
{
	struct completion *next;

	TAILQ_CONCAT(&h->running, &h->ready, link);
	/* A pgherald_close() inside a completion runs the rest of the list itself; then it
	 * is empty here. */
	while (owner_here(&h->owner) && (next = TAILQ_FIRST(&h->running))) {
		struct completion completion = *next;
		TAILQ_REMOVE(&h->running, next, link);
		free(next);
		tell_done(h, completion.done, completion.arg, completion.result);
	}
}
