/* Notices that a file's path was removed, renamed or replaced, by inotify(7): an idle relay does
 * not wake for it. Where inotify cannot be had, it looks every two seconds. listeners.c watches
 * the paths of its sockets and their locks. */
#pragma once

#include <ev.h>
#include <stdbool.h>

struct path_watch {
	struct ev_loop *loop;
	int fd; /* of inotify; -1: there is none */
	bool failed;
	struct ev_io reader;
	struct ev_timer check;
	bool (*changed)(void *context);
	void *context;
};

/* Something may have changed: changed() looks, and adds the paths again that it watches. It is
 * called every second until it returns true. loop and context must outlive the watch. */
void path_watch_open(
	struct path_watch *watch, struct ev_loop *loop, bool (*changed)(void *context), void *context);
/* Watches the file that has this path now, and its directory. */
void path_watch_add(struct path_watch *watch, const char *path);
/* Also for one that is all zero. */
void path_watch_close(struct path_watch *watch);
