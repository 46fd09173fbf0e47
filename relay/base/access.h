/* PGHERALD_ALLOW: which local users may listen and publish, and on which channels. Without a
 * rule, every user whom the socket's mode lets in may do both. settings.c parses the rules. A
 * worker's rights are looked up when it connects, and when the settings are read again: a user who
 * leaves a group keeps them until then. A user or group that a user namespace does not map
 * matches only the rules for everybody. */
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

/* text: rules WHO=RIGHT[:CHANNEL], comma-separated (list.h), or empty. WHO: a user, @GROUP, either by
 * number, or *. RIGHT: listen, publish or both. config: its channels are known. 0; -ENOMEM;
 * -EINVAL: why, of size bytes, says what is wrong. */
int access_parse(
	struct access *access, const char *text, const struct config *config, char *why, size_t size);
void access_free(struct access *access);
/* Channel i of those that access_parse() knew is channel numbers[i] from now on. */
void access_renumber(struct access *access, const uint8_t *numbers);
/* What the rules that match the peer of fd give together. Neither right: the worker may not
 * connect. */
struct access_rights access_of_peer(const struct access *access, int fd, uid_t uid, gid_t gid);
