package notifier_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"pgherald"
	"pgherald/notifier"
)

func Example() {
	heard := make(chan string)
	onChange := func(pubkey string, clientID *string) { heard <- pubkey + " by " + *clientID }
	onGap := func(cause, text string) { fmt.Println("every stream pulls:", text) }

	// The line that replaces a notifier that LISTENs itself.
	changes := notifier.New(onChange, onGap)

	changes.Options.Local = true // for this example: without a relay
	if err := changes.Start(context.Background()); err != nil {
		fmt.Println(err)
		return
	}
	defer changes.Stop()
	phone := "phone"
	if err := changes.Notify("alice", &phone); err != nil {
		fmt.Println(err)
	}
	fmt.Println(<-heard)
	// Output: alice by phone
}

func TestStartAndStop(t *testing.T) {
	heard := make(chan *string, 2)
	n := notifier.New(func(_ string, clientID *string) { heard <- clientID }, nil)
	n.Options.Local = true
	if err := n.Notify("alice", nil); !errors.Is(err, notifier.ErrNotStarted) {
		t.Error("before Start:", err)
	}
	for i := 0; i < 2; i++ {
		if err := n.Start(context.Background()); err != nil {
			t.Fatal(err)
		}
		if err := n.Start(context.Background()); !errors.Is(err, notifier.ErrStarted) {
			t.Error("a second Start:", err)
		}
		if err := n.Notify("alice", nil); err != nil {
			t.Error(err)
		}
		select {
		case clientID := <-heard:
			if clientID != nil {
				t.Error(*clientID)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("nothing was heard")
		}
		n.Stop()
		n.Stop()
		if err := n.Notify("alice", nil); !errors.Is(err, notifier.ErrNotStarted) {
			t.Error("after Stop:", err)
		}
	}
}

func TestASettingThatCannotWork(t *testing.T) {
	n := notifier.New(nil, nil)
	n.Options.Cursor = "garbage"
	if err := n.Start(context.Background()); !errors.Is(err, pgherald.ErrCursor) {
		t.Error(err)
	}
}

func TestContextStops(t *testing.T) {
	n := notifier.New(nil, nil)
	n.Options.Local = true
	ctx, cancel := context.WithCancel(context.Background())
	if err := n.Start(ctx); err != nil {
		t.Fatal(err)
	}
	cancel()
	for deadline := time.Now().Add(10 * time.Second); !errors.Is(n.Notify("alice", nil), pgherald.ErrClosed); {
		if time.Now().After(deadline) {
			t.Fatal("it goes on")
		}
	}
}
