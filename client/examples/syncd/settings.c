#include "settings.h"

#include "log.h"

#include <errno.h>
#include <getopt.h>
#include <libpq-fe.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RELAY_SOCKET "/run/pgherald/relay.sock"
#define CHANNEL_NAME_MAX 63

enum setting_id {
	DATABASE_URL,
	SQLITE,
	LISTEN,
	SOCKET_MODE,
	WORKERS,
	RELAY,
	CHANNEL,
	CONNECTIONS,
	STREAMS_MAX,
	STREAMS_PER_USER_MAX,
	N_SETTINGS,
};

static struct setting {
	const char *env, *flag, *fallback, *help;
	const char *value;
} settings_table[N_SETTINGS] = {
	[DATABASE_URL] = {"DATABASE_URL", NULL, NULL,
		"PostgreSQL, for the records; a pgbouncer in transaction mode will do. Unset: SQLite", NULL},
	[SQLITE] = {"SYNCD_SQLITE", "sqlite", "syncd.sqlite3", "the SQLite file of the records", NULL},
	[LISTEN] = {"SYNCD_LISTEN", "listen", "127.0.0.1:8080",
		"ADDRESS:PORT, PORT (of 127.0.0.1; 0: any that is free), or the /PATH of a Unix socket",
		NULL},
	[SOCKET_MODE] = {"SYNCD_SOCKET_MODE", "socket-mode", "0660",
		"the Unix socket's mode, octal: who may connect", NULL},
	[WORKERS] = {"SYNCD_WORKERS", "workers", NULL,
		"worker processes (default: as many as there are CPUs; 1 without a relay)", NULL},
	[RELAY] = {"PGHERALD_SOCKET", "relay", NULL,
		"the socket of this host's pgherald (default: " RELAY_SOCKET
		" with PostgreSQL, none with SQLite); empty: no relay, which serves one worker",
		NULL},
	[CHANNEL] = {"SYNCD_CHANNEL", "channel", "data_sync_changes", "the channel of the changes", NULL},
	[CONNECTIONS] = {"SYNCD_CONNECTIONS", "connections", "4",
		"database connections of each worker, 1 to 64", NULL},
	[STREAMS_MAX] = {"SYNCD_STREAMS_MAX", "streams-max", "12000", "open streams of each worker", NULL},
	[STREAMS_PER_USER_MAX] = {"SYNCD_STREAMS_PER_USER_MAX", "streams-per-user-max", "10000",
		"those of one user", NULL},
};

static int refuse(enum setting_id id, const char *why)
{
	const struct setting *setting = &settings_table[id];

	log_line(LOG_LEVEL_ERROR, "%s%s%s%s cannot work: %s", setting->env, setting->flag ? " (--" : "",
		setting->flag ? setting->flag : "", setting->flag ? ")" : "", why);
	return -EINVAL;
}

static void print_help(void)
{
	printf("Usage: syncd [OPTION]...\n"
	       "A sync server on pgherald: records over HTTP, and streams that hear when they change.\n"
	       "Every setting stands in the environment, or is given by its flag.\n\n");
	for (const struct setting *s = settings_table; s < settings_table + N_SETTINGS; s++) {
		printf("  %s", s->env);
		if (s->flag)
			printf(", --%s=VALUE", s->flag);
		printf("\n      %s", s->help);
		if (s->fallback)
			printf(" (default: %s)", s->fallback);
		printf("\n");
	}
	printf("  --help\n  --version\n");
}

