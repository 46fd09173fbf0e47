package pgherald

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vmihailenco/msgpack/v5"
)

// What the conformance suite cannot see, because it is Go's alone: calls that wait, contexts, and
// reading ahead of the callbacks.

const patience = 10 * time.Second

// A relay does and says only what a test tells it to.
type relay struct {
	t        *testing.T
	listener net.Listener
	conn     net.Conn
	*msgpack.Decoder
}

func startRelay(t *testing.T) *relay {
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return &relay{t: t, listener: listener}
}

func (r *relay) path() string { return r.listener.Addr().String() }

// expect takes the next frame, which must be of this type, and returns its id.
func (r *relay) expect(kind uint64) any {
	r.t.Helper()
	r.conn.SetDeadline(time.Now().Add(patience))
	f, err := r.DecodeSlice()
	if err != nil || fmt.Sprint(f[0]) != fmt.Sprint(kind) {
		r.t.Fatalf("expected a frame of type %d, not %v, %v", kind, f, err)
	}
	return f[1]
}

func (r *relay) say(frames ...[]any) {
	r.t.Helper()
	for _, f := range frames {
		data, err := msgpack.Marshal(f)
		if err == nil {
			_, err = r.conn.Write(data)
		}
		if err != nil {
			r.t.Fatal(err)
		}
	}
}

func (r *relay) greet(seq int) {
	r.t.Helper()
	conn, err := r.listener.Accept()
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	r.conn, r.Decoder = conn, msgpack.NewDecoder(conn)
	r.expect(typeHello)
	r.say([]any{typeWelcome, 1, "e", seq, map[string]any{"mode": "local", "upstream": "live"}})
}

func change(seq int, pubkey string) []any { return []any{typeChange, seq, "data", pubkey, nil, 0} }

func ok(id any, seq int) []any { return []any{typeOK, id, seq} }

// open runs a client, which ends with the test.
func open(t *testing.T, o Options) *Client {
	t.Helper()
	c, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.Run(context.Background())
	}()
	t.Cleanup(func() {
		c.Close()
		<-ended
	})
	return c
}

func within(t *testing.T, what <-chan error) error {
	t.Helper()
	select {
	case err := <-what:
		return err
	case <-time.After(patience):
		t.Fatal("it hangs")
		return nil
	}
}

func TestCallsThatWait(t *testing.T) {
	r := startRelay(t)
	c := open(t, Options{Socket: r.path()})
	ended := make(chan error, 1)
	ctx := context.Background()
	go func() {
		if seq, err := c.Subscribe(ctx, "data", All); seq != 11 || err != nil {
			ended <- fmt.Errorf("Subscribe: %d, %w", seq, err)
			return
		}
		if seq, err := c.Notify(ctx, "data", "alice", Pubkey("phone")); seq != 12 || err != nil {
			ended <- fmt.Errorf("Notify: %d, %w", seq, err)
			return
		}
		_, err := c.Send(ctx, "data", "x")
		ended <- err
	}()
	r.greet(10)
	r.say(ok(r.expect(typeSubscribe), 11))
	r.say(ok(r.expect(typeNotify), 12))
	r.say([]any{typeError, r.expect(typeSend), "channel", "data is a change channel"})
	err := within(t, ended)
	var refused *Error
	if !errors.Is(err, ErrChannel) || !errors.As(err, &refused) || refused.Text != "data is a change channel" {
		t.Error(err)
	}
}

func TestCallsThatWaitInACallback(t *testing.T) {
	r := startRelay(t)
	ended := make(chan error, 1)
	var c *Client
	opened := make(chan struct{})
	c = open(t, Options{Socket: r.path(), OnChange: func(change Change) {
		if change.Pubkey != "alice" {
			return
		}
		<-opened
		_, err := c.Subscribe(context.Background(), "data", Pubkey("bob"))
		if err == nil {
			_, err = c.Notify(context.Background(), "data", "bob", nil)
		}
		ended <- err
	}})
	close(opened)
	r.greet(10)
	r.say(change(11, "alice"))
	subscribe := r.expect(typeSubscribe)
	// More than the client reads ahead of its callbacks otherwise.
	for seq := 12; seq < 12+3*eventsSoft/eventCost; seq++ {
		r.say(change(seq, "u"))
	}
	r.conn.Close()
	r.greet(12 + 3*eventsSoft/eventCost)
	// It asks again, on a new connection, while the callback waits.
	subscribe = r.expect(typeSubscribe)
	begin := r.expect(typeBegin)
	r.say(ok(subscribe, 1e6), ok(begin, 1e6))
	r.say(ok(r.expect(typeNotify), 1e6+1))
	if err := within(t, ended); err != nil {
		t.Error(err)
	}
}

