/* Reconciliation: finds changes that are in the database and that nobody notified, and announces
 * them to every host. One relay of a database leads, and does it for all.
 *
 * At each of its turns the leader asks the database what changed since its last question. A
 * change that it has not heard is a suspect: its NOTIFY may still be on the way. A suspect that
 * is still not heard one turn later is announced: published, as if a worker had sent it. Once
 * these announcements are committed, the turn is done. Then every change that the previous
 * turn's canary sees was heard or announced, and that canary's token is settled:
 *
 *   turn 1  canary T1; question: suspects of T1
 *   turn 2  canary T2; question: suspects of T2; announces those of T1; done: T1 is settled
 *   turn 3  canary T3 claims T1; each relay that counts the claim passes T1 on to its workers
 *
 * A message of pgherald.send() is announced at once, and every time that it is found: two messages
 * may be the same text, and what its transaction notified is not among the rows.
 *
 * A term is the time for which a relay leads: from its first question until another's claim
 * counts or something fails. It begins at the relay's checkpoint of that time, `from`. A claim
 * says: "of my channels, every change after `from` that `settled` sees was heard or announced".
 *
 * A claim of another counts only if it joins on: our checkpoint covers its `from`, it is of our
 * run of the server, and it has all our channels. Then no change is missing between what our
 * workers have and what the claim covers. So we believe of another only what our own checkpoint
 * bears out, and a relay that fails or lies silences no other: a relay that hears no claim that
 * counts takes the lead itself.
 *
 * canary.h has the timing of turns, changes_since.h the question. relay.c calls this. */
#pragma once

#include "postgres/publisher.h"
#include "recovery/canary.h"
#include "recovery/recovery.h"

/* Bounds the changes that one turn remembers as heard: a table of 4 MiB, or 50,000 changes a
 * second at the default interval. The rest is forgotten, and may be announced again: better
 * twice than never. */
#define RECONCILE_HEARD_MAX (1u << 18)
/* Bounds the suspects that wait for the next turn. More are announced at once. */
#define RECONCILE_SUSPECTS_MAX 65536
/* Bounds the announcements that are not committed yet, as the publish queue does: a bulk write of a
 * tracked table has more suspects than the queue takes. As many as a batch of the publisher. */
#define RECONCILE_UNCONFIRMED_MAX PUBLISHER_BATCH_MAX
/* How many turns the relay remembers: the current one and two before. A suspect counts as heard
 * if it was heard in the turn that found it, the previous one, or the next one. */
#define RECONCILE_TURNS 3
/* A relay that takes the lead counts as heard what came since the last turn of another, if that
 * was at most this long ago. A relay that follows never waits longer for its own turn
 * (CANARY_TURN_OTHERS_PERCENT). */
#define RECONCILE_TAKEOVER_INTERVALS 2.
_Static_assert(CANARY_TURN_OTHERS_PERCENT * 120 / 100 <= 100 * (int)RECONCILE_TAKEOVER_INTERVALS,
	"a follower that takes its turn in time counts what it heard");
/* How many of our turns a question and its announcements may outlast. After that our canaries
 * claim nothing, and others take the lead. If they did so at once, a server that is merely slow
 * would get every relay's questions. */
#define RECONCILE_SLOW_TURNS 2
/* How many turns of others in a row may claim SOON and still count: as many as a term has
 * before it settles anything. Without the limit, a relay that crashes soon after each start
 * would keep all others from settling. */
#define RECONCILE_BEGINNINGS (2 + RECONCILE_SLOW_TURNS)
/* How many intervals may pass without a turn that is done, before status and metrics show that
 * reconciliation fails. */
#define RECONCILE_FAILS_INTERVALS 2.

/* A set of changes, by the router's keys. */
struct heard_set {
	uint64_t *keys; /* open addressing; 0 is vacant */
	uint32_t n, size;
};

/* A change that was found and not heard. */
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
	bool tracks; /* pgherald.sql is installed: messages come from pgherald.send() */

	/* The term. */
	bool leading;
	struct token from; /* where it begins: our checkpoint at that time */
	/* The moment of its last question that was answered; NULL before. It keeps its whole
	 * snapshot, and so may be longer than struct token. */
	char *asked;
	struct token turn;     /* of the canary at which its last question was asked */
	struct token settling; /* settled once this turn is done; not set in the first */
	struct token settled;  /* not set before the first is */

	/* Not set: every relay can ask, or lacks nothing that we have. Otherwise the oldest
	 * checkpoint of one that cannot ask. */
	struct token wanted;

	bool asking;            /* this turn's question is under way */
	uint32_t n_unconfirmed; /* announcements that are not committed yet, of earlier terms too */
	bool failed;            /* an announcement of this term was not committed */
	unsigned slow_turns;    /* our turns since the question was asked */
	unsigned beginnings;    /* turns of others that claimed SOON and counted, since a claim settled */
	bool undone;            /* our last turn failed, or the current one takes too long */
	/* What was heard, by turn, the current one first. A relay that does not lead uses only
	 * the first, for what came since the last turn of another. */
	struct heard_set heard[RECONCILE_TURNS];
	double heard_since;                  /* seconds of clock_now(), since when heard is complete */
	struct suspect_list suspects, found; /* of the turn before, and of this one */
	struct suspect_list due;             /* of two turns before: they are being announced */
	uint32_t due_next;                   /* of them, the next to announce */

	/* Seconds of clock_now(), of the first turn that failed; 0: the last was done. */
	double failing_since;
	char trouble[256]; /* why it fails */
	uint64_t n_announced;
};

/* All of it must outlive the reconciliation. */
void reconcile_init(struct reconcile *reconcile, const struct config *config, struct fanout *fanout,
	struct publisher *publisher, struct recovery *recovery);
void reconcile_close(struct reconcile *reconcile);
/* The upstream was lost or is back: forgets what was heard, and ends the term. */
void reconcile_reset(struct reconcile *reconcile);
/* The upstream heard a change or message. */
void reconcile_heard(struct reconcile *reconcile, struct decoded *decoded);
/* What a canary that is sent now claims; out claims nothing yet. live: the upstream is live. */
void reconcile_claim(const struct reconcile *reconcile, bool live, struct canary_claim *out);
/* A canary was heard while the upstream is live. Asks, if it is our own and the last turn is
 * over. Passes on what it settles, if its claim counts. Returns whether it was a turn for
 * us. */
bool reconcile_turn(struct reconcile *reconcile, const struct canary_turn *turn);
/* The publisher is done with an announcement. settled: it is committed, or no NOTIFY carries
 * it. */
void reconcile_published(struct reconcile *reconcile, bool settled);
/* Whether our next turn must come even if nothing happens in the database. */
bool reconcile_pending(const struct reconcile *reconcile);
/* Seconds for which it has failed; 0 until RECONCILE_FAILS_INTERVALS have passed. */
double reconcile_failing(const struct reconcile *reconcile);
