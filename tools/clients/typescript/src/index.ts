export { Client, type ClientOptions, type Event, type Position } from "./client.js";
export type { Json } from "./connection.js";
export { ConnectionLost, RpcError } from "./errors.js";
export { type Item, Run, type RunRequest } from "./run.js";
