"""Train unsupervised landmarks: the pose of one frame, the appearance and background of another.

    python train_landmarks.py --config demo_landmarks.yaml      a demo world, minutes on a CPU
    python train_landmarks.py --config train_args_bbc_pose.yaml --data D --save_path S
    python train_landmarks.py --dataset clips --data VIDEOS --use_temporal
    python train_landmarks.py --dataset images --data IMAGES --use_warped
    torchrun --nproc_per_node=8 train_landmarks.py --config train_args_bbc_pose.yaml ...

Dundar, Shih, Garg, Pottorf, Tao, Catanzaro, arXiv 2001.09518.
The same command goes on where it was stopped.
"""

from __future__ import annotations

import math
import os
from typing import Any

import torch
from torch import Tensor, nn

from nets.errors import UserError
from nets.landmarks import LandmarkModel, LandmarkOutput, build, build_discriminator
from nets.landmarks.data import Images, LandmarkInputs, open_clips
from nets.landmarks.losses import (
    discriminator_loss,
    generator_gan_loss,
    motion_loss,
    motion_mask_loss,
    perceptual_loss,
)
from nets.landmarks.options import learning_rate, parse
from nets.landmarks.published import RENAMED
from nets.landmarks.visuals import final_rows, sheets
from nets.landmarks.warm_start import start_from
from nets.pretrained import vgg
from nets.run import options
from nets.run.ema import EMA
from nets.run.images import labelled_grid, tile
from nets.run.loader import in_order, loader
from nets.run.precision import Precision
from nets.run.ranks import Ranks, closing
from nets.run.run import Run
from nets.run.update import Update


def perceptual_net(args: options.Namespace, run: Run, precision: Precision) -> vgg.VGG19 | None:
    """The VGG19 of the loss; None without use_vgg, where only pixels count."""
    if not args.use_vgg:
        return None
    source = "random" if args.perceptual == "random" else "auto"
    where = (args.vgg_weights, "torchvision", source)
    if args.torch_home:
        os.environ["TORCH_HOME"] = args.torch_home
    if args.vgg_download:  # by one rank, before the others look
        run.ranks.on_main(lambda: vgg.load_vgg(*where, download=True) and None)
    net = vgg.load_vgg(*where, normalise=args.vgg_normalise)
    run.print(f"perceptual loss: {net.description}")
    return precision.place(net)


def open_data(run: Run, args: options.Namespace) -> tuple[Any, Any]:
    """Frames to train on and to validate on."""

    def both() -> tuple[Any, Any]:
        train = open_clips(args, "train", args.use_temporal)
        return train, open_clips(args, "val", args.val_partner == "temporal")

    run.ranks.on_main(lambda: both() and None)  # one rank decodes videos, the others find them
    return both()


@torch.no_grad()
def validate(
    run: Run,
    args: options.Namespace,
    net: LandmarkModel,
    features: Any,
    inputs: LandmarkInputs,
    data: Any,
) -> dict[str, float]:
    """Mean over the validation frames, each with the same jitter and the same partner every time.
    Empty when asked to stop.
    """
    temporal = args.val_partner == "temporal"
    sums = torch.zeros(2, dtype=torch.float64)
    batches = in_order(
        data, args.batch_size, run.ranks, args.workers, args.on_bad_sample, run.print
    )
    for batch in run.listen(batches):
        images = inputs(batch, temporal, not temporal)
        out = net(images.pose, images.appearance)
        loss = perceptual_loss(out.reconstruction, images.target, features, args.reduced_w)
        count = len(images.target)
        sums += torch.tensor([loss.item() * count, count], dtype=torch.float64)
    if run.stopping():
        return {}
    total, count = torch.stack(run.ranks.gather(sums)).sum(0).tolist()
    if not count:
        raise UserError(f"{data.name}: no frame to validate on can be read")
    return {"validation.loss": total / count}


@torch.no_grad()
def final_image(
    run: Run, args: options.Namespace, net: LandmarkModel, inputs: LandmarkInputs
) -> None:
    """Frames to validate on with their landmarks, and what is made of them and their partners."""
    data = open_clips(args, "val", args.use_temporal)
    count = min(8, len(data))
    picked = loader(
        data, count, run.ranks, seed=args.seed + 1, on_bad_sample=args.on_bad_sample
    ).batch(0)
    images = inputs(picked, args.use_temporal, not args.use_temporal)
    rows = final_rows(images, net(images.pose, images.appearance))
    path = run.image("final", run.step - 1, labelled_grid(list(rows.values()), list(rows)))
    run.print(f"landmarks and what is made of them: {path}")


