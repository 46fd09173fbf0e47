#include "recovery/canary.h"

#include "base/clock.h"
#include "base/diag.h"
#include "fanout/change.h"
#include "fanout/siphash.h"

#include <assert.h>
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* The payload: "pgherald2 RELAY NONCE XID TOKEN CLAIM FROM CHANNELS SIGNATURE". RELAY is the
 * sender's epoch. XID is the id of the canary's own transaction: it makes the next snapshot
 * differ although nothing happened (see note_idle()). CLAIM is a token, or one of the words
 * below. FROM is a token, or NOTHING.
 *
 * NOTIFY has no access control: every role that may connect can send a text like this. We know
 * our own canary by its nonce, which no other session can read before the commit. We believe
 * another relay's by its signature, with a key that only the relays' role can read. The server
 * signs, since only it knows the token.
 *
 * A transaction that only notifies commits without a flush of the WAL. If the server then
 * crashes, it gives the transaction ids since the last flush to other transactions, and the
 * snapshot would take their changes for old ones. So the canary writes a WAL record, and its
 * commit waits for the flush: what pgherald.note_run() writes, or where that is missing, a
 * message for logical decoding. 'local': it does not wait for standbys. */
#define MAGIC "pgherald2"
#define MAGIC_OF_OTHERS "pgherald"
#define NOTHING "-"

/* CLAIM on the wire. One that settles is the token itself. */
static const char *const claim_words[CANARY_CLAIMS_SETTLED] = {
	[CANARY_CLAIMS_NEVER] = "-",
	[CANARY_CLAIMS_NOTHING] = "!",
	[CANARY_CLAIMS_SOON] = "?",
};

/* sha256(key || sha256(key || text)): the outer hash prevents length extension. */
#define SIGNATURE_SQL                                                                                        \
	"pg_catalog.encode(pg_catalog.sha256($6::pg_catalog.bytea OPERATOR(pg_catalog.||)"                   \
	" pg_catalog.sha256($6::pg_catalog.bytea OPERATOR(pg_catalog.||)"                                    \
	" pg_catalog.convert_to(text, 'UTF8'))), 'hex')"
#define SHORT_SNAPSHOT_SQL                                                                                   \
	"CASE WHEN pg_catalog.length(s::pg_catalog.text) OPERATOR(pg_catalog.<=) 1024"                       \
	" THEN s::pg_catalog.text ELSE pg_catalog.concat(pg_catalog.split_part(s::pg_catalog.text, ':', 1)," \
	" ':', pg_catalog.split_part(s::pg_catalog.text, ':', 1), ':') END"
_Static_assert(CHECKPOINT_SNAPSHOT_MAX == 1024, "as SHORT_SNAPSHOT_SQL has it");
/* A format for the SQL of the identity, the WAL record, the transaction's id, the token, the
 * snapshot, the LSN, and whether the run is noted. OFFSET 0 keeps the planner from computing a
 * part twice. pgherald.note_run(), where it is installed, returns the LSN and records that the
 * server's history contains it; what it writes is a WAL record too. */
#define CANARY_FORMAT                                                                                        \
	"SELECT pg_catalog.pg_notify('" CANARY_CHANNEL "', pg_catalog.concat_ws(' ', text, " SIGNATURE_SQL   \
	")), %s, pg_catalog.set_config('synchronous_commit', 'local', true),"                                \
	" CASE WHEN NOT noted THEN %s END, " RIGHTS_SQL                                                      \
	" FROM (SELECT noted, pg_catalog.concat_ws(' ', '" MAGIC "', $1::pg_catalog.text,"                   \
	" $2::pg_catalog.text, %s, %s, $3::pg_catalog.text, $4::pg_catalog.text, $5::pg_catalog.text)"       \
	" AS text FROM (SELECT noted, %s AS s, CASE WHEN noted THEN %s ELSE %s END AS lsn"                   \
	" FROM (SELECT %s AS noted OFFSET 0) AS trust OFFSET 0) AS moment OFFSET 0) AS canary"
/* Checks the owner each time: after recovery_down.sql a stranger may have made a schema of this
 * name. */
#define NOTED_SQL "coalesce(" UPSTREAM_NOTE_RUN_OWNER_SQL " OPERATOR(pg_catalog.=) '', false)"
_Static_assert(
	sizeof CANARY_FORMAT NOTED_SQL + 6 * RIGHTS_SQL_MAX <= CANARY_SQL_MAX, "it holds the statement");
