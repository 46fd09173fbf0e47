/* From the error codes of the protocol to the negative errnos of the library. error.c also
 * has pgherald_strerror(). */
#pragma once

#include "wire.h"

/* The errno for the code of an ERROR. -EPROTO for an unknown code. */
int error_of_code(struct wire_str code);
