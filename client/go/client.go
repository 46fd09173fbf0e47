package pgherald

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

const (
	defaultSocket    = "/run/pgherald/relay.sock"
	defaultQueueSize = 1 << 20
	leastQueueSize   = 64 << 10
	defaultDeadline  = 10 * time.Second

	// stringMax and nameMax are bytes. Nothing longer can be published.
	stringMax = 7999
	nameMax   = 255
	// pathMax is what a socket address holds, without the NUL.
	pathMax = 107

	// A callback that waits for the answer to a request is read ahead of, because answers come among
	// the events. Beyond eventsSoft bytes of events that wait, the client reads on only while a
	// request waits for its answer, and never beyond eventsHard.
	eventsSoft = 1 << 20
	eventsHard = 64 << 20
	// reliefFirst and reliefLast are how long a caller waits before it looks whether a callback
	// keeps the client from reading.
	reliefFirst = time.Millisecond
	reliefLast  = 50 * time.Millisecond

	// spareMax is how many events there is always memory for, after there were more.
	spareMax = 4096

	// standstill is how late a deadline is noticed at most while the process runs. If it is later,
	// the process stood still. Answers that have arrived meanwhile are read in this time.
	standstill = 100 * time.Millisecond
)

// Options of a client. The zero value is good.
type Options struct {
	// Socket is the path of the relay's socket. Empty: the environment variable PGHERALD_SOCKET, or
	// /run/pgherald/relay.sock if that is unset. If the variable is set and empty, Local is true.
	Socket string

	// Local selects the local notifier. It needs no relay: it delivers what this client publishes,
	// on any channel, to this client alone. Use it in a single process, and in tests.
	Local bool

	// Name is the name of this connection on the operator's screen. Empty: the program's name.
	Name string

	// Cursor is where to resume: the text that Client.Cursor returned for an earlier client,
	// perhaps in an earlier process. Empty: start from now. The client receives what was missed
	// since for the subscriptions made before Run. A later subscription starts when it becomes
	// live. The local notifier ignores the cursor.
	Cursor string

	// QueueSize is the most bytes of requests to publish that may wait for their outcome. A request
	// counts as its strings and about 100 bytes more. 0: 1 MiB. Least: 64 KiB.
	QueueSize int

	// Deadline is the time after which a request to publish fails with ErrTimeout, time without a
	// connection included. 0: 10 seconds.
	Deadline time.Duration

	// The callbacks. Run calls them, one at a time and in order. Each of them may be nil.
	OnChange  func(Change)
	OnMessage func(Message)
	OnGap     func(Gap)
	OnState   func(State)
}

// A Client hears the changes that the host's relay hears from PostgreSQL, and publishes some. Its
// methods may be called by any goroutine, and in callbacks.
type Client struct {
	options Options
	socket  string // empty: the local notifier

	closed  atomic.Bool
	closing chan struct{} // closed with it
	wake    chan struct{} // Run has something to do
	kick    chan struct{} // the connection has something to send
	calls   calls
	some    atomic.Bool // events wait

	mu      sync.Mutex
	running bool
	nextID  uint64
	subs    *subscriptions
	pubs    publishes
	events  []event // that Run has yet to tell
	bytes   int     // of the frames of events
	room    *sync.Cond
	timer   *time.Timer // for the next deadline of pubs
	late    bool        // it was late, and answers are waited for
	session session
	relief  relief

	toldMu sync.Mutex
	told   place // up to which the app was told everything

	localSeq uint64
}

// Open makes a client. The relay need not run yet: Run connects. No callback runs.
//
// The error is ErrInvalid (Options.QueueSize is too small, Deadline is negative, or Name has more
// than 255 bytes), ErrPath, ErrString or ErrCursor.
func Open(options Options) (*Client, error) {
	c := &Client{
		closing: make(chan struct{}),
		wake:    make(chan struct{}, 1),
		kick:    make(chan struct{}, 1),
		nextID:  1,
	}
	if err := c.takeOptions(options); err != nil {
		return nil, err
	}
	c.room = sync.NewCond(&c.mu)
	c.subs = newSubscriptions(c.finish)
	c.pubs = publishes{byID: map[uint64]*publish{}, limit: c.options.QueueSize}
	c.timer = time.AfterFunc(time.Hour, c.expire)
	c.timer.Stop()
	return c, nil
}

