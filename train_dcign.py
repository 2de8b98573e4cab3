"""Train a DC-IGN: an autoencoder of faces whose latents are azimuth, elevation, light, and shape.

    python train_dcign.py --config demo_dcign.yaml            a demo world, minutes on a CPU
    python train_dcign.py --no_load --name my_first_dcign --datasetdir DATASET
    python train_dcign.py --import NETWORK --name next --shape_bias --force_invariance
    python train_dcign.py --regime entangled --name plain     all latents equal, for comparison
    torchrun --nproc_per_node=8 train_dcign.py --datasetdir DATASET

Kulkarni, Whitney, Kohli, Tenenbaum, NIPS 2015. The same command goes on where it was stopped.
"""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn

from nets.data.scenes.batches import Drawn, Source, unit
from nets.dcign import (
    DCIGN,
    LIKELIHOODS,
    RMSprop,
    active_mask,
    build,
    demo_metrics,
    factor_slice,
    hold,
    invariance,
    kl_divergence,
    visuals,
)
from nets.dcign.data import open_batches
from nets.dcign.evaluate import summary, validate
from nets.dcign.latents import Latents
from nets.dcign.options import groups, parse, sets
from nets.dcign.warm_start import export, start_from
from nets.run import options
from nets.run.ema import EMA
from nets.run.loader import loader
from nets.run.log import Window
from nets.run.precision import Precision
from nets.run.ranks import Ranks, closing, hold_gradients
from nets.run.run import Run

TURNED = 160  # test images that are re-rendered at the end


