/* The settings: environment first, a flag for each, every default stated once in config.c's table. A setting
 * that cannot work is refused here, before anything is opened. Called by main; everybody else reads struct
 * config. */
#pragma once

#include "base/access.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Topic 0 is what every worker gets, so 63 channels and it fill a worker's 64-bit mask. */
#define CHANNELS_MAX 63
/* NAMEDATALEN - 1 of PostgreSQL: it refuses a longer channel in pg_notify, and LISTEN would cut it off. */
#define CHANNEL_NAME_MAX 63
/* Some frames for a worker that is slow to read. */
#define BACKLOG_SIZE_MIN ((size_t)64 << 10)
/* What one worker that catches up, and some others, cannot do without. */
#define RECOVERY_SIZE_MIN ((size_t)256 << 10)
#define CANARY_CHANNEL "pgherald_canary"

enum channel_kind { CHANNEL_CHANGES, CHANNEL_TEXT };

struct channel {
	char name[CHANNEL_NAME_MAX + 1];
	enum channel_kind kind;
};

enum config_mode { MODE_LOCAL, MODE_POSTGRES };

struct config {
	enum config_mode mode;
	const char *publish_url; /* postgres mode: DATABASE_URL, or the direct one where only that is set */
	const char *direct_url;  /* postgres mode */
	bool pooler_url_alone;   /* DATABASE_URL is set and the direct one is not */
	const char *socket_path;
	const char *ops_path;     /* NULL: no ops socket */
	bool ops_by_default;      /* nobody asked for it by name */
	const char *metrics_path; /* NULL: no metrics socket */
	unsigned socket_mode;
	struct channel channels[CHANNELS_MAX];
	unsigned n_channels;
	size_t backlog_size;        /* bytes, a power of two */
	double checkpoint_interval; /* seconds */
	bool reconcile;
	double recovery_rate;    /* rows a second; 0: unlimited */
	double recovery_timeout; /* seconds without a row */
	size_t recovery_size;    /* bytes of recovered changes that wait for workers */
	struct access access;

	/* Limits: what a peer can make grow. */
	unsigned workers_max, workers_per_uid_max;
	unsigned subscriptions_max; /* by pubkey, of one worker */
	unsigned subscriptions_per_uid_max, subscriptions_total_max;
	size_t worker_queue_size; /* bytes that wait for one worker beside the backlog */
	/* The same, of one user's and of all, and bytes of theirs that wait to be done. */
	size_t worker_queues_per_uid_size, worker_queues_total_size;
	unsigned worker_publishes_max;  /* requests of one worker that wait for PostgreSQL */
	unsigned publishes_per_uid_max; /* of one user's */
	unsigned publish_queue_max;     /* of all */
	size_t publish_queue_size;      /* bytes, of all */
};

/* Fill *config, whose strings live as long as the process. Passwords in flags are wiped from argv.
 * 0; -EINVAL after one ERROR line that says what is wrong; positive when --help or --version was answered. */
int config_load(struct config *config, int argc, char **argv);

/* Raise the limit on open files as far as it goes. Each worker takes one, and so many are kept for the rest
 * of the relay; if that is more than there may be, fewer workers are let in, in all and of a user. */
void config_fit_descriptors(struct config *config, unsigned n_others);

/* A setting as an operator may see it. */
struct config_setting {
	const char *name, *flag, *origin, *help;
	char value[1024]; /* of a URL, what may be shown */
};
unsigned config_n_settings(void);
void config_setting(unsigned i, struct config_setting *out);

/* The setting that a URL came from, for messages: "DATABASE_URL" or "DATABASE_DIRECT_URL". */
const char *config_url_name(const struct config *config, const char *url);
