// Package notifier has the interface of a notifier that LISTENs to PostgreSQL itself, and a pgherald
// relay behind it. So one line replaces such a notifier:
//
//   - changes := notifier.NewPGNotifier(pool, directURL, events.notifyChange, store)
//   - changes := notifier.New(events.notifyChange, events.pullAll)
//
// Neither the direct URL nor the recovery of what was missed is this process's business any more:
// the relay of the host holds the one LISTEN connection, and asks the database what was missed.
package notifier

import (
	"context"
	"errors"
	"sync"

	"pgherald"
)

// Channel is the channel of the data-sync tables. Its payloads are {"p": pubkey, "c": client id},
// and instances with a relay and instances that LISTEN themselves may share it.
const Channel = "data_sync_changes"

// A ChangeHandler is called for each change, one at a time. clientID says who made it; nil if the
// publisher gave none, or the change was recovered.
type ChangeHandler func(pubkey string, clientID *string)

// A GapHandler is called when changes may have been lost, of any user: do what is done at start,
// such as telling every stream to pull.
type GapHandler func(cause, text string)

// A ChangeNotifier is what an app needs to tell the other instances of a change, and to hear of
// theirs. *Notifier is one.
type ChangeNotifier interface {
	Start(ctx context.Context) error
	Stop()
	Notify(pubkey string, clientID *string) error
}

// Errors for the order of calls.
var (
	ErrStarted    = errors.New("notifier: Start was already called")
	ErrNotStarted = errors.New("notifier: Start was not called")
)

// A Notifier notifies and hears through the relay of this host.
type Notifier struct {
	// Options may be changed before Start: the socket, the name, a cursor, OnState. Start sets
	// OnChange and OnGap.
	Options pgherald.Options
	// Channel may be changed before Start. It is Channel otherwise.
	Channel string

	onChange ChangeHandler
	onGap    GapHandler

	mu     sync.Mutex
	client *pgherald.Client // nil: not started, or stopped
}

// New makes a notifier. onGap may be nil only where a change that is never heard does no harm.
func New(onChange ChangeHandler, onGap GapHandler) *Notifier {
	return &Notifier{Channel: Channel, onChange: onChange, onGap: onGap}
}

// Start subscribes to all changes, and calls the handlers from now on, until ctx is done or Stop. It
// returns at once: the relay need not run yet. An error says that a setting cannot work.
func (n *Notifier) Start(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.client != nil {
		return ErrStarted
	}
	n.Options.OnChange = func(change pgherald.Change) {
		if n.onChange != nil {
			n.onChange(change.Pubkey, change.ClientID)
		}
	}
	n.Options.OnGap = func(gap pgherald.Gap) {
		if n.onGap != nil {
			n.onGap(gap.Cause, gap.Text)
		}
	}
	client, err := pgherald.Open(n.Options)
	if err != nil {
		return err
	}
	// Without a completion: a refusal is told as a gap, with cause "refused".
	if err := client.SubscribeFunc(n.Channel, pgherald.All, nil); err != nil {
		client.Close()
		return err
	}
	n.client = client
	go client.Run(ctx)
	return nil
}

// Stop ends the notifier. No handler is called any more; one that runs may go on. Start may follow.
func (n *Notifier) Stop() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.client != nil {
		n.client.Close()
		n.client = nil
	}
}

// Notify tells all instances, this one included, that the data of pubkey changed. Call it after the
// change is committed. clientID may be nil. It returns when PostgreSQL has committed the
// notification, or with an error of pgherald.Client.Notify, at the latest after
// Options.Deadline. A handler may call it. After Stop it fails.
func (n *Notifier) Notify(pubkey string, clientID *string) error {
	return n.NotifyContext(context.Background(), pubkey, clientID)
}

// NotifyContext is Notify that ends with ctx. Then the change may still be published.
func (n *Notifier) NotifyContext(ctx context.Context, pubkey string, clientID *string) error {
	n.mu.Lock()
	client := n.client
	n.mu.Unlock()
	if client == nil {
		return ErrNotStarted
	}
	_, err := client.Notify(ctx, n.Channel, pubkey, clientID)
	return err
}

// Cursor returns where a later notifier goes on (Options.Cursor), as pgherald.Client.Cursor does. Ask
// before Stop.
func (n *Notifier) Cursor() (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.client == nil {
		return "", ErrNotStarted
	}
	return n.client.Cursor()
}

var _ ChangeNotifier = (*Notifier)(nil)
