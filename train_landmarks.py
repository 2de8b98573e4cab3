"""Train unsupervised landmarks: the pose of one frame, the appearance and background of another.

    python train_landmarks.py --config demo_landmarks.yaml      a demo world, minutes on a CPU
    python train_landmarks.py --config train_args_bbc_pose.yaml --data D --save_path S
    python train_landmarks.py --dataset clips --data VIDEOS --use_temporal
    python train_landmarks.py --dataset images --data IMAGES --use_warped
    torchrun --nproc_per_node=8 train_landmarks.py --config train_args_bbc_pose.yaml ...

Dundar, Shih, Garg, Pottorf, Tao, Catanzaro, arXiv 2001.09518.
The same command resumes a run.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from nets.contracts import Dataset
from nets.errors import UserError
from nets.landmarks import LandmarkModel, build, build_discriminator
from nets.landmarks.data import LandmarkInputs, open_data
from nets.landmarks.losses import discriminator_loss, generator_losses, perceptual_loss
from nets.landmarks.options import learning_rate, parse
from nets.landmarks.published_options import RENAMED
from nets.landmarks.visuals import final_image, show
from nets.landmarks.warm_start import check_start, export, perceptual_net, start_from
from nets.run import options
from nets.run.ema import EMA
from nets.run.loader import in_order, loader
from nets.run.precision import Precision
from nets.run.ranks import Ranks, closing
from nets.run.run import Run
from nets.run.update import Update


@torch.no_grad()
def validate(
    run: Run,
    args: options.Namespace,
    net: LandmarkModel,
    features: nn.Module | None,
    inputs: LandmarkInputs,
    data: Dataset,
) -> dict[str, float]:
    """Mean perceptual loss over the validation frames; empty after a signal to stop.

    Each frame has the same colours and the same partner in every validation.
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
        raise UserError(f"{data.name}: no validation frame can be read")
    return {"validation.loss": total / count}


def train(run: Run, args: options.Namespace, precision: Precision) -> None:
    """Train the networks of the options, from the run's newest checkpoint if it has one."""
    # What may be refused comes first: networks and data take time.
    if not run.resumes:
        check_start(args)
    features = perceptual_net(args, run.ranks, precision, run.print)

    torch.manual_seed(args.seed)  # the same weights on every rank and in every start of this run
    net = precision.place(build(args))
    discriminator = precision.place(build_discriminator(args)) if args.use_gan else None
    optimizer = torch.optim.Adam(
        net.parameters(), args.lr, weight_decay=args.weight_decay, fused=True
    )
    optimizer_D = None
    if discriminator:
        optimizer_D = torch.optim.Adam(discriminator.parameters(), args.lr, fused=True)
    optimizers = [o for o in (optimizer, optimizer_D) if o]
    ema = EMA(net, args.ema) if args.ema else None

    parts = {"model": net, "optimizer": optimizer}
    parts |= {"discriminator": discriminator, "optimizer_D": optimizer_D}
    if not run.resume(**parts, ema=ema, precision=precision):
        start_from(args, run.print, net, optimizer, discriminator, optimizer_D)
        if ema:
            ema.load_state_dict(EMA(net, args.ema).state_dict())

    data, validation_data = open_data(args, run.ranks)
    inputs = LandmarkInputs(args, data.joint_order)

    images_per_step = args.batch_size * args.accumulate * run.world_size
    total = args.num_steps or math.ceil(args.num_epochs * len(data) / images_per_step)
    steps_per_epoch = max(1, round(len(data) / images_per_step))
    size = sum(p.numel() for p in net.parameters())
    partner = " and ".join(("another frame",) * args.use_temporal + ("a warp",) * args.use_warped)
    run.print(
        f"training {args.n_landmarks} landmarks ({size:,} parameters) on {data.name}: {len(data)} "
        f"frames of {args.image_size} px, appearance from {partner}, {total} steps of "
        f"{images_per_step} frames, on {run.device} in {precision.name} ({precision.reason}); "
        f"run folder {run.folder}"
    )
    if args.compile:
        net.compile()
    model = run.ranks.wrap(net)
    critic = run.ranks.wrap(discriminator) if discriminator else None
    trained = [net, discriminator] if discriminator else [net]
    update = Update(run, precision, optimizers, ema, args.accumulate)
    batches = loader(
        data, args.batch_size, run.ranks, workers=args.workers, seed=args.seed,
        accumulate=args.accumulate, on_bad_sample=args.on_bad_sample, report=run.print,
    )  # fmt: skip

    for step in run.steps(total, images_per_step):
        net.train()
        lr = learning_rate(args, step, total)
        update.begin(lr)
        for _, batch in update.batches(batches, step):
            images = inputs(batch, args.use_temporal, args.use_warped)
            with update.forward(model):
                out = model(images.pose, images.appearance)
                loss, terms = generator_losses(
                    args, out, images.target, images.appearance, features, discriminator
                )
            losses = [loss]
            if critic:
                with update.forward(critic):
                    loss_D, scores = discriminator_loss(
                        critic, out.reconstruction, images.target, not args.no_lsgan
                    )
                losses.append(loss_D)
                terms |= {f"{name}.loss": value for name, value in scores.items()}
            update.backward(losses, terms)
        run.log(step, update.apply(clip=() if args.no_grad_clip else trained), learning_rate=lr)

        show_now = step == 0 or run.due(step, args.log_freq)
        validate_now = run.due(step, args.test_freq or args.val_freq * steps_per_epoch)
        score = None
        if show_now or validate_now:
            with update.evaluating(net):
                if show_now:
                    show(run, step, net, images)
                if validate_now:
                    means = validate(run, args, net, features, inputs, validation_data)
                    run.record(step, means)
                    score = means.get("validation.loss")
        epoch_ends = run.due(step, args.save_freq * steps_per_epoch)
        run.save(step, score, every=1 if epoch_ends else None)
        if args.export_published and (epoch_ends or step + 1 == total):
            export(run, parts, step // steps_per_epoch)

    with update.evaluating(net):
        final_image(run, args, net, inputs)


@options.user_errors()
def main(argv: list[str] | None = None) -> None:
    args = parse(options.summary(__doc__), argv)
    with closing(Ranks(args.device)) as ranks, Run("landmarks", args, ranks, RENAMED) as run:
        train(run, args, Precision(args.precision, run.device, args.channels_last))


if __name__ == "__main__":
    main()
