/* A file of environment variables, in the form of systemd's EnvironmentFile= (systemd.exec(5)):
 * NAME=VALUE lines, comments that begin with # or ;, quotes, and a backslash before a newline to
 * go on. settings.c reads PGHERALD_ENVIRONMENT_FILE by it. */
#pragma once

#include <stddef.h>

/* Bytes: bounds the file; a list of 63 channels and rules for each takes 16 KiB. */
#define ENVIRONMENT_FILE_MAX ((size_t)256 << 10)

struct environment_file {
	char *text;
	size_t len;  /* of text */
	size_t next; /* where the next variable is searched */
	char *name, *value;
};

/* 0; a negative errno: it cannot be read. -EFBIG: it is larger than the bound. */
int environment_file_read(struct environment_file *file, const char *path);
/* Takes the next variable: name and value are valid until the next call. 1; 0: there is none. A
 * line that is not NAME=VALUE is skipped, as systemd does. */
int environment_file_next(struct environment_file *file);
/* Also for one that could not be read. Wipes what it read, which may contain secrets. */
void environment_file_free(struct environment_file *file);
