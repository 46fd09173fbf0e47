/* The canary: the relay's own NOTIFY, sent on the publisher and heard on the upstream. It proves that the
 * upstream hears what others commit, which nothing on that connection itself can; and it carries a
 * checkpoint, in order with the notifications around it. All relays of a database hear each other's: one that
 * has just heard another's skips its own turn, so the fleet together sends about one an interval; and when
 * nothing happens at all, a read-only probe of the upstream is enough. A canary that is heard is on disk, and
 * with it all that its snapshot sees: after a crash PostgreSQL does not give those transaction ids away
 * again. So the checkpoints that are passed on are canaries'. What a checkpoint is good for is recovery's
 * business. main calls it and hears its events. */
#pragma once

#include "checkpoint.h"
#include "histogram.h"
#include "publisher.h"
#include "upstream.h"

/* From the commit until it must be heard; also for a probe. */
#define CANARY_HEARD_SECONDS 4.

struct canary_events {
	/* The upstream hears. token: as of when. */
	void (*proved)(void *context, const char *token);
	/* While proving. different: the two URLs reach different databases; else the canary was committed and
	 * not heard. */
	void (*deaf)(void *context, bool different);
	/* While proving: it could not be committed, so nothing is known. */
	void (*unproven)(void *context, const char *error);
	/* A canary of somebody's turn was heard. token: the moment it was sent. settled: the moment before
	 * which every change was heard or announced, of those since the moment from; CANARY_NOBODY_KNOWS; in
	 * our own, CANARY_NOT_YET too. Returns whether this was our turn as well. */
	bool (*turn)(void *context, const char *token, const char *settled, const char *from, bool own);
	/* Whether a turn must be taken even if nothing happened. */
	bool (*pending)(void *context);
};

/* The sender reconciles, and does not know yet. Such a canary is a turn for its sender alone. */
#define CANARY_NOT_YET "?"
/* The sender does not reconcile. */
#define CANARY_NOBODY_KNOWS "-"

struct canary {
	const struct canary_events *events;
	void *context;
	struct ev_loop *loop;
	const char *epoch;
	double interval;
	struct publisher *publisher;
	struct upstream *upstream;
	const char *settled,
		*settled_from; /* what our turns say is settled, and since when; may change, and be empty */
	bool reconciles;       /* changes that nobody notifies matter too */

	struct ev_timer turn;     /* until this relay sends one, unless it hears another's */
	struct ev_timer deadline; /* until the one that was committed must be heard */
	bool proving;
	bool in_flight; /* with the publisher */
	bool awaited;   /* sent, not heard yet */
	bool activity;  /* something was heard since the last canary */
	/* Of the last turn before which something had happened, until a checkpoint that sees it is passed on;
	 * then empty, and only then the server may be left idle, by whichever relay has the turn. */
	char owed[CHECKPOINT_TOKEN_MAX + 1];
	uint64_t number; /* of the last that was sent */
	char number_text[24];
	char settled_text[CHECKPOINT_TOKEN_MAX + 1],
		settled_from_text[CHECKPOINT_TOKEN_MAX + 1]; /* as the last one says */
	char idle_snapshot[64]; /* the server's, if nothing has happened since the last canary; empty if
				   something has */
	double committed_at;

	uint64_t n_sent, n_heard, n_probes, n_missed; /* missed: ours, committed and not heard in time */
	struct histogram round_trips;
	double round_trip; /* of our last, seconds from commit to being heard; 0 before the first */
};

void canary_init(struct canary *canary, struct ev_loop *loop, const char *epoch, double interval,
	struct publisher *publisher, struct upstream *upstream, const char *settled, const char *settled_from,
	const struct canary_events *events, void *context);
/* The upstream LISTENs: prove it. One of proved, deaf and unproven follows. */
void canary_prove(struct canary *canary);
/* The upstream is gone, or the relay ends: no turns. */
void canary_stop(struct canary *canary);
/* Take turns from now on. */
void canary_start(struct canary *canary);
/* What came on CANARY_CHANNEL. */
void canary_notification(struct canary *canary, struct wire_str payload);
/* Something came on another channel. */
static inline void canary_activity(struct canary *canary)
{
	canary->activity = true;
}
