/* Whether this process is the one that opened a handle, or a forked child that inherited it. Asked at each
 * call and after each callback, so it must cost nothing: a page that the kernel clears in a child tells it,
 * and where the kernel has no such pages the process id does. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>
#include <unistd.h>

struct owner {
	char *mark; /* 0 in a child; NULL: no such page */
	pid_t pid;
};

void owner_init(struct owner *owner);
void owner_free(struct owner *owner);

static inline bool owner_here(const struct owner *owner)
{
	return owner->mark ? *owner->mark : getpid() == owner->pid;
}
