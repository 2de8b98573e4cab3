"""Train a DC-IGN: an autoencoder of faces whose latents are azimuth, elevation, light, and shape.

    python train_dcign.py --config demo_dcign.yaml            a demo world, minutes on a CPU
    python train_dcign.py --no_load --name my_first_dcign --data DATASET
    python train_dcign.py --checkpoint NETWORK --name next --shape_bias --force_invariance
    python train_dcign.py --regime entangled --name plain     all latents equal, for comparison
    torchrun --nproc_per_node=8 train_dcign.py --data DATASET

Kulkarni, Whitney, Kohli, Tenenbaum, NIPS 2015. The same command goes on where it was stopped.
"""

from __future__ import annotations

from functools import partial

import torch

from nets.data.scenes.batches import Drawn, Source, unit
from nets.dcign import (
    DCIGN,
    build,
    demo_metrics,
    visuals,
)
from nets.dcign.data import augment, open_batches
from nets.dcign.evaluate import summary, validate
from nets.dcign.latents import Latents
from nets.dcign.objective import Objective, TypeMeans, make_optimizer
from nets.dcign.options import groups, parse, sets
from nets.dcign.published import RENAMED
from nets.dcign.warm_start import check_start, export, start_from
from nets.run import options
from nets.run.ema import EMA
from nets.run.loader import loader
from nets.run.precision import Precision
from nets.run.ranks import Ranks, closing
from nets.run.run import Run
from nets.run.update import Update

RERENDERED = 160  # test images that are rendered with other latents at the end


def learning_rate(args: options.Namespace, step: int, total: int) -> float:
    """Level; over the last `warm_down` steps it falls linearly to 0."""
    left = (total - step) / args.warm_down if args.warm_down else 1.0
    return args.lr * min(1.0, left)


@torch.no_grad()
def finish(run: Run, args: options.Namespace, net: DCIGN, source: Source, unseen: Source) -> None:
    """Print the scores of the trained network, and write sweeps of its latents as an image."""
    rows = validate(run, args, net, unseen, run.step - 1)
    scores = summary(rows, list(unseen.counts), groups(args))
    if isinstance(unseen, demo_metrics.Renderer) and args.regime == "disentangled" and run.is_main:
        latents = Latents(net, options.plain(args), known=source)
        scene = demo_metrics.test_scene(unseen, max(unseen.counts.values()), RERENDERED)
        for name, part in demo_metrics.rerendering(latents, unseen, scene).items():
            scores[f"rerender_{name}"] = part["ratio_to_copy"]
    run.print(" ".join(f"{name} {value:.4g}" for name, value in scores.items()))
    path = visuals.show(run, args, net, unseen, rows, run.step - 1, "final")
    run.print(f"sweeps of the latents: {path}")


def train(run: Run, args: options.Namespace, precision: Precision) -> None:
    starting = bool(args.checkpoint) and not args.no_load and not run.resumes
    if starting:
        check_start(args)
    source, unseen = (open_batches(args, sets(args), split) for split in ("train", "test"))
    bias = args.shape_bias_amount if args.shape_bias else 0
    data = Drawn(source, args.num_train_batches, args.seed, bias, args.order, args.shuffle)
    torch.manual_seed(args.seed)  # the same weights on every rank, in every start of this run
    net = precision.place(build(args))
    optimizer = make_optimizer(args, net)
    ema = EMA(net, args.ema) if args.ema else None
    types = TypeMeans(list(source.counts), run.device)
    batches_a_step = args.accumulate * run.world_size
    images_per_step = args.batch_size * batches_a_step
    epoch = max(1, len(data) // batches_a_step)
    total = args.num_steps or args.num_epochs * epoch
    exporting = args.export_torch7 or args.published_folder
    size = sum(p.numel() for p in net.parameters())
    counted = ", ".join(f"{count} {kind}" for kind, count in source.counts.items())
    run.print(
        f"training a DC-IGN ({args.regime}, {size:,} parameters) on {source.name}: batches of "
        f"{args.batch_size} ({counted}), {total} steps of {images_per_step} images of "
        f"{args.image_size} px, on {run.device} in {precision.name} ({precision.reason}); "
        f"run folder {run.folder}"
    )
    parts = {"model": net, "optimizer": optimizer, "ema": ema, "precision": precision}
    run.resume(**parts, types=types)
    if starting:
        start_from(run, args, net, optimizer)
        if ema:
            ema.load_state_dict(EMA(net, args.ema).state_dict())
    objective = Objective(net, args).to(run.device)
    if args.compile:
        objective.compile()
    model = run.ranks.wrap(objective)
    update = Update(run, precision, [optimizer], ema, args.accumulate)
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
        noise = torch.randn(
            images_per_step, net.latents, device=run.device, generator=run.generator(step)
        )
        update.begin(lr)
        for part, batch in update.batches(batches, step):
            first = (part * run.world_size + run.rank) * args.batch_size
            mine = noise[first : first + args.batch_size]
            number = step * batches_a_step + part * run.world_size + run.rank
            image = augment(unit(batch["image"][0]), args.mirror, args.jitter, args.seed, number)
            with update.forward(model):
                loss, terms = model(image, batch["kind"], mine)
            update.backward(loss, terms)
            if update.finite:
                types.add(batch["kind"], terms["lower_bound"])
        run.log(step, update.apply(), lr=lr)
        if run.due(step, args.log_freq):
            run.record(step, types.take())

        score = None
        if run.due(step, args.test_freq):
            with update.evaluating(net):
                rows = validate(run, args, net, unseen, step)
                if rows:
                    scores = summary(rows, list(unseen.counts), groups(args))
                    run.record(step, scores)
                    score = -scores["test_lower_bound"]
                    visuals.show(run, args, net, unseen, rows, step)
        run.save(step, score)
        if exporting and (step + 1) % epoch == 0 and step + 1 < total:
            with update.evaluating(net):
                run.ranks.on_main(partial(export, run, net, optimizer, epoch, step + 1))
    with update.evaluating(net):
        finish(run, args, net, source, unseen)
        if exporting:
            run.ranks.on_main(partial(export, run, net, optimizer, epoch, run.step))


@options.user_errors()
def main(argv: list[str] | None = None) -> None:
    args = parse(options.summary(__doc__), argv)
    with closing(Ranks(args.device)) as ranks, Run("dcign", args, ranks, RENAMED) as run:
        train(run, args, Precision(args.precision, run.device, args.channels_last))


if __name__ == "__main__":
    main()
