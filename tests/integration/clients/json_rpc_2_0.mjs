import { JSONRPCClient, createJSONRPCErrorResponse } from "json-rpc-2.0";
import WebSocket from "ws";

const socket = new WebSocket(process.env.RUNBUS_URL, {
  headers: { Authorization: `Bearer ${process.env.RUNBUS_TOKEN}` },
});
await new Promise((resolve, reject) => {
  socket.on("open", resolve);
  socket.on("error", reject);
});
const client = new JSONRPCClient((request) => socket.send(JSON.stringify(request)));
socket.on("message", (data) => {
  const message = JSON.parse(data.toString());
  if (Array.isArray(message) || !("method" in message)) {
    client.receive(message);
  }
});
socket.on("close", () => client.rejectAllPendingRequests("closed"));

const result = await client.request("execute.code", { code: "print(6 * 7)" });
let error = null;
try {
  await client.request("execute.code", { code: 7 });
} catch (failure) {
  error = failure.code;
}
const batch = await client.requestAdvanced(
  [1, 2, 3].map((id) => ({ jsonrpc: "2.0", id: `b${id}`, method: "connection.ping", params: {} })),
);
socket.close();
console.log(JSON.stringify({
  stdout: result.stdout,
  error,
  batch: batch.filter((answer) => answer.result?.pong === true).length,
}));
