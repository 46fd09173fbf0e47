#include "ops/connection.h"

#include "base/clock.h"
#include "base/peer.h"
#include "ops/parts.h"

#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

static struct ops_connection *of_place(struct place *place)
{
	return place ? (struct ops_connection *)((char *)place - offsetof(struct ops_connection, place))
		     : NULL;
}

struct ops_connection *ops_connections_first(const struct ops_connections *all)
{
	return of_place(TAILQ_FIRST(&all->places.all));
}

struct ops_connection *ops_connections_next(const struct ops_connection *c)
{
	return of_place(TAILQ_NEXT(&c->place, next));
}

void ops_connection_schedule(struct ops_connection *c)
{
	schedule_add(&c->all->parts->fanout->asking, &c->ready);
}

void ops_connection_close(struct ops_connection *c)
{
	const struct parts *parts = c->all->parts;

	ev_io_stop(parts->loop, &c->reader);
	ev_io_stop(parts->loop, &c->writer);
	schedule_remove(&parts->fanout->asking, &c->ready);
	close(c->fd);
	places_give_up(&c->all->places, &c->place);
	users_put(&parts->fanout->users, c->user);
	c->all->kind->closed(c);
	outbox_free(&c->outbox);
	free(c);
}

void ops_connection_drop(struct ops_connection *c, const char *why)
{
	c->all->n_turned_away++;
	if (c->all->kind->dropped)
		c->all->kind->dropped(c, why);
	ops_connection_close(c);
}

int ops_connection_send(struct ops_connection *c)
{
	size_t before = outbox_waiting(&c->outbox);
	int r = outbox_send(&c->outbox, c->fd);

	if (outbox_waiting(&c->outbox) < before)
		c->place.active = clock_now();
	return r;
}

void ops_connection_watch(struct ops_connection *c, bool reads)
{
	if (outbox_waiting(&c->outbox) > 0)
		ev_io_start(c->all->parts->loop, &c->writer);
	if (reads)
		ev_io_start(c->all->parts->loop, &c->reader);
}

static void on_event(struct ev_loop *loop, struct ev_io *watcher, int events)
{
	struct ops_connection *c = watcher->data;

	if (events & EV_ERROR) {
		ops_connection_drop(c, "the kernel watches no more sockets for the relay");
		return;
	}
	ev_io_stop(loop, watcher);
	ops_connection_schedule(c);
}

static void serve(struct ready *ready)
{
	struct ops_connection *c =
		(struct ops_connection *)((char *)ready - offsetof(struct ops_connection, ready));

	c->all->kind->serve(c);
}

/* NULL: there is no place, or no memory. */
static struct ops_connection *make(struct ops_connections *all, uid_t uid)
{
	struct place *victim;

	if (!places_room(&all->places, uid, &victim))
		return NULL;
	if (victim)
		ops_connection_drop(of_place(victim), "others wait for its place");
	struct ops_connection *c = calloc(1, all->kind->size);
	struct user *user = c ? users_get(&all->parts->fanout->users, uid) : NULL;
	if (!user) {
		free(c);
		return NULL;
	}
	c->all = all;
	c->user = user;
	ready_init(&c->ready, &user->asking, serve);
	places_take(&all->places, &c->place, uid);
	return c;
}

void ops_connections_accepted(void *context, int fd)
{
	struct ops_connections *all = context;
	struct ops_connection *c = make(all, peer_of(fd).uid);

	if (!c) {
		all->n_turned_away++;
		all->kind->refused(all, fd);
		close(fd);
		return;
	}
	all->n_accepted++;
	c->fd = fd;
	ev_io_init(&c->reader, on_event, fd, EV_READ);
	ev_io_init(&c->writer, on_event, fd, EV_WRITE);
	c->reader.data = c->writer.data = c;
	if (all->kind->opened)
		all->kind->opened(c);
	ops_connection_watch(c, true);
}

void ops_connections_open(
	struct ops_connections *all, const struct ops_connection_kind *kind, struct parts *parts)
{
	*all = (struct ops_connections){.kind = kind, .parts = parts};
	places_open(&all->places, kind->n_max, kind->n_kept, kind->idle_seconds);
}

void ops_connections_close(struct ops_connections *all)
{
	for (struct ops_connection *c; (c = ops_connections_first(all));)
		ops_connection_close(c);
}