enum { CANARY_NOTIFIED, CANARY_IDENTITY, CANARY_SETTING, CANARY_RECORD, CANARY_RIGHTS, CANARY_FIELDS };
/* src/include/catalog/pg_type_d.h */
#define BYTEA_OID 17

_Static_assert(RELAY_KEY_SIZE == crypto_hash_sha256_BYTES, "the key is a hash");

static struct diag_limit malformed_limit, version_limit, uncommitted_limit, forged_limit;

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

	(void)events;
	/* It may be in the socket, after data that this relay has not read yet. */
	if (c->n_late < SESSION_LATE_MAX && session_has_unread(&c->upstream->session)) {
		c->n_late++;
		timer_arm(loop, timer, CANARY_HEARD_SECONDS);
		return;
	}
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
			session_error(&c->publisher->session, result).text);
	else
		snprintf(text, size, "%s", error);
}

/* Whether note_run() was dropped meanwhile, or the publisher's role may not call it, or it calls
 * what it may not: also invalid_schema_name, undefined_table in the function, and
 * read_only_sql_transaction. PostgreSQL allows NOTIFY there, but not on a standby. */
static bool cannot_note_runs(const char *sqlstate)
{
	static const char *const states[] = {"3F000", "42P01", "25006"};

	for (size_t i = 0; sqlstate && i < sizeof states / sizeof *states; i++)
		if (strcmp(sqlstate, states[i]) == 0)
			return true;
	return rights_lacks(sqlstate);
}

/* Whether the canary in flight is to be sent again, without what made it fail. */
static bool mend(struct canary *c, const PGresult *result)
{
	const char *state = result ? PQresultErrorField(result, PG_DIAG_SQLSTATE) : NULL;

	if (!c->awaited && !c->proving)
		return false;
	if (rights_lacks(state) && !c->tried)
		c->tried = c->tries = true;
	else if (cannot_note_runs(state) && c->notes_runs)
		c->notes_runs = false;
	else
		return false;
	c->why_again = session_error(&c->publisher->session, result);
	/* The NULL that follows sends it. */
	c->awaited = false;
	c->again = true;
	return true;
}

static void on_trial(void *context, PGresult *result, const char *error)
{
	struct canary *c = context;

	if (result) {
		if (session_is_row(result, RIGHTS_TRIAL_FIELDS) &&
			rights_read(&c->rights, PQgetvalue(result, 0, RIGHTS_TRIAL_RIGHTS)) == 0)
			rights_read_trial(&c->rights, PQgetvalue(result, 0, RIGHTS_TRIAL_OUTCOME));
		return;
	}
	bool again = c->tries;
	c->in_flight = c->tries = false;
	if (error && c->proving) {
		c->proving = false;
		c->events->unproven(c->context, error);
	} else if (!error && (again || c->proving)) {
		send_canary(c);
	}
}

static void try_rights(struct canary *c)
{
	c->in_flight = true;
	publisher_ask(c->publisher, &(struct publisher_statement){
					    .sql = rights_trial_sql(), .on_result = on_trial, .context = c});
}

static void on_statement(void *context, PGresult *result, const char *error)
{
	struct canary *c = context;

	if (mend(c, result))
		return;
	if (error || (result && !session_is_row(result, CANARY_FIELDS))) {
		bool awaited = c->awaited, proving = c->proving;
		/* Every result is followed by NULL, which then finds nothing awaited. */
		c->in_flight = result != NULL;
		c->awaited = c->proving = false;
		char text[sizeof(struct session_text) + 200];
		describe_failure(c, result, error, text, sizeof text);
		if (proving)
			c->events->unproven(c->context, text);
		else if (awaited && !error)
			diag_limited(&uncommitted_limit, DIAG_WARNING,
				"a canary cannot be committed, so there is no new checkpoint: %s", text);
		return;
	}
	if (result) {
		rights_read(&c->rights, PQgetvalue(result, 0, CANARY_RIGHTS));
		c->tried = false;
		if (c->awaited && c->proving &&
			!rights_same_identity(
				PQgetvalue(result, 0, CANARY_IDENTITY), c->upstream->identity)) {
			c->awaited = false;
			fail_proof(c, true);
		}
		return;
	}
	c->in_flight = false;
	bool again = c->again;
	c->again = false;
	/* Or this canary was for an upstream that is gone, and the new one must be proved. */
	if (again && c->tries)
		try_rights(c);
	else if (again || (c->proving && !c->awaited))
		send_canary(c);
	else if (c->awaited)
		timer_arm(c->loop, &c->deadline, CANARY_HEARD_SECONDS);
}

