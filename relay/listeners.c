#include "listeners.h"

#include "base/clock.h"
#include "base/diag.h"
#include "base/settings.h"
#include "base/systemd.h"
#include "instance.h"

#include <errno.h>
#include <grp.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* FileDescriptorName= of the socket units */
static const char *const names[LISTENERS_N] = {
	[LISTENER_METRICS] = "metrics",
	[LISTENER_OPS] = "ops",
	[LISTENER_WORKERS] = "relay",
};

static const char *path_of(const struct config *config, enum listener_name name)
{
	switch (name) {
	case LISTENER_METRICS:
		return config->metrics_path;
	case LISTENER_OPS:
		return config->ops_path;
	default:
		return config->socket_path;
	}
}

/* The ops socket at its default path: on a developer's machine there is no /run/pgherald. */
static bool may_be_missing(const struct config *config, enum listener_name name)
{
	return name == LISTENER_OPS && config->ops_by_default;
}

/* Go on without this listener if it may be missing. 0, or else result. */
static int without(
	struct listener *listener, const struct config *config, enum listener_name name, int result)
{
	if (!may_be_missing(config, name))
		return result;
	diag(DIAG_WARNING, "there is no ops socket, because %s cannot be opened: %s; set PGHERALD_OPS_SOCKET",
		config->ops_path, strerror(-result));
	listener_close(listener);
	return 0;
}

/* Makes what is missing of /run/pgherald and of the directories in it, as systemd does. 0 or a
 * negative errno. If the daemon's user may not, listener_claim() says so. */
static int make_directory(const char *path)
{
	char directory[INSTANCE_PATH_SIZE];
	const size_t base = strlen(INSTANCE_DIRECTORY);

	if (strncmp(path, INSTANCE_DIRECTORY "/", base + 1) != 0 || strlen(path) >= sizeof directory)
		return 0;
	strcpy(directory, path);
	for (char *slash = directory + base; slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		/* The umask may hide it from workers. One that exists belongs to somebody. */
		if (mkdir(directory, 0755) == 0 && chmod(directory, 0755) < 0)
			return -errno;
		*slash = '/';
	}
	return 0;
}

static const char *const variables[LISTENERS_N] = {
	[LISTENER_METRICS] = "PGHERALD_METRICS_SOCKET",
	[LISTENER_OPS] = "PGHERALD_OPS_SOCKET",
	[LISTENER_WORKERS] = "PGHERALD_SOCKET",
};

/* The path, mode and group of the workers' socket are its unit's. So are the mode of the other two,
 * which has no setting of its own. */
static void show_inherited(const struct listener *listener, enum listener_name name)
{
	struct stat file;
	char text[24];

	settings_by_systemd(variables[name], listener->path);
	if (name != LISTENER_WORKERS || stat(listener->path, &file) < 0)
		return;
	snprintf(text, sizeof text, "0%03o", (unsigned)file.st_mode & 0777);
	settings_by_systemd("PGHERALD_SOCKET_MODE", text);
	const struct group *group = getgrgid(file.st_gid);
	snprintf(text, sizeof text, "%u", (unsigned)file.st_gid);
	settings_by_systemd("PGHERALD_SOCKET_GROUP", group ? group->gr_name : text);
}

/* What to do about a path that cannot be claimed: "; " and the advice, or nothing. */
static void advise(char *buf, size_t size, const struct config *config, enum listener_name name, int error)
{
	const char *path = path_of(config, name), *slash = strrchr(path, '/');
	const char *runtime = getenv("XDG_RUNTIME_DIR");
	int len = slash ? (int)(slash - path) : 0;

	*buf = '\0';
	if (len == 0 || (error != -ENOENT && error != -EACCES && error != -EPERM && error != -EROFS))
		return;
	snprintf(buf, size,
		"; as root, make the directory: install -d -o %u %.*s; or choose another path, such as "
		"%s=%s/pgherald-%s.sock",
		(unsigned)geteuid(), len, path, variables[name], runtime && *runtime ? runtime : "/tmp",
		names[name]);
}

static void refuse(const struct config *config, enum listener_name name, int error)
{
	char advice[600];

	advise(advice, sizeof advice, config, name, error);
	diag(DIAG_ERROR, "start refused: cannot claim %s: %s%s", path_of(config, name), strerror(-error),
		advice);
}

