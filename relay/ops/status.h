/* What the ops commands "status json" and "upstream" print. To a person, "status" says what screen.c
 * makes of it. Reads all parts of the relay. commands.c calls it. */
#pragma once

#include "ops/report.h"

struct parts;

void ops_status_print(const struct parts *parts, FILE *out);
/* Not in local mode, which has no upstream. */
void ops_upstream_print(const struct parts *parts, FILE *out, enum report_form form);
