/* What each frame of a worker's does. Publishing and catching up go on elsewhere, and are answered later. */
#include "diag.h"
#include "fanout.h"

#include <errno.h>
#include <string.h>

static struct diag_limit refusal_limit;

/* A request that the worker is not entitled to. */
static void refuse(struct worker *w, uint64_t id, const char *code, const char *text)
{
	diag_limited(&refusal_limit, DIAG_WARNING,
		"a worker's request is refused: %s code=%s worker=%llu pid=%d uid=%u name=\"%s\"", text, code,
		(unsigned long long)w->id, (int)w->pid, (unsigned)w->uid, w->name);
	worker_error(w, true, id, code, text);
}

static void welcome(struct worker *w)
{
	struct fanout *f = w->fanout;
	const struct config *config = f->config;
	char names[CHANNELS_MAX][CHANNEL_NAME_MAX + sizeof ":text"];
	struct wire_str channels[CHANNELS_MAX];

	for (unsigned i = 0; i < config->n_channels; i++) {
		snprintf(names[i], sizeof names[i], "%s%s", config->channels[i].name,
			config->channels[i].kind == CHANNEL_TEXT ? ":text" : "");
		channels[i] = wire_str(names[i]);
	}
	delivery_queue(w, &(struct wire_frame){.type = WIRE_WELCOME,
				  .welcome = {.version = WIRE_VERSION,
					  .epoch = wire_str(f->epoch),
					  .seq = f->backlog.head,
					  .mode = wire_str(config->mode == MODE_LOCAL ? "local" : "postgres"),
					  .upstream = wire_str(f->upstream_live ? "live" : "down"),
					  .relay_version = wire_str(PGHERALD_VERSION),
					  .channels = channels,
					  .n_channels = config->n_channels}});
}

