"""Laws of every method on every graph: means are kept, quadratic problems end at their known optimum."""

from __future__ import annotations

import pytest
import torch

from gracile.core.errors import InputError, NonFiniteError, StorageError
from gracile.workers import GRAPHS, METHODS, InProcess, Quadratics, graph, method, mixing_matrix, network, train
from gracile.workers.methods.two_star import average_two_stars

WORKERS, SIZE = 6, 5
OPTIONS = {
    "admm": {"rho": 2.0},
    "average": {"lr": 0.05},
    "choco": {"lr": 0.05, "compress": "top-k:0.4", "gamma": 0.4},
    # Adam's steps do not shrink as the gradient does; a constant rate would end around the optimum.
    "diloco": {"lr": lambda number: 0.1 * 0.96**number, "local_steps": 5, "outer_lr": 0.5, "beta": 0.5, "decay": 0.0},
    "dsgd": {"lr": 0.05},
    "fedopt": {"lr": 0.05, "server": "momentum", "server_lr": 0.5, "beta": 0.5},
    "fedprox": {"lr": 0.05, "local_steps": 2, "mu": 0.1},
    "gradient-tracking": {"lr": 0.05},
    "scaffold": {"lr": 0.05, "local_steps": 3},
    "two-star": {"lr": 0.05},
}
# What falls out of step for ever with one message lost.
STRICT = {"choco", "diloco", "fedopt"}
PAIRS = [
    (name, graph) for name in sorted(METHODS) for graph in sorted(GRAPHS) if name != "two-star" or graph == "two-star"
]


def problem(skew: float = 1.0, spread: float = 0.0, **more) -> Quadratics:
    """Six quadratics; their optima differ by `skew`, their starts by `spread`."""
    random = torch.Generator().manual_seed(1)
    root = torch.randn(WORKERS, SIZE, SIZE, dtype=torch.float64, generator=random)
    a = root @ root.mT / SIZE + 0.5 * torch.eye(SIZE, dtype=torch.float64)
    if skew == 0:
        a[:] = a[0]
    centre = torch.randn(1, SIZE, dtype=torch.float64, generator=random)
    own = centre + skew * torch.randn(WORKERS, SIZE, dtype=torch.float64, generator=random)
    start = spread * torch.randn(WORKERS, SIZE, dtype=torch.float64, generator=random)
    return Quadratics(a, (a @ own[:, :, None])[:, :, 0], start=start, **more)


def test_every_method_has_options_here():
    assert set(OPTIONS) == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_learning_rate_of_its_own_that_trains(name: str):
    """One rate for all was five times too small for some and fifty times too large for local Adam."""
    given = problem(skew=0)
    found = train(network("two-star", WORKERS), method(name), given, 200, every=200)
    assert (found.x - given.optimum).abs().max() < 0.5 * given.optimum.abs().max()


def test_the_rate_follows_the_local_optimizer():
    assert [method("average", optimizer=one).local.lr for one in ("sgd", "momentum:0.95", "adamw")] == [0.1, 0.02, 3e-3]


@pytest.mark.parametrize(("name", "graph"), PAIRS)
def test_with_alike_workers_every_method_ends_at_the_optimum(name: str, graph: str):
    given, options = (
        problem(skew=0),
        OPTIONS[name] | ({"lr": 0.1} if isinstance(OPTIONS[name].get("lr"), float) else {}),
    )
    found = train(network(graph, WORKERS), method(name, **options), given, 300, every=300)
    assert torch.allclose(found.x, given.optimum.expand_as(found.x), atol=1e-6)


@pytest.mark.parametrize("graph", sorted(GRAPHS))
@pytest.mark.parametrize("name", ["admm", "gradient-tracking", "scaffold"])
def test_methods_that_correct_for_skew_are_exact_with_unlike_workers(name: str, graph: str):
    given = problem(skew=3)
    found = train(network(graph, WORKERS), method(name, **OPTIONS[name]), given, 500, every=500)
    assert torch.allclose(found.x, given.optimum.expand_as(found.x), atol=2e-4)


