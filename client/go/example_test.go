package pgherald_test

import (
	"context"
	"fmt"

	"pgherald"
)

func Example() {
	ctx, stop := context.WithCancel(context.Background())
	client, err := pgherald.Open(pgherald.Options{
		Local: true, // for this example: without a relay
		OnChange: func(change pgherald.Change) {
			fmt.Println(change.Pubkey, "changed")
			stop()
		},
		OnGap: func(gap pgherald.Gap) { fmt.Println("read everything again:", gap.Text) },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	subscribed := func(seq uint64, err error) { fmt.Println("subscribed", err) }
	if err := client.SubscribeFunc("data_sync_changes", pgherald.All, subscribed); err != nil {
		fmt.Println(err)
	}
	if err := client.NotifyFunc("data_sync_changes", "alice", nil, nil); err != nil {
		fmt.Println(err)
	}
	fmt.Println(client.Run(ctx))
	// Output:
	// subscribed <nil>
	// alice changed
	// context canceled
}
