/* The ops commands "status", one screen for whoever is called at night, and "upstream", the connections to
 * PostgreSQL in full. Reads all parts of the relay. The ops commands call it. */
#pragma once

#include "ops/report.h"

struct parts;

void ops_status_print(const struct parts *parts, FILE *out, enum report_form form);
/* Not in local mode, which has none. */
void ops_upstream_print(const struct parts *parts, FILE *out, enum report_form form);
