/* Takes the place of the relay's clock: it stands still, and tests move it. */
#pragma once

/* Seconds: what clock_now() and clock_processor() return. */
extern double stopped_clock;
/* Seconds by which each reading moves it on; 0 at first. So what lies between two readings takes this
 * long. */
extern double stopped_clock_step;
