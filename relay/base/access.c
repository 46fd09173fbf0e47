#include "base/access.h"

#include "base/config.h"

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

static int parse_rule(
	struct access_rule *rule, char *text, const struct config *config, char *why, size_t size)
{
	char *right = strchr(text, '='), *channel = right ? strchr(right, ':') : NULL;
	uint64_t topics = UINT64_MAX;

	if (!right)
		return wrong(why, size, "a rule is WHO=RIGHT or WHO=RIGHT:CHANNEL", text);
	*right++ = '\0';
	if (channel) {
		unsigned i = 0;
		*channel++ = '\0';
		while (i < config->n_channels && strcmp(config->channels[i].name, channel) != 0)
			i++;
		if (i == config->n_channels)
			return wrong(why, size, "the channel is not in PGHERALD_CHANNELS", channel);
		topics = UINT64_C(2) << i;
	}
	*rule = (struct access_rule){0};
	int r = parse_who(rule, text, why, size);
	return r < 0 ? r : parse_right(rule, right, topics, why, size);
}

int access_parse(struct access *a, const char *text, const struct config *config, char *why, size_t size)
{
	char *copy = strdup(text), *next = copy;
	int r = copy ? 0 : -ENOMEM;

	*a = (struct access){0};
	while (r == 0 && *text && next) {
		char *item = strsep(&next, ",");
		item += strspn(item, " ");
		item[strcspn(item, " ")] = '\0';
		struct access_rule *rules = reallocarray(a->rules, a->n_rules + 1, sizeof *rules);
		if (!rules) {
			r = -ENOMEM;
			break;
		}
		a->rules = rules;
		r = parse_rule(&a->rules[a->n_rules++], item, config, why, size);
	}
	free(copy);
	return r;
}

static bool in_group(gid_t gid, gid_t primary, const gid_t *groups, unsigned n)
{
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
		if (rule->who == ACCESS_ANYONE || (rule->who == ACCESS_USER && rule->id == uid) ||
			(rule->who == ACCESS_GROUP &&
				in_group(rule->id, gid, groups, len / sizeof *groups))) {
			rights.listen |= rule->rights.listen;
			rights.publish |= rule->rights.publish;
		}
	}
	return rights;
}
