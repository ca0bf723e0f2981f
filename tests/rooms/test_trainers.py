"""The hook in everybody's loop: what the optimiser reads is the plain twin's ``grad + beta (w - u)``, or there is an error."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, TensorDataset

from gracile import RGSM, RVSM
from gracile.core.errors import GracileError, InputError
from gracile.pruning import ADMM
from gracile.splitting import Dial
from tests.peers import peer

LAM, BETA, STEPS, RHO = 0.02, 0.5, 3, 0.05
Seen = list[tuple[dict[str, Tensor], dict[str, Tensor]]]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def batch() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    return torch.randn(8, 6, generator=random), torch.randint(3, (8,), generator=random)


def loss_of(model: nn.Module) -> Tensor:
    x, y = batch()
    first = next(model.parameters())
    return nn.functional.cross_entropy(model(x.to(first.dtype)), y)


def plain_gradient(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    model = network().to(next(iter(weights.values())).dtype)
    model.load_state_dict(weights)
    loss_of(model).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def sharpness_aware_gradient(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    ascent = plain_gradient(weights)
    norm = torch.stack([g.norm() for g in ascent.values()]).norm()
    return plain_gradient({name: w + RHO * ascent[name] / norm for name, w in weights.items()})


def coupling(w: Tensor) -> Tensor:
    """``beta (w - u)`` for l1, written plainly."""
    return BETA * (w - w.sign() * (w.abs() - LAM / BETA).clamp(min=0))


def probed(kind: type[torch.optim.Optimizer], seen: Seen, names: dict[int, str]) -> type[torch.optim.Optimizer]:
    """The optimiser, which also notes each step's weights and the gradients it reads.

    It calls the step it inherits, which runs hooks of its own: the term must not join twice.
    """

    class Probe(kind):
        def step(self, closure=None):  # pyright: ignore[reportIncompatibleMethodOverride]
            loss = None
            if closure is not None:
                with torch.enable_grad():
                    loss = closure()
            scale = getattr(self, "grad_scale", None)
            weights, gradients = {}, {}
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        name = names[id(parameter)]
                        weights[name] = parameter.detach().clone()
                        gradients[name] = parameter.grad / (1.0 if scale is None else scale)
            seen.append((weights, gradients))
            super().step()
            return loss

    return Probe


def names_of(model: nn.Module) -> dict[int, str]:
    return {id(parameter): name for name, parameter in model.named_parameters()}


def split_of(model: nn.Module) -> RVSM:
    return RVSM(model, "l1", lam=LAM, beta=BETA)


# The trainers: each trains `model` for STEPS steps with the splitting attached, and returns what the optimiser read.


def by_hand(kind: Callable[..., Any] = torch.optim.SGD, **settings: Any) -> Callable[[nn.Module], Seen]:
    def run(model: nn.Module) -> Seen:
        seen: Seen = []
        settings.setdefault("lr", 0.1)
        # One of the same kind was there before, so that its class already runs hooks.
        kind([torch.zeros(1, requires_grad=True)], **settings)
        optimizer = probed(kind, seen, names_of(model))(model.parameters(), **settings)
        split_of(model).attach(optimizer)
        if hasattr(optimizer, "train"):
            optimizer.train()
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss_of(model).backward()
            optimizer.step()
        return seen

    return run


def closure(model: nn.Module) -> Seen:
    seen: Seen = []
    optimizer = probed(torch.optim.SGD, seen, names_of(model))(model.parameters(), lr=0.1)
    split_of(model).attach(optimizer)

    def compute() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    for number in range(STEPS):
        optimizer.step(compute) if number % 2 else optimizer.step(closure=compute)
    return seen


def compiled_step(model: nn.Module) -> Seen:
    seen: Seen = []
    optimizer = probed(torch.optim.SGD, seen, names_of(model))(model.parameters(), lr=0.1)
    split_of(model).attach(optimizer)
    step = torch.compile(optimizer.step, backend="eager")
    with warnings.catch_warnings():
        # Of the compiler's own modules, as they are imported.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss_of(model).backward()
            step()
    return seen


def scaled(model: nn.Module, *, fused: bool = False, unscale: bool = False) -> Seen:
    seen: Seen = []
    optimizer = probed(torch.optim.SGD, seen, names_of(model))(model.parameters(), lr=0.1, fused=fused)
    split_of(model).attach(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
    for _ in range(STEPS):
        optimizer.zero_grad()
        scaler.scale(loss_of(model)).backward()
        if unscale:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
    return seen


def scaled_by_keyword(model: nn.Module) -> Seen:
    seen: Seen = []
    names = names_of(model)

    class Keyword(torch.optim.SGD):
        _step_supports_amp_scaling = True

        def step(self, closure=None, *, grad_scaler=None):
            grad_scaler.unscale_(self)
            own = [p for group in self.param_groups for p in group["params"]]
            seen.append(({names[id(p)]: p.detach().clone() for p in own}, {names[id(p)]: p.grad.clone() for p in own}))
            return super().step(closure)

    optimizer = Keyword(model.parameters(), lr=0.1)
    split_of(model).attach(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "GradScaler is going to stop passing itself", FutureWarning)
        for _ in range(STEPS):
            optimizer.zero_grad()
            scaler.scale(loss_of(model)).backward()
            scaler.step(optimizer)
            scaler.update()
    return seen


def two_optimizers(model: nn.Module) -> Seen:
    seen: Seen = []
    probe = probed(torch.optim.SGD, seen, names_of(model))
    both = [probe(model[0].parameters(), lr=0.1), probe(model[2].parameters(), lr=0.1)]
    split_of(model).attach(*both)
    for _ in range(STEPS):
        for optimizer in both:
            optimizer.zero_grad()
        loss_of(model).backward()
        for optimizer in both:
            optimizer.step()
    # One row a step, of both.
    return [({**a[0], **b[0]}, {**a[1], **b[1]}) for a, b in zip(seen[::2], seen[1::2], strict=True)]


def one_a_parameter(model: nn.Module) -> Seen:
    """Steps within the backward pass, as saves memory."""
    seen: Seen = []
    probe = probed(torch.optim.SGD, seen, names_of(model))
    each = {parameter: probe([parameter], lr=0.1) for parameter in model.parameters()}
    split_of(model).attach(*each.values())
    for parameter, optimizer in each.items():

        def step(p: Tensor, optimizer=optimizer) -> None:
            optimizer.step()
            optimizer.zero_grad()

        parameter.register_post_accumulate_grad_hook(step)
    for _ in range(STEPS):
        loss_of(model).backward()
    count = len(each)
    rows = [seen[start : start + count] for start in range(0, len(seen), count)]
    return [tuple({k: v for part in row for k, v in part[side].items()} for side in (0, 1)) for row in rows]


class SAM(torch.optim.Optimizer):
    """As its authors and most copies have it: the base optimiser steps inside."""

    def __init__(self, params, base, **settings):
        super().__init__(params, {"rho": RHO, **settings})
        self.base_optimizer = base(self.param_groups, **settings)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self):
        own = [p for group in self.param_groups for p in group["params"]]
        norm = torch.stack([p.grad.norm() for p in own]).norm()
        for p in own:
            self.state[p]["old"] = p.clone()
            p.add_(p.grad, alpha=float(RHO / norm))
        self.zero_grad()

    @torch.no_grad()
    def second_step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.copy_(self.state[p]["old"])
        self.base_optimizer.step()
        self.zero_grad()


def sharpness_aware(model: nn.Module) -> Seen:
    seen: Seen = []
    optimizer = SAM(model.parameters(), probed(torch.optim.SGD, seen, names_of(model)), lr=0.1)
    split_of(model).attach(optimizer)
    for _ in range(STEPS):
        loss_of(model).backward()
        optimizer.first_step()
        loss_of(model).backward()
        optimizer.second_step()
    return seen


class Lookahead(torch.optim.Optimizer):
    """Without a call of its base's __init__, as most copies have it."""

    def __init__(self, optimizer):
        self.optimizer, self.param_groups = optimizer, optimizer.param_groups
        self.slow = [p.detach().clone() for group in self.param_groups for p in group["params"]]

    def zero_grad(self, set_to_none=True):
        self.optimizer.zero_grad(set_to_none)

    def step(self, closure=None):
        loss = self.optimizer.step(closure)
        own = [p for group in self.param_groups for p in group["params"]]
        with torch.no_grad():
            for slow, fast in zip(self.slow, own, strict=True):
                slow.lerp_(fast, 0.5)
                fast.copy_(slow)
        return loss


