#include "listener.h"

#include "log.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static int refuse(const struct settings *settings, const char *why)
{
	log_line(LOG_LEVEL_ERROR, "SYNCD_LISTEN (--listen) cannot work: %s listen=%s", why, settings->listen);
	return -EINVAL;
}

/* Remove the socket of a server that was killed, but not one that a server listens on. */
static int remove_stale(const struct sockaddr_un *address)
{
	struct stat st;

	if (lstat(address->sun_path, &st) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode))
		return -ENOTSOCK;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	int r = connect(fd, (const struct sockaddr *)address, sizeof *address) == 0 || errno == EAGAIN
			? -EADDRINUSE
		: errno == ECONNREFUSED ? 0
					: -errno;
	close(fd);
	return r == 0 && unlink(address->sun_path) < 0 ? -errno : r;
}

static int open_unix(struct listener *l, const struct settings *settings)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	if (strlen(settings->listen) >= sizeof address.sun_path)
		return refuse(settings, "longer than the 107 bytes that the path of a Unix socket may have");
	strcpy(address.sun_path, settings->listen);
	int r = remove_stale(&address);
	if (r < 0)
		return refuse(settings, strerror(-r));
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return refuse(settings, strerror(errno));
	bool bound = bind(fd, (const struct sockaddr *)&address, sizeof address) == 0;
	/* No client can connect before listen(), so the mode holds from the first connection
	 * on. */
	if (!bound || chmod(settings->listen, (mode_t)settings->socket_mode) < 0 || listen(fd, SOMAXCONN) < 0)
		r = -errno;
	l->fd = fd;
	l->path = bound ? settings->listen : NULL;
	if (r < 0)
		return refuse(settings, strerror(-r));
	snprintf(l->name, sizeof l->name, "%s", l->path);
	return 0;
}

/* Split ADDRESS:PORT, [ADDRESS]:PORT or PORT into host and port. */
static bool split(char *text, const char **host, const char **port)
{
	char *colon = strrchr(text, ':');

	*host = "127.0.0.1";
	*port = text;
	if (colon) {
		*colon = '\0';
		*port = colon + 1;
		*host = text;
		size_t len = strlen(text);
		if (len > 1 && text[0] == '[' && text[len - 1] == ']') {
			text[len - 1] = '\0';
			*host = text + 1;
		} else if (strchr(text, ':')) {
			return false;
		}
	}
	unsigned long number = strtoul(*port, NULL, 10);
	return **host && **port && strspn(*port, "0123456789") == strlen(*port) && number <= 65535;
}

static bool is_loopback(const struct sockaddr *address)
{
	const struct sockaddr_in *v4 = (const void *)address;
	const struct sockaddr_in6 *v6 = (const void *)address;

	if (address->sa_family == AF_INET)
		return ntohl(v4->sin_addr.s_addr) >> 24 == 127;
	return IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr);
}

static int open_tcp(struct listener *l, const struct settings *settings)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *found;
	struct sockaddr_storage bound = {0};
	socklen_t len = sizeof bound;
	const char *host, *port;
	char text[128], service[8];
	const int on = 1;

	snprintf(text, sizeof text, "%s", settings->listen);
	if (strlen(settings->listen) >= sizeof text || !split(text, &host, &port))
		return refuse(settings,
			"it is neither ADDRESS:PORT, with an IPv6 address in [], nor PORT, nor a /PATH");
	int r = getaddrinfo(host, port, &hints, &found);
	if (r != 0)
		return refuse(settings, gai_strerror(r));
	l->beyond_loopback = !is_loopback(found->ai_addr);
	int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	r = fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0 ||
			    bind(fd, found->ai_addr, found->ai_addrlen) < 0 || listen(fd, SOMAXCONN) < 0 ||
			    getsockname(fd, (struct sockaddr *)&bound, &len) < 0
		    ? -errno
		    : 0;
	freeaddrinfo(found);
	l->fd = fd;
	if (r < 0)
		return refuse(settings, strerror(-r));
	getnameinfo((const struct sockaddr *)&bound, len, text, sizeof text, service, sizeof service,
		NI_NUMERICHOST | NI_NUMERICSERV);
	bool v6 = bound.ss_family == AF_INET6;
	snprintf(l->name, sizeof l->name, "http://%s%s%s:%s", v6 ? "[" : "", text, v6 ? "]" : "", service);
	return 0;
}

int listener_open(struct listener *listener, const struct settings *settings)
{
	*listener = (struct listener){.fd = -1};
	int r = settings->listen[0] == '/' ? open_unix(listener, settings) : open_tcp(listener, settings);
	if (r < 0)
		listener_close(listener);
	return r;
}

void listener_close(struct listener *listener)
{
	if (listener->fd >= 0)
		close(listener->fd);
	if (listener->path)
		unlink(listener->path);
	*listener = (struct listener){.fd = -1};
}
