#include "base/path_watch.h"

#include "base/clock.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

/* One removal is several events; they are looked at together. */
#define SETTLE_SECONDS 0.1
#define AGAIN_SECONDS 1.
/* Between two looks without inotify. */
#define LOOK_SECONDS 2.

/* A file whose last name is removed while it is open gets IN_ATTRIB: its count of links changed.
 * Of a directory, only what happens to itself: others may make files there all the time. */
#define FILE_EVENTS (IN_ATTRIB | IN_MOVE_SELF | IN_DELETE_SELF)
#define DIRECTORY_EVENTS (IN_MOVE_SELF | IN_DELETE_SELF | IN_ONLYDIR)

static void on_check(struct ev_loop *loop, struct ev_timer *timer, int events)
{
	struct path_watch *w = timer->data;

	(void)events;
	w->failed = w->fd < 0;
	if (!w->changed(w->context))
		timer_arm(loop, &w->check, AGAIN_SECONDS);
	else if (w->failed)
		timer_arm(loop, &w->check, LOOK_SECONDS);
}

static void on_event(struct ev_loop *loop, struct ev_io *watcher, int events)
{
	struct path_watch *w = watcher->data;
	char buf[4096] __attribute__((aligned(__alignof__(struct inotify_event))));

	if (events & EV_ERROR) {
		ev_io_stop(loop, watcher);
		close(w->fd);
		w->fd = -1;
	}
	while (w->fd >= 0 && read(w->fd, buf, sizeof buf) > 0)
		continue;
	if (!ev_is_active(&w->check))
		timer_arm(loop, &w->check, SETTLE_SECONDS);
}

void path_watch_open(
	struct path_watch *w, struct ev_loop *loop, bool (*changed)(void *context), void *context)
{
	*w = (struct path_watch){.loop = loop, .changed = changed, .context = context};
	w->fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	w->failed = w->fd < 0;
	timer_init(&w->check, on_check, w);
	ev_io_init(&w->reader, on_event, w->fd, EV_READ);
	w->reader.data = w;
	if (w->fd >= 0)
		ev_io_start(loop, &w->reader);
	else
		timer_arm(loop, &w->check, LOOK_SECONDS);
}

void path_watch_add(struct path_watch *w, const char *path)
{
	char directory[256];
	const char *slash = strrchr(path, '/');

	if (w->fd < 0)
		return;
	if (slash == path)
		slash++;
	snprintf(directory, sizeof directory, "%.*s", slash ? (int)(slash - path) : 1, slash ? path : ".");
	/* What is missing, changed() has seen. */
	if ((inotify_add_watch(w->fd, path, FILE_EVENTS | IN_DONT_FOLLOW) < 0 && errno != ENOENT) ||
		(inotify_add_watch(w->fd, directory, DIRECTORY_EVENTS) < 0 && errno != ENOENT))
		w->failed = true;
	if (w->failed && !ev_is_active(&w->check))
		timer_arm(w->loop, &w->check, LOOK_SECONDS);
}

void path_watch_close(struct path_watch *w)
{
	if (!w->loop)
		return;
	ev_io_stop(w->loop, &w->reader);
	ev_timer_stop(w->loop, &w->check);
	if (w->fd >= 0)
		close(w->fd);
	*w = (struct path_watch){0};
}
