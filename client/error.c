#include "error.h"

#include "pgherald.h"

#include <errno.h>

int error_of_code(struct wire_str name)
{
	static const int errors[WIRE_ERRORS_N] = {
		[WIRE_ERROR_CHANNEL] = -ENXIO,
		[WIRE_ERROR_DENIED] = -EACCES,
		[WIRE_ERROR_INVALID] = -EILSEQ,
		[WIRE_ERROR_TOO_LONG] = -EMSGSIZE,
		[WIRE_ERROR_LIMIT] = -EDQUOT,
		[WIRE_ERROR_BUSY] = -EBUSY,
		[WIRE_ERROR_TIMEOUT] = -ETIMEDOUT,
		[WIRE_ERROR_REJECTED] = -EREMOTEIO,
	};
	int error = errors[wire_error_code(name)];

	return error < 0 ? error : -EPROTO;
}

const char *pgherald_strerror(int error)
{
	switch (error < 0 ? -error : error) {
	case 0:
		return "success";
	case EACCES:
		return "the relay's operator does not allow it";
	case E2BIG:
		return "an option is set that this version of the library does not know";
	case EBADMSG:
		return "the cursor is malformed";
	case EBUSY:
		return "the relay's queue is full";
	case ECANCELED:
		return "cancelled";
	case ECHILD:
		return "the handle belongs to another process: open one after the fork";
	case EDEADLK:
		return "called inside a callback";
	case EDQUOT:
		return "the relay's limit of subscriptions is reached";
	case EILSEQ:
		return "a string is not valid UTF-8, or contains a NUL";
	case EINTR:
		return "interrupted by a signal";
	case EINVAL:
		return "invalid argument";
	case EMFILE:
	case ENFILE:
		return "too many open files";
	case EMSGSIZE:
		return "too long";
	case ENAMETOOLONG:
		return "the socket path is too long";
	case ENOBUFS:
		return "the queue of requests is full";
	case ENODATA:
		return "there is no cursor yet";
	case ENOENT:
		return "no such subscription";
	case ENOMEM:
		return "out of memory";
	case ENOSPC:
		return "the buffer is too small, or the limit of epoll watches is reached";
	case ENXIO:
		return "the relay does not serve this channel, or the channel is of the other kind";
	case EPROTO:
		return "the relay refused it";
	case EREMOTEIO:
		return "PostgreSQL refused it";
	case ESHUTDOWN:
		return "the handle was closed";
	case ETIMEDOUT:
		return "not known to be published in time";
	default:
		return "unknown error";
	}
}
