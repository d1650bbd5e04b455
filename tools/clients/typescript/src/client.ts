import { Connection, type Json, type SocketClass } from "./connection.js";
import { ConnectionLost, RpcError } from "./errors.js";
import { ItemQueue } from "./queue.js";
import { Run, type RunRequest } from "./run.js";

export interface ClientOptions {
  token?: string;
  /** Milliseconds for which it tries to connect again before calls reject; 60,000. */
  patienceMs?: number;
  /** Output that waits for a caller who does not take it; 64 MiB. */
  maxWaitingBytes?: number;
  /** The session of runs that name none; a new one. */
  sessionId?: string;
  /** Where the platform has no WebSocket of its own. */
  WebSocket?: unknown;
}

export interface Position {
  epoch: string;
  offset: number;
}

export type Event =
  | { kind: "event"; topic: string; epoch: string; offset: number; data: Json }
  /** Events of the topic are lost to this subscription; 0 where their number is not known. */
  | { kind: "lagged"; topic: string; missed: number };

/** Methods that only read, or that say the same thing again when repeated. */
const REPEATABLE = new Set([
  "execute.list", "execute.languages", "execute.cancel", "session.open", "session.info", "session.list", "session.close",
  "bus.workers", "bus.services", "bus.stats", "connection.ping", "connection.info", "rpc.discover", "events.unsubscribe",
]);
// Topics whose position is remembered. A gateway takes 1024, with those of the subscription itself.
const MAX_TOPICS = 960;
const MAX_WAITING_EVENTS = 10_000;

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** One logical connection over as many WebSockets as it takes. */
export class Client {
  readonly patienceMs: number;
  readonly maxWaitingBytes: number;
  readonly sessionId: string;
  closed = false;

  #url: string;
  #socketClass: SocketClass;
  #connection: Connection | undefined;
  #connecting: Promise<Connection> | undefined;

  constructor(url: string, options: ClientOptions = {}) {
    const target = new URL(url);
    if (options.token) {
      target.searchParams.set("token", options.token);
    }
    this.#url = target.toString();
    this.patienceMs = options.patienceMs ?? 60_000;
    this.maxWaitingBytes = options.maxWaitingBytes ?? 64 << 20;
    this.sessionId = options.sessionId ?? crypto.randomUUID();
    const socketClass = (options.WebSocket ?? globalThis.WebSocket) as SocketClass | undefined;
    if (socketClass === undefined) {
      throw new Error("this platform has no WebSocket: pass one as the option WebSocket");
    }
    this.#socketClass = socketClass;
  }

  /** The living connection; makes one where there is none. Rejects when patience is over. */
  connection(): Promise<Connection> {
    if (this.closed) {
      return Promise.reject(new ConnectionLost("the client is closed"));
    }
    if (this.#connection?.alive) {
      return Promise.resolve(this.#connection);
    }
    this.#connecting ??= this.#connect().finally(() => (this.#connecting = undefined));
    return this.#connecting;
  }

  async #connect(): Promise<Connection> {
    const end = Date.now() + this.patienceMs;
    for (let wait = 50; ; wait = Math.min(wait * 2, 2000)) {
      try {
        const connection = await Connection.open(this.#socketClass, this.#url, 10_000);
        if (this.closed) {
          connection.close();
          throw new ConnectionLost("the client is closed");
        }
        this.#connection = connection;
        return connection;
      } catch (error) {
        if (this.closed || Date.now() + wait > end) {
          throw error;
        }
      }
      await pause(wait * (0.5 + Math.random() / 2));
    }
  }

  /** One call and its answer. Sent again after a drop, or a retryable answer, only where repeating is safe. */
  async call(method: string, params: Json = {}, options: { idempotent?: boolean } = {}): Promise<unknown> {
    const repeat = options.idempotent ?? REPEATABLE.has(method);
    const end = Date.now() + this.patienceMs;
    for (;;) {
      const connection = await this.connection();
      try {
        return await connection.call(method, params);
      } catch (error) {
        const again = error instanceof ConnectionLost || (error instanceof RpcError && error.retryable);
        if (!repeat || !again || this.closed || Date.now() > end) {
          throw error;
        }
        if (error instanceof RpcError) {
          await pause(200);
        }
      }
    }
  }

  run(request: RunRequest): Run {
    return new Run(this, {
      ...request,
      session_id: request.session_id ?? this.sessionId,
      execution_id: request.execution_id ?? crypto.randomUUID(),
    });
  }

  /** Events as they come, across reconnections; what was missed is replayed, or said. */
  async *subscribe(topics: string[], since: Record<string, Position> = {}): AsyncGenerator<Event> {
    const positions = new Map(Object.entries(since));
    // Of `topics`; of a pattern, for the topics that it matches and no event has named.
    const places = new Map<string, Position>();
    while (!this.closed) {
      const connection = await this.connection();
      let subscription: string;
      try {
        const answer = await connection.call("events.subscribe", { topics, since: Object.fromEntries([...places, ...positions]) });
        subscription = (answer as { subscription: string }).subscription;
        const answered = (answer as { positions?: Record<string, Position> }).positions ?? {};
        for (const topic of topics) {
          const place = answered[topic];
          if (place !== undefined && place.epoch !== places.get(topic)?.epoch) {
            places.set(topic, place);
          }
        }
      } catch (error) {
        if (error instanceof ConnectionLost && !this.closed) {
          continue;
        }
        throw error;
      }
      const waiting = new ItemQueue<[string, Json]>();
      connection.onSubscription(subscription, (method, params) => {
        waiting.push([method, params]);
        if (waiting.length > MAX_WAITING_EVENTS) {
          connection.close(); // asked for again from the last one taken
        }
      });
      void connection.lost.then(() => waiting.end());
      try {
        for await (const [method, params] of waiting) {
          const topic = String(params["topic"]);
          if (method === "events.lagged") {
            yield { kind: "lagged", topic, missed: Number(params["missed"]) };
            continue;
          }
          const position = { epoch: String(params["epoch"]), offset: Number(params["offset"]) };
          positions.delete(topic);
          (places.has(topic) ? places : positions).set(topic, position);
          if (positions.size > MAX_TOPICS) {
            positions.delete(positions.keys().next().value as string);
          }
          yield { kind: "event", topic, ...position, data: (params["data"] ?? {}) as Json };
        }
      } finally {
        if (connection.alive) {
          connection.call("events.unsubscribe", { subscription }).catch(() => undefined);
        }
      }
    }
  }

  close(): void {
    this.closed = true;
    this.#connection?.close();
  }
}
