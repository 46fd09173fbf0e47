// The vectors of proto/vectors, against the decoder.
import assert from "node:assert/strict";
import fs from "node:fs";
import test from "node:test";
import * as wire from "../lib/wire.js";

const VECTORS = new URL("../../../proto/vectors/", import.meta.url);

function vectors(prefix) {
  const names = fs.readdirSync(VECTORS).filter((name) => name.startsWith(`${prefix}_`) && name.endsWith(".msgpack"));
  assert.ok(names.length > 0);
  return names.map((name) => [
    name,
    fs.readFileSync(new URL(name, VECTORS)),
    JSON.parse(fs.readFileSync(new URL(name.replace(/msgpack$/, "json"), VECTORS))),
  ]);
}

// What a description stands for. A bin is equal to the string with the same bytes.
function plain(value) {
  if (Array.isArray(value)) return value.map(plain);
  if (value === null || typeof value !== "object") return value;
  if (Object.keys(value).join() === "bin") return Buffer.from(value.bin, "hex").toString("utf8");
  if (Object.keys(value).join() === "uint") return BigInt(value.uint);
  return value;
}

// The same of a decoded frame.
function read([type, ...elements]) {
  return [type, ...elements.map((element) => {
    if (element instanceof Uint8Array) return Buffer.from(element).toString("utf8");
    if (type === wire.HELLO && element?.epoch !== undefined) return [element.epoch, element.seq, element.checkpoint];
    return element;
  })];
}

function decode(data) {
  const scanner = new wire.Scanner();
  const size = scanner.scan(data, 0, data.length);
  return size === 0 ? undefined : wire.decode(data.subarray(0, size), scanner.heads);
}

for (const [name, data, { frame, canonical }] of vectors("y")) {
  test(name, () => {
    assert.deepEqual(read(decode(data)), plain(frame));
    if (canonical && data[1] < wire.WELCOME) assert.deepEqual(Buffer.from(wire.pack(plain(frame))), data);
    const usual = new wire.ChangeReader().read(data, 0, data.length);
    if (usual) assert.deepEqual(usual, plain(frame));
    const scanner = new wire.Scanner(); // byte by byte, and each prefix alone
    for (let end = 0; end < data.length; end++) {
      assert.equal(scanner.scan(data, 0, end), 0);
      assert.equal(decode(data.subarray(0, end)), undefined);
      assert.equal(new wire.ChangeReader().read(data, 0, end), null);
    }
    assert.equal(scanner.scan(data, 0, data.length), data.length);
  });
}

for (const [name, data] of vectors("n")) test(name, () => assert.throws(() => decode(data), wire.FrameError));

for (const [name, data] of vectors("u")) test(name, () => assert.equal(decode(data), null));
