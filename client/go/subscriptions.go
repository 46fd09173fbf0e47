package pgherald

import "container/list"

const (
	// channelMax is bytes: PostgreSQL's own limit for the name of a channel.
	channelMax = 63
	// batchPubkeys and batchBytes bound the pubkeys in one frame, so that it stays below frameMax.
	batchPubkeys = 512
	batchBytes   = 32768
)

// How far a subscription is with the relay.
type stage int

const (
	due     stage = iota // the relay must be asked
	asked                // SUBSCRIBE was sent
	live                 // and answered by OK
	refused              // or by ERROR; due again on the next connection
	leaving              // it has no holder, and the relay must be told
	nStages
)

// A completion is told how a request ended. It runs exactly once.
type completion struct {
	done func(seq uint64, err error)
	// A caller waits for it, so it runs at once, in whatever goroutine. It must not block. The
	// others run in Run, in order with the events.
	direct bool
}

type subscription struct {
	channel    *channel
	pubkey     *string // nil: all
	stage      stage
	at         *list.Element // in its channel's list of that stage
	atRelay    bool          // SUBSCRIBE was sent on this connection, and nothing has undone it
	wasRefused bool          // so there is a gap to tell when it becomes live
	holders    int           // 0 exactly if leaving
	id         uint64        // of the SUBSCRIBE, while asked
	seq        uint64        // since when it is live
	waiters    []*completion
}

type channel struct {
	name     string
	all      *subscription
	byPubkey map[string]*subscription
	stages   [nStages]list.List
}

// subscriptions is what a client is subscribed to, how many holders each subscription has, and what
// the relay knows of it. Each (channel, pubkey or all) exists once. It is memory alone: the client
// asks it what to send, and passes the answers on.
type subscriptions struct {
	channels map[string]*channel
	batches  map[uint64][]*subscription // what a SUBSCRIBE has asked for, by its id
	waiting  int                        // waiters
	finish   func(*completion, uint64, error)
}

func newSubscriptions(finish func(*completion, uint64, error)) *subscriptions {
	return &subscriptions{channels: map[string]*channel{}, batches: map[uint64][]*subscription{}, finish: finish}
}

func (s *subscriptions) find(name string, pubkey *string) *subscription {
	c := s.channels[name]
	if c == nil {
		return nil
	}
	if pubkey == nil {
		return c.all
	}
	return c.byPubkey[*pubkey]
}

func (s *subscriptions) make(name string, pubkey *string) *subscription {
	c := s.channels[name]
	if c == nil {
		c = &channel{name: name, byPubkey: map[string]*subscription{}}
		s.channels[name] = c
	}
	sub := &subscription{channel: c, pubkey: pubkey}
	if pubkey == nil {
		c.all = sub
	} else {
		c.byPubkey[*pubkey] = sub
	}
	sub.at = c.stages[due].PushBack(sub)
	return sub
}

func (sub *subscription) move(to stage) {
	sub.channel.stages[sub.stage].Remove(sub.at)
	sub.stage = to
	sub.at = sub.channel.stages[to].PushBack(sub)
}

func (s *subscriptions) end(sub *subscription) {
	c := sub.channel
	c.stages[sub.stage].Remove(sub.at)
	if sub.pubkey == nil {
		c.all = nil
	} else {
		delete(c.byPubkey, *sub.pubkey)
	}
	if c.all == nil && len(c.byPubkey) == 0 {
		delete(s.channels, c.name)
	}
}

// tellWaiters returns how many there were.
func (s *subscriptions) tellWaiters(sub *subscription, seq uint64, err error) int {
	waiters := sub.waiters
	sub.waiters = nil
	s.waiting -= len(waiters)
	for _, waiter := range waiters {
		s.finish(waiter, seq, err)
	}
	return len(waiters)
}

// add adds a holder. waiter may be nil.
func (s *subscriptions) add(name string, pubkey *string, waiter *completion) {
	sub := s.find(name, pubkey)
	if sub == nil {
		sub = s.make(name, pubkey)
	}
	sub.holders++
	// One that was leaving may still be live at the relay. To ask again is harmless, and the OK
	// gives the seq.
	if sub.stage == leaving || sub.stage == refused {
		sub.move(due)
	}
	if waiter == nil {
		return
	}
	sub.waiters = append(sub.waiters, waiter)
	s.waiting++
	if sub.stage == live {
		s.tellWaiters(sub, sub.seq, nil)
	}
}

// remove removes a holder. After the last one, the waiters are told ErrCanceled.
func (s *subscriptions) remove(name string, pubkey *string) error {
	sub := s.find(name, pubkey)
	if sub == nil || sub.holders == 0 {
		return ErrNotSubscribed
	}
	if sub.holders--; sub.holders > 0 {
		return nil
	}
	s.tellWaiters(sub, 0, ErrCanceled)
	if sub.atRelay {
		sub.move(leaving)
	} else {
		s.end(sub)
	}
	return nil
}

