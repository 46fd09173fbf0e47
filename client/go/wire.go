package pgherald

import (
	"bytes"
	"encoding/binary"
	"errors"

	"github.com/vmihailenco/msgpack/v5"
	"github.com/vmihailenco/msgpack/v5/msgpcode"
)

// The frames of proto/PROTOCOL.md, to and from msgpack. It leaves out what a frame means, and when
// it may be sent.

const (
	wireVersion = 1
	// frameMax and depthMax are promised by PROTOCOL.md.
	frameMax = 65536
	depthMax = 4
)

const (
	typeHello       = 0
	typeSubscribe   = 1
	typeUnsubscribe = 2
	typeNotify      = 3
	typeSend        = 4
	typePing        = 5
	typeBegin       = 6
	typeWelcome     = 16
	typeOK          = 17
	typeError       = 18
	typeChange      = 19
	typeMessage     = 20
	typeCheckpoint  = 21
	typeGap         = 22
	typeUpstream    = 23
	typeBye         = 24
)

// flagRecovered is bit 0 of the flags of CHANGE and MESSAGE.
const flagRecovered = 1

var (
	errShort   = errors.New("the frame has not arrived whole")
	errFrame   = errors.New("not a frame")
	errUnknown = errors.New("a frame of an unknown type")
)

// The elements of each type after the first: u is a number, s a string, n a string or nil, q a
// number or nil, a an array of strings or nil, r the resume of a HELLO, i the info of a WELCOME.
var shapes = map[uint64]string{
	typeHello:       "unr",
	typeSubscribe:   "usa",
	typeUnsubscribe: "usa",
	typeNotify:      "ussn",
	typeSend:        "uss",
	typePing:        "u",
	typeBegin:       "u",
	typeWelcome:     "usui",
	typeOK:          "uu",
	typeError:       "qss",
	typeChange:      "qssnu",
	typeMessage:     "qssu",
	typeCheckpoint:  "qs",
	typeGap:         "qss",
	typeUpstream:    "qss",
	typeBye:         "ss",
}

// A value is one element of a frame.
type value struct {
	isNil bool
	n     uint64
	s     string
	bin   bool // s came as bin
	list  []string
	info  welcomeInfo
	resume
}

type welcomeInfo struct {
	mode, upstream, version string
	channels                []string
}

// A resume is what a HELLO asks to continue from.
type resume struct {
	epoch      string
	seq        uint64
	checkpoint *string
}

type frame struct {
	kind     uint64
	elements []value // without the type
}

// A scanner finds where a frame ends, and proves that it is harmless, before anything is allocated
// for it: five bytes can declare an array of 4 billion elements. It keeps its place in a frame that
// is still arriving, so each byte is looked at once. Its zero value is at the start of a frame.
type scanner struct {
	offset int
	depth  int
	left   [depthMax]int // elements still to come, by depth
}

type token struct {
	countLen, fixedLen int // bytes of a count after the first byte; bytes of the body beside those counted
	count              int
	elementsPer        int // 0: the count is of bytes; 1: an array; 2: a map
}

// The msgpack formats with first byte c0 to df.
var tokens = [32]token{
	{}, {}, {}, {}, // nil, never used, false, true
	{countLen: 1}, {countLen: 2}, {countLen: 4}, // bin
	{countLen: 1, fixedLen: 1}, {countLen: 2, fixedLen: 1}, {countLen: 4, fixedLen: 1}, // ext
	{fixedLen: 4}, {fixedLen: 8}, // float
	{fixedLen: 1}, {fixedLen: 2}, {fixedLen: 4}, {fixedLen: 8}, // uint
	{fixedLen: 1}, {fixedLen: 2}, {fixedLen: 4}, {fixedLen: 8}, // int
	{fixedLen: 2}, {fixedLen: 3}, {fixedLen: 5}, {fixedLen: 9}, {fixedLen: 17}, // fixext
	{countLen: 1}, {countLen: 2}, {countLen: 4}, // str
	{countLen: 2, elementsPer: 1}, {countLen: 4, elementsPer: 1}, // array
	{countLen: 2, elementsPer: 2}, {countLen: 4, elementsPer: 2}, // map
}

func tokenOf(first byte) (t token, ok bool) {
	switch {
	case first < 0x80 || first >= 0xe0:
		return token{}, true
	case first < 0x90:
		return token{count: int(first & 0x0f), elementsPer: 2}, true
	case first < 0xa0:
		return token{count: int(first & 0x0f), elementsPer: 1}, true
	case first < 0xc0:
		return token{count: int(first & 0x1f)}, true
	case first == 0xc1:
		return token{}, false
	}
	return tokens[first-0xc0], true
}