def lookahead(model: nn.Module) -> Seen:
    seen: Seen = []
    optimizer = Lookahead(probed(torch.optim.SGD, seen, names_of(model))(model.parameters(), lr=0.1))
    split_of(model).attach(optimizer)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
    return seen


def schedule_free(model: nn.Module) -> Seen:
    return by_hand(peer("schedulefree").AdamWScheduleFree, lr=0.01)(model)


def accelerated(model: nn.Module) -> Seen:
    accelerator = peer("accelerate").Accelerator(cpu=True)
    seen: Seen = []
    optimizer = probed(torch.optim.SGD, seen, names_of(model))(model.parameters(), lr=0.1)
    _, wrapped = accelerator.prepare(model, optimizer)
    split_of(model).attach(wrapped)
    for _ in range(STEPS):
        wrapped.zero_grad()
        accelerator.backward(loss_of(model))
        wrapped.step()
    return seen


def fabric(model: nn.Module) -> Seen:
    runner = peer("lightning.fabric").Fabric(accelerator="cpu", devices=1)
    seen: Seen = []
    probe = probed(torch.optim.SGD, seen, names_of(model))
    forward, optimizer = runner.setup(model, probe(model.parameters(), lr=0.1))
    split_of(model).attach(optimizer)
    for _ in range(STEPS):
        optimizer.zero_grad()
        runner.backward(loss_of(forward))
        optimizer.step()
    return seen


