/* Whether this process opened the handle, or is a forked child that inherited it. Each call
 * and each callback asks, so it must cost nothing: it reads a page that the kernel clears in
 * a child (MADV_WIPEONFORK). Where the kernel does not have that, it compares process ids. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>
#include <unistd.h>

struct owner {
	char *mark; /* the byte is 0 in a child; NULL if the kernel has no such page */
	pid_t pid;
};

void owner_init(struct owner *owner);
void owner_free(struct owner *owner);

static inline bool owner_here(const struct owner *owner)
{
	return owner->mark ? *owner->mark : getpid() == owner->pid;
}
