#include "fanout/users.h"

#include <stdlib.h>

void users_open(struct users *users)
{
	*users = (struct users){0};
	for (unsigned i = 0; i < USERS_BUCKETS; i++)
		LIST_INIT(&users->buckets[i]);
}

struct user *users_get(struct users *users, uid_t uid)
{
	struct user *user;

	LIST_FOREACH(user, &users->buckets[uid % USERS_BUCKETS], next)
	{
		if (user->uid == uid) {
			user->n_refs++;
			return user;
		}
	}
	user = calloc(1, sizeof *user);
	if (!user)
		return NULL;
	user->uid = uid;
	user->n_refs = 1;
	share_init(&user->asking);
	share_init(&user->sending);
	TAILQ_INIT(&user->parked);
	TAILQ_INIT(&user->starved);
	LIST_INSERT_HEAD(&users->buckets[uid % USERS_BUCKETS], user, next);
	users->n++;
	return user;
}

void users_put(struct users *users, struct user *user)
{
	if (--user->n_refs > 0)
		return;
	LIST_REMOVE(user, next);
	users->n--;
	free(user);
}
