"""Train a VUNet: the appearance of one image in the pose of another.

    python train_vunet.py --config demo.yaml                  a demo world, minutes on a CPU
    python train_vunet.py --config market.yaml                images and joints of an index.p
    python train_vunet.py --config market_retrain.yaml --retrain --checkpoint RUN
    torchrun --nproc_per_node=8 train_vunet.py --config deepfashion.yaml
    python train_vunet.py --config base.yaml prjoti.yaml      the whole-image form
    python train_vunet.py --mode transfer --checkpoint RUN    images, no training

Esser, Sutter, Ommer, CVPR 2018. The same command goes on where it was stopped.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from nets.errors import UserError
from nets.pretrained import vgg
from nets.run import options
from nets.run.ema import EMA
from nets.run.loader import in_order, loader
from nets.run.precision import Precision
from nets.run.ranks import Ranks, closing
from nets.run.run import Run
from nets.run.update import Update
from nets.vunet import VUNet, VUNetOutput, build, losses
from nets.vunet.data import PersonInputs, open_people, signed
from nets.vunet.infer import without_training
from nets.vunet.layers import initialise_from_data
from nets.vunet.options import kl_factor, learning_rate, parse, weights
from nets.vunet.published import RENAMED
from nets.vunet.visuals import (
    final_image,
    show,
    show_samples,
    show_transfer,
)
from nets.vunet.warm_start import start_from


def perceptual_net(args: options.Namespace, run: Run, precision: Precision) -> vgg.VGG19 | None:
    """The VGG19 that the loss needs, if it does."""
    if args.variant == "image":
        feat = args.losses["perceptual"]["vgg_feat_weights"]
        needed = "perceptual" in weights(args, 1 << 60) and any(feat[1:])
    else:
        used = zip(args.feature_layers, args.feature_weights, args.gram_weights, strict=True)
        needed = any(layer != "input_1" and (f or g) for layer, f, g in used)
    if not needed:
        return None
    family = "torchvision" if args.variant == "image" else "caffe"
    source = "random" if args.perceptual == "random" else "auto"
    where = (args.vgg_weights, family, source)
    if args.vgg_download:  # by one rank, before the others look
        run.ranks.on_main(lambda: vgg.load_vgg(*where, download=True) and None)
    net = vgg.load_vgg(*where)
    run.print(f"perceptual loss: {net.description}")
    return precision.place(net)


def loss_of(
    args: options.Namespace,
    net: vgg.VGG19 | None,
    out: VUNetOutput,
    target: Tensor,
    mask: Tensor | None,
    step: int,
    end: int,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch, a scalar, and its terms by name."""
    posterior, prior = out.posterior, out.prior
    assert posterior is not None  # a training pass has one
    if mask is not None and args.background_weight != 1:  # |w y - w t| = w |y - t|
        weight = torch.where(mask[:, None], 1.0, args.background_weight)
        out, target = out._replace(image=out.image * weight), target * weight
    if args.variant == "image":
        feat = args.losses["perceptual"]["vgg_feat_weights"]
        # The KL is always among the terms: else the prior would have no gradient, of which ranks
        # that average gradients complain.
        factors = {"KL": 0.0, **weights(args, step)}
        return losses.image_losses(out.image, target, posterior, prior, factors, net, feat)
    return losses.parts_losses(
        out.image,
        target,
        posterior,
        prior,
        kl_factor(args, step, end),
        net,
        args.feature_layers,
        args.feature_weights,
        args.gram_weights,
    )


@torch.no_grad()
def validate(
    run: Run, args: options.Namespace, net: VUNet, inputs: PersonInputs, data: Any
) -> dict:
    """Means over the test split: no noise, no dropout, fixed order. Empty when asked to stop."""
    sums = torch.zeros(3, dtype=torch.float64)
    batches = in_order(
        data, args.batch_size, run.ranks, args.workers, args.on_bad_sample, run.print
    )
    for batch in run.listen(batches):
        out = net(*inputs(batch), "transfer")
        l1 = losses.color_l1(out.image, signed(batch["target"]))
        kl = losses.kl_unit_gaussians(out.posterior, out.prior)
        sums += torch.stack([l1, kl, torch.ones_like(kl)]).sum(1).double().cpu()
    if run.stopping():
        return {}
    l1, kl, count = torch.stack(run.ranks.gather(sums)).sum(0).tolist()
    if not count:
        raise UserError(f"{data.name}: no image of the test split can be read")
    kl_name = "KL_valid" if args.variant == "image" else "kl_loss_valid"
    return {"L1_valid": l1 / count, kl_name: kl / count}


