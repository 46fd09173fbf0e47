/* systemd as the service's manager: it is told of readiness, status and the watchdog, and hands
 * over its sockets. All of this does nothing unless systemd started the relay. main.c calls it;
 * listeners.c asks for the sockets.
 *
 * It does not use libsystemd, which would bring liblzma, libzstd, liblz4, libgcrypt and libcap
 * into a process that must start on any host. The interface is one datagram and a few
 * environment variables, documented as stable. */
#pragma once

#include <ev.h>
#include <stdbool.h>

/* Bytes of the NAME in pgherald@NAME, at most, with its NUL. */
#define SYSTEMD_INSTANCE_SIZE 64
/* Whether this is where the unit pgherald@NAME keeps its copy of /etc/pgherald/NAME.conf, and that NAME.
 * settings_path may be NULL. */
bool systemd_instance(const char *settings_path, char name[SYSTEMD_INSTANCE_SIZE]);

/* Read systemd's environment variables, and unset them: children must not believe that they are
 * meant. */
void systemd_init(void);
/* The inherited socket with this FileDescriptorName=, or else the one bound to this path, which
 * may be NULL. The caller owns it; each is returned once. -ENOENT: there is none. -EINVAL: it
 * is not a listening Unix stream socket. Another negative errno. */
int systemd_socket(const char *name, const char *path);
/* The name of an inherited socket that was not asked for; NULL: there is none. Lives as long as
 * the process. */
const char *systemd_unclaimed(void);

/* READY=1, STOPPING=1 and so on; see sd_notify(3). */
void systemd_notify(const char *state);
/* For "systemctl status". Sent only if it has changed. */
void systemd_status(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Answer the watchdog from the loop, twice in its interval. When the loop hangs, systemd
 * restarts the relay. */
void systemd_watchdog_start(struct ev_loop *loop);
