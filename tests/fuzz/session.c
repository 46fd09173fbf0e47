/* Sessions with the relay in local mode. The input drives three workers that do and send
 * anything, and what the relay hears meanwhile. Two workers behave: one subscribes to all, one
 * to a single pubkey. Whatever the others do, each of those two gets exactly what it subscribed
 * to. Every byte to any worker is part of a frame of the relay's, in the order of their
 * seqs. */
#include "input.h"

#include "fanout/connection.h"
#include "local_relay.h"
#include "log.h"

#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#define ANYHOW 3 /* workers that the input drives */
#define USERS 4
#define STEPS_MAX 400

struct peer {
	int fd;
	unsigned char in[2 * WIRE_FRAME_MAX];
	size_t len;
	bool ended, reset;
	uint64_t ok_seq, last_seq;
	/* Of one that behaves: what it received, and a sum over what it must have received from
	 * the backlog. */
	uint64_t n, sum;
};

static struct relay *relay;
static struct wire_decoder *decoder;
static struct peer anyhow[ANYHOW], all, one;

static const char *const users[USERS] = {"user0", "user1", "", "user1\n"};

static void add_up(struct peer *p, uint64_t seq)
{
	p->n++;
	p->sum = p->sum * 31 + seq;
}

static uint64_t seq_of(const struct wire_frame *f)
{
	switch (f->type) {
	case WIRE_CHANGE:
		return f->change.seq;
	case WIRE_MESSAGE:
		return f->message.seq;
	case WIRE_CHECKPOINT:
		return f->checkpoint.seq;
	case WIRE_GAP:
		return f->gap.seq;
	case WIRE_UPSTREAM:
		return f->upstream.seq;
	default:
		return WIRE_SEQ_NIL;
	}
}

static void take_frame(struct peer *p, const struct wire_frame *f)
{
	uint64_t seq = seq_of(f);

	/* The relay never sends a worker's frame, and nothing after BYE. */
	must(f->type >= WIRE_WELCOME && !p->ended);
	if (f->type == WIRE_BYE)
		p->ended = true;
	if (f->type == WIRE_OK)
		p->ok_seq = f->ok.seq;
	if (seq == WIRE_SEQ_NIL)
		return;
	must(seq <= relay->fanout.backlog.head && seq >= p->last_seq);
	if (f->type == WIRE_CHANGE || f->type == WIRE_MESSAGE)
		must(seq > p->last_seq && seq > p->ok_seq);
	p->last_seq = seq;
	if (p == &all) {
		/* It gets everything, without a hole: so it says what the other one must
		 * get. */
		must(p->n == 0 || seq == p->n + 1);
		add_up(p, seq);
	}
	if (p == &one) {
		must(f->type != WIRE_MESSAGE);
		must(f->type != WIRE_CHANGE || wire_str_eq(f->change.pubkey, wire_str(users[1])));
		add_up(p, seq);
	}
}

static void take(struct peer *p, size_t max)
{
	size_t taken = 0;

	if (p->fd < 0 || max == 0)
		return;
	if (max > sizeof p->in - p->len)
		max = sizeof p->in - p->len;
	ssize_t n = recv(p->fd, p->in + p->len, max, MSG_DONTWAIT);
	/* If the relay left requests unread, recv() reports that first; what it sent before can
	 * still be read. */
	if (n < 0 && errno == ECONNRESET) {
		p->reset = true;
		n = recv(p->fd, p->in + p->len, max, MSG_DONTWAIT);
	}
	if (n <= 0) {
		p->ended |= n == 0;
		return;
	}
	p->len += (size_t)n;
	for (;;) {
		struct wire_scanner scanner = {0};
		struct wire_frame f;
		int r = wire_scan(&scanner, p->in + taken, p->len - taken);
		must(r == 0 || r == -EAGAIN);
		if (r < 0)
			break;
		must(wire_decode(decoder, p->in + taken, scanner.offset, &f) == 0);
		take_frame(p, &f);
		taken += scanner.offset;
	}
	memmove(p->in, p->in + taken, p->len - taken);
	p->len -= taken;
}

