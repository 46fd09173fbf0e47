/* One listening Unix socket, on a path of its own or inherited: lets peers in, and goes on when the process
 * has no room for more. What is said on a connection is whose listener it is. listeners opens one each for
 * workers, operators and metrics. */
#pragma once

#include <ev.h>
#include <stdbool.h>
#include <sys/un.h>

struct listener {
	struct ev_loop *loop;
	char path[sizeof((struct sockaddr_un *)0)->sun_path + 1];
	bool inherited; /* the path is systemd's: it outlives us */
	int lock_fd, fd;
	struct ev_io acceptor;
	struct ev_timer pause; /* nobody is let in until it ends */
	/* Takes the descriptor over. */
	void (*accepted)(void *context, int fd);
	void *context;
};

/* Take the path: it stays ours until listener_close(), and nobody is let in yet. 0; -EADDRINUSE: another
 * relay has it; another negative errno. */
int listener_claim(struct listener *listener, const char *path);
/* Take over a socket that listens already. */
void listener_inherit(struct listener *listener, int fd);
static inline bool listener_is_claimed(const struct listener *listener)
{
	return listener->lock_fd >= 0 || listener->inherited;
}
/* Let them in. 0 or negative errno. */
int listener_open(struct listener *listener, struct ev_loop *loop, unsigned mode,
	void (*accepted)(void *context, int fd), void *context);
/* Let nobody in any more, and remove the path that is ours. Also for a listener that was only claimed, or not
 * even that. */
void listener_close(struct listener *listener);
