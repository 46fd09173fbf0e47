/* The public functions, except pgherald_strerror(): open and close, dispatch, and the
 * requests. */
#include "handle.h"

#include "local.h"
#include "tell.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_SOCKET "/run/pgherald/relay.sock"
#define DEFAULT_QUEUE_SIZE (UINT32_C(1024) * 1024)
#define LEAST_QUEUE_SIZE (UINT32_C(64) * 1024)
#define DEFAULT_DEADLINE_MS 10000

/* Bytes. PostgreSQL's own limits: nothing longer can be published. */
#define CHANNEL_MAX SUBSCRIPTIONS_CHANNEL_MAX
#define STRING_MAX 7999
#define NAME_MAX_LEN 255

static int read_options(struct pgherald_options *to, const struct pgherald_options *from)
{
	if (from->size < sizeof from->size)
		return -EINVAL;
	for (size_t i = sizeof *to; i < from->size; i++)
		if (((const char *)from)[i] != 0)
			return -E2BIG;
	memcpy(to, from, from->size < sizeof *to ? from->size : sizeof *to);
	return 0;
}

static int check_options(struct pgherald_options *options)
{
	if (!options->socket)
		options->socket = secure_getenv("PGHERALD_SOCKET");
	if (!options->socket)
		options->socket = DEFAULT_SOCKET;
	if (!stream_path_fits(options->socket))
		return -ENAMETOOLONG;
	if (options->name) {
		if (strlen(options->name) > NAME_MAX_LEN)
			return -EINVAL;
		if (!wire_utf8_valid(options->name, strlen(options->name)))
			return -EILSEQ;
	} else {
		options->name = program_invocation_short_name;
		if (strlen(options->name) > NAME_MAX_LEN ||
			!wire_utf8_valid(options->name, strlen(options->name)))
			options->name = "";
	}
	if (options->queue_size == 0)
		options->queue_size = DEFAULT_QUEUE_SIZE;
	if (options->queue_size < LEAST_QUEUE_SIZE)
		return -EINVAL;
	if (options->deadline_ms == 0)
		options->deadline_ms = DEFAULT_DEADLINE_MS;
	return 0;
}

/* Frees memory and closes descriptors of this process only. In a forked child the parent's
 * connection stays. */
static void destroy(struct pgherald *h)
{
	struct completion *completion;

	TAILQ_CONCAT(&h->running, &h->ready, link);
	while ((completion = TAILQ_FIRST(&h->running))) {
		TAILQ_REMOVE(&h->running, completion, link);
		free(completion);
	}
	subscriptions_free(&h->subs);
	publishes_free(&h->pubs);
	session_free(&h->session);
	wire_decoder_free(h->decoder);
	wake_close(&h->wake);
	owner_free(&h->owner);
	free(h->name);
	free(h->socket);
	free(h);
}

/* Returns 0 or -ENOMEM. destroy() undoes it in both cases. */
static int fill_handle(struct pgherald *h, const struct pgherald_options *options)
{
	h->options = *options;
	h->options.socket = h->options.name = h->options.cursor = NULL;
	h->next_id = 1;
	owner_init(&h->owner);
	subscriptions_init(&h->subs);
	publishes_init(&h->pubs, options->queue_size);
	TAILQ_INIT(&h->ready);
	TAILQ_INIT(&h->running);
	h->session.stream.fd = -1;
	h->name = strdup(options->name);
	if (!h->name || wire_decoder_new(&h->decoder) < 0)
		return -ENOMEM;
	if (options->socket[0] == '\0')
		return 0;
	h->socket = strdup(options->socket);
	return h->socket ? session_init(&h->session) : -ENOMEM;
}

int pgherald_open(const struct pgherald_options *given, struct pgherald **out)
{
	struct pgherald_options options = {0};

	int r = given ? read_options(&options, given) : 0;
	if (r == 0)
		r = check_options(&options);
	if (r < 0)
		return r;
	struct pgherald *h = calloc(1, sizeof *h);
	if (!h)
		return -ENOMEM;
	if (options.cursor && options.socket[0] != '\0')
		r = cursor_parse(&h->cursor, options.cursor);
	if (r == 0)
		r = wake_open(&h->wake);
	if (r < 0) {
		free(h);
		return r;
	}
	r = fill_handle(h, &options);
	if (r < 0) {
		destroy(h);
		return r;
	}
	/* The first dispatch connects. */
	wake_at(&h->wake, WAKE_NOW);
	*out = h;
	return 0;
}

