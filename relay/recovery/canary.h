/* The canary: the relay's own NOTIFY, sent on the publisher and heard on the upstream. It proves that the
 * upstream hears what others commit, which nothing on that connection itself can. It carries a checkpoint, in
 * order with the notifications around it, and what its sender claims for the time before it (reconcile.h).
 * All relays of a database hear each other's: one that has just heard another's turn skips its own, so the
 * fleet together sends about one an interval. When nothing happens at all, a read-only probe of the upstream
 * is enough. A canary that is heard is on disk, and with it all that its snapshot sees. So the checkpoints
 * that are passed on are canaries'. What a claim means, and what a checkpoint is good for, is
 * reconciliation's and recovery's business. main calls it and hears its events. */
#pragma once

#include "base/checkpoint.h"
#include "base/histogram.h"
#include "postgres/publisher.h"
#include "postgres/upstream.h"

/* From the commit until it must be heard; also for a probe. */
#define CANARY_HEARD_SECONDS 4.
/* 16 hexadecimal digits a channel, and a comma. */
#define CANARY_CHANNELS_MAX (CHANNELS_MAX * 17)

enum canary_claim_kind {
	CANARY_CLAIMS_NEVER,   /* the sender does not reconcile */
	CANARY_CLAIMS_NOTHING, /* it proves its upstream, or its last turn is not done: this is nobody's turn
				*/
	CANARY_CLAIMS_SOON,    /* it leads, and has settled nothing yet */
	CANARY_CLAIMS_SETTLED,
};

/* What the sender answers for, of the channels that it has: everything committed after `from` and up to
 * `settled` was heard or announced. Where it claims nothing, `from` is what its workers have: it cannot find
 * out by itself what came after, and whoever leads may. */
struct canary_claim {
	enum canary_claim_kind kind;
	char settled[CHECKPOINT_TOKEN_MAX + 1]; /* empty unless CANARY_CLAIMS_SETTLED */
	char from[CHECKPOINT_TOKEN_MAX + 1];    /* empty: none; never with CANARY_CLAIMS_SETTLED or _SOON */
};

/* A canary that was heard. */
struct canary_turn {
	char token[CHECKPOINT_TOKEN_MAX + 1]; /* the moment when it was sent */
	struct canary_claim claim;
	char channels[CANARY_CHANNELS_MAX + 1]; /* the sender's, each as a hash of its name and kind */
	bool own;
};

struct canary_events {
	/* The upstream hears. token: as of when. */
	void (*proved)(void *context, const char *token);
	/* While proving. different: the two URLs reach different databases; else the canary was committed and
	 * not heard. */
	void (*deaf)(void *context, bool different);
	/* While proving: it could not be committed, so nothing is known. */
	void (*unproven)(void *context, const char *error);
	/* Says what our canary claims, when it is sent. */
	void (*claim)(void *context, struct canary_claim *out);
	/* A canary was heard, but for our own that prove the upstream. Returns whether it was a turn for us:
	 * then our own turn can wait. */
	bool (*turn)(void *context, const struct canary_turn *turn);
	/* Whether a turn must be taken even if nothing happened. owed: the moment that a checkpoint must
	 * cover before the server may be left idle; NULL when there is none. */
	bool (*pending)(void *context, const char *owed);
};

struct canary {
	const struct canary_events *events;
	void *context;
	struct ev_loop *loop;
	const char *epoch;
	double interval; /* seconds */
	struct publisher *publisher;
	struct upstream *upstream;
	bool reconciles; /* changes that nobody notifies matter too */
	bool notes_runs; /* the database keeps note of the server's runs, as far as we know */
	char channels[CANARY_CHANNELS_MAX + 1]; /* ours */

	struct ev_timer turn;     /* until this relay sends one, unless it hears another's */
	struct ev_timer deadline; /* until the one that was committed must be heard */
	bool proving;
	bool in_flight;    /* with the publisher */
	bool awaited;      /* sent, not heard yet */
	unsigned n_late;   /* how often it was not heard in time, and the upstream had something unread */
	bool again;        /* the one in flight failed, for want of what the next one leaves out */
	bool keyless_said; /* in the log, once */
	bool activity;     /* something was heard since the last canary */
	/* The last canary, anyone's, before which something had happened. Empty once a checkpoint covers it.
	 */
	char owed[CHECKPOINT_TOKEN_MAX + 1];
	/* The server's snapshot, if nothing has happened since the last canary; empty if something has. */
	char idle_snapshot[64];
	char nonce[33]; /* of the last that was sent; nobody can know it before the canary is committed */
	/* Signs ours. Where the relays share one, it is the upstream's, and others' are believed. */
	unsigned char key[RELAY_KEY_SIZE];
	struct canary_claim claim; /* the last one's */
	double committed_at;

	uint64_t n_sent, n_heard, n_probes, n_missed; /* missed: ours, committed and not heard in time */
	struct histogram round_trips;
	double round_trip; /* of our last, seconds from commit to being heard; 0 before the first */
};

/* config, epoch, publisher and upstream must outlive it. */
void canary_init(struct canary *canary, struct ev_loop *loop, const struct config *config, const char *epoch,
	struct publisher *publisher, struct upstream *upstream, const struct canary_events *events,
	void *context);
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

/* Whether a list of channels as canaries have it contains all of another. */
bool canary_channels_contain(const char *channels, const char *others);