def lightning(model: nn.Module, **settings: Any) -> Seen:
    library = peer("lightning.pytorch")
    from gracile.integrations.lightning import SparseCallback

    seen: Seen = []

    class Module(library.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = model

        def training_step(self, batch, number):
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return probed(torch.optim.SGD, seen, names_of(model))(self.parameters(), lr=0.1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice on workers and logging
        trainer = library.Trainer(
            max_epochs=STEPS, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[SparseCallback(lambda module, steps: split_of(module.net))], **settings,
        )  # fmt: skip
        trainer.fit(Module(), DataLoader(TensorDataset(*batch()), 8))
    return seen


def transformers(model: nn.Module) -> Seen:
    peer("accelerate")
    peer("transformers.trainer")
    library = peer("transformers")
    from gracile.integrations.transformers import SparseCallback

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = model

        def forward(self, x, labels=None):
            return {"loss": nn.functional.cross_entropy(self.net(x), labels)}

    seen: Seen = []
    x, y = batch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pinned memory without a GPU
        args = library.TrainingArguments(
            num_train_epochs=STEPS, per_device_train_batch_size=8, save_strategy="no", logging_strategy="no", report_to=[],
            disable_tqdm=True, use_cpu=True, max_grad_norm=0.0,
        )  # fmt: skip
        optimizer = probed(torch.optim.SGD, seen, names_of(model))(model.parameters(), lr=0.1)
        library.Trainer(
            Classifier(), args, train_dataset=[{"x": a, "labels": b} for a, b in zip(x, y, strict=True)],
            optimizers=(optimizer, None), callbacks=[SparseCallback(lambda whole, steps: split_of(whole.net))],
        ).train()  # fmt: skip
    return seen


TRAINERS: dict[str, Callable[[nn.Module], Seen]] = {
    "sgd": by_hand(momentum=0.9, weight_decay=1e-3),
    "adamw, foreach": by_hand(torch.optim.AdamW, foreach=True, lr=0.01),
    "adam, fused": by_hand(torch.optim.Adam, fused=True, lr=0.01),
    "rmsprop": by_hand(torch.optim.RMSprop, lr=0.01),
    "closure": closure,
    "compiled step": compiled_step,
    "scaler": scaled,
    "scaler, fused": lambda model: scaled(model, fused=True),
    "scaler by keyword": scaled_by_keyword,
    "scaler, unscaled before": lambda model: scaled(model, unscale=True),
    "scaler, fused, unscaled before": lambda model: scaled(model, fused=True, unscale=True),
    "two optimisers": two_optimizers,
    "one optimiser a parameter": one_a_parameter,
    "sharpness-aware": sharpness_aware,
    "lookahead": lookahead,
    "schedule-free": schedule_free,
    "accelerate": accelerated,
    "fabric": fabric,
    "lightning": lightning,
    "lightning, accumulating": lambda model: lightning(model, accumulate_grad_batches=1, gradient_clip_val=1e9),
    "transformers": transformers,
}


@pytest.mark.parametrize("name", TRAINERS)
def test_the_optimiser_reads_the_gradient_of_the_plain_twin(name: str, capsys):
    seen = TRAINERS[name](network())
    assert len(seen) == STEPS
    gradient = sharpness_aware_gradient if name == "sharpness-aware" else plain_gradient
    for weights, gradients in seen:
        plain = gradient(weights)
        for key, w in weights.items():
            expected = plain[key] + coupling(w) if key.endswith("weight") else plain[key]
            torch.testing.assert_close(gradients[key], expected, rtol=1e-5, atol=1e-6)
            if key.endswith("weight"):
                assert coupling(w).abs().max() > 1e-3


# Wrappers that cannot be hooked say so.


class Foreign:
    """No optimiser of torch's."""

    def __init__(self, params) -> None:
        self.param_groups = [{"params": list(params), "lr": 0.1}]

    def step(self) -> None:
        pass


class Sealed(torch.optim.SGD):
    """Sharpness-aware without an optimiser inside."""

    def first_step(self) -> None:
        pass

    def second_step(self) -> None:
        pass


def wrapper(model: nn.Module) -> Any:
    return peer("schedulefree").ScheduleFreeWrapper(torch.optim.SGD(model.parameters(), lr=0.1))


def engine(model: nn.Module) -> Any:
    """As DeepSpeed has it: the optimiser within never steps on its own."""

    class Engine(Foreign):
        __module__ = "deepspeed.runtime.zero"

    inside = Engine(model.parameters())
    inside.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return inside


def overlapped(model: nn.Module) -> Any:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer._overlap_with_ddp = True
    return optimizer


@pytest.mark.parametrize(("build", "message"), [
    (wrapper, "ScheduleFreeWrapper evaluates gradients at other weights.*AdamWScheduleFree"),
    (lambda model: Foreign(model.parameters()), "Foreign is not an optimiser"),
    (lambda model: Sealed(model.parameters(), lr=0.1), "first_step and second_step"),
    (engine, "Engine is not an optimiser"),
    (overlapped, "overlap_with_ddp=False"),
])  # fmt: skip
@pytest.mark.parametrize("method", [split_of, lambda model: ADMM(model, steps=3)], ids=["splitting", "pruning"])
def test_what_cannot_be_hooked_is_refused(build, message: str, method):
    model = network()
    with pytest.raises(InputError, match=message):
        method(model).attach(build(model))


def test_a_scaler_whose_scale_cannot_be_read_is_refused():
    class Opaque:
        pass

    class Keyword(torch.optim.SGD):
        def step(self, closure=None, *, grad_scaler=None):
            return super().step(closure)

    model = network()
    optimizer = Keyword(model.parameters(), lr=0.1)
    split_of(model).attach(optimizer)
    loss_of(model).backward()
    with pytest.raises(InputError, match="Opaque scales the gradients by a factor that cannot be read"):
        optimizer.step(grad_scaler=Opaque())


# The law: whatever was done to model, optimiser and splitting, the step takes the term in or there is an error.


def assigned(model, optimizer, split):
    model.load_state_dict({name: t.clone() for name, t in model.state_dict().items()}, assign=True)
    return model, optimizer, split


def assigned_anew(model, optimizer, split):
    assigned(model, optimizer, split)
    optimizer.param_groups[0]["params"] = list(model.parameters())
    return model, optimizer, split


def new_head(model, optimizer, split):
    model[2] = nn.Linear(8, 3)
    return model, optimizer, split


def new_head_trained(model, optimizer, split):
    model[2] = nn.Linear(8, 3)
    optimizer.add_param_group({"params": list(model[2].parameters())})
    return model, optimizer, split


def wider_head_trained(model, optimizer, split):
    model[2] = nn.Linear(8, 5)
    optimizer.add_param_group({"params": list(model[2].parameters())})
    return model, optimizer, split


def weight_normed(model, optimizer, split):
    nn.utils.parametrizations.weight_norm(model[0])
    return model, optimizer, split


CONSTRUCTIONS: dict[str, Callable[..., tuple[Any, Any, Any]]] = {
    "untouched": lambda *three: three,
    "assigned": assigned,
    "assigned, optimiser told": assigned_anew,
    "new head": new_head,
    "new head, optimiser told": new_head_trained,
    "wider head, optimiser told": wider_head_trained,
    "weight norm": weight_normed,
    "copied": lambda *three: copy.deepcopy(three),
    "copied the other way round": lambda m, o, s: tuple(reversed(copy.deepcopy((s, o, m)))),
    "copied twice": lambda *three: copy.deepcopy(copy.deepcopy(three)),
    "pickled": lambda *three: pickle.loads(pickle.dumps(three)),
    "half": lambda m, o, s: (m.half(), o, s),
    "bfloat16": lambda m, o, s: (m.bfloat16(), o, s),
    "double": lambda m, o, s: (m.double(), o, s),
    "compiled": lambda m, o, s: (torch.compile(m, backend="eager"), o, s),
    "restored optimiser": lambda m, o, s: (m, o, s, o.load_state_dict(o.state_dict()))[:3],
    "attached to a copy": lambda m, o, s: (m, o, s),
}


def rgsm(model: nn.Module) -> RGSM:
    return RGSM(model, "group_lasso", lam=0.2, beta=BETA, layers="all", keep_last=False)


@pytest.mark.parametrize("build", [split_of, rgsm], ids=["rvsm", "rgsm"])
@pytest.mark.parametrize("name", CONSTRUCTIONS)
def test_no_construction_leaves_the_term_out_without_an_error(name: str, build):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    split = build(model)
    split.attach(optimizer)
    try:
        model, optimizer, split = CONSTRUCTIONS[name](model, optimizer, split)
        optimizer.zero_grad()
        loss_of(model).backward()
        before = {n: (p.detach().clone(), p.grad.clone()) for n, p in model.named_parameters()}
        u = {key: tensor.clone() for key, tensor in split.shadow().items()}
        optimizer.step()
    except GracileError:
        assert name in ("assigned", "new head", "wider head, optimiser told", "weight norm")
        return
    precision = next(model.parameters()).dtype
    tolerance = {torch.float16: 2e-3, torch.bfloat16: 1e-2}.get(precision, 1e-6)
    checked = 0
    for key, parameter in model.named_parameters():
        key = key.removeprefix("_orig_mod.")
        w, gradient = before[key] if key in before else before[f"_orig_mod.{key}"]
        term = BETA * (w - u[key]) if key in u else torch.zeros_like(w)
        torch.testing.assert_close(parameter.detach(), w - gradient - term, rtol=0, atol=tolerance)
        checked += bool(term.abs().max() > 5e-3)
    assert checked == 2


@pytest.mark.parametrize(
    "build", [split_of, lambda m: Dial(split_of(m), steps=100, sparsity=0.5)], ids=["splitting", "dial"]
)
def test_a_copy_goes_on_by_itself(build):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = build(model)
    method.attach(optimizer)
    copies = copy.deepcopy((model, optimizer, method))
    for m, o in ((model, optimizer), copies[:2]):
        for _ in range(8):
            o.zero_grad()
            loss_of(m).backward()
            o.step()
    assert copies[2].summary() == method.summary()
    for one, other in zip(model.parameters(), copies[0].parameters(), strict=True):
        assert one is not other
        assert torch.equal(one, other)


# Decoupled coupling.


def test_decoupled_coupling_leaves_frozen_and_idle_weights():
    model = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    RVSM(model, "l1", lam=LAM, beta=BETA, coupling="decoupled").attach(optimizer)
    model[1].weight.requires_grad_(False)
    before = [layer.weight.detach().clone() for layer in model]
    model[1](model[0](torch.ones(2, 4))).sum().backward()
    optimizer.step()
    moved = [not torch.equal(layer.weight, was) for layer, was in zip(model, before, strict=True)]
    assert moved == [True, False, False]


@pytest.mark.parametrize("keyword", [False, True])
def test_a_step_skipped_for_an_overflow_skips_the_decoupled_move(keyword: bool):
    class Keyword(torch.optim.SGD):
        _step_supports_amp_scaling = True

        def step(self, closure=None, *, grad_scaler=None):
            if not sum(found.item() for found in grad_scaler._check_inf_per_device(self).values()):
                super().step(closure)

    model = network()
    settings = {} if keyword else {"fused": True}
    optimizer = (Keyword if keyword else torch.optim.SGD)(model.parameters(), lr=0.1, **settings)
    RVSM(model, "l1", lam=LAM, beta=BETA, coupling="decoupled").attach(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    before = model[0].weight.detach().clone()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "GradScaler is going to stop passing itself", FutureWarning)
        for overflows in (True, False):
            optimizer.zero_grad()
            scaler.scale(loss_of(model)).backward()
            if overflows:
                model[2].bias.grad.fill_(torch.inf)
            scaler.step(optimizer)
            scaler.update()
            assert torch.equal(model[0].weight, before) == overflows


def test_decoupled_coupling_moves_at_the_gradient_also_in_a_closure():
    results = []
    for in_closure in (False, True):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        RVSM(model, "l1", lam=LAM, beta=BETA, coupling="decoupled").attach(optimizer)

        def compute(model=model, optimizer=optimizer) -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(model)
            loss.backward()
            return loss

        for _ in range(STEPS):
            if in_closure:
                optimizer.step(compute)
            else:
                compute()
                optimizer.step()
        results.append(model[0].weight.detach())
    torch.testing.assert_close(*results, rtol=0, atol=1e-7)


# Whose weights.


def test_the_sparse_model_is_of_the_weights_that_are_there():
    model = network()
    split = split_of(model)
    model.load_state_dict({name: t * 2 for name, t in model.state_dict().items()}, assign=True)
    u = split.sparse_model()[0].weight
    torch.testing.assert_close(u, model[0].weight - coupling(model[0].weight) / BETA)
    model[2] = nn.Linear(8, 7)
    assert split.sparse_model()[2].weight.shape == (7, 8)


def test_an_average_of_the_weights_takes_the_zeros_of_the_run():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    dial = Dial(split_of(model), steps=20, sparsity=0.6)
    dial.attach(optimizer)
    average = AveragedModel(model, use_buffers=False)
    for _ in range(20):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
        average.update_parameters(model)
    zeros = dial.summary().zeros
    assert sum(int((p == 0).sum()) for p in average.parameters()) == 0
    kept = average.module[0].weight.detach().clone()
    dial.apply_zeros_(average)
    assert sum(int((p == 0).sum()) for p in average.parameters()) == zeros > 0
    alive = average.module[0].weight != 0
    assert torch.equal(average.module[0].weight[alive], kept[alive])
    with pytest.raises(InputError, match="another shape"):
        dial.apply_zeros_(nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 3)))