static void on_hello(struct worker *w, const struct wire_hello *hello)
{
	struct fanout *f = w->fanout;

	if (w->state != WORKER_NEW) {
		worker_close(w, "protocol", "HELLO came twice");
		return;
	}
	if (hello->version != WIRE_VERSION) {
		worker_close(w, "protocol", "this relay speaks version 1");
		return;
	}
	if (hello->resume && hello->checkpoint.len > CHECKPOINT_TOKEN_MAX) {
		worker_close(w, "protocol", "the checkpoint in HELLO is longer than any checkpoint");
		return;
	}
	ev_timer_stop(f->loop, &w->hello_deadline);
	if (hello->name.ptr) {
		size_t len = hello->name.len < WORKER_NAME_MAX ? hello->name.len : WORKER_NAME_MAX;
		/* It stands in quotes in the log: it must not end them. */
		memcpy(w->name, hello->name.ptr, len);
		for (size_t i = 0; i < len; i++)
			if (strchr("\"\\", w->name[i]))
				w->name[i] = '\'';
	}
	w->cursor = f->backlog.head;
	welcome(w);
	if (w->state == WORKER_DEAD)
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

/* The channel's topic; 0 after an ERROR. */
static unsigned topic_for(
	struct worker *w, uint64_t id, struct wire_str name, enum channel_kind kind, const char *text)
{
	unsigned topic = decode_topic(w->fanout->config, name);

	if (topic == 0)
		worker_error(w, true, id, "channel", "the channel is not configured at this relay");
	else if (w->fanout->config->channels[topic - 1].kind != kind) {
		worker_error(w, true, id, "channel", text);
		return 0;
	}
	return topic;
}

/* What the request adds. Only near the limit does it matter what is there already. */
static uint64_t count_new(const struct worker *w, unsigned topic, const struct wire_subscribe *s)
{
	const struct router *router = &w->fanout->router;
	uint64_t n = 0;

	if ((uint64_t)w->n_edges + s->n_pubkeys <= w->fanout->config->subscriptions_max)
		return s->n_pubkeys;
	for (uint32_t i = 0; i < s->n_pubkeys; i++)
		n += !router_has(router, router_key(router, topic, s->pubkeys[i]), w->slot);
	return n;
}

static void on_subscribe(struct worker *w, const struct wire_subscribe *s)
{
	struct fanout *f = w->fanout;
	unsigned topic = decode_topic(f->config, s->channel);

	if (topic == 0 || s->pubkeys)
		topic = topic_for(w, s->id, s->channel, CHANNEL_CHANGES,
			"a text channel is subscribed to as a whole: pubkeys nil");
	if (topic == 0)
		return;
	if (!(w->rights.listen >> topic & 1)) {
		refuse(w, s->id, "denied", "PGHERALD_ALLOW does not let this worker listen to the channel");
		return;
	}
	if (!s->pubkeys) {
		delivery_walk(w);
		w->all_mask |= UINT64_C(1) << topic;
		delivery_ok(w, s->id);
		return;
	}
	if (w->n_edges + count_new(w, topic, s) > f->config->subscriptions_max) {
		f->n_limited[LIMIT_SUBSCRIPTIONS]++;
		refuse(w, s->id, "limit",
			"more subscriptions than PGHERALD_SUBSCRIPTIONS_MAX allows one worker");
		return;
	}
	for (uint32_t i = 0; i < s->n_pubkeys; i++) {
		int r = router_add(&f->router, router_key(&f->router, topic, s->pubkeys[i]), w->slot);
		if (r < 0) {
			worker_close(w, "limit", "the relay is out of memory for subscriptions");
			return;
		}
		w->n_edges += (uint32_t)r;
	}
	delivery_ok(w, s->id);
}

static void on_unsubscribe(struct worker *w, const struct wire_subscribe *s)
{
	struct fanout *f = w->fanout;
	unsigned topic = decode_topic(f->config, s->channel);

	if (topic == 0) {
		worker_error(w, true, s->id, "channel", "the channel is not configured at this relay");
		return;
	}
	if (!s->pubkeys)
		w->all_mask &= ~(UINT64_C(1) << topic);
	for (uint32_t i = 0; s->pubkeys && i < s->n_pubkeys; i++)
		w->n_edges -= (uint32_t)router_remove(
			&f->router, router_key(&f->router, topic, s->pubkeys[i]), w->slot);
	if (w->n_edges == 0)
		delivery_walk(w);
	delivery_ok(w, s->id);
}

static void publish(struct worker *w, uint64_t id, unsigned topic, struct wire_str payload)
{
	struct worker_requests *requests = &w->fanout->requests;

	if (!(w->rights.publish >> topic & 1)) {
		refuse(w, id, "denied", "PGHERALD_ALLOW does not let this worker publish on the channel");
		return;
	}
	if (w->n_publishing >= w->fanout->config->worker_publishes_max) {
		w->fanout->n_limited[LIMIT_WORKER_PUBLISHES]++;
		refuse(w, id, "busy",
			"as many of this worker's requests wait as PGHERALD_WORKER_PUBLISHES_MAX allows");
		return;
	}
	w->n_publishing++;
	requests->publish(requests->context, (struct worker_ref){w->slot, w->id}, id, topic, payload);
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
		worker_error(w, true, n->id, "invalid", "the pubkey or the client id is no UTF-8");
	else if (len < 0)
		worker_error(w, true, n->id, "too-long", "the payload would have 8000 bytes or more");
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
		worker_error(w, true, s->id, "invalid", "PostgreSQL takes no NUL in a payload");
	else if (!wire_utf8_valid(s->payload.ptr, s->payload.len))
		worker_error(w, true, s->id, "invalid", "the payload is no UTF-8");
	else if (s->payload.len > CHANGE_PAYLOAD_MAX)
		worker_error(w, true, s->id, "too-long", "the payload has 8000 bytes or more");
	else
		publish(w, s->id, topic, s->payload);
}

static void on_begin(struct worker *w, uint64_t id)
{
	struct fanout *f = w->fanout;

	if (w->state != WORKER_RESUMING) {
		worker_close(w, "protocol", "BEGIN comes once, after a HELLO with a cursor to resume from");
		return;
	}
	if (w->resume_in_epoch && w->resume_seq <= f->backlog.head && w->resume_seq + 1 >= f->backlog.first) {
		w->cursor = w->resume_seq;
		w->state = WORKER_LIVE;
		worker_note_checkpoint(w);
		delivery_ok(w, id);
		return;
	}
	w->begun = true;
	w->begin_id = id;
	w->state = WORKER_CATCHING_UP;
	f->requests.catch_up(f->requests.context, w);
}

void worker_request(struct worker *w, const struct wire_frame *frame)
{
	if (w->state == WORKER_NEW && frame->type != WIRE_HELLO) {
		worker_close(w, "protocol", "HELLO must come first");
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
		worker_close(w, "protocol", "this frame is the relay's to send");
	}
}