def test_admm_by_gossip_is_as_good_as_its_mean():
    given = problem(skew=3)
    away = []
    for gossip in (5, 10, 20):
        found = train(network("ring", WORKERS), method("admm", rho=2.0, gossip=gossip), given, 150, every=150)
        away.append(float((found.x - given.optimum).abs().max()))
    assert away[0] > 4 * away[1] > 16 * away[2]
    assert away[2] < 1e-2


@pytest.mark.parametrize(
    ("name", "graph"), [pair for pair in PAIRS if pair[0] in ("average", "choco", "dsgd", "two-star")]
)
def test_the_mean_moves_by_the_mean_gradient_alone(name: str, graph: str):
    given = problem(spread=2.0)
    joined, chosen = network(graph, WORKERS), method(name, **OPTIONS[name])
    state = chosen.start(joined, given)
    for number in range(4):
        expected = (state["x"] - 0.05 * given.gradients(state["x"], number)).mean(0)
        chosen.round(joined, given, state, number)
        assert torch.allclose(state["x"].mean(0), expected, atol=1e-6 if name == "choco" else 1e-13)


@pytest.mark.parametrize("graph", sorted(GRAPHS))
def test_trackers_sum_to_the_gradients(graph: str):
    given = problem(spread=1.0, noise=0.3)
    joined, chosen = network(graph, WORKERS), method("gradient-tracking", lr=0.05)
    state = chosen.start(joined, given)
    for number in range(5):
        chosen.round(joined, given, state, number)
        assert torch.allclose(state["y"].sum(0), given.gradients(state["x"], number + 1).sum(0), atol=1e-12)


@pytest.mark.parametrize("graph", sorted(GRAPHS))
def test_consensus_distance_stays_below_its_bound(graph: str):
    found = train(network(graph, WORKERS), method("dsgd", lr=0.1), problem(skew=2, spread=3), 20)
    assert len(found.rows) == 21
    assert all(row["distance"] <= row["bound"] + 1e-9 for row in found.rows[1:])
    assert found.rows[-1]["bytes"] > 0


def test_two_stars_as_written_are_the_mean_only_where_equal():
    six = network("two-star", 6)
    x = torch.randn(6, 4, dtype=torch.float64)
    ones = torch.ones(6)
    found = average_two_stars(six, x, ones, means=True)
    assert torch.allclose(found, x.mean(0).expand_as(x), atol=1e-14)
    assert six.bytes_sent == 8 * (4 * 5 + 2 * 5 + 4 * 4)
    five = network("two-star", 5)
    y = x[:5]
    uneven = average_two_stars(five, y, ones[:5], means=True)[0]
    assert torch.allclose(uneven, (y[:3].mean(0) + y[3:].mean(0)) / 2, atol=1e-14)
    assert not torch.allclose(uneven, y.mean(0), atol=1e-3)
    even = average_two_stars(five, y, ones[:5], means=False)
    assert torch.allclose(even, y.mean(0).expand_as(y), atol=1e-14)
    with pytest.raises(InputError, match="no two-star"):
        train(network("ring", 6), method("two-star", lr=0.1), problem(), 1)


@pytest.mark.parametrize("name", sorted(set(METHODS) - STRICT))
def test_lost_messages_do_not_stop_training(name: str):
    """With alike workers no message is needed: what is lost must not stand in the way of what each finds by itself."""
    given = problem(skew=0)
    options = OPTIONS[name] | ({"asynchronous": True} if name == "admm" else {})
    joined = network("two-star", WORKERS, drop=0.3)
    found = train(joined, method(name, **options), given, 400, every=400)
    assert joined.lost > 100
    assert (found.x - given.optimum).abs().max() < 2e-5


def test_asynchronous_admm_comes_to_the_same_solution_over_links_that_lose_messages():
    given, away = problem(skew=3), {}
    for name in ("admm", "average", "gradient-tracking", "scaffold", "two-star"):
        options = OPTIONS[name] | ({"asynchronous": True} if name == "admm" else {})
        joined = network("two-star", WORKERS, drop=0.3)
        found = train(joined, method(name, **options), given, 400, every=400)
        assert joined.lost > 1000
        away[name] = float((found.x - given.optimum).abs().max())
    assert away.pop("admm") < 1e-12
    # Without losses all of these are exact here, to 1e-8; one message lost is never made up for.
    assert all(0.3 < distance < 1.1 for distance in away.values()), away


