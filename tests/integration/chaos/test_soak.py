"""The soak: programs print numbered records while connections are cut and parts are killed with -9. Every record arrives once
and in order at the client, every exit code is right, or a gap is named. RUNBUS_SOAK_SECONDS (60, and half of it where parts die
fast) and RUNBUS_SOAK_SEED."""

import asyncio
import os
import random
import sys
import time
import typing

from harness.parts import Parts
from harness.system import SLOWDOWN, SOURCE_DIR, processes, wait_until

sys.path.insert(0, str(SOURCE_DIR / "tools" / "clients" / "python"))

import runbus_client  # noqa: E402

SECONDS = float(os.environ.get("RUNBUS_SOAK_SECONDS", "60"))
SEED = int(os.environ.get("RUNBUS_SOAK_SEED", str(random.SystemRandom().randrange(1 << 32))))
RECORDS = 30_000
PROGRAMS_AT_ONCE = 3


class Trouble(typing.NamedTuple):
    pause: tuple  # seconds from one fault to the next
    kinds: list
    dead: tuple  # the connections that may be left dead, slow or late


EVERYTHING = Trouble((0.5, 3.0), ["cut client", "cut gateway", "cut worker", "kill gateway", "kill broker", "kill worker", "delay", "throttle", "dead"],
                     ("client", "gateway", "worker"))
# A part is gone again before the others have noticed that it came back: what is missing in an answer is nowhere for a while.
DYING_FAST = Trouble((0.1, 1.6), ["cut gateway", "cut worker", "kill gateway", "kill broker", "kill worker", "kill worker", "dead"], ("gateway", "worker"))


async def one_program(client, number, totals):
    code = (
        "import sys, time\n"
        f"for i in range({RECORDS}):\n"
        "    sys.stdout.write('%08d\\n' % i)\n"
        "    if i % 500 == 0:\n"
        "        sys.stdout.flush()\n"
        "        time.sleep(0.02)\n"
        "sys.stdout.flush()\n"
        f"sys.exit({number % 100})\n"
    )
    run = await client.run(code, config={"timeout": 600})
    expected, received, gaps = 0, b"", 0
    async for item in run:
        if isinstance(item, runbus_client.Gap):
            gaps += 1
            expected = None
        elif isinstance(item, runbus_client.Output):
            received += item.data
            *lines, received = received.split(b"\n")
            for line in lines:
                if expected is not None:
                    assert int(line) == expected, f"record {expected} of program {number} is {line!r}"
                    expected += 1
    result = await run.result()
    assert result["exit_code"] == number % 100, result
    assert gaps or expected == RECORDS, f"{expected} of {RECORDS} records, and no gap was named"
    totals["records"] += expected or 0
    totals["programs"] += 1
    totals["gaps"] += gaps


async def programs(parts, end, numbers, totals):
    async with runbus_client.Client(parts.url, parts.token, patience=90) as client:
        while time.monotonic() < end:
            await one_program(client, next(numbers), totals)


async def make_trouble(trouble, parts, end, dice, totals):
    while True:
        pause = dice.uniform(*trouble.pause)
        if time.monotonic() + pause > end:
            return
        await asyncio.sleep(pause)
        kind = dice.choice(trouble.kinds)
        totals["faults"][kind] = totals["faults"].get(kind, 0) + 1
        what, _, part = kind.partition(" ")
        proxy = getattr(parts, part or dice.choice(trouble.dead), None)
        if what == "cut":
            proxy.cut()
        elif what == "kill":
            parts.kill(part)
        else:
            proxy.delay = 0.05 if what == "delay" else 0.0
            proxy.bytes_per_second = 2_000_000 if what == "throttle" else None
            proxy.dead = what == "dead"
            await asyncio.sleep(dice.uniform(0.3, 2.0))
            proxy.delay, proxy.bytes_per_second = 0.0, None
            if proxy.dead:
                # Bytes were swallowed: the stream cannot go on.
                proxy.dead = False
                proxy.cut()


async def soak(trouble, seconds):
    print(f"RUNBUS_SOAK_SEED={SEED} RUNBUS_SOAK_SECONDS={SECONDS:g}")
    dice = random.Random(SEED)
    totals = {"records": 0, "programs": 0, "gaps": 0, "faults": {}}
    async with Parts() as parts:
        end = time.monotonic() + seconds
        numbers = iter(range(1, 1_000_000))
        work = [asyncio.create_task(programs(parts, end, numbers, totals)) for _ in range(PROGRAMS_AT_ONCE)]
        chaos = asyncio.create_task(make_trouble(trouble, parts, end, dice, totals))
        try:
            await asyncio.wait_for(asyncio.gather(*work, chaos), seconds + 170 * SLOWDOWN)
        finally:
            for task in (*work, chaos):
                task.cancel()
        print(totals)
        assert totals["programs"] >= PROGRAMS_AT_ONCE and sum(totals["faults"].values()) >= seconds / 6
        state = parts.state
    wait_until(lambda: not processes(lambda argv: any(state in part for part in argv)), "nothing is left running")


async def test_soak():
    await soak(EVERYTHING, SECONDS)


async def test_parts_that_die_fast():
    await soak(DYING_FAST, SECONDS / 2)
