"""Laws of every graph, mixing and split: the mean is kept, and workers agree at least as fast as predicted."""

from __future__ import annotations

import networkx
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gracile.core.errors import InputError
from gracile.workers import (
    GRAPHS,
    MIXINGS,
    InProcess,
    check_mixing,
    graph,
    mixing_matrix,
    network,
    one_peer_exponential,
    spectral_gap,
)
from tests.peers import peer

NAMES = sorted(GRAPHS)
SIZES = {"torus": 12}


def mixing_or_skip(mixing: str) -> str:
    if mixing == "optimal":
        peer("cvxpy")
    return mixing


def rows(workers: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(workers, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("mixing", sorted(MIXINGS))
@pytest.mark.parametrize("name", NAMES)
def test_mixing_matrices_are_doubly_stochastic_and_contract_as_their_gap_says(name: str, mixing: str):
    built = graph(name, 8)
    matrix = check_mixing(mixing_matrix(built, mixing_or_skip(mixing)), built)
    assert torch.equal(matrix, matrix.T)
    gap = spectral_gap(matrix)
    assert 0 < gap <= 1
    joined = network(built, mixing=mixing)
    joined.watching = True
    x = rows(8)
    for _ in range(3):
        mixed = joined.mix(x)
        before, after, bound = joined.distances
        assert torch.allclose(mixed.mean(0), x.mean(0), atol=1e-14)
        assert bound == pytest.approx((1 - gap) * before)
        assert after <= bound + 1e-12
        x = mixed
    # The bound is met by the slowest direction: no smaller factor would do.
    values, vectors = torch.linalg.eigh(matrix - 1 / 8)
    slowest = vectors[:, values.abs().argmax()][:, None]
    joined.mix(slowest, 3)
    before, after, bound = joined.distances
    assert bound == pytest.approx((1 - gap) ** 3 * before, abs=1e-12)
    assert after == pytest.approx(bound, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_the_optimal_rule_has_the_largest_gap(name: str):
    built = graph(name, 8)
    gaps = {mixing: spectral_gap(mixing_matrix(built, mixing_or_skip(mixing))) for mixing in MIXINGS}
    assert gaps["optimal"] >= max(gaps.values()) - 1e-6


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(NAMES), workers=st.integers(2, 17), seed=st.integers(0, 5))
def test_the_exact_average_is_exact_on_every_graph(name: str, workers: int, seed: int):
    assume(name != "torus" or workers in (4, 6, 8, 9, 10, 12, 14, 15, 16))
    assume(name != "random-regular" or (workers % 2 == 0 and workers > 3))
    joined = network(name, workers, seed=seed)
    x = rows(workers, seed)
    mean = joined.average(x)
    assert torch.allclose(mean, x.mean(0).expand_as(mean), atol=1e-14)
    assert all(torch.equal(mean[0], row) for row in mean)
    assert joined.bytes_sent == 8 * (workers - 1) * (x.shape[1] + x.shape[1] + 1)
    weights = torch.arange(1.0, workers + 1, dtype=torch.float64)
    expected = (weights[:, None] * x).sum(0) / weights.sum()
    assert torch.allclose(joined.average(x, weights=weights)[0], expected, atol=1e-14)
    if workers < 6:
        assert torch.allclose(joined.average(x, rounds=400, weights=weights)[0], expected, atol=1e-9)


@pytest.mark.parametrize("workers", [2, 4, 8, 16])
def test_one_peer_exponential_is_exact_after_one_turn(workers: int):
    joined = network("exponential", workers, mixing=one_peer_exponential(workers))
    x = rows(workers)
    assert torch.allclose(joined.mix(x, len(joined.matrices)), x.mean(0).expand_as(x), atol=1e-14)
    assert joined.contraction == pytest.approx(0, abs=1e-7)
    assert joined.bytes_sent == 8 * 7 * workers * len(joined.matrices) or workers == 2


@pytest.mark.parametrize("name", NAMES)
def test_what_is_left_of_a_graph_keeps_its_own_mean(name: str):
    joined = network(name, 8)
    gone = {0, 5}
    transport = joined.transport
    assert isinstance(transport, InProcess)
    transport.lose(*gone)
    pieces = joined.graph.pieces(set(range(8)) - gone)
    # Before anyone is told, the silent links' weight stays with the receivers; afterwards the matrices say the same.
    x = rows(8)
    silent = joined.mix(x)
    joined.leave_out(gone)
    assert torch.allclose(joined.mix(x)[[1, 2, 3, 4, 6, 7]], silent[[1, 2, 3, 4, 6, 7]], atol=1e-15)
    for piece in pieces:
        assert torch.allclose(silent[piece].mean(0), x[piece].mean(0), atol=1e-14)
        assert torch.allclose(joined.average(x)[piece], x[piece].mean(0).expand(len(piece), -1), atol=1e-14)
    joined.leave_out(set())
    assert torch.equal(joined.matrices[0], mixing_matrix(joined.graph))


@pytest.mark.parametrize("name", NAMES)
def test_lost_messages_leave_values_within_their_hull(name: str):
    joined = network(name, 8, drop=0.4, seed=3)
    x = rows(8)
    mixed = joined.mix(x, 5)
    assert joined.lost > 0
    assert (mixed.amax(0) <= x.amax(0) + 1e-14).all()
    assert (mixed.amin(0) >= x.amin(0) - 1e-14).all()
    assert joined.mix(x).equal(joined.mix(x)) is False
    memory: dict[int, torch.Tensor] = {}
    for _ in range(80):
        remembered = joined.average(x, memory=memory)
    assert torch.allclose(remembered, x.mean(0).expand_as(x), atol=1e-14)


def test_the_two_star_scheme_costs_ten_messages():
    joined = network("two-star", 6)
    assert joined.graph.edges == ((0, 2), (1, 2), (2, 3), (3, 4), (3, 5))
    joined.average(rows(6))
    assert len(joined.link_bytes) == 10


def test_networkx_graphs_and_named_nodes_are_taken():
    built = graph(networkx.cycle_graph(5))
    assert built.edges == graph("ring", 5).edges
    assert torch.equal(mixing_matrix(networkx.cycle_graph(5)), mixing_matrix([(0, 1), (1, 2), (2, 3), (3, 4), (0, 4)]))
    assert graph([("b", "a"), ("b", "c")]).edges == ((0, 1), (1, 2))
    assert graph([(1, 2), (0, 1)], 3).workers == 3
    assert graph("random-regular:4", 9, seed=1).edges == graph("random-regular:4", 9, seed=1).edges
    for degree in (2, 3, 5, 7):
        assert {len(row) for row in graph(f"random-regular:{degree}", 8).neighbours} == {degree}


def test_matrix_products_are_the_plain_twin_of_gossip():
    joined = network("torus", 12)
    x = rows(12)
    assert torch.allclose(joined.mix(x, 4), torch.linalg.matrix_power(joined.matrices[0], 4) @ x, atol=1e-14)
    directed = 2 * len(joined.graph.edges)
    assert joined.bytes_sent == 4 * directed * 7 * 8
    assert sum(joined.link_bytes.values()) == joined.bytes_sent


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: graph([(0, 1), (2, 3)]), "disconnected"),
        (lambda: graph([(0, 1)], 3), "disconnected"),
        (lambda: graph("ring", 0), "nobody"),
        (lambda: graph("rign", 5), "ring"),
        (lambda: graph("ring"), "workers="),
        (lambda: graph(networkx.cycle_graph(5), 6), "6 are asked"),
        (lambda: graph([(0, 1, 2), 3]), "no list of edges"),
        (lambda: graph("torus", 7), "no factors"),
        (lambda: graph("random-regular:3", 7), "random regular"),
        (lambda: network("ring", 4, mixing=torch.full((4, 4), 0.3)), "not doubly stochastic"),
        (lambda: network("ring", 4, mixing=torch.full((4, 4), 0.25)), "no edge joins"),
        (lambda: network("ring", 4, mixing=torch.eye(3)), "shape"),
        (lambda: network("ring", 4, mixing=torch.eye(4) * 2 - 0.25), "not doubly stochastic"),
        (lambda: network("ring", 4, mixing=[]), "empty"),
        (lambda: network("ring", 4, drop=1.0), "drop"),
        (lambda: network("ring", 4, mixing="metropolys"), "metropolis"),
        (lambda: network("ring", 4, transport=InProcess(6)), "graph has 4"),
    ],
)
def test_what_cannot_work_is_refused_in_words(make, words: str):
    with pytest.raises(InputError, match=words):
        make()
