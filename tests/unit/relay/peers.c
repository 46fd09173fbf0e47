#include "peers.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct ev_loop *loop;
struct config config;
struct fanout fanout;
struct decode decoder;
static struct wire_decoder *reader;
struct worker *caught_up_asked;

static void publish(
	void *context, struct worker_ref worker, uint64_t request, unsigned topic, struct wire_str payload)
{
	(void)context;
	(void)topic;
	(void)payload;
	connection_published(&fanout, worker, request, WIRE_ERROR_NONE, NULL);
}

static void catch_up(void *context, struct worker *worker)
{
	(void)context;
	caught_up_asked = worker;
}

static void takes_more(void *context, struct worker *worker)
{
	(void)context;
	(void)worker;
}

static void forget(void *context, struct worker *worker)
{
	(void)context;
	(void)worker;
}

void peers_start(void)
{
	static const struct worker_requests requests = {publish, catch_up, takes_more, forget};

	loop = ev_default_loop(EVFLAG_AUTO);
	config = (struct config){.mode = MODE_LOCAL,
		.backlog_size = BACKLOG_SIZE_MIN * 16,
		.n_channels = 2,
		.channels = {{.name = "data", .kind = CHANNEL_CHANGES}, {.name = "log", .kind = CHANNEL_TEXT}},
		.workers_max = 4096,
		.workers_per_uid_max = 4096,
		.subscriptions_max = 1 << 20,
		.subscriptions_per_uid_max = 1 << 21,
		.subscriptions_total_max = 1 << 22,
		.worker_queue_size = 256 << 10,
		.worker_queues_per_uid_size = 64 << 20,
		.worker_queues_total_size = 128 << 20,
		.worker_publishes_max = 4096};
	decoder = (struct decode){.config = &config};
	cr_assert_eq(fanout_open(&fanout, loop, &config, &requests, NULL), 0);
	cr_assert_eq(wire_decoder_new(&reader), 0);
}

void peers_end(void)
{
	connection_close_all(&fanout, WIRE_BYE_NONE, "the test is over");
	fanout_close(&fanout);
	wire_decoder_free(reader);
	ev_loop_destroy(loop);
}

void iterate(void)
{
	ev_run(loop, EVRUN_NOWAIT);
}

void request(struct peer *p, struct wire_frame frame)
{
	unsigned char buf[4096];
	int len = wire_encode(&frame, buf, sizeof buf);

	cr_assert_eq(send(p->fd, buf, (size_t)len, MSG_NOSIGNAL), len);
	iterate();
}

static void take_frame(struct peer *p, const struct wire_frame *f)
{
	uint64_t seq = f->type == WIRE_CHANGE       ? f->change.seq
		       : f->type == WIRE_MESSAGE    ? f->message.seq
		       : f->type == WIRE_CHECKPOINT ? f->checkpoint.seq
		       : f->type == WIRE_UPSTREAM   ? f->upstream.seq
		       : f->type == WIRE_GAP        ? f->gap.seq
						    : 0;
	if (f->type == WIRE_OK) {
		/* The stream is in order: nothing up to an OK's seq comes after it. */
		p->ok_id = f->ok.id;
		p->ok_seq = f->ok.seq;
	}
	p->n_gaps += f->type == WIRE_GAP;
	p->n_recovered += f->type == WIRE_CHANGE && f->change.flags == WIRE_RECOVERED;
	p->closed |= f->type == WIRE_BYE;
	if (seq == 0 || seq == WIRE_SEQ_NIL)
		return;
	cr_assert_gt(seq, p->ok_seq, "seq %lu after OK %lu", seq, p->ok_seq);
	cr_assert(p->n == 0 || seq > p->seqs[p->n - 1]);
	cr_assert_lt(p->n, FRAMES_MAX);
	p->seqs[p->n++] = seq;
}

/* Read up to max bytes. */
void take(struct peer *p, size_t max)
{
	if (max > sizeof p->in - p->len)
		max = sizeof p->in - p->len;
	ssize_t n = recv(p->fd, p->in + p->len, max, MSG_DONTWAIT);
	size_t taken = 0;
	if (n <= 0) {
		p->closed |= n == 0 || errno == ECONNRESET;
		return;
	}
	p->len += (size_t)n;
	for (;;) {
		struct wire_scanner scanner = {0};
		struct wire_frame f;
		if (wire_scan(&scanner, p->in + taken, p->len - taken) != 0)
			break;
		cr_assert_eq(wire_decode(reader, p->in + taken, scanner.offset, &f), 0);
		take_frame(p, &f);
		taken += scanner.offset;
	}
	memmove(p->in, p->in + taken, p->len - taken);
	p->len -= taken;
}

void take_all(struct peer *p)
{
	int before;

	do {
		before = p->n;
		for (int i = 0; i < 20; i++) {
			iterate();
			take(p, sizeof p->in);
		}
		/* A round may wait for the peers to read, and for a little longer. */
	} while (p->n > before || fanout_round_waits(&fanout));
}

static struct peer *peer_hello(struct wire_hello hello)
{
	struct peer *p = calloc(1, sizeof *p);
	int fds[2], small = 4096;

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
	setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
	p->fd = fds[1];
	p->worker = connection_open(&fanout, fds[0]);
	request(p, (struct wire_frame){.type = WIRE_HELLO, .hello = hello});
	return p;
}

struct peer *peer_open(void)
{
	return peer_hello((struct wire_hello){.version = 1, .name = wire_str("test")});
}

struct peer *peer_resume(uint64_t seq)
{
	return peer_hello((struct wire_hello){
		.version = 1, .resume = true, .epoch = wire_str(fanout.epoch), .seq = seq});
}

void peer_close(struct peer *p)
{
	close(p->fd);
	free(p);
}

void subscribe(struct peer *p, const char *channel, const char *pubkey)
{
	struct wire_str pubkeys[] = {wire_str(pubkey ? pubkey : "")};

	request(p, (struct wire_frame){.type = WIRE_SUBSCRIBE,
			   .subscribe = {1, wire_str(channel), pubkey ? pubkeys : NULL, pubkey != NULL}});
}

uint64_t change(const char *pubkey)
{
	struct decoded decoded;

	cr_assert_eq(decode_recovered(&decoder, "data", wire_str(pubkey), 1, &decoded), 0);
	fanout_decoded(&fanout, &decoded, 0);
	return fanout.backlog.head;
}

uint64_t message(const char *payload)
{
	struct decoded decoded;

	cr_assert_eq(decode_recovered(&decoder, "log", wire_str(payload), 1, &decoded), 0);
	fanout_decoded(&fanout, &decoded, 0);
	return fanout.backlog.head;
}
