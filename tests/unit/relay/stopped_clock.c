#include "stopped_clock.h"

#include "base/clock.h"

double stopped_clock = 1000000;
double stopped_clock_step;

double clock_now(void)
{
	stopped_clock += stopped_clock_step;
	return stopped_clock;
}

double clock_processor(void)
{
	return clock_now();
}
