#include "base/config.h"

#include "base/diag.h"
#include "base/redact.h"
#include "wire.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/un.h>

#define SHORT_OF_MEMORY "memory is short"

enum setting_id {
	DATABASE_URL,
	DATABASE_DIRECT_URL,
	SOCKET,
	SOCKET_MODE,
	OPS_SOCKET,
	METRICS_SOCKET,
	CHANNELS,
	BACKLOG_SIZE,
	CHECKPOINT_INTERVAL,
	RECONCILE,
	RECOVERY_RATE,
	RECOVERY_TIMEOUT,
	RECOVERY_SIZE,
	ALLOW,
	WORKERS_MAX,
	WORKERS_PER_UID_MAX,
	SUBSCRIPTIONS_MAX,
	SUBSCRIPTIONS_PER_UID_MAX,
	SUBSCRIPTIONS_TOTAL_MAX,
	WORKER_QUEUE_SIZE,
	WORKER_QUEUES_PER_UID_SIZE,
	WORKER_QUEUES_TOTAL_SIZE,
	WORKER_PUBLISHES_MAX,
	PUBLISHES_PER_UID_MAX,
	PUBLISH_QUEUE_MAX,
	PUBLISH_QUEUE_SIZE,
	LOG_LEVEL,
	N_SETTINGS,
};

/* clang-format off */
/* What the defaults let others make grow fits into MemoryMax= of the unit, 2 GiB, all of it together. In MiB;
 * tests/pg/test_limits.py adds it up:
 *
 *  1000  workers, 250 KiB each: what the kernel keeps of what one does not read (240), the list of frames
 *        that it is owed (8), itself
 *   160  subscriptions, 40 bytes each
 *   128  answers, and requests that are not done yet
 *    76  requests to publish: their payloads, and 192 bytes each
 *    64  recovered changes
 *    24  the backlog: its bytes, and 16 more for each 32
 *   192  operators, 768 KiB each: the replies (512), what the kernel keeps
 *    22  those who read the metrics, 352 KiB each: the page (112), what the kernel keeps
 *   128  all else: the connections to PostgreSQL, what is reconciled, the process itself */
