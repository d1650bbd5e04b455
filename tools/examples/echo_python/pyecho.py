#!/usr/bin/python3
"""An echo worker in Python: example.pyecho.v1.EchoService on bus_worker.py."""

import argparse
import itertools
import os
import signal
import socket

# Which names the generated modules have, and where, is told in README.md.
import pyecho_pb2 as echo
from bus_worker import INTERNAL, INVALID_PARAMS, Worker
from runbus.v1 import bus_pb2 as bus

MAX_PADDING = 65536


class EchoService:
    """The handlers. They start work and return; timers and callbacks go on."""

    def __init__(self, worker):
        self.worker = worker

    def say(self, call, request):
        call.finish(echo.SayResponse(text=request.text))

    def count(self, call, request):
        if request.padding > MAX_PADDING:
            call.fail(INVALID_PARAMS, f"padding: {request.padding} is more than {MAX_PADDING}")
            return
        numbers = itertools.count(1)
        item = None
        waiting = False

        def tick():
            nonlocal waiting
            waiting = False
            go_on()

        def go_on():
            nonlocal item, waiting
            if waiting or call.ended:
                return
            if item is None:
                number = next(numbers)
                if number > request.to:
                    call.finish(echo.CountItem(result=echo.CountResult(counted=request.to)))
                    return
                item = echo.CountItem(counted=echo.Counted(number=number, padding="." * request.padding))
            if 0 < call.window < item.ByteSize():
                call.fail(INTERNAL, f"an item of {item.ByteSize()} bytes does not fit into the caller's window")
                return
            if item.ByteSize() > call.room():
                return  # on_credit comes back
            call.send(item)
            item, waiting = None, True
            self.worker.after(request.interval_ms / 1000, tick)

        call.on_credit = go_on
        go_on()

    def chat(self, call, request):
        call.on_input = lambda further: self.chat(call, further)
        call.state = (call.state or 0) + 1
        call.send(echo.ChatItem(said=echo.Said(text=request.text)))
        if request.done:
            call.finish(echo.ChatItem(result=echo.ChatResult(messages=call.state)))


def offer():
    """With the descriptors that protoc has put beside the code."""
    with open(os.path.join(os.path.dirname(echo.__file__), "pyecho.protoset"), "rb") as file:
        return bus.ServiceOffer(service=echo.DESCRIPTOR.services_by_name["EchoService"].full_name,
                                descriptor_set=file.read(), capacity=256,
                                methods=["pyecho.say", "pyecho.count", "pyecho.chat"])


def main():
    parser = argparse.ArgumentParser(description="An echo worker for runbus in Python.")
    parser.add_argument("--broker", required=True, help="endpoint, ipc://PATH or tcp://HOST:PORT")
    parser.add_argument("--node", default=socket.gethostname())
    parser.add_argument("--name", default="pyecho")
    parser.add_argument("--curve-server-key", help="the broker's public key (Z85), for tcp")
    parser.add_argument("--curve-secret-file", help="this worker's keys, mode 0600")
    parser.add_argument("--drain-timeout", type=float, default=30)
    parser.add_argument("--ready-fd", type=int, default=-1, help='descriptor that gets "ready" once attached')
    options = parser.parse_args()
    if bool(options.curve_server_key) != bool(options.curve_secret_file):
        parser.error("--curve-server-key and --curve-secret-file go together")
    if options.broker.startswith("tcp://") and not options.curve_secret_file:
        parser.error("a tcp broker needs --curve-server-key and --curve-secret-file")

    # Signals arrive as bytes on a socket, so that the loop deals with them in its own time.
    wakeup, signals = socket.socketpair()
    wakeup.setblocking(False)
    signals.setblocking(False)
    signal.set_wakeup_fd(signals.fileno())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    worker = Worker(options, offer(), {})
    service = EchoService(worker)
    worker.methods.update({
        "pyecho.say": (echo.SayRequest, service.say),
        "pyecho.count": (echo.CountRequest, service.count),
        "pyecho.chat": (echo.ChatRequest, service.chat),
    })
    worker.run(wakeup)


if __name__ == "__main__":
    main()
