// A worker's place in the relay's order, and its text. It moves as PROTOCOL.md says under "The
// cursor".
import { PgheraldError } from "./errors.js";

// Bytes. More than PROTOCOL.md allows, so that a later relay may send longer ones. They are those
// of libpgherald, so each reads the other's cursors.
export const EPOCH_MAX = 255;
const CHECKPOINT_MAX = 2000;

export class Cursor {
  constructor() {
    this.isSet = false; // false if never connected and none was given
    this.epoch = "";
    this.seq = 0;
    this.checkpoint = null;
    // From a WELCOME until the OK to BEGIN it keeps its old values. Otherwise a connection lost in
    // between would skip what is still to come.
    this.catchingUp = false;
    this.replay = false; // the epoch is its own: seqs count even while catching up
    this.nextEpoch = ""; // the relay's; the OK to BEGIN makes it the cursor's
  }

  copy() {
    return Object.assign(new Cursor(), this);
  }

  get resume() {
    return this.isSet ? [this.epoch, this.seq, this.checkpoint] : null;
  }

  welcome(epoch, seq) {
    this.nextEpoch = epoch;
    this.replay = this.isSet && epoch === this.epoch;
    this.catchingUp = true;
    if (!this.isSet) this.caughtUp(seq);
  }

  caughtUp(seq) {
    this.epoch = this.nextEpoch;
    this.seq = seq;
    this.isSet = true;
    this.catchingUp = false;
  }

  // A frame with this seq was handled. null: it is not in the backlog.
  passed(seq) {
    if (seq !== null && (!this.catchingUp || this.replay) && seq > this.seq) this.seq = seq;
  }

  // One that is too long is ignored: with an older one, more is owed, not less.
  passedCheckpoint(seq, checkpoint) {
    if (seq !== null && (!this.catchingUp || this.replay) && Buffer.byteLength(checkpoint) <= CHECKPOINT_MAX)
      this.checkpoint = checkpoint;
    this.passed(seq);
  }

  // "1 SEQ EPOCH" or "1 SEQ EPOCH CHECKPOINT", where 1 is the version of the format. Space, percent
  // and all bytes outside printable ASCII are written %XX.
  toString() {
    const text = `1 ${this.seq} ${escape(this.epoch)}`;
    return this.checkpoint === null ? text : `${text} ${escape(this.checkpoint)}`;
  }

  static parse(text) {
    const match = /^1 ([0-9]+) ((?:[!-$&-~]|%[0-9A-F]{2})*)(?: ((?:[!-$&-~]|%[0-9A-F]{2})*))?$/.exec(text);
    const seq = match && BigInt(match[1]);
    if (!match || match[0].length !== text.length || seq >= 1n << 64n) throw new PgheraldError("EBADMSG");
    const cursor = new Cursor();
    cursor.isSet = true;
    cursor.seq = seq <= Number.MAX_SAFE_INTEGER ? Number(seq) : seq;
    cursor.epoch = unescape(match[2], EPOCH_MAX);
    if (match[3] !== undefined) cursor.checkpoint = unescape(match[3], CHECKPOINT_MAX);
    return cursor;
  }
}

function escape(text) {
  let out = "";
  for (const byte of Buffer.from(text)) {
    const plain = byte > 0x20 && byte < 0x7f && byte !== 0x25;
    out += plain ? String.fromCharCode(byte) : "%" + byte.toString(16).toUpperCase().padStart(2, "0");
  }
  return out;
}

function unescape(text, max) {
  const bytes = Buffer.from(text.replace(/%([0-9A-F]{2})/g, (_, hex) => String.fromCharCode(parseInt(hex, 16))), "latin1");
  if (bytes.length > max) throw new PgheraldError("EBADMSG");
  return bytes.toString("utf8");
}
