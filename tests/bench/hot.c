/* The hot paths, one at a time, as often as asked: tests/bench/instructions runs this under callgrind and
 * counts.
 *
 *   bench-hot PATH TIMES
 *   bench-hot --compiler	what the counts depend on */
#include "bench.h"

#include "fanout/connection.h"
#include "fanout/decode.h"
#include "fanout/fanout.h"
#include "pgherald.h"
#include "wire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define WORKERS 16
/* Frames that come in one iteration of the loop, or are received at once. */
#define TURN 16
#define SUBSCRIPTIONS 1000

static struct ev_loop *loop;
static struct fanout fanout;
static struct decode decode;
static struct config config;
static int peers[WORKERS];

/* The relay's side */

static void open_relay(void)
{
	static const struct worker_requests requests;
	static char name[] = "bench-hot";

	/* All defaults, independent of the environment; the channel is the default too. */
	clearenv();
	if (config_load(&config, 1, (char *[]){name, NULL}) != 0)
		die("no configuration");
	loop = ev_default_loop(EVFLAG_AUTO);
	decode.config = &config;
	if (fanout_open(&fanout, loop, &config, &requests, NULL) < 0)
		die("no fan-out");
	/* The same chains every time. */
	memset(fanout.router.secret, 7, sizeof fanout.router.secret);
}

static void send_frame(int fd, const struct wire_frame *frame)
{
	char buf[4096];
	int len = wire_encode(frame, buf, sizeof buf);

	if (len < 0 || send(fd, buf, (size_t)len, 0) != len)
		die("send: %m");
	ev_run(loop, EVRUN_NOWAIT);
}

static void empty_peers(void)
{
	static char buf[256 << 10];

	for (int i = 0; i < WORKERS; i++)
		while (recv(peers[i], buf, sizeof buf, MSG_DONTWAIT) > 0)
			;
}

static void open_workers(const struct wire_str *pubkeys, uint32_t n_pubkeys)
{
	for (int i = 0; i < WORKERS; i++) {
		int pair[2];
		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) < 0 ||
			!connection_open(&fanout, pair[0]))
			die("socketpair: %m");
		peers[i] = pair[1];
		send_frame(pair[1],
			&(struct wire_frame){.type = WIRE_HELLO, .hello = {.version = WIRE_VERSION}});
		send_frame(pair[1], &(struct wire_frame){.type = WIRE_SUBSCRIBE,
					    .subscribe = {1, wire_str(BENCH_CHANNEL), pubkeys, n_pubkeys}});
	}
	empty_peers();
}

static void decode_payload(struct decoded *out)
{
	static char payload[PAYLOAD_LEN + 1];

	if (!*payload)
		make_payload(1, 0, payload);
	if (decode_notification(&decode, BENCH_CHANNEL, (struct wire_str){payload, PAYLOAD_LEN}, out) < 0)
		die("no change");
}

static void run_decode(unsigned times)
{
	struct decoded decoded;

	for (unsigned i = 0; i < times; i++) {
		decode_payload(&decoded);
		decoded_release(&decoded);
	}
}

static void run_append(unsigned times)
{
	struct decoded decoded;
	struct wire_frame frame;

	decode_payload(&decoded);
	for (unsigned i = 0; i < times; i++) {
		decoded_frame(&decoded, fanout.backlog.head + 1, 0, &frame);
		int len = wire_encode(&frame, backlog_reserve(&fanout.backlog), BACKLOG_FRAME_MAX);
		backlog_commit(&fanout.backlog, (size_t)len, 1, 1);
	}
}

static void run_route(unsigned times)
{
	char pubkeys[SUBSCRIPTIONS][PUBKEY_LEN + 1];
	uint32_t found = 0;

	for (unsigned i = 0; i < SUBSCRIPTIONS; i++) {
		user_pubkey(i, pubkeys[i]);
		router_add(&fanout.router, router_key(&fanout.router, 1, wire_str(pubkeys[i])), 0);
	}
	for (unsigned i = 0; i < times; i++) {
		struct wire_str pubkey = {pubkeys[i % SUBSCRIPTIONS], PUBKEY_LEN};
		uint64_t key = router_key(&fanout.router, 1, pubkey);
		for (uint32_t e = router_find(&fanout.router, key); e != ROUTER_END;
			e = router_edge(&fanout.router, e)->next_of_key)
			found++;
	}
	if (found < times)
		die("a route is missing");
}