@pytest.mark.parametrize("name", [*sorted(STRICT), "scaffold"])
def test_a_method_that_cannot_lose_messages_says_so(name: str):
    options = OPTIONS[name] | ({"participation": 0.5} if name == "scaffold" else {})
    with pytest.raises(InputError, match="does not stand lost messages"):
        train(network("ring", WORKERS, drop=0.1), method(name, **options), problem(), 1)


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"two-star"}))
def test_those_left_reach_their_own_optimum(name: str):
    given = problem(skew=0)
    transport = InProcess(WORKERS)
    joined, chosen = network("complete", WORKERS, transport=transport), method(name, **OPTIONS[name])
    state = chosen.start(joined, given)
    for number in range(500):
        if number == 3:
            transport.lose(2)
        chosen.round(joined, given, state, number)
        if number == 5:
            joined.leave_out({2})
            chosen.rejoin(joined, given, state, number)
        # The lost worker computes rubbish for itself, which must reach nobody.
        if number > 3:
            state["x"][2] = 1e3
    left = [0, 1, 3, 4, 5]
    assert torch.allclose(state["x"][left], given.optimum.expand(5, -1), atol=1e-6)


@pytest.mark.parametrize("active", [1.0, 0.5])
def test_asynchronous_admm_agrees_with_the_exact_one_in_the_end(active: float):
    given = problem(skew=3)
    found = train(
        network("star", WORKERS), method("admm", rho=2.0, asynchronous=True, active=active), given, 600, every=600
    )
    assert torch.allclose(found.x, given.optimum.expand_as(found.x), atol=1e-6)


def test_inexact_admm_solves_what_has_no_closed_form():
    given = problem(skew=3)

    class NoClosedForm:
        samples, start, gradients, descend = given.samples, given.start, given.gradients, given.descend

    chosen = method("admm", rho=1.0, lr=0.1, local_steps=10)
    found = train(network("star", WORKERS), chosen, NoClosedForm(), 300, every=300)
    assert torch.allclose(found.x, given.optimum.expand_as(found.x), atol=1e-5)


def test_compression_without_feedback_would_not_do():
    """CHOCO's error feedback is what brings workers together where single messages say next to nothing."""
    given = problem(spread=1.0, skew=0)
    chosen = method("choco", lr=1e-9, compress="top-k:0.2", gamma=0.3)
    found = train(network("complete", WORKERS), chosen, given, 150, every=150)
    assert found.rows[-1]["distance"] < 1e-2 * found.rows[0]["distance"]
    plain = network("complete", WORKERS)
    assert found.rows[-1]["bytes"] == 150 * 30 * 8
    plain.mix(found.x)


# Members whose state is more than their defaults', and a matrix that changes from round to round.
RESUMED = {name: (name, OPTIONS[name]) for name in METHODS} | {
    "average, momentum": ("average", {"lr": 0.05, "optimizer": "momentum", "participation": 0.5}),
    "admm, asynchronous": ("admm", {"rho": 2.0, "asynchronous": True, "active": 0.7}),
    "choco, corrected": ("choco", {"lr": 0.05, "compress": "int8", "gamma": 0.4, "correction": 0.5}),
    "fedopt, adam": ("fedopt", {"lr": 0.05, "optimizer": "adam", "server": "yogi"}),
    "scaffold, some": ("scaffold", {"lr": 0.05, "local_steps": 3, "participation": 0.5}),
}


@pytest.mark.parametrize("case", sorted(RESUMED))
def test_a_run_goes_on_from_its_checkpoints_bit_by_bit(case: str, tmp_path):
    name, options = RESUMED[case]
    given, drop = problem(noise=0.1), 0.2 if method(name, **options).tolerates_loss else 0.0

    def joined():
        star = mixing_matrix(graph("two-star", WORKERS))
        lazy = (star + torch.eye(WORKERS, dtype=torch.float64)) / 2
        return network(
            "two-star", WORKERS, mixing=[star, lazy, star @ torch.eye(WORKERS, dtype=torch.float64)], drop=drop
        )

    straight = train(joined(), method(name, **options), given, 12, every=12)
    train(joined(), method(name, **options), given, 8, folder=tmp_path, checkpoint_every=4)
    again = train(joined(), method(name, **options), given, 12, folder=tmp_path, resume=True)
    assert again.rows[0]["round"] == 9
    assert torch.equal(again.x, straight.x)
    assert again.rows[-1]["bytes"] == straight.rows[-1]["bytes"]


