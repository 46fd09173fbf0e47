#include "base/settings.h"

#include "base/config.h"
#include "base/diag.h"
#include "base/environment_file.h"
#include "base/list.h"
#include "base/redact.h"
#include "base/spelling.h"
#include "base/systemd.h"
#include "wire.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <grp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

#define KIB 1024.
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)
#define TIB (1024 * GIB)

#define NO_MEMORY "out of memory"

/* What a value looks like, and so how it is checked. */
enum kind {
	KIND_URL,
	KIND_PATH,         /* of a Unix socket */
	KIND_PATH_OR_NONE, /* the same; "none": NULL */
	KIND_FILE,
	KIND_MODE,
	KIND_GROUP,
	KIND_SIZE,  /* bytes, with K, M or G */
	KIND_COUNT, /* the same letters */
	KIND_REAL,
	KIND_REAL_OR_AUTO, /* "auto": -1 */
	KIND_BOOL,
	KIND_SWITCH, /* the same; as a flag it has no value */
	KIND_CHANNELS,
	KIND_ALLOW, /* names channels, so they are read before it */
	KIND_LEVEL,
	N_KINDS,
};

struct setting {
	enum kind kind;
	size_t field;           /* where in struct config its value goes */
	double least, greatest; /* of sizes and counts too: they are below 2^53, so exact */
	bool reloads;           /* it can change without a restart */
	const char *name, *flag, *fallback, *help;
};

/* The field's place, if it has this type: otherwise it does not compile. */
#define FIELD(type, name)                                                                                    \
	(offsetof(struct config, name) +                                                                     \
		0 * sizeof(char[HAS_TYPE(type, ((struct config *)NULL)->name) ? 1 : -1]))
#define HAS_TYPE(type, expression) __builtin_types_compatible_p(type, __typeof__(expression))
#define URL(field) KIND_URL, FIELD(const char *, field), 0, 0
#define PATH(field) KIND_PATH, FIELD(const char *, field), 0, 0
#define PATH_OR_NONE(field) KIND_PATH_OR_NONE, FIELD(const char *, field), 0, 0
#define FILE_PATH(field) KIND_FILE, FIELD(const char *, field), 0, 0
#define MODE(field) KIND_MODE, FIELD(unsigned, field), 0, 0777
#define GROUP(field) KIND_GROUP, FIELD(gid_t, field), 0, 0
#define SIZE(field, least, greatest) KIND_SIZE, FIELD(size_t, field), least, greatest
#define COUNT(field, greatest) KIND_COUNT, FIELD(unsigned, field), 1, greatest
#define REAL(field, least, greatest) KIND_REAL, FIELD(double, field), least, greatest
#define REAL_OR_AUTO(field, least, greatest) KIND_REAL_OR_AUTO, FIELD(double, field), least, greatest
#define BOOL(field) KIND_BOOL, FIELD(bool, field), 0, 0
#define SWITCH(field) KIND_SWITCH, FIELD(bool, field), 0, 0
#define CHANNELS(field) KIND_CHANNELS, FIELD(struct channel[CHANNELS_MAX], field), 0, 0
#define ALLOW(field) KIND_ALLOW, FIELD(struct access, field), 0, 0
#define LEVEL(field) KIND_LEVEL, FIELD(enum diag_level, field), 0, 0
#define STAYS false
#define RELOADS true

/* clang-format off */
/* What the defaults let others make grow fits into the unit's MemoryMax=, 2 GiB, all of it
 * together. In MiB; tests/pg/test_limits.py adds it up:
 *
 *  1000  workers, 250 KiB each: what the kernel keeps of what one does not read (240), the list
 *        of frames that it is owed (8), itself
 *   160  subscriptions, 40 bytes each
 *   128  answers, and requests that are not done yet
 *    76  requests to publish: their payloads, and 192 bytes each
 *    64  recovered changes
 *    24  the backlog: its bytes, and 16 more for each 32
 *   192  operators, 768 KiB each: the replies (512), what the kernel keeps
 *    22  clients that read the metrics, 352 KiB each: the page (112), what the kernel keeps
 *   128  the rest: the connections to PostgreSQL, what is reconciled, the process itself */
