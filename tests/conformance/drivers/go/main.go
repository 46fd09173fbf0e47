// The driver of the Go package for the conformance suite: ../../README.md has its commands and
// events.
package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	"pgherald"
)

type object = map[string]any

// bytes is a string of a command, or {"bin": HEX}. nil: absent.
type text struct{ s *string }

func (t *text) UnmarshalJSON(data []byte) error {
	var bin struct{ Bin string }
	if json.Unmarshal(data, &bin) == nil && data[0] == '{' {
		decoded, err := hex.DecodeString(bin.Bin)
		s := string(decoded)
		t.s = &s
		return err
	}
	return json.Unmarshal(data, &t.s)
}

func (t text) or(other string) string {
	if t.s == nil {
		return other
	}
	return *t.s
}

type command struct {
	Do        string
	Socket    *string
	Name      text
	Cursor    string
	Queue     int `json:"queue_size"`
	Deadline  int `json:"deadline_ms"`
	Subscribe []command
	Label     *string
	Channel   text
	Pubkey    text
	ClientID  text `json:"client_id"`
	Payload   text
	Event     string
	Commands  []command
	Ms        int
}

// A driver is the app: mu is held while it handles a command or an event.
type driver struct {
	mu     sync.Mutex
	client *pgherald.Client
	ended  chan struct{} // closed after `closed` was printed
	rules  map[string][][]command
	out    *bufio.Writer
}

var errnos = []struct {
	err  error
	name string
}{
	{pgherald.ErrChannel, "ENXIO"}, {pgherald.ErrDenied, "EACCES"}, {pgherald.ErrLimit, "EDQUOT"},
	{pgherald.ErrRefused, "EPROTO"}, {pgherald.ErrCanceled, "ECANCELED"}, {pgherald.ErrTooLong, "EMSGSIZE"},
	{pgherald.ErrBusy, "EBUSY"}, {pgherald.ErrRejected, "EREMOTEIO"}, {pgherald.ErrTimeout, "ETIMEDOUT"},
	{pgherald.ErrString, "EILSEQ"}, {pgherald.ErrInvalid, "EINVAL"}, {pgherald.ErrPath, "ENAMETOOLONG"},
	{pgherald.ErrCursor, "EBADMSG"}, {pgherald.ErrNotSubscribed, "ENOENT"}, {pgherald.ErrQueueFull, "ENOBUFS"},
	{pgherald.ErrClosed, "ESHUTDOWN"},
}

func errnoOf(err error) any {
	if err == nil {
		return nil
	}
	for _, e := range errnos {
		if errors.Is(err, e.err) {
			return e.name
		}
	}
	return err.Error()
}

func textOf(s string) any {
	if utf8.ValidString(s) {
		return s
	}
	return object{"bin": hex.EncodeToString([]byte(s))}
}

func numberOf(n uint64) any {
	if n <= 1<<53 {
		return n
	}
	return object{"uint": strconv.FormatUint(n, 10)}
}

func (d *driver) cursor() any {
	cursor, err := d.client.Cursor()
	if err != nil {
		return nil
	}
	return cursor
}

// print prints an event.
func (d *driver) print(event string, fields object) {
	fields["event"] = event
	line, err := json.Marshal(fields)
	if err != nil {
		panic(err)
	}
	d.out.Write(line)
	d.out.WriteByte('\n')
	d.out.Flush()
}

// react prints an event, and runs what was registered for this kind.
func (d *driver) react(event string, fields object) {
	d.print(event, fields)
	if waiting := d.rules[event]; len(waiting) > 0 {
		d.rules[event] = waiting[1:]
		for i := range waiting[0] {
			d.run(&waiting[0][i])
		}
	}
}

func (d *driver) done(label *string, seq uint64, err error) {
	fields := object{"label": nil, "error": errnoOf(err), "seq": numberOf(seq)}
	if label != nil {
		fields["label"] = *label
	}
	if err != nil {
		fields["text"] = err.Error()
	}
	d.react("done", fields)
}

// handle is a callback: it holds mu.
func (d *driver) handle(do func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	do()
}

