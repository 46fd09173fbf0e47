/* The canary: a NOTIFY that the relay sends itself, on the publisher, and hears on the
 * upstream.
 *
 * It proves that the upstream hears what other connections commit. Nothing on the upstream
 * itself can prove that: a dead or pooled connection is silent, and silence looks like an idle
 * database.
 *
 * It also makes checkpoints. Its payload carries a token that its own transaction read.
 * PostgreSQL delivers notifications in commit order, so a relay that hears a canary has heard
 * every notification of the transactions that the token sees. The transaction also forces a
 * flush of the WAL: everything that the token sees is on disk, and stays true when PostgreSQL
 * crashes. Only tokens of canaries are passed on to workers.
 *
 * All relays of a database hear each other's canaries. A turn is one interval's canary: a relay
 * that hears another's turn skips its own, so the whole fleet sends about one canary an
 * interval. When nothing happens in the database, the relay sends none, and only probes the
 * upstream with a read-only query.
 *
 * A canary makes a claim about the time before it. reconcile.h says what a claim is good for;
 * this file only reads and writes it. relay.c calls this file and handles its events. */
#pragma once

#include "base/checkpoint.h"
#include "base/histogram.h"
#include "postgres/publisher.h"
#include "postgres/upstream.h"

/* Seconds from the commit of a canary until it must be heard, and from a probe until its
 * answer. Less than an interval of the default length, so that a dead upstream is found before
 * the next turn. */
#define CANARY_HEARD_SECONDS 4.

/* When a relay takes its next turn, in percent of the interval: after its own turn 95 %, after
 * another's 160 % +-20 %. A relay that follows waits longer than the
 * leader's turns are apart, so the leader keeps the turn. It waits less than two intervals, so
 * that another relay announces changes in time when the leader fails. */
#define CANARY_TURN_OWN_PERCENT 95
#define CANARY_TURN_OTHERS_PERCENT 160
_Static_assert(CANARY_TURN_OTHERS_PERCENT * 80 / 100 > CANARY_TURN_OWN_PERCENT, "the leader keeps the turn");
_Static_assert(CANARY_TURN_OTHERS_PERCENT * 120 / 100 < 200, "a follower waits less than two intervals");

/* A set of channels, each as 16 hexadecimal digits that hash its name and kind, separated by
 * commas. */
#define CANARY_CHANNELS_MAX (CHANNELS_MAX * 17)
struct canary_channels {
	char text[CANARY_CHANNELS_MAX + 1];
};

struct canary_channels canary_channels_of(const struct config *config);
/* Whether channels has all of others. */
bool canary_channels_contain(const struct canary_channels *channels, const struct canary_channels *others);

enum canary_claim_kind {
	CANARY_CLAIMS_NEVER,   /* the sender does not reconcile */
	CANARY_CLAIMS_NOTHING, /* it proves its upstream, or could not finish its last turn */
	CANARY_CLAIMS_SOON,    /* it leads, and has settled nothing yet */
	CANARY_CLAIMS_SETTLED,
};

/* The sender answers for its own channels: each change that was committed after `from` and is
 * visible in `settled` was heard by all or announced. Without such a claim, `from` is the
 * sender's checkpoint: it cannot ask the database itself, and the relay that leads may do it
 * instead. */
struct canary_claim {
	enum canary_claim_kind kind;
	struct token settled; /* set with CANARY_CLAIMS_SETTLED, and only then */
	struct token from;    /* always set with _SETTLED and _SOON */
};

/* A canary that was heard. */
struct canary_turn {
	struct token token; /* the moment when it was sent */
	struct canary_claim claim;
	struct canary_channels channels; /* the sender's */
	bool own;
};

/* Pointers are valid until the event returns. */
struct canary_events {
	/* The upstream hears, as of the token. */
	void (*proved)(void *context, const struct token *token);
	/* The upstream could not be proved. different: the two URLs reach different databases.
	 * Otherwise the canary was committed and not heard. */
	void (*deaf)(void *context, bool different);
	/* The canary that should prove the upstream could not be committed: nothing is
	 * known. */
	void (*unproven)(void *context, const char *error);
	/* A canary is about to be sent: fill in what it claims. out claims nothing yet. */
	void (*claim)(void *context, struct canary_claim *out);
	/* A canary was heard, except our own that prove the upstream. Returns whether it was a
	 * turn for us: then our own can wait. */
	bool (*turn)(void *context, const struct canary_turn *turn);
	/* Returns whether we must take a turn although nothing happened. owed: what a
	 * checkpoint must cover before the database may be left idle; NULL when there is
	 * nothing. */
	bool (*pending)(void *context, const struct token *owed);
};