static const struct setting settings[] = {
	{URL(publish_url), STAYS, "DATABASE_URL", "database-url", NULL,
		"where to publish; a pgbouncer in transaction mode will do"},
	{URL(direct_url), STAYS, "DATABASE_DIRECT_URL", "database-direct-url", NULL,
		"where to LISTEN: PostgreSQL itself, no transaction pooler"},
	{SWITCH(local), STAYS, "PGHERALD_LOCAL", "local", "no",
		"local mode, whatever the URLs: workers of this host hear each other, without PostgreSQL"},
	{PATH(socket_path), STAYS, "PGHERALD_SOCKET", "socket", "/run/pgherald/relay.sock",
		"the workers' socket"},
	{MODE(socket_mode), STAYS, "PGHERALD_SOCKET_MODE", "socket-mode", "0660",
		"the sockets' mode, octal: who may connect"},
	{GROUP(socket_group), STAYS, "PGHERALD_SOCKET_GROUP", "socket-group", "",
		"the group of the workers' socket, a name or a number; empty: the daemon's own"},
	{PATH_OR_NONE(ops_path), STAYS, "PGHERALD_OPS_SOCKET", "ops-socket", "/run/pgherald/ops.sock",
		"the operator's socket, for socat; \"none\" for none"},
	{PATH_OR_NONE(metrics_path), STAYS, "PGHERALD_METRICS_SOCKET", "metrics-socket", "none",
		"a socket for GET /metrics and /healthz; \"none\" for none"},
	{CHANNELS(channels), RELOADS, "PGHERALD_CHANNELS", "channels", "data_sync_changes",
		"NAME for changes, NAME:text for raw payloads, comma-separated"},
	{SIZE(backlog_size, BACKLOG_SIZE_MIN, 64 * GIB), STAYS, "PGHERALD_BACKLOG_SIZE", "backlog-size", "16M",
		"bytes of frames to keep for slow and resuming workers (K, M, G)"},
	{REAL(checkpoint_interval, 0.1, 3600), STAYS, "PGHERALD_CHECKPOINT_INTERVAL", "checkpoint-interval", "5",
		"seconds between checkpoints, of all relays of a database together"},
	{BOOL(reconcile), STAYS, "PGHERALD_RECONCILE", "reconcile", "yes",
		"announce changes that the database has and nobody notified"},
	{BOOL(logical_message), STAYS, "PGHERALD_LOGICAL_MESSAGE", "logical-message", "yes",
		"where note_run() is missing, write a message for logical decoding with each checkpoint"},
	{REAL(recovery_rate, 0, 1e9), RELOADS, "PGHERALD_RECOVERY_RATE", "recovery-rate", "0",
		"rows a second to recover at most; 0 for no limit"},
	{REAL(recovery_timeout, 0.1, 3600), RELOADS, "PGHERALD_RECOVERY_TIMEOUT", "recovery-timeout", "10",
		"seconds without a row after which a recovery query is given up"},
	{SIZE(recovery_size, RECOVERY_SIZE_MIN, 64 * GIB), RELOADS, "PGHERALD_RECOVERY_SIZE", "recovery-size", "64M",
		"bytes of recovered changes to keep for workers that catch up slowly"},
	{ALLOW(access), RELOADS, "PGHERALD_ALLOW", "allow", "",
		"USER, @GROUP or * =listen, =publish or =both, and :CHANNEL, comma-separated; "
		"empty: everybody whom the mode lets in"},
	{COUNT(workers_max, 1 << 20), RELOADS, "PGHERALD_WORKERS_MAX", "workers-max", "4096",
		"workers at most"},
	{COUNT(workers_per_uid_max, 1 << 20), RELOADS, "PGHERALD_WORKERS_PER_UID_MAX", "workers-per-uid-max", "2048",
		"workers of one user at most"},
	{COUNT(subscriptions_max, 1 << 26), RELOADS, "PGHERALD_SUBSCRIPTIONS_MAX", "subscriptions-max", "1M",
		"subscriptions by pubkey that one worker may have"},
	{COUNT(subscriptions_per_uid_max, 1 << 30), RELOADS,
		"PGHERALD_SUBSCRIPTIONS_PER_UID_MAX", "subscriptions-per-uid-max", "2M",
		"those of all workers of one user"},
	{COUNT(subscriptions_total_max, 1 << 30), RELOADS,
		"PGHERALD_SUBSCRIPTIONS_TOTAL_MAX", "subscriptions-total-max", "4M",
		"those of all workers; each takes some 40 bytes"},
	{SIZE(worker_queue_size, 1 * KIB, 1 * GIB), RELOADS, "PGHERALD_WORKER_QUEUE_SIZE", "worker-queue-size", "256K",
		"bytes of answers to keep for one worker before its requests wait"},
	{SIZE(worker_queues_per_uid_size, 1 * KIB, 1 * TIB), RELOADS,
		"PGHERALD_WORKER_QUEUES_PER_UID_SIZE", "worker-queues-per-uid-size", "64M",
		"bytes of answers, and of requests not done yet, to keep for one user's workers"},
	{SIZE(worker_queues_total_size, 1 * KIB, 1 * TIB), RELOADS,
		"PGHERALD_WORKER_QUEUES_TOTAL_SIZE", "worker-queues-total-size", "128M",
		"the same for all workers; one user has no more of it than is left to the others"},
	{COUNT(worker_publishes_max, 1 << 24), RELOADS, "PGHERALD_WORKER_PUBLISHES_MAX", "worker-publishes-max", "4096",
		"requests to publish of one worker that may wait"},
	{COUNT(publishes_per_uid_max, 1 << 24), RELOADS,
		"PGHERALD_PUBLISHES_PER_UID_MAX", "publishes-per-uid-max", "32K",
		"requests to publish of one user's workers that may wait"},
	{COUNT(publish_queue_max, 1 << 24), RELOADS, "PGHERALD_PUBLISH_QUEUE_MAX", "publish-queue-max", "64K",
		"requests to publish of all workers that may wait"},
	{SIZE(publish_queue_size, 8 * KIB, 4 * GIB), RELOADS, "PGHERALD_PUBLISH_QUEUE_SIZE", "publish-queue-size", "64M",
		"their bytes"},
	{REAL_OR_AUTO(start_timeout, 0, 86400), STAYS, "PGHERALD_START_TIMEOUT", "start-timeout", "auto",
		"seconds to wait at start for a server that is away; 0 for no limit; auto for about 12"},
	{REAL(drain, 0, 86400), RELOADS, "PGHERALD_DRAIN", "drain", "0",
		"seconds to go on serving the workers that are connected, after SIGTERM"},
	{FILE_PATH(environment_file), STAYS, "PGHERALD_ENVIRONMENT_FILE", "environment-file", "",
		"a file of such variables, which are in force instead, and are read again on SIGHUP"},
	{LEVEL(log_level), RELOADS, "PGHERALD_LOG_LEVEL", "log-level", "notice",
		"error, warning, notice, info or debug"},
};
/* clang-format on */

