/* What the relay counts, in Prometheus' text format or as JSON. Counts nothing itself: each number stands
 * beside what it counts. The ops command and the metrics socket call it. */
#pragma once

#include <stdbool.h>
#include <stdio.h>

struct relay;

void metrics_print(const struct relay *relay, FILE *out, bool json);
