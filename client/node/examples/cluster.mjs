// A cluster: the primary forks workers and replaces those that die. Each worker opens its own client
// and keeps its cursor in a file, so the worker that replaces a dead one hears what was missed.
//
//     node cluster.mjs DIRECTORY WORKERS     print the changes that each worker hears
import cluster from "node:cluster";
import fs from "node:fs";
import path from "node:path";
import { setTimeout } from "node:timers/promises";
import { open } from "pgherald";

const [directory, workers] = process.argv.slice(2);

function work(number) {
  const file = path.join(directory, `cursor.${number}`);
  const stored = fs.existsSync(file) ? fs.readFileSync(file, "utf8") : null;
  const client = open({ name: `worker ${number}`, cursor: stored });

  // After the listeners have returned: the cursor says that their changes are handled. It is written
  // to another file and renamed, because a worker may be killed at any moment.
  const keep = () => {
    if (client.cursor() === null) return;
    fs.writeFileSync(`${file}.new`, client.cursor());
    fs.renameSync(`${file}.new`, file);
  };
  const say = (text) => {
    console.log(`worker ${number}: ${text}`);
    setImmediate(keep);
  };
  client.on("change", ({ pubkey }) => say(`${pubkey} changed`));
  // Changes may be missing: a real worker reads again what it holds of users' data.
  client.on("gap", ({ text }) => say(`gap: ${text}`));
  client.subscribe("data_sync_changes").then(() => say("subscribed"));
}

function start(number) {
  cluster.fork({ WORKER_NUMBER: number }).on("exit", async () => {
    await setTimeout(100); // do not spin when one dies at once
    start(number);
  });
}

if (cluster.isPrimary) for (let number = 0; number < Number(workers); number++) start(number);
else work(process.env.WORKER_NUMBER);
