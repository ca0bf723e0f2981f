"""Laws of every compressor and every split: exact bytes, honest decoding, every sample held once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gracile.core.errors import InputError
from gracile.workers import COMPRESSORS, SPLITS, compressor, label_skew, shards

NAMES = sorted(COMPRESSORS)
# |x - Q(x)|^2 / |x|^2 is at most this for n numbers; top-k's is 1 - k/n, that of sign 1 - |x|_1^2 / (n |x|^2) <= 1.
WORST = {"float16": 1e-5, "int8": 0.25, "none": 0.0, "sign": 1.0, "top-k": 1.0}


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(NAMES), n=st.integers(1, 300), seed=st.integers(0, 9), power=st.integers(-3, 3))
def test_messages_have_the_length_they_say_and_lose_no_more_than_they_may(name: str, n: int, seed: int, power: int):
    packing = compressor(name)
    row = torch.randn(n, generator=random(seed)) * 10.0**power
    message = packing.pack(row, random(seed))
    assert message.dtype == torch.uint8
    assert message.shape == (packing.length(n),)
    found = packing.unpack(message, n)
    assert found.shape == (n,)
    assert float((row - found).square().sum()) <= (WORST[name] + 1e-6) * float(row.square().sum()) + 1e-9 * n
    assert torch.equal(packing.pack(row, random(seed)), message)


@pytest.mark.parametrize("name", NAMES)
def test_zeros_stay_zeros_and_doubles_are_taken(name: str):
    packing = compressor(name)
    for dtype in (torch.float32, torch.float64):
        zeros = torch.zeros(37, dtype=dtype)
        assert torch.equal(packing.unpack(packing.pack(zeros, random()), 37), torch.zeros(37))


@pytest.mark.parametrize("name", NAMES)
def test_messages_do_not_depend_on_the_default_type(name: str):
    packing, row = compressor(name), torch.randn(50, generator=random())
    message = packing.pack(row, random())
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(packing.pack(row, random()), message)
        assert packing.unpack(message, 50).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_the_byte_counts_are_these():
    lengths = {name: compressor(name).length(79510) for name in NAMES}
    assert lengths == {"float16": 159020, "int8": 79514, "none": 318040, "sign": 9943, "top-k": 6360}
    assert compressor("top-k:0.5").length(10) == 40
    assert compressor("top-k:1e-9").length(10) == 8


def test_int8_is_unbiased():
    row = torch.tensor([1.0, 0.3, -0.011, 0.0, 0.77])
    drawn = torch.stack([compressor("int8").unpack(compressor("int8").pack(row, random(k)), 5) for k in range(4000)])
    assert torch.allclose(drawn.mean(0), row, atol=4 * (1 / 127) / 2 / 4000**0.5 + 1e-7)


def test_top_k_keeps_the_largest_and_sign_the_mean_magnitude():
    row = torch.tensor([0.1, -5.0, 2.0, 0.0, 3.0, -0.2, 0.3, 0.4, 1.0, 0.05])
    kept = compressor("top-k:0.3").unpack(compressor("top-k:0.3").pack(row, random()), 10)
    assert torch.equal(kept, torch.where(row.abs() >= 2, row, 0))
    signs = compressor("sign").unpack(compressor("sign").pack(row, random()), 10)
    assert torch.allclose(signs, torch.where(row >= 0, 1.0, -1.0) * row.abs().mean())


@settings(max_examples=40, deadline=None)
@given(
    split=st.sampled_from([*SPLITS, "dirichlet:5"]), workers=st.integers(1, 9), seed=st.integers(0, 5),
    samples=st.integers(200, 400),
)  # fmt: skip
def test_every_sample_is_held_by_exactly_one_worker(split: str, workers: int, seed: int, samples: int):
    labels = torch.randint(10, (samples,), generator=random(seed))
    try:
        parts = shards(labels, workers, split, seed=seed)
    except InputError as error:
        # A small concentration may leave someone without samples, and that is said.
        assert split == "dirichlet"
        assert "without any" in str(error)  # noqa: PT017 - which error it is, is the point
        return
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(samples))
    assert all(torch.equal(a, b) for a, b in zip(parts, shards(labels, workers, split, seed=seed), strict=True))


def test_skew_grows_from_iid_over_dirichlet_to_label():
    labels = torch.randint(10, (6000,), generator=random())
    skews = [
        label_skew(labels, shards(labels, 6, split)) for split in ("iid", "dirichlet:10", "dirichlet:0.5", "label")
    ]
    assert skews == sorted(skews)
    assert skews[0] < 0.05
    assert skews[-1] > 0.75


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: shards(torch.zeros(3, dtype=torch.int64), 4), "worker 3 of 4 without any"),
        (lambda: shards(torch.arange(4), 2, "lable"), "label"),
        (lambda: shards(torch.arange(4), 2, "dirichlet:0"), "concentration"),
        (lambda: compressor("gzip"), "compressor"),
        (lambda: compressor("top-k:2"), "share"),
        (lambda: compressor("top-k:many"), "share"),
        (lambda: compressor("sign:2"), "takes no"),
    ],
)
def test_what_cannot_work_is_refused_in_words(make, words: str):
    with pytest.raises(InputError, match=words):
        make()