/* Borrowed from the claim, or constant. */
static const char *claim_text(const struct canary_claim *claim)
{
	return claim->kind == CANARY_CLAIMS_SETTLED ? claim->settled.text : claim_words[claim->kind];
}

/* Cannot fail: drawing the epoch has waited until the kernel's pool was ready
 * (getrandom(2)). */
static void draw(void *buf, size_t size)
{
	(void)!getrandom(buf, size, 0);
}

static void draw_nonce(struct canary *c)
{
	unsigned char random[(sizeof c->nonce - 1) / 2];

	draw(random, sizeof random);
	for (size_t i = 0; i < sizeof random; i++)
		snprintf(c->nonce + 2 * i, 3, "%02x", random[i]);
}

/* Even what is in a branch that is not taken needs the right to call it. */
static void write_sql(struct canary *c)
{
	const struct rights *rights = &c->rights;
	const char *lsn = rights_sql(rights, RIGHT_LSN);
	bool writes = c->writes_record && rights_have(rights, RIGHT_FLUSH);

	int n = snprintf(c->sql, sizeof c->sql, CANARY_FORMAT, rights_identity_sql(rights).text,
		writes ? rights_sql(rights, RIGHT_FLUSH) : "NULL", rights_sql(rights, RIGHT_XID),
		rights_token_sql(rights, "lsn", SHORT_SNAPSHOT_SQL, writes ? "true" : "noted").text,
		rights_sql(rights, RIGHT_SNAPSHOT), c->notes_runs ? "pgherald.note_run()" : lsn, lsn,
		c->notes_runs ? NOTED_SQL : "false");
	assert((size_t)n < sizeof c->sql);
	(void)n;
}

static void send_canary(struct canary *c)
{
	if (c->in_flight)
		return;
	draw_nonce(c);
	c->claim = (struct canary_claim){.kind = CANARY_CLAIMS_NOTHING};
	if (!c->proving)
		c->events->claim(c->context, &c->claim);
	write_sql(c);
	/* What it points to in the canary stays as it is until the statement is over:
	 * in_flight. */
	struct publisher_statement statement = {.sql = c->sql,
		.params = {{.value = c->epoch}, {.value = c->nonce}, {.value = claim_text(&c->claim)},
			{.value = token_is_set(&c->claim.from) ? c->claim.from.text : NOTHING},
			{.value = c->channels.text},
			{.value = (const char *)c->key,
				.len = sizeof c->key,
				.type = BYTEA_OID,
				.binary = true}},
		.n_params = 6,
		.on_result = on_statement,
		.context = c};
	c->in_flight = c->awaited = true;
	c->n_late = 0;
	c->sent_at = clock_now();
	c->n_sent++;
	publisher_ask(c->publisher, &statement);
}

/* Turns */

static void on_probe(void *context, const char *snapshot)
{
	struct canary *c = context;

	if (c->activity || (c->reconciles && strcmp(snapshot, c->idle_snapshot) != 0) ||
		c->events->pending(c->context, token_is_set(&c->owed) ? &c->owed : NULL))
		send_canary(c);
	else
		c->owed = (struct token){0};
}

static void on_turn(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct canary *c = timer->data;

	(void)loop;
	(void)events;
	arm(c, c->interval * CANARY_TURN_OWN_PERCENT / 100);
	if (upstream_probe(c->upstream, CANARY_HEARD_SECONDS, on_probe, c) == 0)
		c->n_probes++;
}

/* Hearing */

/* Takes the next word of the text. False: there is none, or it does not fit. */
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

static bool is_token(const char *text)
{
	struct checkpoint_parts parts;

	return checkpoint_parse(text, &parts) == 0;
}

static bool read_kind(const char *claim, enum canary_claim_kind *out)
{
	*out = CANARY_CLAIMS_NEVER;
	while (*out < CANARY_CLAIMS_SETTLED && strcmp(claim, claim_words[*out]) != 0)
		++*out;
	return *out < CANARY_CLAIMS_SETTLED || is_token(claim);
}

/* Reads "CLAIM FROM" into *out, which is all zero. False: it is malformed. */
static bool read_claim(const char **text, struct canary_claim *out)
{
	struct token claim = {0}, from = {0};

	if (!word(text, claim.text, sizeof claim.text) || !word(text, from.text, sizeof from.text) ||
		!read_kind(claim.text, &out->kind))
		return false;
	if (out->kind == CANARY_CLAIMS_SETTLED)
		out->settled = claim;
	if (is_token(from.text))
		out->from = from;
	return token_is_set(&out->from) || out->kind < CANARY_CLAIMS_SOON;
}