static int claim(struct listener *listener, const struct config *config, enum listener_name name)
{
	const char *path = path_of(config, name);
	int fd = systemd_socket(names[name], path);

	if (fd >= 0) {
		listener_inherit(listener, fd);
		show_inherited(listener, name);
		return 0;
	}
	if (fd != -ENOENT) {
		diag(DIAG_ERROR,
			"start refused: the socket that systemd calls \"%s\" cannot be used: %s; it must be "
			"ListenStream= on a path",
			names[name], strerror(-fd));
		return fd;
	}
	if (!path)
		return 0;
	/* An ops socket at its default path was not asked for. */
	int r = may_be_missing(config, name) ? 0 : make_directory(path);
	if (r == 0)
		r = listener_claim(listener, path);
	if (r < 0)
		r = without(listener, config, name, r);
	if (r == -EADDRINUSE)
		diag(DIAG_ERROR, "start refused: another relay serves %s", path);
	else if (r < 0)
		refuse(config, name, r);
	return r;
}

int listeners_claim(struct listeners *l, const struct config *config)
{
	int r = 0;

	for (enum listener_name name = 0; name < LISTENERS_N; name++)
		l->all[name] = (struct listener){.fd = -1, .lock_fd = -1};
	/* Workers first: whether another relay is there matters most. */
	for (enum listener_name name = LISTENERS_N; r == 0 && name-- > 0;)
		r = claim(&l->all[name], config, name);
	if (r == 0 && systemd_unclaimed()) {
		diag(DIAG_ERROR,
			"start refused: systemd hands over a socket called \"%s\"; FileDescriptorName= must "
			"be relay, ops or metrics",
			systemd_unclaimed());
		r = -EINVAL;
	}
	return r;
}

/* Between two looks at the paths: at least so long, and at most. */
#define LOOK_SECONDS_MIN 1.
#define LOOK_SECONDS_MAX 5.

static void look(struct listeners *l)
{
	l->looked = ev_now(l->loop);
	l->good = true;
	for (enum listener_name name = 0; name < LISTENERS_N; name++)
		l->good = listener_check(&l->all[name]) && l->good;
	if (l->wakes || !l->good)
		timer_arm(l->loop, &l->look, l->good ? LOOK_SECONDS_MAX : LOOK_SECONDS_MIN);
}

static void on_look(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	(void)loop;
	(void)events;
	look(timer->data);
}

static void on_iteration(struct ev_loop *loop, struct ev_prepare *watcher, int events)
{
	struct listeners *l = watcher->data;

	(void)events;
	/* ev_now() follows the wall clock, which may jump; then it looks once too often. */
	if (fabs(ev_now(loop) - l->looked) >= LOOK_SECONDS_MIN)
		look(l);
}

/* An idle relay that hears PostgreSQL wakes for its probes often enough. */
static bool must_wake(const struct config *config)
{
	return config->mode == MODE_LOCAL || config->checkpoint_interval > LOOK_SECONDS_MAX;
}

static void keep_paths(struct listeners *l, struct ev_loop *loop, const struct config *config)
{
	l->loop = loop;
	l->wakes = must_wake(config);
	timer_init(&l->look, on_look, l);
	ev_prepare_init(&l->iteration, on_iteration);
	l->iteration.data = l;
	ev_prepare_start(loop, &l->iteration);
	look(l);
}

/* Of the operators' sockets, the group stays the daemon's own. */
static struct listener_rights rights_of(const struct config *config, enum listener_name name)
{
	return (struct listener_rights){
		config->socket_mode, name == LISTENER_WORKERS ? config->socket_group : (gid_t)-1};
}

int listeners_open(struct listeners *l, struct ev_loop *loop, const struct config *config,
	const struct listeners_sink sinks[LISTENERS_N])
{
	for (enum listener_name name = 0; name < LISTENERS_N; name++) {
		struct listener *listener = &l->all[name];
		if (!listener_is_claimed(listener))
			continue;
		const struct listener_rights rights = rights_of(config, name);
		int r = listener_open(listener, loop, &rights, sinks[name].accepted, sinks[name].context);
		if (r < 0)
			r = without(listener, config, name, r);
		if (r < 0) {
			diag(DIAG_ERROR, "start refused: cannot listen on %s: %s", listener->path,
				strerror(-r));
			return r;
		}
	}
	keep_paths(l, loop, config);
	return 0;
}

void listeners_close(struct listeners *l)
{
	if (l->loop) {
		ev_prepare_stop(l->loop, &l->iteration);
		ev_timer_stop(l->loop, &l->look);
	}
	for (enum listener_name name = 0; name < LISTENERS_N; name++)
		listener_close(&l->all[name]);
}
