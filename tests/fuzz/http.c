/* A request to the metrics socket, sent whole and in pieces. Both get the same answer: one
 * whole answer with the length that it says, and only after the request has ended or is too long.
 * Where the client asks to keep the connection, other answers may follow. */
#include "input.h"

#include "local_relay.h"
#include "log.h"

#include <ctype.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#define ANSWER_MAX (256 << 10)
#define TEARS_MAX 8

static struct relay *relay;

static void read_answer(int fd, char *answer, size_t *len)
{
	ssize_t n;

	for (int quiet = 0; quiet < 2; quiet++) {
		local_relay_run();
		while ((n = recv(fd, answer + *len, ANSWER_MAX - 1 - *len, MSG_DONTWAIT)) > 0) {
			*len += (size_t)n;
			quiet = 0;
		}
	}
	answer[*len] = '\0';
}

static char *ask(struct span request, const size_t *tears, int n_tears)
{
	char *answer = malloc(ANSWER_MAX);
	int fd = local_relay_connect(ops_connections_accepted, &relay->metrics_socket.connections, false);
	size_t sent = 0, len = 0;

	must(answer);
	for (int i = 0; i <= n_tears; i++) {
		size_t until = i < n_tears && tears[i] < request.len ? tears[i] : request.len;
		if (until > sent) {
			(void)!send(fd, request.bytes + sent, until - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
			sent = until;
			read_answer(fd, answer, &len);
		}
	}
	answer[len] = '\0';
	close(fd);
	local_relay_run();
	local_relay_run();
	must(relay->metrics_socket.connections.places.n == 0);
	return answer;
}

static bool has_end(struct span request)
{
	return memmem(request.bytes, request.len, "\n\n", 2) ||
	       memmem(request.bytes, request.len, "\r\n\r\n", 4);
}

static void check(struct span request, const char *answer)
{
	const char *body = strstr(answer, "\r\n\r\n"), *length = strstr(answer, "\r\nContent-Length: ");

	if (!*answer) {
		must(!has_end(request) && request.len < METRICS_REQUEST_MAX);
		return;
	}
	must(has_end(request) || request.len >= METRICS_REQUEST_MAX);
	must(strncmp(answer, "HTTP/1.", 7) == 0 && strchr("01", answer[7]) && answer[8] == ' ' && isdigit((unsigned char)answer[9]) && body &&
		length < body);
	body += 4;
	size_t len = strtoul(length + strlen("\r\nContent-Length: "), NULL, 10);
	bool head = request.len > 5 && memcmp(request.bytes, "HEAD ", 5) == 0;
	bool kept = strstr(answer, "\r\nConnection: keep-alive\r\n") != NULL;
	/* Only the answer to a valid HEAD has no body. */
	must(strlen(body) == len || (head && !*body) || kept);
	for (const char *p = body; *p; p++)
		must(*p == '\n' || kept || (*p >= 0x20 && *p != 0x7f));
	if (strncmp(answer + 9, "200", 3) == 0)
		must(request.len > 5 && (head || memcmp(request.bytes, "GET ", 4) == 0));
	if (request.len > 21 && memcmp(request.bytes, "GET /metrics HTTP/1.0", 21) == 0 &&
		strchr("\r\n", request.bytes[21]) && !memchr(request.bytes, 0, request.len) &&
		has_end(request) && request.len < METRICS_REQUEST_MAX)
		must(strncmp(answer + 9, "200", 3) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, data + size};
	size_t tears[TEARS_MAX];
	int n_tears = (int)(input_byte(&in) % (TEARS_MAX + 1));

	for (int i = 0; i < n_tears; i++)
		tears[i] = (i > 0 ? tears[i - 1] : 0) + input_byte(&in);
	struct span request = input_span(&in, SIZE_MAX);
	log_clear();
	relay = local_relay_start();
	char *whole = ask(request, NULL, 0), *torn = ask(request, tears, n_tears);
	check(request, whole);
	check(request, torn);
	must(strcspn(whole, "\r") == strcspn(torn, "\r") && strncmp(whole, torn, strcspn(whole, "\r")) == 0);
	free(whole);
	free(torn);
	local_relay_end();
	return 0;
}