struct heard {
	char epoch[64], nonce[40], xid[24];
	struct canary_turn turn;
	struct checkpoint_parts parts; /* of the turn's token */
	uint32_t signed_len;           /* of the payload */
	char signature[2 * crypto_hash_sha256_BYTES + 1];
};
_Static_assert(
	sizeof MAGIC + sizeof(struct heard) <= CHANGE_PAYLOAD_MAX, "a canary fits into a notification");

static bool read_canary(const char *payload, const char *text, struct heard *out)
{
	if (!word(&text, out->epoch, sizeof out->epoch) || !word(&text, out->nonce, sizeof out->nonce) ||
		!word(&text, out->xid, sizeof out->xid) ||
		!word(&text, out->turn.token.text, sizeof out->turn.token.text) ||
		!read_claim(&text, &out->turn.claim) ||
		!word(&text, out->turn.channels.text, sizeof out->turn.channels.text))
		return false;
	out->signed_len = (uint32_t)(text - payload) - 1;
	return word(&text, out->signature, sizeof out->signature) &&
	       checkpoint_parse(out->turn.token.text, &out->parts) == 0;
}

/* Computes the same as SIGNATURE_SQL. */
static bool is_signed(const struct heard *h, const char *payload, const unsigned char key[RELAY_KEY_SIZE])
{
	unsigned char hash[crypto_hash_sha256_BYTES];
	char text[sizeof h->signature];
	crypto_hash_sha256_state state;

	crypto_hash_sha256_init(&state);
	crypto_hash_sha256_update(&state, key, RELAY_KEY_SIZE);
	crypto_hash_sha256_update(&state, (const unsigned char *)payload, h->signed_len);
	crypto_hash_sha256_final(&state, hash);
	crypto_hash_sha256_init(&state);
	crypto_hash_sha256_update(&state, key, RELAY_KEY_SIZE);
	crypto_hash_sha256_update(&state, hash, sizeof hash);
	crypto_hash_sha256_final(&state, hash);
	sodium_bin2hex(text, sizeof text, hash, sizeof hash);
	return strlen(h->signature) == sizeof text - 1 && sodium_memcmp(text, h->signature, sizeof text) == 0;
}

/* Returns whether another relay sent it. Logs if not. */
static bool check_signature(struct canary *c, const struct heard *h, const char *payload)
{
	if (!c->upstream->has_key) {
		if (!c->keyless_said)
			diag(DIAG_NOTICE,
				"canaries of other relays are not believed, since this role cannot read pgherald.relay_key, "
				"so this relay sends its own; run recovery.sql, or grant SELECT on it");
		c->keyless_said = true;
		return false;
	}
	if (is_signed(h, payload, c->upstream->key))
		return true;
	diag_limited(&forged_limit, DIAG_WARNING,
		"a canary that no relay of this database has signed is ignored; find who notifies there "
		"channel=" CANARY_CHANNEL);
	return false;
}

/* If the canary's transaction got the next id and no other was in progress, then a snapshot in
 * which only that id is added means that nothing happened since. */
static void note_idle(struct canary *c, const struct heard *h)
{
	uint64_t xid = strtoull(h->xid, NULL, 10);

	c->idle_snapshot[0] = '\0';
	if (h->parts.xmin == h->parts.xmax && h->parts.xmax == xid)
		snprintf(c->idle_snapshot, sizeof c->idle_snapshot, "%llu:%llu:", (unsigned long long)xid + 1,
			(unsigned long long)xid + 1);
}

/* After activity, turns go on until a checkpoint covers it. Every relay notes that for all
 * relays' canaries, because the leader may end at any time. */
static void note_turn(struct canary *c, const struct heard *h)
{
	if (c->activity || (c->reconciles && strcmp(h->parts.snapshot, c->idle_snapshot) != 0))
		c->owed = h->turn.token;
	c->activity = false;
	note_idle(c, h);
}

static void on_own(struct canary *c, struct heard *h)
{
	c->awaited = false;
	c->round_trip = clock_now() - c->sent_at;
	histogram_observe(&c->round_trips, c->round_trip);
	ev_timer_stop(c->loop, &c->deadline);
	if (c->proving) {
		c->proving = false;
		note_idle(c, h);
		upstream_settle(c->upstream);
		c->events->proved(c->context, &h->turn.token);
		return;
	}
	arm(c, c->interval * CANARY_TURN_OWN_PERCENT / 100);
	note_turn(c, h);
	h->turn.own = true;
	c->events->turn(c->context, &h->turn);
}

