/* The seqs after a worker's cursor that a worker with pubkeys is owed, in order. Pure memory; delivery.c
 * keeps one for each worker. */
#pragma once

#include <stdint.h>

/* A worker that is owed more is sent by a scan of the backlog instead. So a list has 8 KiB at most. */
#define WANTED_MAX 1024

/* All zero: empty. */
struct wanted {
	uint64_t *seqs;
	uint32_t first, n, max;
};

void wanted_clear(struct wanted *wanted);
/* Room for one more, of which there is none. 0 or -ENOMEM. */
int wanted_make_room(struct wanted *wanted);

/* seq: after all others. 0; -ENOMEM, also for one more than WANTED_MAX: it was not added. Inline, as all here
 * that is done for each frame and worker. */
static inline int wanted_add(struct wanted *wanted, uint64_t seq)
{
	if (wanted->first + wanted->n == wanted->max) {
		int r = wanted_make_room(wanted);
		if (r < 0)
			return r;
	}
	wanted->seqs[wanted->first + wanted->n++] = seq;
	return 0;
}

/* The first; instead when there is none. */
static inline uint64_t wanted_first(const struct wanted *wanted, uint64_t instead)
{
	return wanted->n > 0 ? wanted->seqs[wanted->first] : instead;
}

/* Forget all up to this seq. */
static inline void wanted_drop_to(struct wanted *wanted, uint64_t seq)
{
	while (wanted->n > 0 && wanted->seqs[wanted->first] <= seq) {
		wanted->first++;
		wanted->n--;
	}
	if (wanted->n == 0)
		wanted->first = 0;
}
