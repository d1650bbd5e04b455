"""A worker on another host: its own network namespace and address, CURVE keys."""

import os
import socket
import subprocess
import uuid

import pytest

from harness.client import Client
from harness.system import PATIENCE, System, binary

BROKER_ADDRESS = "10.231.77.1"


def ip(*arguments, check=True):
    return subprocess.run(["ip", *arguments], check=check, capture_output=True)


@pytest.fixture
def other_host():
    """Name of a network namespace joined to ours by a pair of interfaces."""
    if os.geteuid() != 0:
        pytest.skip("SKIPPED: making a network namespace needs root")
    short = uuid.uuid4().hex[:6]
    name, here, there = f"runbus-{short}", f"rb{short}a", f"rb{short}b"
    if ip("netns", "add", name, check=False).returncode != 0:
        pytest.skip("SKIPPED: this machine lets nobody make a network namespace")
    try:
        ip("link", "add", here, "type", "veth", "peer", "name", there)
        ip("link", "set", there, "netns", name)
        ip("addr", "add", f"{BROKER_ADDRESS}/24", "dev", here)
        ip("link", "set", here, "up")
        ip("-n", name, "addr", "add", "10.231.77.2/24", "dev", there)
        ip("-n", name, "link", "set", there, "up")
        ip("-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        ip("link", "del", here, check=False)
        ip("netns", "del", name, check=False)


def free_port():
    with socket.socket() as probe:
        probe.bind((BROKER_ADDRESS, 0))
        return probe.getsockname()[1]


def make_key(folder, name):
    subprocess.run(
        [binary("runbus"), "keys", "new", name, "--role", "worker", "--dir", str(folder)], check=True, capture_output=True
    )


async def test_remote_worker(other_host, tmp_path):
    listed = tmp_path / "listed"
    unlisted = tmp_path / "unlisted"
    for folder in (listed, unlisted):
        folder.mkdir()
    make_key(listed, "second-host")
    make_key(unlisted, "stranger")
    port = free_port()
    endpoint = f"tcp://{BROKER_ADDRESS}:{port}"
    with System("--broker-listen", endpoint, "--authorized-keys", str(listed)) as system:
        server_key = subprocess.run(
            [binary("runbus"), "keys", "server", "--state-dir", system.state_dir], check=True, capture_output=True, text=True
        ).stdout.strip().split()[-1]

        def start(folder, name):
            return subprocess.Popen(
                ["ip", "netns", "exec", other_host, binary("runbus-example-echo"), "--broker", endpoint, "--node", "second",
                 "--curve-server-key", server_key, "--curve-secret-file", str(folder / f"{name}.secret")]
            )

        async with Client(system) as client:

            async def nodes():
                return {worker["node"] for worker in (await client.call("bus.workers"))["workers"]}

            async def until_second(timeout):
                import asyncio
                import time

                deadline = time.monotonic() + timeout
                while time.monotonic() < deadline:
                    if "second" in await nodes():
                        return True
                    await asyncio.sleep(0.2)
                return False

            stranger = start(unlisted, "stranger")
            try:
                assert not await until_second(5), "a worker without a listed key was let in"
                # Junk and a connection that says nothing change nothing for others.
                with socket.create_connection((BROKER_ADDRESS, port)) as junk, socket.create_connection((BROKER_ADDRESS, port)):
                    junk.sendall(os.urandom(5000))
                    friend = start(listed, "second-host")
                    try:
                        assert await until_second(PATIENCE)
                        assert (await client.call("echo.say", {"text": "from afar"}))["text"] == "from afar"
                        assert (await client.run("print(1)"))["stdout"] == "1\n"
                    finally:
                        friend.terminate()
                        assert friend.wait(PATIENCE) == 0
            finally:
                stranger.terminate()
                stranger.wait(PATIENCE)
