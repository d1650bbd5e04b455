import type { Client } from "./client.js";
import type { Json } from "./connection.js";
import { ConnectionLost, RpcError } from "./errors.js";
import { ItemQueue } from "./queue.js";

export type Item =
  | { kind: "started"; execution_id: string; session_id: string; language: string }
  | { kind: "output"; stream: "stdout" | "stderr"; offset: number; data: Uint8Array }
  /** The server said that it no longer has the bytes [from, to). */
  | { kind: "gap"; from: number; to: number };

export interface RunRequest {
  code?: string;
  language?: string;
  session_id?: string;
  execution_id?: string;
  files?: { path: string; text?: string; data?: string }[];
  entry?: string;
  args?: string[];
  stdin?: string;
  config?: Json;
}

const INPUT_PART = 256 * 1024;

export function fromBase64(text: string): Uint8Array {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

export function toBase64(bytes: Uint8Array): string {
  let text = "";
  for (let at = 0; at < bytes.length; at += 8192) {
    text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  }
  return btoa(text);
}

/** One execution, followed across as many connections as it takes. Made by Client.run. */
export class Run implements AsyncIterable<Item> {
  readonly executionId: string;
  readonly sessionId: string;

  #position = 0;
  #items = new ItemQueue<Item>();
  #outcome: Promise<Json>;
  #started: Promise<void>;
  #setStarted!: () => void;
  #hasStarted = false;
  #behind: Promise<void> | undefined;

  constructor(private readonly client: Client, private readonly request: RunRequest & { execution_id: string; session_id: string }) {
    this.executionId = request.execution_id;
    this.sessionId = request.session_id;
    this.#started = new Promise((resolve) => (this.#setStarted = resolve));
    this.#outcome = this.#follow().finally(() => {
      this.#items.end();
      this.#setStarted();
    });
    this.#outcome.catch(() => undefined); // whoever asks for the result gets it
  }

  [Symbol.asyncIterator](): AsyncIterator<Item> {
    return this.#items;
  }

  /** The outcome; throws away items that nobody took. Rejects with RpcError or ConnectionLost. */
  async result(): Promise<Json> {
    for await (const _ of this.#items) {
      // Taken, so that the stream goes on.
    }
    return this.#outcome;
  }

  async input(data: string | Uint8Array, options: { eof?: boolean } = {}): Promise<void> {
    let bytes = typeof data === "string" ? new TextEncoder().encode(data) : data;
    await this.#started;
    for (;;) {
      const part = bytes.subarray(0, INPUT_PART);
      const last = part.length === bytes.length;
      const answer = (await this.client.call("execute.input", {
        ...this.#names(), data: toBase64(part), eof: options.eof === true && last,
      })) as { accepted: number | string };
      const accepted = Number(answer.accepted);
      bytes = bytes.subarray(accepted);
      if (bytes.length === 0) {
        return;
      }
      if (accepted === 0) {
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    }
  }

  async signal(name: string): Promise<void> {
    await this.client.call("execute.signal", { ...this.#names(), signal: name });
  }

  async cancel(): Promise<void> {
    await this.client.call("execute.cancel", this.#names());
  }

  #names(): Json {
    return { execution_id: this.executionId, session_id: this.sessionId };
  }

  async #follow(): Promise<Json> {
    let giveUp = 0;
    for (;;) {
      await this.#behind;
      const connection = await this.client.connection();
      try {
        const onItem = (method: string, params: Json) => this.#onItem(method, params, () => connection.close());
        if (this.#hasStarted) {
          return (await connection.call("execute.attach", { ...this.#names(), offset: this.#position }, onItem)) as Json;
        }
        // The same id and parameters: attaches where it was started already.
        return (await connection.call("execute.code_streaming", this.request as unknown as Json, onItem)) as Json;
      } catch (error) {
        if (error instanceof RpcError && error.retryable) {
          giveUp ||= Date.now() + this.client.patienceMs;
          if (Date.now() > giveUp) {
            throw error;
          }
          await new Promise((resolve) => setTimeout(resolve, 200));
        } else if (!(error instanceof ConnectionLost) || this.client.closed) {
          throw error;
        }
      }
    }
  }

  #onItem(method: string, params: Json, drop: () => void): void {
    if (this.#behind !== undefined) {
      return; // dropped already; it is asked for again
    }
    if (method === "execute.started" && !this.#hasStarted) {
      this.#hasStarted = true;
      this.#items.push({ kind: "started", ...(params as { execution_id: string; session_id: string; language: string }) });
      this.#setStarted();
    } else if (method === "execute.gap") {
      const to = Number(params["to"]);
      if (to > this.#position) {
        this.#items.push({ kind: "gap", from: Math.max(Number(params["from"]), this.#position), to });
        this.#position = to;
      }
    } else if (method === "execute.output") {
      this.#onOutput(params);
      if (this.#items.bytes > this.client.maxWaitingBytes) {
        this.#behind = new Promise((resolve) => {
          this.#items.onTaken = () => {
            if (this.#items.bytes < this.client.maxWaitingBytes / 2) {
              this.#items.onTaken = undefined;
              this.#behind = undefined;
              resolve();
            }
          };
        });
        drop();
      }
    }
  }

  #onOutput(params: Json): void {
    const text = params["text"];
    let data = typeof text === "string" ? new TextEncoder().encode(text) : fromBase64(String(params["data"]));
    const offset = Number(params["offset"]);
    if (offset > this.#position) {
      throw new Error(`output jumped from ${this.#position} to ${offset} with no gap named`);
    }
    data = data.subarray(this.#position - offset);
    if (data.length > 0) {
      const stream = params["stream"] === "stderr" ? "stderr" : "stdout";
      this.#items.push({ kind: "output", stream, offset: this.#position, data }, data.length);
      this.#position += data.length;
    }
  }
}
