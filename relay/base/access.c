#include "base/access.h"

#include "base/config.h"
#include "base/list.h"
#include "base/peer.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* Bounds what is on the stack: the kernel's NGROUPS_MAX is 65536. Of more groups only the first
 * ones count. */
#define GROUPS_MAX 1024
/* Bytes of a user's or a group's name: more than any system has. */
#define ACCESS_NAME_MAX 255

static int wrong(char *why, size_t size, const char *what, const char *text)
{
	snprintf(why, size, "%s: \"%s\"", what, text);
	return -EINVAL;
}

static bool parse_number(const char *text, uint32_t *out)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	*out = (uint32_t)value;
	return text[0] >= '0' && text[0] <= '9' && *end == '\0' && value < UINT32_MAX;
}

static int parse_who(struct access_rule *rule, const char *who, char *why, size_t size)
{
	if (strcmp(who, "*") == 0) {
		rule->who = ACCESS_ANYONE;
		return 0;
	}
	rule->who = who[0] == '@' ? ACCESS_GROUP : ACCESS_USER;
	who += rule->who == ACCESS_GROUP;
	if (parse_number(who, &rule->id))
		return 0;
	const struct passwd *user = rule->who == ACCESS_USER ? getpwnam(who) : NULL;
	const struct group *group = rule->who == ACCESS_GROUP ? getgrnam(who) : NULL;
	if (!user && !group)
		return wrong(why, size,
			rule->who == ACCESS_USER ? "there is no such user" : "there is no such group", who);
	rule->id = user ? user->pw_uid : group->gr_gid;
	return 0;
}

static int parse_right(struct access_rule *rule, const char *right, uint64_t topics, char *why, size_t size)
{
	bool both = strcmp(right, "both") == 0;

	if (both || strcmp(right, "listen") == 0)
		rule->rights.listen = topics;
	if (both || strcmp(right, "publish") == 0)
		rule->rights.publish = topics;
	if (!rule->rights.listen && !rule->rights.publish)
		return wrong(why, size, "the right is not listen, publish or both", right);
	return 0;
}

/* The topics of a channel; 0: it is not configured. */
static uint64_t topics_of(const struct config *config, const char *channel)
{
	for (unsigned i = 0; i < config->n_channels; i++)
		if (strcmp(config->channels[i].name, channel) == 0)
			return UINT64_C(2) << i;
	return 0;
}

/* item: WHO=RIGHT[:CHANNEL], without the comma. */
static int parse_rule(
	struct access_rule *rule, struct list *item, const struct config *config, char *why, size_t size)
{
	char who[ACCESS_NAME_MAX + 1], right[16], channel[ACCESS_NAME_MAX + 1] = "";
	uint64_t topics = UINT64_MAX;
	int r = list_word(item, "=,", who, sizeof who, why, size);

	if (r == 0 && !list_skip(item, '='))
		return wrong(why, size, "a rule is WHO=RIGHT or WHO=RIGHT:CHANNEL", who);
	if (r == 0)
		r = list_word(item, ":,", right, sizeof right, why, size);
	if (r == 0 && list_skip(item, ':')) {
		r = list_word(item, ",", channel, sizeof channel, why, size);
		topics = topics_of(config, channel);
	}
	if (r < 0)
		return r;
	if (topics == 0)
		return wrong(why, size, "the channel is not in PGHERALD_CHANNELS", channel);
	*rule = (struct access_rule){0};
	r = parse_who(rule, who, why, size);
	return r < 0 ? r : parse_right(rule, right, topics, why, size);
}

int access_parse(struct access *a, const char *text, const struct config *config, char *why, size_t size)
{
	struct list list;
	int r = 0;

	*a = (struct access){0};
	list_open(&list, text);
	while (r == 0 && list_more(&list)) {
		struct access_rule *rules = reallocarray(a->rules, a->n_rules + 1, sizeof *rules);
		if (!rules) {
			snprintf(why, size, "out of memory");
			r = -ENOMEM;
			break;
		}
		a->rules = rules;
		r = parse_rule(&a->rules[a->n_rules++], &list, config, why, size);
	}
	return r;
}

void access_free(struct access *a)
{
	free(a->rules);
	*a = (struct access){0};
}

void access_renumber(struct access *a, const uint8_t *numbers)
{
	for (unsigned i = 0; i < a->n_rules; i++) {
		struct access_rights *rights = &a->rules[i].rights;
		uint64_t topics = rights->listen ? rights->listen : rights->publish;
		if (topics == UINT64_MAX)
			continue;
		topics = UINT64_C(2) << numbers[__builtin_ctzll(topics) - 1];
		rights->listen = rights->listen ? topics : 0;
		rights->publish = rights->publish ? topics : 0;
	}
}

static bool in_group(gid_t gid, gid_t primary, const gid_t *groups, unsigned n)
{
	if (peer_group_may_be_unmapped(gid))
		return false;
	if (gid == primary)
		return true;
	for (unsigned i = 0; i < n; i++)
		if (groups[i] == gid)
			return true;
	return false;
}

struct access_rights access_of_peer(const struct access *a, int fd, uid_t uid, gid_t gid)
{
	struct access_rights rights = {0};
	gid_t groups[GROUPS_MAX];
	socklen_t len = sizeof groups;

	if (a->n_rules == 0)
		return (struct access_rights){UINT64_MAX, UINT64_MAX};
	if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &len) < 0)
		len = 0;
	for (unsigned i = 0; i < a->n_rules; i++) {
		const struct access_rule *rule = &a->rules[i];
		if (rule->who == ACCESS_ANYONE ||
			(rule->who == ACCESS_USER && rule->id == uid && !peer_may_be_unmapped(uid)) ||
			(rule->who == ACCESS_GROUP &&
				in_group(rule->id, gid, groups, len / sizeof *groups))) {
			rights.listen |= rule->rights.listen;
			rights.publish |= rule->rights.publish;
		}
	}
	return rights;
}
