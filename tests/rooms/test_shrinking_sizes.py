"""Sizes and branches in the model's code: what a smaller network makes of them at other sizes, batches and numbers of channels."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from gracile.channels import trace
from gracile.core.errors import InputError
from gracile.shrinking import plan, shrink

SIZES = {
    "ceil of a share": lambda y: F.max_pool2d(y, tuple(math.ceil(one / 4) for one in y.shape[2:])),
    "float": lambda y: y / float(y.shape[2] * y.shape[3]),
    "int": lambda y: F.adaptive_avg_pool2d(y, (int(y.shape[2]) // 2, int(y.shape[3]) // 2)),
    "larger": lambda y: F.adaptive_avg_pool2d(y, max(y.shape[2:]) // 2),
    "halved": lambda y: F.adaptive_avg_pool2d(y, (y.shape[2] >> 1, divmod(y.shape[3], 2)[0])),
    "len": lambda y: y.reshape(len(y), *y.shape[1:]),
    "batch": lambda y: y.reshape(int(y.shape[0]), *y.shape[1:]),
}


class Sliced(nn.Module):
    """Half of the channels are named in the code, so that removing some needs a forward of its own."""

    def __init__(self, pool: str) -> None:
        super().__init__()
        self.pool = pool
        self.a, self.o = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.a(x))
        y = SIZES[self.pool](torch.cat([y[:, :8], y[:, 8:] * 0.5], 1))
        return self.o(y).sum((2, 3))


@pytest.mark.parametrize("samples", [1, 2, 4])
@pytest.mark.parametrize("pool", SIZES)
def test_the_smaller_network_serves_every_size(pool: str, samples: int) -> None:
    torch.manual_seed(0)
    model = Sliced(pool).double().eval()
    with torch.no_grad():
        model.o.weight[:, [1, 2, 3, 9]] = 0
    lean = shrink(model, torch.randn(samples, 3, 16, 16).double())
    for shape in ((2, 16, 16), (4, 32, 32), (1, 24, 40)):
        x = torch.randn(shape[0], 3, *shape[1:]).double()
        assert torch.allclose(lean(x), model(x))


def test_a_size_that_becomes_a_number_keeps_named_channels_and_says_so() -> None:
    found = trace(Sliced("float"), torch.randn(2, 3, 16, 16))
    assert "a size is used as a number at" in found.written
    assert "test_shrinking_sizes.py" in found.written
    assert not trace(Sliced("halved"), torch.randn(2, 3, 16, 16)).written


class Branching(nn.Module):
    """Does more to large images, and names channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.o = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.a(x))[:, :8]
        if y.shape[2] > 20:
            y = 2 * y
        if y.shape[3] % 2:
            y = 3 * y
        return self.o(y)


def test_a_branch_on_sizes_is_not_taken_wrongly_in_a_generated_forward() -> None:
    torch.manual_seed(0)
    model = Branching().double().eval()
    with torch.no_grad():
        model.o.weight[:, 4:] = 0
    lean = shrink(model, torch.randn(2, 3, 16, 16).double())
    assert isinstance(lean, fx.GraphModule)
    x = torch.randn(3, 3, 18, 20).double()
    assert torch.allclose(lean(x), model(x))
    for shape in ((32, 32), (16, 17)):
        with pytest.raises(InputError, match="compare otherwise"):
            lean(torch.randn(2, 3, *shape).double())


class Shortcut(nn.Module):
    """A sum where the shapes allow it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.c = nn.Conv2d(inputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.c(x))
        return x + y if x.shape == y.shape else y


@pytest.mark.parametrize("left", [8, 7])
def test_a_branch_on_numbers_of_channels_stays_what_it_was(left: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Shortcut(3, 8), Shortcut(8, 8), Shortcut(8, 16), nn.Conv2d(16, 3, 1)).eval()
    with torch.no_grad():
        model[3].weight[:, left:] = 0
    x = torch.randn(2, 3, 8, 8)
    lean = shrink(model, x)
    assert isinstance(lean, fx.GraphModule) == (left == 8)
    assert lean.get_submodule("2.c").out_channels == left
    assert torch.allclose(lean(x), model(x), atol=1e-5)


def test_a_branch_on_numbers_of_channels_holds_them_where_no_forward_can_be_generated() -> None:
    class Numbered(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) / float(x.shape[2])

    model = Numbered(Shortcut(3, 8), Shortcut(8, 8), Shortcut(8, 16), nn.Conv2d(16, 3, 1)).eval()
    with torch.no_grad():
        model[3].weight[:, 8:] = 0
    x = torch.randn(2, 3, 8, 8)
    made = plan(model, x)
    assert made.after.parameters == made.before.parameters
    assert any("their number is compared at" in row.reason for row in made.rows)
    assert torch.allclose(shrink(model, x)(x), model(x), atol=1e-5)


class Counting(nn.Module):
    """Writes into buffers and attributes as it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("runs", torch.zeros(()))
        self.c, self.n, self.o = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 3, 1)
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        y = self.c(x) if self.last is None else self.c(x) + 0 * self.last
        self.last = y
        n = self.n
        return self.o(F.relu(F.batch_norm(y, n.running_mean, n.running_var, n.weight, n.bias, training=True)))


