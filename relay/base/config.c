#include "base/config.h"

#include "base/settings.h"

#include <sys/resource.h>

int config_load(struct config *config, int argc, char **argv)
{
	*config = (struct config){0};
	int r = settings_load(config, argc, argv);

	if (r != 0)
		return r;
	diag_set_level(config->log_level);
	/* Up to a power of two: add the lowest bit until one is left. */
	while (config->backlog_size & (config->backlog_size - 1))
		config->backlog_size += config->backlog_size & -config->backlog_size;
	config->ops_by_default = settings_is_default("PGHERALD_OPS_SOCKET");
	config->mode = config->direct_url ? MODE_POSTGRES : MODE_LOCAL;
	config->pooler_url_alone = config->publish_url && !config->direct_url;
	if (!config->publish_url)
		config->publish_url = config->direct_url;
	return 0;
}

void config_fit_descriptors(struct config *config, unsigned n_others)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	/* If there are few descriptors, the workers have half of them. */
	rlim_t others = n_others < limit.rlim_max / 2 ? n_others : limit.rlim_max / 2;
	rlim_t room = limit.rlim_max - others;
	if (room >= config->workers_max)
		return;
	/* One user's part of all workers stays the same. */
	rlim_t per_uid = room * config->workers_per_uid_max / config->workers_max;
	if (config->workers_per_uid_max < config->workers_max)
		config->workers_per_uid_max = per_uid > 0 ? (unsigned)per_uid : 1;
	config->workers_max = (unsigned)room;
	diag(DIAG_WARNING,
		"PGHERALD_WORKERS_MAX is more than the limit on open files allows, and was lowered; raise "
		"LimitNOFILE= workers=%u workers_per_uid=%u limit=%llu",
		config->workers_max, config->workers_per_uid_max, (unsigned long long)limit.rlim_max);
}

const char *config_url_name(const struct config *config, const char *url)
{
	return url == config->direct_url ? "DATABASE_DIRECT_URL" : "DATABASE_URL";
}
