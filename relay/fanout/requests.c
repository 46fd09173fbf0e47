#include "fanout/requests.h"

#include "base/diag.h"
#include "fanout/delivery.h"
#include "fanout/fanout.h"

#include <errno.h>
#include <string.h>

/* Nanoseconds for each pubkey, as reader.c counts a slice: to check its type, and to change the
 * router. */
#define COST_CHECK 10
#define COST_PUBKEY 300

static struct diag_limit refusal_limit;

/* For a request beyond the worker's rights or limits. */
static void refuse(struct worker *w, uint64_t id, enum wire_error_code code, const char *text)
{
	diag_limited(&refusal_limit, DIAG_WARNING,
		"refused a worker's request: %s code=%s worker=%llu pid=%d uid=%u name=\"%s\"", text,
		wire_error_names[code], (unsigned long long)w->id, (int)w->pid, (unsigned)w->uid, w->name);
	delivery_error(w, true, id, code, text);
}

static void welcome(struct worker *w)
{
	struct fanout *f = w->fanout;
	const struct config *config = f->config;
	char names[CHANNELS_MAX][CHANNEL_NAME_MAX + sizeof ":text"];
	struct wire_str channels[CHANNELS_MAX];
	unsigned n = 0;

	for (unsigned i = 0; i < config->n_channels; i++) {
		if (config->channels[i].gone)
			continue;
		snprintf(names[n], sizeof names[n], "%s%s", config->channels[i].name,
			config->channels[i].kind == CHANNEL_TEXT ? ":text" : "");
		channels[n] = wire_str(names[n]);
		n++;
	}
	delivery_queue(w, &(struct wire_frame){.type = WIRE_WELCOME,
				  .welcome = {.version = WIRE_VERSION,
					  .epoch = wire_str(f->epoch),
					  .seq = f->backlog.head,
					  .mode = wire_str(config->mode == MODE_LOCAL ? "local" : "postgres"),
					  .upstream = wire_str(f->upstream_live ? "live" : "down"),
					  .relay_version = wire_str(PGHERALD_VERSION),
					  .channels = channels,
					  .n_channels = n}});
}

static void on_hello(struct worker *w, const struct wire_hello *hello)
{
	struct fanout *f = w->fanout;

	if (w->state != WORKER_NEW) {
		worker_end(w, WIRE_BYE_PROTOCOL, "HELLO came twice");
		return;
	}
	if (hello->version != WIRE_VERSION) {
		worker_end(w, WIRE_BYE_PROTOCOL, "this relay speaks version 1");
		return;
	}
	if (hello->resume && hello->checkpoint.len > CHECKPOINT_TOKEN_MAX) {
		worker_end(w, WIRE_BYE_PROTOCOL, "the checkpoint in HELLO is longer than any checkpoint");
		return;
	}
	ev_timer_stop(f->loop, &w->hello_deadline);
	if (hello->name.ptr) {
		size_t len = hello->name.len < WORKER_NAME_MAX ? hello->name.len : WORKER_NAME_MAX;
		/* The log puts the name in quotes, so it must not contain any. */
		memcpy(w->name, hello->name.ptr, len);
		for (size_t i = 0; i < len; i++)
			if (strchr("\"\\", w->name[i]))
				w->name[i] = '\'';
	}
	w->cursor = w->welcome_seq = f->backlog.head;
	welcome(w);
	if (w->ended)
		return;
	if (hello->resume) {
		w->state = WORKER_RESUMING;
		w->resume_in_epoch = wire_str_eq(hello->epoch, wire_str(f->epoch));
		w->resume_seq = hello->seq;
		if (hello->checkpoint.ptr && hello->checkpoint.len > 0 && hello->checkpoint.ptr[0] != '\0')
			w->passed = checkpoint_new(hello->checkpoint, 0);
		return;
	}
	w->state = WORKER_LIVE;
	struct checkpoint *latest = checkpoint_history_latest(&f->checkpoints);
	if (latest) {
		w->passed = checkpoint_ref(latest);
		delivery_queue(w, &(struct wire_frame){.type = WIRE_CHECKPOINT,
					  .checkpoint = {latest->seq, {latest->token, latest->len}}});
	}
}

/* Returns the channel's topic. 0: ERROR was sent, with text if the channel is of another
 * kind. */
static unsigned topic_for(
	struct worker *w, uint64_t id, struct wire_str name, enum channel_kind kind, const char *text)
{
	unsigned topic = decode_topic(w->fanout->config, name);

