import { ConnectionLost, RpcError } from "./errors.js";

export type Json = Record<string, unknown>;
export type ItemHandler = (method: string, params: Json) => void;

/** What this client needs of a WebSocket: the browser's, Node's, or that of the package `ws`. */
export interface SocketLike {
  send(text: string): void;
  close(): void;
  onopen: ((event: never) => void) | null;
  onmessage: ((event: never) => void) | null;
  onclose: ((event: never) => void) | null;
  onerror: ((event: never) => void) | null;
}
export type SocketClass = new (url: string) => SocketLike;

interface Waiting {
  resolve(result: unknown): void;
  reject(error: Error): void;
  onItem: ItemHandler | undefined;
}

/** Notifications of a subscription that came before its handler was set. */
const MAX_EARLY = 1024;

/** One WebSocket: requests out, answers and notifications in. Knows nothing of reconnecting. */
export class Connection {
  /** Resolves with the reason when the connection has ended. */
  readonly lost: Promise<string>;
  alive = true;

  #nextId = 1;
  #waiting = new Map<number, Waiting>();
  #subscriptions = new Map<string, ItemHandler>();
  #early: [string, Json][] = [];
  #resolveLost!: (reason: string) => void;

  private constructor(private readonly socket: SocketLike) {
    this.lost = new Promise((resolve) => (this.#resolveLost = resolve));
    socket.onmessage = (event: { data: unknown }) => this.#receive(String(event.data));
    socket.onclose = (event: { reason?: string }) => this.#end(event.reason || "the server closed the connection");
    socket.onerror = () => this.#end("the connection failed");
  }

  static open(socketClass: SocketClass, url: string, timeoutMs: number): Promise<Connection> {
    return new Promise((resolve, reject) => {
      const socket = new socketClass(url);
      const timer = setTimeout(() => fail("the handshake took too long"), timeoutMs);
      const fail = (reason: string) => {
        clearTimeout(timer);
        socket.onopen = socket.onclose = null;
        socket.onerror = () => undefined; // closing a socket that is not open reports once more
        socket.close();
        reject(new ConnectionLost(reason));
      };
      socket.onopen = () => {
        clearTimeout(timer);
        resolve(new Connection(socket));
      };
      socket.onerror = () => fail("the connection was refused or failed");
      socket.onclose = () => fail("the connection was closed");
    });
  }

  call(method: string, params: Json, onItem?: ItemHandler): Promise<unknown> {
    if (!this.alive) {
      return Promise.reject(new ConnectionLost("the connection has ended"));
    }
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject, onItem });
      this.socket.send(JSON.stringify({ jsonrpc: "2.0", id, method, params }));
    });
  }

  onSubscription(subscription: string, handler: ItemHandler): void {
    this.#subscriptions.set(subscription, handler);
    const early = this.#early;
    this.#early = [];
    for (const [method, params] of early) {
      this.#notify(method, params);
    }
  }

  close(): void {
    this.socket.close();
    this.#end("the client closed the connection");
  }

  #receive(text: string): void {
    let message: Json;
    try {
      message = JSON.parse(text) as Json;
    } catch {
      this.close();
      return;
    }
    if (typeof message["method"] === "string") {
      this.#notify(message["method"], (message["params"] ?? {}) as Json);
      return;
    }
    const id = message["id"] as number;
    const waiting = this.#waiting.get(id);
    if (waiting === undefined) {
      return;
    }
    this.#waiting.delete(id);
    if (message["error"] !== undefined) {
      waiting.reject(new RpcError(message["error"] as ConstructorParameters<typeof RpcError>[0]));
    } else {
      waiting.resolve(message["result"]);
    }
  }

  #notify(method: string, params: Json): void {
    const subscription = params["subscription"];
    if (typeof subscription === "string") {
      const handler = this.#subscriptions.get(subscription);
      if (handler !== undefined) {
        handler(method, params);
      } else if (this.#early.length < MAX_EARLY) {
        this.#early.push([method, params]);
      }
      return;
    }
    const id = params["call"] as number;
    const waiting = this.#waiting.get(id);
    try {
      waiting?.onItem?.(method, params);
    } catch (error) {
      // What the server sent makes no sense for this call; the others go on.
      this.#waiting.delete(id);
      waiting?.reject(error as Error);
    }
  }

  #end(reason: string): void {
    if (!this.alive) {
      return;
    }
    this.alive = false;
    const waiting = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const each of waiting) {
      each.reject(new ConnectionLost(reason));
    }
    this.#resolveLost(reason);
  }
}