#define N_SETTINGS (sizeof settings / sizeof *settings)
_Static_assert(SIZE_MAX >> 40 > 0, "a size_t holds the greatest size, 1 TiB");

/* As they were given. */
struct given {
	const char *value; /* NULL: a URL that was not */
	const char *origin;
	char *copy; /* that value points to, or NULL */
};
/* In force; and those that were read again, until they are in force. */
static struct given given[N_SETTINGS], fresh[N_SETTINGS];

/* What is in force in place of a setting of a socket; empty: nothing. */
static char by_systemd[N_SETTINGS][sizeof((struct sockaddr_un *)NULL)->sun_path + 1];

/* Whose values are being checked; NULL: none yet. */
static const struct given *checked;

/* A value of each kind, where the default does not serve as one. */
static const char *const examples[N_KINDS] = {
	[KIND_URL] = "postgresql://app@db.example:5432/sync",
	[KIND_PATH] = "/run/pgherald/relay.sock",
	[KIND_PATH_OR_NONE] = "/run/pgherald/metrics.sock",
	[KIND_FILE] = "/etc/pgherald/main.conf",
	[KIND_GROUP] = "www-data",
	[KIND_ALLOW] = "www-data=both,@staff=listen",
};

static const char *example_of(const struct setting *s)
{
	bool is_path = s->fallback && *s->fallback == '/';

	return is_path || !examples[s->kind] ? s->fallback : examples[s->kind];
}

/* Names the setting, where its value comes from, what is wrong, and what is right. */
static int refuse(const struct setting *s, const char *why)
{
	diag(DIAG_ERROR, "%s (--%s, from the %s; an example: %s) cannot work: %s", s->name, s->flag,
		checked ? checked[s - settings].origin : "settings", example_of(s), why);
	return -EINVAL;
}

/* One kind of value each: check it, and fill the field of *config. 0 or -EINVAL. */

static void *field(const struct setting *s, struct config *config)
{
	return (char *)config + s->field;
}

