/* When a round of sends, one to each who hears all, may begin. What fan-out costs is to wake the workers, ten
 * times as much as the bytes. So an idle relay sends at once; but when a frame comes while most of those who
 * were sent to last have not read yet, the machine is behind, and the round waits until they have, and then
 * one and a half times as long again. What comes meanwhile goes out with it; the less it is, the shorter the
 * wait. The pause is measured, not set: it is as short as the machine is fast. Leaves out who is sent what;
 * the fan-out, its only caller, tells it of each send. */
#pragma once

#include <ev.h>
#include <stdbool.h>
#include <stdint.h>

/* The last so many of a round speak for all; of many, one that is stalled changes nothing. */
#define PACE_SAMPLE 8
/* For those who do not read, so many times as long as the sending took, and no longer. */
#define PACE_UNREAD_MAX 4.
/* The pause behind it, in times of what the sending and reading took: of what follows, the least goes. */
#define PACE_REST 1.5
/* Seconds, for each frame that waits by then: where few come, a longer pause saves few wakes. */
#define PACE_REST_A_FRAME 0.0005
/* Seconds. Neither wait is longer, however slow the machine is, or if the relay was stopped. */
#define PACE_WAIT_MAX 0.005

enum pace_phase {
	PACE_SENT,    /* nobody has asked for another round yet */
	PACE_UNREAD,  /* most had not read when somebody did */
	PACE_RESTING, /* they have */
};

struct pace {
	struct ev_loop *loop;
	int timer; /* a timerfd: libev's timers are of milliseconds under epoll */
	struct ev_io fired;
	double alarm; /* what it is set for; 0: not known to be */
	void (*on_alarm)(void *context);
	void *context;

	enum pace_phase phase;
	double began, ended; /* the last round's sends */
	double until;        /* while resting */
	unsigned n_sends;
	int last[PACE_SAMPLE]; /* the sockets that were sent to last, in a ring; -1: closed since */
};

/* on_alarm: it is time to ask again. 0 or negative errno. */
int pace_open(struct pace *pace, struct ev_loop *loop, void (*on_alarm)(void *context), void *context);
void pace_close(struct pace *pace);

/* Whether the next round, of so many frames, may begin. When not, on_alarm follows. */
bool pace_allows(struct pace *pace, uint64_t n_frames);
/* Whether it may not since most have still to read. Then on_alarm follows. */
bool pace_waits_for_readers(struct pace *pace);
void pace_begin(struct pace *pace);
void pace_sent(struct pace *pace, int fd);
void pace_end(struct pace *pace);
/* The socket is about to be closed. */
void pace_forget(struct pace *pace, int fd);
