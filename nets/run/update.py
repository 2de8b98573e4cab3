"""One optimiser step, the same for every training script.

update = Update(run, precision, [optimizer], ema, args.accumulate)
for step in run.steps(total, images_per_step):
    update.begin(lr)
    for part, batch in update.batches(batches, step):
        with update.forward(model):
            loss, terms = ...
        update.backward(loss, terms)
    means = update.apply(clip=[net])
    run.log(step, means, lr=lr)
    ...
    with update.evaluating(net):
        scores = validate(...)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from nets.run.ema import EMA
from nets.run.guard import GRADIENT
from nets.run.loader import Loader
from nets.run.log import Window
from nets.run.precision import Precision
from nets.run.ranks import hold_gradients
from nets.run.run import Run


class Update:
    """Accumulate gradients, check that they are finite, clip them, step, and average the weights.

    finite  whether the losses of this step's batches so far, and at the end its gradients, are
            finite on all ranks; if not, the step is left out as --nan says
    """

    def __init__(
        self,
        run: Run,
        precision: Precision,
        optimizers: Sequence[Optimizer],
        ema: EMA | None = None,
        accumulate: int = 1,  # batches whose gradients are averaged into one step
        closures: Mapping[Optimizer, Callable[[Any], Tensor]] | None = None,  # batch -> loss, for
        # optimisers that evaluate the loss several times in a step; not in fp16
    ):
        self.run, self.precision, self.ema = run, precision, ema
        self.optimizers, self.accumulate = list(optimizers), accumulate
        self.closures = dict(closures or {})
        self.finite = True
        self._window = Window()
        self._part = 0
        self._batch: Any = None

    def begin(self, rates: float | Sequence[float]) -> None:
        """Start a step: set the learning rate, or one for each optimiser, and clear gradients.

        A group of parameters with a "factor" gets the rate times that.
        """
        each = [rates] * len(self.optimizers) if isinstance(rates, int | float) else rates
        for optimizer, rate in zip(self.optimizers, each, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("factor", 1.0)
            optimizer.zero_grad(set_to_none=True)
        self.finite, self._window = True, Window()

    def batches(self, loader: Loader, step: int) -> Iterator[tuple[int, Any]]:
        """The step's batches on the device, numbered from 0."""
        for part, batch in enumerate(loader.batches(step)):
            self._part, self._batch = part, batch
            yield part, batch

    @contextlib.contextmanager
    def forward(self, *models: nn.Module) -> Iterator[None]:
        """Run a batch's forward pass: autocast, and ranks average gradients in the last batch only.

        models  as `Ranks.wrap` returned them
        """
        with contextlib.ExitStack() as stack:
            for model in models:
                stack.enter_context(hold_gradients(model, self._part + 1 < self.accumulate))
            stack.enter_context(self.precision.autocast())
            yield

    def backward(self, losses: Tensor | Sequence[Tensor], terms: Mapping[str, Tensor]) -> None:
        """Add the gradients of a batch's loss, or losses, unless a term is not finite.

        terms  the loss and its parts by name, scalars for the log
        """
        self.finite = self.finite and self.run.check(dict(terms), self._batch)
        self._window.add(dict(terms))
        if self.finite:
            for loss in [losses] if isinstance(losses, Tensor) else losses:
                self.precision.backward(loss / self.accumulate)

    def apply(self, clip: Sequence[nn.Module] = (), max_norm: float = 1.0) -> dict[str, Tensor]:
        """Step the optimisers and the averages; return the terms' means over the step's batches.

        clip      networks whose gradients are scaled down to a norm of max_norm each
        returns   nothing if the step was left out
        """
        if self.finite:
            norm = self.precision.gradient_norm(*self.optimizers)
            self.finite = self.run.check({GRADIENT: norm}, self._batch)
        if not self.finite:
            return {}
        for net in clip:
            nn.utils.clip_grad_norm_(net.parameters(), max_norm)
        self.precision.step(*(o for o in self.optimizers if o not in self.closures))
        for optimizer, objective in self.closures.items():
            batch = self._batch
            # LBFGS takes a loss as a tensor, as its documentation shows.
            optimizer.step(partial(objective, batch))  # type: ignore[arg-type]
        if self.ema:
            self.ema.update()
        return self._window.means()

    @contextlib.contextmanager
    def evaluating(self, *nets: nn.Module) -> Iterator[None]:
        """Evaluation mode with averaged weights, if there are any, under autocast."""
        for net in nets:
            net.eval()
        averaged = self.ema.swapped() if self.ema else contextlib.nullcontext()
        with averaged, self.precision.autocast():
            yield
