// A worker in Node that speaks the protocol itself: npm install @msgpack/msgpack. It prints whose data changed, and publishes
// a change of its own. Its cursor is in a file, from which the next run and each reconnect continue.
//
//     node worker.mjs CURSOR_FILE [PUBKEY_TO_PUBLISH]
import fs from "node:fs";
import net from "node:net";
import { setTimeout } from "node:timers/promises";
import { decodeMultiStream, encode } from "@msgpack/msgpack";

const PATH = process.env.PGHERALD_SOCKET ?? "/run/pgherald/relay.sock";
const CHANNEL = "data_sync_changes";
const HELLO = 0, SUBSCRIBE = 1, NOTIFY = 3, BEGIN = 6; // used as the ids of the requests, too
const WELCOME = 16, OK = 17, ERROR = 18, CHANGE = 19, CHECKPOINT = 21, GAP = 22, UPSTREAM = 23, BYE = 24;
let [cursorFile, toPublish] = process.argv.slice(2);

function store(cursor) {
  fs.writeFileSync(cursorFile + ".new", JSON.stringify(cursor));
  fs.renameSync(cursorFile + ".new", cursorFile); // whole or not at all: this may be killed at any moment
}

async function converse(relay) {
  const send = (...frame) => relay.write(encode(frame));
  let cursor = fs.existsSync(cursorFile) ? JSON.parse(fs.readFileSync(cursorFile)) : null; // [epoch, seq, checkpoint]
  let epoch;
  const live = cursor ? BEGIN : SUBSCRIBE; // from the OK to this on
  send(HELLO, 1, "worker.mjs", cursor);
  send(SUBSCRIBE, SUBSCRIBE, CHANNEL, null);
  if (cursor) send(BEGIN, BEGIN);
  for await (const [type, ...rest] of decodeMultiStream(relay)) {
    if (type === WELCOME) {
      epoch = rest[1];
      cursor ??= [epoch, rest[2], null];
    } else if (type === OK && rest[0] === live) {
      cursor = [epoch, rest[1], cursor[2]]; // from here on it is of this run of the relay
      console.log("live");
      if (toPublish) send(NOTIFY, NOTIFY, CHANNEL, toPublish, "worker.mjs");
    } else if (type === OK && rest[0] === NOTIFY) {
      console.log("published", toPublish);
      toPublish = undefined;
    } else if (type === ERROR || type === BYE) {
      console.error(...rest);
    } else if (type === CHANGE) {
      console.log("changed", rest[2], rest[3] ?? "");
    } else if (type === CHECKPOINT) {
      cursor[2] = rest[1];
    } else if (type === GAP) {
      console.log("gap:", rest[2]); // read anew whatever was read before
    }
    if (type >= CHANGE && type <= UPSTREAM && rest[0] !== null) cursor[1] = Math.max(cursor[1], rest[0]);
    if (cursor) store(cursor);
  }
}

for (;;) {
  await converse(net.connect(PATH)).catch((e) => console.error(e.message));
  await setTimeout(1000);
}
