package pgherald

import (
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net"
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
	conn      net.Conn
	welcomed  bool   // WELCOME came: requests to publish may go
	beginDue  bool   // HELLO had a resume, and BEGIN must follow the SUBSCRIBEs
	beginID   uint64 // of the BEGIN that waits for its OK; 0: none does
	hello     *resume
	helloDue  bool
	sendError error
	received  place // what HELLO resumes from: everything up to it is here, perhaps not yet told
}

// interrupt ends the connection. A read or write that waits returns.
func (s *session) interrupt() {
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
	return pause/2 + time.Duration(rand.Int63n(int64(pause/2)+1))
}

// converse keeps the client connected until it is closed.
func (c *Client) converse() {
	c.session.received = c.told
	failures, told := 0, ""
	for !c.closed.Load() {
		wasWelcomed, since, err := c.connection()
		if c.closed.Load() {
			return
		}
		if wasWelcomed && time.Since(since) >= retryLast {
			failures = 0
		}
		reason := err.Error()
		if len(reason) > reasonMax {
			reason = strings.ToValidUTF8(reason[:reasonMax], "")
		}
		c.lost(wasWelcomed || reason != told, reason)
		told = reason
		select {
		case <-time.After(pauseAfter(failures)):
		case <-c.closing:
		}
		failures++
	}
}

func (c *Client) lost(tell bool, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.subs.restart()
	c.pubs.restart()
	if tell {
		c.events = append(c.events, event{kind: stated, state: Disconnected, a: reason})
		c.ring()
	}
}

// connection makes one connection, and returns why it ended, whether WELCOME came, and when.
func (c *Client) connection() (wasWelcomed bool, since time.Time, err error) {
	conn, err := net.Dial("unix", c.socket)
	if err != nil {
		return false, since, err
	}
	c.mu.Lock()
	s := &c.session
	*s = session{conn: conn, received: s.received, helloDue: true}
	if s.received.set {
		from := s.received.resume
		s.hello, s.beginDue = &from, true
	}
	c.mu.Unlock()
	if c.closed.Load() { // perhaps before it could be interrupted
		conn.Close()
	}

	sent := make(chan struct{})
	stop := make(chan struct{})
	go func() {
		defer close(sent)
		c.sends(conn, stop)
	}()
	r := receiver{c: c}
	err = r.receive(conn)
	conn.Close()
	close(stop)
	<-sent
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.sendError != nil && errors.Is(err, errNoEnd) {
		err = s.sendError
	}
	s.conn, s.welcomed = nil, false
	return r.welcomed, r.since, err
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
			c.mu.Unlock()
			conn.SetReadDeadline(time.Now().Add(brokenPatience))
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

// A receiver reads the frames of one connection.
type receiver struct {
	c        *Client
	welcomed bool
	since    time.Time
	events   []event // not yet handed to Run
	bytes    int
	channel  string // of the last change: most are of one channel
}

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

// receive returns why the connection ended.
func (r *receiver) receive(conn net.Conn) error {
	in := make([]byte, inSize)
	start, end := 0, 0
	var s scanner
	for {
		n, err := conn.Read(in[end:])
		end += n
		for failed := error(nil); failed == nil; {
			var length int
			length, failed = r.frame(&s, in[start:end])
			start += length
			if failed != nil && failed != errShort {
				r.hand()
				return failed
			}
		}
		r.hand()
		r.c.awaitRoom()
		var timeout net.Error
		switch {
		case errors.Is(err, io.EOF):
			return errors.New("connection lost: the relay closed it")
		case errors.As(err, &timeout) && timeout.Timeout():
			return errNoEnd
		case err != nil:
			return fmt.Errorf("connection lost: %w", cause(err))
		}
		// What is left is part of one frame, so this makes room for at least a whole one.
		end = copy(in, in[start:end])
		start = 0
		if r.c.closed.Load() {
			return ErrClosed
		}
	}
}

// hand gives the events to Run.
func (r *receiver) hand() {
	if len(r.events) == 0 {
		return
	}
	c := r.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range r.events {
		r.events[i].moves(&c.session.received)
	}
	c.events = append(c.events, r.events...)
	c.bytes += r.bytes + eventCost*len(r.events)
	r.events, r.bytes = r.events[:0], 0
	c.ring()
}

// awaitRoom waits while too many events wait for Run.
func (c *Client) awaitRoom() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.closed.Load() && c.bytes > eventsSoft && !(c.requestsWait() && c.bytes < eventsHard) {
		c.room.Wait()
	}
}