// forget removes a waiter that nobody waits for any more, and its holder. If it was told already,
// nothing changes.
func (s *subscriptions) forget(name string, pubkey *string, waiter *completion) {
	sub := s.find(name, pubkey)
	if sub == nil {
		return
	}
	for i, w := range sub.waiters {
		if w == waiter {
			sub.waiters = append(sub.waiters[:i], sub.waiters[i+1:]...)
			s.waiting--
			s.remove(name, pubkey)
			return
		}
	}
}

// encode packs the next SUBSCRIBE or UNSUBSCRIBE that is due. It returns false if none is.
func (s *subscriptions) encode(e *encoder, id uint64) bool {
	for _, c := range s.channels {
		// Leaving first: if the relay's limit of subscriptions is near, that makes room.
		for _, from := range []stage{leaving, due} {
			if c.stages[from].Len() > 0 {
				s.encodeStage(e, c, from, id)
				return true
			}
		}
	}
	return false
}

func (s *subscriptions) encodeStage(e *encoder, c *channel, from stage, id uint64) {
	var batch []*subscription
	var pubkeys []string
	size := 0
	for at := c.stages[from].Front(); at != nil && len(batch) < batchPubkeys && size < batchBytes; at = at.Next() {
		sub := at.Value.(*subscription)
		// The subscription for all has a frame of its own.
		if sub.pubkey == nil {
			if batch == nil {
				batch = append(batch, sub)
			}
			break
		}
		batch = append(batch, sub)
		pubkeys = append(pubkeys, *sub.pubkey)
		size += len(*sub.pubkey)
	}
	kind := uint64(typeSubscribe)
	if from == leaving {
		kind = typeUnsubscribe
	}
	e.subscribe(kind, id, c.name, pubkeys)
	for _, sub := range batch {
		if from == leaving {
			s.end(sub)
			continue
		}
		sub.id = id
		sub.atRelay = true
		sub.move(asked)
	}
	if from == due {
		s.batches[id] = batch
	}
}

// take returns the subscriptions that the SUBSCRIBE with this id asked for and that still wait for
// its answer.
func (s *subscriptions) take(id uint64) (batch []*subscription) {
	for _, sub := range s.batches[id] {
		if sub.stage == asked && sub.id == id {
			batch = append(batch, sub)
		}
	}
	delete(s.batches, id)
	return batch
}

// answeredOK reports whether a SUBSCRIBE with this id was waiting, and whether a subscription is
// live that was refused before.
func (s *subscriptions) answeredOK(id, seq uint64) (known, renewed bool) {
	_, known = s.batches[id]
	for _, sub := range s.take(id) {
		renewed = renewed || sub.wasRefused
		sub.wasRefused = false
		s.becomeLive(sub, seq)
	}
	return known, renewed
}

func (s *subscriptions) becomeLive(sub *subscription, seq uint64) {
	sub.seq = seq
	sub.move(live)
	s.tellWaiters(sub, seq, nil)
}

// answeredError reports whether a SUBSCRIBE with this id was waiting, and whether a subscription is
// refused that has more holders than waiters.
func (s *subscriptions) answeredError(id uint64, err error) (known, untold bool) {
	_, known = s.batches[id]
	for _, sub := range s.take(id) {
		sub.wasRefused = true
		sub.atRelay = false
		sub.move(refused)
		told := s.tellWaiters(sub, 0, err)
		untold = untold || told < sub.holders
	}
	return known, untold
}

// restart: the connection is lost. Every subscription with a holder is due again.
func (s *subscriptions) restart() {
	s.batches = map[uint64][]*subscription{}
	for _, c := range s.channels {
		for _, from := range []stage{asked, live, refused} {
			for c.stages[from].Len() > 0 {
				sub := c.stages[from].Front().Value.(*subscription)
				sub.atRelay = false
				sub.move(due)
			}
		}
		for c.stages[leaving].Len() > 0 {
			s.end(c.stages[leaving].Front().Value.(*subscription))
		}
	}
}

// allLive is for the local notifier: everything that is due becomes live.
func (s *subscriptions) allLive(seq uint64) {
	for _, c := range s.channels {
		for c.stages[due].Len() > 0 {
			s.becomeLive(c.stages[due].Front().Value.(*subscription), seq)
		}
	}
}

// match is for the local notifier. pubkey nil: a message.
func (s *subscriptions) match(name string, pubkey *string) bool {
	return s.find(name, nil) != nil || pubkey != nil && s.find(name, pubkey) != nil
}

func (s *subscriptions) cancel() {
	for _, c := range s.channels {
		for i := range c.stages {
			for at := c.stages[i].Front(); at != nil; at = at.Next() {
				s.tellWaiters(at.Value.(*subscription), 0, ErrCanceled)
			}
		}
	}
}
