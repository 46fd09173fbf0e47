// What the conformance suite cannot see, because it is Node's alone: signals, iteration, listeners.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { once } from "node:events";
import fs from "node:fs";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import test from "node:test";
import { promisify } from "node:util";
import { decodeMultiStream, encode } from "@msgpack/msgpack";
import { Client, PgheraldError, open } from "../lib/index.js";
import * as wire from "../lib/wire.js";

const options = { timeout: 20000 };

// A relay that does and says only what a test tells it to, and a client of it.
async function start(t, more = {}) {
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), "pgherald-"));
  const socket = path.join(directory, "s");
  const server = net.createServer().listen(socket);
  await once(server, "listening");
  const connections = [];
  const client = open({ socket, ...more });
  t.after(() => {
    client.close();
    for (const connection of connections) connection.destroy();
    server.close();
    fs.rmSync(directory, { recursive: true });
  });
  const relay = {
    async greet(seq) {
      const [connection] = await once(server, "connection");
      connections.push(connection);
      connection.on("error", () => {});
      relay.connection = connection;
      relay.frames = decodeMultiStream(connection);
      await relay.expect(wire.HELLO);
      relay.say([wire.WELCOME, 1, "e", seq, { mode: "local", upstream: "live" }]);
    },
    async expect(type) {
      const { value } = await relay.frames.next();
      assert.equal(value?.[0], type, `a frame of type ${type}`);
      return value[1];
    },
    say: (...frames) => relay.connection.write(Buffer.concat(frames.map((frame) => encode(frame)))),
  };
  return { client, relay };
}

const change = (seq, pubkey) => [wire.CHANGE, seq, "data", pubkey, null, 0];
const code = (expected) => (error) => error instanceof PgheraldError && error.code === expected;
const local = (more) => open({ socket: "", ...more });

test("what cannot work is refused", () => {
  assert.throws(() => open({ sokcet: "x" }), code("E2BIG"));
  assert.throws(() => open({ socket: "x".repeat(108) }), code("ENAMETOOLONG"));
  assert.throws(() => open({ socket: 5 }), code("EINVAL"));
  assert.throws(() => open({ deadlineMs: -1 }), code("EINVAL"));
  assert.throws(() => open({ queueSize: 1 }), code("EINVAL"));
  assert.throws(() => open({ cursor: "1 x e" }), code("EBADMSG"));
  assert.throws(() => open({ cursor: "1 1 e c\n" }), code("EBADMSG"));
  assert.throws(() => open({ signal: 1 }), code("EINVAL"));
  assert.throws(() => open({ name: "\ud800" }), code("EILSEQ"));
});

test("usage that cannot work is refused", options, async (t) => {
  const client = local();
  t.after(() => client.close());
  await assert.rejects(client.subscribe(), code("EINVAL"));
  await assert.rejects(client.subscribe(""), code("EINVAL"));
  await assert.rejects(client.subscribe("data", 5), code("EINVAL"));
  await assert.rejects(client.notify("data"), code("EINVAL"));
  await assert.rejects(client.notify("data", "a\0"), code("EILSEQ"));
  await assert.rejects(client.notify("data", "é".repeat(4000)), code("EMSGSIZE"));
  await assert.rejects(client.send("data", null), code("EINVAL"));
  assert.throws(() => client.unsubscribe("data"), code("ENOENT"));
});

test("a client is closed by its signal", options, async (t) => {
  const abort = new AbortController();
  const { client, relay } = await start(t, { signal: abort.signal });
  const subscribed = client.subscribe("data");
  await relay.greet(10);
  await relay.expect(wire.SUBSCRIBE);
  abort.abort();
  await assert.rejects(subscribed, code("ECANCELED"));
  await assert.rejects(client.notify("data", "alice"), code("ESHUTDOWN"));
  assert.equal(client.closed, true);
  await new Promise((closed) => relay.connection.once("close", closed));
  assert.equal(new Client({ socket: "", signal: abort.signal }).closed, true);
});

test("a request ends with its signal", options, async (t) => {
  const { client, relay } = await start(t);
  const abort = new AbortController();
  const subscribed = client.subscribe("data", "alice", { signal: abort.signal });
  await relay.greet(10);
  await relay.expect(wire.SUBSCRIBE);
  const notified = client.notify("data", "alice", null, { signal: abort.signal });
  await relay.expect(wire.NOTIFY);
  const reason = new Error("enough");
  abort.abort(reason);
  await assert.rejects(subscribed, reason);
  await assert.rejects(notified, reason);
  await relay.expect(wire.UNSUBSCRIBE); // it is undone
  await assert.rejects(client.notify("data", "bob", null, { signal: abort.signal }), reason);
});

