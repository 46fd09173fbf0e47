#include "base/config.h"

#include "base/settings.h"

#include <errno.h>
#include <string.h>
#include <sys/resource.h>

/* SQL folds a name that is not quoted: NOTIFY TinyBase goes to tinybase. */
static void warn_of_case(const struct config *config, unsigned from)
{
	for (unsigned i = from; i < config->n_channels; i++) {
		const struct channel *channel = &config->channels[i];
		if (!channel->quoted && channel->name[strcspn(channel->name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ")])
			diag(DIAG_WARNING,
				"a channel's name has upper case, which SQL folds to lower case unless the name is "
				"quoted; write NOTIFY \"NAME\", or pg_notify(), which folds nothing channel=\"%s\"",
				channel->name);
	}
}

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
	if (config->local)
		config->publish_url = config->direct_url = NULL;
	config->mode = config->direct_url ? MODE_POSTGRES : MODE_LOCAL;
	if (config->publish_url && !config->direct_url) {
		diag(DIAG_ERROR,
			"DATABASE_URL is set and DATABASE_DIRECT_URL is not; set it to PostgreSQL itself, past the "
			"pooler, such as postgresql://app@db.example:5432/sync; or ask for local mode, without "
			"PostgreSQL, by --local or PGHERALD_LOCAL=yes");
		return -EINVAL;
	}
	if (!config->publish_url)
		config->publish_url = config->direct_url;
	warn_of_case(config, 0);
	return 0;
}

/* Reading again */

static unsigned find_place(const struct config *config, const struct channel *channel)
{
	unsigned i = 0;

	while (i < config->n_channels && (config->channels[i].kind != channel->kind ||
						 strcmp(config->channels[i].name, channel->name) != 0))
		i++;
	return i;
}

/* Gives the channels of *fresh the places that they have in *config. 0, or -EINVAL after an ERROR
 * line. */
static int keep_places(const struct config *config, struct config *fresh)
{
	struct config merged = {.n_channels = config->n_channels};
	uint8_t numbers[CHANNELS_MAX] = {0};

	memcpy(merged.channels, config->channels, sizeof merged.channels);
	for (unsigned i = 0; i < merged.n_channels; i++)
		merged.channels[i].gone = true;
	for (unsigned i = 0; i < fresh->n_channels; i++) {
		unsigned place = find_place(&merged, &fresh->channels[i]);
		if (place == CHANNELS_MAX) {
			diag(DIAG_ERROR,
				"PGHERALD_CHANNELS cannot change without a restart: with those that were removed, "
				"it has had more than 63 channels");
			return -EINVAL;
		}
		merged.channels[place] = fresh->channels[i];
		if (place == merged.n_channels)
			merged.n_channels++;
		numbers[i] = (uint8_t)place;
	}
	access_renumber(&fresh->access, numbers);
	memcpy(fresh->channels, merged.channels, sizeof fresh->channels);
	fresh->n_channels = merged.n_channels;
	return 0;
}

int config_reread(const struct config *config, struct config *fresh)
{
	*fresh = (struct config){0};
	int r = settings_reread(fresh);

	if (r == 0 && (r = keep_places(config, fresh)) < 0)
		settings_drop();
	if (r < 0)
		access_free(&fresh->access);
	return r;
}

unsigned config_take(struct config *config, struct config *fresh)
{
	unsigned n = settings_take(config, fresh), n_before = config->n_channels;

	access_free(&config->access);
	config->access = fresh->access;
	memcpy(config->channels, fresh->channels, sizeof config->channels);
	config->n_channels = fresh->n_channels;
	diag_set_level(config->log_level);
	warn_of_case(config, n_before);
	return n;
}

void config_drop(struct config *fresh)
{
	settings_drop();
	access_free(&fresh->access);
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