// scan continues with the frame that begins at buf. When it returns nil, the frame is complete and
// its length is s.offset. errShort: more bytes are needed.
func (s *scanner) scan(buf []byte) error {
	if s.offset > 0 && s.depth == 0 {
		return s.arrived(buf)
	}
	for s.offset < len(buf) {
		t, ok := tokenOf(buf[s.offset])
		if !ok || s.depth == 0 && t.elementsPer != 1 {
			return errFrame
		}
		header := 1 + t.countLen
		if len(buf)-s.offset < header {
			return errShort
		}
		count := t.count
		for _, b := range buf[s.offset+1 : s.offset+header] {
			count = count<<8 | int(b)
		}
		body := t.fixedLen + count
		if t.elementsPer > 0 {
			body = count * t.elementsPer
		}
		// Every element takes at least a byte, so a count beyond the limit is refused before its
		// elements arrive.
		if count > frameMax || s.offset+header+body > frameMax {
			return errFrame
		}
		if s.depth > 0 {
			s.left[s.depth-1]--
		}
		s.offset += header
		if t.elementsPer == 0 {
			s.offset += body
		} else if s.depth == depthMax {
			return errFrame
		} else {
			s.left[s.depth] = body
			s.depth++
		}
		for s.depth > 0 && s.left[s.depth-1] == 0 {
			s.depth--
		}
		if s.depth == 0 {
			return s.arrived(buf)
		}
	}
	return errShort
}

func (s *scanner) arrived(buf []byte) error {
	if s.offset > len(buf) {
		return errShort
	}
	return nil
}

// decode unpacks one frame that a scan accepted. errFrame: the elements of a known type are wrong.
func decode(buf []byte) (frame, error) {
	r := reader{msgpack.NewDecoder(bytes.NewReader(buf))}
	n, err := r.DecodeArrayLen()
	if err != nil || n < 1 {
		return frame{}, errFrame
	}
	kind, ok := r.number()
	if !ok {
		return frame{}, errFrame
	}
	shape, known := shapes[kind]
	if !known {
		return frame{}, errUnknown
	}
	if n < 1+len(shape) {
		return frame{}, errFrame
	}
	f := frame{kind, make([]value, len(shape))}
	for i, what := range shape {
		if !r.element(what, &f.elements[i]) {
			return frame{}, errFrame
		}
	}
	return f, nil
}

// A reader takes values of known kinds from a frame. Its methods report whether it was such a value.
type reader struct {
	*msgpack.Decoder
}

func (r reader) element(what rune, v *value) (ok bool) {
	code, err := r.PeekCode()
	if err != nil {
		return false
	}
	if code == msgpcode.Nil && what != 'u' && what != 's' && what != 'i' {
		v.isNil = true
		return r.DecodeNil() == nil
	}
	switch what {
	case 'u', 'q':
		v.n, ok = r.number()
	case 's', 'n':
		v.bin = msgpcode.IsBin(code)
		v.s, ok = r.text()
	case 'a':
		v.list, ok = r.texts()
	case 'r':
		v.resume, ok = r.resume()
	case 'i':
		v.info, ok = r.info()
	}
	return ok
}

func (r reader) number() (uint64, bool) {
	code, err := r.PeekCode()
	if err != nil {
		return 0, false
	}
	switch {
	case code <= msgpcode.PosFixedNumHigh, code >= msgpcode.Uint8 && code <= msgpcode.Uint64:
		n, err := r.DecodeUint64()
		return n, err == nil
	case code >= msgpcode.Int8 && code <= msgpcode.Int64:
		n, err := r.DecodeInt64()
		return uint64(n), err == nil && n >= 0
	}
	return 0, false
}

func (r reader) text() (string, bool) {
	code, err := r.PeekCode()
	if err != nil || !msgpcode.IsString(code) && !msgpcode.IsBin(code) {
		return "", false
	}
	s, err := r.DecodeString()
	return s, err == nil
}

func (r reader) array() (int, bool) {
	code, err := r.PeekCode()
	if err != nil || !msgpcode.IsFixedArray(code) && code != msgpcode.Array16 && code != msgpcode.Array32 {
		return 0, false
	}
	n, err := r.DecodeArrayLen()
	return n, err == nil
}

func (r reader) texts() ([]string, bool) {
	n, ok := r.array()
	if !ok {
		return nil, false
	}
	list := make([]string, n)
	for i := range list {
		if list[i], ok = r.text(); !ok {
			return nil, false
		}
	}
	return list, true
}

func (r reader) resume() (v resume, ok bool) {
	n, ok := r.array()
	if !ok || n < 3 {
		return v, false
	}
	if v.epoch, ok = r.text(); !ok {
		return v, false
	}
	if v.seq, ok = r.number(); !ok {
		return v, false
	}
	var checkpoint value
	if !r.element('n', &checkpoint) {
		return v, false
	}
	if !checkpoint.isNil {
		v.checkpoint = &checkpoint.s
	}
	for ; n > 3; n-- {
		if r.Skip() != nil {
			return v, false
		}
	}
	return v, true
}

func (r reader) info() (v welcomeInfo, ok bool) {
	code, err := r.PeekCode()
	if err != nil || !msgpcode.IsFixedMap(code) && code != msgpcode.Map16 && code != msgpcode.Map32 {
		return v, false
	}
	n, err := r.DecodeMapLen()
	if err != nil {
		return v, false
	}
	for ; n > 0; n-- {
		key, ok := r.text()
		if !ok {
			return v, false
		}
		switch key {
		case "mode":
			v.mode, ok = r.text()
		case "upstream":
			v.upstream, ok = r.text()
		case "version":
			v.version, ok = r.text()
		case "channels":
			v.channels, ok = r.texts()
		default:
			ok = r.Skip() == nil
		}
		if !ok {
			return v, false
		}
	}
	return v, true
}

