#include "instance.h"

#include <dirent.h>
#include <errno.h>
#include <grp.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

_Static_assert(
	INSTANCE_PATH_SIZE == sizeof((struct sockaddr_un *)NULL)->sun_path, "a path fits into an address");

struct found {
	unsigned n;
	char path[INSTANCE_PATH_SIZE];        /* of the first */
	char options[INSTANCE_TEXT_SIZE / 2]; /* those that choose each */
};

int instance_path(char path[INSTANCE_PATH_SIZE], const char *name, const char *file)
{
	if (!*name || *name == '.' || strchr(name, '/'))
		return -EINVAL;
	int len = snprintf(path, INSTANCE_PATH_SIZE, INSTANCE_DIRECTORY "/%s/%s", name, file);
	return len < INSTANCE_PATH_SIZE ? 0 : -ENAMETOOLONG;
}

int instance_connect(const char *path, unsigned send_seconds, unsigned receive_seconds)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	const struct timeval send_limit = {.tv_sec = send_seconds},
			     receive_limit = {.tv_sec = receive_seconds};

	if (strlen(path) >= sizeof address.sun_path)
		return -ENAMETOOLONG;
	strcpy(address.sun_path, path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &send_limit, sizeof send_limit);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &receive_limit, sizeof receive_limit);
	if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
		return fd;
	int r = -errno;
	close(fd);
	return r;
}

int instance_probe(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	if (strlen(path) >= sizeof address.sun_path)
		return -ENAMETOOLONG;
	strcpy(address.sun_path, path);
	/* A full queue must not block: its relay is there. */
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	int r = connect(fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EAGAIN ? -errno : 0;
	close(fd);
	return r;
}

/* name: of the instance; NULL: the relay that was started by hand. */
static void add(struct found *found, const char *name, const char *path)
{
	size_t len = strlen(found->options);

	snprintf(found->options + len, sizeof found->options - len, "%s%s %s", len ? " or " : "",
		name ? "-i" : "-s", name ? name : path);
	if (found->n++ == 0)
		snprintf(found->path, sizeof found->path, "%s", path);
}

static void look_at(struct found *found, const char *name, const char *file, bool listening)
{
	char path[INSTANCE_PATH_SIZE] = "";
	struct stat st;

	if (!name)
		snprintf(path, sizeof path, INSTANCE_DIRECTORY "/%s", file);
	else if (instance_path(path, name, file) < 0)
		return;
	if (stat(path, &st) < 0 || !S_ISSOCK(st.st_mode))
		return;
	if (!listening || instance_probe(path) != -ECONNREFUSED)
		add(found, name, path);
}

/* listening: only those where a process may listen. 0 or a negative errno. */
static int look(struct found *found, const char *file, bool listening)
{
	DIR *directory = opendir(INSTANCE_DIRECTORY);
	const struct dirent *entry;

	*found = (struct found){0};
	if (!directory)
		return errno == ENOENT ? 0 : -errno;
	look_at(found, NULL, file, listening);
	while ((entry = readdir(directory)))
		look_at(found, entry->d_name, file, listening);
	closedir(directory);
	return 0;
}

int instance_find(const char *file, char path[INSTANCE_PATH_SIZE], char why[INSTANCE_TEXT_SIZE])
{
	struct found found;
	int r = look(&found, file, false);

	if (r == 0 && found.n > 1)
		r = look(&found, file, true);
	if (r < 0) {
		snprintf(why, INSTANCE_TEXT_SIZE,
			INSTANCE_DIRECTORY " cannot be read: %s; name the socket with -s PATH", strerror(-r));
		return r;
	}
	if (found.n == 0) {
		snprintf(why, INSTANCE_TEXT_SIZE,
			"there is no relay on this host: tried " INSTANCE_DIRECTORY
			"/%s and " INSTANCE_DIRECTORY
			"/*/%s; start pgherald, or name its socket with -s PATH",
			file, file);
		return -ENOENT;
	}
	if (found.n > 1) {
		snprintf(why, INSTANCE_TEXT_SIZE, "there are %u relays on this host; choose one: %s", found.n,
			found.options);
		return -EMLINK;
	}
	snprintf(path, INSTANCE_PATH_SIZE, "%s", found.path);
	return 0;
}

/* Of the instance whose directory the socket is in, or NULL. */
static const char *unit_of(const char *path, char name[INSTANCE_PATH_SIZE])
{
	char file[INSTANCE_PATH_SIZE];

	return sscanf(path, INSTANCE_DIRECTORY "/%107[^/]/%107[^/]", name, file) == 2 ? name : NULL;
}

static void advise_group(char advice[INSTANCE_TEXT_SIZE], const char *path)
{
	struct stat st;
	const struct group *group = stat(path, &st) == 0 ? getgrgid(st.st_gid) : NULL;

	if (group && st.st_mode & S_IWGRP)
		snprintf(advice, INSTANCE_TEXT_SIZE, "; run this as root, or join the group %s",
			group->gr_name);
	else
		snprintf(
			advice, INSTANCE_TEXT_SIZE, "; run this as root, or as the user that runs the relay");
}

void instance_advise(char advice[INSTANCE_TEXT_SIZE], const char *path, int error)
{
	char name[INSTANCE_PATH_SIZE];

	*advice = '\0';
	if (error == -EACCES || error == -EPERM)
		advise_group(advice, path);
	else if ((error == -ENOENT || error == -ECONNREFUSED) && unit_of(path, name))
		snprintf(advice, INSTANCE_TEXT_SIZE, "; start the relay: systemctl start pgherald@%s", name);
	else if (error == -ENOENT)
		snprintf(advice, INSTANCE_TEXT_SIZE,
			"; start the relay, or name its socket with -s PATH or its instance with -i NAME");
	else if (error == -ECONNREFUSED)
		snprintf(advice, INSTANCE_TEXT_SIZE,
			"; the relay that made this socket has ended: start it again");
}
