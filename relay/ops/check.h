/* pgherald --check: what the settings give with these servers, as a table. No worker is served.
 * main.c calls this. */
#pragma once

#include <stdbool.h>
#include <stdio.h>

struct parts;

/* Whether all that the table tells is known. */
bool check_is_complete(const struct parts *parts);
/* Once the relay has proved that it hears. Prints a row for each thing: whether it works, is weaker or
 * missing, and what to do about it. */
void check_print(const struct parts *parts, FILE *out);
/* Once the start was refused, in PostgreSQL mode. Prints what works nevertheless, and what fails: why is
 * one line without secrets; setting is the one that it names, or NULL. */
void check_print_refused(const struct parts *parts, const char *setting, const char *why, FILE *out);