def generator_losses(
    args: options.Namespace,
    out: LandmarkOutput,
    images: Images,
    features: vgg.VGG19 | None,
    critic: nn.Module | None,
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The generator's loss, in a list, and its weighted terms by name."""
    drawn, target = out.reconstruction, images.target
    loss = args.vgg_lambda * perceptual_loss(drawn, target, features, args.reduced_w)
    terms = {"vgg.loss": loss}
    if args.motion_weight:
        motion = motion_loss(drawn, target, images.appearance)
        terms["motion.loss"] = args.motion_weight * motion
        loss = loss + terms["motion.loss"]
    if args.motion_mask_weight:
        assert out.mask is not None and out.appearance_mask is not None  # options need the masks
        covered = motion_mask_loss(out.mask, out.appearance_mask, target, images.appearance)
        terms["motion_mask.loss"] = args.motion_mask_weight * covered
        loss = loss + terms["motion_mask.loss"]
    if critic:
        terms["gan.loss"] = generator_gan_loss(critic, drawn, not args.no_lsgan)
        loss = loss + terms["gan.loss"]
    return [loss], terms


@torch.no_grad()
def show(run: Run, step: int, net: LandmarkModel, images: Images) -> None:
    """Write images of the first sample of a batch."""
    for name, row in sheets(images, net(images.pose[:1], images.appearance[:1])).items():
        run.image(name, step, tile(row, columns=len(row)))


def train(run: Run, args: options.Namespace, precision: Precision) -> None:
    data, test = open_data(run, args)
    inputs = LandmarkInputs(args, data.joint_order)
    torch.manual_seed(args.seed)  # the same weights on every rank, in every start of this run
    net = precision.place(build(args))
    critic = precision.place(build_discriminator(args)) if args.use_gan else None
    optimizer = torch.optim.Adam(
        net.parameters(), args.lr, weight_decay=args.weight_decay, fused=True
    )
    optimizer_D = None
    if critic:
        optimizer_D = torch.optim.Adam(critic.parameters(), args.lr, fused=True)
    optimizers = [o for o in (optimizer, optimizer_D) if o]
    ema = EMA(net, args.ema) if args.ema else None
    images_per_step = args.batch_size * args.accumulate * run.world_size
    total = args.num_steps or math.ceil(args.num_epochs * len(data) / images_per_step)
    an_epoch = max(1, round(len(data) / images_per_step))
    size = sum(p.numel() for p in net.parameters())
    partner = " and ".join(("another frame",) * args.use_temporal + ("a warp",) * args.use_warped)
    run.print(
        f"training {args.n_landmarks} landmarks ({size:,} parameters) on {data.name}: {len(data)} "
        f"frames of {args.image_size} px, appearance from {partner}, {total} steps of "
        f"{images_per_step} frames, on {run.device} in {precision.name} ({precision.reason}); "
        f"run folder {run.folder}"
    )
    parts = {"model": net, "optimizer": optimizer, "ema": ema, "precision": precision}
    if not run.resume(**parts, discriminator=critic, optimizer_D=optimizer_D):
        start_from(args, run.print, net, optimizer, critic, optimizer_D)
        if ema:
            ema.load_state_dict(EMA(net, args.ema).state_dict())
    features = perceptual_net(args, run, precision)
    if args.compile:
        net.compile()
    model = run.ranks.wrap(net)
    judge = run.ranks.wrap(critic) if critic else None
    settings = {"on_bad_sample": args.on_bad_sample, "report": run.print}
    trained = [net, critic] if critic else [net]
    update = Update(run, precision, optimizers, ema, args.accumulate)
    batches = loader(
        data, args.batch_size, run.ranks, workers=args.workers, seed=args.seed,
        accumulate=args.accumulate, **settings,
    )  # fmt: skip

    for step in run.steps(total, images_per_step):
        net.train()
        lr = learning_rate(args, step, total)
        update.begin(lr)
        for _, batch in update.batches(batches, step):
            images = inputs(batch, args.use_temporal, args.use_warped)
            with update.forward(model):
                out = model(images.pose, images.appearance)
                losses, terms = generator_losses(args, out, images, features, critic)
            if judge:
                with update.forward(judge):
                    loss_D, scores = discriminator_loss(
                        judge, out.reconstruction, images.target, not args.no_lsgan
                    )
                losses.append(loss_D)
                terms |= {f"{name}.loss": value for name, value in scores.items()}
            update.backward(losses, terms)
        run.log(step, update.apply(clip=() if args.no_grad_clip else trained), learning_rate=lr)

        showing = step == 0 or run.due(step, args.log_freq)
        scoring, score = run.due(step, args.test_freq or args.val_freq * an_epoch), None
        if showing or scoring:
            with update.evaluating(net):
                if showing:
                    show(run, step, net, images)
                if scoring:
                    means = validate(run, args, net, features, inputs, test)
                    run.record(step, means)
                    score = means.get("validation.loss")
        epoch_ends = run.due(step, args.save_freq * an_epoch)
        run.save(step, score, every=1 if epoch_ends else None)
    with update.evaluating(net):
        final_image(run, args, net, inputs)


@options.user_errors()
def main(argv: list[str] | None = None) -> None:
    args = parse(options.summary(__doc__), argv)
    with closing(Ranks(args.device)) as ranks, Run("landmarks", args, ranks, RENAMED) as run:
        train(run, args, Precision(args.precision, run.device, args.channels_last))


if __name__ == "__main__":
    main()
