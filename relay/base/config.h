/* What the relay is configured to do. settings.c fills the fields from the environment and the
 * flags; this adds what they mean together, and refuses what cannot work before anything is
 * opened. main.c calls it; all others read struct config. */
#pragma once

#include "base/access.h"
#include "base/diag.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* A worker's topics are a mask of 64 bits. Topic 0 is what every worker gets; each channel is
 * one more. */
#define CHANNELS_MAX 63
_Static_assert(CHANNELS_MAX + 1 <= 64, "each topic has a bit in a worker's mask");
/* Bytes: NAMEDATALEN - 1 of PostgreSQL, which refuses a longer name in pg_notify() and
 * truncates it in LISTEN. */
#define CHANNEL_NAME_MAX 63
/* Bytes: some frames for a worker that is slow to read. */
#define BACKLOG_SIZE_MIN ((size_t)64 << 10)
/* Bytes: what one worker that catches up needs, with room for some others. */
#define RECOVERY_SIZE_MIN ((size_t)256 << 10)
#define CANARY_CHANNEL "pgherald_canary"
_Static_assert(sizeof CANARY_CHANNEL - 1 <= CHANNEL_NAME_MAX, "PostgreSQL takes its name");
_Static_assert((BACKLOG_SIZE_MIN & (BACKLOG_SIZE_MIN - 1)) == 0, "sizes are rounded up to powers of two");

enum channel_kind { CHANNEL_CHANGES, CHANNEL_TEXT };

struct channel {
	char name[CHANNEL_NAME_MAX + 1];
	enum channel_kind kind;
	bool quoted; /* in the setting */
	/* It was removed when the settings were read again. Its place stays, since its topic names it
	 * in the backlog. */
	bool gone;
};

enum config_mode { MODE_LOCAL, MODE_POSTGRES };

struct config {
	enum config_mode mode;
	/* Postgres mode: DATABASE_URL, or DATABASE_DIRECT_URL if only that is set. */
	const char *publish_url;
	const char *direct_url; /* NULL: local mode */
	bool local;             /* local mode is asked for */
	const char *socket_path;
	const char *ops_path;     /* NULL: there is no ops socket */
	bool ops_by_default;      /* its path is the default */
	const char *metrics_path; /* NULL: there is no metrics socket */
	unsigned socket_mode;
	gid_t socket_group; /* -1: the daemon's own */
	struct channel channels[CHANNELS_MAX];
	unsigned n_channels;        /* with those that are gone */
	size_t backlog_size;        /* bytes, a power of two */
	double checkpoint_interval; /* seconds */
	bool reconcile;
	bool logical_message;
	double recovery_rate;    /* rows a second; 0: unlimited */
	double recovery_timeout; /* seconds without a row */
	size_t recovery_size;    /* bytes of recovered changes that wait for workers */
	struct access access;
	enum diag_level log_level;    /* an operator may have changed the level in force */
	double start_timeout;         /* seconds; 0: no limit; -1: relay_start_seconds() */
	double drain;                 /* seconds */
	const char *environment_file; /* NULL: there is none */
	const char *check_path;       /* NULL: no relay's health is asked for */
	bool checks;                  /* the settings are tried, and nothing is served */

	/* Limits: what a peer can make grow. */
	unsigned workers_max, workers_per_uid_max;
	unsigned subscriptions_max; /* by pubkey, of one worker */
	unsigned subscriptions_per_uid_max, subscriptions_total_max;
	size_t worker_queue_size; /* bytes that wait for one worker, not counting the backlog */
	/* The same for one user's workers and for all, together with their requests that
	 * wait. */
	size_t worker_queues_per_uid_size, worker_queues_total_size;
	unsigned worker_publishes_max;  /* requests of one worker that wait for PostgreSQL */
	unsigned publishes_per_uid_max; /* of one user's */
	unsigned publish_queue_max;     /* of all */
	size_t publish_queue_size;      /* bytes, of all */
};

/* Fill *config, whose strings live as long as the process, and set the log level. 0; a negative
 * errno after one ERROR line that says what is wrong, -ENOENT if the environment file is missing;
 * positive when it has answered --help or --version, or config->check_path is set. */
int config_load(struct config *config, int argc, char **argv);

/* Read the environment file again, into *fresh. Its channels have the numbers that they have in
 * *config; new ones follow. 0: config_take() or config_drop() must follow. A negative errno after
 * an ERROR line; then nothing has changed. */
int config_reread(const struct config *config, struct config *fresh);
/* *fresh is in force. Returns how many settings changed. */
unsigned config_take(struct config *config, struct config *fresh);
void config_drop(struct config *fresh);

/* Raise the limit on open files as far as it goes. A worker takes one descriptor, and the rest
 * of the relay n_others. If that is more than the limit, fewer workers are let in, in all and
 * of one user. */
void config_fit_descriptors(struct config *config, unsigned n_others);

/* At start, it waits for a server that is away. */
static inline bool config_is_patient(const struct config *config)
{
	return config->start_timeout >= 0;
}

/* The setting that a URL came from, for messages: "DATABASE_URL" or "DATABASE_DIRECT_URL". */
const char *config_url_name(const struct config *config, const char *url);
