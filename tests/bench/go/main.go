// A listener of bench-fanout with the Go package: it hears all changes and counts them.
//
//	go SOCKET DESCRIPTOR OFFSET     of the memory and its struct slot in it
package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"unsafe"

	"pgherald"
)

// A slot is the start of struct slot in bench.h.
type slot struct {
	count, faults uint64
	ready         uint8
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/go:", err)
		os.Exit(1)
	}
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	fail(err)
	return n
}

func main() {
	offset := number(os.Args[3])
	memory, err := syscall.Mmap(number(os.Args[2]), 0, offset+int(unsafe.Sizeof(slot{})), syscall.PROT_READ|syscall.PROT_WRITE,
		syscall.MAP_SHARED)
	fail(err)
	s := (*slot)(unsafe.Pointer(&memory[offset]))
	client, err := pgherald.Open(pgherald.Options{
		Socket:   os.Args[1],
		OnChange: func(pgherald.Change) { atomic.AddUint64(&s.count, 1) },
		OnGap:    func(pgherald.Gap) { atomic.AddUint64(&s.faults, 1) },
	})
	fail(err)
	fail(client.SubscribeFunc("data_sync_changes", pgherald.All, func(_ uint64, err error) {
		fail(err)
		s.ready = 1
	}))
	fail(client.Run(context.Background()))
}
