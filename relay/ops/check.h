/* pgherald --check: what the settings give with these servers, as a table. The relay has proved that
 * it hears; no worker is served. main.c calls this. */
#pragma once

#include <stdbool.h>
#include <stdio.h>

struct parts;

/* Whether all that the table tells is known. */
bool check_is_complete(const struct parts *parts);
/* Prints a row for each thing: whether it works, is weaker or missing, and what to do about it. */
void check_print(const struct parts *parts, FILE *out);
