"""A reconnecting client of runbus. See README.md."""

from runbus_client.client import Client
from runbus_client.errors import ConnectionLost, RpcError
from runbus_client.run import Gap, Output, Run, Started
from runbus_client.subscription import Event, Lagged

__all__ = ["Client", "ConnectionLost", "Event", "Gap", "Lagged", "Output", "RpcError", "Run", "Started"]