static int parse_url(const struct setting *s, const char *value, struct config *config)
{
	char why[200];
	int r = value ? redact_learn(value, why, sizeof why) : 0;

	*(const char **)field(s, config) = value;
	return r == 0 ? 0 : refuse(s, r == -EINVAL ? why : NO_MEMORY);
}

static int parse_path(const struct setting *s, const char *value, struct config *config)
{
	struct sockaddr_un address;

	if (strlen(value) >= sizeof address.sun_path)
		return refuse(s, "longer than the 107 bytes that the path of a Unix socket may have");
	*(const char **)field(s, config) =
		s->kind == KIND_PATH_OR_NONE && strcmp(value, "none") == 0 ? NULL : value;
	return 0;
}

static int parse_mode(const struct setting *s, const char *value, struct config *config)
{
	char *end;
	unsigned long mode = strtoul(value, &end, 8);

	if (end == value || *end || mode > (unsigned long)s->greatest)
		return refuse(s, "not an octal mode such as 0660");
	*(unsigned *)field(s, config) = (unsigned)mode;
	return 0;
}

static int parse_file(const struct setting *s, const char *value, struct config *config)
{
	*(const char **)field(s, config) = *value ? value : NULL;
	return 0;
}

static int parse_group(const struct setting *s, const char *value, struct config *config)
{
	char *end;
	unsigned long number = strtoul(value, &end, 10);
	gid_t *out = field(s, config);

	*out = (gid_t)-1;
	if (!*value)
		return 0;
	if (isdigit((unsigned char)*value) && !*end && number < UINT32_MAX) {
		*out = (gid_t)number;
		return 0;
	}
	const struct group *group = getgrnam(value);
	if (!group)
		return refuse(s, "there is no such group");
	*out = group->gr_gid;
	return 0;
}

static int parse_size(const struct setting *s, const char *value, struct config *config)
{
	char *end, why[96];
	unsigned long long least = (unsigned long long)s->least, greatest = (unsigned long long)s->greatest;

	errno = 0;
	unsigned long long number = strtoull(value, &end, 10);
	unsigned shift = *end == 'K' ? 10 : *end == 'M' ? 20 : *end == 'G' ? 30 : 0;
	if (shift)
		end++;
	if (errno || *end || !isdigit((unsigned char)value[0]) || number > greatest >> shift ||
		number << shift < least) {
		snprintf(why, sizeof why, "not a number from %llu to %llu", least, greatest);
		return refuse(s, why);
	}
	if (s->kind == KIND_COUNT)
		*(unsigned *)field(s, config) = (unsigned)(number << shift);
	else
		*(size_t *)field(s, config) = (size_t)(number << shift);
	return 0;
}

static int parse_real(const struct setting *s, const char *value, struct config *config)
{
	char *end, why[96];
	double number = strtod(value, &end);

	if (end == value || *end || !(number >= s->least && number <= s->greatest)) {
		snprintf(why, sizeof why, "not %sa number from %g to %g",
			s->kind == KIND_REAL_OR_AUTO ? "auto or " : "", s->least, s->greatest);
		return refuse(s, why);
	}
	*(double *)field(s, config) = number;
	return 0;
}

static int parse_real_or_auto(const struct setting *s, const char *value, struct config *config)
{
	if (strcasecmp(value, "auto") != 0)
		return parse_real(s, value, config);
	*(double *)field(s, config) = -1;
	return 0;
}

static int parse_bool(const struct setting *s, const char *value, struct config *config)
{
	static const char *const words[][2] = {{"no", "yes"}, {"false", "true"}, {"off", "on"}, {"0", "1"}};

	for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
		for (int yes = 0; yes <= 1; yes++) {
			if (strcasecmp(value, words[i][yes]) != 0)
				continue;
			*(bool *)field(s, config) = yes;
			return 0;
		}
	}
	return refuse(s, "neither yes nor no");
}