def prepare(run: Run, args: options.Namespace, net: VUNet, inputs: PersonInputs, data: Any) -> None:
    """Data-dependent initialisation from `init_batches` batches of every rank."""
    count = args.init_batches * args.batch_size
    settings = {"workers": args.workers, "on_bad_sample": args.on_bad_sample, "report": run.print}
    batch = loader(data, count, run.ranks, seed=args.seed + 1, **settings).batch(0)
    noise = net.noise(count * run.world_size, run.device, run.generator(0, "init"))
    mine = noise.rows(slice(run.rank * count, (run.rank + 1) * count))
    pose, appearance = inputs(batch)

    def average(moments: Tensor) -> Tensor:
        return torch.stack(run.ranks.gather(moments.cpu())).mean(0).to(run.device)

    initialise_from_data(net, lambda: net(pose, appearance, "train", mine), average)


def train(run: Run, args: options.Namespace, precision: Precision) -> None:
    data = open_people(args, "train")
    test = open_people(args, "test", args.test_images)
    inputs = PersonInputs(args, data.joint_order)
    torch.manual_seed(args.seed)  # the same weights on every rank, in every start of this run
    net = precision.place(build(args))
    optimizer = torch.optim.Adam(net.parameters(), args.lr, tuple(args.betas), fused=True)
    ema = EMA(net, args.ema) if args.ema else None
    images_per_step = args.batch_size * args.accumulate * run.world_size
    end = args.lr_decay_end or 0
    total = args.num_steps or math.ceil((args.num_epochs or 0) * len(data) / images_per_step) or end
    if not total:
        raise UserError("how long to train: give --num_steps, --num_epochs or --lr_decay_end")
    size = sum(p.numel() for p in net.parameters())
    run.print(
        f"training a VUNet ({args.variant}, {size:,} parameters) on {data.name}: {len(data)} "
        f"images of {args.image_size} px, {total} steps of {images_per_step} images, on "
        f"{run.device} in {precision.name} ({precision.reason}); run folder {run.folder}"
    )
    if not run.resume(model=net, optimizer=optimizer, ema=ema, precision=precision):
        if args.checkpoint:
            start_from(run, args, net, optimizer)
        elif args.variant == "parts" and args.init_batches:
            prepare(run, args, net, inputs, data)
        if ema:
            ema.load_state_dict(EMA(net, args.ema).state_dict())
    features = perceptual_net(args, run, precision)
    if args.compile:
        net.compile()
    model = run.ranks.wrap(net, unused_parameters=args.wiring == "port")  # its last block is idle
    update = Update(run, precision, [optimizer], ema, args.accumulate)
    batches = loader(
        data,
        args.batch_size,
        run.ranks,
        workers=args.workers,
        seed=args.seed,
        on_bad_sample=args.on_bad_sample,
        accumulate=args.accumulate,
        report=run.print,
    )
    tests = loader(
        test,
        min(args.batch_size, len(test)),
        run.ranks,
        shuffle=False,
        on_bad_sample=args.on_bad_sample,
        report=run.print,
    )

    for step in run.steps(total, images_per_step):
        net.train()
        lr, kl_weight = learning_rate(args, step, end or total), kl_factor(args, step, end or total)
        noise = net.noise(images_per_step, run.device, run.generator(step))  # of all ranks
        update.begin(lr)
        for part, batch in update.batches(batches, step):
            target = signed(batch["target"]).contiguous(memory_format=precision.memory_format)
            first = (part * run.world_size + run.rank) * args.batch_size
            mine = noise.rows(slice(first, first + args.batch_size))
            with update.forward(model):
                out = model(*inputs(batch), "train", mine)
                loss, terms = loss_of(
                    args, features, out, target, batch.get("mask"), step, end or total
                )
            update.backward(loss, terms)
        run.log(step, update.apply(), lr=lr, kl_weight=kl_weight)

        # Images of steps 1, 251, 501, ..., as the published program numbers them, and of the last.
        showing = step % args.log_freq == 0 or step + 1 == total or run.early(step)
        scoring, score = run.due(step, args.test_freq), None
        if showing or scoring:
            with update.evaluating(net):
                if showing:
                    show(run, step, net, inputs, batch, "")
                    show(run, step, net, inputs, tests.batch(step), "valid_")
                if scoring:
                    batch = tests.batch(step)
                    show_transfer(run, step, net, inputs, batch)
                    show_samples(run, step, net, inputs, batch)
                    scores = validate(run, args, net, inputs, test)
                    run.record(step, scores)
                    score = scores.get("L1_valid")
        run.save(step, score)
    with update.evaluating(net):
        final_image(run, net, inputs, test, args.on_bad_sample)


@options.user_errors()
def main(argv: list[str] | None = None) -> None:
    args = parse(argv, options.summary(__doc__))
    with closing(Ranks(args.device)) as ranks, Run("vunet", args, ranks, RENAMED) as run:
        precision = Precision(args.precision, run.device, args.channels_last)
        if args.mode == "train":
            train(run, args, precision)
        else:
            without_training(run, args, precision)


if __name__ == "__main__":
    main()