test("what is canceled may be ignored", options, async () => {
  const client = local();
  client.subscribe("data");
  client.notify("data", "alice");
  client.close(); // an unhandled rejection would fail the test
  await new Promise(setImmediate);
});

test("what comes before the app listens is kept", options, async (t) => {
  const { client, relay } = await start(t);
  const subscribed = client.subscribe("data");
  await relay.greet(10);
  relay.say([wire.OK, await relay.expect(wire.SUBSCRIBE), 10], change(11, "alice"), [wire.CHECKPOINT, 12, "c"]);
  assert.equal(await subscribed, 10);
  await client.notify("data", "x", null, { signal: AbortSignal.timeout(50) }).catch(() => {});
  assert.equal(client.cursor(), "1 10 e");
  const [heard] = await once(client, "change");
  assert.equal(heard.pubkey, "alice");
  await new Promise(setImmediate);
  assert.equal(client.cursor(), "1 12 e c");
});

test("a listener that throws takes nothing from the others", options, async () => {
  const program = `
    import { open } from ${JSON.stringify(new URL("../lib/index.js", import.meta.url).href)};
    const client = open({ socket: "" });
    process.on("uncaughtException", (error) => console.log("thrown", error.message));
    client.on("change", ({ pubkey }) => {
      console.log(pubkey);
      if (pubkey === "a") throw new Error("mine");
      if (pubkey === "c") client.close();
    });
    client.subscribe("data");
    for (const pubkey of ["a", "b", "c"]) client.notify("data", pubkey);`;
  const { stdout } = await promisify(execFile)(process.execPath, ["--preserve-symlinks", "--input-type=module", "-e", program]);
  assert.deepEqual(stdout.split("\n"), ["a", "thrown mine", "b", "c", ""]);
});

test("an iteration goes at the app's pace, and reading ahead is bounded", options, async (t) => {
  const { client, relay } = await start(t);
  const iterator = client[Symbol.asyncIterator]();
  assert.throws(() => client.on("change", () => {}), code("EINVAL"));
  await relay.greet(10);
  const n = 40000;
  const long = "x".repeat(500);
  for (let seq = 11; seq < 11 + n; seq++) relay.say(change(seq, long));
  // It stops reading long before all is read: what is left stays in this process's buffer.
  let left = -1;
  while (left !== relay.connection.writableLength) {
    left = relay.connection.writableLength;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  assert.ok(left > (n * 500) / 2, `${left} bytes are left`);
  let next = 11;
  for (;;) {
    const { value } = await iterator.next();
    if (value.type !== "change") continue;
    assert.equal(value.seq, next);
    if (++next === 11 + n) break;
  }
  assert.equal(client.cursor(), `1 ${n + 9} e`, "the last is not handled yet");
});

test("a loop may wait for requests, whatever waits for it", options, async (t) => {
  const { client, relay } = await start(t);
  const loop = (async () => {
    for await (const event of client)
      if (event.type === "change" && event.pubkey === "first") {
        await client.subscribe("data", "bob");
        return client.notify("data", "bob");
      }
  })();
  await relay.greet(10);
  relay.say(change(11, "first"));
  const subscribe = await relay.expect(wire.SUBSCRIBE);
  for (let seq = 12; seq < 20000; seq++) relay.say(change(seq, "x".repeat(100)));
  relay.say([wire.OK, subscribe, 20000]);
  relay.say([wire.OK, await relay.expect(wire.NOTIFY), 20001]);
  assert.equal(await loop, 20001);
  // A further loop goes on with the next event.
  for await (const event of client) {
    assert.equal(event.seq, 12);
    break;
  }
});

test("closing ends an iteration", options, async (t) => {
  const { client, relay } = await start(t);
  const loop = (async () => {
    for await (const event of client) if (event.type === "gap") throw new Error("a gap");
    return "ended";
  })();
  await relay.greet(10);
  client.close();
  assert.equal(await loop, "ended");
});

test("the local notifier hears itself", options, async (t) => {
  const client = local();
  t.after(() => client.close());
  await client.subscribe("data", "alice");
  assert.equal(await client.notify("data", "alice", "phone"), 1);
  for await (const event of client)
    if (event.type === "change") {
      assert.deepEqual(event, { type: "change", channel: "data", pubkey: "alice", clientId: "phone", seq: 1, recovered: false });
      break;
    }
});

test("the declarations name what there is", async () => {
  const declared = fs.readFileSync(new URL("../lib/index.d.ts", import.meta.url), "utf8");
  for (const name of Object.getOwnPropertyNames(Client.prototype))
    if (name !== "constructor") assert.match(declared, new RegExp(`^  (readonly )?${name}[(:]`, "m"));
  for (const name of Object.keys(await import("../lib/index.js")))
    assert.match(declared, new RegExp(`^export (class|function) ${name}\\b`, "m"));
});
