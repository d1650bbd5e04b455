/** The server answered with an error of its catalogue. */
export class RpcError extends Error {
  readonly code: number;
  readonly kind: string;
  readonly retryable: boolean;
  readonly detail: string;

  constructor(error: { code: number; message: string; data?: Record<string, unknown> }) {
    const detail = String(error.data?.["detail"] ?? "");
    super(`${error.code} ${error.message}${detail ? `: ${detail}` : ""}`);
    this.name = "RpcError";
    this.code = error.code;
    this.kind = String(error.data?.["kind"] ?? "");
    this.retryable = error.data?.["retryable"] === true;
    this.detail = detail;
  }
}

/** The connection ended before the answer, and it is not known whether the call took effect. */
export class ConnectionLost extends Error {
  constructor(reason: string) {
    super(reason);
    this.name = "ConnectionLost";
  }
}
