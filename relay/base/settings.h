/* The settings, one row of a table each: the environment variable, the flag, the kind, the
 * range, the default and the help. A row fills one field of struct config. What the values mean
 * together is config.c's, which calls this; the ops command "config" shows them. */
#pragma once

#include <stdbool.h>

struct config;

/* Read the environment, PGHERALD_ENVIRONMENT_FILE, which takes precedence over it, and the flags,
 * which take precedence over both, and fill the fields of *config that have a row. The strings
 * live as long as the process. Wipes passwords in flags from argv. Before there are threads: it
 * sets what the file has in the environment. 0; a negative errno after one ERROR line that says
 * what is wrong, -ENOENT: there is no such file; positive when it has answered --help or --version, or
 * config->check_path is set. */
int settings_load(struct config *config, int argc, char **argv);

/* Read the file again, into *config, which is all zero. Its strings are valid until settings_take()
 * or settings_drop(), one of which must follow if this returns 0. A negative errno after an ERROR
 * line. */
int settings_reread(struct config *config);
/* What was read again is in force. Copies the values of all settings that can change without a
 * restart, except channels and rules; logs those that cannot and would. Returns how many
 * changed. */
unsigned settings_take(struct config *config, const struct config *from);
void settings_drop(void);

/* Neither the environment nor a flag gives the setting with this name, which must exist. */
bool settings_is_default(const char *name);

/* systemd gave something else in its place: operators are shown this value as systemd's. A WARNING
 * says so if the setting was given, and is not the same. name: of a setting of a socket. */
void settings_by_systemd(const char *name, const char *value);

/* A setting as an operator may see it. */
struct setting_shown {
	const char *name, *flag, *help;
	const char *origin; /* "default", "environment", "file", "flag" or "systemd" */
	char value[1024];   /* of a URL, what may be shown */
};
unsigned settings_n(void);
/* The first setting with a value that the text names. Returns an example of a value, or NULL: it names
 * none. */
const char *settings_origin(const char *text, struct setting_shown *out);
/* i: below settings_n(). */
void settings_show(unsigned i, struct setting_shown *out);
