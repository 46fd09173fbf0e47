/* pgherald --check PATH: asks GET /healthz of a relay's metrics socket, for the probes of
 * containers. A process of its own; main.c calls it. */
#pragma once

/* The exit status: 0 if it is healthy, or 1 after a line on stderr that says why not. */
int health_check(const char *path);