/* NAME or NAME:text */
static int parse_channel(const struct setting *s, struct list *list, struct config *config)
{
	char name[256], kind[16] = "", why[96];
	struct channel channel = {.kind = CHANNEL_CHANGES};
	int r = list_word(list, ":,", name, sizeof name, why, sizeof why);

	channel.quoted = list->quoted;
	if (r == 0 && list_skip(list, ':')) {
		channel.kind = CHANNEL_TEXT;
		r = list_word(list, ",", kind, sizeof kind, why, sizeof why);
		if (r < 0 || strcmp(kind, "text") != 0)
			return refuse(s, "only \"text\" may follow the colon; a colon of the name itself is "
					 "written \\:");
	}
	if (r < 0)
		return refuse(s, why);
	size_t len = strlen(name);
	if (len == 0 || len > CHANNEL_NAME_MAX)
		return refuse(s, "a channel's name has 1 to 63 bytes");
	if (!wire_utf8_valid(name, len))
		return refuse(s, "a channel's name is not valid UTF-8");
	if (strcmp(name, CANARY_CHANNEL) == 0)
		return refuse(s, "the channel " CANARY_CHANNEL " is the relay's own");
	/* WELCOME lists channels as NAME and NAME:text. */
	if (len >= 5 && strcmp(name + len - 5, ":text") == 0)
		return refuse(s, "a channel's name cannot end with :text");
	if (config->n_channels == CHANNELS_MAX)
		return refuse(s, "more than 63 channels");
	for (unsigned i = 0; i < config->n_channels; i++)
		if (strcmp(config->channels[i].name, name) == 0)
			return refuse(s, "a channel is named twice");
	memcpy(channel.name, name, len + 1);
	config->channels[config->n_channels++] = channel;
	return 0;
}

static int parse_channels(const struct setting *s, const char *value, struct config *config)
{
	struct list list;
	int r = 0;

	list_open(&list, value);
	while (r == 0 && list_more(&list))
		r = parse_channel(s, &list, config);
	return r == 0 && config->n_channels == 0 ? refuse(s, "a channel's name has 1 to 63 bytes") : r;
}

static int parse_allow(const struct setting *s, const char *value, struct config *config)
{
	char why[256] = NO_MEMORY;
	int r = access_parse(field(s, config), value, config, why, sizeof why);

	return r < 0 ? refuse(s, why) : 0;
}

static int parse_level(const struct setting *s, const char *value, struct config *config)
{
	int level = diag_level_of(value);

	if (level < 0)
		return refuse(s, "not one of error, warning, notice, info and debug");
	*(enum diag_level *)field(s, config) = (enum diag_level)level;
	return 0;
}

static int (*const parsers[N_KINDS])(const struct setting *, const char *value, struct config *) = {
	[KIND_URL] = parse_url,
	[KIND_PATH] = parse_path,
	[KIND_PATH_OR_NONE] = parse_path,
	[KIND_FILE] = parse_file,
	[KIND_MODE] = parse_mode,
	[KIND_GROUP] = parse_group,
	[KIND_SIZE] = parse_size,
	[KIND_COUNT] = parse_size,
	[KIND_REAL] = parse_real,
	[KIND_REAL_OR_AUTO] = parse_real_or_auto,
	[KIND_BOOL] = parse_bool,
	[KIND_SWITCH] = parse_bool,
	[KIND_CHANNELS] = parse_channels,
	[KIND_ALLOW] = parse_allow,
	[KIND_LEVEL] = parse_level,
};

/* From where the values come */

static void print_help(void)
{
	printf("Usage: pgherald [OPTION]...\n"
	       "       pgherald ctl [OPTION]... COMMAND    (see pgherald ctl --help)\n"
	       "Hold this host's one LISTEN connection to PostgreSQL, and repeat what it hears to local workers.\n\n");
	for (const struct setting *s = settings; s < settings + N_SETTINGS; s++)
		printf("  --%-22s %s\n  %-24s environment %s%s%s\n", s->flag, s->help, "", s->name,
			s->fallback ? ", default " : "", s->fallback ? s->fallback : "");
	printf("  --check [PATH]           try these settings, and print what works, what is weaker and what mends it; with a\n"
	       "                           PATH, ask GET /healthz on that metrics socket; status 0 if all is well, else 1\n"
	       "  --help                   print this\n"
	       "  --version                print the version\n\n"
	       "With DATABASE_DIRECT_URL it relays PostgreSQL's notifications; without, those of this host's workers.\n");
}

#define BLANKS " \t\r\n"

/* A copy without the blanks and newlines around it, and the byte order mark before it, which files
 * and secrets have. NULL: out of memory. */