/* clang-format on */
static struct setting {
	const char *env, *flag, *fallback, *help;
	const char *value;
	const char *origin; /* "default", "environment" or "flag" */
} settings[N_SETTINGS] = {
	[DATABASE_URL] = {.env = "DATABASE_URL",
		.flag = "database-url",
		.help = "where to publish; a pgbouncer in transaction mode will do"},
	[DATABASE_DIRECT_URL] = {.env = "DATABASE_DIRECT_URL",
		.flag = "database-direct-url",
		.help = "where to LISTEN: PostgreSQL itself, no transaction pooler"},
	[SOCKET] = {.env = "PGHERALD_SOCKET",
		.flag = "socket",
		.fallback = "/run/pgherald/relay.sock",
		.help = "the workers' socket"},
	[SOCKET_MODE] = {.env = "PGHERALD_SOCKET_MODE",
		.flag = "socket-mode",
		.fallback = "0660",
		.help = "the sockets' mode, octal: who may connect"},
	[OPS_SOCKET] = {.env = "PGHERALD_OPS_SOCKET",
		.flag = "ops-socket",
		.fallback = "/run/pgherald/ops.sock",
		.help = "the operator's socket, for socat; \"none\" for none"},
	[METRICS_SOCKET] = {.env = "PGHERALD_METRICS_SOCKET",
		.flag = "metrics-socket",
		.fallback = "none",
		.help = "a socket for GET /metrics and /healthz; \"none\" for none"},
	[CHANNELS] = {.env = "PGHERALD_CHANNELS",
		.flag = "channels",
		.fallback = "data_sync_changes",
		.help = "NAME for changes, NAME:text for raw payloads, comma-separated"},
	[BACKLOG_SIZE] = {.env = "PGHERALD_BACKLOG_SIZE",
		.flag = "backlog-size",
		.fallback = "16M",
		.help = "bytes of frames to keep for slow and resuming workers (K, M, G)"},
	[CHECKPOINT_INTERVAL] = {.env = "PGHERALD_CHECKPOINT_INTERVAL",
		.flag = "checkpoint-interval",
		.fallback = "5",
		.help = "seconds between checkpoints, of all relays of a database together"},
	[RECONCILE] = {.env = "PGHERALD_RECONCILE",
		.flag = "reconcile",
		.fallback = "yes",
		.help = "announce changes that the database has and nobody notified"},
	[RECOVERY_RATE] = {.env = "PGHERALD_RECOVERY_RATE",
		.flag = "recovery-rate",
		.fallback = "0",
		.help = "rows a second to recover at the most; 0 for no limit"},
	[RECOVERY_TIMEOUT] = {.env = "PGHERALD_RECOVERY_TIMEOUT",
		.flag = "recovery-timeout",
		.fallback = "10",
		.help = "seconds without a row after which a recovery query is given up"},
	[RECOVERY_SIZE] = {.env = "PGHERALD_RECOVERY_SIZE",
		.flag = "recovery-size",
		.fallback = "64M",
		.help = "bytes of recovered changes to keep for workers that catch up slowly"},
	[ALLOW] = {.env = "PGHERALD_ALLOW",
		.flag = "allow",
		.fallback = "",
		.help = "USER, @GROUP or * =listen, =publish or =both, and :CHANNEL, comma-separated; empty: whoever the mode lets in"},
	[WORKERS_MAX] = {.env = "PGHERALD_WORKERS_MAX",
		.flag = "workers-max",
		.fallback = "4096",
		.help = "workers at the most"},
	[WORKERS_PER_UID_MAX] = {.env = "PGHERALD_WORKERS_PER_UID_MAX",
		.flag = "workers-per-uid-max",
		.fallback = "2048",
		.help = "workers of one user at the most"},
	[SUBSCRIPTIONS_MAX] = {.env = "PGHERALD_SUBSCRIPTIONS_MAX",
		.flag = "subscriptions-max",
		.fallback = "1M",
		.help = "subscriptions by pubkey that one worker may have"},
	[SUBSCRIPTIONS_PER_UID_MAX] = {.env = "PGHERALD_SUBSCRIPTIONS_PER_UID_MAX",
		.flag = "subscriptions-per-uid-max",
		.fallback = "2M",
		.help = "those of all workers of one user"},
	[SUBSCRIPTIONS_TOTAL_MAX] = {.env = "PGHERALD_SUBSCRIPTIONS_TOTAL_MAX",
		.flag = "subscriptions-total-max",
		.fallback = "4M",
		.help = "those of all workers; each takes some 40 bytes"},
	[WORKER_QUEUE_SIZE] = {.env = "PGHERALD_WORKER_QUEUE_SIZE",
		.flag = "worker-queue-size",
		.fallback = "256K",
		.help = "bytes of answers to keep for one worker before its requests wait"},
	[WORKER_QUEUES_PER_UID_SIZE] = {.env = "PGHERALD_WORKER_QUEUES_PER_UID_SIZE",
		.flag = "worker-queues-per-uid-size",
		.fallback = "64M",
		.help = "bytes of answers, and of requests not done yet, to keep for one user's workers"},
	[WORKER_QUEUES_TOTAL_SIZE] = {.env = "PGHERALD_WORKER_QUEUES_TOTAL_SIZE",
		.flag = "worker-queues-total-size",
		.fallback = "128M",
		.help = "the same for all workers; one user has no more of it than is left to the others"},
	[WORKER_PUBLISHES_MAX] = {.env = "PGHERALD_WORKER_PUBLISHES_MAX",
		.flag = "worker-publishes-max",
		.fallback = "4096",
		.help = "requests to publish of one worker that may wait"},
	[PUBLISHES_PER_UID_MAX] = {.env = "PGHERALD_PUBLISHES_PER_UID_MAX",
		.flag = "publishes-per-uid-max",
		.fallback = "32K",
		.help = "requests to publish of one user's workers that may wait"},
	[PUBLISH_QUEUE_MAX] = {.env = "PGHERALD_PUBLISH_QUEUE_MAX",
		.flag = "publish-queue-max",
		.fallback = "64K",
		.help = "requests to publish of all workers that may wait"},
	[PUBLISH_QUEUE_SIZE] = {.env = "PGHERALD_PUBLISH_QUEUE_SIZE",
		.flag = "publish-queue-size",
		.fallback = "64M",
		.help = "their bytes"},
	[LOG_LEVEL] = {.env = "PGHERALD_LOG_LEVEL",
		.flag = "log-level",
		.fallback = "notice",
		.help = "error, warning, notice, info or debug"},
};

