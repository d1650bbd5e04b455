// Drives the TypeScript client: a run whose connection is cut, input, an error, events. Prints what it saw as JSON.
import { Client, RpcError } from "../../../tools/clients/typescript/dist/index.js";
import { WebSocket } from "ws";

const client = new Client(process.env.RUNBUS_URL, { token: process.env.RUNBUS_TOKEN, WebSocket });
const seen = { output: "", gaps: 0, started: 0, events: [], maxOffset: 0 };

const events = client.subscribe(["code_execution.*"]);
const first = events.next();

const run = client.run({
  code: "import time\nline = input()\nfor i in range(2000):\n    print('%05d' % i, flush=i % 50 == 0)\n    if i % 50 == 0: time.sleep(0.05)\nprint(line)\nraise SystemExit(3)",
  config: { timeout: 120 },
});
await run.input("from stdin\n", { eof: true });
const decoder = new TextDecoder();
for await (const item of run) {
  if (item.kind === "started") seen.started++;
  if (item.kind === "gap") seen.gaps++;
  if (item.kind === "output") seen.output += decoder.decode(item.data, { stream: true });
}
seen.exit = (await run.result()).exit_code;
try {
  await client.call("execute.input", { execution_id: "nobody", text: "x" });
} catch (error) {
  seen.error = error instanceof RpcError ? error.code : String(error);
}
seen.event = (await first).value.topic;
const cancelled = client.run({ code: "import time; time.sleep(600)" });
await cancelled.input("");
await cancelled.cancel();
seen.cancelled = (await cancelled.result()).status;
client.close();
console.log(JSON.stringify(seen));
