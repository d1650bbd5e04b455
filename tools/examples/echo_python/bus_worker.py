"""The bus as a worker in Python sees it, written from proto/README.md alone: ZeroMQ, protobuf, nothing of runbus but
bus.proto. One loop over one DEALER socket.

Left out, since an echo has no use for it: several brokers, events, resumable methods.
"""

import collections
import heapq
import itertools
import os
import signal
import stat
import sys
import time
import uuid

import zmq

# Where this module comes from is told in README.md.
from google.protobuf.message import DecodeError
from runbus.v1 import bus_pb2 as bus

MAX_OVER_CREDIT = 4 << 20  # bytes of items that may wait for credit
RECENT_CALLS, RECENT_BYTES, RECENT_SECONDS = 4096, 8 << 20, 60
READY_AGAIN = 1.0  # seconds until an introduction without an answer is repeated

INTERNAL, INVALID_PARAMS, METHOD_NOT_FOUND = -32603, -32602, -32601
TIMEOUT, WORKER_LOST, CANCELLED, BUSY, CONNECTION = -32006, -32010, -32011, -32012, -32004


class Kept:
    """One message of an answer, until the caller has acknowledged it."""

    def __init__(self, kind, sequence, end, body):
        self.kind, self.sequence, self.end, self.body = kind, sequence, end, body


class Call:
    """Numbers the answer's messages, holds items back until there is credit, keeps all until acknowledged."""

    def __init__(self, worker, header):
        self.worker = worker
        self.id, self.origin, self.method = header.call_id, header.origin, header.method
        self.deadline = header.deadline_ms / 1000 if header.deadline_ms else None
        self.kept = collections.deque()
        self.next = 0  # index in kept of what is sent next
        self.sequence = self.handed = self.acknowledged = header.resume.sequence
        self.bytes = self.acknowledged_bytes = header.resume.bytes
        self.credit = header.credit
        self.window = 0 if header.HasField("resume") else header.credit  # 0: not known
        self.accept_due = False
        self.ended = False
        self.settled = False
        self.on_credit = self.on_input = None
        self.state = None  # the handler's own

    # What handlers use.

    def room(self):
        return self.credit - self.bytes

    def send(self, item):
        if not self.ended:
            self.keep(bus.ITEM, item)
            if self.bytes - self.credit > MAX_OVER_CREDIT:
                self.fail(INTERNAL, "more items than the caller reads")

    def finish(self, response):
        if not self.ended:
            self.ended = True
            self.keep(bus.RESULT, response)

    def fail(self, code, detail=""):
        """Also in place of an end that still waits for credit."""
        if self.ended and self.sequence == self.handed:
            return
        while self.kept and self.kept[-1].sequence > self.handed:
            unsent = self.kept.pop()
            if unsent.kind == bus.ITEM:
                self.bytes -= len(unsent.body)
        self.next = min(self.next, len(self.kept))
        self.sequence = self.handed
        self.ended = True
        self.keep(bus.ERROR, bus.ErrorBody(code=code, detail=detail))

    # What the worker uses.

    def keep(self, kind, message):
        body = message.SerializeToString()
        self.sequence += 1
        if kind == bus.ITEM:
            self.bytes += len(body)
        self.kept.append(Kept(kind, self.sequence, self.bytes, body))
        self.pump()

    def pump(self):
        """Sends what may be sent."""
        if self.settled or not self.worker.connected:
            return
        if self.accept_due:
            accepted = bus.Header(kind=bus.ACCEPTED, call_id=self.id, origin=self.origin,
                                  worker_id=self.worker.id)
            if not self.worker.send(accepted):
                return
            self.accept_due = False
        while self.next < len(self.kept):
            kept = self.kept[self.next]
            if kept.kind == bus.ITEM and kept.end > self.credit:
                return
            header = bus.Header(kind=kept.kind, call_id=self.id, origin=self.origin, sequence=kept.sequence)
            if not self.worker.send(header, kept.body):
                return
            self.handed = max(self.handed, kept.sequence)
            self.next += 1
        if self.ended:
            self.settled = True
            self.on_credit = self.on_input = None
            self.worker.call_settled(self)

    def acknowledge(self, sequence):
        self.acknowledged = max(self.acknowledged, min(sequence, self.handed))
        while self.kept and self.kept[0].sequence <= self.acknowledged:
            self.acknowledged_bytes = self.kept.popleft().end
            self.next = max(0, self.next - 1)

    def grant(self, header):
        self.credit = max(self.credit, header.credit)
        self.acknowledge(header.sequence)
        self.pump()
        if self.on_credit and not self.ended:
            self.on_credit()

    def resend(self, header):
        """The CALL came again: answers with all that is not acknowledged, and counts credit as the caller does."""
        self.accept_due = True
        if header.HasField("resume"):
            self.acknowledge(header.resume.sequence)
            shift = header.resume.bytes - self.acknowledged_bytes
            for kept in self.kept:
                kept.end += shift
            self.bytes += shift
            self.acknowledged_bytes += shift
            self.credit = header.credit
        else:
            self.credit = max(self.credit, header.credit)
        self.restart()

    def restart(self):
        self.settled = False
        self.next = 0
        self.pump()

    def kept_bytes(self):
        return sum(len(kept.body) for kept in self.kept)


