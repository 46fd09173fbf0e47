/* What the kernel tells of the process at the other end of a Unix socket. The connections of
 * workers and of operators ask it. */
#pragma once

#include <stdbool.h>
#include <sys/socket.h>

/* Who connected. uid and gid are -1 if the kernel does not tell. */
struct ucred peer_of(int fd);
/* Whether it is gone. To a reader, a peer that has shut down its side looks the same; and a
 * connection that is not read shows nothing unless it is asked. */
bool peer_is_gone(int fd);

/* Whether this uid, or gid, may stand for somebody whom our user namespace does not map: then the
 * kernel tells the overflow id, which is that of "nobody". Never in the first namespace. */
bool peer_may_be_unmapped(uid_t uid);
bool peer_group_may_be_unmapped(gid_t gid);