/* Iterations of the loop in which some frames come, and go out to all workers. */
static void run_turns(unsigned times, unsigned frames)
{
	struct decoded decoded;

	decode_payload(&decoded);
	for (unsigned i = 0; i < times; i++) {
		for (unsigned frame = 0; frame < frames; frame++)
			fanout_decoded(&fanout, &decoded, 0);
		ev_run(loop, EVRUN_NOWAIT);
		/* No round must wait for the previous one. */
		empty_peers();
	}
}

static void run_flush(unsigned times)
{
	open_workers(NULL, 0);
	run_turns(times, TURN);
}

static void run_flush_wanted(unsigned times)
{
	struct decoded decoded;

	decode_payload(&decoded);
	open_workers(&decoded.change.pubkey, 1);
	run_turns(times, TURN);
}

/* The client's side, against a relay that is no more than a socket */

static int relay_end;

static void on_change(struct pgherald *h, const struct pgherald_change *change, void *data)
{
	(void)h;
	(void)change;
	++*(unsigned *)data;
}

static struct pgherald *open_client(unsigned *count)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct pgherald_options options = {
		.size = sizeof options, .socket = address.sun_path, .data = count, .on_change = on_change};
	struct pgherald *h;
	char buf[4096];

	snprintf(address.sun_path, sizeof address.sun_path, "/tmp/pgherald-hot-%d.sock", (int)getpid());
	int listener = socket(AF_UNIX, SOCK_STREAM, 0);
	if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 1) < 0)
		die("%s: %m", address.sun_path);
	if (pgherald_open(&options, &h) < 0 || pgherald_subscribe(h, BENCH_CHANNEL, NULL, NULL, NULL) < 0 ||
		pgherald_dispatch(h) < 0)
		die("no client");
	relay_end = accept(listener, NULL, NULL);
	unlink(address.sun_path);
	int len = wire_encode(&(struct wire_frame){.type = WIRE_WELCOME,
				      .welcome = {WIRE_VERSION, wire_str("epoch"), 0, wire_str("postgres"),
					      wire_str("live"), wire_str("0"), NULL, 0}},
		buf, sizeof buf);
	if (send(relay_end, buf, (size_t)len, 0) != len || pgherald_dispatch(h) < 0)
		die("no welcome");
	return h;
}

static void run_client(unsigned times)
{
	char pubkey[PUBKEY_LEN + 1], client_id[CLIENT_ID_LEN + 1], buf[TURN * 256];
	unsigned count = 0;
	size_t len = 0;

	struct pgherald *h = open_client(&count);
	user_pubkey(1, pubkey);
	stamped_client_id(0, client_id);
	for (unsigned i = 0; i < TURN; i++)
		len += (size_t)wire_encode(&(struct wire_frame){.type = WIRE_CHANGE,
						   .change = {100000 + i, wire_str(BENCH_CHANNEL),
							   wire_str(pubkey), wire_str(client_id), 0}},
			buf + len, sizeof buf - len);
	for (unsigned i = 0; i < times; i++)
		if (send(relay_end, buf, len, 0) != (ssize_t)len || pgherald_dispatch(h) != TURN)
			die("not all came");
	if (count != times * TURN)
		die("a callback is missing");
	pgherald_close(h);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(unsigned times);
	} paths[] = {{"decode", run_decode}, {"append", run_append}, {"route", run_route},
		{"flush", run_flush}, {"flush-wanted", run_flush_wanted}, {"client", run_client}};

	if (argc == 2 && strcmp(argv[1], "--compiler") == 0) {
		puts(COMPILER);
		return 0;
	}
	if (argc != 3)
		die("usage: bench-hot PATH TIMES, or bench-hot --compiler");
	open_relay();
	for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
		if (strcmp(argv[1], paths[i].name) == 0) {
			paths[i].run((unsigned)atoi(argv[2]));
			return 0;
		}
	die("there is no path %s", argv[1]);
}
