package pgherald

import (
	"fmt"
	"strconv"
	"strings"
)

const (
	// epochMax and checkpointMax are bytes: more than PROTOCOL.md allows, so that a later relay may
	// send longer ones. They are those of libpgherald, so each reads the other's cursors.
	epochMax      = 255
	checkpointMax = 2000
)

// A place is a worker's place in the relay's order. It moves as PROTOCOL.md says under "The
// cursor".
type place struct {
	set bool // false if never connected and none was given
	resume

	// From a WELCOME until the OK to BEGIN it keeps its old values. Otherwise a connection lost in
	// between would skip what is still to come.
	catchingUp bool
	replay     bool   // the epoch is its own: seqs count even while catching up
	nextEpoch  string // the relay's; the OK to BEGIN makes it the cursor's
}

func (p *place) welcome(epoch string, seq uint64) {
	p.nextEpoch = epoch
	p.replay = p.set && epoch == p.epoch
	p.catchingUp = true
	if !p.set {
		p.caughtUp(seq)
	}
}

func (p *place) caughtUp(seq uint64) {
	p.epoch, p.seq = p.nextEpoch, seq
	p.set, p.catchingUp = true, false
}

// passed: a frame that stands in the backlog at seq was handled.
func (p *place) passed(seq uint64) {
	if (!p.catchingUp || p.replay) && seq > p.seq {
		p.seq = seq
	}
}

// passedCheckpoint ignores one that is too long: with an older one, more is owed, not less.
func (p *place) passedCheckpoint(checkpoint string) {
	if (!p.catchingUp || p.replay) && len(checkpoint) <= checkpointMax {
		p.checkpoint = &checkpoint
	}
}

// The text of a cursor is "1 SEQ EPOCH" or "1 SEQ EPOCH CHECKPOINT", where 1 is the version of the
// format. Space, percent and all bytes outside printable ASCII are written %XX.

func isPlain(c byte) bool { return c > 0x20 && c < 0x7f && c != '%' }

func escape(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if isPlain(s[i]) {
			out.WriteByte(s[i])
		} else {
			fmt.Fprintf(&out, "%%%02X", s[i])
		}
	}
	return out.String()
}

func unescape(s string, max int) (string, bool) {
	var out []byte
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !isPlain(c) {
			if c != '%' || i+2 >= len(s) || strings.Trim(s[i+1:i+3], "0123456789ABCDEF") != "" {
				return "", false
			}
			n, _ := strconv.ParseUint(s[i+1:i+3], 16, 8)
			c = byte(n)
			i += 2
		}
		out = append(out, c)
	}
	return string(out), len(out) <= max
}

func (p *place) String() string {
	text := fmt.Sprintf("1 %d %s", p.seq, escape(p.epoch))
	if p.checkpoint != nil {
		text += " " + escape(*p.checkpoint)
	}
	return text
}

func parsePlace(text string) (p place, err error) {
	parts := strings.Split(text, " ")
	if len(parts) < 3 || len(parts) > 4 || parts[0] != "1" || strings.Trim(parts[1], "0123456789") != "" {
		return p, ErrCursor
	}
	var ok bool
	if p.seq, err = strconv.ParseUint(parts[1], 10, 64); err != nil {
		return p, ErrCursor
	}
	if p.epoch, ok = unescape(parts[2], epochMax); !ok {
		return p, ErrCursor
	}
	if len(parts) == 4 {
		checkpoint, ok := unescape(parts[3], checkpointMax)
		if !ok {
			return p, ErrCursor
		}
		p.checkpoint = &checkpoint
	}
	p.set = true
	return p, nil
}
