"""A training script as small as can be, as the run's tests start it."""

import os
import time

import torch
from torch import nn
from torch.nn import functional as F

from nets.errors import BadSample
from nets.run import options
from nets.run.ema import EMA
from nets.run.loader import loader
from nets.run.precision import Precision
from nets.run.ranks import Ranks, closing
from nets.run.run import Run
from nets.run.update import Update


class Numbers(torch.utils.data.Dataset):
    """23 images that depend on (epoch, index) only."""

    def __init__(self, bad: int = -1, seconds: float = 0.0):
        self.bad, self.seconds = bad, seconds

    def __len__(self):
        return 23

    def __getitem__(self, place):
        epoch, index = place
        if index == self.bad:
            raise BadSample(f"image_{index}.png", "truncated")
        time.sleep(self.seconds)
        generator = torch.Generator().manual_seed(1000 * epoch + index)
        return {"x": torch.randn(3, 8, 8, generator=generator), "index": index}


class Net(nn.Sequential):
    """A forward of its own: torch.compile passes over torch's."""

    def forward(self, x):
        return super().forward(x)


def make_parser():
    parser = options.parser("toy", "Train a toy.")
    parser.add_argument("--steps", type=options.PositiveInt, default=20, help="steps")
    parser.add_argument("--batch_size", type=options.PositiveInt, default=4, help="a rank")
    parser.add_argument("--dropout", type=options.Fraction, default=0.5, help="probability")
    parser.add_argument("--sleep", type=float, default=0.0, help="seconds a step")
    parser.add_argument("--read_seconds", type=float, default=0.0, help="to read a sample")
    parser.add_argument("--width", type=int, default=8, help="channels")
    parser.add_argument("--bad", type=int, default=-1, help="index that cannot be read")
    parser.add_argument("--nan_at", type=list[int], default=[], help="steps of a NaN, last rank")
    parser.add_argument("--hang_at", type=int, default=-1, help="step at which the last one hangs")
    parser.add_argument(
        "--bad_gradient_at", type=list[int], default=[], help="steps of a NaN there"
    )
    parser.add_argument("--die_at", type=int, default=-1, help="step at which the last rank dies")
    return parser


@options.user_errors()
def main(argv=None):
    args = options.parse(make_parser(), argv)
    with closing(Ranks(args.device)) as ranks, Run("toy", args, ranks) as run:
        train(args, ranks, run)


def train(args, ranks, run):
    precision = Precision(args.precision, run.device, args.channels_last)
    data = loader(
        Numbers(args.bad, args.read_seconds), args.batch_size, ranks, workers=args.workers,
        seed=args.seed, on_bad_sample=args.on_bad_sample, accumulate=args.accumulate,
        report=run.print,
    )  # fmt: skip
    torch.manual_seed(args.seed)
    net = Net(
        nn.Conv2d(3, args.width, 3, padding=1), nn.Dropout(args.dropout), nn.ELU(),
        nn.Conv2d(args.width, 3, 1),
    )  # fmt: skip
    if args.compile:
        net.compile()
    model = ranks.wrap(precision.place(net))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    ema = EMA(model, args.ema) if args.ema else None
    run.resume(model=model, optimizer=optimizer, ema=ema, precision=precision)
    update = Update(run, precision, [optimizer], ema, args.accumulate)
    for step in run.steps(args.steps, images=data.samples_per_step):
        update.begin(1e-2)
        for _, batch in update.batches(data, step):
            with update.forward(model):
                loss = F.mse_loss(model(batch["x"]), batch["x"].flip(-1))
            if step in args.nan_at and ranks.rank == ranks.world_size - 1:
                loss = loss * float("nan")
            update.backward(loss, {"mse": loss})
        if step in args.bad_gradient_at and update.finite:
            optimizer.param_groups[0]["params"][0].grad[0] = float("inf")
        run.log(step, update.apply(), lr=1e-2)
        run.save(step)
        if step == args.die_at and ranks.rank == ranks.world_size - 1:
            os._exit(9)
        if step == args.hang_at and ranks.rank == ranks.world_size - 1:
            time.sleep(1000)
        time.sleep(args.sleep)
    run.image("sample", args.steps - 1, next(data.batches(args.steps))["x"])
    run.print(f"done {run.step}")


if __name__ == "__main__":
    main()