static int refuse(enum setting_id id, const char *why)
{
	diag(DIAG_ERROR, "%s (--%s) cannot work: %s", settings[id].env, settings[id].flag, why);
	return -EINVAL;
}

static int check_url(enum setting_id id)
{
	char why[200];
	int r = settings[id].value ? redact_learn(settings[id].value, why, sizeof why) : 0;

	return r == 0 ? 0 : refuse(id, r == -EINVAL ? why : SHORT_OF_MEMORY);
}

static int parse_channels(struct config *config)
{
	char *list = strdup(settings[CHANNELS].value), *next = list;
	int r = list ? 0 : refuse(CHANNELS, SHORT_OF_MEMORY);

	while (r == 0 && next) {
		char *item = strsep(&next, ",");
		char *kind = strchr(item, ':');
		struct channel channel = {.kind = CHANNEL_CHANGES};
		if (kind) {
			*kind++ = '\0';
			if (strcmp(kind, "text") != 0) {
				r = refuse(CHANNELS, "behind the colon only \"text\" may stand");
				break;
			}
			channel.kind = CHANNEL_TEXT;
		}
		size_t len = strlen(item);
		if (len == 0 || len > CHANNEL_NAME_MAX)
			r = refuse(CHANNELS, "a channel's name has 1 to 63 bytes");
		else if (!wire_utf8_valid(item, len))
			r = refuse(CHANNELS, "a channel's name is no UTF-8");
		else if (strcmp(item, CANARY_CHANNEL) == 0)
			r = refuse(CHANNELS, "the channel " CANARY_CHANNEL " is the relay's own");
		else if (config->n_channels == CHANNELS_MAX)
			r = refuse(CHANNELS, "more than 63 channels");
		for (unsigned i = 0; r == 0 && i < config->n_channels; i++)
			if (strcmp(config->channels[i].name, item) == 0)
				r = refuse(CHANNELS, "a channel is named twice");
		if (r == 0) {
			memcpy(channel.name, item, len + 1);
			config->channels[config->n_channels++] = channel;
		}
	}
	free(list);
	return r;
}

static int parse_size(enum setting_id id, size_t min, size_t max, size_t *out)
{
	char *end;
	char why[96];

	errno = 0;
	unsigned long long value = strtoull(settings[id].value, &end, 10);
	unsigned shift = *end == 'K' ? 10 : *end == 'M' ? 20 : *end == 'G' ? 30 : 0;
	if (shift)
		end++;
	if (errno || *end || !isdigit((unsigned char)settings[id].value[0]) || value > max >> shift ||
		value << shift < min) {
		snprintf(why, sizeof why, "not a number from %zu to %zu", min, max);
		return refuse(id, why);
	}
	*out = (size_t)value << shift;
	return 0;
}

static int parse_real(enum setting_id id, double min, double max, double *out)
{
	char *end;
	char why[96];
	double value = strtod(settings[id].value, &end);

	if (end == settings[id].value || *end || !(value >= min && value <= max)) {
		snprintf(why, sizeof why, "not a number from %g to %g", min, max);
		return refuse(id, why);
	}
	*out = value;
	return 0;
}

static int parse_bool(enum setting_id id, bool *out)
{
	static const char *const yes[] = {"yes", "true", "on", "1"}, *const no[] = {
									     "no", "false", "off", "0"};

	for (unsigned i = 0; i < 4; i++) {
		if (strcasecmp(settings[id].value, yes[i]) == 0 ||
			strcasecmp(settings[id].value, no[i]) == 0) {
			*out = strcasecmp(settings[id].value, yes[i]) == 0;
			return 0;
		}
	}
	return refuse(id, "neither yes nor no");
}

static int parse_mode(unsigned *out)
{
	char *end;
	unsigned long mode = strtoul(settings[SOCKET_MODE].value, &end, 8);

	if (end == settings[SOCKET_MODE].value || *end || mode > 0777)
		return refuse(SOCKET_MODE, "not an octal mode such as 0660");
	*out = (unsigned)mode;
	return 0;
}

static int parse_count(enum setting_id id, unsigned max, unsigned *out)
{
	size_t n = 0;
	int r = parse_size(id, 1, max, &n);

	*out = (unsigned)n;
	return r;
}

static int parse_allow(struct config *config)
{
	char why[256] = SHORT_OF_MEMORY;
	int r = access_parse(&config->access, settings[ALLOW].value, config, why, sizeof why);

	return r < 0 ? refuse(ALLOW, why) : 0;
}

