/* Parses JSON with jansson, and also what jansson refuses although it is valid: numbers that no
 * double holds, and halves of surrogate pairs. change.c calls it. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

/* The caller drops the reference with json_decref(). NULL: it is not JSON, or out of memory.
 * *changed: jansson had refused it, so numbers may be others, and json_is_broken() tells which
 * strings are. */
json_t *json_read(const char *text, size_t len, bool *changed);
/* Whether a string of such a text had half a surrogate pair, which no UTF-8 can say. True for one
 * with U+FFFF as well, which takes its place. */
bool json_is_broken(const json_t *string);
