/* What the ops commands "status" and "upstream" print: one screen for an operator who is called
 * at night, and the connections to PostgreSQL in full. Reads all parts of the relay. commands.c
 * calls it. */
#pragma once

#include "ops/report.h"

struct parts;

void ops_status_print(const struct parts *parts, FILE *out, enum report_form form);
/* Not in local mode, which has no upstream. */
void ops_upstream_print(const struct parts *parts, FILE *out, enum report_form form);
