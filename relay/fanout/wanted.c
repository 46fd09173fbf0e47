#include "fanout/wanted.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int wanted_make_room(struct wanted *w)
{
	if (w->first > 0) {
		memmove(w->seqs, w->seqs + w->first, w->n * sizeof *w->seqs);
		w->first = 0;
		return 0;
	}
	uint32_t max = w->max ? w->max * 2 : WANTED_FIRST;
	uint64_t *seqs = max <= WANTED_MAX ? reallocarray(w->seqs, max, sizeof *seqs) : NULL;
	if (!seqs)
		return -ENOMEM;
	w->seqs = seqs;
	w->max = max;
	return 0;
}

void wanted_clear(struct wanted *w)
{
	free(w->seqs);
	*w = (struct wanted){0};
}
