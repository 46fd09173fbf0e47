/* Who gives way at the operators' sockets. */
#include "base/clock.h"
#include "ops/places.h"

#include <criterion/criterion.h>

/* Of other users: the tests run as root, or as the daemon's own. */
#define ANN 70001
#define BOB 70002
#define CAROL 70003

static struct places places;
static struct place all[100];
static int n;

static void start(void)
{
	places_open(&places, 20, 5, 3600);
	n = 0;
}

TestSuite(places, .init = start);

/* False: refused. */
static bool come(uid_t uid)
{
	struct place *victim;

	if (!places_room(&places, uid, &victim))
		return false;
	if (victim)
		places_give_up(&places, victim);
	places_take(&places, &all[n++], uid);
	return true;
}

static int count(uid_t uid)
{
	const struct place *place;
	int found = 0;

	TAILQ_FOREACH (place, &places.all, next) {
		found += place->uid == uid;
	}
	return found;
}

Test(places, are_kept_for_root)
{
	for (int i = 0; i < 15; i++)
		cr_assert(come(ANN));
	cr_assert_not(come(ANN));
	for (int i = 0; i < 20; i++)
		cr_assert(come(0), "%d", i);
	cr_assert_not(come(0), "root makes room for itself where it is idle, and here it is not");
	cr_assert_eq(count(0), 20);
	cr_assert_not(come(ANN), "and no user takes a place from root");
}

Test(places, are_taken_from_who_has_most)
{
	for (int i = 0; i < 12; i++)
		cr_assert(come(ANN));
	for (int i = 0; i < 3; i++)
		cr_assert(come(BOB));
	for (int i = 0; i < 5; i++)
		cr_assert(come(CAROL));
	cr_assert_eq(count(ANN), 7);
	cr_assert_eq(count(BOB), 3);
	while (come(BOB))
		cr_assert_leq(n, 50);
	cr_assert_leq(count(BOB), 6);
	cr_assert_geq(count(ANN), 4);
	cr_assert_geq(count(CAROL), 4);
	cr_assert_eq(places.n, 15);
}

Test(places, are_taken_from_the_idlest)
{
	for (int i = 0; i < 15; i++)
		come(ANN);
	all[4].active = clock_now() - 5000;
	all[7].active = clock_now() - 6000;
	all[7].lasting = true;
	struct place *victim;
	cr_assert(places_room(&places, ANN, &victim));
	cr_assert_eq(victim, &all[4], "what is to be quiet is not idle, for its own user");
	cr_assert(places_room(&places, BOB, &victim));
	cr_assert_eq(victim, &all[7], "but it is for another");
}
