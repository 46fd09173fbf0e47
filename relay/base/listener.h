/* One listening Unix socket, on a path of its own or inherited: lets peers in, and goes on when the process
 * has no room for more. What is said on a connection is whose gate it is. gates opens one each for workers,
 * operators and metrics. */
#pragma once

#include <ev.h>
#include <stdbool.h>
#include <sys/un.h>

struct gate {
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

/* Take the path: it stays ours until gate_close(), and nobody is let in yet. 0; -EADDRINUSE: another relay
 * has it; another negative errno. */
int gate_claim(struct gate *gate, const char *path);
/* Take over a socket that listens already. */
void gate_inherit(struct gate *gate, int fd);
static inline bool gate_is_claimed(const struct gate *gate)
{
	return gate->lock_fd >= 0 || gate->inherited;
}
/* Let them in. 0 or negative errno. */
int gate_open(struct gate *gate, struct ev_loop *loop, unsigned mode, void (*accepted)(void *context, int fd),
	void *context);
/* Let nobody in any more, and remove the path that is ours. Also for a gate that was only claimed, or not
 * even that. */
void gate_close(struct gate *gate);
