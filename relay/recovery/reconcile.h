/* Reconciliation: what the database has and nobody notified is announced, to every host, by the relay that
 * leads. It asks the database at each of its turns what changed since its last question. A change that was
 * not heard is a suspect; one that is still not heard a turn later is published. Then everything before the
 * turn before is settled, and the next canary claims it, of the sender's channels and since the moment when
 * it took the lead.
 *
 * A relay keeps one account: its latest checkpoint, up to which its workers have everything. Another's claim
 * joins on to it or does not count. So what one relay believes of another never outlives what its own workers
 * have, and a relay that fails or lies silences nobody: who hears no claim that counts takes the lead itself.
 *
 * Leaves out the canary's timing (canary.h) and the question (changes_since.h). main feeds it. */
#pragma once

#include "postgres/publisher.h"
#include "recovery/canary.h"
#include "recovery/recovery.h"

/* What is heard in one turn. Beyond, a change may be announced that was heard: better twice than never. */
#define RECONCILE_HEARD_MAX (1u << 18)
/* Suspects that wait for the next turn; more are announced at once. */
#define RECONCILE_SUSPECTS_MAX 65536
/* The turn that is on, and the two before: a suspect is looked for in all that was heard since the question
 * before the one that found it. */
#define RECONCILE_TURNS 3
/* Who takes the lead counts as heard what came since the last turn, unless that was longer ago: a relay that
 * follows waits less (canary.c, TURN_OTHERS). */
#define RECONCILE_TAKEOVER_INTERVALS 2.
/* Turns of ours that a question or its announcements may outlast, before our turns are nobody's. A server
 * that is only slow would else have to answer all relays at once. */
#define RECONCILE_SLOW_TURNS 2
/* Turns of others in a row that only begin a term, and still are turns for us: as many as a term has before
 * it settles anything. A relay that crashes soon after each start would else begin for ever, and nobody
 * settle. */
#define RECONCILE_BEGINNINGS (2 + RECONCILE_SLOW_TURNS)
/* Intervals without a turn that was done, after which the operator is told that reconciliation fails. */
#define RECONCILE_FAILS_INTERVALS 2.

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
	struct canary_channels channels; /* ours */
	bool enabled;

	/* The term: from the first turn that we ask at until another's claim counts, or something fails. */
	bool leading;
	struct token from;     /* our checkpoint when it began */
	char *asked;           /* the moment of its last question that was answered; NULL before. Longer than
				  struct token: it keeps its whole snapshot. */
	struct token turn;     /* of the canary at which its last question was asked */
	struct token settling; /* settled once this turn is done; not set in the first */
	struct token settled;  /* not set before the first is */

	/* Not set: every relay can ask, or lacks nothing that we have. Otherwise the oldest checkpoint of one
	 * that cannot ask. */
	struct token wanted;

	bool asking;            /* this turn's question is under way */
	uint32_t n_unconfirmed; /* announcements that are not committed yet, of an earlier term too */
	bool failed;            /* one of this term's was not */
	unsigned slow_turns;    /* of ours that came since the question was asked */
	unsigned beginnings;    /* of others, that were turns for us since anybody settled anything */
	bool undone;            /* our last turn failed, or the one that is on takes too long */
	/* The turn that is on comes first. Who does not lead has one, from the last turn of others. */
	struct heard_set heard[RECONCILE_TURNS];
	double heard_since; /* clock_now() when nothing was kept */
	struct suspect_list suspects, found;

	double failing_since; /* clock_now() of the first turn that was not done; 0 when the last was */
	char trouble[256];    /* why */
	uint64_t n_announced;
};

/* All of it must outlive the reconciliation. */
void reconcile_init(struct reconcile *reconcile, const struct config *config, struct fanout *fanout,
	struct publisher *publisher, struct recovery *recovery);
void reconcile_close(struct reconcile *reconcile);
/* The upstream is gone, or hears from now on: what was heard before does not count. */
void reconcile_reset(struct reconcile *reconcile);
/* A change or message came on the upstream. */
void reconcile_heard(struct reconcile *reconcile, struct decoded *decoded);
/* What a canary that is sent now claims. live: the upstream hears, and what it missed is recovered. */
void reconcile_claim(const struct reconcile *reconcile, bool live, struct canary_claim *out);
/* A canary was heard while the upstream is live. Asks if it is our own and there is time. If its claim
 * counts, passes on what it settles. Returns whether it was a turn for us. */
bool reconcile_turn(struct reconcile *reconcile, const struct canary_turn *turn);
/* What the publisher says of an announcement. */
void reconcile_published(struct reconcile *reconcile, bool committed);
/* There is more to do, though nothing may happen: no turn may be skipped. */
bool reconcile_pending(const struct reconcile *reconcile);
/* Seconds for which it fails; 0 while it does not, or not yet for RECONCILE_FAILS_INTERVALS. */
double reconcile_failing(const struct reconcile *reconcile);
