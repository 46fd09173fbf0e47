/* The settings, one row of a table each: the environment variable, the flag, the kind, the
 * range, the default and the help. A row fills one field of struct config. What the values mean
 * together is config.c's, which calls this; the ops command "config" shows them. */
#pragma once

#include <stdbool.h>

struct config;

/* Read the environment, then the flags, which take precedence, and fill the fields of *config
 * that have a row. The strings live as long as the process. Wipes passwords in flags from argv.
 * 0; -EINVAL after one ERROR line that says what is wrong; positive when it has answered --help
 * or --version. */
int settings_load(struct config *config, int argc, char **argv);

/* Neither the environment nor a flag gives the setting with this name, which must exist. */
bool settings_is_default(const char *name);

/* A setting as an operator may see it. */
struct setting_shown {
	const char *name, *flag, *help;
	const char *origin; /* "default", "environment" or "flag" */
	char value[1024];   /* of a URL, what may be shown */
};
unsigned settings_n(void);
/* i: below settings_n(). */
void settings_show(unsigned i, struct setting_shown *out);