static char *copy_trimmed(const char *value)
{
	value += strncmp(value, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
	value += strspn(value, BLANKS);
	size_t len = strlen(value);
	while (len > 0 && strchr(BLANKS, value[len - 1]))
		len--;
	return strndup(value, len);
}

static void give_up(struct given *g)
{
	if (g->copy)
		explicit_bzero(g->copy, strlen(g->copy));
	free(g->copy);
	*g = (struct given){0};
}

static const char ENVIRONMENT[] = "environment", OWN_FILE[] = "file", FLAG[] = "flag", DEFAULT[] = "default";

static void unset(struct given *g, const struct setting *s)
{
	give_up(g);
	*g = (struct given){.value = s->fallback, .origin = DEFAULT};
}

/* An empty URL counts as not given. */
static int take(struct given *all, size_t i, const char *value, const char *origin)
{
	const struct setting *s = &settings[i];
	char *copy = copy_trimmed(value);

	if (!copy)
		return refuse(s, NO_MEMORY);
	give_up(&all[i]);
	all[i] = (struct given){s->kind == KIND_URL && !*copy ? NULL : copy, origin, copy};
	return 0;
}

/* Deployments unset a variable by leaving it empty. */
static bool is_given(const char *value)
{
	return value && value[strspn(value, BLANKS)];
}

static int take_environment(void)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < N_SETTINGS; i++) {
		const char *value = getenv(settings[i].name);
		unset(&given[i], &settings[i]);
		if (is_given(value))
			r = take(given, i, value, ENVIRONMENT);
	}
	return r;
}

/* argument: NULL for a switch. */
static int take_flag(size_t i, char *argument)
{
	int r = take(given, i, argument ? argument : "yes", FLAG);

	/* The argument is visible in the process list; the copy is not. */
	if (settings[i].kind == KIND_URL)
		memset(argument, 'x', strlen(argument));
	return r;
}

/* 0; -EINVAL after an ERROR line; positive when it has answered --help or --version, or
 * config->check_path is set. */
static int take_flags(struct config *config, int argc, char **argv)
{
	enum { HELP = N_SETTINGS, VERSION, CHECK };
	struct option options[N_SETTINGS + 4] = {
		[HELP] = {"help", no_argument, NULL, HELP},
		[VERSION] = {"version", no_argument, NULL, VERSION},
		[CHECK] = {"check", optional_argument, NULL, CHECK},
	};
	int choice, r = 0;

	for (int i = 0; i < (int)N_SETTINGS; i++)
		options[i] = (struct option){settings[i].flag,
			settings[i].kind == KIND_SWITCH ? no_argument : required_argument, NULL, i};
	opterr = 0;
	while (r == 0 && (choice = getopt_long(argc, argv, ":", options, NULL)) != -1) {
		if (choice == HELP) {
			print_help();
			return 1;
		}
		if (choice == VERSION) {
			printf("pgherald " PGHERALD_VERSION "\n");
			return 1;
		}
		if (choice == CHECK) {
			/* getopt knows no value after a blank that may be missing. */
			bool has_path = !optarg && optind < argc && argv[optind][0] != '-';
			config->check_path = has_path ? argv[optind++] : optarg;
			config->checks = !config->check_path;
			if (config->check_path)
				return 1;
			continue;
		}
		if (choice < 0 || choice >= (int)N_SETTINGS) {
			const char *option = argv[optind - 1];
			diag(DIAG_ERROR, "the option %.*s %s; see pgherald --help", (int)strcspn(option, "="),
				option, choice == ':' ? "lacks its value" : "is unknown");
			return -EINVAL;
		}
		r = take_flag((size_t)choice, optarg);
	}
	if (r == 0 && optind < argc) {
		/* It may be a URL with a password. */
		diag(DIAG_ERROR, "pgherald takes options only, and %s is not one; see pgherald --help",
			strpbrk(argv[optind], ":@=") ? "an argument" : argv[optind]);
		return -EINVAL;
	}
	return r;
}

static int find(const char *name)
{
	for (int i = 0; i < (int)N_SETTINGS; i++)
		if (strcmp(settings[i].name, name) == 0)
			return i;
	return -1;
}

/* Names that are misspelt */

/* Names with the relay's prefix that are not settings: a trailing underscore stands for all names that
 * begin so. Kubernetes gives each container the first two for a service that is called pgherald;
 * the project's tests set the others around it. */
static const char *const foreign[] = {"PGHERALD_SERVICE_", "PGHERALD_PORT_", "PGHERALD_PORT",
	"PGHERALD_TEST_", "PGHERALD_RUN", "PGHERALD_BUILD", "PGHERALD_INSTALLED_BUILD", "PGHERALD_LAUNCHER"};

