"""Runs a model under the recorder."""

from __future__ import annotations

import inspect
import linecache
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gracile.channels.calls import OUTERMOST, SKIPPED
from gracile.channels.recording import Recorder
from gracile.channels.records import Ledger
from gracile.channels.sizes import Attribute, Mode, Size
from gracile.core.errors import GracileError, InputError


def record(model: nn.Module, inputs: Sequence[Tensor], named: Mapping[str, Any], *, strict: bool) -> Recorder:
    """Run the model in evaluation on these inputs, and note what it does.

    Args:
        model: left as it is.
        inputs: batches of two samples.
        named: inputs by name.
        strict: refuse an operation without a rule instead of leaving its channels as they are.

    Raises:
        InputError: the model does not run on the inputs, or reads values that depend on them.
    """
    recorder = Recorder(model, Ledger(), strict)
    parameters = [
        name for name in inspect.signature(model.forward).parameters if name not in ("args", "kwargs", *named)
    ]
    modes = [(module, module.training) for module in recorder.modules]
    if any(training for _, training in modes):
        model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            for index, one in enumerate(inputs):
                recorder.placeholder(parameters[index] if index < len(parameters) else f"input_{index}", one)
            for name, one in named.items():
                recorder.placeholder(name, one)
            with unchanged(model), _noticed(recorder), recorder:
                result = model(*inputs, **named)
            recorder._paused = True
            recorder.output(result)
    except GracileError:
        raise
    except Exception as error:
        shapes = ", ".join(str(tuple(one.shape[1:])) for one in (*inputs, *named.values()))
        raise InputError(
            f"The model does not run on samples of shape {shapes}: {_error_line(error, recorder)}says "
            f"'{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}'.",
            "Pass an example as the model is trained on.",
        ) from error
    finally:
        recorder.tensors.forget()
        for module, training in modes:
            module.training = training
    return recorder


OUTERMOST.add(record.__code__)


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """What a forward writes into buffers and attributes of its modules (statistics, counters, hidden states) is undone at the end.

    Modules that find out their shapes when they are first called keep them, and so do attributes that each forward computes anew from
    parameters (as `torch.nn.utils.prune` does) and those that are neither numbers nor tensors, such as a note that hooks are in place;
    entries of dictionaries are not looked at.
    """
    states = [(module, type(module), dict(vars(module)), dict(module._buffers)) for module in model.modules()]
    buffers = [(one, one.detach().clone()) for one in model.buffers() if not is_lazy(one)]
    try:
        yield
    finally:
        for module, kind, attributes, kept in states:
            if type(module) is not kind:
                continue
            now = vars(module)
            for name, value in list(now.items()):
                before = attributes.get(name)
                if value is before or (isinstance(before, Tensor) and not before.is_leaf):
                    continue
                if name not in attributes:
                    if _holds_tensors(value) or isinstance(value, Size):
                        del now[name]
                elif _counts(before) or _holds_tensors(before) or _holds_tensors(value):
                    now[name] = before
            if any(module._buffers.get(name) is not one for name, one in kept.items()):
                module._buffers.update(kept)
        with torch.no_grad():
            # By what they hold, as statistics are written past torch's counting of versions.
            for one, before in buffers:
                if one.shape != before.shape:
                    one.data = before
                elif not torch.equal(one, before):
                    one.copy_(before)


def _counts(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool | Mode)


def _holds_tensors(value: object) -> bool:
    return isinstance(value, Tensor) or (
        isinstance(value, tuple | list) and bool(value) and all(isinstance(one, Tensor) for one in value)
    )


@contextmanager
def _noticed(recorder: Recorder) -> Iterator[None]:
    """Module calls pass through the recorder, and the modules' whole numbers know their names."""
    original = nn.Module.__call__

    def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return recorder.module(original, module, args, kwargs)

    scripted = torch.jit.ScriptFunction.__call__

    def call_scripted(function: Any, *args: Any, **kwargs: Any) -> Any:
        return recorder.scripted(scripted, function, args, kwargs)

    kept: list[tuple[nn.Module, str, int]] = []
    for module in recorder.modules:
        if isinstance(module, torch.jit.ScriptModule):
            continue
        for name, value in vars(module).items():
            if type(value) is int and value > 1:
                kept.append((module, name, value))
    for module, name, value in kept:
        module.__dict__[name] = Size(value, Attribute(recorder.modules[module], name, value), recorder.escaped)
    for module, name in recorder.modules.items():
        if recorder.is_opened(module):
            module.__dict__["training"] = Mode(name)  # what `record` finds there it puts back
    torch.jit.ScriptFunction.__call__ = call_scripted  # type: ignore[method-assign, assignment]
    nn.Module.__call__ = call  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.__call__ = original  # type: ignore[method-assign]
        torch.jit.ScriptFunction.__call__ = scripted
        for module, name, value in kept:
            if isinstance(module.__dict__.get(name), Size):
                module.__dict__[name] = value


def _error_line(error: BaseException, recorder: Recorder) -> str:
    trace, found, module = error.__traceback__, "", ""
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith(SKIPPED):
            found = f"{file}:{trace.tb_lineno} `{linecache.getline(file, trace.tb_lineno).strip()}` "
        owner = trace.tb_frame.f_locals.get("module")
        if isinstance(owner, nn.Module) and owner in recorder.modules and recorder.modules[owner]:
            module = f"The module '{recorder.modules[owner]}' "
        trace = trace.tb_next
    return module or found
