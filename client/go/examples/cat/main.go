// Cat does what pgherald-cat does, in Go: it prints what a relay sends, as JSON lines; or publishes
// one change.
//
//	cat [--socket PATH] [--channel NAME]... [--pubkey PUBKEY]... [--cursor FILE]
//	cat [--socket PATH] [--channel NAME] --notify PUBKEY
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"pgherald"
)

// keepEvery is how often the cursor is stored. It moves with checkpoints, too, of which no callback
// tells.
const keepEvery = 100 * time.Millisecond

type list []string

func (l *list) String() string { return strings.Join(*l, ",") }

func (l *list) Set(s string) error {
	*l = append(*l, s)
	return nil
}

type object = map[string]any

// print writes a line at once: a pipe may be read live.
func print(kind string, fields object) {
	fields["type"] = kind
	line, err := json.Marshal(fields)
	if err == nil {
		_, err = os.Stdout.Write(append(line, '\n'))
	}
	if err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "cat:", err)
	os.Exit(1)
}

// keep stores the cursor. It is written to another file and renamed: this may be killed at any
// moment.
func keep(client *pgherald.Client, file string) {
	cursor, err := client.Cursor()
	if err != nil {
		return // there is none yet
	}
	if err := os.WriteFile(file+".new", []byte(cursor+"\n"), 0o600); err != nil {
		fail(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		fail(err)
	}
}

func options(socket, cursor string) pgherald.Options {
	return pgherald.Options{
		Socket: socket,
		Name:   "cat",
		Cursor: cursor,
		OnChange: func(c pgherald.Change) {
			print("change", object{"seq": c.Seq, "channel": c.Channel, "pubkey": c.Pubkey, "client_id": c.ClientID,
				"recovered": c.Recovered})
		},
		OnMessage: func(m pgherald.Message) {
			print("message", object{"seq": m.Seq, "channel": m.Channel, "payload": m.Payload, "recovered": m.Recovered})
		},
		OnGap: func(g pgherald.Gap) { print("gap", object{"seq": g.Seq, "cause": g.Cause, "text": g.Text}) },
		OnState: func(s pgherald.State) {
			switch s.Event {
			case pgherald.UpstreamLive, pgherald.UpstreamDown:
				print("upstream", object{"state": strings.TrimPrefix(s.Event.String(), "upstream "), "text": s.Text})
			default:
				print(s.Event.String(), object{"text": s.Text})
			}
		},
	}
}

// subscribe asks for all of them before the client connects, so that a resume includes them.
func subscribe(client *pgherald.Client, channels, pubkeys list) {
	users := []*string{pgherald.All}
	if len(pubkeys) > 0 {
		users = nil
		for _, pubkey := range pubkeys {
			users = append(users, pgherald.Pubkey(pubkey))
		}
	}
	waiting := len(channels) * len(users)
	live := func(seq uint64, err error) {
		if errors.Is(err, pgherald.ErrCanceled) {
			return
		} else if err != nil {
			fail(err)
		}
		if waiting--; waiting == 0 {
			print("subscribed", object{"seq": seq})
		}
	}
	for _, channel := range channels {
		for _, user := range users {
			if err := client.SubscribeFunc(channel, user, live); err != nil {
				fail(err)
			}
		}
	}
}

func main() {
	var channels, pubkeys list
	flag.Var(&channels, "channel", "a channel (default data_sync_changes); repeat for more")
	flag.Var(&pubkeys, "pubkey", "only the changes of this pubkey; repeat for more")
	socket := flag.String("socket", "", "the relay's socket")
	file := flag.String("cursor", "", "resume from the cursor in this file if it is there, and keep it there")
	notify := flag.String("notify", "", "publish a change of this pubkey, and end when it is committed")
	flag.Parse()
	if channels == nil {
		channels = list{"data_sync_changes"}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()

	stored, err := os.ReadFile(*file)
	if *file != "" && err != nil && !errors.Is(err, os.ErrNotExist) {
		fail(err)
	}
	o := options(*socket, strings.TrimSpace(string(stored)))
	if *notify != "" {
		o = pgherald.Options{Socket: *socket, Name: "cat"}
	}
	client, err := pgherald.Open(o)
	if err != nil {
		fail(err)
	}
	ended := make(chan error, 1)
	if *notify != "" {
		go func() { ended <- client.Run(ctx) }()
		if _, err := client.Notify(ctx, channels[0], *notify, nil); err != nil {
			fail(err)
		}
		client.Close()
		<-ended
		return
	}
	subscribe(client, channels, pubkeys)
	go func() { ended <- client.Run(ctx) }()
	for {
		select {
		case <-time.After(keepEvery):
			if *file != "" {
				keep(client, *file)
			}
		case <-ended:
			if *file != "" {
				keep(client, *file)
			}
			return
		}
	}
}