func (c *Client) requestsWait() bool {
	return c.subs.waits() || c.pubs.oldest() != nil
}

// frame handles the frame that begins at buf, and returns its length. errShort: it has not arrived
// whole. Other errors end the connection.
func (r *receiver) frame(s *scanner, buf []byte) (int, error) {
	if s.offset == 0 && r.welcomed {
		var raw rawChange
		if length := readChange(buf, &raw); length > 0 {
			r.change(&raw)
			r.bytes += length
			return length, nil
		}
	}
	if err := s.scan(buf); err != nil {
		if err != errShort {
			err = broken("no frame")
		}
		return 0, err
	}
	length := s.offset
	*s = scanner{}
	f, err := decode(buf[:length])
	if err == errUnknown {
		return length, nil
	}
	if err != nil {
		return length, broken("no frame")
	}
	r.bytes += length
	return length, r.handle(&f)
}

func (r *receiver) change(raw *rawChange) {
	if string(raw.channel) != r.channel {
		r.channel = string(raw.channel)
	}
	// One allocation for both strings.
	both := string(append(append(make([]byte, 0, 128), raw.pubkey...), raw.clientID...))
	ev := event{kind: changed, seq: raw.seq, inBacklog: !raw.seqNil, recovered: raw.flags&flagRecovered != 0,
		a: r.channel, b: both[:len(raw.pubkey)]}
	if !raw.clientNil {
		clientID := both[len(raw.pubkey):]
		ev.c = &clientID
	}
	r.events = append(r.events, ev)
}

func (r *receiver) handle(f *frame) error {
	v := f.elements
	switch f.kind {
	case typeWelcome:
		return r.onWelcome(v)
	case typeError:
		return r.onError(v)
	case typeBye:
		return fmt.Errorf("the relay said %s: %s", v[0].s, v[1].s)
	}
	if !r.welcomed {
		return broken("no WELCOME")
	}
	ev := event{seq: v[0].n, inBacklog: !v[0].isNil}
	switch f.kind {
	case typeOK:
		r.onOK(v[0].n, v[1].n)
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
	r.events = append(r.events, ev)
	return nil
}

func upstream(state string) Event {
	if state == "live" {
		return UpstreamLive
	}
	return UpstreamDown
}

func (r *receiver) onWelcome(v []value) error {
	version, epoch, seq, info := v[0].n, v[1].s, v[2].n, v[3].info
	if r.welcomed || version != wireVersion || len(epoch) > epochMax {
		return broken("WELCOME")
	}
	r.welcomed, r.since = true, time.Now()
	r.c.mu.Lock()
	r.c.session.welcomed = true
	r.c.mu.Unlock()
	r.c.kickSender()
	r.events = append(r.events,
		event{kind: welcomed, a: epoch, seq: seq},
		event{kind: stated, state: Connected, a: info.mode},
		event{kind: stated, state: upstream(info.upstream)})
	return nil
}

// answers runs what an answer does, and puts the completions that follow in order with the events.
func (r *receiver) answers(run func(c *Client)) {
	r.hand()
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	run(r.c)
}

func (c *Client) gapRefused(text string) {
	c.events = append(c.events, event{kind: gapped, a: "refused", b: text})
	c.ring()
}

func (r *receiver) onOK(id, seq uint64) {
	r.answers(func(c *Client) {
		if s := &c.session; s.beginID != 0 && id == s.beginID {
			s.beginID = 0
			r.events = append(r.events, event{kind: caughtUp, seq: seq})
			return
		}
		if known, renewed := c.subs.answeredOK(id, seq); known {
			if renewed {
				c.gapRefused("a subscription that was refused is live")
			}
			return
		}
		// Nothing waits for the OK to an UNSUBSCRIBE, or to a request that has timed out.
		c.answered(id, seq, nil)
	})
}

func (r *receiver) onError(v []value) (err error) {
	id, code, text := v[0].n, v[1].s, v[2].s
	if v[0].isNil {
		return nil
	}
	r.answers(func(c *Client) {
		if s := &c.session; s.beginID != 0 && id == s.beginID {
			err = errors.New("the relay refused to resume")
			return
		}
		why := errorOfCode(code, text)
		if known, untold := c.subs.answeredError(id, why); known {
			if untold {
				c.gapRefused(text)
			}
			return
		}
		c.answered(id, 0, why)
	})
	return err
}

// answered: the outcome of a request to publish. c.mu is held.
func (c *Client) answered(id, seq uint64, err error) {
	if pub := c.pubs.byID[id]; pub != nil && pub.isSent {
		c.finish(c.pubs.take(id).completion, seq, err)
	}
}