void pgherald_close(struct pgherald *h)
{
	struct publish *pub;

	if (!h || h->closed)
		return;
	h->closed = true;
	if (owner_here(&h->owner)) {
		session_end(h);
		subscriptions_cancel(&h->subs, &h->ready);
		tell_ready(h);
		while (owner_here(&h->owner) && (pub = publishes_any(&h->pubs)))
			tell_published(h, pub, (struct pgherald_result){.error = -ECANCELED});
	}
	if (!h->dispatching)
		destroy(h);
}

static int check_usable(const struct pgherald *h)
{
	if (!owner_here(&h->owner))
		return -ECHILD;
	return h->closed ? -ESHUTDOWN : 0;
}

int pgherald_fd(struct pgherald *h)
{
	int r = check_usable(h);

	if (r < 0)
		return r;
	wake_watched(&h->wake);
	return h->wake.epoll;
}

static void expire(struct pgherald *h)
{
	uint64_t now = wake_clock();
	struct publish *pub;

	while (handle_goes_on(h) && (pub = publishes_expired(&h->pubs, now)))
		tell_published(h, pub, (struct pgherald_result){.error = -ETIMEDOUT});
}

/* The work of one dispatch. Returns true if there is more to do at once. */
static bool turn(struct pgherald *h, enum wake_socket socket)
{
	bool more = false;

	if (h->socket)
		more = session_turn(h, wake_clock(), socket);
	else
		local_turn(h);
	/* After receiving: an answer that has arrived is in time, however late the app
	 * dispatches. */
	expire(h);
	if (handle_goes_on(h))
		tell_ready(h);
	if (h->socket && handle_goes_on(h))
		session_flush(h);
	return more || !TAILQ_EMPTY(&h->ready);
}

/* When the descriptor must be readable next even if nothing arrives. */
static uint64_t next_turn(const struct pgherald *h, bool more)
{
	uint64_t next = publishes_deadline(&h->pubs);

	if (more || (!h->socket && next != WAKE_NEVER))
		return WAKE_NOW;
	if (h->socket && h->session.stream.fd < 0 && h->session.retry_at < next)
		next = h->session.retry_at;
	return next;
}

/* Wait for something to do, at most this long, then do it. Returns what pgherald_dispatch()
 * does, or -EINTR. */
static int wait_and_turn(struct pgherald *h, int timeout_ms)
{
	enum wake_socket socket;

	int r = check_usable(h);
	if (r < 0)
		return r;
	if (h->dispatching)
		return -EDEADLK;
	r = wake_wait(&h->wake, timeout_ms, &socket);
	if (r < 0)
		return r;
	h->dispatching = true;
	h->callbacks = 0;
	bool more = turn(h, socket);
	h->dispatching = false;
	if (h->closed) {
		destroy(h);
		return -ESHUTDOWN;
	}
	if (!owner_here(&h->owner))
		return -ECHILD;
	wake_settle(&h->wake, next_turn(h, more));
	return h->callbacks;
}

int pgherald_dispatch(struct pgherald *h)
{
	return wait_and_turn(h, 0);
}

int pgherald_wait(struct pgherald *h, int timeout_ms)
{
	uint64_t start = wake_clock();
	int left = timeout_ms;

	for (;;) {
		int r = wait_and_turn(h, left);
		if (r != 0)
			return r;
		if (timeout_ms >= 0) {
			uint64_t passed = (wake_clock() - start) / NSEC_PER_MSEC;
			if (passed >= (uint64_t)timeout_ms)
				return 0;
			left = timeout_ms - (int)passed;
		}
	}
}

/* Requests */

/* Something was queued for the next dispatch. A dispatch that is running sees it by itself. */
static void wake_for_request(struct pgherald *h)
{
	/* The local notifier has no relay to ask. */
	if (!h->socket)
		subscriptions_all_live(&h->subs, h->local_seq, &h->ready);
	if (!h->dispatching)
		wake_at(&h->wake, WAKE_NOW);
}

/* Check the name of a channel and convert it. Returns 0, -EINVAL or -EILSEQ. */
static int check_channel(const char *channel, struct wire_str *out)
{
	*out = wire_str(channel);
	if (out->len == 0 || out->len > CHANNEL_MAX)
		return -EINVAL;
	return wire_utf8_valid(out->ptr, out->len) ? 0 : -EILSEQ;
}

