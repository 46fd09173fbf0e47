package pgherald

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

type description struct {
	Frame     []any
	Canonical bool
}

// vectors calls test with each vector of proto/vectors whose name begins so.
func vectors(t *testing.T, prefix string, test func(t *testing.T, data []byte, d description)) {
	paths, _ := filepath.Glob(filepath.Join("..", "..", "proto", "vectors", prefix+"_*.msgpack"))
	if len(paths) == 0 {
		t.Skip("the vectors of the source tree are not here")
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(strings.TrimSuffix(path, "msgpack") + "json")
		if err != nil {
			t.Fatal(err)
		}
		var d description
		decoder := json.NewDecoder(bytes.NewReader(text))
		decoder.UseNumber()
		if err := decoder.Decode(&d); err != nil {
			t.Fatal(err)
		}
		t.Run(filepath.Base(path), func(t *testing.T) { test(t, data, d) })
	}
}

// plain is what a JSON description stands for: numbers, strings, nil and lists.
func plain(v any) any {
	switch v := v.(type) {
	case json.Number:
		n, _ := strconv.ParseUint(v.String(), 10, 64)
		return n
	case []any:
		list := make([]any, len(v))
		for i := range v {
			list[i] = plain(v[i])
		}
		return list
	case map[string]any:
		if text, ok := v["bin"].(string); ok && len(v) == 1 {
			data, _ := hex.DecodeString(text)
			return string(data)
		}
		if text, ok := v["uint"].(string); ok && len(v) == 1 {
			return plain(json.Number(text))
		}
		return []any{v["mode"], v["upstream"], plain(v["channels"]), v["version"]}
	}
	return v
}

func ofList(list []string) []any {
	out := make([]any, len(list))
	for i, s := range list {
		out[i] = s
	}
	return out
}

func (v *value) plain(what byte) any {
	switch {
	case v.isNil:
		return nil
	case what == 'a':
		return ofList(v.list)
	case what == 'r':
		if v.checkpoint == nil {
			return []any{v.epoch, v.seq, nil}
		}
		return []any{v.epoch, v.seq, *v.checkpoint}
	case what == 'i':
		return []any{v.info.mode, v.info.upstream, ofList(v.info.channels), v.info.version}
	case what == 'u' || what == 'q':
		return v.n
	}
	return v.s
}

func (f *frame) plain() []any {
	out := []any{f.kind}
	for i := range f.elements {
		out = append(out, f.elements[i].plain(shapes[f.kind][i]))
	}
	return out
}

func same(a, b any) bool {
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return bytes.Equal(x, y)
}

func read(data []byte) (frame, error) {
	var s scanner
	if err := s.scan(data); err != nil {
		return frame{}, err
	}
	return decode(data[:s.offset])
}

// encoded packs a frame of a worker. nil: it is not one.
func encoded(f *frame) []byte {
	e, v := newEncoder(), f.elements
	optional := func(v *value) *string {
		if v.isNil {
			return nil
		}
		return &v.s
	}
	switch f.kind {
	case typeHello:
		from := &v[2].resume
		if v[2].isNil {
			from = nil
		}
		if v[1].isNil { // this client always gives a name
			return nil
		}
		e.hello(v[1].s, from)
	case typeSubscribe, typeUnsubscribe:
		e.subscribe(f.kind, v[0].n, v[1].s, v[2].list)
	case typeNotify:
		e.notify(v[0].n, v[1].s, v[2].s, optional(&v[3]))
	case typeSend:
		e.send(v[0].n, v[1].s, v[2].s)
	case typePing, typeBegin:
		e.request(f.kind, v[0].n)
	default:
		return nil
	}
	return e.buf.Bytes()
}

func TestGoodVectors(t *testing.T) {
	vectors(t, "y", func(t *testing.T, data []byte, d description) {
		f, err := read(data)
		if err != nil {
			t.Fatal(err)
		}
		if want := plain(d.Frame); !same(f.plain(), want) {
			t.Errorf("read %v, not %v", f.plain(), want)
		}
		if made := encoded(&f); d.Canonical && made != nil && !bytes.Equal(made, data) {
			t.Errorf("wrote %x, not %x", made, data)
		}
		var raw rawChange
		if length := readChange(data, &raw); length > 0 {
			// A frame of a later version has more elements: then this way does not take it.
			if v := f.elements; length != len(data) || string(raw.pubkey) != v[2].s || string(raw.clientID) != v[3].s ||
				raw.clientNil != v[3].isNil || raw.seq != v[0].n || raw.seqNil != v[0].isNil || raw.flags != v[4].n {
				t.Errorf("by hand: %+v", raw)
			}
		}
		var s scanner // byte by byte, and each prefix alone
		for end := 0; end < len(data); end++ {
			if err := s.scan(data[:end]); err != errShort {
				t.Errorf("after %d bytes: %v", end, err)
			}
			if _, err := read(data[:end]); err != errShort {
				t.Errorf("of %d bytes: %v", end, err)
			}
			if readChange(data[:end], &raw) != 0 {
				t.Errorf("by hand, of %d bytes", end)
			}
		}
		if err := s.scan(data); err != nil || s.offset != len(data) {
			t.Errorf("in the end: %v, %d bytes", err, s.offset)
		}
	})
}

func TestBadVectors(t *testing.T) {
	vectors(t, "n", func(t *testing.T, data []byte, _ description) {
		if f, err := read(data); !errors.Is(err, errFrame) {
			t.Errorf("read %v, %v", f, err)
		}
	})
}

func TestUnknownVectors(t *testing.T) {
	vectors(t, "u", func(t *testing.T, data []byte, _ description) {
		if _, err := read(data); err != errUnknown {
			t.Error(err)
		}
	})
}

// FuzzRead: whatever arrives, it is a frame, not a frame, or not yet one; and both ways to read a
// CHANGE agree.
func FuzzRead(f *testing.F) {
	paths, _ := filepath.Glob(filepath.Join("..", "..", "proto", "vectors", "*.msgpack"))
	for _, path := range paths {
		if data, err := os.ReadFile(path); err == nil {
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		fr, err := read(data)
		if err != nil && err != errShort && !errors.Is(err, errFrame) && err != errUnknown {
			t.Error(err)
		}
		var raw rawChange
		if readChange(data, &raw) == 0 {
			return
		}
		if err != nil || fr.kind != typeChange {
			t.Fatalf("by hand it is a change, and else %v, %v", fr, err)
		}
		if v := fr.elements; string(raw.channel) != v[1].s || string(raw.pubkey) != v[2].s || string(raw.clientID) != v[3].s ||
			raw.clientNil != v[3].isNil || raw.seq != v[0].n || raw.seqNil != v[0].isNil || raw.flags != v[4].n {
			t.Errorf("by hand: %+v; else %v", raw, fr)
		}
	})
}