def test_neither_tracing_nor_shrinking_changes_the_model() -> None:
    model = Counting().eval()
    with torch.no_grad():
        model.c.weight[2] = 0
        model.n.running_mean.fill_(0.5)
        model.n.bias.fill_(0.7)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    x = torch.randn(2, 3, 8, 8)
    trace(model, x)
    lean = shrink(model, x)
    assert all(torch.equal(before[name], one) for name, one in model.state_dict().items())
    assert model.last is None
    assert lean.get_submodule("c").out_channels == 7  # the constant is the batch's, not the running statistics'
    model(torch.randn(3, 3, 8, 8))


class Again(nn.Module):
    """A layer that is called twice, and one that no output depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.u, self.o = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        self.u(x)
        return self.o(x + self.b(self.b(x)))


@pytest.mark.parametrize(("layer", "gather"), [("b", True), ("o", False)])
def test_the_plan_counts_the_parameters_of_the_network(layer: str, gather: bool) -> None:
    torch.manual_seed(0)
    model = Again().eval()
    with torch.no_grad():
        for name in {layer, "b"}:
            model.get_submodule(name).weight[:, 4:] = 0
    x = torch.randn(2, 4)
    made = plan(model, x, gather=gather)
    lean = shrink(model, x, gather=gather)
    assert made.after.parameters == sum(one.numel() for one in lean.parameters())


def swish(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(x)


def test_a_scripted_function_does_not_sever_the_graph() -> None:
    with pytest.warns(DeprecationWarning, match="script"):
        function = torch.jit.script(swish)

    class Scripted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.o = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            return self.o(function(y) + self.b(y))

    torch.manual_seed(0)
    model = Scripted().eval()
    with torch.no_grad():
        model.b.weight[:, 2:] = 0
        model.o.weight[:, :3] = 0
    x = torch.randn(2, 3, 8, 8)
    lean = shrink(model, x)
    assert torch.allclose(lean(x), model(x), atol=1e-5)


def test_what_torch_compiled_is_refused_in_words() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 3, 1)).eval(), torch.randn(2, 3, 4, 4)
    with pytest.warns(DeprecationWarning, match="script"):
        scripted = torch.jit.script(model)
    for one in (scripted, nn.Sequential(scripted), torch.export.export(model, (x,)).module()):
        with pytest.raises(InputError, match="Pass the module it was made from"):
            trace(one, x)


class Padded(nn.Module):
    """Masks padding, where there is any, and names channels."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.a, self.o = nn.Embedding(10, 8), nn.Linear(8, 16), nn.Linear(8, 3)
        self.p = nn.Linear(8, 8)

    def forward(self, ids: Tensor) -> Tensor:
        y = F.relu(self.a(self.e(ids)))[..., :8]
        if (ids == 0).any():
            y = self.p(y.masked_fill((ids == 0)[..., None], 0.0))
        return self.o(y.mean(1))


def test_a_branch_on_values_of_an_input_is_not_written_down() -> None:
    torch.manual_seed(0)
    model = Padded().double().eval()
    with torch.no_grad():
        model.o.weight[:, 4:] = 0
    ids = torch.tensor([[1, 2, 3, 4, 5, 6]])
    made, lean = plan(model, ids), shrink(model, ids)
    assert "values of an input are read at" in made.graph.written
    assert "Not called on this example, so that they stay as they are: p." in made.describe()
    for one in (ids, torch.tensor([[1, 2, 3, 0, 0, 0]])):
        assert torch.allclose(lean(one), model(one))


@pytest.mark.parametrize("norm", [nn.InstanceNorm2d(8), nn.BatchNorm2d(8, affine=False, track_running_stats=False)])
def test_a_norm_without_tensors_knows_its_number(norm: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.Conv2d(8, 3, 1)).eval()
    with torch.no_grad():
        model[3].weight[:, 4:] = 0
    lean = shrink(model, torch.randn(2, 3, 8, 8))
    assert lean.get_submodule("1").num_features == 4


class Mixing(nn.Module):
    """A linear layer over positions, another over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.t, self.c, self.o = nn.Linear(3, 8), nn.Linear(5, 6), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.a(x))
        y = self.t(y.transpose(1, 2)).transpose(1, 2)
        return self.o(F.relu(self.c(y)).mean(1))


def test_positions_that_are_channels_are_counted_as_they_are_left() -> None:
    torch.manual_seed(0)
    model, x = Mixing().eval(), torch.randn(2, 5, 3)
    with torch.no_grad():
        model.c.weight[:, 3:] = 0
    made = plan(model, x)
    assert made.after.macs < made.before.macs
    assert made.after.macs == trace(shrink(model, x), x).dense().macs


def test_unfold_takes_its_arguments_by_name() -> None:
    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.o = nn.Conv2d(3, 8, 1), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.o(self.a(x).unfold(dimension=2, size=2, step=2).mean((2, 3, 4)))

    assert trace(Windows(), torch.randn(2, 3, 8, 8)).num_groups == 8


def test_an_attention_without_heads_is_traced_again() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), nn.Linear(16, 3))
    x = torch.randn(2, 5, 8)
    with torch.no_grad():
        model.eval()[1].self_attn.out_proj.weight.zero_()
    lean = shrink(model, x, dead="fold")
    assert trace(lean, x).num_groups > 0


class Watched(nn.Module):
    """Puts a hook in place when it is first called, and notes that it has."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.hooked, self.calls = nn.Linear(4, 4), False, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if not self.hooked:
            self.inner.register_forward_hook(lambda *_: None)
            self.hooked = True
        return self.inner(x)


def test_a_trace_keeps_a_note_that_hooks_are_in_place() -> None:
    model = Watched()
    for _ in range(2):
        trace(model, torch.zeros(2, 4))
    assert len(model.inner._forward_hooks) == 1
    assert model.calls == 0
