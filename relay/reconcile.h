/* Reconciliation: what the database has and nobody notified is announced, to every host, by the relay whose
 * turn the canary is. A change found in the database and not heard is a suspect; one that is still not heard
 * a turn later is published. Also says which checkpoint is settled: everything before it was heard or
 * announced, though its NOTIFY came after its commit. Every relay keeps note of what it heard, so that any
 * can take over. main feeds it and calls it at each canary. */
#pragma once

#include "checkpoint.h"
#include "publisher.h"
#include "recovery.h"

/* What was heard in one turn, and how many turns back. Beyond, a change may be announced that was heard:
 * better twice than never. */
#define RECONCILE_HEARD_MAX (1u << 18)
#define RECONCILE_TURNS 8
/* Suspects that wait for the next turn; more are announced at once. */
#define RECONCILE_SUSPECTS_MAX 65536

/* A set of the router's keys. */
struct heard_set {
	uint64_t *keys; /* open addressing; 0 is vacant */
	uint32_t n, size;
};

struct suspect {
	uint64_t key;
	unsigned topic;
	uint32_t len;
	char *value;
};

struct suspect_list {
	struct suspect *items;
	uint32_t n, max;
};

struct reconcile {
	const struct config *config;
	struct fanout *fanout;
	struct publisher *publisher;
	struct recovery *recovery;
	bool enabled;

	uint64_t turn; /* counts the canaries heard, anyone's */
	struct heard_set heard[RECONCILE_TURNS];
	char tokens[RECONCILE_TURNS][CHECKPOINT_TOKEN_MAX + 1]; /* of the canary that began the turn */

	bool leading;          /* the last turn was ours */
	bool asking;           /* the question of this turn is under way */
	bool unfinished;       /* our last question failed, or what it found could not be announced */
	uint64_t base_turn;    /* since when the question under way asks, and what is heard counts */
	uint64_t suspect_turn; /* the same for the suspects */
	struct suspect_list suspects, found;
	uint32_t n_unconfirmed; /* announcements that are not committed yet */
	bool failed;            /* one of them was not, this turn */
	char settled[CHECKPOINT_TOKEN_MAX +
		     1]; /* of the fleet, as we can vouch for or heard; empty: unknown */
	char settled_from[CHECKPOINT_TOKEN_MAX + 1]; /* what was committed before this, nobody answers for */
	char begin[CHECKPOINT_TOKEN_MAX +
		   1]; /* since when we heard all; asked from when nothing is settled */
	char about_to_settle[CHECKPOINT_TOKEN_MAX + 1]; /* once all announcements are committed */
	char last_own[CHECKPOINT_TOKEN_MAX + 1];        /* of our turn before, while leading */

	uint64_t n_announced, n_turns;
};

void reconcile_init(struct reconcile *reconcile, const struct config *config, struct fanout *fanout,
	struct publisher *publisher, struct recovery *recovery);
void reconcile_close(struct reconcile *reconcile);
/* The upstream is gone: what was heard is no longer all. */
void reconcile_reset(struct reconcile *reconcile);
/* The upstream hears since this moment. */
void reconcile_begin(struct reconcile *reconcile, const char *token);
/* A change or message came on the upstream. */
void reconcile_heard(struct reconcile *reconcile, struct decoded *decoded);
/* A canary of somebody's turn was heard. settled: NULL when nobody knows, or nobody knows yet. from: since
 * when; unused in our own. Returns false when it is no turn for us: what it says leaves out a time that we
 * still answer for. */
bool reconcile_turn(
	struct reconcile *reconcile, const char *token, const char *settled, const char *from, bool own);
/* What the publisher says of an announcement. */
void reconcile_published(struct reconcile *reconcile, bool committed);
/* There is more to do, though nothing may happen: no turn may be skipped. */
bool reconcile_pending(const struct reconcile *reconcile);
