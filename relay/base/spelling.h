/* Finds names of settings that are misspelt. settings.c calls this. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* Letters that must be changed, added, dropped or swapped with their neighbour, to get the one from
 * the other; case does not count. At most `most`: otherwise most + 1. Names of at most 63 bytes are
 * compared; a longer one is most + 1 away. */
unsigned spelling_distance(const char *a, const char *b, unsigned most);
