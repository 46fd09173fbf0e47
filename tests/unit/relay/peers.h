/* Workers' ends for tests of the fan-out: a real fan-out on a real loop, and workers on socket pairs that
 * hold little. Each peer checks that what it reads is in order. */
#pragma once

#include "fanout/connection.h"
#include "fanout/decode.h"

#define FRAMES_MAX 40000

struct peer {
	int fd;
	struct worker *worker;
	unsigned char in[2 * WIRE_FRAME_MAX];
	size_t len;
	uint64_t seqs[FRAMES_MAX]; /* of changes and other frames of the backlog */
	int n;
	uint64_t ok_seq, ok_id;
	int n_gaps, n_recovered;
	bool closed;
};

extern struct config config;
extern struct fanout fanout;
extern struct decode decoder;
/* The worker that asked to be caught up last. */
extern struct worker *caught_up_asked;

/* For TestSuite(). */
void peers_start(void);
void peers_end(void);

/* One iteration of the loop, without waiting. */
void iterate(void);
void request(struct peer *peer, struct wire_frame frame);
/* Read up to max bytes. */
void take(struct peer *peer, size_t max);
/* Read until nothing more comes. */
void take_all(struct peer *peer);

struct peer *peer_open(void);
/* Its HELLO resumes from this seq of the fan-out's epoch. */
struct peer *peer_resume(uint64_t seq);
void peer_close(struct peer *peer);
/* pubkey NULL: to the whole channel. */
void subscribe(struct peer *peer, const char *channel, const char *pubkey);

/* Append a change of the channel "data", or a message of the channel "log". Returns its seq. */
uint64_t change(const char *pubkey);
uint64_t message(const char *payload);