/* Check another string, which may be NULL, and convert it. Returns 0, -EMSGSIZE or -EILSEQ. */
static int check_string(const char *s, size_t len, struct wire_str *out)
{
	if (len > STRING_MAX)
		return -EMSGSIZE;
	*out = (struct wire_str){s, (uint32_t)len};
	return len == 0 || (wire_utf8_valid(s, len) && !memchr(s, '\0', len)) ? 0 : -EILSEQ;
}

static int check_subscription(const struct pgherald *h, const char *channel, const char *pubkey,
	struct wire_str *wire_channel, struct wire_str *wire_pubkey)
{
	int r = check_usable(h);

	if (r == 0)
		r = check_channel(channel, wire_channel);
	if (r == 0)
		r = check_string(pubkey, pubkey ? strlen(pubkey) : 0, wire_pubkey);
	return r;
}

int pgherald_subscribe(
	struct pgherald *h, const char *channel, const char *pubkey, pgherald_done *done, void *arg)
{
	struct wire_str wire_channel, wire_pubkey;
	struct completion *waiter = NULL;

	int r = check_subscription(h, channel, pubkey, &wire_channel, &wire_pubkey);
	if (r < 0)
		return r;
	if (done) {
		waiter = malloc(sizeof *waiter);
		if (!waiter)
			return -ENOMEM;
		*waiter = (struct completion){.done = done, .arg = arg};
	}
	r = subscriptions_add(&h->subs, wire_channel, wire_pubkey, waiter, &h->ready);
	if (r < 0)
		free(waiter);
	else
		wake_for_request(h);
	return r;
}

int pgherald_unsubscribe(struct pgherald *h, const char *channel, const char *pubkey)
{
	struct wire_str wire_channel, wire_pubkey;

	int r = check_subscription(h, channel, pubkey, &wire_channel, &wire_pubkey);
	if (r < 0)
		return r;
	r = subscriptions_remove(&h->subs, wire_channel, wire_pubkey, &h->ready);
	if (r == 0)
		wake_for_request(h);
	return r;
}

static int queue_publish(struct pgherald *h, const struct wire_frame *frame, pgherald_done *done, void *arg)
{
	uint64_t deadline = wake_clock() + h->options.deadline_ms * NSEC_PER_MSEC;

	int r = publishes_add(&h->pubs, frame, deadline, done, arg);
	if (r < 0)
		return r;
	h->next_id++;
	/* Who polls comes to dispatch only after its loop, so the first request goes at once.
	 * Those that follow until its answer go together. pgherald_wait() sends all of them. */
	if (h->dispatching || !h->wake.watched || !h->socket || !session_send_first(h))
		wake_for_request(h);
	else
		wake_at(&h->wake, deadline);
	return 0;
}

int pgherald_notify(struct pgherald *h, const char *channel, const char *pubkey, const char *client_id,
	pgherald_done *done, void *arg)
{
	struct wire_frame frame = {.type = WIRE_NOTIFY, .notify = {.id = h->next_id}};

	int r = check_usable(h);
	if (r == 0)
		r = pubkey ? check_channel(channel, &frame.notify.channel) : -EINVAL;
	if (r == 0)
		r = check_string(pubkey, strlen(pubkey), &frame.notify.pubkey);
	if (r == 0)
		r = check_string(client_id, client_id ? strlen(client_id) : 0, &frame.notify.client_id);
	return r < 0 ? r : queue_publish(h, &frame, done, arg);
}

int pgherald_send(struct pgherald *h, const char *channel, const char *payload, size_t len,
	pgherald_done *done, void *arg)
{
	struct wire_frame frame = {.type = WIRE_SEND, .send = {.id = h->next_id}};

	int r = check_usable(h);
	if (r == 0)
		r = payload ? check_channel(channel, &frame.send.channel) : -EINVAL;
	if (r == 0)
		r = check_string(payload, len, &frame.send.payload);
	return r < 0 ? r : queue_publish(h, &frame, done, arg);
}

int pgherald_cursor(const struct pgherald *h, char *buf, size_t size)
{
	int r = check_usable(h);

	return r < 0 ? r : cursor_format(&h->cursor, buf, size);
}
