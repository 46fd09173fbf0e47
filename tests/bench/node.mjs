// A listener of bench-fanout with the Node package: it hears all changes and counts them.
//
//     node node.mjs SOCKET DESCRIPTOR OFFSET     of the memory and its struct slot in it
import fs from "node:fs";
import { open } from "pgherald";

const [socket, descriptor, offset] = process.argv.slice(2);
// The start of struct slot in bench.h: count, faults, ready. Node cannot map memory, so it writes
// once for what has come at once.
const slot = Buffer.alloc(17);
let count = 0, faults = 0, due = null;

function write() {
  due = null;
  slot.writeBigUInt64LE(BigInt(count), 0);
  slot.writeBigUInt64LE(BigInt(faults), 8);
  fs.writeSync(Number(descriptor), slot, 0, slot.length, Number(offset));
}

const client = open({ socket });
client.on("change", () => {
  count++;
  due ??= setImmediate(write);
});
client.on("gap", () => {
  faults++;
  due ??= setImmediate(write);
});
await client.subscribe("data_sync_changes");
slot[16] = 1;
write();