/* Bytes: what the statement has at most. */
#define CANARY_SQL_MAX 8192

struct canary {
	const struct canary_events *events;
	void *context;
	struct ev_loop *loop;
	const char *epoch;
	double interval; /* seconds */
	struct publisher *publisher;
	struct upstream *upstream;
	bool reconciles;                 /* a change counts as activity even if nobody notified it */
	bool notes_runs;                 /* pgherald.note_run() is there, as far as we know */
	struct session_text why_again;   /* what the last canary that was sent again failed of */
	bool writes_record;              /* of WAL, where note_run() is not there */
	struct rights rights;            /* of the publisher's role, as far as we know */
	struct canary_channels channels; /* ours */

	struct ev_timer turn;     /* until we take a turn, unless we hear another's */
	struct ev_timer deadline; /* until the canary that was committed must be heard */
	bool proving;
	bool in_flight;    /* with the publisher */
	bool awaited;      /* sent, not heard yet */
	unsigned n_late;   /* how often it was not heard in time while the upstream had unread data */
	bool again;        /* the one in flight failed; the next leaves out what made it fail */
	bool tries, tried; /* which functions can be called, since the last was refused */
	bool keyless_said; /* in the log, once */
	bool activity;     /* something was heard since the last canary */
	/* Of the last canary, from any relay, before which something had happened. Until a
	 * checkpoint covers it, turns go on even if the database is idle. */
	struct token owed;
	/* What the server's snapshot is if nothing happened since the last canary. Empty:
	 * something did. */
	char idle_snapshot[64];
	char sql[CANARY_SQL_MAX];
	char nonce[33]; /* of the last we sent; secret until the canary is committed */
	/* Signs ours. The relays of a database share one, which is the upstream's. Without it
	 * we make one up, and believe no other relay's canaries. */
	unsigned char key[RELAY_KEY_SIZE];
	struct canary_claim claim; /* of the last we sent */
	double sent_at;            /* seconds of clock_now(), of the last we sent */

	uint64_t n_sent, n_heard, n_probes, n_missed; /* missed: ours, committed and not heard in time */
	struct histogram round_trips;                 /* seconds from sending to hearing, of ours */
	double round_trip;                            /* the last of them; 0 before the first */
};

/* What a canary works with. All of it must outlive the canary. */
struct canary_uses {
	struct ev_loop *loop;
	const struct config *config;
	const char *epoch;
	struct publisher *publisher;
	struct upstream *upstream;
};

void canary_init(struct canary *canary, const struct canary_uses *uses, const struct canary_events *events,
	void *context);
/* The upstream LISTENs: prove that it hears. One of proved, deaf and unproven follows. */
void canary_prove(struct canary *canary);
/* The upstream is gone, or the relay ends: take no more turns. */
void canary_stop(struct canary *canary);
/* Take turns from now on. */
void canary_start(struct canary *canary);
/* Whether recovery can compare what our canaries say with a later moment. */
static inline bool canary_is_comparable(const struct canary *canary)
{
	const struct rights *rights = &canary->rights;

	return rights_have(rights, RIGHT_RUN) && rights_have(rights, RIGHT_SNAPSHOT) &&
	       (canary->notes_runs || (canary->writes_record && rights_have(rights, RIGHT_FLUSH)));
}
/* Whether recovery can compare it also after a restart or failover of PostgreSQL. */
static inline bool canary_survives_restarts(const struct canary *canary)
{
	return canary->notes_runs && rights_have(&canary->rights, RIGHT_CLUSTER) &&
	       rights_have(&canary->upstream->rights, RIGHT_CLUSTER) && canary_is_comparable(canary);
}
/* A notification came on CANARY_CHANNEL. */
void canary_notification(struct canary *canary, struct wire_str payload);
/* A notification came on another channel. */
static inline void canary_activity(struct canary *canary)
{
	canary->activity = true;
}