	if (topic == 0)
		delivery_error(
			w, true, id, WIRE_ERROR_CHANNEL, "the channel is not configured at this relay");
	else if (w->fanout->config->channels[topic - 1].kind != kind) {
		delivery_error(w, true, id, WIRE_ERROR_CHANNEL, text);
		return 0;
	}
	return topic;
}

/* Subscriptions */

/* Reserves n subscriptions. Returns LIMITS_N, or the limit that they would exceed. */
static enum worker_limit reserve(struct worker *w, uint64_t n)
{
	struct fanout *f = w->fanout;

	if (w->n_edges + n > f->config->subscriptions_max)
		return LIMIT_SUBSCRIPTIONS;
	if (w->user->n_subscriptions + n > f->config->subscriptions_per_uid_max)
		return LIMIT_SUBSCRIPTIONS_PER_UID;
	if (f->n_subscriptions + n > f->config->subscriptions_total_max)
		return LIMIT_SUBSCRIPTIONS_TOTAL;
	w->subscribing.n_reserved = (uint32_t)n;
	w->user->n_subscriptions += n;
	f->n_subscriptions += n;
	return LIMITS_N;
}

static void give_back(struct worker *w, uint32_t n)
{
	w->user->n_subscriptions -= n;
	w->fanout->n_subscriptions -= n;
}

static void refuse_more(struct worker *w, uint64_t id, enum worker_limit limit)
{
	static const char *const texts[LIMITS_N] = {
		[LIMIT_SUBSCRIPTIONS] =
			"more subscriptions than PGHERALD_SUBSCRIPTIONS_MAX allows one worker",
		[LIMIT_SUBSCRIPTIONS_PER_UID] =
			"more subscriptions than PGHERALD_SUBSCRIPTIONS_PER_UID_MAX allows one user",
		[LIMIT_SUBSCRIPTIONS_TOTAL] =
			"more subscriptions than PGHERALD_SUBSCRIPTIONS_TOTAL_MAX allows all workers",
	};

	w->fanout->n_limited[limit]++;
	refuse(w, id, WIRE_ERROR_LIMIT, texts[limit]);
}

/* Returns the channel's topic. 0: ERROR was sent. by_pubkey: else the whole channel. */
static unsigned topic_to_listen(struct worker *w, const struct wire_subscribe *s, bool by_pubkey)
{
	unsigned topic = decode_topic(w->fanout->config, s->channel);

	if (topic == 0 || by_pubkey)
		topic = topic_for(w, s->id, s->channel, CHANNEL_CHANGES,
			"a text channel is subscribed to as a whole: pubkeys nil");
	if (topic > 0 && !(w->rights.listen >> topic & 1)) {
		refuse(w, s->id, WIRE_ERROR_DENIED,
			"PGHERALD_ALLOW does not let this worker listen to the channel");
		return 0;
	}
	return topic;
}

static unsigned topic_to_leave(struct worker *w, const struct wire_subscribe *s)
{
	unsigned topic = decode_topic(w->fanout->config, s->channel);

	if (topic == 0)
		delivery_error(
			w, true, s->id, WIRE_ERROR_CHANNEL, "the channel is not configured at this relay");
	return topic;
}

static void on_subscribe(struct worker *w, const struct wire_subscribe *s)
{
	unsigned topic = topic_to_listen(w, s, false);

	if (topic == 0)
		return;
	delivery_scan(w);
	w->all_mask |= UINT64_C(1) << topic;
	delivery_ok(w, s->id);
}

static void unsubscribed(struct worker *w, uint64_t id)
{
	if (w->n_edges == 0) {
		w->edge_topics = 0;
		delivery_scan(w);
	}
	delivery_ok(w, id);
}

static void on_unsubscribe(struct worker *w, const struct wire_subscribe *s)
{
	unsigned topic = topic_to_leave(w, s);

	if (topic == 0)
		return;
	w->all_mask &= ~(UINT64_C(1) << topic);
	unsubscribed(w, s->id);
}

/* By pubkey, in portions */

void requests_subscribe_begin(struct worker *w, uint32_t frame_len, const struct wire_strs *pubkeys)
{
	w->subscribing = (struct subscribing){
		.step = SUBSCRIBING_CHECK, .frame_len = frame_len, .all = *pubkeys, .left = *pubkeys};
}

