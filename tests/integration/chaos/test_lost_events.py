"""Events whose way from the broker is cut: what was published and answered arrives, once. The seed is printed;
RUNBUS_EVENTS_SEED repeats it."""

import asyncio
import os
import random

from harness.client import Client
from harness.parts import Parts

SEED = int(os.environ.get("RUNBUS_EVENTS_SEED", random.SystemRandom().randrange(1 << 30)))
EVENTS = 400


async def test_no_event_of_any_topic_is_lost_without_a_word():
    """Each on a topic of its own that only a pattern matches, so that none shows the loss of another."""
    print("RUNBUS_EVENTS_SEED =", SEED)
    chance = random.Random(SEED)
    async with Parts() as parts, Client(parts) as subscriber, Client(parts) as publisher:
        await publisher.call("events.publish", {"topic": "user.before", "data": {}})
        await subscriber.call("events.subscribe", {"topics": ["user.*"]})
        for n in range(EVENTS):
            if chance.random() < 0.05:
                parts.events.cut()
                await asyncio.sleep(chance.choice([0, 0, 0.002, 0.05]))
            if chance.random() < 0.05:
                # On its way, and then never there.
                parts.events.dead = True
            await publisher.call("events.publish", {"topic": f"user.{n}", "data": {}})
            if parts.events.dead and chance.random() < 0.5:
                parts.events.cut()
                parts.events.dead = False
        parts.events.cut()
        parts.events.dead = False
        missing = {f"user.{n}" for n in range(EVENTS)}
        missing -= {params["topic"] for method, params in subscriber.notifications}
        while missing:
            _, params = await subscriber.notification(
                lambda method, params: method in ("events.event", "events.lagged") and params["topic"] in missing
            )
            missing.remove(params["topic"])
        topics = [params["topic"] for method, params in subscriber.notifications if method == "events.event"]
        assert sorted(topics) == sorted(f"user.{n}" for n in range(EVENTS)), "none twice, none of before"
