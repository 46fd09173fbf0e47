/* PGHERALD_ALLOW: which local users may listen and publish, and on which channels. Without any rule everybody
 * may whom the socket's mode lets in. The configuration parses the rules; the worker is asked once, when it
 * connects, and keeps its rights: a user who leaves a group loses them with the connection. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct config;

/* Bit n is topic n. */
struct access_rights {
	uint64_t listen, publish;
};

struct access_rule {
	enum { ACCESS_ANYONE, ACCESS_USER, ACCESS_GROUP } who;
	uint32_t id; /* uid or gid */
	struct access_rights rights;
};

struct access {
	struct access_rule *rules;
	unsigned n_rules;
};

/* WHO=RIGHT[:CHANNEL], comma-separated. WHO: a user, @GROUP, either by number, or *. RIGHT: listen, publish
 * or both. An empty text is no rule. channels: the configuration's. 0; -EINVAL: *why, of which size bytes are
 * used, says what is wrong. */
int access_parse(
	struct access *access, const char *text, const struct config *config, char *why, size_t size);
/* Of whoever is at the other end: the rules that match, together. Neither right: the worker may not connect.
 */
struct access_rights access_of_peer(const struct access *access, int fd, uid_t uid, gid_t gid);
