// What pgherald-cat does, in Node: print what a relay sends, as JSON lines; or publish one change.
//
//     node cat.mjs [--socket PATH] [--channel NAME]... [--pubkey PUBKEY]... [--cursor FILE]
//     node cat.mjs [--socket PATH] [--channel NAME] --notify PUBKEY
import fs from "node:fs";
import { parseArgs } from "node:util";
import { open } from "pgherald";

const { values } = parseArgs({
  options: {
    socket: { type: "string" },
    channel: { type: "string", multiple: true, default: ["data_sync_changes"] },
    pubkey: { type: "string", multiple: true, default: [] },
    cursor: { type: "string" },
    notify: { type: "string" },
  },
});
const { socket, channel: channels, pubkey: pubkeys, cursor: file, notify } = values;

const print = (type, fields) => fs.writeSync(1, JSON.stringify({ type, ...fields }) + "\n");

let kept = file && fs.existsSync(file) ? fs.readFileSync(file, "utf8").trim() : null;
const client = open({ socket, name: "cat.mjs", cursor: kept });

// Written to another file and renamed: this may be killed at any moment.
function keep() {
  const cursor = client.cursor();
  if (!file || cursor === null || cursor === kept) return;
  fs.writeFileSync(`${file}.new`, cursor + "\n");
  fs.renameSync(`${file}.new`, file);
  kept = cursor;
}

function listen() {
  client.on("change", ({ clientId, ...change }) => print("change", { ...change, client_id: clientId }));
  client.on("message", ({ bytes, ...message }) => print("message", message));
  client.on("gap", (gap) => print("gap", gap));
  client.on("state", ({ state, text }) => {
    const [upstream, live] = state.split("-");
    print(upstream, live ? { state: live, text } : { text });
  });
  // The cursor moves with checkpoints, too, of which no event tells.
  setInterval(keep, 100);
  const subscriptions = channels.flatMap((channel) => (pubkeys.length > 0 ? pubkeys : [null]).map((pubkey) => client.subscribe(channel, pubkey)));
  return Promise.all(subscriptions).then((seqs) => print("subscribed", { seq: Math.max(...seqs) }));
}

async function publish() {
  await client.notify(channels[0], notify);
  client.close();
}

for (const signal of ["SIGINT", "SIGTERM"]) {
  process.on(signal, () => {
    keep();
    process.exit(0);
  });
}
try {
  await (notify === undefined ? listen() : publish());
} catch (error) {
  console.error(`cat.mjs: ${error.message}`);
  process.exit(1);
}
