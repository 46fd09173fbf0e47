#include "wire.h"

const char *const wire_error_names[WIRE_ERRORS_N] = {
	[WIRE_ERROR_CHANNEL] = "channel",
	[WIRE_ERROR_INVALID] = "invalid",
	[WIRE_ERROR_TOO_LONG] = "too-long",
	[WIRE_ERROR_LIMIT] = "limit",
	[WIRE_ERROR_BUSY] = "busy",
	[WIRE_ERROR_TIMEOUT] = "timeout",
	[WIRE_ERROR_REJECTED] = "rejected",
	[WIRE_ERROR_UNKNOWN_TYPE] = "unknown-type",
	[WIRE_ERROR_DENIED] = "denied",
};

const char *const wire_bye_names[WIRE_BYES_N] = {
	[WIRE_BYE_SHUTDOWN] = "shutdown",
	[WIRE_BYE_EVICTED] = "evicted",
	[WIRE_BYE_PROTOCOL] = "protocol",
	[WIRE_BYE_DENIED] = "denied",
	[WIRE_BYE_LIMIT] = "limit",
};

const char *const wire_gap_names[WIRE_GAPS_N] = {
	[WIRE_GAP_OVERRUN] = "overrun",
	[WIRE_GAP_RESTART] = "restart",
	[WIRE_GAP_UPSTREAM] = "upstream",
	[WIRE_GAP_RECOVERY] = "recovery",
};

enum wire_error_code wire_error_code(struct wire_str name)
{
	for (enum wire_error_code code = WIRE_ERROR_NONE + 1; code < WIRE_ERRORS_N; code++)
		if (wire_str_eq(name, wire_str(wire_error_names[code])))
			return code;
	return WIRE_ERROR_NONE;
}
