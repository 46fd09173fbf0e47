package pgherald

import "errors"

// What a call or the outcome of a request may be, for errors.Is. Each stands for the errno that
// pgherald.h names.
var (
	// ErrChannel (ENXIO): the relay does not serve this channel, or the channel is of the other
	// kind: Notify is for change channels, Send for text channels, and a text channel is only
	// subscribed to as a whole.
	ErrChannel = errors.New("the relay does not serve this channel, or the channel is of the other kind")
	// ErrDenied (EACCES): the relay's operator does not allow it on this channel.
	ErrDenied = errors.New("the relay's operator does not allow it")
	// ErrLimit (EDQUOT): the relay's limit of subscriptions is reached.
	ErrLimit = errors.New("the relay's limit of subscriptions is reached")
	// ErrRefused (EPROTO): the relay refused it for another reason.
	ErrRefused = errors.New("the relay refused it")
	// ErrCanceled (ECANCELED): a subscription was undone before it was live, or the client was
	// closed. A request to publish may still be published.
	ErrCanceled = errors.New("canceled")
	// ErrTooLong (EMSGSIZE): a string has more than 7999 bytes, or the payload would have 8000
	// bytes or more, which PostgreSQL refuses.
	ErrTooLong = errors.New("too long")
	// ErrBusy (EBUSY): the relay's queue is full. It was not published.
	ErrBusy = errors.New("the relay's queue is full")
	// ErrRejected (EREMOTEIO): PostgreSQL refused it. It was not published.
	ErrRejected = errors.New("PostgreSQL refused it")
	// ErrTimeout (ETIMEDOUT): it is not known to be committed in time. It may still be published.
	ErrTimeout = errors.New("not known to be published in time")
	// ErrString (EILSEQ): a string is not valid UTF-8, or contains a NUL.
	ErrString = errors.New("a string is not valid UTF-8, or contains a NUL")
	// ErrInvalid (EINVAL): the name of a channel is empty or has more than 63 bytes, or an option
	// is not valid.
	ErrInvalid = errors.New("invalid argument")
	// ErrPath (ENAMETOOLONG): the path of the socket is longer than a socket address can hold.
	ErrPath = errors.New("the socket path is too long")
	// ErrCursor (EBADMSG): the cursor is malformed.
	ErrCursor = errors.New("the cursor is malformed")
	// ErrNoCursor (ENODATA): there is no cursor yet. The local notifier never has one.
	ErrNoCursor = errors.New("there is no cursor yet")
	// ErrNotSubscribed (ENOENT): there is no such subscription.
	ErrNotSubscribed = errors.New("no such subscription")
	// ErrQueueFull (ENOBUFS): Options.QueueSize bytes of requests wait already.
	ErrQueueFull = errors.New("the queue of requests is full")
	// ErrClosed (ESHUTDOWN): the client was closed.
	ErrClosed = errors.New("the client was closed")
	// ErrRunning (EDEADLK): Run is already running, or has run.
	ErrRunning = errors.New("Run was already called")
)

// An Error says why the relay refused a request. errors.Is finds the Err in it.
type Error struct {
	Err  error  // ErrChannel, ErrDenied, ErrLimit, ErrTooLong, ErrBusy, ErrRejected, ErrTimeout, ErrString or ErrRefused
	Text string // the relay's own words
}

func (e *Error) Error() string { return e.Text }

func (e *Error) Unwrap() error { return e.Err }

// errorOfCode maps the code of an ERROR. A code of a later version is ErrRefused.
func errorOfCode(code, text string) error {
	known := map[string]error{
		"channel":  ErrChannel,
		"denied":   ErrDenied,
		"invalid":  ErrString,
		"too-long": ErrTooLong,
		"limit":    ErrLimit,
		"busy":     ErrBusy,
		"timeout":  ErrTimeout,
		"rejected": ErrRejected,
	}[code]
	if known == nil {
		known = ErrRefused
	}
	return &Error{known, text}
}