/* From a relay to which the server does not tell its run, we cannot learn which moment it was. */
static void on_others(struct canary *c, const struct heard *h)
{
	if (h->parts.run == 0)
		return;
	note_turn(c, h);
	if (c->events->turn(c->context, &h->turn) && ev_is_active(&c->turn))
		arm(c, jittered(c->interval * CANARY_TURN_OTHERS_PERCENT / 100));
}

static void on_unreadable(const char *magic, uint32_t len)
{
	if (strncmp(magic, MAGIC_OF_OTHERS, strlen(MAGIC_OF_OTHERS)) == 0 && strcmp(magic, MAGIC) != 0)
		diag_limited(&version_limit, DIAG_NOTICE,
			"a relay of another version is on this database, and neither counts the other's turns "
			"canary=\"%s\"",
			magic);
	else
		diag_limited(&malformed_limit, DIAG_WARNING,
			"a notification on the relays' own channel is not a canary; find who notifies there "
			"channel=" CANARY_CHANNEL " length=%u",
			len);
}

void canary_notification(struct canary *c, struct wire_str payload)
{
	const char *text = payload.ptr;
	char magic[16] = "";
	struct heard heard;

	memset(&heard, 0, sizeof heard);
	if (!word(&text, magic, sizeof magic) || strcmp(magic, MAGIC) != 0 ||
		!read_canary(payload.ptr, text, &heard)) {
		on_unreadable(magic, payload.len);
		return;
	}
	c->n_heard++;
	if (c->awaited && strcmp(heard.nonce, c->nonce) == 0)
		on_own(c, &heard);
	/* Our own that was given up comes too late to tell anything. */
	else if (strcmp(heard.epoch, c->epoch) != 0 && check_signature(c, &heard, payload.ptr))
		on_others(c, &heard);
}

bool canary_channels_contain(const struct canary_channels *channels, const struct canary_channels *of_others)
{
	for (const char *others = of_others->text; *others;) {
		size_t len = strcspn(others, ",");
		const char *p = channels->text;
		while (*p && (strcspn(p, ",") != len || strncmp(p, others, len) != 0)) {
			p += strcspn(p, ",");
			p += *p == ',';
		}
		if (!*p)
			return false;
		others += len + (others[len] == ',');
	}
	return true;
}

/* The names themselves could be longer than a payload. All relays must hash alike, so the key
 * is a constant; the operator chooses the names, and has no reason to make two collide. */
struct canary_channels canary_channels_of(const struct config *config)
{
	static const unsigned char key[16] = "pgherald channel";
	struct canary_channels channels = {0};
	char name[CHANNEL_NAME_MAX + sizeof ":text"];
	size_t len = 0;

	for (unsigned i = 0; i < config->n_channels; i++) {
		const struct channel *channel = &config->channels[i];
		int n = snprintf(name, sizeof name, "%s%s", channel->name,
			channel->kind == CHANNEL_TEXT ? ":text" : "");
		len += (size_t)snprintf(channels.text + len, sizeof channels.text - len, "%s%016llx",
			i > 0 ? "," : "", (unsigned long long)siphash(key, name, (size_t)n, 2, 4));
	}
	return channels;
}

void canary_init(
	struct canary *c, const struct canary_uses *uses, const struct canary_events *events, void *context)
{
	*c = (struct canary){.events = events,
		.context = context,
		.loop = uses->loop,
		.epoch = uses->epoch,
		.interval = uses->config->checkpoint_interval,
		.writes_record = uses->config->logical_message,
		.publisher = uses->publisher,
		.upstream = uses->upstream,
		.channels = canary_channels_of(uses->config)};
	draw(c->key, sizeof c->key);
	timer_init(&c->turn, on_turn, c);
	timer_init(&c->deadline, on_deadline, c);
}

void canary_prove(struct canary *c)
{
	c->proving = true;
	/* As a first guess: often the role is the same. */
	c->rights = c->upstream->rights;
	c->notes_runs = c->upstream->notes_runs;
	if (c->upstream->has_key)
		memcpy(c->key, c->upstream->key, sizeof c->key);
	send_canary(c);
}

void canary_start(struct canary *c)
{
	arm(c, jittered(c->interval * CANARY_TURN_OWN_PERCENT / 100));
}

void canary_stop(struct canary *c)
{
	ev_timer_stop(c->loop, &c->turn);
	ev_timer_stop(c->loop, &c->deadline);
	c->awaited = c->proving = c->again = c->tries = c->tried = false;
	/* Recovery covers the time until the next proof. */
	c->owed = (struct token){0};
	c->idle_snapshot[0] = '\0';
}