static void open_peer(struct peer *p, bool small)
{
	*p = (struct peer){.fd = local_relay_connect(relay_worker_accepted, relay, small)};
}

static void close_peer(struct peer *p)
{
	close(p->fd);
	p->fd = -1;
}

static void iterate(void)
{
	local_relay_run();
	take(&all, SIZE_MAX);
	take(&one, SIZE_MAX);
}

static void send_bytes(struct peer *p, const void *bytes, size_t len)
{
	if (len > 0)
		(void)!send(p->fd, bytes, len, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void send_frame(struct peer *p, const struct wire_frame *frame)
{
	static unsigned char buf[WIRE_FRAME_MAX];
	int len = wire_encode(frame, buf, sizeof buf);

	must(len > 0);
	send_bytes(p, buf, (size_t)len);
}

static void subscribe(struct peer *p, const char *channel, const char *pubkey)
{
	struct wire_str pubkeys = wire_str(pubkey);

	send_frame(p, &(struct wire_frame){.type = WIRE_SUBSCRIBE,
			      .subscribe = {1, wire_str(channel), pubkey ? &pubkeys : NULL, pubkey != NULL}});
}

/* A valid frame, with elements that mean something. */
static void send_some_frame(struct peer *p, struct input *in)
{
	static const char *const channels[] = {"data", "log", "", "data2"};
	static const enum wire_type types[] = {WIRE_HELLO, WIRE_SUBSCRIBE, WIRE_UNSUBSCRIBE, WIRE_NOTIFY,
		WIRE_SEND, WIRE_PING, WIRE_BEGIN, WIRE_OK};
	unsigned a = input_byte(in), b = input_byte(in);
	struct wire_frame f = {.type = types[a % 8]};
	struct wire_str channel = wire_str(channels[a >> 6]), pubkeys[300];
	uint32_t n = b >> 4;
	char *text = NULL;

	switch (f.type) {
	case WIRE_HELLO:
		text = input_text(in);
		f.hello = (struct wire_hello){.version = 1,
			.name = wire_str(text),
			.resume = b & 1,
			.epoch = wire_str(b & 2 ? LOCAL_RELAY_EPOCH : text),
			.seq = input_byte(in),
			.checkpoint = b & 4 ? wire_str(text) : (struct wire_str){0}};
		break;
	case WIRE_SUBSCRIBE:
	case WIRE_UNSUBSCRIBE:
		/* Sometimes more of one kind than the limit allows. */
		n = n == 15 ? 300 : n;
		for (uint32_t i = 0; i < n; i++)
			pubkeys[i] = n == 300 ? (struct wire_str){(const char *)&users[i % USERS], i % 9}
					      : wire_str(users[(b + i) % USERS]);
		f.subscribe = (struct wire_subscribe){2, channel, b & 1 ? NULL : pubkeys, n};
		break;
	case WIRE_NOTIFY:
		f.notify = (struct wire_notify){
			3, channel, wire_str(users[b % USERS]), wire_str(b & 4 ? "me" : NULL)};
		break;
	case WIRE_SEND:
		text = input_text(in);
		f.send = (struct wire_send){4, channel, wire_str(text)};
		break;
	case WIRE_OK:
		f.ok = (struct wire_ok){5, 5};
		break;
	default:
		f.request = (struct wire_request){b};
		break;
	}
	send_frame(p, &f);
	free(text);
}

static void hear(struct input *in)
{
	static char payload[8000];
	unsigned what = input_byte(in), n = input_byte(in);
	struct fanout *f = &relay->fanout;

	/* Large payloads are rare: many of them would only make the input slow. */
	if (!payload[0])
		memset(payload, 'x', sizeof payload - 1);
	struct wire_str text = {payload, what & 0x80 ? CHANGE_PAYLOAD_MAX : n};
	switch (what % 8) {
	case 0:
		local_relay_hear("log", text);
		break;
	case 1:
		fanout_checkpoint(f, "7;00000001;0/1234;5:5:");
		break;
	case 2:
		fanout_gap(f, WIRE_GAP_UPSTREAM, "the relay did not hear PostgreSQL for a while");
		break;
	case 3:
		fanout_upstream(f, n & 1, "as the input says");
		break;
	case 4:
		/* More than the backlog can hold, but not more than the workers that behave can
		 * take. */
		for (int i = 0; i < 20; i++) {
			local_relay_hear("log", (struct wire_str){payload, CHANGE_PAYLOAD_MAX});
			iterate();
		}
		break;
	default:
		local_relay_hear("data", what & 0x80 ? text : wire_str(users[n % USERS]));
		break;
	}
}

static void step(struct input *in)
{
	unsigned what = input_byte(in);
	struct peer *p = &anyhow[what >> 4 & 3 ? (what >> 4 & 3) - 1 : 0];
	struct span bytes;

	switch (what % 8) {
	case 0:
		bytes = input_span(in, input_u16(in));
		send_bytes(p, bytes.bytes, bytes.len);
		break;
	case 1:
	case 2:
		send_some_frame(p, in);
		break;
	case 3:
		hear(in);
		break;
	case 4:
		take(p, input_u16(in));
		break;
	case 5:
		if (what & 8)
			close_peer(p);
		else
			shutdown(p->fd, what & 0x40 ? SHUT_RD : SHUT_WR);
		iterate();
		if (what & 8)
			open_peer(p, what & 0x40);
		break;
	case 6: {
		struct worker *w = workers_find_id(&relay->fanout.workers, input_byte(in));
		/* 1 and 2 are the workers that behave. */
		if (w && w->id > 2)
			connection_close(w, WIRE_BYE_EVICTED, "an operator ended this connection");
		break;
	}
	default:
		iterate();
	}
}

static void settle(struct peer *p)
{
	size_t len;

	do {
		len = p->len;
		uint64_t last = p->last_seq;
		for (int i = 0; i < 4; i++) {
			iterate();
			take(p, SIZE_MAX);
		}
		if (last != p->last_seq)
			len = SIZE_MAX;
		/* The relay may wait a moment for workers that have not read. */
	} while ((p->len != len && !p->ended) || fanout_round_waits(&relay->fanout));
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	must(wire_decoder_new(&decoder) == 0);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, data + size};
	struct wire_frame hello = {
		.type = WIRE_HELLO, .hello = {.version = 1, .name = wire_str("well behaved")}};

	log_clear();
	relay = local_relay_start();
	open_peer(&all, false);
	open_peer(&one, false);
	send_frame(&all, &hello);
	send_frame(&one, &hello);
	subscribe(&all, "data", NULL);
	subscribe(&all, "log", NULL);
	subscribe(&one, "data", users[1]);
	iterate();
	must(all.len == 0 && !all.ended);
	for (int i = 0; i < ANYHOW; i++)
		open_peer(&anyhow[i], i != 0);
	for (int i = 0; i < STEPS_MAX && input_more(&in); i++)
		step(&in);
	for (int i = 0; i < ANYHOW; i++) {
		settle(&anyhow[i]);
		/* A worker that is still connected has received only whole frames. */
		must(anyhow[i].ended || anyhow[i].reset || anyhow[i].len == 0);
	}
	settle(&all);
	settle(&one);
	must(!all.ended && !all.reset && !one.ended && !one.reset && all.len == 0 && one.len == 0);
	must(all.n == relay->fanout.backlog.head);
	must(relay->fanout.n_appended[0] == 0 && fanout_n_appended(&relay->fanout) <= all.n);
	local_relay_end();
	for (int i = 0; i < ANYHOW; i++)
		close_peer(&anyhow[i]);
	close_peer(&all);
	close_peer(&one);
	return 0;
}
