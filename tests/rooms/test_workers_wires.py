"""Processes as torchrun starts them, on this machine and between network namespaces whose link is slow and loses packets."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from gracile import cli
from gracile.workers import InProcess, from_environment, network
from tests.processes import as_torchrun, free_port

# Of this process alone, as tests may run side by side.
SPACES = (f"gracile-{os.getpid()}-a", f"gracile-{os.getpid()}-b")
DEVICES = ("gracile-a", "gracile-b")
# 20 Mbit/s and a queue of 8 packets: bursts are delayed, and what does not fit is dropped.
SHAPING = ["rate", "20mbit", "burst", "3000", "limit", "12000"]
CLONE_NEWNET = 0x40000000


def gossip(transport: Any) -> list[str]:
    """What each local worker holds after ten rounds of 50,000 numbers a message, of which some are lost."""
    random = torch.Generator().manual_seed(0)
    start = torch.randn(4, 50_000, generator=random)
    joined = network("ring", 4, transport=transport, drop=0.2)
    rows = start[list(joined.local)]
    for _ in range(10):
        rows = joined.mix(rows)
    return [f"{worker}:{float(row.double().sum()).hex()}" for worker, row in zip(joined.local, rows, strict=True)]


def one_of_two(spaces: tuple[str, str] | None) -> None:
    """Gossip of one process, in a network namespace of its own where they are given."""
    if spaces is not None:
        with open(f"/run/netns/{spaces[int(os.environ['RANK'])]}") as space:
            assert ctypes.CDLL(None, use_errno=True).setns(space.fileno(), CLONE_NEWNET) == 0, ctypes.get_errno()
    transport = from_environment(4, timeout=60)
    print("\n".join(gossip(transport)))
    transport.close()


def run(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=20).stdout


@pytest.fixture
def spaces() -> Iterator[tuple[str, str]]:
    """Two network namespaces joined by a shaped link; left out where they cannot be made."""
    if shutil.which("ip") is None or shutil.which("tc") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need iproute2 and root")
    a, b = DEVICES
    try:
        for space in SPACES:
            run("ip", "netns", "add", space)
        run("ip", "link", "add", a, "netns", SPACES[0], "type", "veth", "peer", "name", b, "netns", SPACES[1])
        for place, (space, device) in enumerate(zip(SPACES, DEVICES, strict=True), 1):
            run("ip", "-n", space, "addr", "add", f"10.177.0.{place}/24", "dev", device)
            run("ip", "-n", space, "link", "set", device, "up")
            run("ip", "-n", space, "link", "set", "lo", "up")
            run("tc", "-n", space, "qdisc", "add", "dev", device, "root", "tbf", *SHAPING)
        yield SPACES
    except subprocess.SubprocessError as error:
        pytest.skip(f"no network namespaces here: {getattr(error, 'stderr', error)!r}")
    finally:
        for space in SPACES:
            subprocess.run(["ip", "netns", "del", space], check=False, capture_output=True, timeout=20)


def test_two_processes_of_torchrun_give_the_bits_of_one(tmp_path: Path):
    said = as_torchrun(one_of_two, tmp_path, None)
    assert "".join(said).split() == gossip(InProcess(4))


def command(out: str, *more: str) -> None:
    words = [
        "--graph",
        "two-star",
        "--workers",
        "4",
        "--method",
        "average",
        "--rounds",
        "2",
        "--every",
        "1",
        "--widths",
        "4",
    ]
    assert cli.main(["workers", *words, "--out", out, *more]) == 0


def test_the_command_under_torchrun_gives_the_bits_of_one_process(tmp_path: Path):
    said = as_torchrun(command, tmp_path, "two")
    assert "two-star, 4" in said[0]
    assert said[1] == ""
    command(str(tmp_path / "one"), "--exact")
    one, two = (json.loads((tmp_path / name / "average" / "arm.json").read_text()) for name in ("one", "two"))
    assert one["digest"] == two["digest"]
    assert one["workers"] == two["workers"]
    assert one["bytes"] == two["bytes"]
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two"}


def test_a_slow_link_that_drops_packets_changes_no_bit(spaces: tuple[str, str], tmp_path: Path):
    devices = [{"GLOO_SOCKET_IFNAME": device} for device in DEVICES]
    said = as_torchrun(one_of_two, tmp_path, spaces, host="10.177.0.1", port=free_port(), more=devices)
    assert "".join(said).split() == gossip(InProcess(4))
    counted = run("tc", "-n", spaces[0], "-s", "qdisc", "show", "dev", DEVICES[0])
    assert int(counted.split("dropped ")[1].split(",")[0]) > 0