def test_checkpoints_of_different_rounds_and_damaged_ones(tmp_path):
    given, chosen = problem(noise=0.1), method("gradient-tracking", lr=0.05)
    for rounds in (4, 8):
        train(network("ring", WORKERS), chosen, given, rounds, folder=tmp_path, checkpoint_every=4)
        if rounds == 4:
            older = (tmp_path / "worker-2.safetensors").read_bytes()
    (tmp_path / "worker-2.safetensors").write_bytes(older)
    # Killed between two files: all go on from the foremost round, and trackers begin anew.
    again = train(network("ring", WORKERS), chosen, given, 9, folder=tmp_path, resume=True)
    assert again.rows[-1]["round"] == 9
    (tmp_path / "worker-0.safetensors").write_bytes(b"rubbish")
    with pytest.raises(StorageError, match="damaged"):
        train(network("ring", WORKERS), chosen, given, 12, folder=tmp_path, resume=True)


def test_corrections_of_scaffold_sum_to_the_common_one():
    given = problem(skew=3, noise=0.2)
    for options in ({}, {"participation": 0.5}, {"server_lr": 0.7}):
        joined, chosen = network("star", WORKERS), method("scaffold", lr=0.05, local_steps=4, **options)
        state = chosen.start(joined, given)
        for number in range(6):
            chosen.round(joined, given, state, number)
            assert torch.allclose(state["own"].mean(0).expand_as(state["c"]), state["c"], atol=1e-13)


def test_local_steps_drift_and_scaffold_does_not():
    """With unlike workers averaging settles away from the optimum, the farther the more local steps; SCAFFOLD does not."""
    given = problem(skew=3)
    away = {}
    for name in ("average", "fedprox", "scaffold"):
        options = {"mu": 2.0} if name == "fedprox" else {}
        found = train(network("star", WORKERS), method(name, lr=0.05, local_steps=10, **options), given, 300, every=300)
        away[name] = float((found.x - given.optimum).abs().max())
    assert away["scaffold"] < 1e-6
    assert away["scaffold"] < 0.5 * away["fedprox"] < 0.5 * away["average"]


@pytest.mark.parametrize("compress", ["none", "int8", "top-k:0.4", "sign"])
def test_corrected_compressed_gossip_is_exact_with_unlike_workers(compress: str):
    given = problem(skew=3)
    away = {}
    for correction in (0.0, 0.5):
        chosen = method("choco", lr=0.05, local_steps=2, compress=compress, gamma=0.3, correction=correction)
        found = train(network("ring", WORKERS), chosen, given, 1500, every=1500)
        away[correction] = float((found.x - given.optimum).abs().max())
    assert away[0.0] > 0.1
    assert away[0.5] < 1e-4


@pytest.mark.parametrize("server", ["adam", "momentum", "nesterov", "yogi"])
def test_servers_are_their_plain_twins(server: str):
    given, b, b2, eps, lr = problem(skew=1), 0.9, 0.99, 1e-3, 0.1
    chosen = method("fedopt", lr=0.05, local_steps=3, server=server, server_lr=lr)
    found = train(network("star", WORKERS), chosen, given, 5, every=5)
    x, m, v = torch.zeros(SIZE, dtype=torch.float64), torch.zeros(SIZE, dtype=torch.float64), eps**2
    for _ in range(5):
        y = x.repeat(WORKERS, 1)
        for _ in range(3):
            y = y - 0.05 * given.gradients(y, 0)
        d = y.mean(0) - x
        if server in ("momentum", "nesterov"):
            m = b * m + d
            x = x + lr * (d + b * m if server == "nesterov" else m)
        else:
            m = b * m + (1 - b) * d
            v = v - (1 - b2) * d**2 * torch.sign(v - d**2) if server == "yogi" else b2 * v + (1 - b2) * d**2
            x = x + lr * m / (v**0.5 + eps)
    assert torch.allclose(found.x, x.expand_as(found.x), atol=1e-12)


