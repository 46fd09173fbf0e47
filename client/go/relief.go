package pgherald

import "sync/atomic"

// Run reads the connection and runs the callbacks, both in its goroutine: a change costs no switch.
// A callback that waits for the answer to a request would wait for ever. So while one waits, a
// second goroutine reads, and keeps the events for Run: the relief. It begins when a caller has
// waited for a while and Run is still in the same callback, and ends when that callback returns.

// calls says whether Run is in a callback. A callback is a number that is 1 modulo 4, 2 with a
// relief; between callbacks it is 0 modulo 4.
type calls struct {
	state atomic.Uint64
	at    uint64 // as Run knows it
}

func (c *calls) begin() { c.state.Store(c.at + 1) }

// end reports whether there was no relief. If there was, it has to be ended.
func (c *calls) end() bool {
	alone := c.state.CompareAndSwap(c.at+1, c.at+4)
	if !alone {
		c.state.Store(c.at + 4)
	}
	c.at += 4
	return alone
}

func (c *calls) now() uint64 { return c.state.Load() }

// relieved takes the place of Run, which must still be in that callback.
func (c *calls) relieved(callback uint64) bool {
	return callback%4 == 1 && c.state.CompareAndSwap(callback, callback+1)
}

type relief struct {
	active bool          // it reads, and not Run; for whoever reads
	stop   bool          // Run goes on
	ended  chan struct{} // nil: there is none
}

// relieve begins a relief if Run is still in the callback of when the caller looked last. It
// returns what it sees now.
func (c *Client) relieve(seen uint64) uint64 {
	now := c.calls.now()
	if now != seen || c.socket == "" {
		return now
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.beginRelief(seen)
	return now
}

// relieveNow begins a relief if Run is in a callback, and reports whether it is. c.mu is held.
func (c *Client) relieveNow() bool {
	now := c.calls.now()
	if now%4 == 1 && c.socket != "" {
		c.beginRelief(now)
	}
	return now%4 != 0
}

// c.mu is held.
func (c *Client) beginRelief(callback uint64) {
	if c.closed.Load() || !c.calls.relieved(callback) {
		return
	}
	ended := make(chan struct{})
	c.relief = relief{active: true, ended: ended}
	go func() {
		defer close(ended)
		for c.goesOn() {
			c.step()
		}
	}()
}

// goesOn waits while too many events wait for Run.
func (c *Client) goesOn() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.closed.Load() && !c.relief.stop && c.bytes > eventsSoft && !(c.requestsWait() && c.bytes < eventsHard) {
		c.room.Wait()
	}
	return !c.closed.Load() && !c.relief.stop
}

// endRelief: the callback has returned, and Run reads again.
func (c *Client) endRelief() {
	c.mu.Lock()
	c.relief.stop = true
	ended := c.relief.ended
	c.room.Broadcast()
	c.ring()
	c.mu.Unlock()
	if ended != nil {
		<-ended
	}
	c.mu.Lock()
	c.relief = relief{}
	c.mu.Unlock()
}

func (c *Client) requestsWait() bool {
	return c.subs.waiting > 0 || c.pubs.oldest() != nil
}