static int check_path(enum setting_id id)
{
	struct sockaddr_un address;

	if (strlen(settings[id].value) >= sizeof address.sun_path)
		return refuse(id, "longer than the 107 bytes that the path of a Unix socket may have");
	return 0;
}

static const char *path_or_none(enum setting_id id)
{
	return strcmp(settings[id].value, "none") == 0 ? NULL : settings[id].value;
}

static int interpret(struct config *config)
{
	int level, r;

	level = diag_level_of(settings[LOG_LEVEL].value);
	if (level < 0)
		return refuse(LOG_LEVEL, settings[LOG_LEVEL].help);
	diag_set_level((enum diag_level)level);
	if ((r = check_url(DATABASE_URL)) < 0 || (r = check_url(DATABASE_DIRECT_URL)) < 0 ||
		(r = check_path(SOCKET)) < 0 || (r = check_path(OPS_SOCKET)) < 0 ||
		(r = check_path(METRICS_SOCKET)) < 0 || (r = parse_channels(config)) < 0 ||
		(r = parse_mode(&config->socket_mode)) < 0 ||
		(r = parse_size(BACKLOG_SIZE, BACKLOG_SIZE_MIN, (size_t)64 << 30, &config->backlog_size)) <
			0 ||
		(r = parse_real(CHECKPOINT_INTERVAL, 0.1, 3600, &config->checkpoint_interval)) < 0 ||
		(r = parse_bool(RECONCILE, &config->reconcile)) < 0 ||
		(r = parse_real(RECOVERY_RATE, 0, 1e9, &config->recovery_rate)) < 0 ||
		(r = parse_real(RECOVERY_TIMEOUT, 0.1, 3600, &config->recovery_timeout)) < 0 ||
		(r = parse_size(RECOVERY_SIZE, RECOVERY_SIZE_MIN, (size_t)64 << 30, &config->recovery_size)) <
			0 ||
		(r = parse_allow(config)) < 0 ||
		(r = parse_count(WORKERS_MAX, 1 << 20, &config->workers_max)) < 0 ||
		(r = parse_count(WORKERS_PER_UID_MAX, 1 << 20, &config->workers_per_uid_max)) < 0 ||
		(r = parse_count(SUBSCRIPTIONS_MAX, 1 << 26, &config->subscriptions_max)) < 0 ||
		(r = parse_count(SUBSCRIPTIONS_PER_UID_MAX, 1 << 30, &config->subscriptions_per_uid_max)) <
			0 ||
		(r = parse_count(SUBSCRIPTIONS_TOTAL_MAX, 1 << 30, &config->subscriptions_total_max)) < 0 ||
		(r = parse_size(WORKER_QUEUE_SIZE, 1 << 10, 1 << 30, &config->worker_queue_size)) < 0 ||
		(r = parse_size(WORKER_QUEUES_PER_UID_SIZE, 1 << 10, (size_t)1 << 40,
			 &config->worker_queues_per_uid_size)) < 0 ||
		(r = parse_size(WORKER_QUEUES_TOTAL_SIZE, 1 << 10, (size_t)1 << 40,
			 &config->worker_queues_total_size)) < 0 ||
		(r = parse_count(WORKER_PUBLISHES_MAX, 1 << 24, &config->worker_publishes_max)) < 0 ||
		(r = parse_count(PUBLISHES_PER_UID_MAX, 1 << 24, &config->publishes_per_uid_max)) < 0 ||
		(r = parse_count(PUBLISH_QUEUE_MAX, 1 << 24, &config->publish_queue_max)) < 0 ||
		(r = parse_size(PUBLISH_QUEUE_SIZE, 8 << 10, (size_t)4 << 30, &config->publish_queue_size)) <
			0)
		return r;
	while (config->backlog_size & (config->backlog_size - 1))
		config->backlog_size += config->backlog_size & -config->backlog_size;
	config->socket_path = settings[SOCKET].value;
	config->ops_path = path_or_none(OPS_SOCKET);
	config->metrics_path = path_or_none(METRICS_SOCKET);
	config->ops_by_default = strcmp(settings[OPS_SOCKET].origin, "default") == 0;
	config->direct_url = settings[DATABASE_DIRECT_URL].value;
	config->publish_url =
		settings[DATABASE_URL].value ? settings[DATABASE_URL].value : config->direct_url;
	config->mode = config->direct_url ? MODE_POSTGRES : MODE_LOCAL;
	config->pooler_url_alone = !config->direct_url && settings[DATABASE_URL].value;
	return 0;
}

