// What a client is subscribed to, how many holders each subscription has, and what the relay knows
// of it. Each (channel, pubkey or null for all) exists once. It is memory alone: the client asks it
// what to send, and passes the answers on.
import { PgheraldError } from "./errors.js";
import { SUBSCRIBE, UNSUBSCRIBE } from "./wire.js";

// Most pubkeys, and bytes of pubkeys, in one frame, so that it stays below FRAME_MAX.
const BATCH_PUBKEYS = 512;
const BATCH_BYTES = 32768;

// How far a subscription is with the relay.
const DUE = 0;     // the relay must be asked
const ASKED = 1;   // SUBSCRIBE was sent
const LIVE = 2;    // and answered by OK
const REFUSED = 3; // or by ERROR; due again on the next connection
const LEAVING = 4; // it has no holder, and the relay must be told

class Channel {
  constructor(name) {
    this.name = name;
    this.subscriptions = new Map(); // by pubkey
    this.due = new Set();
    this.leaving = new Set();
  }
}

export class Subscriptions {
  #channels = new Map();
  #batches = new Map(); // what a SUBSCRIBE has asked for, by its id
  #waiting = 0;         // waiters

  #find(name, pubkey) {
    return this.#channels.get(name)?.subscriptions.get(pubkey);
  }

  #make(name, pubkey) {
    let channel = this.#channels.get(name);
    if (!channel) this.#channels.set(name, (channel = new Channel(name)));
    const sub = {
      channel,
      pubkey,
      stage: DUE,
      atRelay: false,    // SUBSCRIBE was sent on this connection, and nothing has undone it
      wasRefused: false, // so there is a gap to tell when it becomes live
      holders: 0,        // 0 exactly if LEAVING
      id: 0,             // of the SUBSCRIBE, while ASKED
      seq: 0,            // since when it is LIVE
      waiters: [],
    };
    channel.subscriptions.set(pubkey, sub);
    channel.due.add(sub);
    return sub;
  }

  #move(sub, stage) {
    sub.channel.due.delete(sub);
    sub.channel.leaving.delete(sub);
    sub.stage = stage;
    if (stage === DUE) sub.channel.due.add(sub);
    if (stage === LEAVING) sub.channel.leaving.add(sub);
  }

  #end(sub) {
    const { channel } = sub;
    channel.due.delete(sub);
    channel.leaving.delete(sub);
    channel.subscriptions.delete(sub.pubkey);
    if (channel.subscriptions.size === 0) this.#channels.delete(channel.name);
  }

  // Returns how many there were.
  #tell(sub, how) {
    const { waiters } = sub;
    sub.waiters = [];
    this.#waiting -= waiters.length;
    for (const waiter of waiters) how(waiter);
    return waiters.length;
  }

  add(name, pubkey, waiter) {
    const sub = this.#find(name, pubkey) ?? this.#make(name, pubkey);
    sub.holders++;
    // One that was leaving may still be live at the relay. To ask again is harmless, and the OK
    // gives the seq.
    if (sub.stage === LEAVING || sub.stage === REFUSED) this.#move(sub, DUE);
    if (sub.stage === LIVE) {
      waiter.resolve(sub.seq);
      return;
    }
    sub.waiters.push(waiter);
    this.#waiting++;
  }

  // After the last holder, the waiters are told ECANCELED.
  remove(name, pubkey) {
    const sub = this.#find(name, pubkey);
    if (!sub || sub.holders === 0) throw new PgheraldError("ENOENT");
    if (--sub.holders > 0) return;
    this.#tell(sub, (waiter) => waiter.reject(new PgheraldError("ECANCELED")));
    if (sub.atRelay) this.#move(sub, LEAVING);
    else this.#end(sub);
  }

  // Removes a waiter that does not wait any more, and its holder. Returns whether it still waited.
  forget(name, pubkey, waiter) {
    const sub = this.#find(name, pubkey);
    if (!sub?.waiters.includes(waiter)) return false;
    sub.waiters = sub.waiters.filter((w) => w !== waiter);
    this.#waiting--;
    this.remove(name, pubkey);
    return true;
  }

  // The next SUBSCRIBE or UNSUBSCRIBE that is due, or null.
  next(id) {
    for (const channel of this.#channels.values()) {
      // Leaving first: if the relay's limit of subscriptions is near, that makes room.
      if (channel.leaving.size > 0) return this.#batch(channel, channel.leaving, UNSUBSCRIBE, id);
      if (channel.due.size > 0) return this.#batch(channel, channel.due, SUBSCRIBE, id);
    }
    return null;
  }

  #batch(channel, from, type, id) {
    const batch = [];
    let size = 0;
    for (const sub of from) {
      // The subscription for all has a frame of its own.
      if (sub.pubkey === null && batch.length > 0) break;
      batch.push(sub);
      if (sub.pubkey === null) break;
      size += Buffer.byteLength(sub.pubkey);
      if (batch.length === BATCH_PUBKEYS || size >= BATCH_BYTES) break;
    }
    const pubkeys = batch[0].pubkey === null ? null : batch.map((sub) => sub.pubkey);
    for (const sub of batch) {
      if (type === UNSUBSCRIBE) {
        this.#end(sub);
        continue;
      }
      sub.id = id;
      sub.atRelay = true;
      this.#move(sub, ASKED);
    }
    if (type === SUBSCRIBE) this.#batches.set(id, batch);
    return [type, id, channel.name, pubkeys];
  }

  // Those that the SUBSCRIBE with this id asked for and that still wait for its answer.
  #take(id) {
    const batch = this.#batches.get(id);
    this.#batches.delete(id);
    return batch?.filter((sub) => sub.stage === ASKED && sub.id === id);
  }

  // Whether a subscription is live that was refused before. undefined: no SUBSCRIBE with this id
  // was waiting. settled: gets a function for each waiter, which settles its promise.
  answeredOk(id, seq, settled) {
    let renewed = false;
    const batch = this.#take(id);
    for (const sub of batch ?? []) {
      renewed ||= sub.wasRefused;
      sub.wasRefused = false;
      this.#becomeLive(sub, seq, settled);
    }
    return batch && renewed;
  }

  #becomeLive(sub, seq, settled) {
    sub.seq = seq;
    this.#move(sub, LIVE);
    this.#tell(sub, (waiter) => settled.push(() => waiter.resolve(seq)));
  }

  // Whether a subscription is refused that has more holders than waiters. undefined as above. Each
  // waiter gets an error of its own.
  answeredError(id, makeError, settled) {
    let untold = false;
    const batch = this.#take(id);
    for (const sub of batch ?? []) {
      sub.wasRefused = true;
      sub.atRelay = false;
      this.#move(sub, REFUSED);
      const told = this.#tell(sub, (waiter) => settled.push(() => waiter.reject(makeError())));
      untold ||= told < sub.holders;
    }
    return batch && untold;
  }

  // The connection is lost: every subscription with a holder is due again.
  restart() {
    this.#batches.clear();
    for (const channel of this.#channels.values())
      for (const sub of channel.subscriptions.values()) {
        sub.atRelay = false;
        if (sub.stage === LEAVING) this.#end(sub);
        else this.#move(sub, DUE);
      }
  }

  // For the local notifier: everything that is due becomes live, or is removed.
  allLive(seq, settled) {
    for (const channel of this.#channels.values()) for (const sub of channel.due) this.#becomeLive(sub, seq, settled);
  }

  // For the local notifier. pubkey null: a message.
  match(name, pubkey) {
    return this.#find(name, null) !== undefined || (pubkey !== null && this.#find(name, pubkey) !== undefined);
  }

  get waits() {
    return this.#waiting > 0;
  }

  cancel() {
    for (const channel of this.#channels.values())
      for (const sub of channel.subscriptions.values())
        this.#tell(sub, (waiter) => waiter.reject(new PgheraldError("ECANCELED")));
  }
}