static bool is_foreign(const char *name)
{
	for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++) {
		size_t len = strlen(foreign[i]);
		if (foreign[i][len - 1] == '_' ? strncmp(name, foreign[i], len) == 0
					       : strcmp(name, foreign[i]) == 0)
			return true;
	}
	return false;
}

#define PREFIX "PGHERALD_"
/* Letters: how far a name of this prefix may be from the setting that is suggested; and one without
 * it, to be taken for a setting. */
#define SUGGESTED_MOST 6
#define MISSPELT_MOST 2

/* A name that is so similar to a URL's that it was meant to be that. Other programs have names such as
 * DATABASE_HOST. */
static bool is_like_url(const char *name, const struct setting *s)
{
	return spelling_distance(name, s->name, 3) <= 3 - (strcmp(s->name, "DATABASE_URL") == 0) ||
	       (strcmp(s->name, "DATABASE_DIRECT_URL") == 0 && strcasestr(name, "DATABASE") &&
		       strcasestr(name, "DIRECT"));
}

/* 0, or -EINVAL after an ERROR line. */
static int refuse_misspelt(const char *name)
{
	unsigned distance = SUGGESTED_MOST + 1;
	const struct setting *nearest = NULL;
	bool is_ours = strncasecmp(name, PREFIX, sizeof PREFIX - 1) == 0;

	if (find(name) >= 0 || is_foreign(name))
		return 0;
	for (size_t i = 0; i < N_SETTINGS; i++) {
		const struct setting *s = &settings[i];
		if (s->kind == KIND_URL && !given[i].value && is_like_url(name, s)) {
			nearest = s;
			distance = 0;
		}
		unsigned d = s->kind == KIND_URL ? SUGGESTED_MOST + 1
						 : spelling_distance(name, s->name, SUGGESTED_MOST);
		if (d < distance) {
			distance = d;
			nearest = s;
		}
	}
	if (!is_ours && distance > MISSPELT_MOST)
		return 0;
	if (nearest)
		diag(DIAG_ERROR, "%s is not a setting; write %s (pgherald --help lists all)", name,
			nearest->name);
	else
		diag(DIAG_ERROR, "%s is not a setting; pgherald --help lists all", name);
	return -EINVAL;
}

/* The environment file */

static const char *file_path(void)
{
	const char *path = given[find("PGHERALD_ENVIRONMENT_FILE")].value;

	return *path ? path : NULL;
}

static void refuse_file(int error)
{
	char instance[SYSTEMD_INSTANCE_SIZE];

	if (error == -ENOENT && systemd_instance(file_path(), instance))
		diag(DIAG_ERROR,
			"there is no /etc/pgherald/%s.conf with the settings of this instance; write it (an example: "
			"%s)",
			instance, PGHERALD_DOC "/examples/main.conf");
	else
		diag(DIAG_ERROR, "the environment file cannot be read: %s path=\"%s\"", strerror(-error),
			file_path());
}

/* variable(): takes one. 0, or a negative errno after an ERROR line. */
static int read_file(int (*variable)(const char *name, const char *value))
{
	struct environment_file file;
	int r = environment_file_read(&file, file_path());

	if (r < 0) {
		refuse_file(r);
		return r;
	}
	while (r == 0 && environment_file_next(&file))
		r = variable(file.name, file.value);
	environment_file_free(&file);
	return r;
}

static int take_or_unset(struct given *all, size_t i, const char *value)
{
	if (is_given(value))
		return take(all, i, value, OWN_FILE);
	unset(&all[i], &settings[i]);
	return 0;
}

/* The environment gets all of them: libpq has variables of its own. */
static int take_first(const char *name, const char *value)
{
	int i = find(name);

	if (setenv(name, value, 1) < 0)
		return -errno;
	if (i < 0 || given[i].origin == FLAG || settings[i].kind == KIND_FILE)
		return 0;
	return take_or_unset(given, (size_t)i, value);
}

static int take_again(const char *name, const char *value)
{
	int i = find(name), r = refuse_misspelt(name);

	if (r < 0)
		return r;
	if (i < 0 || given[i].origin == FLAG || settings[i].kind == KIND_FILE)
		return 0;
	return take_or_unset(fresh, (size_t)i, value);
}