class Worker:
    """The link to one broker, and the table of calls.

    `offer` is the ServiceOffer; `methods` maps a JSON-RPC name to (request type, handler(call, request)).
    """

    def __init__(self, options, offer, methods):
        self.options, self.offer, self.methods = options, offer, methods
        self.id = str(uuid.uuid4())
        self.context = zmq.Context()
        self.calls = {}
        self.recent = collections.OrderedDict()  # id: (call, when it ended)
        self.recent_bytes = 0
        self.timers = []
        self.timer_numbers = itertools.count()
        self.welcome = None  # while attached
        self.socket = None
        self.unsure_since = None  # what ended since then may not have arrived
        self.draining = False
        self.drain_until = None
        self.announced = False
        self.open_socket()

    @property
    def connected(self):
        return self.welcome is not None

    # The link.

    def open_socket(self):
        if self.socket is not None:
            self.socket.close(0)
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        # A message for a broker that is gone must not reach its successor before READY does.
        self.socket.setsockopt(zmq.IMMEDIATE, 1)
        self.socket.setsockopt(zmq.SNDHWM, 0)  # credit and capacity bound what waits
        self.socket.setsockopt(zmq.MAXMSGSIZE, 256 << 20)
        if self.options.curve_secret_file:
            keys = read_secret_file(self.options.curve_secret_file)
            self.socket.curve_serverkey = self.options.curve_server_key.encode()
            self.socket.curve_publickey = keys["public-key"].encode()
            self.socket.curve_secretkey = keys["secret-key"].encode()
        self.socket.connect(self.options.broker)
        self.welcome = None
        self.next_ready = time.monotonic()
        self.last_heard = self.last_sent = time.monotonic()

    def send(self, header, body=b""):
        try:
            self.socket.send_multipart([header.SerializeToString(), body], zmq.DONTWAIT)
            self.last_sent = time.monotonic()
        except zmq.Again:
            # The connection has just gone. What was not delivered is kept, and asked for after READY.
            return False
        return True

    def send_ready(self):
        ready = bus.Ready(role=bus.WORKER, peer_id=self.id, node=self.options.node, name=self.options.name,
                          version="1", pid=os.getpid(), services=[self.offer], calls=list(self.calls)[:4096])
        if self.send(bus.Header(kind=bus.READY), ready.SerializeToString()):
            self.next_ready = time.monotonic() + READY_AGAIN
        else:
            self.next_ready = time.monotonic() + 0.05

    def lose(self, why, wait=0.0):
        log(f"lost the broker: {why}")
        if self.connected and self.unsure_since is None:
            self.unsure_since = time.monotonic() - self.welcome.heartbeat_timeout_ms / 1000 - 1
        self.open_socket()
        self.next_ready += wait

    def receive(self):
        while True:
            try:
                frames = self.socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            header = bus.Header()
            try:
                header.ParseFromString(frames[0])
            except DecodeError:
                continue
            if len(frames) != 2:
                continue
            self.last_heard = time.monotonic()
            if not self.handle(header, frames[1]):
                return  # on a socket that is closed now

    def handle(self, header, body):
        call = self.calls.get(header.call_id)
        if header.kind == bus.READY:
            self.welcomed(body)
        elif header.kind == bus.GOODBYE:
            reason = bus.GoodbyeBody.FromString(body).reason
            if self.connected or reason != "unknown":  # else: our READY is on its way
                self.lose(f"goodbye: {reason}", 0.05 if self.connected else 1.0)
                return False
        elif not self.connected:
            pass
        elif header.kind == bus.DRAIN:
            self.drain()
        elif header.kind == bus.CALL:
            self.begin(header, body)
        elif call and header.kind == bus.CREDIT:
            call.grant(header)
        elif call and header.kind == bus.CANCEL:
            gone = header.method == "$/gone" or bus.ErrorBody.FromString(body).code == CONNECTION
            call.fail(CONNECTION if gone else CANCELLED)
        elif call and header.kind == bus.INPUT and call.on_input and not call.ended:
            try:
                call.on_input(self.methods[call.method][0].FromString(body))
            except DecodeError:
                call.fail(INVALID_PARAMS, "the input cannot be read")
        return True

    def welcomed(self, body):
        welcome = bus.Welcome.FromString(body)
        if self.connected and welcome.epoch == self.welcome.epoch:
            return
        self.welcome = welcome
        log(f"attached to {self.options.broker}")
        if not self.announced:
            self.announced = True
            say_ready(self.options.ready_fd)
        if self.draining:
            self.send(bus.Header(kind=bus.DRAIN))
        if self.unsure_since is not None:
            for call, ended in list(self.recent.values()):
                if ended >= self.unsure_since:
                    self.take_back(call)
            self.unsure_since = None
        for call in list(self.calls.values()):
            call.restart()

    # Calls.

    def take_back(self, call):
        del self.recent[call.id]
        self.recent_bytes -= call.kept_bytes()
        self.calls[call.id] = call

    def begin(self, header, body):
        known = self.calls.get(header.call_id)
        if known is None:
            self.forget_old()
            known, _ = self.recent.get(header.call_id, (None, None))
            if known is not None:
                self.take_back(known)
        if known is not None:
            known.resend(header)
            return
        call = Call(self, header)
        request_type, handler = self.methods.get(header.method, (None, None))
        if request_type is None:
            call.fail(METHOD_NOT_FOUND, f"no method {header.method} here")
            return
        if len(self.calls) >= 2 * self.offer.capacity:
            call.fail(BUSY, "the worker is full")
            return
        if call.deadline is not None and call.deadline <= time.time():
            call.fail(TIMEOUT)
            return
        try:
            request = request_type.FromString(body)
        except DecodeError:
            call.fail(INVALID_PARAMS, f"the body is not a valid {request_type.DESCRIPTOR.full_name}")
            return
        self.calls[call.id] = call
        call.accept_due = True
        call.pump()
        try:
            handler(call, request)
        except Exception as error:  # a handler's mistake ends its call, not the worker
            log(f"call {call.id} of {call.method}: {error!r}")
            if not call.ended:
                call.fail(INTERNAL)

    def call_settled(self, call):
        if self.calls.pop(call.id, None) is None:
            return  # refused: may be tried here again
        self.recent[call.id] = (call, time.monotonic())
        self.recent_bytes += call.kept_bytes()
        self.forget_old()

    def forget_old(self):
        while self.recent:
            call, ended = next(iter(self.recent.values()))
            if (len(self.recent) <= RECENT_CALLS and self.recent_bytes <= RECENT_BYTES and
                    time.monotonic() - ended <= RECENT_SECONDS):
                return
            del self.recent[call.id]
            self.recent_bytes -= call.kept_bytes()

    # The loop.

    def after(self, seconds, callback):
        heapq.heappush(self.timers, (time.monotonic() + seconds, next(self.timer_numbers), callback))

    def drain(self):
        if not self.draining:
            self.draining = True
            self.drain_until = time.monotonic() + self.options.drain_timeout
            log(f"draining: {len(self.calls)} calls to finish")
            if self.connected:
                self.send(bus.Header(kind=bus.DRAIN))

    def check_deadlines(self):
        now = time.time()
        for call in list(self.calls.values()):
            if call.deadline is not None and call.deadline <= now:
                call.fail(TIMEOUT)

    def run_timers(self):
        due = time.monotonic()  # not those that are set meanwhile: the socket has its turn
        while self.timers and self.timers[0][0] <= due:
            heapq.heappop(self.timers)[2]()

    def keep_alive(self):
        now = time.monotonic()
        if not self.connected:
            if now >= self.next_ready:
                self.send_ready()
        elif now - self.last_heard > self.welcome.heartbeat_timeout_ms / 1000:
            self.lose("it is silent")
        elif now - self.last_sent >= self.welcome.heartbeat_interval_ms / 1000:
            self.send(bus.Header(kind=bus.HEARTBEAT))

    def run(self, wakeup):
        while not (self.draining and (not self.calls or time.monotonic() >= self.drain_until)):
            poller = zmq.Poller()
            poller.register(self.socket, zmq.POLLIN)
            poller.register(wakeup, zmq.POLLIN)
            wait = 0.1  # heartbeats and deadlines are no more exact than this
            if self.timers:
                wait = min(wait, max(0.0, self.timers[0][0] - time.monotonic()))
            poller.poll(int(wait * 1000 + 0.999))
            self.take_signals(wakeup)
            self.receive()
            self.keep_alive()
            self.check_deadlines()
            self.run_timers()
        for call in list(self.calls.values()):
            call.fail(WORKER_LOST, "the worker shuts down")
        if self.connected:
            self.send(bus.Header(kind=bus.GOODBYE), bus.GoodbyeBody(reason="leaving").SerializeToString())
        self.socket.close(1000)
        self.context.term()

    def take_signals(self, wakeup):
        try:
            numbers = wakeup.recv(16)
        except BlockingIOError:
            return
        for number in numbers:
            if number in (signal.SIGTERM, signal.SIGINT):
                if self.draining:
                    os._exit(128 + number)
                self.drain()


def read_secret_file(path):
    """Lines of `name = "value"`, of "public-key" and "secret-key"."""
    if os.stat(path).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        sys.exit(f"{path} holds a secret key and may be readable by its owner alone (mode 0600)")
    keys = {}
    with open(path, encoding="ascii") as file:
        for line in file:
            line = line.strip()
            if line and not line.startswith("#"):
                name, value = line.split("=", 1)
                keys[name.strip()] = value.strip().strip('"')
    return keys


def say_ready(fd):
    if fd >= 0:
        os.write(fd, b"ready\n")
        os.close(fd)


def log(text):
    print(f"{os.path.basename(sys.argv[0])}[{os.getpid()}]: {text}", file=sys.stderr, flush=True)
