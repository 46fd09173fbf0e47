// The frames of proto/PROTOCOL.md, to and from msgpack. It leaves out what a frame means, and when
// it may be sent.
import { Decoder, encode } from "@msgpack/msgpack";

export const VERSION = 1;
// Bytes. PROTOCOL.md promises these limits.
export const FRAME_MAX = 65536;
const DEPTH_MAX = 4;
// Elements of a frame that this version knows.
const ELEMENTS_MAX = 6;

export const HELLO = 0, SUBSCRIBE = 1, UNSUBSCRIBE = 2, NOTIFY = 3, SEND = 4, PING = 5, BEGIN = 6;
export const WELCOME = 16, OK = 17, ERROR = 18, CHANGE = 19, MESSAGE = 20, CHECKPOINT = 21, GAP = 22, UPSTREAM = 23, BYE = 24;

// Bit 0 of the flags of CHANGE and MESSAGE.
export const RECOVERED = 1;

export class FrameError extends Error {}

// The elements of each type after the first: u is a number, s a string, n a string or nil, q a
// number or nil, b a string with its bytes, a an array of strings or nil, r the resume of a HELLO,
// i the info of a WELCOME.
const shapes = new Map([
  [HELLO, "unr"],
  [SUBSCRIBE, "usa"],
  [UNSUBSCRIBE, "usa"],
  [NOTIFY, "ussn"],
  [SEND, "uss"],
  [PING, "u"],
  [BEGIN, "u"],
  [WELCOME, "usui"],
  [OK, "uu"],
  [ERROR, "qss"],
  [CHANGE, "qssnu"],
  [MESSAGE, "qsbu"],
  [CHECKPOINT, "qs"],
  [GAP, "qss"],
  [UPSTREAM, "qss"],
  [BYE, "ss"],
]);

// What msgpack's first bytes from c0 to df say: [bytes of a count, bytes of the body beside those
// counted, elements for each that is counted; 0: the count is of bytes].
const tokens = [
  [0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0],                        // nil, never used, false, true
  [1, 0, 0], [2, 0, 0], [4, 0, 0],                                   // bin
  [1, 1, 0], [2, 1, 0], [4, 1, 0],                                   // ext
  [0, 4, 0], [0, 8, 0],                                              // float
  [0, 1, 0], [0, 2, 0], [0, 4, 0], [0, 8, 0],                        // uint
  [0, 1, 0], [0, 2, 0], [0, 4, 0], [0, 8, 0],                        // int
  [0, 2, 0], [0, 3, 0], [0, 5, 0], [0, 9, 0], [0, 17, 0],            // fixext
  [1, 0, 0], [2, 0, 0], [4, 0, 0],                                   // str
  [2, 0, 1], [4, 0, 1],                                              // array
  [2, 0, 2], [4, 0, 2],                                              // map
];

// Finds where a frame ends, and proves that it is harmless, before anything is allocated for it:
// five bytes can declare an array of 4 billion elements. It keeps its place in a frame that is
// still arriving, so each byte is looked at once.
export class Scanner {
  constructor() {
    this.reset();
  }

  reset() {
    this.offset = 0;
    this.left = [];  // elements still to come, by depth
    this.heads = []; // the first bytes of the frame's first elements
  }

  // Continues with the frame that begins at start and of which the bytes up to end have arrived.
  // Returns its length, or 0 if more bytes are needed. Throws a FrameError.
  scan(bytes, start, end) {
    const size = end - start;
    while (this.offset < size && (this.offset === 0 || this.left.length > 0)) {
      const first = bytes[start + this.offset];
      let countLength = 0, fixed = 0, count = 0, per = 0;
      if (first >= 0x80 && first < 0x90) [count, per] = [first & 0x0f, 2];
      else if (first >= 0x90 && first < 0xa0) [count, per] = [first & 0x0f, 1];
      else if (first >= 0xa0 && first < 0xc0) count = first & 0x1f;
      else if (first === 0xc1) throw new FrameError("no msgpack");
      else if (first >= 0xc0 && first < 0xe0) [countLength, fixed, per] = tokens[first - 0xc0];
      if (this.offset === 0 && per !== 1) throw new FrameError("no array");
      if (size - this.offset < 1 + countLength) return 0;
      for (let i = 0; i < countLength; i++) count = count * 256 + bytes[start + this.offset + 1 + i];
      const body = fixed + (per > 0 ? count * per : count);
      // Every element takes at least a byte, so a count beyond the limit is refused before its
      // elements arrive.
      if (this.offset + 1 + countLength + body > FRAME_MAX) throw new FrameError("too large");
      if (this.left.length === 1 && this.heads.length < ELEMENTS_MAX) this.heads.push(first);
      if (this.left.length > 0) this.left[this.left.length - 1]--;
      this.offset += 1 + countLength;
      if (per === 0) this.offset += body;
      else if (this.left.length === DEPTH_MAX) throw new FrameError("too deep");
      else this.left.push(body);
      while (this.left.at(-1) === 0) this.left.pop();
    }
    return this.offset > 0 && this.left.length === 0 && this.offset <= size ? this.offset : 0;
  }
}

// Keys of a map: one that is not a string, and one that stands for a key of no meaning here.
const NO_NAME = "\0";
const OTHER_NAME = "";

// Strings stay bytes, because a bin and a str are equal, and a payload may be no text. Extensions
// are ignored, whatever is in them.
const decoder = new Decoder({
  useBigInt64: true,
  rawStrings: true,
  extensionCodec: { tryToEncode: () => null, decode: () => null },
  mapKeyConverter: (key) => {
    const name = key instanceof Uint8Array ? textOf(key) : key;
    if (typeof name !== "string") return NO_NAME;
    return name === "__proto__" ? OTHER_NAME : name; // which the decoder refuses
  },
});