func (c *Client) takeOptions(o Options) error {
	if o.Socket == "" && !o.Local {
		socket, given := os.LookupEnv("PGHERALD_SOCKET")
		o.Local = given && socket == ""
		if !given {
			socket = defaultSocket
		}
		o.Socket = socket
	}
	if o.Local {
		o.Socket = ""
	}
	if len(o.Socket) > pathMax {
		return ErrPath
	}
	if strings.IndexByte(o.Socket, 0) >= 0 {
		return ErrInvalid
	}
	if len(o.Name) > nameMax {
		return ErrInvalid
	}
	if !isText(o.Name) {
		return ErrString
	}
	if o.Name == "" {
		if o.Name = filepath.Base(os.Args[0]); len(o.Name) > nameMax || !isText(o.Name) {
			o.Name = ""
		}
	}
	if o.QueueSize == 0 {
		o.QueueSize = defaultQueueSize
	}
	if o.Deadline == 0 {
		o.Deadline = defaultDeadline
	}
	if o.QueueSize < leastQueueSize || o.Deadline < 0 {
		return ErrInvalid
	}
	if o.Cursor != "" && !o.Local {
		from, err := parsePlace(o.Cursor)
		if err != nil {
			return err
		}
		c.told = from
	}
	c.options, c.socket = o, o.Socket
	// net takes a name that begins with @ for one without a file.
	if strings.HasPrefix(c.socket, "@") {
		c.socket = "./" + c.socket
	}
	return nil
}

// Close closes the connection. The requests that are due end first: with their outcome if it is
// known, else with ErrCanceled. A request that was already sent may still be published. Completions
// that SubscribeFunc, NotifyFunc and SendFunc were given run in Run, or in Close if Run was never
// called. Other callbacks do not begin any more.
//
// Close does not wait for a callback that is running. After Run has returned, none runs. Other
// calls fail with ErrClosed then, except Cursor. It returns nil, and may be called again.
func (c *Client) Close() error {
	c.mu.Lock()
	if c.closed.Load() {
		c.mu.Unlock()
		return nil
	}
	c.closed.Store(true)
	close(c.closing)
	c.session.end()
	c.subs.cancel()
	for pub := c.pubs.oldest(); pub != nil; pub = c.pubs.oldest() {
		c.finish(c.pubs.take(pub.id).completion, 0, ErrCanceled)
	}
	c.timer.Stop()
	c.room.Broadcast()
	running := c.running
	c.mu.Unlock()
	if !running {
		c.runCompletions()
	}
	return nil
}

// Run connects, reconnects and resumes, and calls the callbacks, until ctx is done or the client is
// closed. Then it closes the client. It is called once.
//
// It returns the error of ctx, ErrClosed after Close, or ErrRunning.
func (c *Client) Run(ctx context.Context) error {
	c.mu.Lock()
	if c.running || c.closed.Load() {
		c.mu.Unlock()
		if c.closed.Load() {
			return ErrClosed
		}
		return ErrRunning
	}
	c.running = true
	c.mu.Unlock()

	var watch sync.WaitGroup
	watch.Add(1)
	go func() {
		defer watch.Done()
		select {
		case <-ctx.Done():
			c.Close()
		case <-c.closing:
		}
	}()
	if c.socket == "" {
		c.localStart()
	} else {
		c.session.received = c.told
	}
	for !c.closed.Load() {
		c.drain()
		if c.socket == "" {
			c.pause(nil)
		} else {
			c.step()
		}
	}
	c.disconnect()
	watch.Wait()
	c.runCompletions()
	if err := ctx.Err(); err != nil {
		return err
	}
	return ErrClosed
}

// drain tells the app what waits.
func (c *Client) drain() {
	for batch := c.takeEvents(nil); len(batch) > 0; batch = c.takeEvents(batch) {
		for i := range batch {
			if c.closed.Load() {
				c.putBack(batch[i:])
				return
			}
			c.tell(&batch[i])
			batch[i] = event{}
		}
	}
}

// pause waits until there is something to do, or until the time has passed.
func (c *Client) pause(passed <-chan time.Time) {
	select {
	case <-c.wake:
	case <-c.closing:
	case <-passed:
	}
}

// takeEvents returns the events that wait. spare is a slice that is not needed any more.
func (c *Client) takeEvents(spare []event) []event {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cap(spare) > spareMax {
		spare = nil
	}
	if c.socket == "" {
		c.localTurn()
	}
	batch := c.events
	c.events, c.bytes = spare[:0], 0
	c.some.Store(false)
	c.room.Signal()
	return batch
}

// putBack: the app was not told these.
func (c *Client) putBack(rest []event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events = append(append([]event(nil), rest...), c.events...)
}

