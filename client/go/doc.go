// Package pgherald hears the changes that a host's pgherald relay hears from PostgreSQL, and
// publishes some. It promises what libpgherald does, in the words of Go.
//
// Open a client, subscribe, and run it:
//
//	client, err := pgherald.Open(pgherald.Options{
//		OnChange: func(change pgherald.Change) { fmt.Println(change.Pubkey, "changed") },
//		OnGap:    func(gap pgherald.Gap) { readEverythingAgain() },
//	})
//	if err == nil {
//		err = client.SubscribeFunc("data_sync_changes", pgherald.All, nil)
//	}
//	if err == nil {
//		err = client.Run(ctx)
//	}
//
// What holds for all of it:
//
//   - The callbacks and the completions given to SubscribeFunc, NotifyFunc and SendFunc run in Run,
//     one at a time. They come in the order in which the relay sent what they are for.
//   - A callback may call every method of the client. Calls that wait (Subscribe, Notify, Send) are
//     answered while the callback waits.
//   - The client connects, reconnects and resumes by itself. It handles no signal and prints nothing.
//     Its goroutines end before Run returns.
//   - Delivery is at least once: every change committed while a subscription is live reaches
//     OnChange, or OnGap tells that it may not have. A change may come twice after a reconnect.
//   - The cursor (Client.Cursor) is the place up to which callbacks have returned. Store it, and give
//     it to the next process as Options.Cursor: it hears what was missed meanwhile.
//   - One client a process is enough. Go programs do not fork; a process that this one starts opens
//     a client of its own.
//   - Errors are compared with errors.Is: the Err variables here. What the relay refuses is an Error,
//     which has the relay's own words too.
//   - Strings are UTF-8. What a relay sends may be any bytes.
//
// Package notifier, next to this one, has the interface of a notifier that LISTENs itself, so that
// one line replaces it.
package pgherald
