// Subscribes by the TypeScript client, says so, and prints the topics of COUNT events or losses as JSON.
import { Client } from "../../../tools/clients/typescript/dist/index.js";
import { WebSocket } from "ws";

const client = new Client(process.env.RUNBUS_URL, { token: process.env.RUNBUS_TOKEN, WebSocket });
const seen = [];
for await (const event of client.subscribe(["user.*", "user.named"])) {
  if (event.kind === "event" && event.topic === "user.ready") {
    if (seen.length === 0) console.log("ready");
    continue;
  }
  seen.push([event.kind, event.topic]);
  if (seen.length === Number(process.env.COUNT)) break;
}
client.close();
console.log(JSON.stringify(seen));
