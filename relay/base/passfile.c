#include "base/passfile.h"

#include "base/diag.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static struct {
	char *path; /* of the file that was copied; NULL: none was */
	int fd;     /* of the copy */
} passfile;

static bool is_credential(const char *path)
{
	const char *directory = getenv("CREDENTIALS_DIRECTORY");
	size_t len = directory ? strlen(directory) : 0;

	return len > 0 && strncmp(path, directory, len) == 0 && path[len] == '/';
}

/* Only its owner can have given it to the group: systemd, or root, who owns it. */
static bool is_ours_by_group(const char *path, const struct stat *st)
{
	return S_ISREG(st->st_mode) && (st->st_mode & 0077) == 0040 &&
	       (st->st_uid == 0 || is_credential(path));
}

/* 0 or a negative errno. */
static int copy(int from, int to)
{
	char buf[4096];
	ssize_t n = 0;
	int r = ftruncate(to, 0) < 0 ? -errno : 0;

	for (off_t at = 0; r == 0 && (n = pread(from, buf, sizeof buf, at)) > 0; at += n)
		if (pwrite(to, buf, (size_t)n, at) != n)
			r = -EIO;
	if (r == 0 && n < 0)
		r = -errno;
	explicit_bzero(buf, sizeof buf);
	return r;
}

void passfile_refresh(void)
{
	if (!passfile.path)
		return;
	int from = open(passfile.path, O_RDONLY | O_CLOEXEC);
	int r = from < 0 ? -errno : copy(from, passfile.fd);
	if (from >= 0)
		close(from);
	if (r < 0)
		diag(DIAG_WARNING, "the password file cannot be read: %s path=\"%s\"", strerror(-r),
			passfile.path);
}

void passfile_open(void)
{
	const char *path = getenv("PGPASSFILE");
	struct stat st;
	char name[32];

	if (!path || stat(path, &st) < 0 || !is_ours_by_group(path, &st))
		return;
	passfile.fd = memfd_create("pgpass", MFD_CLOEXEC);
	/* Without the copy, libpq says what is wrong with the file. */
	if (passfile.fd < 0 || fchmod(passfile.fd, 0600) < 0 || !(passfile.path = strdup(path)))
		return;
	snprintf(name, sizeof name, "/proc/self/fd/%d", passfile.fd);
	setenv("PGPASSFILE", name, 1);
	passfile_refresh();
}
