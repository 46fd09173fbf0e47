#include "base/peer.h"

#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* The kernel's default, where /proc does not tell. */
#define OVERFLOW_ID 65534

struct ucred peer_of(int fd)
{
	struct ucred peer = {.uid = (uid_t)-1, .gid = (gid_t)-1};
	socklen_t len = sizeof peer;

	getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len);
	return peer;
}

bool peer_is_gone(int fd)
{
	struct pollfd p = {.fd = fd};

	return poll(&p, 1, 0) == 1 && (p.revents & (POLLHUP | POLLERR));
}

struct ids {
	bool known;
	bool all_mapped;
	uint32_t overflow;
};

static bool read_numbers(const char *path, unsigned n, unsigned long *out)
{
	FILE *file = fopen(path, "re");
	char line[80] = "", *next = line;
	unsigned i = 0;

	if (file && fgets(line, sizeof line, file))
		for (char *end; i < n && (out[i] = strtoul(next, &end, 10), end != next); next = end)
			i++;
	if (file)
		fclose(file);
	return i == n;
}

static bool may_be_unmapped(struct ids *ids, const char *map, const char *overflow, uint32_t id)
{
	unsigned long range[3], number = OVERFLOW_ID;

	if (!ids->known) {
		/* The first namespace maps each id to itself. */
		ids->all_mapped = read_numbers(map, 3, range) && range[0] == 0 && range[1] == 0 &&
				  range[2] >= UINT32_MAX;
		read_numbers(overflow, 1, &number);
		ids->overflow = (uint32_t)number;
		ids->known = true;
	}
	return !ids->all_mapped && id == ids->overflow;
}

bool peer_may_be_unmapped(uid_t uid)
{
	static struct ids ids;

	return may_be_unmapped(&ids, "/proc/self/uid_map", "/proc/sys/kernel/overflowuid", uid);
}

bool peer_group_may_be_unmapped(gid_t gid)
{
	static struct ids ids;

	return may_be_unmapped(&ids, "/proc/self/gid_map", "/proc/sys/kernel/overflowgid", gid);
}
