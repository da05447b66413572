"""Low-precision training as in SWALP (Yang et al. 2019, arXiv 1904.11943), simulated in fp32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tune_swa.config import ArithmeticSpec
from tune_swa.seeds import derive_seed
from tune_swa.training.block_rounding import find_saturated, round_blocks
from tune_swa.training.plugin_networks import HEAD_MARK

ROUNDED_LAYERS = (
    nn.Conv2d,
    nn.Linear,
    nn.MultiheadAttention,
    *(nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU, nn.GELU),
)
"""Layers whose outputs are rounded, and the errors that come back to them: what the next layer reads. The
classifier's output goes into the loss as it is."""
ACCUMULATOR = "accumulator"
"""Key of the gradient accumulator in the optimizer's state of a parameter."""

Draw = Callable[[Tensor], Tensor | None]
"""Returns noise for a tensor, uniform in [0, 1); None: round to the nearest."""


class Arithmetic:
    """What a run computes with while it trains: block floating point, or without settings plain fp32.

    Outputs and errors are rounded inside `round_outputs`; gradients, gradient accumulators, weights and
    momentum by hooks of the optimizer's step. Averages and their evaluation stay fp32.

    Args:
        settings: bits and rounding; None: nothing is rounded.
        seed: of the run. The noise depends on it, on the epoch and on the purpose, and on nothing else.
        optimizer: torch's SGD over the parameters of the live model. The accumulators are in its state, so
            that checkpoints have them.
        device: of the model.
    """

    def __init__(
        self,
        settings: ArithmeticSpec | None,
        seed: int,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
    ) -> None:
        self._settings = settings
        self._seed = seed
        if settings is not None:
            self._generator = torch.Generator(device)
            draw = self._draw_noise if settings.rounding == "stochastic" else _draw_nothing
            self._rounding = StepRounding(settings.bits, draw, everywhere=device.type == "cuda")
            self._rounding.attach(optimizer)

    def seed_noise(self, epoch: int, purpose: str) -> None:
        """Begin the noise of an epoch's training or of an evaluation."""
        if self._settings is not None:
            self._generator.manual_seed(derive_seed(self._seed, epoch, "arithmetic", purpose))

    @contextmanager
    def round_outputs(self, model: nn.Module, noise: tuple[int, str] | None = None) -> Iterator[None]:
        """Round what the layers of `model` put out inside, and the errors that come back to that, also later.

        Args:
            model: its copies that are made outside have nothing of this.
            noise: epoch and purpose to begin the noise of, as `seed_noise` does; None: it goes on.
        """
        if self._settings is None:
            yield
            return
        if noise is not None:
            self.seed_noise(*noise)
        layers = [layer for layer in model.modules() if isinstance(layer, ROUNDED_LAYERS)]
        named = getattr(model, HEAD_MARK, None)
        head = model if named is None else model.get_submodule(named)
        classifier = [layer for layer in head.modules() if isinstance(layer, nn.Conv2d | nn.Linear)][-1:]
        layers = [layer for layer in layers if layer not in classifier]
        hooks = [layer.register_forward_hook(self._round_output) for layer in layers]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _round_output(self, layer: nn.Module, inputs: Any, output: Any) -> Any:
        if isinstance(layer, nn.MultiheadAttention):
            return (_RoundedOutput.apply(output[0], self._rounding), *output[1:])
        return _RoundedOutput.apply(output, self._rounding)

    def _draw_noise(self, values: Tensor) -> Tensor:
        return torch.empty_like(values).uniform_(generator=self._generator)


def _draw_nothing(values: Tensor) -> None:
    return None


class StepRounding:
    """Rounds the gradients before an optimizer's step, and its state and the weights after it.

    With Q for rounding, w for the weights, a for the accumulator, g for the gradient and m for the momentum:
    g <- Q(g); (a, m) <- SGD(a, m, g); a <- Q(a); w <- Q(a); m <- Q(m). The first a is the initial w.
    To round w once more, as the authors' code does, changes nothing: Q(Q(a)) holds no lowest number.

    Args:
        bits: of a number.
        draw: source of the noise.
        everywhere: round all blocks of a again for w, not only those that this changes. To know these, the
            host would have to wait for a GPU.
    """

    def __init__(self, bits: int, draw: Draw, *, everywhere: bool = False) -> None:
        self.bits = bits
        self.draw = draw
        self.everywhere = everywhere

    def round_tensor(self, values: Tensor) -> Tensor:
        """Return the rounded values in a new tensor."""
        return round_blocks(values, self.bits, self.draw(values))

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Have every step of the optimizer rounded."""
        optimizer.register_step_pre_hook(self._prepare_step)
        optimizer.register_step_post_hook(self._finish_step)

    @torch.no_grad()
    def _prepare_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for parameter in _list_stepped(optimizer):
            assert parameter.grad is not None
            parameter.grad = self.round_tensor(parameter.grad)
            state = optimizer.state[parameter]
            if ACCUMULATOR in state:
                parameter.copy_(state[ACCUMULATOR])

    @torch.no_grad()
    def _finish_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for parameter in _list_stepped(optimizer):
            state = optimizer.state[parameter]
            state[ACCUMULATOR] = self.round_tensor(parameter)
            parameter.copy_(self._round_again(state[ACCUMULATOR], parameter))
        for parameter in _list_stepped(optimizer):
            momentum = optimizer.state[parameter].get("momentum_buffer")
            if momentum is not None:
                momentum.copy_(self.round_tensor(momentum))

    def _round_again(self, rounded: Tensor, original: Tensor) -> Tensor:
        """Round what has been rounded once, which changes the blocks that hold the lowest number."""
        if self.everywhere:
            return self.round_tensor(rounded)
        saturated = find_saturated(rounded, original, self.bits)
        if not saturated.any():
            return rounded
        if rounded.dim() < 2:
            return self.round_tensor(rounded)
        again = rounded.clone()
        again[saturated] = self.round_tensor(rounded[saturated])
        return again


class _RoundedOutput(torch.autograd.Function):
    """Rounds a layer's output on the way forward, and its error on the way back."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, rounding: StepRounding) -> Tensor:
        ctx.rounding = rounding
        return rounding.round_tensor(output)

    @staticmethod
    def backward(ctx: Any, *errors: Tensor) -> tuple[Tensor, None]:
        return ctx.rounding.round_tensor(errors[0]), None


def _list_stepped(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """List the parameters that a step changes: a network of a plugin need not use all of them."""
    parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
    return [parameter for parameter in parameters if parameter.grad is not None]