@pytest.mark.parametrize("name", ["momentum:0.8", "nesterov:0.8", "adam", "adamw:0.1"])
def test_local_optimisers_are_those_of_torch(name: str):
    given = Quadratics(torch.eye(3, dtype=torch.float64)[None] * 2, torch.ones(1, 3, dtype=torch.float64))
    found = train(network("complete", 1), method("average", lr=0.05, local_steps=4, optimizer=name), given, 3)
    weight = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    plain = {
        "momentum:0.8": lambda: torch.optim.SGD([weight], lr=0.05, momentum=0.8),
        "nesterov:0.8": lambda: torch.optim.SGD([weight], lr=0.05, momentum=0.8, nesterov=True),
        "adam": lambda: torch.optim.Adam([weight], lr=0.05),
        "adamw:0.1": lambda: torch.optim.AdamW([weight], lr=0.05, weight_decay=0.1),
    }[name]()
    for _ in range(12):
        plain.zero_grad()
        (weight.square() - weight).sum().backward()
        plain.step()
    assert torch.allclose(found.x[0], weight.detach(), atol=1e-12)


@pytest.mark.parametrize("name", ["average", "dsgd", "fedopt", "fedprox", "scaffold"])
def test_who_does_not_take_part_neither_trains_nor_sends_up(name: str):
    given, joined = problem(spread=1.0), network("star", WORKERS)
    chosen = method(name, **OPTIONS[name] | {"participation": 0.5, "seed": 3})
    state = chosen.start(joined, given)
    training = chosen.local if hasattr(chosen, "local") else chosen.average.local
    among = training.taking_part(joined, 0)
    assert len(among) == 3
    x = state["x"].clone()
    chosen.round(joined, given, state, 0)
    up = {link[0] for link, count in joined.link_bytes.items() if link[1] == 0 and count}
    if name == "dsgd":
        resting = [worker for worker in range(WORKERS) if worker not in among]
        assert torch.equal(state["x"][resting], x[resting])
        assert {end for link in joined.link_bytes for end in link} <= among
    else:
        assert up == among - {0}
        assert {link[1] for link in joined.link_bytes if link[0] == 0} == {1, 2, 3, 4, 5}
    assert training.taking_part(joined, 1) != among


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: method("fedavg"), "average"),
        (lambda: method("dsgd", lr=0.1, learning=1), "no option"),
        (lambda: method("dsgd", lr=0.0), "train nothing"),
        (lambda: method("average", lr=0.1, local_steps=0), "train nothing"),
        (lambda: method("average", lr=0.1, participation=0.0), "participation"),
        (lambda: method("average", lr=0.1, optimizer="adagrad"), "optimiser"),
        (lambda: method("average", lr=0.1, optimizer="momentum:1"), "momentum of weight"),
        (lambda: method("average", lr=0.1, optimizer="adam:x"), "no number"),
        (lambda: method("average", lr=0.1, optimizer="sgd:0.9"), "takes no"),
        (lambda: method("dsgd", lr=0.1, gossip=0), "gossip"),
        (lambda: method("diloco", decay=-1.0), "weight decay"),
        (lambda: method("fedopt", lr=0.1, server="lion"), "server"),
        (lambda: method("fedopt", lr=0.1, server_lr=0.0), "server_lr"),
        (lambda: method("fedprox", lr=0.1, mu=-1.0), "mu"),
        (lambda: method("scaffold", lr=0.1, server_lr=0.0), "server_lr"),
        (lambda: method("choco", lr=0.1, correction=2.0), "correction"),
        (lambda: method("choco", lr=0.1, gamma=2.0), "gamma"),
        (lambda: method("choco", lr=0.1, compress="zip"), "compressor"),
        (lambda: method("admm", rho=0.0), "rho"),
        (lambda: method("admm", asynchronous=True, gossip=3), "Leave out gossip"),
        (lambda: train(network("ring", 6), method("dsgd", lr=0.1), problem(), -1), "rounds"),
    ],
)
def test_what_cannot_work_is_refused_in_words(make, words: str):
    with pytest.raises(InputError, match=words):
        make()


def test_divergence_is_named():
    with pytest.raises(NonFiniteError, match="round"):
        train(network("ring", WORKERS), method("dsgd", lr=1e6), problem(), 100, every=100)
