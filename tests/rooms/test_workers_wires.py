"""Processes as torchrun starts them, on this machine and between network namespaces whose link is slow and loses packets."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gracile.workers import InProcess, network

ROOT = Path(__file__).parents[2]
SPACES = ("gracile-test-a", "gracile-test-b")
# 20 Mbit/s and a queue of 8 packets: bursts are delayed, and what does not fit is dropped.
SHAPING = ["rate", "20mbit", "burst", "3000", "limit", "12000"]


def gossip(channel) -> str:
    """What each local worker holds after ten rounds of 50,000 numbers a message, of which some are lost."""
    random = torch.Generator().manual_seed(0)
    start = torch.randn(4, 50_000, generator=random)
    joined = network("ring", 4, channel=channel, drop=0.2)
    rows = start[list(joined.local)]
    for _ in range(10):
        rows = joined.mix(rows)
    return " ".join(
        f"{worker}:{float(row.double().sum()).hex()}" for worker, row in zip(joined.local, rows, strict=True)
    )


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def spaces() -> Iterator[tuple[str, str]]:
    """Two network namespaces joined by a shaped link; left out where they cannot be made."""
    if shutil.which("ip") is None or shutil.which("tc") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need iproute2 and root")
    try:
        for space in SPACES:
            ip("netns", "add", space)
        ip(
            "link",
            "add",
            "gracile-a",
            "netns",
            SPACES[0],
            "type",
            "veth",
            "peer",
            "name",
            "gracile-b",
            "netns",
            SPACES[1],
        )
        for place, (space, device) in enumerate(zip(SPACES, ("gracile-a", "gracile-b"), strict=True), 1):
            ip("-n", space, "addr", "add", f"10.177.0.{place}/24", "dev", device)
            ip("-n", space, "link", "set", device, "up")
            ip("-n", space, "link", "set", "lo", "up")
            shape = ["tc", "-n", space, "qdisc", "add", "dev", device, "root", "tbf", *SHAPING]
            subprocess.run(shape, check=True, capture_output=True)
        yield SPACES
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr!r}")
    finally:
        for space in SPACES:
            subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True)


def together(prefixes: list[list[str]], host: str, port: int, devices: list[str] | None = None) -> str:
    """Run `gossip` in two processes as torchrun would start them."""
    program = (
        "import torch; torch.set_num_threads(1)\n"
        "from test_workers_wires import gossip\n"
        "from gracile.workers import from_environment\n"
        "channel = from_environment(4, timeout=60)\nprint(gossip(channel))\nchannel.close()"
    )
    started = []
    for rank, prefix in enumerate(prefixes):
        environment = {
            **os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests' / 'rooms'}", "OMP_NUM_THREADS": "1",
            "RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": host, "MASTER_PORT": str(port),
        }  # fmt: skip
        if devices is not None:
            environment["GLOO_SOCKET_IFNAME"] = devices[rank]
        command = [*prefix, sys.executable, "-c", program]
        started.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    said = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    return " ".join(out.strip() for out, _ in said)


def test_two_processes_of_torchrun_give_the_bits_of_one():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert together([[], []], "127.0.0.1", port) == gossip(InProcess(4))


def test_a_slow_link_that_drops_packets_changes_no_bit(spaces: tuple[str, str]):
    prefixes = [["ip", "netns", "exec", space] for space in spaces]
    assert together(prefixes, "10.177.0.1", 29507, ["gracile-a", "gracile-b"]) == gossip(InProcess(4))
    shown = ["tc", "-n", spaces[0], "-s", "qdisc", "show", "dev", "gracile-a"]
    counted = subprocess.run(shown, check=True, capture_output=True, text=True).stdout
    assert int(counted.split("dropped ")[1].split(",")[0]) > 0