static void print_help(void)
{
	printf("Usage: pgherald [OPTION]...\n"
	       "Hold this host's one LISTEN connection to PostgreSQL, and repeat what it hears to local workers.\n\n");
	for (int i = 0; i < N_SETTINGS; i++)
		printf("  --%-22s %s\n  %-24s environment %s%s%s\n", settings[i].flag, settings[i].help, "",
			settings[i].env, settings[i].fallback ? ", default " : "",
			settings[i].fallback ? settings[i].fallback : "");
	printf("  --help                   print this\n"
	       "  --version                print the version\n\n"
	       "With DATABASE_DIRECT_URL it relays PostgreSQL's notifications; without, those of this host's workers.\n");
}

/* A flag's value is visible in the process list; the copy that is kept is not. */
static const char *take_argument(enum setting_id id, char *argument)
{
	const char *copy = strdup(argument);

	if (copy && (id == DATABASE_URL || id == DATABASE_DIRECT_URL))
		memset(argument, 'x', strlen(argument));
	return copy;
}

int config_load(struct config *config, int argc, char **argv)
{
	enum { HELP = N_SETTINGS, VERSION };
	struct option options[N_SETTINGS + 3] = {
		[HELP] = {"help", no_argument, NULL, HELP},
		[VERSION] = {"version", no_argument, NULL, VERSION},
	};
	int choice;

	*config = (struct config){0};
	redact_forget();
	for (int i = 0; i < N_SETTINGS; i++) {
		struct setting *s = &settings[i];
		options[i] = (struct option){s->flag, required_argument, NULL, i};
		const char *value = getenv(s->env);
		/* Deployments unset a variable by leaving it empty. */
		s->value = value && *value ? value : s->fallback;
		s->origin = value && *value ? "environment" : "default";
	}
	opterr = 0;
	while ((choice = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (choice == HELP) {
			print_help();
			return 1;
		}
		if (choice == VERSION) {
			printf("pgherald " PGHERALD_VERSION "\n");
			return 1;
		}
		if (choice < 0 || choice >= N_SETTINGS) {
			diag(DIAG_ERROR, "an option is unknown or lacks its value; see pgherald --help");
			return -EINVAL;
		}
		settings[choice].value = take_argument((enum setting_id)choice, optarg);
		if (!settings[choice].value)
			return refuse((enum setting_id)choice, SHORT_OF_MEMORY);
		settings[choice].origin = "flag";
	}
	if (optind < argc) {
		diag(DIAG_ERROR, "pgherald takes options only; see pgherald --help");
		return -EINVAL;
	}
	return interpret(config);
}

void config_fit_descriptors(struct config *config, unsigned n_others)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	/* With few descriptors, half of them are the workers'. */
	rlim_t others = n_others < limit.rlim_max / 2 ? n_others : limit.rlim_max / 2;
	rlim_t room = limit.rlim_max - others;
	if (room >= config->workers_max)
		return;
	/* Nobody is to have a larger part of them than before. */
	rlim_t per_uid = room * config->workers_per_uid_max / config->workers_max;
	if (config->workers_per_uid_max < config->workers_max)
		config->workers_per_uid_max = per_uid > 0 ? (unsigned)per_uid : 1;
	config->workers_max = (unsigned)room;
	diag(DIAG_WARNING,
		"PGHERALD_WORKERS_MAX is more than the limit on open files allows, and was lowered; raise "
		"LimitNOFILE= workers=%u workers_per_uid=%u limit=%llu",
		config->workers_max, config->workers_per_uid_max, (unsigned long long)limit.rlim_max);
}

unsigned config_n_settings(void)
{
	return N_SETTINGS;
}

void config_setting(unsigned i, struct config_setting *out)
{
	const struct setting *s = &settings[i];

	*out = (struct config_setting){.name = s->env, .flag = s->flag, .origin = s->origin, .help = s->help};
	if (s->value && (i == DATABASE_URL || i == DATABASE_DIRECT_URL))
		redact_url(s->value, out->value, sizeof out->value);
	else
		snprintf(out->value, sizeof out->value, "%s", s->value ? s->value : "");
}

const char *config_url_name(const struct config *config, const char *url)
{
	return url == config->direct_url ? settings[DATABASE_DIRECT_URL].env : settings[DATABASE_URL].env;
}
