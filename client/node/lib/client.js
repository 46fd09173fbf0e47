// The client: what an app calls, what it is told and in which order, and the session with the relay
// (PROTOCOL.md, the worker's side). index.d.ts says what each call promises.
import { EventEmitter } from "node:events";
import net from "node:net";
import path from "node:path";
import { Cursor, EPOCH_MAX } from "./cursor.js";
import { PgheraldError, errorOf } from "./errors.js";
import { Publishes } from "./publishes.js";
import { Subscriptions } from "./subscriptions.js";
import * as wire from "./wire.js";

const DEFAULT_SOCKET = "/run/pgherald/relay.sock";
const DEFAULT_QUEUE_SIZE = 1024 * 1024;
const LEAST_QUEUE_SIZE = 64 * 1024;
const DEFAULT_DEADLINE_MS = 10000;

// Bytes. PostgreSQL's own limits: nothing longer can be published.
const CHANNEL_MAX = 63;
const STRING_MAX = 7999;
const NAME_MAX = 255;
// Bytes that a socket address holds, without the NUL.
const PATH_MAX = 107;
// Bytes of the reason of a lost connection, of which the relay chooses a part.
const REASON_MAX = 255;
// What setTimeout() takes.
const TIMEOUT_MAX = 2 ** 31 - 1;

// The first and the longest pause before connecting again, in milliseconds. The socket is local, so
// the first is short.
const RETRY_FIRST = 50;
const RETRY_LAST = 2000;

// Bytes: of one read, of input (a partial frame, and a read), and of one write.
const READ_SIZE = wire.FRAME_MAX;
const IN_SIZE = 2 * wire.FRAME_MAX;
const OUT_SIZE = wire.FRAME_MAX;

// An app that iterates is read ahead of, because the answers to requests come among the events.
// Beyond EVENTS_SOFT bytes of events that wait, the client reads on only while a request waits for
// its answer, and never beyond EVENTS_HARD.
const EVENTS_SOFT = 1024 * 1024;
const EVENTS_HARD = 64 * 1024 * 1024;
// Bytes that an event takes beside its frame.
const EVENT_COST = 256;

const OPTIONS = new Set(["socket", "name", "cursor", "queueSize", "deadlineMs", "signal"]);
const EVENTS = new Set(["change", "message", "gap"]);

const isText = (value) => typeof value === "string" && !/[\ud800-\udfff\0]/u.test(value);
const seqOf = (seq) => seq ?? 0;

function checkText(value, max, tooLong) {
  if (typeof value !== "string") throw new PgheraldError("EINVAL");
  if (Buffer.byteLength(value) > max) throw new PgheraldError(tooLong);
  if (!isText(value)) throw new PgheraldError("EILSEQ");
}

function checkChannel(channel) {
  checkText(channel, CHANNEL_MAX, "EINVAL");
  if (channel === "") throw new PgheraldError("EINVAL");
}

function checkTextOrNull(value) {
  if (value !== null) checkText(value, STRING_MAX, "EMSGSIZE");
}

// At least half of the full pause; the rest is random. So the workers of a relay that restarts do
// not reconnect all at once.
function pauseAfter(failures) {
  const pause = Math.min(RETRY_LAST, RETRY_FIRST * 2 ** Math.min(failures, 6));
  return pause / 2 + (pause / 2) * Math.random();
}

// What a request refuses at once rejects, too.
function attempt(request) {
  try {
    return request();
  } catch (error) {
    return Promise.reject(error);
  }
}

// One who waits for the outcome of a request.
class Waiter {
  constructor() {
    this.promise = new Promise((resolve, reject) => {
      this.resolve = resolve;
      this.reject = reject;
    });
  }
}

export class Client extends EventEmitter {
  #socketPath; // null: the local notifier
  #name;
  #deadlineMs;
  #signal;
  #onAbort = () => this.close();
  #closed = false;

  #nextId = 1;
  #subs = new Subscriptions();
  #pubs;
  #expiry = null; // the timer of the next deadline
  #turn = null;   // the immediate that sends, or delivers what the local notifier has

  // What the relay sent and the app was not told yet, in order: {name, event, moves, size}, or
  // {settle}. moves: what follows for the cursor.
  #queue = [];
  #head = 0; // of queue: what was before is gone
  #queued = 0; // bytes
  #mode = null; // "events" or "iteration", once the app has shown how it takes them
  #settled = false; // a promise was settled, and what waits for it has not run yet
  #yielding = null; // the immediate after which the app is told more
  #iterators = []; // that wait for an event
  #given = null; // the entry that the iteration has handed out, and that is not handled yet
  #received = new Cursor(); // everything up to it is here
  #told = new Cursor();     // everything up to it was handled by the app

