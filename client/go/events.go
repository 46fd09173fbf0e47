package pgherald

// A Change is a notification of a change channel: the data of one user changed.
type Change struct {
	Channel string
	Pubkey  string // whose data changed
	// ClientID says who made the change, so that an app can recognise its own echo. nil if the
	// publisher gave none.
	ClientID *string
	// Seq is the place in the relay's order. 0 if recovered for this client alone.
	Seq uint64
	// Recovered: the relay found the change in the database and did not hear it live. ClientID is
	// then nil.
	Recovered bool
}

// A Message is a notification of a text channel, as it was published.
type Message struct {
	Channel string
	// Payload is UTF-8, unless the database has an encoding that does not guarantee it (SQL_ASCII).
	Payload   string
	Seq       uint64 // as in Change
	Recovered bool   // the recovery function returned it
}

// A Gap says that changes may have been lost before this moment, on any channel. The app reads
// again what it needs, as it does at start.
type Gap struct {
	// Cause is
	//   - "overrun": this process read more slowly than the relay could keep what it missed.
	//   - "restart": the cursor is from a relay run that is gone, and the database could not tell
	//     what was missed.
	//   - "upstream": the relay had lost PostgreSQL, and could not recover what was missed.
	//   - "recovery": the database gave a wrong answer when the relay asked what was missed.
	//   - "refused": a subscription was refused, or is live again after that (see SubscribeFunc).
	//
	// Later versions may add causes.
	Cause string
	Text  string // for people
	Seq   uint64 // place in the relay's order; 0 if it has none
}

// An Event is a kind of State.
type Event int

const (
	// Connected: Text is the mode, "postgres", "local", or "in-process" for the local notifier.
	Connected Event = iota + 1
	// Disconnected: Text says why. The client connects again by itself.
	Disconnected
	// UpstreamLive: the relay hears PostgreSQL.
	UpstreamLive
	// UpstreamDown: the relay does not hear PostgreSQL. Changes come late, and Notify may time out.
	UpstreamDown
)

func (e Event) String() string {
	switch e {
	case Connected:
		return "connected"
	case Disconnected:
		return "disconnected"
	case UpstreamLive:
		return "upstream live"
	case UpstreamDown:
		return "upstream down"
	}
	return "unknown"
}

// A State is reported for each connection that is made or lost, and for a first one that fails.
// Repeated failures are reported only when the reason changes. After each connect it also reports
// the state of the upstream, and then each change of that state.
type State struct {
	Event Event
	Text  string // for people
}

type eventKind uint8

const (
	changed eventKind = iota
	messaged
	gapped
	stated
	finished
	checkpointed
	welcomed
	caughtUp
)

// An event is what the connection has for Run: something to tell the app, and what follows for the
// cursor once the app was told.
type event struct {
	kind      eventKind
	state     Event
	recovered bool
	inBacklog bool // seq counts for the cursor
	seq       uint64
	a, b      string  // channel and pubkey or payload; cause and text; text; checkpoint; epoch
	c         *string // client id
	done      func(uint64, error)
	err       error
}

// moves changes a cursor as it is to be changed after the event.
func (ev *event) moves(p *place) {
	switch ev.kind {
	case welcomed:
		p.welcome(ev.a, ev.seq)
		return
	case caughtUp:
		p.caughtUp(ev.seq)
		return
	case checkpointed:
		if ev.inBacklog {
			p.passedCheckpoint(ev.a)
		}
	}
	if ev.inBacklog {
		p.passed(ev.seq)
	}
}
