#include "base/systemd.h"

#include "base/printable.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* sd_listen_fds(3) */
#define LISTEN_FDS_START 3
/* More than the relay has; a stranger among them is reported by its name. */
#define SOCKETS_MAX 8

static struct {
	struct sockaddr_un address; /* of NOTIFY_SOCKET */
	socklen_t address_len;
	int fd;          /* -1: there is no manager to tell */
	double watchdog; /* seconds; 0 for none */
	struct ev_timer watchdog_timer;
	char status[256];
	char names[SOCKETS_MAX][64];
	bool claimed[SOCKETS_MAX];
	int n_sockets;
} systemd = {.fd = -1};

static const char *take_env(const char *name, char *buf, size_t size)
{
	const char *value = getenv(name);

	snprintf(buf, size, "%s", value ? value : "");
	unsetenv(name);
	return *buf ? buf : NULL;
}

static bool is_for_us(const char *pid)
{
	return pid && strtol(pid, NULL, 10) == (long)getpid();
}

static void find_manager(void)
{
	char path[sizeof systemd.address.sun_path];

	if (!take_env("NOTIFY_SOCKET", path, sizeof path) || (path[0] != '/' && path[0] != '@'))
		return;
	systemd.address.sun_family = AF_UNIX;
	memcpy(systemd.address.sun_path, path, sizeof path);
	systemd.address_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
	/* Abstract: the name begins with NUL. */
	if (path[0] == '@')
		systemd.address.sun_path[0] = '\0';
	systemd.fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

static void find_watchdog(void)
{
	char usec[32], pid[32];

	/* Without WATCHDOG_PID it is meant for any process that reads it. */
	if (take_env("WATCHDOG_USEC", usec, sizeof usec) &&
		(!take_env("WATCHDOG_PID", pid, sizeof pid) || is_for_us(pid)))
		systemd.watchdog = strtod(usec, NULL) / 1e6;
}

static void find_sockets(void)
{
	char count[32], pid[32], names[SOCKETS_MAX * sizeof *systemd.names];
	char *next = names;
	bool ours = is_for_us(take_env("LISTEN_PID", pid, sizeof pid));

	take_env("LISTEN_FDNAMES", names, sizeof names);
	if (!take_env("LISTEN_FDS", count, sizeof count) || !ours)
		return;
	long n = strtol(count, NULL, 10);
	systemd.n_sockets = n < SOCKETS_MAX ? (int)n : SOCKETS_MAX;
	for (int i = 0; i < systemd.n_sockets; i++) {
		const char *name = strsep(&next, ":");
		snprintf(systemd.names[i], sizeof *systemd.names, "%s", name ? name : "");
		fcntl(LISTEN_FDS_START + i, F_SETFD, FD_CLOEXEC);
	}
}

/* As in pgherald@.service */
#define SETTINGS_BEFORE "/run/pgherald-settings/"
#define SETTINGS_AFTER "/settings"

bool systemd_instance(const char *path, char name[SYSTEMD_INSTANCE_SIZE])
{
	const size_t before = sizeof SETTINGS_BEFORE - 1;

	if (!path || strncmp(path, SETTINGS_BEFORE, before) != 0)
		return false;
	size_t len = strcspn(path + before, "/");
	if (len == 0 || len >= SYSTEMD_INSTANCE_SIZE || strcmp(path + before + len, SETTINGS_AFTER) != 0)
		return false;
	memcpy(name, path + before, len);
	name[len] = '\0';
	return true;
}

void systemd_init(void)
{
	find_manager();
	find_watchdog();
	find_sockets();
}

static bool is_bound_to(int fd, const char *path)
{
	struct sockaddr_un address = {0};
	socklen_t len = sizeof address - 1;

	return path && getsockname(fd, (struct sockaddr *)&address, &len) == 0 &&
	       strcmp(address.sun_path, path) == 0;
}

static int socket_option(int fd, int option)
{
	int value = -1;
	socklen_t len = sizeof value;

	return getsockopt(fd, SOL_SOCKET, option, &value, &len) == 0 ? value : -1;
}

static int claim(int i)
{
	int fd = LISTEN_FDS_START + i;

	systemd.claimed[i] = true;
	if (socket_option(fd, SO_DOMAIN) != AF_UNIX || socket_option(fd, SO_TYPE) != SOCK_STREAM ||
		socket_option(fd, SO_ACCEPTCONN) != 1)
		return -EINVAL;
	if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0)
		return -errno;
	return fd;
}

int systemd_socket(const char *name, const char *path)
{
	for (int i = 0; i < systemd.n_sockets; i++)
		if (!systemd.claimed[i] && strcmp(systemd.names[i], name) == 0)
			return claim(i);
	for (int i = 0; i < systemd.n_sockets; i++)
		if (!systemd.claimed[i] && is_bound_to(LISTEN_FDS_START + i, path))
			return claim(i);
	return -ENOENT;
}

const char *systemd_unclaimed(void)
{
	for (int i = 0; i < systemd.n_sockets; i++)
		if (!systemd.claimed[i])
			return systemd.names[i];
	return NULL;
}

void systemd_notify(const char *state)
{
	/* A failure is ignored: a manager that misses READY=1 or the watchdog acts by
	 * itself. */
	if (systemd.fd >= 0)
		(void)!sendto(systemd.fd, state, strlen(state), MSG_NOSIGNAL,
			(struct sockaddr *)&systemd.address, systemd.address_len);
}

void systemd_status(const char *format, ...)
{
	char raw[sizeof systemd.status], text[sizeof systemd.status];
	va_list args;

	va_start(args, format);
	vsnprintf(raw, sizeof raw, format, args);
	va_end(args);
	size_t n = (size_t)snprintf(text, sizeof text, "STATUS=");
	printable_copy(text + n, sizeof text - n, raw, strlen(raw));
	if (strcmp(text, systemd.status) == 0)
		return;
	snprintf(systemd.status, sizeof systemd.status, "%s", text);
	systemd_notify(text);
}

static void on_watchdog(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	(void)loop;
	(void)timer;
	(void)events;
	systemd_notify("WATCHDOG=1");
}

void systemd_watchdog_start(struct ev_loop *loop)
{
	if (systemd.fd < 0 || systemd.watchdog <= 0)
		return;
	ev_timer_init(&systemd.watchdog_timer, on_watchdog, 0., systemd.watchdog / 2);
	ev_timer_start(loop, &systemd.watchdog_timer);
}
