/* What systemd, as the service's manager, is told and gives: readiness, status, the watchdog; the sockets it
 * holds for us. All of it does nothing where systemd did not start us. main calls it; listeners.c asks for
 * their sockets.
 *
 * Written here and not taken from libsystemd: it is one datagram and three environment variables, both
 * documented as stable, and libsystemd would bring liblzma, libzstd, liblz4, libgcrypt and libcap into a
 * process that must start on any host. */
#pragma once

#include <ev.h>
#include <stdbool.h>

/* Read what systemd left in the environment, and take it out: children must not take it for theirs. */
void systemd_init(void);
/* The inherited socket that has this FileDescriptorName=, or else is bound to this path, which may be NULL.
 * Each is given once. -ENOENT: there is none. -EINVAL: it is no listening Unix stream socket. */
int systemd_socket(const char *name, const char *path);
/* The name of an inherited socket that nobody asked for; NULL when there is none. */
const char *systemd_unclaimed(void);

/* READY=1, STOPPING=1 and so on; see sd_notify(3). */
void systemd_notify(const char *state);
/* For "systemctl status"; sent when it differs from the last. */
void systemd_status(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Answer the watchdog from the loop, twice in its interval: a loop that hangs is silent, and systemd starts
 * us again. */
void systemd_watchdog_start(struct ev_loop *loop);
