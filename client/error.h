/* The error codes of the protocol as the library's: negative errnos. Their words, pgherald_strerror(),
 * stand beside. */
#pragma once

#include "wire.h"

/* What an ERROR's code is to the app. A code that is not known is -EPROTO. */
int error_of_code(struct wire_str code);