def test_several_optimisers_count_one_step():
    model = network()
    both = [
        torch.optim.SGD(model[0].parameters(), lr=0.1, momentum=0.9),
        torch.optim.SGD(model[2].parameters(), lr=0.1),
    ]
    dial = Dial(split_of(model), steps=20, sparsity=0.6)
    dial.attach(*both)
    for _ in range(20):
        loss_of(model).backward()
        for optimizer in both:
            optimizer.step()
            optimizer.zero_grad()
    assert dial.step == 20
    assert dial.summary().sparsity == pytest.approx(0.6, abs=0.02)
    assert torch.equal(dial.sparse_model()[0].weight, model[0].weight)


def test_an_error_within_a_step_does_not_end_the_coupling():
    class Failing(torch.optim.SGD):
        fails = True

        def step(self, closure=None):
            if self.fails:
                raise RuntimeError("out of memory")
            return super().step(closure)

    model = network()
    optimizer = Failing(model.parameters(), lr=0.1)
    split_of(model).attach(optimizer)
    loss_of(model).backward()
    plain = model[0].weight.grad.clone()
    with pytest.raises(RuntimeError, match="out of memory"):
        optimizer.step()
    optimizer.zero_grad()
    loss_of(model).backward()
    optimizer.fails = False
    optimizer.step()
    torch.testing.assert_close(model[0].weight.grad, plain + coupling(network()[0].weight.detach()))


def test_sparse_gradients_are_refused_in_words():
    model = nn.Sequential(nn.Embedding(5, 4, sparse=True))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    split_of(model).attach(optimizer)
    model(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(InputError, match="sparse=False"):
        optimizer.step()


@pytest.fixture(autouse=True)
def _no_compiler_left() -> Iterator[None]:
    yield
    torch._dynamo.reset()
