/* The list of seqs that a worker with pubkeys is still owed, in order. No I/O, and it knows no
 * frames. delivery.c keeps one for each worker. */
#pragma once

#include <stdint.h>

/* Bounds a list, at 8 KiB: a small part of what the kernel keeps for the socket. A worker that
 * is owed more scans the backlog instead. */
#define WANTED_MAX 1024
/* The first size of a list: one cache line. It doubles up to WANTED_MAX. */
#define WANTED_FIRST 8
_Static_assert(
	WANTED_MAX % WANTED_FIRST == 0 && (WANTED_MAX / WANTED_FIRST & (WANTED_MAX / WANTED_FIRST - 1)) == 0,
	"doubling reaches WANTED_MAX");

/* All zero: empty. */
struct wanted {
	uint64_t *seqs; /* owned */
	uint32_t first, n, max;
};

void wanted_clear(struct wanted *wanted);
/* Only when the list is full. 0; -ENOMEM, also at WANTED_MAX. */
int wanted_make_room(struct wanted *wanted);

/* seq: higher than all others. 0; -ENOMEM, also at WANTED_MAX: it was not added. Inline, like
 * everything here that runs for each frame and worker. */
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

/* Returns instead if the list is empty. */
static inline uint64_t wanted_first(const struct wanted *wanted, uint64_t instead)
{
	return wanted->n > 0 ? wanted->seqs[wanted->first] : instead;
}

/* Drops all up to this seq. */
static inline void wanted_drop_to(struct wanted *wanted, uint64_t seq)
{
	while (wanted->n > 0 && wanted->seqs[wanted->first] <= seq) {
		wanted->first++;
		wanted->n--;
	}
	if (wanted->n == 0)
		wanted->first = 0;
}
