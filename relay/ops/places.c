#include "ops/places.h"

#include "base/clock.h"
#include "base/peer.h"

#include <unistd.h>

void places_open(struct places *p, unsigned n_max, unsigned n_kept, double idle_seconds)
{
	*p = (struct places){.n_max = n_max, .n_kept = n_kept, .idle_seconds = idle_seconds};
	TAILQ_INIT(&p->all);
}

bool places_is_privileged(uid_t uid)
{
	return uid == 0 || (uid == geteuid() && !peer_may_be_unmapped(uid));
}

/* Each place has the count of its user: a peer that is refused may come again at once, many thousand times a
 * second, so a refusal must not count the places of each place's user. */
static void set_count(struct places *p, uid_t uid, unsigned n)
{
	struct place *place;

	TAILQ_FOREACH (place, &p->all, next) {
		if (place->uid == uid)
			place->n_of_user = n;
	}
}

static unsigned count_of(const struct places *p, uid_t uid)
{
	const struct place *place;

	TAILQ_FOREACH (place, &p->all, next) {
		if (place->uid == uid)
			return place->n_of_user;
	}
	return 0;
}

static bool is_full(const struct places *p, uid_t uid)
{
	return p->n >= p->n_max ||
	       (!places_is_privileged(uid) && p->n - p->n_privileged >= p->n_max - p->n_kept);
}

static struct place *idlest_of(const struct places *p, uid_t uid, bool lasting_too)
{
	struct place *place, *idlest = NULL;

	TAILQ_FOREACH (place, &p->all, next) {
		if (place->uid == uid && (lasting_too || !place->lasting) &&
			(!idlest || place->active < idlest->active))
			idlest = place;
	}
	return idlest;
}

/* The idlest place of the unprivileged user with the most, if that is more than uid would have
 * with one more. */
static struct place *of_greatest_user(const struct places *p, uid_t uid)
{
	const struct place *place, *of_most = NULL;
	unsigned most = places_is_privileged(uid) ? 0 : count_of(p, uid) + 1;

	TAILQ_FOREACH (place, &p->all, next) {
		unsigned n = place->privileged ? 0 : place->n_of_user;
		if (n > most) {
			most = n;
			of_most = place;
		}
	}
	return of_most ? idlest_of(p, of_most->uid, true) : NULL;
}

bool places_room(const struct places *p, uid_t uid, struct place **victim)
{
	*victim = NULL;
	if (!is_full(p, uid))
		return true;
	*victim = of_greatest_user(p, uid);
	if (!*victim) {
		*victim = idlest_of(p, uid, false);
		if (*victim && clock_now() - (*victim)->active < p->idle_seconds)
			*victim = NULL;
	}
	return *victim != NULL;
}

void places_take(struct places *p, struct place *place, uid_t uid)
{
	unsigned n = count_of(p, uid);

	*place = (struct place){.uid = uid, .privileged = places_is_privileged(uid), .active = clock_now()};
	TAILQ_INSERT_TAIL(&p->all, place, next);
	set_count(p, uid, n + 1);
	p->n++;
	p->n_privileged += place->privileged;
}

void places_give_up(struct places *p, struct place *place)
{
	TAILQ_REMOVE(&p->all, place, next);
	set_count(p, place->uid, place->n_of_user - 1);
	p->n--;
	p->n_privileged -= place->privileged;
}