// A change as it stands in its frame. Its strings are borrowed from there.
type rawChange struct {
	seq                       uint64
	seqNil, clientNil         bool
	channel, pubkey, clientID []byte
	flags                     uint64
}

// readChange reads the usual CHANGE by hand: the other way takes ten times as long, for every
// change. It returns the length of the frame that begins at buf, or 0 when that is not a CHANGE, is
// unusual, or has not arrived whole. Then scan and decode take it.
func readChange(buf []byte, c *rawChange) int {
	if len(buf) < 2 || buf[0] != 0x90|6 || buf[1] != typeChange {
		return 0
	}
	r := bytesReader{buf[2:], true}
	c.seqNil = r.nil()
	if !c.seqNil {
		c.seq = r.uint()
	}
	c.channel, c.pubkey = r.str(), r.str()
	c.clientNil = r.nil()
	if !c.clientNil {
		c.clientID = r.str()
	}
	c.flags = r.uint()
	length := len(buf) - len(r.rest)
	if !r.good || length > frameMax {
		return 0
	}
	return length
}

// A bytesReader takes usual values off the front. good turns false at the first that is not there.
type bytesReader struct {
	rest []byte
	good bool
}

func (r *bytesReader) take(n int) []byte {
	if !r.good || len(r.rest) < n {
		r.good = false
		return nil
	}
	taken := r.rest[:n]
	r.rest = r.rest[n:]
	return taken
}

func (r *bytesReader) nil() bool {
	if !r.good || len(r.rest) == 0 || r.rest[0] != 0xc0 {
		return false
	}
	r.rest = r.rest[1:]
	return true
}

func (r *bytesReader) uint() uint64 {
	first := r.take(1)
	if first == nil {
		return 0
	}
	switch b := first[0]; {
	case b < 0x80:
		return uint64(b)
	case b < 0xcc || b > 0xcf:
		r.good = false
		return 0
	default:
		var n uint64
		for _, b := range r.take(1 << (b - 0xcc)) {
			n = n<<8 | uint64(b)
		}
		return n
	}
}

func (r *bytesReader) str() []byte {
	first := r.take(1)
	if first == nil {
		return nil
	}
	switch b := first[0]; {
	case b >= 0xa0 && b < 0xc0:
		return r.take(int(b & 0x1f))
	case b == 0xd9:
		if size := r.take(1); size != nil {
			return r.take(int(size[0]))
		}
	case b == 0xda:
		if size := r.take(2); size != nil {
			return r.take(int(binary.BigEndian.Uint16(size)))
		}
	default:
		r.good = false
	}
	return nil
}

// An encoder packs frames into a buffer. Writing to memory cannot fail.
type encoder struct {
	buf bytes.Buffer
	*msgpack.Encoder
}

func newEncoder() *encoder {
	e := &encoder{}
	e.Encoder = msgpack.NewEncoder(&e.buf)
	return e
}

// begin starts a frame of n elements, the type included.
func (e *encoder) begin(kind uint64, n int) {
	e.EncodeArrayLen(n)
	e.EncodeUint(kind)
}

func (e *encoder) text(s *string) {
	if s == nil {
		e.EncodeNil()
	} else {
		e.EncodeString(*s)
	}
}

func (e *encoder) hello(name string, from *resume) {
	e.begin(typeHello, 4)
	e.EncodeUint(wireVersion)
	e.EncodeString(name)
	if from == nil {
		e.EncodeNil()
		return
	}
	e.EncodeArrayLen(3)
	e.EncodeString(from.epoch)
	e.EncodeUint(from.seq)
	e.text(from.checkpoint)
}

// subscribe packs a SUBSCRIBE or UNSUBSCRIBE. pubkeys nil: all.
func (e *encoder) subscribe(kind, id uint64, channel string, pubkeys []string) {
	e.begin(kind, 4)
	e.EncodeUint(id)
	e.EncodeString(channel)
	if pubkeys == nil {
		e.EncodeNil()
		return
	}
	e.EncodeArrayLen(len(pubkeys))
	for _, pubkey := range pubkeys {
		e.EncodeString(pubkey)
	}
}

func (e *encoder) notify(id uint64, channel, pubkey string, clientID *string) {
	e.begin(typeNotify, 5)
	e.EncodeUint(id)
	e.EncodeString(channel)
	e.EncodeString(pubkey)
	e.text(clientID)
}

func (e *encoder) send(id uint64, channel, payload string) {
	e.begin(typeSend, 4)
	e.EncodeUint(id)
	e.EncodeString(channel)
	e.EncodeString(payload)
}

// request packs a PING or BEGIN.
func (e *encoder) request(kind, id uint64) {
	e.begin(kind, 2)
	e.EncodeUint(id)
}