/* All pubkeys are strings. Returns the next step. */
static enum subscribing_step checked(struct worker *w, const unsigned char *frame)
{
	struct subscribing *s = &w->subscribing;
	struct wire_strs pubkeys;
	struct wire_frame f;

	/* It cannot fail, because reader.c read it before. The frame may have moved since, and
	 * its strings with it. */
	(void)wire_request_read(frame, s->frame_len, &f, &pubkeys);
	s->id = f.subscribe.id;
	if (f.type == WIRE_UNSUBSCRIBE) {
		s->topic = topic_to_leave(w, &f.subscribe);
		return s->topic > 0 ? SUBSCRIBING_REMOVE : SUBSCRIBING_NOT;
	}
	s->topic = topic_to_listen(w, &f.subscribe, true);
	if (s->topic == 0)
		return SUBSCRIBING_NOT;
	/* Assume that all are new. Only if that exceeds a limit, count those that really
	 * are. */
	return reserve(w, s->all.left) == LIMITS_N ? SUBSCRIBING_ADD : SUBSCRIBING_COUNT;
}

static enum subscribing_step counted(struct worker *w)
{
	enum worker_limit limit = reserve(w, w->subscribing.n_new);

	if (limit == LIMITS_N)
		return SUBSCRIBING_ADD;
	refuse_more(w, w->subscribing.id, limit);
	return SUBSCRIBING_NOT;
}

static enum subscribing_step step_after(struct worker *w, const unsigned char *frame)
{
	switch (w->subscribing.step) {
	case SUBSCRIBING_CHECK:
		return checked(w, frame);
	case SUBSCRIBING_COUNT:
		return counted(w);
	case SUBSCRIBING_ADD:
		/* What is left was reserved for pubkeys that were there already, or came
		 * twice. */
		give_back(w, w->subscribing.n_reserved);
		delivery_ok(w, w->subscribing.id);
		break;
	case SUBSCRIBING_REMOVE:
		unsubscribed(w, w->subscribing.id);
		break;
	default:
		break;
	}
	return SUBSCRIBING_NOT;
}

static void add(struct worker *w, uint64_t key)
{
	int r = router_add(&w->fanout->router, key, w->slot);

	if (r < 0) {
		worker_end(w, WIRE_BYE_LIMIT, "the relay is out of memory for subscriptions");
		return;
	}
	w->subscribing.n_reserved -= (uint32_t)r;
	w->n_edges += (uint32_t)r;
	w->edge_topics |= UINT64_C(1) << w->subscribing.topic;
}

static void remove_one(struct worker *w, uint64_t key)
{
	int r = router_remove(&w->fanout->router, key, w->slot);

	give_back(w, (uint32_t)r);
	w->n_edges -= (uint32_t)r;
}

static void take_pubkey(struct worker *w, struct wire_str pubkey)
{
	struct subscribing *s = &w->subscribing;
	uint64_t key = router_key(&w->fanout->router, s->topic, pubkey);

	if (s->step == SUBSCRIBING_COUNT)
		s->n_new += !router_has(&w->fanout->router, key, w->slot);
	else if (s->step == SUBSCRIBING_ADD)
		add(w, key);
	else
		remove_one(w, key);
}

bool requests_subscribe(struct worker *w, const unsigned char *frame, int *cost)
{
	struct subscribing *s = &w->subscribing;
	struct wire_str pubkey;

	for (; s->step != SUBSCRIBING_NOT; s->step = step_after(w, frame), s->left = s->all) {
		while (s->left.left > 0) {
			if (*cost <= 0)
				return false;
			if (!wire_strs_next(&s->left, frame, s->frame_len, &pubkey)) {
				worker_end(w, WIRE_BYE_PROTOCOL, "a pubkey is not a string");
				return true;
			}
			*cost -= s->step == SUBSCRIBING_CHECK ? COST_CHECK : COST_PUBKEY;
			if (s->step != SUBSCRIBING_CHECK)
				take_pubkey(w, pubkey);
			if (w->ended)
				return true;
		}
	}
	return true;
}

