#include "listeners.h"

#include "base/diag.h"
#include "base/systemd.h"

#include <errno.h>
#include <string.h>

/* FileDescriptorName= of the socket units */
static const char *const names[GATES_N] = {
	[GATE_METRICS] = "metrics",
	[GATE_OPS] = "ops",
	[GATE_WORKERS] = "relay",
};

static const char *path_of(const struct config *config, enum gate_name name)
{
	switch (name) {
	case GATE_METRICS:
		return config->metrics_path;
	case GATE_OPS:
		return config->ops_path;
	default:
		return config->socket_path;
	}
}

/* The ops socket that nobody asked for may be missing: on a developer's machine there is no /run/pgherald. */
static bool may_be_missing(const struct config *config, enum gate_name name)
{
	return name == GATE_OPS && config->ops_by_default;
}

static int without(struct gate *gate, const struct config *config, enum gate_name name, int result)
{
	if (!may_be_missing(config, name))
		return result;
	diag(DIAG_WARNING, "there is no ops socket, since %s cannot be had: %s; set PGHERALD_OPS_SOCKET",
		config->ops_path, strerror(-result));
	gate_close(gate);
	return 0;
}

static int claim(struct gate *gate, const struct config *config, enum gate_name name)
{
	const char *path = path_of(config, name);
	int fd = systemd_socket(names[name], path);

	if (fd >= 0) {
		gate_inherit(gate, fd);
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
	int r = gate_claim(gate, path);
	if (r < 0)
		r = without(gate, config, name, r);
	if (r == -EADDRINUSE)
		diag(DIAG_ERROR, "start refused: another relay serves %s", path);
	else if (r < 0)
		diag(DIAG_ERROR, "start refused: cannot claim %s: %s", path, strerror(-r));
	return r;
}

int gates_claim(struct gates *g, const struct config *config)
{
	int r = 0;

	for (enum gate_name name = 0; name < GATES_N; name++)
		g->gates[name] = (struct gate){.fd = -1, .lock_fd = -1};
	/* Workers first: whether another relay is there matters most. */
	for (enum gate_name name = GATES_N; r == 0 && name-- > 0;)
		r = claim(&g->gates[name], config, name);
	if (r == 0 && systemd_unclaimed()) {
		diag(DIAG_ERROR,
			"start refused: systemd hands over a socket called \"%s\"; FileDescriptorName= must "
			"be relay, ops or metrics",
			systemd_unclaimed());
		r = -EINVAL;
	}
	return r;
}

int gates_open(struct gates *g, struct ev_loop *loop, const struct config *config,
	const struct gate_taker takers[GATES_N])
{
	for (enum gate_name name = 0; name < GATES_N; name++) {
		struct gate *gate = &g->gates[name];
		if (!gate_is_claimed(gate))
			continue;
		int r = gate_open(
			gate, loop, config->socket_mode, takers[name].accepted, takers[name].context);
		if (r < 0)
			r = without(gate, config, name, r);
		if (r < 0) {
			diag(DIAG_ERROR, "start refused: cannot listen on %s: %s", gate->path, strerror(-r));
			return r;
		}
	}
	return 0;
}

void gates_close(struct gates *g)
{
	for (enum gate_name name = 0; name < GATES_N; name++)
		gate_close(&g->gates[name]);
}