const textOf = (bytes) => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("utf8");

function check(condition) {
  if (!condition) throw new FrameError("wrong elements");
}

// A number up to 2^53 is a number, a larger one a bigint. head is its first byte: no float is one.
function numberOf(value, head) {
  check(head !== 0xca && head !== 0xcb);
  check((typeof value === "number" && Number.isInteger(value) && value >= 0) || (typeof value === "bigint" && value >= 0n));
  return typeof value === "bigint" && value <= Number.MAX_SAFE_INTEGER ? Number(value) : value;
}

function stringOf(value) {
  check(value instanceof Uint8Array);
  return textOf(value);
}

function stringsOf(value) {
  check(Array.isArray(value));
  return value.map(stringOf);
}

function resumeOf(value) {
  check(Array.isArray(value) && value.length >= 3);
  return { epoch: stringOf(value[0]), seq: numberOf(value[1]), checkpoint: value[2] === null ? null : stringOf(value[2]) };
}

function infoOf(value) {
  check(value !== null && typeof value === "object" && !Array.isArray(value) && !(value instanceof Uint8Array));
  check(!Object.hasOwn(value, NO_NAME));
  const info = { mode: "", upstream: "", version: "", channels: [] };
  for (const key of ["mode", "upstream", "version"]) if (Object.hasOwn(value, key)) info[key] = stringOf(value[key]);
  if (Object.hasOwn(value, "channels")) info.channels = stringsOf(value.channels);
  return info;
}

function elementOf(kind, value, head) {
  if (value === null && "nqar".includes(kind)) return null;
  switch (kind) {
    case "u":
    case "q":
      return numberOf(value, head);
    case "a":
      return stringsOf(value);
    case "r":
      return resumeOf(value);
    case "i":
      return infoOf(value);
    case "b":
      check(value instanceof Uint8Array);
      return Uint8Array.prototype.slice.call(value); // the buffer is used again
    default:
      return stringOf(value);
  }
}

// Unpacks one frame that a Scanner accepted, which found these heads: [type, ...elements], or null
// if its type is unknown. Throws a FrameError.
export function decode(frame, heads) {
  let values;
  try {
    values = decoder.decode(frame);
  } catch (error) {
    throw new FrameError(error.message);
  }
  check(Array.isArray(values) && values.length > 0);
  const type = numberOf(values[0], heads[0]);
  const shape = shapes.get(type);
  if (!shape) return null;
  check(values.length > shape.length);
  const elements = [type];
  for (let i = 0; i < shape.length; i++) elements.push(elementOf(shape[i], values[i + 1], heads[i + 1]));
  return elements;
}

// Reads the usual CHANGE by hand: the other way takes several times as long, for every change. It
// keeps where it stopped, and the channel, because most changes are of one.
export class ChangeReader {
  #channel = "";
  #channelBytes = Buffer.alloc(0);

  // Returns the frame that begins at start, as decode() does, and sets this.end. Returns null when
  // that is not a CHANGE, is unusual, or has not arrived whole.
  read(bytes, start, end) {
    if (end - start < 8 || bytes[start] !== 0x96 || bytes[start + 1] !== CHANGE) return null;
    this.bytes = bytes;
    this.at = start + 2;
    this.end = end;
    const seq = this.#number(true);
    if (seq === undefined) return null;
    if (!this.#string()) return null;
    const channel = this.#channelOf();
    if (!this.#string()) return null;
    const pubkey = this.#text();
    let clientId = null;
    if (bytes[this.at] === 0xc0) this.at++;
    else if (this.#string()) clientId = this.#text();
    else return null;
    const flags = this.#number(false);
    if (flags === undefined || this.at - start > FRAME_MAX) return null;
    this.end = this.at;
    return [CHANGE, seq, channel, pubkey, clientId, flags];
  }

  // undefined: not there, or unusual.
  #number(nil) {
    if (this.at >= this.end) return undefined;
    const first = this.bytes[this.at++];
    if (first < 0x80) return first;
    if (first === 0xc0 && nil) return null;
    const length = first === 0xcc ? 1 : first === 0xcd ? 2 : first === 0xce ? 4 : 0;
    if (length === 0 || this.end - this.at < length) return undefined;
    this.at += length;
    return this.bytes.readUIntBE(this.at - length, length);
  }

  // Whether a string is there, of which from and at are then the bounds. A byte follows a string in
  // a CHANGE.
  #string() {
    if (this.end - this.at < 4) return false;
    const first = this.bytes[this.at];
    let length;
    if (first >= 0xa0 && first < 0xc0) {
      length = first & 0x1f;
      this.from = this.at + 1;
    } else if (first === 0xd9) {
      length = this.bytes[this.at + 1];
      this.from = this.at + 2;
    } else if (first === 0xda) {
      length = this.bytes.readUInt16BE(this.at + 1);
      this.from = this.at + 3;
    } else {
      return false;
    }
    this.at = this.from + length;
    return this.at < this.end;
  }

  #text() {
    return this.bytes.toString("utf8", this.from, this.at);
  }

  #channelOf() {
    const known = this.#channelBytes;
    if (known.length !== this.at - this.from || known.compare(this.bytes, this.from, this.at) !== 0) {
      this.#channelBytes = Buffer.from(this.bytes.subarray(this.from, this.at));
      this.#channel = this.#text();
    }
    return this.#channel;
  }
}

// The encoder makes a float of a number that takes more than 32 bits, and 64 bits of a bigint.
function encodable(value) {
  if (Array.isArray(value)) return value.map(encodable);
  return typeof value === "number" && value > 0xffffffff ? BigInt(value) : value;
}

export function pack(frame) {
  return encode(encodable(frame), { useBigInt64: true });
}
