/* Who holds an flock on "PATH.lock" owns PATH: so a socket that a killed relay left can be removed without a
 * race against a relay that lives. The lock file itself stays: to remove it would let two hold a lock on one
 * name. */
#include "base/listener.h"

#include "base/clock.h"
#include "base/diag.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* At a time, and a pause if there are more: each takes some 20 microseconds, and what is then done for it
 * again. The rest wait in the kernel's queue, and some 10,000 are let in a second. */
#define ACCEPT_BATCH 16
#define ACCEPT_REST_SECONDS 0.001
/* After an accept that failed for want of descriptors or memory. */
#define ACCEPT_PAUSE_SECONDS 0.1

static struct diag_limit accept_limit;

int gate_claim(struct gate *g, const char *path)
{
	char lock_path[sizeof g->path + 8];

	*g = (struct gate){.fd = -1};
	snprintf(g->path, sizeof g->path, "%s", path);
	snprintf(lock_path, sizeof lock_path, "%s.lock", path);
	g->lock_fd = open(lock_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (g->lock_fd < 0)
		return -errno;
	if (flock(g->lock_fd, LOCK_EX | LOCK_NB) == 0)
		return 0;
	int r = errno == EWOULDBLOCK ? -EADDRINUSE : -errno;
	close(g->lock_fd);
	g->lock_fd = -1;
	return r;
}

static void pause_accepting(struct gate *g, double seconds)
{
	ev_io_stop(g->loop, &g->acceptor);
	timer_arm(g->loop, &g->pause, seconds);
}

/* The connection stays in the queue, so without a pause this would spin. */
static void cannot_accept(struct gate *g, const char *why)
{
	diag_limited(
		&accept_limit, DIAG_WARNING, "a connection cannot be accepted now: %s path=%s", why, g->path);
	pause_accepting(g, ACCEPT_PAUSE_SECONDS);
}

static void on_acceptable(struct ev_loop *loop, struct ev_io *watcher, int events)
{
	struct gate *g = watcher->data;

	(void)loop;
	if (events & EV_ERROR) {
		cannot_accept(g, "the kernel watches no more sockets for the relay");
		return;
	}
	for (int i = 0; i < ACCEPT_BATCH; i++) {
		int fd = accept4(g->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0) {
			g->accepted(g->context, fd);
			continue;
		}
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
			cannot_accept(g, strerror(errno));
			return;
		}
		if (errno != EINTR && errno != ECONNABORTED)
			return;
	}
	pause_accepting(g, ACCEPT_REST_SECONDS);
}

static void on_pause_over(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct gate *g = timer->data;

	(void)events;
	ev_io_start(loop, &g->acceptor);
}

static int remove_stale(const char *path)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode))
		return -ENOTSOCK;
	return unlink(path) < 0 ? -errno : 0;
}

void gate_inherit(struct gate *g, int fd)
{
	struct sockaddr_un address = {0};
	socklen_t len = sizeof address;

	*g = (struct gate){.inherited = true, .fd = fd, .lock_fd = -1};
	if (getsockname(fd, (struct sockaddr *)&address, &len) == 0)
		snprintf(g->path, sizeof g->path, "%.*s", (int)sizeof address.sun_path, address.sun_path);
}

static int bind_and_listen(struct gate *g, unsigned mode)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int r = remove_stale(g->path);

	if (r < 0)
		return r;
	memcpy(address.sun_path, g->path, sizeof address.sun_path);
	g->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (g->fd < 0)
		return -errno;
	/* Nobody can connect before listen(), so the mode is in force from the first connection on. */
	if (bind(g->fd, (struct sockaddr *)&address, sizeof address) < 0 ||
		chmod(g->path, (mode_t)mode) < 0 || listen(g->fd, SOMAXCONN) < 0) {
		r = -errno;
		/* It is ours, and nobody listens there. */
		unlink(g->path);
		close(g->fd);
		g->fd = -1;
	}
	return r;
}

int gate_open(struct gate *g, struct ev_loop *loop, unsigned mode, void (*accepted)(void *context, int fd),
	void *context)
{
	int r = g->inherited ? 0 : bind_and_listen(g, mode);

	if (r < 0)
		return r;
	g->loop = loop;
	g->accepted = accepted;
	g->context = context;
	ev_io_init(&g->acceptor, on_acceptable, g->fd, EV_READ);
	timer_init(&g->pause, on_pause_over, g);
	g->acceptor.data = g;
	ev_io_start(loop, &g->acceptor);
	return 0;
}

void gate_close(struct gate *g)
{
	if (g->fd >= 0) {
		if (g->loop) {
			ev_io_stop(g->loop, &g->acceptor);
			ev_timer_stop(g->loop, &g->pause);
		}
		/* Whoever connects to a path that is systemd's waits for the next relay. */
		if (!g->inherited)
			unlink(g->path);
		close(g->fd);
		g->fd = -1;
	}
	if (g->lock_fd >= 0)
		close(g->lock_fd);
	g->lock_fd = -1;
	g->inherited = false;
}
