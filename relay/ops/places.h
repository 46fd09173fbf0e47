/* Who gives way when a socket for operators is full. Some places are kept for root and the daemon's user, who
 * get one whatever the others do. Of all others, whoever has most makes room for one who has less; and a user
 * makes room for itself where one of its connections does nothing. The ops and the metrics socket keep their
 * connections in such a table. */
#pragma once

#include <stdbool.h>
#include <sys/queue.h>
#include <sys/types.h>

struct place {
	TAILQ_ENTRY(place) next;
	uid_t uid;
	bool privileged;
	unsigned n_of_user; /* places of this user */
	double active;      /* when its peer last asked or took something */
	bool lasting;       /* it is to be quiet: not for its own user's next connection */
};

struct places {
	TAILQ_HEAD(, place) all;
	unsigned n, n_max;
	unsigned n_privileged; /* of those taken, for n_kept */
	unsigned n_kept;       /* of them, for root and the daemon's user alone */
	double idle_seconds;   /* after which a place is taken for another connection of the same user */
};

void places_open(struct places *places, unsigned n_max, unsigned n_kept, double idle_seconds);
/* Root or the daemon's user. */
bool places_is_privileged(uid_t uid);
/* Whether there is a place for one more connection of this user; first that of *victim must be given up, if
 * it is not NULL. */
bool places_room(const struct places *places, uid_t uid, struct place **victim);
void places_take(struct places *places, struct place *place, uid_t uid);
void places_give_up(struct places *places, struct place *place);
