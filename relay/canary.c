#include "canary.h"

#include "clock.h"
#include "diag.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The payload: "pgherald1 RELAY NUMBER XID TOKEN SETTLED SETTLED_FROM". The transaction's own id comes with
 * it because it makes the next snapshot differ from this one without anything having happened.
 *
 * A transaction that only notifies commits without waiting for the disk. If the server crashes then, its id
 * and those of all others behind the last flush are given away again, and the snapshot would take the changes
 * of their new owners for old ones. So this one writes a record, on account of which its commit waits for the
 * flush, of this server and not of its standbys. */
#define MAGIC "pgherald1"
#define CANARY_SQL                                                                                           \
	"SELECT pg_notify('" CANARY_CHANNEL "', concat_ws(' ', '" MAGIC "', $1::text, $2::text,"             \
	" pg_current_xact_id(), " CHECKPOINT_TOKEN_SQL ", $3::text, $4::text)), " UPSTREAM_IDENTITY_SQL      \
	", set_config('synchronous_commit', 'local', true), pg_logical_emit_message(true, 'pgherald', '')"

/* A relay that follows another waits longer than the other's turns are apart, so one keeps the turn. */
#define TURN_OWN 0.95
#define TURN_OTHERS 1.6

static struct diag_limit malformed_limit;

static void arm(struct canary *c, double seconds)
{
	timer_arm(c->loop, &c->turn, seconds);
}

static void fail_proof(struct canary *c, bool different)
{
	c->proving = false;
	c->events->deaf(c->context, different);
}

/* Sending */

static void on_deadline(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct canary *c = timer->data;

	(void)loop;
	(void)events;
	c->n_missed++;
	c->awaited = false;
	if (c->proving)
		fail_proof(c, false);
	else
		upstream_drop(c->upstream,
			"the LISTEN connection is deaf: a canary was committed and not heard in time");
}

static void send_canary(struct canary *c);

static void describe_failure(
	const struct canary *c, const PGresult *result, const char *error, char *text, size_t size)
{
	const char *name = config_url_name(c->publisher->config, c->publisher->session.url);
	const char *state = result ? PQresultErrorField(result, PG_DIAG_SQLSTATE) : NULL;

	/* read_only_sql_transaction, and what the WAL functions raise during recovery */
	if (state && (strcmp(state, "25006") == 0 || strcmp(state, "55000") == 0))
		snprintf(text, size, "%s reaches a standby, which takes no NOTIFY; name the primary", name);
	else if (result)
		snprintf(text, size, "%s reaches a server that takes no NOTIFY: %s", name,
			session_error(result));
	else
		snprintf(text, size, "%s", error);
}

static void on_statement(void *context, PGresult *result, const char *error)
{
	struct canary *c = context;

	if (error || (result && PQresultStatus(result) != PGRES_TUPLES_OK)) {
		/* Every result is followed by NULL, which then finds nothing awaited. */
		bool awaited = c->awaited, proving = c->proving;
		c->in_flight = c->awaited = c->proving = false;
		char text[400];
		describe_failure(c, result, error, text, sizeof text);
		if (proving)
			c->events->unproven(c->context, text);
		else if (awaited && !error)
			diag(DIAG_WARNING, "a canary cannot be committed, so there is no new checkpoint: %s",
				text);
		return;
	}
	if (result) {
		if (c->awaited && c->proving &&
			strcmp(PQgetvalue(result, 0, 1), c->upstream->identity) != 0) {
			c->awaited = false;
			fail_proof(c, true);
		}
		return;
	}
	c->in_flight = false;
	/* This one was for an upstream that is gone. */
	if (c->proving && !c->awaited)
		send_canary(c);
	else if (c->awaited) {
		timer_arm(c->loop, &c->deadline, CANARY_HEARD_SECONDS);
	}
}

static void send_canary(struct canary *c)
{
	if (c->in_flight)
		return;
	snprintf(c->number_text, sizeof c->number_text, "%llu", (unsigned long long)++c->number);
	snprintf(c->settled_text, sizeof c->settled_text, "%s",
		!c->reconciles                 ? CANARY_NOBODY_KNOWS
		: c->proving || !c->settled[0] ? CANARY_NOT_YET
					       : c->settled);
	snprintf(c->settled_from_text, sizeof c->settled_from_text, "%s",
		*c->settled_from ? c->settled_from : CANARY_NOBODY_KNOWS);
	struct session_param params[] = {{.value = c->epoch}, {.value = c->number_text},
		{.value = c->settled_text}, {.value = c->settled_from_text}};
	c->in_flight = c->awaited = true;
	c->committed_at = clock_now();
	c->n_sent++;
	publisher_ask(c->publisher, CANARY_SQL, params, 4, on_statement, c);
}

/* Turns */

static void on_probe(void *context, const char *snapshot)
{
	struct canary *c = context;

	if (c->activity || c->owed[0] || (c->reconciles && strcmp(snapshot, c->idle_snapshot) != 0) ||
		c->events->pending(c->context))
		send_canary(c);
}

static void on_turn(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct canary *c = timer->data;

	(void)loop;
	(void)events;
	arm(c, c->interval * TURN_OWN);
	if (upstream_probe(c->upstream, CANARY_HEARD_SECONDS, on_probe, c) == 0)
		c->n_probes++;
}

/* Hearing */

