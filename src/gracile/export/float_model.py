"""From a module to a float32 ONNX graph with a free batch size."""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any

import torch
from torch import Tensor, nn

from gracile.core.errors import InputError, NonFiniteError
from gracile.core.outputs import opened_up, tensors_in
from gracile.export.errors import ExportError, need
from gracile.export.samples import Inputs
from gracile.export.sessions import first_line


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients, every module's own mode restored."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


class Flat(nn.Module):
    """A model whose outputs are a tuple of tensors, whatever they are put into, and whose inputs go by position."""

    def __init__(self, model: nn.Module, names: tuple[str, ...] | None) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        if self.names is None:
            return tuple(tensors_in(self.model(*inputs)))
        return tuple(tensors_in(self.model(**dict(zip(self.names, inputs, strict=True)))))


def answer(model: nn.Module, inputs: Inputs) -> Any:
    """What the model gives in evaluation, in whatever it puts it."""
    with evaluating(model):
        if inputs.by_name:
            return model(**dict(zip(inputs.names, inputs.tensors, strict=True)))
        return model(*inputs.tensors)


def output_names(result: Any, taken: tuple[str, ...]) -> list[str]:
    """Names of an output's tensors: those of its dictionary or dataclass, where they are one tensor each, else by number.

    Args:
        result: what the model gave.
        taken: names of the inputs, which a file cannot give to an output as well.
    """
    parts = opened_up(result)
    if isinstance(parts, Mapping):
        parts = {str(name): tensors_in(one) for name, one in parts.items()}
        names = [name for name, held in parts.items() if held]
        if all(len(held) < 2 for held in parts.values()) and not set(names) & set(taken):
            return names
    return ["output" if not number else f"output_{number}" for number in range(len(tensors_in(result)))]


def in_single_precision(model: nn.Module) -> nn.Module:
    """The model itself, or a copy in float32 where it is in half precision.

    The runtime has no bfloat16 layers on processors, and float32 holds every number of either half precision exactly.
    """
    half = any(one.dtype in (torch.bfloat16, torch.float16) for one in (*model.parameters(), *model.buffers()))
    return copy.deepcopy(model).float() if half else model


def on_cpu(model: nn.Module) -> nn.Module:
    """The model itself if it lives on the CPU, else a copy there."""
    tensors = [*model.parameters(), *model.buffers()]
    return model if all(tensor.device.type == "cpu" for tensor in tensors) else copy.deepcopy(model).cpu()


def outputs(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """What the model gives for a batch.

    Raises:
        InputError: it does not take the batch, or gives something other than tensors.
        NonFiniteError: outputs are not finite.
    """
    try:
        result = answer(model, inputs)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        shapes = ", ".join(str(tuple(one.shape)) for one in inputs.tensors)
        raise InputError(
            f"The model does not take inputs of shape {shapes}: {first_line(error)}.",
            "Give an example batch of the shape it was built for.",
        ) from error
    found = tensors_in(result)
    if not found:
        raise InputError(
            f"The model returns {type(result).__name__}, which holds no tensor.",
            "Wrap it in a module that returns tensors, or lists, dictionaries or dataclasses of them.",
        )
    if not all(bool(torch.isfinite(one).all()) for one in found if one.is_floating_point()):
        raise NonFiniteError("The model's outputs are not finite.", "Mend its weights before exporting.")
    return found


def to_onnx(model: nn.Module, examples: Inputs, opset: int) -> Any:
    """The model as an ``onnx.ModelProto``.

    Args:
        model: on the CPU, in any mode.
        examples: one batch of inputs.
        opset: of the standard operators.

    Raises:
        ExportError: the exporter cannot follow the model.
        MissingDependencyError: onnx or onnxscript is not installed.
    """
    onnx = need("onnx")
    need("onnxscript")
    # A batch of one would be taken for a constant.
    pairs = examples.map(lambda one: torch.cat([one[:1], one[:1]]))
    outputs(model, pairs)
    result = answer(model, pairs)
    plain = not pairs.by_name and isinstance(result, Tensor | tuple)
    network = model if plain else Flat(model, pairs.names if pairs.by_name else None).train(model.training)
    free = tuple({0: torch.export.Dim("batch")} for _ in pairs.tensors)
    try:
        # Deprecations inside torch and prints of its progress are no concern of the caller.
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), _silent(), evaluating(network):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network,
                pairs.tensors,
                dynamo=True,
                dynamic_shapes=free if plain else (free,),
                opset_version=opset,
                verbose=False,
                input_names=pairs.names,
                output_names=output_names(result, pairs.names),
            )
        assert program is not None
        proto = program.model_proto
    except Exception as error:  # whatever an exporter meets in foreign code
        raise ExportError(
            f"The model cannot be exported to ONNX with a free batch size: {_reason(error)}.",
            "Replace what is named by operations torch.export can follow: no branches on values, no fixed batch sizes.",
        ) from error
    _strip(proto)
    found = next(one.version for one in proto.opset_import if one.domain in ("", "ai.onnx"))
    if found != opset:
        raise ExportError(
            f"The exporter wrote opset {found} where {opset} was asked for.", f"Pass opset={found}, or leave it out."
        )
    onnx.checker.check_model(proto, full_check=True)
    return proto


@contextmanager
def _silent() -> Iterator[None]:
    """The exporter warns of every operator of torchvision where that is not installed, and of every constant it does not fold."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx._internal.exporter._registration", "onnxscript")]
    levels = [one.level for one in loggers]
    try:
        for one in loggers:
            one.setLevel(logging.ERROR)
        yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)


def _reason(error: BaseException) -> str:
    """The innermost cause that says something: the exporter wraps it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


def _strip(proto: Any) -> None:
    """Leave out the exporter's notes: stack traces with the author's paths, larger than a lean network's own graph."""
    for place in (proto.graph, *proto.graph.node, *proto.graph.value_info, *proto.graph.input, *proto.graph.output,
                  *proto.graph.initializer):  # fmt: skip
        del place.metadata_props[:]
        place.doc_string = ""
    del proto.metadata_props[:]
    for function in proto.functions:
        for node in function.node:
            del node.metadata_props[:]
