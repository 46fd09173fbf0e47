package pgherald

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"strings"
	"time"
)

const (
	// The first and the longest pause before connecting again. The socket is local, so the first is
	// short.
	retryFirst = 50 * time.Millisecond
	retryLast  = 2 * time.Second

	// inSize is bytes: room for a partial frame, and as much again.
	inSize = 2 * frameMax
	// outSize is the most bytes in one write.
	outSize = frameMax
	// reasonMax is bytes of the reason of a lost connection, of which the relay chooses a part.
	reasonMax = 255
	// brokenPatience is how long a connection that takes no bytes any more is still read.
	brokenPatience = time.Second
	// eventCost is bytes that an event takes beside its frame.
	eventCost = 128
)

// A session is one connection after the other to the relay, as PROTOCOL.md has it: HELLO, resuming,
// requests and answers, and what follows when the connection breaks. Client.mu guards it.
type session struct {
	conn        net.Conn
	welcomed    bool   // WELCOME came: requests to publish may go
	beginDue    bool   // HELLO had a resume, and BEGIN must follow the SUBSCRIBEs
	beginID     uint64 // of the BEGIN that waits for its OK; 0: none does
	hello       *resume
	helloDue    bool
	sendError   error
	reading     bool // conn is read now
	interrupted bool // and was told to return

	// Of whoever reads: Run, or a relief in its place.
	link     *link
	received place // what HELLO resumes from: everything up to it is here, perhaps not yet told
	retry    time.Time
	failures int
	reason   string // why it is not connected, as the app was told last
}

// A link is one connection, as it is read.
type link struct {
	conn       net.Conn
	in         []byte
	start, end int // of what was received and not yet handled
	scanner    scanner
	welcomed   bool
	since      time.Time
	channel    string        // of the last change: most are of one channel
	stop, sent chan struct{} // for what sends; closed when it has ended
}

// interrupt lets a read return at once.
func (s *session) interrupt() {
	if s.reading && !s.interrupted {
		s.interrupted = true
		s.conn.SetReadDeadline(time.Unix(1, 0))
	}
}

// end ends the connection. A read or write that waits returns.
func (s *session) end() {
	if s.conn != nil {
		s.conn.Close()
	}
}

// pauseAfter returns at least half of the full pause; the rest is random. So the workers of a relay
// that restarts do not reconnect all at once.
func pauseAfter(failures int) time.Duration {
	pause := retryLast
	if failures < 6 && retryFirst<<failures < retryLast {
		pause = retryFirst << failures
	}
	// Not math/rand, which before Go 1.20 has the same numbers in each process.
	var chance [2]byte
	if _, err := rand.Read(chance[:]); err != nil {
		return pause
	}
	return pause/2 + pause/2*time.Duration(binary.BigEndian.Uint16(chance[:]))/math.MaxUint16
}

// step waits for what comes next, and handles it: something from the relay, the end of the pause
// before it connects again, or something else for Run.
func (c *Client) step() {
	s := &c.session
	if s.link != nil {
		l := s.link
		if err := c.receive(l); err != nil && s.link == l && !c.closed.Load() {
			c.lost(err)
		}
		return
	}
	if wait := time.Until(s.retry); wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		c.pause(timer.C)
		return
	}
	if err := c.connect(); err != nil && !c.closed.Load() {
		c.lost(err)
	}
}

func (c *Client) connect() error {
	conn, err := net.Dial("unix", c.socket)
	if err != nil {
		return err
	}
	l := &link{conn: conn, in: make([]byte, inSize), stop: make(chan struct{}), sent: make(chan struct{})}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &c.session
	s.link, s.conn, s.helloDue, s.hello, s.beginDue, s.sendError = l, conn, true, nil, false, nil
	if s.received.set {
		from := s.received.resume
		s.hello, s.beginDue = &from, true
	}
	if c.closed.Load() { // just before
		conn.Close()
	}
	go func() {
		defer close(l.sent)
		c.sends(conn, l.stop)
	}()
	return nil
}

// disconnect ends the connection. It returns whether it had been welcomed, and how long ago.
func (c *Client) disconnect() (wasWelcomed bool, since time.Duration) {
	s := &c.session
	if s.link == nil {
		return false, 0
	}
	l := s.link
	l.conn.Close()
	close(l.stop)
	<-l.sent
	c.mu.Lock()
	defer c.mu.Unlock()
	s.link, s.conn, s.welcomed, s.beginID = nil, nil, false, 0
	return l.welcomed, time.Since(l.since)
}

// lost is the only way to end a connection that failed: one that broke, and one that could not be
// made.
func (c *Client) lost(err error) {
	s := &c.session
	wasWelcomed, since := c.disconnect()
	if s.sendError != nil && errors.Is(err, errNoEnd) {
		err = s.sendError
	}
	if wasWelcomed && since >= retryLast {
		s.failures = 0
	}
	s.retry = time.Now().Add(pauseAfter(s.failures))
	s.failures++
	reason := err.Error()
	if len(reason) > reasonMax {
		reason = strings.ToValidUTF8(reason[:reasonMax], "")
	}
	c.mu.Lock()
	c.subs.restart()
	c.pubs.restart()
	c.mu.Unlock()
	if wasWelcomed || reason != s.reason {
		s.reason = reason
		c.event(&event{kind: stated, state: Disconnected, a: reason}, 0)
	}
}