// runCompletions is for the end: nothing but completions runs.
func (c *Client) runCompletions() {
	c.mu.Lock()
	rest := c.events
	c.events = nil
	c.mu.Unlock()
	for i := range rest {
		if rest[i].kind == finished {
			rest[i].done(rest[i].seq, rest[i].err)
		}
	}
}

// tell runs the callback for an event. Only Run calls it.
func (c *Client) tell(ev *event) {
	c.calls.begin()
	c.call(ev)
	if !c.calls.end() {
		c.endRelief()
	}
	if ev.kind == finished {
		return
	}
	// Only after the callback has returned: the cursor promises that.
	c.toldMu.Lock()
	ev.moves(&c.told)
	c.toldMu.Unlock()
}

func (c *Client) call(ev *event) {
	o := &c.options
	switch ev.kind {
	case changed:
		if o.OnChange != nil {
			o.OnChange(Change{ev.a, ev.b, ev.c, ev.seq, ev.recovered})
		}
	case messaged:
		if o.OnMessage != nil {
			o.OnMessage(Message{ev.a, ev.b, ev.seq, ev.recovered})
		}
	case gapped:
		if o.OnGap != nil {
			o.OnGap(Gap{ev.a, ev.b, ev.seq})
		}
	case stated:
		if o.OnState != nil {
			o.OnState(State{ev.state, ev.a})
		}
	case finished:
		ev.done(ev.seq, ev.err)
	}
}

// Cursor returns the cursor, as one line of printable ASCII: the place up to which the client has
// handed everything to callbacks that have returned. An app that acts on changes later must store
// it later, too. A later client resumes from it (Options.Cursor). It may be called after Close.
//
// ErrNoCursor: there is none yet, before the first connection; the local notifier never has one.
func (c *Client) Cursor() (string, error) {
	c.toldMu.Lock()
	defer c.toldMu.Unlock()
	if !c.told.set {
		return "", ErrNoCursor
	}
	return c.told.String(), nil
}

// queue keeps an event, of a frame of this size, for Run. c.mu is held.
func (c *Client) queue(ev event, size int) {
	c.events = append(c.events, ev)
	c.bytes += size + eventCost
	c.some.Store(true)
}

// ring wakes Run. c.mu is held.
func (c *Client) ring() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
	c.session.interrupt()
}

// kickSender wakes what sends.
func (c *Client) kickSender() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// finish tells how a request ended. c.mu is held.
func (c *Client) finish(done *completion, seq uint64, err error) {
	switch {
	case done == nil:
	case done.direct:
		done.done(seq, err)
	default:
		c.queue(event{kind: finished, seq: seq, done: done.done, err: err}, 0)
		c.ring()
	}
}

// Requests

func isText(s string) bool {
	return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0
}

func checkChannel(channel string) error {
	if channel == "" || len(channel) > channelMax {
		return ErrInvalid
	}
	if !isText(channel) {
		return ErrString
	}
	return nil
}

func checkStrings(channel string, others ...*string) error {
	if err := checkChannel(channel); err != nil {
		return err
	}
	for _, s := range others {
		if s != nil && len(*s) > stringMax {
			return ErrTooLong
		}
		if s != nil && !isText(*s) {
			return ErrString
		}
	}
	return nil
}

// All is the pubkey that stands for a whole channel.
var All *string

// Pubkey makes the pubkey, or the client id, of an argument that may be nil.
func Pubkey(s string) *string { return &s }

func completionOf(done func(seq uint64, err error)) *completion {
	if done == nil {
		return nil
	}
	return &completion{done: done}
}

// SubscribeFunc subscribes to the changes of pubkey on channel, or to the whole channel if pubkey is
// All. A text channel is only subscribed to as a whole. Subscriptions are counted: each call needs
// one Unsubscribe of the same, and the relay knows only whether there are any. They stay across
// reconnects. A subscription to all and subscriptions by pubkey are independent. It does not wait.
//
// done may be nil. Run calls it when the subscription is live: from seq on, nothing is missed. That
// is the moment without a race to read the present state from the database. done has no deadline:
// without a relay it waits. Its err is nil, or:
//
//   - ErrChannel: the relay does not serve this channel, or pubkey was given for a text channel
//   - ErrDenied: the relay's operator does not allow it on this channel
//   - ErrLimit: the relay's limit of subscriptions is reached; subscriptions that were asked for at
//     the same time fail together
//   - ErrRefused, or another that the relay's code names: the relay refused it for another reason
//   - ErrCanceled: it was unsubscribed before it was live, or the client was closed
//
// A refused subscription stays until it is unsubscribed. The client asks for it again on each new
// connection, and at each further subscription of it. OnGap runs with cause "refused" when it
// becomes live after all. OnGap runs with the same cause when a subscription is refused whose
// holders did not all have a done that waited: they gave none, or it ran on an earlier connection.
//
// It returns nil, or ErrInvalid (channel is empty or has more than 63 bytes), ErrTooLong (pubkey
// has more than 7999 bytes), ErrString or ErrClosed.
func (c *Client) SubscribeFunc(channel string, pubkey *string, done func(seq uint64, err error)) error {
	return c.subscribe(channel, pubkey, completionOf(done))
}