/* The next word of the text; false when there is none, or it does not fit. */
static bool word(const char **text, char *buf, size_t size)
{
	size_t len = strcspn(*text, " ");

	if (len == 0 || len >= size)
		return false;
	memcpy(buf, *text, len);
	buf[len] = '\0';
	*text += len + ((*text)[len] == ' ');
	return true;
}

static bool good_settled(const char *settled, const char *from)
{
	struct checkpoint_parts parts;

	return strcmp(settled, CANARY_NOT_YET) == 0 || strcmp(settled, CANARY_NOBODY_KNOWS) == 0 ||
	       (checkpoint_parse(settled, &parts) == 0 && checkpoint_parse(from, &parts) == 0);
}

/* If the canary's transaction was the next in line and no other was in progress, then a server that has gone
 * no further than behind it has done nothing since. */
static void note_idle(struct canary *c, const char *xid_text, const struct checkpoint_parts *parts)
{
	uint64_t xid = strtoull(xid_text, NULL, 10);

	c->idle_snapshot[0] = '\0';
	if (parts->xmin == parts->xmax && parts->xmax == xid)
		snprintf(c->idle_snapshot, sizeof c->idle_snapshot, "%llu:%llu:", (unsigned long long)xid + 1,
			(unsigned long long)xid + 1);
}

/* After something happened, turns go on: one whose snapshot has it, one that settles this snapshot, one that
 * says so to the fleet; more when there is more to announce. Without reconciliation a snapshot is passed on
 * at the turn after. Every relay keeps this account of everybody's turns: the one that has them may end. */
static void note_turn(struct canary *c, const char *xid, const struct checkpoint_parts *parts,
	const char *token, const char *settled)
{
	bool happened = c->activity || (c->reconciles && strcmp(parts->snapshot, c->idle_snapshot) != 0);

	if (happened)
		snprintf(c->owed, sizeof c->owed, "%s", token);
	else if (strcmp(settled, CANARY_NOBODY_KNOWS) == 0 || checkpoint_covers(settled, c->owed))
		c->owed[0] = '\0';
	c->activity = false;
	note_idle(c, xid, parts);
}

static void on_own(struct canary *c, const char *xid, const struct checkpoint_parts *parts, const char *token,
	const char *settled)
{
	c->awaited = false;
	c->round_trip = clock_now() - c->committed_at;
	histogram_observe(&c->round_trips, c->round_trip);
	ev_timer_stop(c->loop, &c->deadline);
	if (c->proving) {
		c->proving = false;
		note_idle(c, xid, parts);
		upstream_settle(c->upstream);
		c->events->proved(c->context, token);
		return;
	}
	arm(c, c->interval * TURN_OWN);
	note_turn(c, xid, parts, token, settled);
	c->events->turn(c->context, token, settled, NULL, true);
}

void canary_notification(struct canary *c, struct wire_str payload)
{
	char magic[16], epoch[64], number[24], xid[24], token[CHECKPOINT_TOKEN_MAX + 1],
		settled[CHECKPOINT_TOKEN_MAX + 1], from[CHECKPOINT_TOKEN_MAX + 1];
	const char *text = payload.ptr;
	struct checkpoint_parts parts;

	if (!word(&text, magic, sizeof magic) || strcmp(magic, MAGIC) != 0 ||
		!word(&text, epoch, sizeof epoch) || !word(&text, number, sizeof number) ||
		!word(&text, xid, sizeof xid) || !word(&text, token, sizeof token) ||
		!word(&text, settled, sizeof settled) || !word(&text, from, sizeof from) ||
		checkpoint_parse(token, &parts) < 0 || !good_settled(settled, from)) {
		diag_limited(&malformed_limit, DIAG_WARNING,
			"a notification on the relays' own channel is no canary; who notifies there? channel=" CANARY_CHANNEL
			" length=%u",
			payload.len);
		return;
	}
	c->n_heard++;
	if (strcmp(epoch, c->epoch) == 0) {
		/* One that was given up before comes too late to tell anything. */
		if (c->awaited && strcmp(number, c->number_text) == 0)
			on_own(c, xid, &parts, token, settled);
	} else if (strcmp(settled, CANARY_NOT_YET) != 0) {
		if (!c->events->turn(c->context, token, settled, from, false)) {
			/* What it does not answer for is for us to find out, and to tell. */
			c->activity = true;
			return;
		}
		note_turn(c, xid, &parts, token, settled);
		if (ev_is_active(&c->turn))
			arm(c, jittered(c->interval * TURN_OTHERS));
	}
}

void canary_init(struct canary *c, struct ev_loop *loop, const char *epoch, double interval,
	struct publisher *publisher, struct upstream *upstream, const char *settled, const char *settled_from,
	const struct canary_events *events, void *context)
{
	*c = (struct canary){.events = events,
		.context = context,
		.loop = loop,
		.epoch = epoch,
		.interval = interval,
		.publisher = publisher,
		.upstream = upstream,
		.settled = settled,
		.settled_from = settled_from};
	timer_init(&c->turn, on_turn, c);
	timer_init(&c->deadline, on_deadline, c);
}

void canary_prove(struct canary *c)
{
	c->proving = true;
	send_canary(c);
}

void canary_start(struct canary *c)
{
	arm(c, jittered(c->interval * TURN_OWN));
}

void canary_stop(struct canary *c)
{
	ev_timer_stop(c->loop, &c->turn);
	ev_timer_stop(c->loop, &c->deadline);
	c->awaited = c->proving = false;
}