static void publish(struct worker *w, uint64_t id, unsigned topic, struct wire_str payload)
{
	const struct fanout *f = w->fanout;

	if (!(w->rights.publish >> topic & 1)) {
		refuse(w, id, WIRE_ERROR_DENIED,
			"PGHERALD_ALLOW does not let this worker publish on the channel");
		return;
	}
	if (w->n_publishing >= w->fanout->config->worker_publishes_max) {
		w->fanout->n_limited[LIMIT_WORKER_PUBLISHES]++;
		refuse(w, id, WIRE_ERROR_BUSY,
			"this worker has as many requests that wait as PGHERALD_WORKER_PUBLISHES_MAX allows");
		return;
	}
	w->n_publishing++;
	f->requests->publish(f->requests_context, (struct worker_ref){w->slot, w->id}, id, topic, payload);
}

static void on_notify(struct worker *w, const struct wire_notify *n)
{
	char payload[CHANGE_PAYLOAD_MAX];
	unsigned topic = topic_for(w, n->id, n->channel, CHANNEL_CHANGES,
		"NOTIFY goes to change channels, SEND to text channels");

	if (topic == 0)
		return;
	int len = change_encode(n->pubkey, n->client_id, payload, sizeof payload);
	if (len == -EILSEQ)
		delivery_error(
			w, true, n->id, WIRE_ERROR_INVALID, "the pubkey or the client id is not UTF-8");
	else if (len < 0)
		delivery_error(
			w, true, n->id, WIRE_ERROR_TOO_LONG, "the payload would have 8000 bytes or more");
	else
		publish(w, n->id, topic, (struct wire_str){payload, (uint32_t)len});
}

static void on_send(struct worker *w, const struct wire_send *s)
{
	unsigned topic = topic_for(
		w, s->id, s->channel, CHANNEL_TEXT, "SEND goes to text channels, NOTIFY to change channels");

	if (topic == 0)
		return;
	if (memchr(s->payload.ptr, '\0', s->payload.len))
		delivery_error(w, true, s->id, WIRE_ERROR_INVALID, "PostgreSQL accepts no NUL in a payload");
	else if (!wire_utf8_valid(s->payload.ptr, s->payload.len))
		delivery_error(w, true, s->id, WIRE_ERROR_INVALID, "the payload is not UTF-8");
	else if (s->payload.len > CHANGE_PAYLOAD_MAX)
		delivery_error(w, true, s->id, WIRE_ERROR_TOO_LONG, "the payload has 8000 bytes or more");
	else
		publish(w, s->id, topic, s->payload);
}

/* Whether the backlog has all that the worker missed: the frames are there, and the relay has heard
 * the channels all the time. */
static bool backlog_has_missed(const struct worker *w)
{
	const struct fanout *f = w->fanout;

	if (!w->resume_in_epoch || w->resume_seq > f->backlog.head || w->resume_seq + 1 < f->backlog.first)
		return false;
	for (uint64_t left = w->all_mask | w->edge_topics; left; left &= left - 1)
		if (w->resume_seq < f->heard_since[__builtin_ctzll(left)])
			return false;
	return true;
}

static void on_begin(struct worker *w, uint64_t id)
{
	struct fanout *f = w->fanout;

	if (w->state != WORKER_RESUMING) {
		worker_end(
			w, WIRE_BYE_PROTOCOL, "BEGIN comes once, after a HELLO with a cursor to resume from");
		return;
	}
	if (backlog_has_missed(w)) {
		w->cursor = w->resume_seq;
		w->state = WORKER_LIVE;
		worker_note_checkpoint(w);
		delivery_ok(w, id);
		return;
	}
	w->begun = true;
	w->begin_id = id;
	w->state = WORKER_CATCHING_UP;
	f->requests->catch_up(f->requests_context, w);
}

void requests_do(struct worker *w, const struct wire_frame *frame)
{
	if (w->state == WORKER_NEW && frame->type != WIRE_HELLO) {
		worker_end(w, WIRE_BYE_PROTOCOL, "HELLO must come first");
		return;
	}
	switch (frame->type) {
	case WIRE_HELLO:
		on_hello(w, &frame->hello);
		break;
	case WIRE_SUBSCRIBE:
		on_subscribe(w, &frame->subscribe);
		break;
	case WIRE_UNSUBSCRIBE:
		on_unsubscribe(w, &frame->subscribe);
		break;
	case WIRE_NOTIFY:
		on_notify(w, &frame->notify);
		break;
	case WIRE_SEND:
		on_send(w, &frame->send);
		break;
	case WIRE_PING:
		delivery_ok(w, frame->request.id);
		break;
	case WIRE_BEGIN:
		on_begin(w, frame->request.id);
		break;
	default:
		worker_end(w, WIRE_BYE_PROTOCOL, "this frame is the relay's to send");
	}
}
