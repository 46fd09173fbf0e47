/* Which connection is closed for a new one when a socket for operators is full. Some places are
 * kept for root and the daemon's user. Among all others, the user with the most connections
 * loses one to a user with fewer; and a user's idle connection is closed for a new one of the
 * same user. connection.c keeps the connections of a socket in such a table. */
#pragma once

#include <stdbool.h>
#include <sys/queue.h>
#include <sys/types.h>

struct place {
	TAILQ_ENTRY(place) next;
	uid_t uid;
	bool privileged;
	unsigned n_of_user; /* places of this user */
	double active;      /* by clock_now(): when its peer last asked or took something */
	/* A tail: it sends nothing for hours and is not idle for its own user's next connection. */
	bool lasting;
};

struct places {
	TAILQ_HEAD(, place) all;
	unsigned n, n_max;
	unsigned n_privileged; /* of those taken */
	unsigned n_kept;       /* of n_max, for root and the daemon's user alone */
	double idle_seconds;   /* after which a connection is idle */
};

void places_open(struct places *places, unsigned n_max, unsigned n_kept, double idle_seconds);
/* Root or the daemon's user. */
bool places_is_privileged(uid_t uid);
/* Whether this user may have one more place. If *victim is not NULL, its place must be given up
 * first. */
bool places_room(const struct places *places, uid_t uid, struct place **victim);
void places_take(struct places *places, struct place *place, uid_t uid);
void places_give_up(struct places *places, struct place *place);
