/* The password file. libpq ignores one that its group may read; but that is how systemd (255 and
 * later) provides credentials, and Kubernetes provides secrets. Such a file is copied into memory
 * for the time of an attempt to connect. session.c calls it, in a thread. */
#pragma once

/* Bytes of a path that names the copy. */
#define PASSFILE_PATH_MAX 32

/* path: what the URL says, or NULL for PGPASSFILE. Returns the descriptor of a copy, which the
 * caller closes, and writes its path to copy; -1: libpq reads the file itself, or says what is
 * wrong with it. */
int passfile_copy(const char *path, char copy[PASSFILE_PATH_MAX]);

/* Bytes of the name that people know the file by. */
#define PASSFILE_NAME_MAX 128
/* read: which file libpq has read, maybe the copy. Under systemd the name is that of the file which
 * systemd has read. */
void passfile_name(const char *read, char name[PASSFILE_NAME_MAX]);