func TestContextEndsARequest(t *testing.T) {
	r := startRelay(t)
	c := open(t, Options{Socket: r.path()})
	ctx, cancel := context.WithCancel(context.Background())
	subscribed, notified := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := c.Subscribe(ctx, "data", All)
		subscribed <- err
	}()
	r.greet(10)
	r.expect(typeSubscribe)
	go func() {
		_, err := c.Notify(ctx, "data", "alice", nil)
		notified <- err
	}()
	r.expect(typeNotify)
	cancel()
	for _, what := range []chan error{subscribed, notified} {
		if err := within(t, what); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	r.expect(typeUnsubscribe) // it is undone
	if err := c.Unsubscribe("data", All); !errors.Is(err, ErrNotSubscribed) {
		t.Error(err)
	}
}

func TestContextEndsRun(t *testing.T) {
	r := startRelay(t)
	c, err := Open(Options{Socket: r.path()})
	if err != nil {
		t.Fatal(err)
	}
	before := runtime.NumGoroutine()
	ctx, cancel := context.WithCancel(context.Background())
	ran, subscribed := make(chan error, 1), make(chan error, 1)
	go func() { ran <- c.Run(ctx) }()
	r.greet(10)
	go func() {
		_, err := c.Subscribe(context.Background(), "data", All)
		subscribed <- err
	}()
	r.expect(typeSubscribe)
	if err := c.Run(ctx); !errors.Is(err, ErrRunning) {
		t.Error("a second Run:", err)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if _, err := c.Cursor(); err == nil || time.Now().After(deadline) {
			break
		}
	}
	cancel()
	if err := within(t, ran); !errors.Is(err, context.Canceled) {
		t.Error("Run:", err)
	}
	if err := within(t, subscribed); !errors.Is(err, ErrCanceled) {
		t.Error("Subscribe:", err)
	}
	if _, err := c.Notify(context.Background(), "data", "alice", nil); !errors.Is(err, ErrClosed) {
		t.Error("Notify:", err)
	}
	if cursor, err := c.Cursor(); cursor != "1 10 e" || err != nil {
		t.Error("Cursor:", cursor, err)
	}
	for deadline := time.Now().Add(patience); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines are left", runtime.NumGoroutine()-before)
		}
	}
}

func TestReadingAheadIsBounded(t *testing.T) {
	r := startRelay(t)
	last := make(chan error, 1)
	const n = 40000
	next := 11
	var c *Client
	opened := make(chan struct{})
	waited := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	c = open(t, Options{Socket: r.path(), OnChange: func(change Change) {
		if change.Seq == 11 {
			// It waits for what is not of the relay's: Run does not read on for it.
			<-opened
			c.mu.Lock()
			c.beginRelief(c.calls.now())
			c.mu.Unlock()
			<-ctx.Done()
			waited <- nil
		}
		if change.Seq != uint64(next) {
			last <- fmt.Errorf("%d, not %d", change.Seq, next)
		}
		if next++; next == 11+n {
			last <- nil
		}
	}})
	close(opened)
	r.greet(10)
	long := strings.Repeat("x", 500)
	wrote := make(chan error, 1)
	r.conn.SetWriteDeadline(time.Time{})
	go func() {
		for seq := 11; seq < 11+n; seq++ {
			data, _ := msgpack.Marshal(change(seq, long))
			if _, err := r.conn.Write(data); err != nil {
				wrote <- err
				return
			}
		}
		wrote <- nil
	}()
	// It stops reading, long before all is written.
	stands := 0
	for waiting := -1; stands < 20; time.Sleep(5 * time.Millisecond) {
		c.mu.Lock()
		now := c.bytes
		c.mu.Unlock()
		if now != waiting || now == 0 {
			waiting, stands = now, 0
		} else {
			stands++
		}
		if now > 2*eventsSoft {
			t.Fatalf("%d bytes wait", now)
		}
	}
	select {
	case err := <-wrote:
		t.Fatal("everything was read:", err)
	default:
	}
	cancel()
	for _, what := range []chan error{waited, wrote, last} {
		if err := within(t, what); err != nil {
			t.Error(err)
		}
	}
}

func TestLocalCallsThatWaitInACallback(t *testing.T) {
	ended := make(chan error, 1)
	var c *Client
	c, err := Open(Options{Local: true, OnChange: func(change Change) {
		var err error
		if change.Pubkey == "a" {
			_, err = c.Notify(context.Background(), "data", "b", nil)
		}
		ended <- err
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SubscribeFunc("data", All, nil); err != nil {
		t.Fatal(err)
	}
	go c.Run(context.Background())
	defer c.Close()
	if _, err := c.Notify(context.Background(), "data", "a", nil); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < 2; i++ {
		if err := within(t, ended); err != nil {
			t.Error(err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, test := range []struct {
		o    Options
		want error
	}{
		{Options{Deadline: -1}, ErrInvalid},
		{Options{QueueSize: 1}, ErrInvalid},
		{Options{Socket: strings.Repeat("x", 108)}, ErrPath},
		{Options{Socket: "a\x00b"}, ErrInvalid},
		{Options{Name: "\xff"}, ErrString},
		{Options{Cursor: "2 1 e"}, ErrCursor},
	} {
		if _, err := Open(test.o); !errors.Is(err, test.want) {
			t.Errorf("%+v: %v, not %v", test.o, err, test.want)
		}
	}
}