// errNoEnd: the relay takes no bytes, and has not closed the connection either.
var errNoEnd = errors.New("connection lost: the relay takes no bytes")

// Sending

// sends sends what is due, until the connection ends.
func (c *Client) sends(conn net.Conn, stop <-chan struct{}) {
	e := newEncoder()
	for {
		c.mu.Lock()
		c.fill(e)
		c.mu.Unlock()
		if e.buf.Len() == 0 {
			select {
			case <-c.kick:
				continue
			case <-stop:
				return
			}
		}
		_, err := conn.Write(e.buf.Bytes())
		e.buf.Reset()
		if err != nil {
			// What the relay sent before it closed can still be read, above all its reason.
			c.mu.Lock()
			c.session.sendError = fmt.Errorf("connection lost: %w", cause(err))
			conn.SetReadDeadline(time.Now().Add(brokenPatience))
			c.mu.Unlock()
			return
		}
	}
}

// fill packs what is due, as far as it fits, in this order: HELLO, (UN)SUBSCRIBEs, BEGIN, requests
// to publish. c.mu is held.
func (c *Client) fill(e *encoder) {
	s := &c.session
	if s.helloDue {
		s.helloDue = false
		e.hello(c.options.Name, s.hello)
	}
	for e.buf.Len() < outSize && c.subs.encode(e, c.nextID) {
		c.nextID++
	}
	if e.buf.Len() >= outSize {
		return
	}
	if s.beginDue {
		s.beginDue = false
		s.beginID = c.nextID
		e.request(typeBegin, s.beginID)
		c.nextID++
	}
	for s.welcomed && e.buf.Len() < outSize {
		pub := c.pubs.next()
		if pub == nil {
			return
		}
		if ev := &pub.event; ev.kind == changed {
			e.notify(pub.id, ev.a, ev.b, ev.c)
		} else {
			e.send(pub.id, ev.a, ev.b)
		}
		c.pubs.wasSent(pub)
	}
}

// Receiving

func broken(what string) error {
	return errors.New("the relay broke the protocol: " + what)
}

// cause: without the addresses, which are no news.
func cause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// event tells the app of an event, or keeps it for Run.
func (c *Client) event(ev *event, size int) {
	ev.moves(&c.session.received)
	if c.closed.Load() {
		return
	}
	if !c.relief.active {
		c.tell(ev)
		return
	}
	c.mu.Lock()
	c.queue(*ev, size)
	c.mu.Unlock()
}

// receive handles the frames that have arrived whole, and then receives more. The error says why the
// connection ended.
func (c *Client) receive(l *link) error {
	if err := c.handleFrames(l); err != nil || c.session.link != l || c.closed.Load() {
		return err
	}
	// What is left is part of one frame, so this makes room for at least a whole one.
	l.end = copy(l.in, l.in[l.start:l.end])
	l.start = 0
	n, err := c.read(l)
	l.end += n
	switch {
	case err == nil:
		return nil
	case n > 0: // the next read says it again
		return nil
	case errors.Is(err, io.EOF):
		return errors.New("connection lost: the relay closed it")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errNoEnd
	}
	return fmt.Errorf("connection lost: %w", cause(err))
}

// read reads once. It returns 0 and nil when there is something else to do.
func (c *Client) read(l *link) (int, error) {
	s := &c.session
	c.mu.Lock()
	if len(c.events) > 0 && !c.relief.active || c.relief.stop || c.closed.Load() {
		c.mu.Unlock()
		return 0, nil
	}
	s.reading = true
	c.mu.Unlock()
	n, err := l.conn.Read(l.in[l.end:])
	c.mu.Lock()
	defer c.mu.Unlock()
	s.reading = false
	if !s.interrupted {
		return n, err
	}
	s.interrupted = false
	deadline := time.Time{}
	if s.sendError != nil {
		deadline = time.Now().Add(brokenPatience)
	}
	l.conn.SetReadDeadline(deadline)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = nil
	}
	return n, err
}

// handleFrames handles the frames that have arrived whole. A callback may have a relief read on
// meanwhile, so what it knows of the link it looks up again.
func (c *Client) handleFrames(l *link) error {
	for c.session.link == l && !c.closed.Load() {
		err := c.frame(l)
		if err == errShort {
			return nil
		}
		if err != nil {
			return err
		}
		if !c.relief.active && c.some.Load() {
			c.drain()
		}
	}
	return nil
}

