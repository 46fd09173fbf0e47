#include "fanout/wanted.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int wanted_add(struct wanted *w, uint64_t seq)
{
	if (w->first + w->n == w->max && w->first > 0) {
		memmove(w->seqs, w->seqs + w->first, w->n * sizeof *w->seqs);
		w->first = 0;
	}
	if (w->n == w->max) {
		uint32_t max = w->max ? w->max * 2 : 8;
		uint64_t *seqs = max <= WANTED_MAX ? reallocarray(w->seqs, max, sizeof *seqs) : NULL;
		if (!seqs)
			return -ENOMEM;
		w->seqs = seqs;
		w->max = max;
	}
	w->seqs[w->first + w->n++] = seq;
	return 0;
}

void wanted_drop_to(struct wanted *w, uint64_t seq)
{
	while (w->n > 0 && w->seqs[w->first] <= seq) {
		w->first++;
		w->n--;
	}
	if (w->n == 0)
		w->first = 0;
}

void wanted_clear(struct wanted *w)
{
	free(w->seqs);
	*w = (struct wanted){0};
}
