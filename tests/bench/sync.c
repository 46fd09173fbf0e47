/* client/examples/syncd: N processes, each a device of its own user. It writes a record,
 * waits until a stream tells of that, and writes again.
 *
 *   bench-sync --clients N --port PORT
 *
 * For each line "SECONDS" of its input it prints a line of JSON. */
#include "bench.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define REPLY_MAX 4096
/* Distance between the clients' users among all users of the server, so that no two share a page of an index.
 */
#define USERS_APART 300

struct sync_load {
	in_port_t port;
	struct page *page;
};

static int connect_server(in_port_t port)
{
	const struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	const int on = 1;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof address) < 0)
		die("port %u: %s", port, strerror(errno));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	return fd;
}

static void send_all(int fd, const char *text, size_t len)
{
	if (send(fd, text, len, MSG_NOSIGNAL) != (ssize_t)len)
		die("send: %s", strerror(errno));
}

/* Read until the text contains this. */
static void await_text(int fd, char *buf, const char *text)
{
	size_t n = 0;

	do {
		ssize_t got = n + 1 < REPLY_MAX ? recv(fd, buf + n, REPLY_MAX - 1 - n, 0) : 0;
		if (got <= 0)
			die("the server says no more, and no \"%s\": %.*s", text, (int)n, buf);
		n += (size_t)got;
		buf[n] = '\0';
	} while (!strstr(buf, text));
}

static void run(void *context, struct page *page, unsigned index)
{
	const struct sync_load *load = context;
	struct slot *slot = &page->slots[index];
	int stream = connect_server(load->port), writer = connect_server(load->port);
	char request[512], body[128], reply[REPLY_MAX];
	unsigned user = 1 + index * USERS_APART;
	unsigned long revision = 0;

	int n = snprintf(request, sizeof request,
		"GET /v1/users/user%05u/listen HTTP/1.1\r\nHost: bench\r\nX-User: user%05u\r\n\r\n", user,
		user);
	send_all(stream, request, (size_t)n);
	await_text(stream, reply, "event: pull");
	for (;;) {
		while (!page->running)
			await_go(slot);
		int size = snprintf(body, sizeof body,
			"{\"revision\":%lu,\"schema_version\":\"1\",\"data\":\"aGVsbG8=\"}", revision);
		n = snprintf(request, sizeof request,
			"PUT /v1/users/user%05u/records/r HTTP/1.1\r\nHost: bench\r\nX-User: user%05u\r\n"
			"X-Client-Id: bench\r\nContent-Length: %d\r\n\r\n%s",
			user, user, size, body);
		send_all(writer, request, (size_t)n);
		await_text(writer, reply, "}");
		const char *found = strstr(reply, "{\"revision\":");
		if (!found)
			die("no revision: %s", reply);
		revision = strtoul(found + strlen("{\"revision\":"), NULL, 10);
		await_text(stream, reply, "\"bench\"");
		slot->count++;
	}
}

static void measure(void *context, const double *numbers, unsigned n)
{
	const struct sync_load *load = context;

	(void)n;
	measure_burst(load->page, &(const struct parties){.n_relays = 0}, numbers[0]);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"clients", required_argument, NULL, 'c'},
		{"port", required_argument, NULL, 'p'},
		{0},
	};
	struct sync_load load = {0};
	unsigned clients = 1;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'c')
			clients = (unsigned)atoi(optarg);
		else if (option == 'p')
			load.port = (in_port_t)atoi(optarg);
		else
			return 2;
	}
	load.page = fork_processes(clients, run, &load);
	serve_measurements(measure, &load);
	end_processes(load.page);
	return 0;
}
