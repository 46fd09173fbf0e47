// The driver of the Node package for the conformance suite: ../README.md has its commands and
// events. With the argument "iteration" the app iterates over the client, otherwise it listens.
import fs from "node:fs";
import readline from "node:readline";
import { open } from "pgherald";

const iterates = process.argv[2] === "iteration";
const STATES = { connected: "connected", disconnected: "disconnected", "upstream-live": "live", "upstream-down": "down" };
const EXACT = 2 ** 53;

let client = null;
const rules = new Map(); // of `on`: lists of commands, by event

function numberOf(n) {
  return typeof n === "bigint" && n > EXACT ? { uint: String(n) } : Number(n);
}

function payloadOf({ payload, bytes }) {
  return Buffer.from(payload).equals(bytes) ? payload : { bin: Buffer.from(bytes).toString("hex") };
}

// Synchronous, so that nothing is left behind at the end.
function print(event, fields = {}) {
  fs.writeSync(1, JSON.stringify({ event, ...fields }) + "\n");
}

function react(event, fields) {
  print(event, fields);
  for (const command of rules.get(event)?.shift() ?? []) run(command);
}

function handle({ type, ...event }) {
  const { seq } = event;
  if (type === "state") return react("state", { state: STATES[event.state], text: event.text });
  const fields = { seq: numberOf(seq), cursor: client.cursor() };
  if (type === "gap") return react("gap", { cause: event.cause, text: event.text, ...fields });
  fields.channel = event.channel;
  fields.recovered = event.recovered;
  if (type === "message") return react("message", { payload: payloadOf(event), ...fields });
  react("change", { pubkey: event.pubkey, client_id: event.clientId, ...fields });
}

async function iterate(opened) {
  for await (const event of opened) handle(event);
}

function done(label, error, seq) {
  react("done", { label: label ?? null, error: error ? error.code ?? String(error) : null, seq: numberOf(seq ?? 0), text: error?.message });
}

// The call has returned, and nothing follows.
function returned({ label }, call) {
  let error = null;
  try {
    call();
  } catch (e) {
    error = e;
  }
  if (label || error) done(label, error);
  return !error;
}

const requests = {
  subscribe: ({ channel, pubkey }) => client.subscribe(channel, pubkey ?? null),
  notify: ({ channel, pubkey, client_id }) => client.notify(channel, pubkey, client_id ?? null),
  send: ({ channel, payload }) => client.send(channel, payload),
};

function request(command, of = requests[command.do]) {
  const { label } = command;
  of(command).then(
    (seq) => label && done(label, null, seq),
    (error) => {
      const atOnce = !["ECANCELED", "ETIMEDOUT"].includes(error.code) && error.message !== "";
      if (label || (atOnce && isUsage(error))) done(label, error);
    },
  );
}

// What a call refuses at once.
function isUsage(error) {
  return ["EINVAL", "ENOBUFS", "ESHUTDOWN"].includes(error.code);
}

const commands = {
  open(command) {
    const { socket, name, cursor, queue_size, deadline_ms } = command;
    const opened = returned(command, () => {
      client = null;
      client = open({ socket, name, cursor, queueSize: queue_size, deadlineMs: deadline_ms });
    });
    if (!opened) return;
    if (iterates) iterate(client);
    else for (const type of ["change", "message", "gap", "state"]) client.on(type, (event) => handle({ type, ...event }));
    for (const fields of command.subscribe ?? []) request(fields, requests.subscribe);
  },
  unsubscribe(command) {
    returned(command, () => client.unsubscribe(command.channel, command.pubkey ?? null));
  },
  cursor() {
    print("cursor", { cursor: client.cursor() });
  },
  // What is canceled is told in promises, which are settled in this turn of the event loop.
  close() {
    client?.close();
    setImmediate(() => print("closed"));
  },
  on({ event, commands: list }) {
    if (!rules.has(event)) rules.set(event, []);
    rules.get(event).push(list);
  },
  pause({ ms }) {
    print("paused");
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
  },
};

function run(command) {
  if (Object.hasOwn(requests, command.do)) request(command);
  else if (Object.hasOwn(commands, command.do)) commands[command.do](command);
  else console.error(`driver: there is no command ${command.do}`);
}

print("driver", { name: iterates ? "node, iterated" : "node", abilities: ["pause", "local"] });
const lines = readline.createInterface({ input: process.stdin });
lines.on("line", (line) => run(JSON.parse(line)));
lines.on("close", () => client?.close());