static int parse_flags(int argc, char **argv)
{
	struct option options[N_SETTINGS + 3] = {{0}};
	unsigned n = 0;
	int found;

	for (unsigned i = 0; i < N_SETTINGS; i++)
		if (settings_table[i].flag)
			options[n++] =
				(struct option){settings_table[i].flag, required_argument, NULL, (int)i};
	options[n++] = (struct option){"help", no_argument, NULL, 'h'};
	options[n] = (struct option){"version", no_argument, NULL, 'V'};
	while ((found = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (found == 'h') {
			print_help();
			return 1;
		}
		if (found == 'V') {
			printf("syncd, of pgherald " PGHERALD_VERSION "\n");
			return 1;
		}
		if (found == '?')
			return -EINVAL; /* getopt has printed why */
		settings_table[found].value = optarg;
	}
	if (optind < argc) {
		log_line(LOG_LEVEL_ERROR, "unknown option \"%s\"; syncd --help lists them", argv[optind]);
		return -EINVAL;
	}
	return 0;
}

static int parse_count(enum setting_id id, unsigned min, unsigned max, unsigned *out)
{
	const char *text = settings_table[id].value;
	char *end, why[80];
	unsigned long value = strtoul(text, &end, 10);

	if (*text < '0' || *text > '9' || *end || value < min || value > max) {
		snprintf(why, sizeof why, "not a number from %u to %u", min, max);
		return refuse(id, why);
	}
	*out = (unsigned)value;
	return 0;
}

static int parse_mode(unsigned *out)
{
	const char *text = settings_table[SOCKET_MODE].value;
	char *end;
	unsigned long mode = strtoul(text, &end, 8);

	if (*text < '0' || *text > '7' || *end || mode > 0777)
		return refuse(SOCKET_MODE, "not an octal mode such as 0660");
	*out = (unsigned)mode;
	return 0;
}

/* libpq's error quotes what it could not parse, which may be the password, so the error is
 * not repeated. A password with an unescaped @ or / makes a URL that parses, with a piece of
 * the password as host or port. libpq would print that later. */
static int check_database_url(const char *url)
{
	PQconninfoOption *options = PQconninfoParse(url, NULL);
	bool piece = false;

	if (!options)
		return refuse(DATABASE_URL, "it is not a connection URL or string for PostgreSQL");
	for (const PQconninfoOption *o = options; o->keyword; o++) {
		if (!o->val)
			continue;
		if (strcmp(o->keyword, "host") == 0 || strcmp(o->keyword, "dbname") == 0)
			piece |= strchr(o->val, '@') != NULL;
		if (strcmp(o->keyword, "port") == 0)
			piece |= strspn(o->val, "0123456789,") != strlen(o->val);
	}
	PQconninfoFree(options);
	return piece ? refuse(DATABASE_URL,
			       "its host, port or database is not valid; percent-encode @ : / in the password")
		     : 0;
}

/* Who cannot hear each other must not run side by side: a stream would miss what another
 * worker's client did. */
static int choose_workers(struct settings *s)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);

	if (!settings_table[WORKERS].value) {
		s->workers = !*s->relay || cpus < 1 ? 1 : cpus > WORKERS_MAX ? WORKERS_MAX : (unsigned)cpus;
		return 0;
	}
	int r = parse_count(WORKERS, 1, WORKERS_MAX, &s->workers);
	if (r == 0 && s->workers > 1 && !*s->relay)
		return refuse(WORKERS,
			"several workers hear each other only through a relay: start pgherald and set "
			"PGHERALD_SOCKET to its socket, or run one worker");
	return r;
}

int settings_load(struct settings *s, int argc, char **argv)
{
	for (struct setting *setting = settings_table; setting < settings_table + N_SETTINGS; setting++)
		setting->value = getenv(setting->env);
	int r = parse_flags(argc, argv);
	if (r != 0)
		return r;
	for (struct setting *setting = settings_table; setting < settings_table + N_SETTINGS; setting++) {
		/* In a file of settings, an empty value is one that is left out. But an
		 * empty relay means that there is none. */
		if (setting->value && !*setting->value && setting != &settings_table[RELAY])
			setting->value = NULL;
		if (!setting->value)
			setting->value = setting->fallback;
	}
	s->database_url = settings_table[DATABASE_URL].value;
	s->sqlite = settings_table[SQLITE].value;
	s->listen = settings_table[LISTEN].value;
	s->relay = settings_table[RELAY].value;
	s->channel = settings_table[CHANNEL].value;
	if (!s->relay)
		s->relay = s->database_url ? RELAY_SOCKET : "";
	if (s->database_url)
		r = check_database_url(s->database_url);
	if (r == 0 && strcmp(s->sqlite, ":memory:") == 0)
		r = refuse(SQLITE, "each connection would have records of its own; name a file");
	if (r == 0 && strlen(s->channel) > CHANNEL_NAME_MAX)
		r = refuse(CHANNEL, "a channel's name has 1 to 63 bytes");
	if (r == 0)
		r = choose_workers(s);
	if (r == 0)
		r = parse_mode(&s->socket_mode);
	if (r == 0)
		r = parse_count(CONNECTIONS, 1, 64, &s->connections);
	if (r == 0)
		r = parse_count(STREAMS_MAX, 1, 1000000, &s->streams_max);
	if (r == 0)
		r = parse_count(STREAMS_PER_USER_MAX, 1, 1000000, &s->streams_per_user_max);
	return r;
}
