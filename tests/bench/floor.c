#include "floor.h"

#include "source.h"
#include "wire.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

struct floor {
	int listener;
	unsigned n;
	int *fds;
	size_t frame_len; /* of every frame */
	char frames[SOURCE_BATCH_MAX * 256];
};

struct floor *floor_listen(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct floor *floor = calloc(1, sizeof *floor);

	if (!floor || strlen(path) >= sizeof address.sun_path)
		die("no room for %s", path);
	strcpy(address.sun_path, path);
	floor->listener = socket(AF_UNIX, SOCK_STREAM, 0);
	if (bind(floor->listener, (struct sockaddr *)&address, sizeof address) < 0 ||
		listen(floor->listener, 4096) < 0)
		die("%s: %m", path);
	return floor;
}

/* Read one frame. What the client sends before it has an answer is small, and comes in whole frames. */
static enum wire_type next_frame(int fd, char *buf, size_t *len, size_t size, struct wire_frame *frame)
{
	static struct wire_decoder *decoder;
	struct wire_scanner scanner = {0};

	if (!decoder && wire_decoder_new(&decoder) < 0)
		die("out of memory");
	while (wire_scan(&scanner, buf, *len) < 0) {
		ssize_t n = recv(fd, buf + *len, size - *len, 0);
		if (n <= 0)
			die("a listener left");
		*len += (size_t)n;
	}
	if (wire_decode(decoder, buf, scanner.offset, frame) < 0)
		die("a listener sent no frame");
	*len -= scanner.offset;
	memmove(buf, buf + scanner.offset, *len);
	return frame->type;
}

static void answer(int fd, const struct wire_frame *frame)
{
	char buf[1024];
	int len = wire_encode(frame, buf, sizeof buf);

	if (len < 0 || send(fd, buf, (size_t)len, MSG_NOSIGNAL) != len)
		die("a listener takes no answer");
}

void floor_accept(struct floor *floor, unsigned n)
{
	floor->fds = reallocarray(NULL, n, sizeof *floor->fds);
	if (!floor->fds)
		die("out of memory");
	for (floor->n = 0; floor->n < n; floor->n++) {
		struct wire_frame frame;
		char buf[4096];
		size_t len = 0;
		int fd = accept(floor->listener, NULL, NULL);
		if (fd < 0)
			die("accept: %m");
		while (next_frame(fd, buf, &len, sizeof buf, &frame) != WIRE_SUBSCRIBE)
			;
		answer(fd, &(struct wire_frame){.type = WIRE_WELCOME,
				   .welcome = {WIRE_VERSION, wire_str("floor"), 0, wire_str("postgres"),
					   wire_str("live"), wire_str("0"), NULL, 0}});
		answer(fd, &(struct wire_frame){.type = WIRE_OK, .ok = {frame.subscribe.id, 0}});
		floor->fds[floor->n] = fd;
	}
}

static void floor_open(struct source *s)
{
	struct floor *floor = s->floor;
	char pubkey[PUBKEY_LEN + 1], client_id[CLIENT_ID_LEN + 1];

	for (unsigned i = 0; i < SOURCE_BATCH_MAX; i++) {
		user_pubkey(some_user(s), pubkey);
		stamped_client_id(clock_ns(), client_id);
		/* A seq as large as in a relay that has run for a while. */
		struct wire_frame frame = {.type = WIRE_CHANGE,
			.change = {.seq = 1000000 + i,
				.channel = wire_str(BENCH_CHANNEL),
				.pubkey = wire_str(pubkey),
				.client_id = wire_str(client_id)}};
		int len = wire_encode(&frame, floor->frames + i * floor->frame_len, 256);
		floor->frame_len = (size_t)len;
	}
}

void floor_send(const struct floor *floor, const char *data, size_t len)
{
	for (unsigned i = 0; i < floor->n; i++)
		if (send(floor->fds[i], data, len, MSG_NOSIGNAL) != (ssize_t)len)
			die("a listener left");
}

/* n frames to each, in one send. */
static void floor_publish(struct source *s, unsigned n)
{
	floor_send(s->floor, s->floor->frames, n * s->floor->frame_len);
}

const struct source_kind source_floor = {floor_open, floor_publish};
