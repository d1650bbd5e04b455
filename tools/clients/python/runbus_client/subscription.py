"""Events across reconnections: what was missed is replayed, or said."""

import asyncio
import dataclasses

from runbus_client.errors import ConnectionLost

_MAX_WAITING = 2048
# Topics whose position is remembered; the least recent is forgotten first. A gateway takes 1024, with those of the
# subscription itself.
_MAX_TOPICS = 960


@dataclasses.dataclass(frozen=True)
class Event:
    topic: str
    epoch: str
    offset: int
    data: dict


@dataclasses.dataclass(frozen=True)
class Lagged:
    """Events of `topic` are lost to this subscription; `missed` is 0 where their number is not known."""

    topic: str
    missed: int


async def follow(client, topics, since=None):
    positions = dict(since or {})
    places = {}  # of `topics`; of a pattern, for the topics that it matches and no event has named
    while True:
        connection = await client.connection()
        waiting = asyncio.Queue(_MAX_WAITING)

        async def on_event(method, params, waiting=waiting):
            await waiting.put((method, params))

        try:
            answer = await connection.call("events.subscribe", {"topics": list(topics), "since": {**places, **positions}})
        except ConnectionLost:
            continue
        for topic in topics:
            place = answer["positions"].get(topic)
            if place and place["epoch"] != places.get(topic, {}).get("epoch"):
                places[topic] = place
        await connection.on_event(answer["subscription"], on_event)
        while True:
            taker = asyncio.create_task(waiting.get())
            await asyncio.wait({taker, connection.lost}, return_when=asyncio.FIRST_COMPLETED)
            if not taker.done():
                taker.cancel()
                break
            method, params = taker.result()
            topic = params["topic"]
            if method == "events.lagged":
                yield Lagged(topic, int(params["missed"]))
                continue
            positions.pop(topic, None)
            positions[topic] = {"epoch": params["epoch"], "offset": int(params["offset"])}
            if topic in places:
                places[topic] = positions.pop(topic)
            if len(positions) > _MAX_TOPICS:
                positions.pop(next(iter(positions)))
            yield Event(topic, params["epoch"], int(params["offset"]), params["data"])
