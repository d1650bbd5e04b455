import { Client } from "rpc-websockets";

const url = `${process.env.RUNBUS_URL}?token=${process.env.RUNBUS_TOKEN}`;
const client = new Client(url, { autoconnect: true, reconnect: false });
await new Promise((resolve, reject) => {
  client.on("open", resolve);
  client.on("error", reject);
});

const items = [];
for (const name of ["execute.started", "execute.output"]) {
  client.on(name, () => items.push(name));
}
const result = await client.call("execute.code", { code: "print(6 * 7)" });
await client.call("execute.code_streaming", { code: "print(1)" });
let error = null;
try {
  await client.call("no.such_method", {});
} catch (failure) {
  error = failure.code;
}
client.close();
console.log(JSON.stringify({ stdout: result.stdout, items, error }));
