#include "base/segments.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

static int add_segment(struct segments *s)
{
	if (s->n == s->max) {
		uint32_t max = s->max ? s->max * 2 : 8;
		unsigned char **at = reallocarray(s->at, max, sizeof *at);
		if (!at)
			return -ENOMEM;
		s->at = at;
		s->max = max;
	}
	void *segment = mmap(NULL, SEGMENT_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (segment == MAP_FAILED)
		return -ENOMEM;
	s->at[s->n++] = segment;
	return 0;
}

static uint64_t segments_for(uint64_t bytes)
{
	return (bytes + SEGMENT_SIZE - 1) >> SEGMENT_SHIFT;
}

int segments_reserve(struct segments *s, uint64_t bytes)
{
	int r = 0;

	while (r == 0 && s->n < segments_for(bytes))
		r = add_segment(s);
	return r;
}

void segments_release(struct segments *s, uint64_t bytes)
{
	while (s->n > segments_for(bytes) + 1)
		munmap(s->at[--s->n], SEGMENT_SIZE);
}

void segments_free(struct segments *s)
{
	while (s->n > 0)
		munmap(s->at[--s->n], SEGMENT_SIZE);
	free(s->at);
	*s = (struct segments){0};
}