func (d *driver) options(c *command) pgherald.Options {
	o := pgherald.Options{Name: c.Name.or(""), Cursor: c.Cursor, QueueSize: c.Queue,
		Deadline: time.Duration(c.Deadline) * time.Millisecond}
	if c.Socket != nil {
		o.Socket, o.Local = *c.Socket, *c.Socket == ""
	}
	o.OnChange = func(change pgherald.Change) {
		d.handle(func() {
			fields := object{"channel": textOf(change.Channel), "pubkey": textOf(change.Pubkey), "client_id": nil,
				"seq": numberOf(change.Seq), "recovered": change.Recovered, "cursor": d.cursor()}
			if change.ClientID != nil {
				fields["client_id"] = textOf(*change.ClientID)
			}
			d.react("change", fields)
		})
	}
	o.OnMessage = func(message pgherald.Message) {
		d.handle(func() {
			d.react("message", object{"channel": textOf(message.Channel), "payload": textOf(message.Payload),
				"seq": numberOf(message.Seq), "recovered": message.Recovered, "cursor": d.cursor()})
		})
	}
	o.OnGap = func(gap pgherald.Gap) {
		d.handle(func() {
			d.react("gap", object{"cause": textOf(gap.Cause), "text": textOf(gap.Text), "seq": numberOf(gap.Seq),
				"cursor": d.cursor()})
		})
	}
	o.OnState = func(state pgherald.State) {
		d.handle(func() {
			names := map[pgherald.Event]string{pgherald.Connected: "connected", pgherald.Disconnected: "disconnected",
				pgherald.UpstreamLive: "live", pgherald.UpstreamDown: "down"}
			d.react("state", object{"state": names[state.Event], "text": textOf(state.Text)})
		})
	}
	return o
}

func (d *driver) open(c *command) {
	client, err := pgherald.Open(d.options(c))
	if err == nil {
		d.client, d.ended = client, make(chan struct{})
		for i := range c.Subscribe {
			c.Subscribe[i].Do = "subscribe"
			d.request(&c.Subscribe[i])
		}
	}
	d.returned(c.Label, err)
	if err == nil {
		d.start()
	}
}

// returned: the call has returned, and no completion will run.
func (d *driver) returned(label *string, err error) {
	if label != nil || err != nil {
		d.done(label, 0, err)
	}
}

// start lets the client connect.
func (d *driver) start() {
	client, ended := d.client, d.ended
	go func() {
		if err := client.Run(context.Background()); !errors.Is(err, pgherald.ErrClosed) {
			fmt.Fprintln(os.Stderr, "driver: Run:", err)
		}
		d.handle(func() {
			d.client = nil
			d.print("closed", object{})
		})
		close(ended)
	}()
}

// request calls what has a completion.
func (d *driver) request(c *command) {
	var done func(uint64, error)
	if c.Label != nil {
		label := *c.Label
		done = func(seq uint64, err error) { d.handle(func() { d.done(&label, seq, err) }) }
	}
	var err error
	switch c.Do {
	case "subscribe":
		err = d.client.SubscribeFunc(c.Channel.or(""), c.Pubkey.s, done)
	case "notify":
		if c.Pubkey.s == nil { // which no Go program can ask for
			err = pgherald.ErrInvalid
		} else {
			err = d.client.NotifyFunc(c.Channel.or(""), *c.Pubkey.s, c.ClientID.s, done)
		}
	case "send":
		if c.Payload.s == nil {
			err = pgherald.ErrInvalid
		} else {
			err = d.client.SendFunc(c.Channel.or(""), *c.Payload.s, done)
		}
	}
	if err != nil {
		d.returned(c.Label, err)
	}
}

// run runs one command. mu is held.
func (d *driver) run(c *command) {
	switch c.Do {
	case "open":
		d.open(c)
	case "subscribe", "notify", "send":
		d.request(c)
	case "unsubscribe":
		d.returned(c.Label, d.client.Unsubscribe(c.Channel.or(""), c.Pubkey.s))
	case "cursor":
		d.print("cursor", object{"cursor": d.cursor()})
	case "on":
		d.rules[c.Event] = append(d.rules[c.Event], c.Commands)
	case "pause":
		d.print("paused", object{})
		time.Sleep(time.Duration(c.Ms) * time.Millisecond)
	case "close":
		d.close()
	default:
		fmt.Fprintf(os.Stderr, "driver: there is no command %q\n", c.Do)
	}
}

// close begins to close the client. `closed` is printed when Run has returned.
func (d *driver) close() {
	if d.client == nil {
		d.print("closed", object{})
		return
	}
	d.client.Close()
}

// await waits until a client that was closed has ended.
func (d *driver) await() {
	d.mu.Lock()
	ended := d.ended
	d.mu.Unlock()
	if ended != nil {
		<-ended
	}
}

func main() {
	d := &driver{rules: map[string][][]command{}, out: bufio.NewWriter(os.Stdout)}
	d.print("driver", object{"name": "go", "abilities": []string{"pause", "local", "bytes", "unasked"}})
	in := bufio.NewReader(os.Stdin)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			break
		}
		var c command
		if err := json.Unmarshal(line, &c); err != nil {
			fmt.Fprintln(os.Stderr, "driver:", err)
			continue
		}
		if c.Do == "open" {
			d.await()
		}
		d.handle(func() { d.run(&c) })
	}
	d.mu.Lock()
	open := d.client != nil
	if open {
		d.close()
	}
	d.mu.Unlock()
	if open {
		d.await()
	}
}
