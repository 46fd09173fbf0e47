#include "base/passfile.h"

#include "base/systemd.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Where the path of a copy begins. */
#define COPY "/proc/self/fd/"

static bool is_credential(const char *path)
{
	const char *directory = getenv("CREDENTIALS_DIRECTORY");
	size_t len = directory ? strlen(directory) : 0;

	return len > 0 && strncmp(path, directory, len) == 0 && path[len] == '/';
}

/* Only its owner can have given it to the group: systemd, or root, who owns it. Others may not
 * read it. */
static bool is_for_group(const char *path, const struct stat *st)
{
	return S_ISREG(st->st_mode) && (st->st_mode & 0077) == 0040 &&
	       (st->st_uid == 0 || is_credential(path));
}

static bool copy_bytes(int from, int to)
{
	char buf[4096];
	ssize_t n;
	bool good = true;

	while ((n = read(from, buf, sizeof buf)) > 0 && good)
		good = write(to, buf, (size_t)n) == n;
	explicit_bzero(buf, sizeof buf);
	return good && n == 0;
}

int passfile_copy(const char *path, char copy[PASSFILE_PATH_MAX])
{
	struct stat st;

	if (!path)
		path = getenv("PGPASSFILE");
	int from = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	if (from < 0)
		return -1;
	int to = fstat(from, &st) == 0 && is_for_group(path, &st) ? memfd_create("pgpass", MFD_CLOEXEC) : -1;
	if (to >= 0 && (fchmod(to, 0600) < 0 || !copy_bytes(from, to))) {
		close(to);
		to = -1;
	}
	close(from);
	if (to >= 0)
		snprintf(copy, PASSFILE_PATH_MAX, COPY "%d", to);
	return to;
}

void passfile_name(const char *read, char name[PASSFILE_NAME_MAX])
{
	char instance[SYSTEMD_INSTANCE_SIZE];
	const char *path = getenv("PGPASSFILE");

	if (!path || (*read && strncmp(read, COPY, sizeof COPY - 1) != 0))
		path = read;
	if (is_credential(path) && systemd_instance(getenv("PGHERALD_ENVIRONMENT_FILE"), instance))
		snprintf(name, PASSFILE_NAME_MAX, "/etc/pgherald/%s.pgpass", instance);
	else
		snprintf(name, PASSFILE_NAME_MAX, "%s", *path ? path : "~/.pgpass");
}