// frame handles the next frame. errShort: it has not arrived whole. Other errors end the connection.
func (c *Client) frame(l *link) error {
	buf := l.in[l.start:l.end]
	if l.scanner.offset == 0 && l.welcomed {
		var raw rawChange
		if length := readChange(buf, &raw); length > 0 {
			l.start += length
			ev := l.change(&raw)
			c.event(&ev, length)
			return nil
		}
	}
	if err := l.scanner.scan(buf); err != nil {
		if err != errShort {
			err = broken("no frame")
		}
		return err
	}
	length := l.scanner.offset
	l.scanner = scanner{}
	l.start += length
	f, err := decode(buf[:length])
	if err == errUnknown {
		return nil
	}
	if err != nil {
		return broken("no frame")
	}
	return c.handle(l, &f, length)
}

func (l *link) change(raw *rawChange) event {
	if string(raw.channel) != l.channel {
		l.channel = string(raw.channel)
	}
	// One allocation for both strings.
	both := string(append(append(make([]byte, 0, 128), raw.pubkey...), raw.clientID...))
	ev := event{kind: changed, seq: raw.seq, inBacklog: !raw.seqNil, recovered: raw.flags&flagRecovered != 0,
		a: l.channel, b: both[:len(raw.pubkey)]}
	if !raw.clientNil {
		clientID := both[len(raw.pubkey):]
		ev.c = &clientID
	}
	return ev
}

func (c *Client) handle(l *link, f *frame, size int) error {
	v := f.elements
	switch f.kind {
	case typeWelcome:
		return c.onWelcome(l, v)
	case typeError:
		return c.onError(v)
	case typeBye:
		return fmt.Errorf("the relay said %s: %s", v[0].s, v[1].s)
	}
	if !l.welcomed {
		return broken("no WELCOME")
	}
	ev := event{seq: v[0].n, inBacklog: !v[0].isNil}
	switch f.kind {
	case typeOK:
		c.onOK(v[0].n, v[1].n)
		return nil
	case typeChange:
		ev.kind, ev.a, ev.b = changed, v[1].s, v[2].s
		if !v[3].isNil {
			ev.c = &v[3].s
		}
		ev.recovered = v[4].n&flagRecovered != 0
	case typeMessage:
		ev.kind, ev.a, ev.b, ev.recovered = messaged, v[1].s, v[2].s, v[3].n&flagRecovered != 0
	case typeGap:
		ev.kind, ev.a, ev.b = gapped, v[1].s, v[2].s
	case typeUpstream:
		ev.kind, ev.state, ev.a = stated, upstream(v[1].s), v[2].s
	case typeCheckpoint:
		ev.kind, ev.a = checkpointed, v[1].s
	default: // a frame that only workers send: ignored like an unknown one
		return nil
	}
	c.event(&ev, size)
	return nil
}

func upstream(state string) Event {
	if state == "live" {
		return UpstreamLive
	}
	return UpstreamDown
}

func (c *Client) onWelcome(l *link, v []value) error {
	version, epoch, seq, info := v[0].n, v[1].s, v[2].n, v[3].info
	if l.welcomed || version != wireVersion || len(epoch) > epochMax {
		return broken("WELCOME")
	}
	l.welcomed, l.since = true, time.Now()
	c.mu.Lock()
	c.session.welcomed = true
	c.mu.Unlock()
	c.session.reason = ""
	c.kickSender()
	c.event(&event{kind: welcomed, a: epoch, seq: seq}, 0)
	c.event(&event{kind: stated, state: Connected, a: info.mode}, 0)
	c.event(&event{kind: stated, state: upstream(info.upstream)}, 0)
	return nil
}

func (c *Client) gapRefused(text string) {
	c.queue(event{kind: gapped, a: "refused", b: text}, len(text))
}

// onOK: completions, and a gap that follows, are for Run, which drains them before the next event.
func (c *Client) onOK(id, seq uint64) {
	c.mu.Lock()
	s := &c.session
	if s.beginID != 0 && id == s.beginID {
		s.beginID = 0
		c.mu.Unlock()
		c.event(&event{kind: caughtUp, seq: seq}, 0)
		return
	}
	defer c.mu.Unlock()
	if known, renewed := c.subs.answeredOK(id, seq); known {
		if renewed {
			c.gapRefused("a subscription that was refused is live")
		}
		return
	}
	// Nothing waits for the OK to an UNSUBSCRIBE, or to a request that has timed out.
	c.answered(id, seq, nil)
}

func (c *Client) onError(v []value) error {
	id, code, text := v[0].n, v[1].s, v[2].s
	if v[0].isNil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := &c.session; s.beginID != 0 && id == s.beginID {
		return errors.New("the relay refused to resume")
	}
	why := errorOfCode(code, text)
	if known, untold := c.subs.answeredError(id, why); known {
		if untold {
			c.gapRefused(text)
		}
		return nil
	}
	c.answered(id, 0, why)
	return nil
}

// answered: the outcome of a request to publish. c.mu is held.
func (c *Client) answered(id, seq uint64, err error) {
	if pub := c.pubs.byID[id]; pub != nil && pub.isSent {
		c.finish(c.pubs.take(id).completion, seq, err)
	}
}
