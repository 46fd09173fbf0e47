#include "health_check.h"

#include "instance.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* For the connect, and for each read. A relay that hangs is not healthy. */
#define SECONDS 5

/* Reads to the end, or until buf is full. 0 or a negative errno. */
static int exchange(int fd, char *buf, size_t size)
{
	static const char request[] = "GET /healthz HTTP/1.0\r\n\r\n";
	size_t len = 0;
	ssize_t n = send(fd, request, sizeof request - 1, MSG_NOSIGNAL);

	while (n > 0 && len < size - 1 && (n = recv(fd, buf + len, size - 1 - len, 0)) > 0)
		len += (size_t)n;
	buf[len] = '\0';
	return n < 0 ? -errno : 0;
}

int health_check(const char *path)
{
	char answer[1024] = "";
	int fd = instance_connect(path, SECONDS, SECONDS),
	    r = fd < 0 ? fd : exchange(fd, answer, sizeof answer);

	if (fd >= 0)
		close(fd);
	if (r < 0) {
		dprintf(STDERR_FILENO, "pgherald: %s does not answer: %s\n", path,
			r == -EAGAIN ? "no answer in time" : strerror(-r));
		return EXIT_FAILURE;
	}
	const char *status = strchr(answer, ' '), *body = strstr(answer, "\r\n\r\n");
	if (strncmp(answer, "HTTP/1.", 7) == 0 && status && strncmp(status, " 200", 4) == 0)
		return EXIT_SUCCESS;
	dprintf(STDERR_FILENO, "pgherald: %s is not healthy: %s\n", path,
		body ? body + 4 : "it does not speak HTTP");
	return EXIT_FAILURE;
}
