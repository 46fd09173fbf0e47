/* The opaque handle: its parts, and what they share. pgherald.c has the public functions,
 * which check their arguments and queue. tell.c calls the app's callbacks. session.c talks
 * to the relay, local.c works without one. */
#pragma once

#include "completion.h"
#include "cursor.h"
#include "owner.h"
#include "publishes.h"
#include "session.h"
#include "subscriptions.h"
#include "wake.h"

struct pgherald {
	struct owner owner;
	struct pgherald_options options;
	char *socket; /* NULL for the local notifier */
	char *name;

	bool dispatching; /* a dispatch is on the stack, so the handle must not be freed */
	bool closed;      /* the app called close: only completions run from now on */
	int callbacks;    /* run in this dispatch */

	struct wake wake;
	struct wire_decoder *decoder;
	struct session session; /* never connected with the local notifier */
	struct cursor cursor;
	struct subscriptions subs;
	struct publishes pubs;
	struct completion_list ready;   /* subscribes whose result is known, to be told */
	struct completion_list running; /* those that tell_ready() is running now */
	uint64_t next_id;               /* for requests */

	/* For the local notifier */
	uint64_t local_seq;
	bool local_told; /* on_state was told that it is connected */
};

/* Call it after everything that may have run a callback. False if the callback closed the
 * handle, or forked and this is the child. The caller must then only return. */
static inline bool handle_goes_on(const struct pgherald *h)
{
	return !h->closed && owner_here(&h->owner);
}
