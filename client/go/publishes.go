package pgherald

import (
	"container/list"
	"time"
)

// requestCost is bytes that a request to publish counts beside its strings.
const requestCost = 128

type publish struct {
	id          uint64
	deadline    time.Time
	frame       []byte
	*completion // nil: nobody asked
	cost        int
	at          *list.Element // in sent or queued
	isSent      bool
	event       event // what the local notifier delivers
}

// publishes is the requests to publish that have no answer yet: bounded in bytes, and kept until
// they are answered so that they can be sent again. All requests get the same time, so both lists
// are ordered by deadline as well as by id, and all of sent are older than all of queued.
type publishes struct {
	sent, queued list.List
	byID         map[uint64]*publish
	bytes, limit int
}

func (p *publishes) add(pub *publish) error {
	if p.bytes+pub.cost > p.limit {
		return ErrQueueFull
	}
	p.bytes += pub.cost
	p.byID[pub.id] = pub
	pub.at = p.queued.PushBack(pub)
	return nil
}

// next returns the next to send, or nil.
func (p *publishes) next() *publish {
	if front := p.queued.Front(); front != nil {
		return front.Value.(*publish)
	}
	return nil
}

func (p *publishes) wasSent(pub *publish) {
	p.queued.Remove(pub.at)
	pub.isSent = true
	pub.at = p.sent.PushBack(pub)
}

// take removes one: it was answered, or nobody waits for it any more. nil: there is no such.
func (p *publishes) take(id uint64) *publish {
	pub := p.byID[id]
	if pub == nil {
		return nil
	}
	delete(p.byID, id)
	p.bytes -= pub.cost
	if pub.isSent {
		p.sent.Remove(pub.at)
	} else {
		p.queued.Remove(pub.at)
	}
	return pub
}

// oldest returns the one whose deadline is next, or nil.
func (p *publishes) oldest() *publish {
	front := p.sent.Front()
	if front == nil {
		front = p.queued.Front()
	}
	if front == nil {
		return nil
	}
	return front.Value.(*publish)
}

// restart: the connection is lost. What was sent and not answered goes first on the next one.
func (p *publishes) restart() {
	for at := p.sent.Back(); at != nil; at = p.sent.Back() {
		pub := p.sent.Remove(at).(*publish)
		pub.isSent = false
		pub.at = p.queued.PushFront(pub)
	}
}
