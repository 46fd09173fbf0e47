/* The floor: the least that a relay of this kind could cost. It encodes nothing, routes nothing and reads
 * nothing: it sends the same bytes to each of libpgherald's listeners. */
#pragma once

#include <stddef.h>

struct floor;

/* Listen before the listeners are forked, accept them before they are ready. */
struct floor *floor_listen(const char *path);
void floor_accept(struct floor *floor, unsigned n);
/* To each listener, in one send. */
void floor_send(const struct floor *floor, const char *data, size_t len);
