/* What stands behind the opaque handle: the parts, and what they share. pgherald.c has the public functions,
 * which check their arguments and queue; tell.c calls the app's callbacks; session.c speaks with the relay,
 * local.c does without one. */
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
	char *socket; /* NULL: the local notifier */
	char *name;

	bool dispatching; /* a dispatch is on the stack, so the memory must stay */
	bool closed;      /* by the app: run nothing but what is due to completions */
	int callbacks;    /* run in this dispatch */

	struct wake wake;
	struct wire_decoder *decoder;
	struct session session; /* never connected without a relay */
	struct cursor cursor;
	struct subscriptions subs;
	struct publishes pubs;
	struct completion_list ready;   /* subscribes whose result is known and not told */
	struct completion_list running; /* those of them that are being told */
	uint64_t next_id;               /* for requests */

	/* Without a relay */
	uint64_t local_seq;
	bool local_told; /* that it is connected */
};

/* To be asked after whatever may have run a callback: false when that has closed the handle, or has forked
 * and this is the child. Then all that remains to do is to return. */
static inline bool handle_goes_on(const struct pgherald *h)
{
	return !h->closed && owner_here(&h->owner);
}
