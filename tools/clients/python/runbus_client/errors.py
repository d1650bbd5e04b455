"""How a call can fail."""


class RpcError(Exception):
    """The server answered with an error of its catalogue."""

    def __init__(self, error):
        data = error.get("data") or {}
        self.code = error["code"]
        self.message = error.get("message", "")
        self.kind = data.get("kind", "")
        self.retryable = bool(data.get("retryable"))
        self.detail = data.get("detail", "")
        super().__init__(f"{self.code} {self.message}" + (f": {self.detail}" if self.detail else ""))


class ConnectionLost(Exception):
    """The connection ended before the answer, and it is not known whether the call took effect."""
