/* Parses JSON with jansson, and also what jansson refuses although it is valid: numbers that no
 * double holds, and halves of surrogate pairs. change.c calls it; values other than the strings
 * it asks for do not count. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

/* The caller drops the reference with json_decref(). NULL: it is not JSON, or out of memory.
 * Numbers are only approximate. */
json_t *json_read(const char *text, size_t len);
/* Whether the string had half a surrogate pair, which no UTF-8 can say. */
bool json_is_broken_string(const json_t *string);