class Objective(nn.Module):
    """What a step minimises: the negative lower bound, summed over the batch, of a held code."""

    def __init__(self, net: DCIGN, args: options.Namespace):
        super().__init__()
        self.net, self.args = net, args
        self.likelihood = LIKELIHOODS[args.likelihood]
        if args.regime == "entangled":
            owned = torch.ones(1, net.latents, dtype=torch.bool)
        else:
            slices = [factor_slice(groups(args), g.name, net.latents) for g in groups(args)]
            owned = torch.stack([active_mask(s, net.latents) for s in slices])
        self.register_buffer("owned", owned, persistent=False)

    def forward(
        self, image: Tensor, kind: Tensor, noise: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and what it is made of in nats an image.

        image  (N, 1, S, S) in [0, 1]; kind (1,) number of the type; noise (N, D) standard normal
        """
        args, active = self.args, self.owned[kind][0]
        heads = self.net.encode(image)
        held = [hold(head, active, args.clamp, args.gradient_filter) for head in heads]
        parameters = self.net.decode_parameters(self.net.sample(*held, noise))
        reconstruction = self.likelihood(parameters, image)
        kl = kl_divergence(*held)
        loss = reconstruction + kl
        terms = {
            "lower_bound": -loss,
            "reconstruction": reconstruction,
            "kl": kl,
            "kl_unclamped": kl_divergence(*heads),
        }
        if args.force_invariance:
            pull = sum(
                invariance(head, active, args.invariance_strength, args.invariance_sign)
                for head in heads
            )
            loss, terms["invariance"] = loss + pull, pull
        return loss, {name: term.detach() / len(image) for name, term in terms.items()}


class TypeMeans:
    """Mean lower bound of each type of batch since the last log line, of rank 0's batches."""

    def __init__(self, kinds: list[str], device: torch.device):
        self.kinds = kinds
        self.sums = torch.zeros(2, len(kinds), device=device)

    def add(self, kind: Tensor, bound: Tensor) -> None:
        self.sums.index_add_(1, kind, torch.stack([bound.float(), torch.ones_like(bound)])[:, None])

    def take(self) -> dict[str, float]:
        sums, counts = self.sums.tolist()
        self.sums.zero_()
        return {
            f"lower_bound_{k}": s / c for k, s, c in zip(self.kinds, sums, counts, strict=True) if c
        }

    def state_dict(self) -> dict[str, Tensor]:
        return {"sums": self.sums}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.sums.copy_(state["sums"])


def make_optimizer(args: options.Namespace, net: DCIGN) -> torch.optim.Optimizer:
    decays = (args.momentum_decay, args.update_decay)
    if args.optimizer == "rmsprop":
        return RMSprop(net.parameters(), args.learning_rate, *decays)
    betas = tuple(1 - decay for decay in decays)
    return torch.optim.Adam(net.parameters(), args.learning_rate, betas, fused=True)


def learning_rate(args: options.Namespace, step: int, total: int) -> float:
    """Level; over the last `warm_down` steps it falls linearly to 0."""
    left = (total - step) / args.warm_down if args.warm_down else 1.0
    return args.learning_rate * min(1.0, left)


def train(run: Run, args: options.Namespace, precision: Precision) -> None:
    source, unseen = (open_batches(args, sets(args), split) for split in ("train", "test"))
    bias = args.shape_bias_amount if args.shape_bias else 0
    data = Drawn(source, args.num_train_batches, args.seed, bias, args.order, args.shuffle)
    torch.manual_seed(args.seed)  # the same weights on every rank, in every start of this run
    net = precision.place(build(args))
    optimizer = make_optimizer(args, net)
    ema = EMA(net, args.ema) if args.ema else None
    types = TypeMeans(list(source.counts), run.device)
    batches_a_step = args.accumulate * run.world_size
    images_per_step = args.bsize * batches_a_step
    epoch = max(1, len(data) // batches_a_step)
    total = args.num_steps or args.epochs * epoch
    size = sum(p.numel() for p in net.parameters())
    counted = ", ".join(f"{count} {kind}" for kind, count in source.counts.items())
    run.print(
        f"training a DC-IGN ({args.regime}, {size:,} parameters) on {source.name}: batches of "
        f"{args.bsize} ({counted}), {total} steps of {images_per_step} images of "
        f"{args.image_size} px, on {run.device} in {precision.name} ({precision.reason}); "
        f"run folder {run.folder}"
    )
    parts = {"model": net, "optimizer": optimizer, "ema": ema, "precision": precision}
    if not run.resume(**parts, types=types) and args["import"] and not args.no_load:
        start_from(run, args, net, optimizer)
        if ema:
            ema.load_state_dict(EMA(net, args.ema).state_dict())
    objective = Objective(net, args).to(run.device)
    if args.compile:
        objective.compile()
    model = run.ranks.wrap(objective)
    batches = loader(
        data,
        1,
        run.ranks,
        workers=args.workers,
        seed=args.seed,
        shuffle=False,  # the order is in the data
        on_bad_sample=args.on_bad_sample,
        accumulate=args.accumulate,
        report=run.print,
    )

    for step in run.steps(total, images_per_step):
        net.train()
        lr = learning_rate(args, step, total)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad(set_to_none=True)
        noise = torch.randn(
            images_per_step, net.latents, device=run.device, generator=run.generator(step)
        )
        finite, told = True, Window()  # of all batches of the step
        for part, batch in enumerate(batches.batches(step)):
            first = (part * run.world_size + run.rank) * args.bsize
            mine = noise[first : first + args.bsize]
            with hold_gradients(model, part + 1 < args.accumulate), precision.autocast():
                loss, terms = model(unit(batch["image"][0]), batch["kind"], mine)
            finite = finite and run.check(terms, batch)
            told.add(terms)
            if finite:
                precision.backward(loss / args.accumulate)
                types.add(batch["kind"], terms["lower_bound"])
        finite = finite and run.check({"gradient_norm": precision.gradient_norm(optimizer)}, batch)
        if finite:
            precision.step(optimizer)
            if ema:
                ema.update()
        run.log(step, told.means() if finite else {}, lr=lr)
        if run.due(step, args.log_freq):
            run.record(step, types.take())

        score = None
        if run.due(step, args.test_freq):
            net.eval()
            with ema.swapped() if ema else contextlib.nullcontext(), precision.autocast():
                rows = validate(run, args, net, unseen, step)
                if rows:
                    scores = summary(rows, list(unseen.counts), groups(args))
                    run.record(step, scores)
                    score = -scores["test_lower_bound"]
                    visuals.show(run, args, net, unseen, rows, step)
        run.save(step, score)
    finish(run, args, net, optimizer, ema, precision, source, unseen)


@torch.no_grad()
def finish(
    run: Run,
    args: options.Namespace,
    net: DCIGN,
    optimizer: torch.optim.Optimizer,
    ema: EMA | None,
    precision: Precision,
    source: Source,
    unseen: Source,
) -> None:
    """What was learnt, in one line, and an image of it."""
    net.eval()
    with ema.swapped() if ema else contextlib.nullcontext(), precision.autocast():
        rows = validate(run, args, net, unseen, run.step - 1)
        scores = summary(rows, list(unseen.counts), groups(args))
        if hasattr(unseen, "draw") and args.regime == "disentangled" and run.is_main:
            latents = Latents(net, options.plain(args), known=source)
            scene = demo_metrics.test_scene(unseen, max(unseen.counts.values()), TURNED)
            for name, part in demo_metrics.rerendering(latents, unseen, scene).items():
                scores[f"rerender_{name}"] = part["ratio_to_copy"]
        run.print(" ".join(f"{name} {value:.4g}" for name, value in scores.items()))
        if args.export_torch7:
            run.ranks.on_main(lambda: export(run, net, optimizer))
        path = visuals.show(run, args, net, unseen, rows, run.step - 1, "final")
    run.print(f"sweeps of the latents: {path}")


@options.user_errors()
def main(argv: list[str] | None = None) -> None:
    args = parse(__doc__.split("\n\n")[0], argv)
    with closing(Ranks(args.device)) as ranks, Run("dcign", args, ranks) as run:
        train(run, args, Precision(args.precision, run.device, args.channels_last))


if __name__ == "__main__":
    main()