  // The connection
  #socket = null;
  #failure = null;
  #retry = null;
  #failures = 0;
  #reason = "";
  #welcomed = false;
  #welcomedAt = 0;
  #helloDue = false;
  #beginDue = false; // HELLO had a resume, and BEGIN must follow the SUBSCRIBEs
  #beginId = 0;      // of the BEGIN that waits for its OK
  #paused = false;
  #scanner = new wire.Scanner();
  #changes = new wire.ChangeReader();
  #in = null;
  #inEnd = 0;
  #readBuffer = null;

  #localSeq = 0;

  constructor(options = {}) {
    super();
    this.#takeOptions(options ?? {});
    this.on("newListener", (name) => EVENTS.has(name) && this.#listen());
    if (this.#signal?.aborted) this.close();
    else this.#signal?.addEventListener("abort", this.#onAbort, { once: true });
    // The app subscribes first.
    if (!this.#closed) this.#retry = setImmediate(() => (this.#socketPath === null ? this.#localStart() : this.#connect()));
  }

  #takeOptions(options) {
    for (const name of Object.keys(options)) if (!OPTIONS.has(name)) throw new PgheraldError("E2BIG", `there is no option ${name}`);
    const socket = options.socket ?? process.env.PGHERALD_SOCKET ?? DEFAULT_SOCKET;
    if (typeof socket !== "string" || socket.includes("\0")) throw new PgheraldError("EINVAL");
    if (Buffer.byteLength(socket) > PATH_MAX) throw new PgheraldError("ENAMETOOLONG");
    this.#socketPath = socket === "" ? null : socket;
    if (options.name !== undefined && options.name !== null) {
      checkText(options.name, NAME_MAX, "EINVAL");
      this.#name = options.name;
    } else {
      const name = path.basename(process.argv[1] ?? process.argv0);
      this.#name = isText(name) && Buffer.byteLength(name) <= NAME_MAX ? name : "";
    }
    const queueSize = options.queueSize || DEFAULT_QUEUE_SIZE;
    const deadlineMs = options.deadlineMs || DEFAULT_DEADLINE_MS;
    if (!(queueSize >= LEAST_QUEUE_SIZE) || !(deadlineMs > 0)) throw new PgheraldError("EINVAL");
    this.#pubs = new Publishes(queueSize);
    this.#deadlineMs = deadlineMs;
    if (options.cursor !== undefined && options.cursor !== null && this.#socketPath !== null) {
      if (typeof options.cursor !== "string") throw new PgheraldError("EINVAL");
      this.#told = Cursor.parse(options.cursor);
      this.#received = this.#told.copy();
    }
    if (options.signal && !(options.signal instanceof AbortSignal)) throw new PgheraldError("EINVAL");
    this.#signal = options.signal ?? null;
  }

  // What an app calls

  subscribe(channel, pubkey = null, { signal } = {}) {
    return attempt(() => {
      checkChannel(channel);
      checkTextOrNull(pubkey);
      const waiter = this.#waiter(signal);
      this.#subs.add(channel, pubkey, waiter);
      this.#requested();
      return this.#outcome(waiter, signal, () => this.#subs.forget(channel, pubkey, waiter));
    });
  }

  unsubscribe(channel, pubkey = null) {
    checkChannel(channel);
    checkTextOrNull(pubkey);
    this.#checkOpen();
    this.#subs.remove(channel, pubkey);
    this.#requested();
  }

  notify(channel, pubkey, clientId = null, { signal } = {}) {
    return attempt(() => {
      checkChannel(channel);
      checkText(pubkey, STRING_MAX, "EMSGSIZE");
      checkTextOrNull(clientId);
      return this.#publish([wire.NOTIFY, 0, channel, pubkey, clientId], signal);
    });
  }

  send(channel, payload, { signal } = {}) {
    return attempt(() => {
      checkChannel(channel);
      checkText(payload, STRING_MAX, "EMSGSIZE");
      return this.#publish([wire.SEND, 0, channel, payload], signal);
    });
  }

  cursor() {
    return this.#told.isSet ? this.#told.toString() : null;
  }

  get closed() {
    return this.#closed;
  }

  close() {
    if (this.#closed) return;
    this.#closed = true;
    this.#signal?.removeEventListener("abort", this.#onAbort);
    clearTimeout(this.#expiry);
    clearTimeout(this.#retry);
    for (const immediate of [this.#turn, this.#yielding, this.#retry]) clearImmediate(immediate);
    this.#socket?.destroy();
    for (const entry of this.#queue.slice(this.#head)) entry.settle?.();
    this.#subs.cancel();
    for (let request = this.#pubs.oldest; request; request = this.#pubs.oldest)
      this.#pubs.take(request.id).waiter.reject(new PgheraldError("ECANCELED"));
    this.#queue = [];
    this.#head = this.#queued = 0;
    for (const iterator of this.#iterators.splice(0)) iterator({ value: undefined, done: true });
  }

  #checkOpen() {
    if (this.#closed) throw new PgheraldError("ESHUTDOWN");
  }

  // The waiter of a request that begins now.
  #waiter(signal) {
    this.#checkOpen();
    signal?.throwIfAborted();
    const waiter = new Waiter();
    // One that is canceled, because the app closes the client or unsubscribes, may be ignored.
    const { reject } = waiter;
    waiter.reject = (error) => {
      if (error.code === "ECANCELED") waiter.promise.catch(() => {});
      reject(error);
    };
    return waiter;
  }

  // forget() ends the request, and returns whether it was still going on.
  #outcome(waiter, signal, forget) {
    if (!signal) return waiter.promise;
    const abort = () => {
      if (!forget()) return;
      this.#requested();
      waiter.reject(signal.reason);
    };
    const settled = () => signal.removeEventListener("abort", abort);
    signal.addEventListener("abort", abort, { once: true });
    waiter.promise.then(settled, settled);
    return waiter.promise;
  }

  #publish(frame, signal) {
    const waiter = this.#waiter(signal);
    const id = this.#nextId;
    frame[1] = id;
    if (!this.#pubs.add({ id, frame, waiter, deadline: performance.now() + this.#deadlineMs })) throw new PgheraldError("ENOBUFS");
    this.#nextId++;
    this.#setExpiry();
    this.#requested();
    return this.#outcome(waiter, signal, () => this.#pubs.take(id) !== undefined);
  }

  // There is something for the relay. It goes out when this turn of the event loop has read what the
  // relay has sent: after a write that fails, nothing can be read any more.
  #requested() {
    if (this.#closed) return;
    this.#turn ??= setImmediate(() => {
      this.#turn = null;
      if (this.#socketPath === null) this.#localTurn();
      else this.#flush();
    });
  }

  #setExpiry() {
    const { oldest } = this.#pubs;
    if (this.#expiry !== null || !oldest) return;
    const wait = Math.min(Math.max(Math.ceil(oldest.deadline - performance.now()), 1), TIMEOUT_MAX);
    // Not at once: an answer that has arrived is in time, however late the process runs again.
    this.#expiry = setTimeout(() => (this.#expiry = setImmediate(() => this.#expire())), wait);
  }

  #expire() {
    if (this.#closed) return;
    this.#expiry = null;
    const now = performance.now();
    for (let request = this.#pubs.oldest; request && request.deadline <= now; request = this.#pubs.oldest) {
      const { waiter } = this.#pubs.take(request.id);
      this.#settle(() => waiter.reject(new PgheraldError("ETIMEDOUT")));
    }
    this.#setExpiry();
  }

  // What the app is told

  #listen() {
    if (this.#mode === "iteration") throw new PgheraldError("EINVAL", "this client is iterated over: it has no listeners");
    if (this.#mode === null) {
      this.#mode = "events";
      this.#yield();
    }
  }

  [Symbol.asyncIterator]() {
    if (this.#mode === "events") throw new PgheraldError("EINVAL", "this client has listeners: it cannot be iterated over");
    this.#mode = "iteration";
    return { next: () => this.#next(), return: async () => ({ value: undefined, done: true }), [Symbol.asyncIterator]() { return this; } };
  }

  // The event that the iteration handed out last is handled.
  #next() {
    const given = this.#given;
    this.#given = null;
    if (given) this.#move(given.moves);
    if (this.#closed) return Promise.resolve({ value: undefined, done: true });
    if (this.#head < this.#queue.length && !this.#yielding) return Promise.resolve(this.#give(this.#shift()));
    return new Promise((resolve) => this.#iterators.push(resolve));
  }

  #give(entry) {
    this.#given = entry;
    return { value: { type: entry.name, ...entry.event }, done: false };
  }

  #shift() {
    const entry = this.#queue[this.#head];
    this.#queue[this.#head++] = undefined;
    if (this.#head === this.#queue.length) {
      this.#queue = [];
      this.#head = 0;
    } else if (this.#head >= 1024 && this.#head * 2 > this.#queue.length) {
      this.#queue.splice(0, this.#head);
      this.#head = 0;
    }
    this.#queued -= entry.size ?? 0;
    this.#resumeReading();
    return entry;
  }

  #move(moves) {
    for (const [what, ...values] of moves) this.#told[what](...values);
  }

  // The last entry that the app was not told or has not handled, or undefined.
  #last() {
    return this.#head < this.#queue.length ? this.#queue.at(-1) : this.#given;
  }

  // The cursor moves once the app has handled everything before.
  #moves(what, ...values) {
    this.#received[what](...values);
    const last = this.#last();
    if (!last) {
      this.#told[what](...values);
      return;
    }
    last.moves ??= [];
    // An app that handles nothing for long must not make this long.
    if (what === "passedCheckpoint" && last.moves.at(-1)?.[0] === what) last.moves.pop();
    last.moves.push([what, ...values]);
  }

  #tell(name, event, seq, size) {
    this.#received.passed(seq);
    if (this.#mode === "events" && !this.#yielding && !this.#settled && this.#head === this.#queue.length) {
      this.#emit(name, event);
      this.#told.passed(seq);
      return;
    }
    const waits = this.#mode !== null || name !== "state";
    if (name === "state" && this.#mode !== "events") this.#emit(name, event);
    if (!waits) return;
    const entry = { name, event, moves: [["passed", seq]], size: size + EVENT_COST };
    if (this.#iterators.length > 0 && !this.#yielding) {
      this.#iterators.shift()(this.#give(entry));
      return;
    }
    this.#queue.push(entry);
    this.#queued += entry.size;
    if (this.#mode === "events") this.#yield();
  }

  // A listener that throws is the app's to know of, and takes nothing from the others.
  #emit(name, event) {
    try {
      this.emit(name, event);
    } catch (error) {
      process.nextTick(() => {
        throw error;
      });
      this.#yield();
    }
  }

  // A promise is settled in order with the events: what waits for it runs before the next event. An
  // app that iterates may wait for it while events wait for the app, so there it is at once.
  #settle(settle) {
    if (this.#mode === "events" && (this.#yielding || this.#head < this.#queue.length)) {
      this.#queue.push({ settle });
      return;
    }
    settle();
    if (this.#mode === null) return;
    this.#settled = true;
    this.#yield();
  }

  // Tells more in the next turn of the event loop.
  #yield() {
    if (this.#closed) return;
    this.#yielding ??= setImmediate(() => {
      this.#yielding = null;
      this.#settled = false;
      this.#drain();
    });
  }

  #drain() {
    while (this.#mode === "iteration" && this.#iterators.length > 0 && this.#head < this.#queue.length)
      this.#iterators.shift()(this.#give(this.#shift()));
    if (this.#mode === "iteration") return;
    while (!this.#closed && !this.#yielding && this.#head < this.#queue.length) {
      if (this.#settled && !this.#queue[this.#head].settle) return this.#yield();
      const entry = this.#shift();
      if (entry.settle) {
        this.#settled = true;
        entry.settle();
      } else {
        this.#emit(entry.name, entry.event);
      }
      if (entry.moves) this.#move(entry.moves);
    }
    if (this.#settled) this.#yield();
  }

  // The session

  #connect() {
    this.#retry = null;
    this.#readBuffer ??= Buffer.allocUnsafeSlow(READ_SIZE);
    this.#in ??= Buffer.allocUnsafeSlow(IN_SIZE);
    this.#inEnd = 0;
    this.#scanner.reset();
    this.#failure = null;
    this.#paused = false;
    const socket = net.connect({
      path: this.#socketPath,
      onread: { buffer: this.#readBuffer, callback: (size, buffer) => this.#onRead(socket, size, buffer) },
    });
    this.#socket = socket;
    socket.on("connect", () => {
      if (this.#socket !== socket) return;
      this.#helloDue = true;
      this.#beginDue = this.#received.isSet;
      this.#flush();
    });
    socket.on("drain", () => this.#socket === socket && this.#flush());
    socket.on("error", (error) => (this.#failure = error));
    socket.on("close", () => {
      if (this.#socket !== socket || this.#closed) return;
      const error = this.#failure;
      if (error?.syscall === "connect") this.#disconnect(error.message);
      else this.#disconnect(`connection lost: ${error?.message ?? "the relay closed it"}`);
    });
  }

  // The only way to end a connection that failed: one that broke, and one that could not be made.
  #disconnect(reason) {
    const wasWelcomed = this.#welcomed;
    this.#socket.destroy();
    this.#socket = null;
    if (wasWelcomed && performance.now() - this.#welcomedAt >= RETRY_LAST) this.#failures = 0;
    this.#retry = setTimeout(() => this.#connect(), pauseAfter(this.#failures++));
    this.#welcomed = this.#helloDue = this.#beginDue = false;
    this.#beginId = 0;
    this.#subs.restart();
    this.#pubs.restart();
    reason = Buffer.from(reason).subarray(0, REASON_MAX).toString().replace(/\ufffd$/, "");
    if (wasWelcomed || reason !== this.#reason) {
      this.#reason = reason;
      this.#tell("state", { state: "disconnected", text: reason }, null, 0);
    }
  }

  // Sends what is due, in this order: HELLO, (UN)SUBSCRIBEs, BEGIN, requests to publish.
  #flush() {
    const socket = this.#socket;
    if (!socket || socket.connecting || socket.destroyed || socket.writableNeedDrain) return;
    let more = true;
    while (more) {
      const frames = [];
      let size = 0;
      while (size < OUT_SIZE) {
        const frame = this.#nextFrame();
        if (!frame) {
          more = false;
          break;
        }
        const packed = wire.pack(frame);
        frames.push(packed);
        size += packed.length;
      }
      if (size > 0 && !socket.write(frames.length === 1 ? frames[0] : Buffer.concat(frames, size))) break;
    }
    this.#resumeReading();
  }

  #nextFrame() {
    if (this.#helloDue) {
      this.#helloDue = false;
      return [wire.HELLO, wire.VERSION, this.#name, this.#received.resume];
    }
    const subscribe = this.#subs.next(this.#nextId);
    if (subscribe) {
      this.#nextId++;
      return subscribe;
    }
    if (this.#beginDue) {
      this.#beginDue = false;
      this.#beginId = this.#nextId++;
      return [wire.BEGIN, this.#beginId];
    }
    return this.#welcomed ? this.#pubs.next()?.frame : undefined;
  }

  get #tooMuch() {
    const wait = this.#subs.waits || this.#pubs.oldest !== undefined;
    return this.#queued > EVENTS_SOFT && !(wait && this.#queued < EVENTS_HARD);
  }

  #resumeReading() {
    if (!this.#paused || this.#tooMuch) return;
    this.#paused = false;
    this.#socket?.resume();
  }

  // Returns whether to go on reading.
  #onRead(socket, size, buffer) {
    if (this.#socket !== socket || this.#closed) return false;
    buffer.copy(this.#in, this.#inEnd, 0, size);
    this.#inEnd += size;
    let start = 0;
    try {
      start = this.#onBytes(socket);
    } catch (error) {
      if (!(error instanceof wire.FrameError)) throw error;
      this.#disconnect("the relay broke the protocol: no frame");
    }
    if (this.#socket !== socket || this.#closed) return false;
    this.#in.copyWithin(0, start, this.#inEnd);
    this.#inEnd -= start;
    this.#paused = this.#tooMuch;
    return !this.#paused;
  }

  // Handles the frames that have arrived whole. Returns where the rest begins.
  #onBytes(socket) {
    const bytes = this.#in;
    const scanner = this.#scanner;
    let start = 0;
    while (this.#socket === socket && !this.#closed && start < this.#inEnd) {
      const usual = this.#welcomed && scanner.offset === 0 ? this.#changes.read(bytes, start, this.#inEnd) : null;
      if (usual) {
        const size = this.#changes.end - start;
        start = this.#changes.end;
        this.#onChange(usual, size);
        continue;
      }
      const size = scanner.scan(bytes, start, this.#inEnd);
      if (size === 0) break;
      const frame = wire.decode(bytes.subarray(start, start + size), scanner.heads);
      start += size;
      scanner.reset();
      if (frame) this.#onFrame(frame, size);
    }
    return start;
  }

  #onFrame(frame, size) {
    const [type, a, b, c, d] = frame;
    switch (type) {
      case wire.WELCOME:
        return this.#onWelcome(a, b, c, d);
      case wire.ERROR:
        return this.#onError(a, b, c);
      case wire.BYE:
        return this.#disconnect(`the relay said ${a}: ${b}`);
    }
    if (!this.#welcomed) return this.#disconnect("the relay broke the protocol: no WELCOME");
    switch (type) {
      case wire.OK:
        return this.#onOk(a, b);
      case wire.CHANGE:
        return this.#onChange(frame, size);
      case wire.MESSAGE:
        return this.#tell("message", this.#messageOf(seqOf(a), b, c, d), a, size);
      case wire.GAP:
        return this.#tell("gap", { cause: b, text: c, seq: seqOf(a) }, a, size);
      case wire.UPSTREAM:
        return this.#tell("state", { state: b === "live" ? "upstream-live" : "upstream-down", text: c }, a, size);
      case wire.CHECKPOINT:
        return this.#moves("passedCheckpoint", a, b);
      default: // a frame that only workers send: ignored like an unknown one
    }
  }

  #onChange([, seq, channel, pubkey, clientId, flags], size) {
    const recovered = (BigInt(flags) & BigInt(wire.RECOVERED)) === 1n;
    this.#tell("change", { channel, pubkey, clientId, seq: seqOf(seq), recovered }, seq, size);
  }

  #messageOf(seq, channel, bytes, flags) {
    const recovered = (BigInt(flags) & BigInt(wire.RECOVERED)) === 1n;
    const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    return { channel, payload: buffer.toString("utf8"), bytes, seq, recovered };
  }

  #onWelcome(version, epoch, seq, info) {
    if (this.#welcomed || version !== wire.VERSION || Buffer.byteLength(epoch) > EPOCH_MAX)
      return this.#disconnect("the relay broke the protocol: WELCOME");
    this.#welcomed = true;
    this.#welcomedAt = performance.now();
    this.#reason = "";
    this.#moves("welcome", epoch, seq);
    this.#requested();
    this.#tell("state", { state: "connected", text: info.mode }, null, 0);
    this.#tell("state", { state: info.upstream === "live" ? "upstream-live" : "upstream-down", text: "" }, null, 0);
  }

  #onOk(id, seq) {
    if (this.#beginId !== 0 && id === this.#beginId) {
      this.#beginId = 0;
      return this.#moves("caughtUp", seq);
    }
    const settled = [];
    const renewed = this.#subs.answeredOk(id, seq, settled);
    for (const settle of settled) this.#settle(settle);
    if (renewed !== undefined) {
      if (renewed) this.#refused("a subscription that was refused is live");
      return;
    }
    // Nothing waits for the OK to an UNSUBSCRIBE, or to a request that has timed out.
    const request = this.#pubs.answered(id);
    if (request) this.#settle(() => request.waiter.resolve(seq));
  }

  #onError(id, code, text) {
    if (id === null) return;
    if (this.#beginId !== 0 && id === this.#beginId) return this.#disconnect("the relay refused to resume");
    const settled = [];
    const untold = this.#subs.answeredError(id, () => errorOf(code, text), settled);
    for (const settle of settled) this.#settle(settle);
    if (untold !== undefined) {
      if (untold) this.#refused(text);
      return;
    }
    const request = this.#pubs.answered(id);
    if (request) this.#settle(() => request.waiter.reject(errorOf(code, text)));
  }

  // A gap that the client itself found.
  #refused(text) {
    this.#tell("gap", { cause: "refused", text, seq: 0 }, null, 0);
  }

  // The local notifier

  #localStart() {
    this.#retry = null;
    this.#tell("state", { state: "connected", text: "in-process" }, null, 0);
    this.#tell("state", { state: "upstream-live", text: "" }, null, 0);
    this.#requested();
  }

  // What listeners publish meanwhile waits for the next turn.
  #localTurn() {
    if (this.#retry) return; // it has not started
    const settled = [];
    this.#subs.allLive(this.#localSeq, settled);
    for (const settle of settled) this.#settle(settle);
    const end = this.#nextId;
    for (let request = this.#pubs.oldest; request && request.id < end && !this.#closed; request = this.#pubs.oldest) {
      const { frame, waiter } = this.#pubs.take(request.id);
      const seq = ++this.#localSeq;
      this.#settle(() => waiter.resolve(seq));
      const [type, , channel, a, b] = frame;
      if (!this.#subs.match(channel, type === wire.NOTIFY ? a : null)) continue;
      if (type === wire.NOTIFY) this.#tell("change", { channel, pubkey: a, clientId: b, seq, recovered: false }, null, 0);
      else this.#tell("message", this.#messageOf(seq, channel, Buffer.from(a), 0), null, 0);
    }
  }
}

export function open(options) {
  return new Client(options);
}
