/* The pace: when the next round of sends may begin. A round sends once to each scanner. This
 * decides only when; fanout.c decides to whom, calls this and reports each send. */
#pragma once

#include <ev.h>
#include <stdbool.h>
#include <stdint.h>

/* How many of a round's last receivers to check. The majority decides, so one stalled worker
 * does not matter. Each costs a system call, so it is not all of them. */
#define PACE_SAMPLE 8
/* Bounds the wait for readers, in multiples of the time that the sends took. A healthy worker
 * reads within one or two. */
#define PACE_UNREAD_MAX 4.
/* The rest after a wait is the shortest of three: PACE_REST times what sending and reading
 * took, PACE_REST_A_FRAME for each frame, and PACE_WAIT_MAX. At 1.5, the workers have the
 * processor for more than half of the time. */
#define PACE_REST 1.5
/* Seconds for each frame that waits. If few come, a longer rest saves few wakes. */
#define PACE_REST_A_FRAME 0.0005
/* Seconds: bounds the rest, and the wait for readers beyond the time of the sends. It is what a
 * round may add to the latency of a change on a slow machine, or after the relay was
 * stopped. */
#define PACE_WAIT_MAX 0.005

enum pace_phase {
	PACE_SENT,    /* the next round was not asked for yet */
	PACE_UNREAD,  /* it was, while most had not read */
	PACE_RESTING, /* since then they have read */
};

/* Waking a worker costs ten times as much as the bytes it reads. So an idle relay sends at
 * once. If a frame comes while most workers of the last round have not read yet, the machine is
 * busy: the round waits until they have read, and then rests (PACE_REST). What comes meanwhile
 * goes out with the same round. Both waits are measured, so they are as short as the machine is
 * fast. */
struct pace {
	struct ev_loop *loop;
	int timer; /* a timerfd, because libev rounds its timers to milliseconds with epoll */
	struct ev_io fired;
	double alarm; /* seconds of clock_now(), what the timer is set for; 0: not set */

	enum pace_phase phase;
	/* Seconds of clock_now(). */
	double began, ended; /* of the last round's sends */
	double until;        /* while resting */
	unsigned n_sends;    /* of the last round */
	/* A ring of the sockets that were sent to last; -1: closed since. */
	int last[PACE_SAMPLE];
};

/* loop must outlive the pace. 0 or negative errno. */
int pace_open(struct pace *pace, struct ev_loop *loop);
void pace_close(struct pace *pace);

/* Whether the next round, of n_frames frames, may begin. If not, the loop wakes when it is time
 * to ask again. */
bool pace_allows(struct pace *pace, uint64_t n_frames);
void pace_begin(struct pace *pace);
void pace_sent(struct pace *pace, int fd);
void pace_end(struct pace *pace);
/* Call it before the socket is closed: its number may come back as another's. */
void pace_forget(struct pace *pace, int fd);
