"""Events: the same for WebSocket subscribers and plain ZeroMQ SUB sockets, with recovery."""

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile

import pytest
import zmq

from harness.client import Client, RpcError
from harness.system import PATIENCE, SOURCE_DIR, wait_until


@pytest.fixture(scope="module")
def bus_pb2():
    """Generated from the schema, as a reader in another language would do it."""
    with tempfile.TemporaryDirectory() as out:
        subprocess.run(
            ["protoc", f"-I{SOURCE_DIR}/proto", f"--python_out={out}", "runbus/v1/bus.proto", "runbus/v1/options.proto"],
            check=True,
        )
        sys.path.insert(0, out)
        from runbus.v1 import bus_pb2 as module

        yield module
        sys.path.remove(out)


def event(topic):
    return lambda method, params: method == "events.event" and params["topic"] == topic


async def test_websocket_subscribers_see_the_life_of_an_execution(system):
    async with Client(system) as watcher, Client(system) as client:
        subscribed = await watcher.call("events.subscribe", {"topics": ["code_execution.*"]})
        result = await client.run("print(1)")
        for topic in ("code_execution.started", "code_execution.completed"):
            _, params = await watcher.notification(event(topic))
            assert params["subscription"] == subscribed["subscription"]
            assert params["data"]["execution_id"] == result["execution_id"]
            assert params["epoch"] and params["offset"] >= 1
        await watcher.call("events.unsubscribe", {"subscription": subscribed["subscription"]})
        await client.run("print(2)")
        await watcher.call("connection.ping")
        completed = [params for method, params in watcher.notifications if params["topic"] == "code_execution.completed"]
        assert len(completed) == 1


async def test_a_plain_zeromq_subscriber_sees_the_same(system, bus_pb2):
    endpoints = [
        os.path.join(folder, name)
        for folder, _, names in os.walk(system.state_dir)
        for name in names
        if name == "events.sock"
    ]
    assert endpoints, "the events socket is in the state directory"
    context = zmq.Context()
    subscriber = context.socket(zmq.SUB)
    try:
        subscriber.setsockopt(zmq.SUBSCRIBE, b"code_execution.")
        subscriber.setsockopt(zmq.RCVTIMEO, int(PATIENCE * 1000))
        subscriber.connect("ipc://" + endpoints[0])
        async with Client(system) as client:
            # A SUB socket is subscribed when the first event arrives: run until then.
            seen = set()
            for _ in range(50):
                result = await client.run("print(1)")
                if await asyncio.get_running_loop().run_in_executor(None, subscriber.poll, 200):
                    break
            while not {"code_execution.completed"} <= seen:
                topic, body = subscriber.recv_multipart()
                message = bus_pb2.Event.FromString(body)
                assert message.topic == topic.decode() and message.epoch and message.offset
                if message.data["execution_id"] == result["execution_id"]:
                    seen.add(message.topic)
    finally:
        subscriber.close(0)
        context.term()


async def test_user_events_and_recovery(system):
    async with Client(system) as client:
        with pytest.raises(RpcError) as error:
            await client.call("events.publish", {"topic": "worker.lost", "data": {}})
        assert error.value.code == -32001
        first = await client.call("events.subscribe", {"topics": ["user.news"]})
        await client.call("events.publish", {"topic": "user.news", "data": {"n": 1}})
        _, seen = await client.notification(event("user.news"))
        assert seen["data"] == {"n": 1}
        await client.call("events.unsubscribe", {"subscription": first["subscription"]})
        for n in (2, 3):
            await client.call("events.publish", {"topic": "user.news", "data": {"n": n}})
    async with Client(system) as client:
        await client.call(
            "events.subscribe",
            {"topics": ["user.news"], "since": {"user.news": {"epoch": seen["epoch"], "offset": seen["offset"]}}},
        )
        await client.notification(lambda method, params: method == "events.event" and params["data"] == {"n": 3})
        assert [params["data"]["n"] for _, params in client.notifications] == [2, 3]
        # An epoch that the broker does not know: what was missed cannot be told.
        await client.call("events.subscribe", {"topics": ["user.news"], "since": {"user.news": {"epoch": "gone", "offset": 1}}})
        await client.notification(lambda method, params: method == "events.lagged" and params["topic"] == "user.news")


async def test_every_event_whose_publishing_was_answered_arrives(system):
    """Hundreds at once; what the broker does not take is an error, not a loss."""
    count, at_once, subscribers = 12_000, 500, 3
    async with contextlib.AsyncExitStack() as stack:
        watchers = [await stack.enter_async_context(Client(system)) for _ in range(subscribers)]
        for watcher in watchers:
            await watcher.call("events.subscribe", {"topics": ["user.many"]})
        publisher = await stack.enter_async_context(Client(system))
        taken, refused = set(), 0
        for start in range(0, count, at_once):
            calls = [publisher.call("events.publish", {"topic": "user.many", "data": {"n": n}}) for n in range(start, start + at_once)]
            for n, answer in zip(range(start, start + at_once), await asyncio.gather(*calls, return_exceptions=True)):
                if isinstance(answer, RpcError):
                    assert answer.code == -32002 and answer.data["limit"] == "event_rate", answer
                    refused += 1
                else:
                    taken.add((answer["offset"], n))
        assert taken and len(taken) + refused == count
        last = max(taken)[0]
        for watcher in watchers:
            await watcher.notification(lambda method, params: method == "events.event" and params["offset"] == last)
            assert {method for method, _ in watcher.notifications} == {"events.event"}
            assert [(params["offset"], int(params["data"]["n"])) for _, params in watcher.notifications] == sorted(taken)
        with pytest.raises(RpcError) as error:
            await publisher.call("events.publish", {"topic": "user.many", "data": {"text": "x" * 100_000}})
        assert error.value.code == -32005 and error.value.data["limit"] == "event_bytes"


async def test_the_first_events_of_a_new_broker_arrive(system):
    """Each on a topic of its own that only a pattern matches, from the moment on when one can be published again."""
    async with Client(system) as subscriber, Client(system) as publisher:
        await subscriber.call("events.subscribe", {"topics": ["user.fresh.*"]})
        system.kill("runbus-broker")
        taken = set()
        for n in range(100_000):
            try:
                await publisher.call("events.publish", {"topic": f"user.fresh.{n}", "data": {}})
                taken.add(f"user.fresh.{n}")
            except RpcError as error:
                assert error.code in (-32003, -32004), error
            if len(taken) == 200:
                break
        assert len(taken) == 200
        last = set(taken)
        while last:
            _, params = await subscriber.notification(lambda method, params: method == "events.event" and params["topic"] in last)
            last.remove(params["topic"])
        topics = [params["topic"] for method, params in subscriber.notifications if method == "events.event"]
        assert len(topics) == len(set(topics))
        while not (await publisher.call("bus.workers"))["workers"]:  # for the tests after this
            await asyncio.sleep(0.05)


async def test_workers_come_and_go_as_events(system):
    async with Client(system) as client:
        await client.call("events.subscribe", {"topics": ["worker.*"]})
        old = system.kill("runbus-worker")
        await client.notification(event("worker.lost"))
        _, params = await client.notification(event("worker.attached"))
        assert params["data"]["name"] == "execution"
        wait_until(lambda: [pid for pid in system.pids("runbus-worker") if pid != old], "the worker is back")
        workers = (await client.call("bus.workers"))["workers"]
        assert [worker["name"] for worker in workers] == ["execution"]
        stats = await client.call("bus.stats")
        assert stats["workers"] == 1 and int(stats["workers_lost"]) >= 1