func (c *Client) subscribe(channel string, pubkey *string, waiter *completion) error {
	if err := checkStrings(channel, pubkey); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed.Load() {
		return ErrClosed
	}
	c.subs.add(channel, clone(pubkey), waiter)
	c.requested()
	return nil
}

// clone: the caller may change what pubkey points to.
func clone(s *string) *string {
	if s == nil {
		return nil
	}
	return Pubkey(*s)
}

// requested: there is something for the relay. c.mu is held.
func (c *Client) requested() {
	if c.socket == "" {
		c.subs.allLive(c.localSeq)
		c.ring()
		return
	}
	c.room.Signal()
	c.kickSender()
}

// Subscribe is as SubscribeFunc, and waits until the subscription is live or refused. It returns the
// seq from which on nothing is missed. Run must be running, in another goroutine or as the caller of
// the callback that this is called in. If ctx ends first, the subscription is undone, and the
// error is that of ctx.
func (c *Client) Subscribe(ctx context.Context, channel string, pubkey *string) (seq uint64, err error) {
	w := newWaiter()
	if err := c.subscribe(channel, pubkey, &w.completion); err != nil {
		return 0, err
	}
	return w.wait(ctx, c, func() {
		c.subs.forget(channel, pubkey, &w.completion)
		c.requested()
	})
}

// A waiter is a completion for a goroutine that waits.
type waiter struct {
	completion
	outcome chan outcome
}

type outcome struct {
	seq uint64
	err error
}

func newWaiter() *waiter {
	w := &waiter{outcome: make(chan outcome, 1)}
	w.completion = completion{func(seq uint64, err error) { w.outcome <- outcome{seq, err} }, true}
	return w
}

// wait waits for the outcome. forget, called with c.mu held, ends the request if ctx is done first.
func (w *waiter) wait(ctx context.Context, c *Client, forget func()) (uint64, error) {
	for look, seen := reliefFirst, c.calls.now(); ; {
		timer := time.NewTimer(look)
		select {
		case o := <-w.outcome:
			timer.Stop()
			return o.seq, o.err
		case <-timer.C:
			seen = c.relieve(seen)
			if look *= 2; look > reliefLast {
				look = reliefLast
			}
			continue
		case <-ctx.Done():
			timer.Stop()
		}
		break
	}
	c.mu.Lock()
	forget()
	c.mu.Unlock()
	select {
	case o := <-w.outcome: // it was told just before
		return o.seq, o.err
	default:
		return 0, ctx.Err()
	}
}

// Unsubscribe undoes one subscription of the same. After the last one, completions that still wait
// are told ErrCanceled. Changes that were already on their way may still be delivered.
//
// It returns nil, ErrNotSubscribed, or what SubscribeFunc returns.
func (c *Client) Unsubscribe(channel string, pubkey *string) error {
	if err := checkStrings(channel, pubkey); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed.Load() {
		return ErrClosed
	}
	if err := c.subs.remove(channel, pubkey); err != nil {
		return err
	}
	c.requested()
	return nil
}

// NotifyFunc publishes that the data of pubkey changed. Call it after the change is committed.
// clientID may be nil. All subscribed workers of all hosts hear it, this one included. It does not
// wait.
//
// done may be nil. Run calls it when PostgreSQL has committed the notification, with err nil, or
// with:
//
//   - ErrChannel: the relay does not serve this channel, or it is a text channel
//   - ErrDenied: the relay's operator does not allow it on this channel
//   - ErrTooLong: the payload would have 8000 bytes or more, which PostgreSQL refuses
//   - ErrBusy: the relay's queue is full; not published
//   - ErrRejected: PostgreSQL refused it; not published; the error says why
//   - ErrString, ErrRefused: the relay refused it; not published
//   - ErrTimeout: not known to be committed in time; it may still be published
//   - ErrCanceled: the client was closed; it may still be published
//
// Without a connection the request waits for one, until its deadline. If the connection breaks
// before the answer, the client sends the request again, so it may be heard twice.
//
// It returns nil when the request is queued, or ErrQueueFull (Options.QueueSize bytes wait already:
// wait for completions), ErrInvalid (channel is empty or has more than 63 bytes), ErrTooLong (a
// string has more than 7999 bytes), ErrString or ErrClosed.
func (c *Client) NotifyFunc(channel, pubkey string, clientID *string, done func(seq uint64, err error)) error {
	_, err := c.notify(channel, pubkey, clientID, completionOf(done))
	return err
}

