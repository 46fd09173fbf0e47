#include "fanout/workers.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

/* The first number of slots: half a KiB. It doubles as workers come. */
#define SLOTS_FIRST 64

void workers_open(struct workers *t)
{
	*t = (struct workers){.next_id = 1};
	TAILQ_INIT(&t->all);
	TAILQ_INIT(&t->leaving);
}

void workers_close(struct workers *t)
{
	assert(TAILQ_EMPTY(&t->all) && TAILQ_EMPTY(&t->leaving));
	free(t->slots);
	free(t->free_slots);
}

static int more_slots(struct workers *t)
{
	uint32_t max = t->slots_max ? t->slots_max * 2 : SLOTS_FIRST;
	struct worker **slots = reallocarray(t->slots, max, sizeof *slots);

	if (!slots)
		return -ENOMEM;
	t->slots = slots;
	uint32_t *free_slots = reallocarray(t->free_slots, max, sizeof *free_slots);
	if (!free_slots)
		return -ENOMEM;
	t->free_slots = free_slots;
	t->slots_max = max;
	return 0;
}

int workers_add(struct workers *t, struct worker *w)
{
	if (t->n_free_slots == 0 && t->n_slots == t->slots_max && more_slots(t) < 0)
		return -ENOMEM;
	w->slot = t->n_free_slots > 0 ? t->free_slots[--t->n_free_slots] : t->n_slots++;
	t->slots[w->slot] = w;
	w->id = t->next_id++;
	TAILQ_INSERT_HEAD(&t->all, w, next);
	t->n++;
	return 0;
}

void workers_leave(struct workers *t, struct worker *w)
{
	t->slots[w->slot] = NULL;
	TAILQ_REMOVE(&t->all, w, next);
	TAILQ_INSERT_HEAD(&t->leaving, w, next);
	t->n--;
}

void workers_bury(struct workers *t, struct worker *w)
{
	t->free_slots[t->n_free_slots++] = w->slot;
	TAILQ_REMOVE(&t->leaving, w, next);
}

struct worker *workers_find(const struct workers *t, struct worker_ref ref)
{
	struct worker *w = ref.slot < t->n_slots ? t->slots[ref.slot] : NULL;

	return w && w->id == ref.id ? w : NULL;
}

struct worker *workers_find_id(const struct workers *t, uint64_t id)
{
	struct worker *w;

	TAILQ_FOREACH (w, &t->all, next)
		if (w->id == id)
			return w;
	return NULL;
}