/* environ is NULL after clearenv(). */
static int refuse_misspelt_environment(void)
{
	char name[64];
	int r = 0;

	for (char **variable = environ; r == 0 && variable && *variable; variable++) {
		size_t len = strcspn(*variable, "=");
		if (len >= sizeof name)
			continue;
		memcpy(name, *variable, len);
		name[len] = '\0';
		r = refuse_misspelt(name);
	}
	return r;
}

static int parse(const struct given *all, struct config *config)
{
	int r = 0;

	checked = all;
	for (size_t i = 0; r == 0 && i < N_SETTINGS; i++)
		r = parsers[settings[i].kind](&settings[i], all[i].value, config);
	checked = NULL;
	return r;
}

int settings_load(struct config *config, int argc, char **argv)
{
	redact_forget();
	memset(by_systemd, 0, sizeof by_systemd);
	int r = take_environment();
	if (r == 0)
		r = take_flags(config, argc, argv);
	if (r == 0 && file_path())
		r = read_file(take_first);
	if (r == 0)
		r = refuse_misspelt_environment();
	return r == 0 ? parse(given, config) : r;
}

/* What is in force but for the file. */
static int take_kept(void)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < N_SETTINGS; i++) {
		bool of_file = given[i].origin == OWN_FILE;
		unset(&fresh[i], &settings[i]);
		if (given[i].copy && !of_file)
			r = take(fresh, i, given[i].copy, given[i].origin);
	}
	return r;
}

int settings_reread(struct config *config)
{
	settings_drop();
	int r = take_kept();
	if (r == 0 && file_path())
		r = read_file(take_again);
	if (r == 0)
		r = parse(fresh, config);
	if (r < 0)
		settings_drop();
	return r;
}

void settings_drop(void)
{
	for (size_t i = 0; i < N_SETTINGS; i++)
		give_up(&fresh[i]);
}

static bool is_same(const char *a, const char *b)
{
	return a == b || (a && b && strcmp(a, b) == 0);
}

/* The values of kinds that settings_take() copies. */
static size_t size_of(enum kind kind)
{
	switch (kind) {
	case KIND_SIZE:
		return sizeof(size_t);
	case KIND_COUNT:
		return sizeof(unsigned);
	case KIND_REAL:
		return sizeof(double);
	case KIND_LEVEL:
		return sizeof(enum diag_level);
	default:
		return 0;
	}
}

unsigned settings_take(struct config *config, const struct config *from)
{
	unsigned n = 0;

	for (size_t i = 0; i < N_SETTINGS; i++) {
		const struct setting *s = &settings[i];
		bool changed = !is_same(given[i].value, fresh[i].value);
		if (changed && !s->reloads)
			diag(DIAG_WARNING, "%s cannot change without a restart, so it stays as it was",
				s->name);
		if (!s->reloads) {
			give_up(&fresh[i]);
			continue;
		}
		n += changed;
		memcpy(field(s, config), (const char *)from + s->field, size_of(s->kind));
		give_up(&given[i]);
		given[i] = fresh[i];
		fresh[i] = (struct given){0};
	}
	return n;
}

bool settings_is_default(const char *name)
{
	return given[find(name)].origin == DEFAULT;
}

const char *settings_origin(const char *text, struct setting_shown *out)
{
	for (unsigned i = 0; i < N_SETTINGS; i++) {
		if (!given[i].value || !strstr(text, settings[i].name))
			continue;
		settings_show(i, out);
		return example_of(&settings[i]);
	}
	return NULL;
}

/* What operators see */

void settings_by_systemd(const char *name, const char *value)
{
	int i = find(name);

	snprintf(by_systemd[i], sizeof by_systemd[i], "%s", value);
	if (given[i].origin != DEFAULT && strcmp(given[i].value, value) != 0)
		diag(DIAG_WARNING,
			"%s is not in force, since systemd's socket has its own; change the socket unit, or remove "
			"the setting systemd=\"%s\"",
			name, value);
}

unsigned settings_n(void)
{
	return N_SETTINGS;
}

void settings_show(unsigned i, struct setting_shown *out)
{
	const struct setting *s = &settings[i];
	const char *value = given[i].value ? given[i].value : "";

	*out = (struct setting_shown){
		.name = s->name, .flag = s->flag, .help = s->help, .origin = given[i].origin};
	if (*by_systemd[i]) {
		out->origin = "systemd";
		value = by_systemd[i];
	}
	if (s->kind == KIND_URL && *value)
		redact_url(value, out->value, sizeof out->value);
	else
		snprintf(out->value, sizeof out->value, "%s", value);
}