// Notify is as NotifyFunc, and waits for the outcome. It returns the place in the relay's order.
// Run must be running. If ctx ends first, the error is that of ctx, and the change may still be
// published.
func (c *Client) Notify(ctx context.Context, channel, pubkey string, clientID *string) (seq uint64, err error) {
	w := newWaiter()
	id, err := c.notify(channel, pubkey, clientID, &w.completion)
	if err != nil {
		return 0, err
	}
	return w.wait(ctx, c, func() { c.pubs.take(id) })
}

func (c *Client) notify(channel, pubkey string, clientID *string, done *completion) (id uint64, err error) {
	if err := checkStrings(channel, &pubkey, clientID); err != nil {
		return 0, err
	}
	return c.publish(&publish{completion: done, event: event{kind: changed, a: channel, b: pubkey, c: clone(clientID)}})
}

// SendFunc publishes payload on a text channel. Everything else is as in NotifyFunc: ErrChannel
// means that the channel is a change channel.
func (c *Client) SendFunc(channel, payload string, done func(seq uint64, err error)) error {
	_, err := c.send(channel, payload, completionOf(done))
	return err
}

// Send is as SendFunc, and waits for the outcome as Notify does.
func (c *Client) Send(ctx context.Context, channel, payload string) (seq uint64, err error) {
	w := newWaiter()
	id, err := c.send(channel, payload, &w.completion)
	if err != nil {
		return 0, err
	}
	return w.wait(ctx, c, func() { c.pubs.take(id) })
}

func (c *Client) send(channel, payload string, done *completion) (id uint64, err error) {
	if err := checkStrings(channel, &payload); err != nil {
		return 0, err
	}
	return c.publish(&publish{completion: done, event: event{kind: messaged, a: channel, b: payload}})
}

func (c *Client) publish(pub *publish) (id uint64, err error) {
	ev := &pub.event
	pub.cost = requestCost + len(ev.a) + len(ev.b)
	if ev.c != nil {
		pub.cost += len(*ev.c)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed.Load() {
		return 0, ErrClosed
	}
	pub.id = c.nextID
	pub.deadline = time.Now().Add(c.options.Deadline)
	if c.socket == "" && c.bytes+pub.cost > c.options.QueueSize {
		return 0, ErrQueueFull
	}
	first := c.pubs.oldest() == nil
	if err := c.pubs.add(pub); err != nil {
		return 0, err
	}
	c.nextID++
	if first {
		c.timer.Reset(c.options.Deadline)
	}
	c.requested()
	// A callback that waits for the outcome keeps Run from its turn.
	if c.socket == "" && c.running && pub.completion != nil && pub.direct {
		c.localTurn()
	}
	return pub.id, nil
}

// expire runs at the deadline of a request, or later.
func (c *Client) expire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	pub := c.pubs.oldest()
	// An answer that has arrived is in time, however late the process runs again, or the app lets
	// the client read.
	busy := c.relieveNow()
	if pub != nil && !pub.deadline.After(now) && !c.late && (busy || now.Sub(pub.deadline) > standstill) {
		c.late = true
		c.timer.Reset(standstill)
		return
	}
	c.late = false
	for ; pub != nil && !pub.deadline.After(now); pub = c.pubs.oldest() {
		c.finish(c.pubs.take(pub.id).completion, 0, ErrTimeout)
	}
	if pub != nil {
		c.timer.Reset(time.Until(pub.deadline))
	}
}

// The local notifier

func (c *Client) localStart() {
	c.mu.Lock()
	defer c.mu.Unlock()
	states := []event{{kind: stated, state: Connected, a: "in-process"}, {kind: stated, state: UpstreamLive}}
	c.events = append(states, c.events...)
}

// localTurn delivers what was published so far. c.mu is held.
func (c *Client) localTurn() {
	for pub := c.pubs.next(); pub != nil; pub = c.pubs.next() {
		c.pubs.take(pub.id)
		c.localSeq++
		c.finish(pub.completion, c.localSeq, nil)
		ev := pub.event
		ev.seq = c.localSeq
		pubkey := &ev.b
		if ev.kind == messaged {
			pubkey = nil
		}
		if c.subs.match(ev.a, pubkey) {
			c.queue(ev, pub.cost)
		}
	}
}
