/* With what pgherald-cat ends. Scripts rely on it. */
#pragma once

enum exit_status {
	STATUS_DONE = 0,     /* it did what it was asked to, or a signal ended it */
	STATUS_FAILED = 1,   /* a request was refused, or a file cannot be read or written */
	STATUS_MISUSED = 2,  /* the command line is not valid */
	STATUS_NO_RELAY = 3, /* there is no relay, or it cannot be connected to */
	STATUS_TIMED_OUT = 4 /* the time was over first */
};
