/* Where the relays of a host have their sockets: a relay that was started by hand in
 * /run/pgherald, and the instance NAME of the systemd unit in /run/pgherald/NAME. The programs
 * that connect to a relay call this; the library does not. It never logs. */
#pragma once

#include <stddef.h>

#define INSTANCE_DIRECTORY "/run/pgherald"
/* Bytes of a socket's path with its NUL: sockaddr_un has no more. */
#define INSTANCE_PATH_SIZE 108
/* Bytes of a text for people. It is cut if it is longer. */
#define INSTANCE_TEXT_SIZE 600

/* Write the path of the socket of instance name: file is "relay.sock" or "ops.sock". 0; -EINVAL:
 * the name is empty, begins with a dot or contains a slash; -ENAMETOOLONG. */
int instance_path(char path[INSTANCE_PATH_SIZE], const char *name, const char *file);

/* Find the only relay of this host that has the socket file, and write its path. If there are
 * several, those do not count where no process listens any more. 0; otherwise why says what was
 * tried and what to do: -ENOENT: there is none; -EMLINK: there are several; another negative
 * errno: the directory cannot be read. */
int instance_find(const char *file, char path[INSTANCE_PATH_SIZE], char why[INSTANCE_TEXT_SIZE]);

/* Connect to the socket and close the connection. 0 or a negative errno. */
int instance_probe(const char *path);

/* Connect to the socket. A connect() and each send() take at most send_seconds, each recv() at most
 * receive_seconds; 0: no limit. The descriptor, which is the caller's, or a negative errno. */
int instance_connect(const char *path, unsigned send_seconds, unsigned receive_seconds);

/* Write what to do about a socket that a connect() failed at with error, a negative errno:
 * "; " and the advice, or nothing. */
void instance_advise(char advice[INSTANCE_TEXT_SIZE], const char *path, int error);
