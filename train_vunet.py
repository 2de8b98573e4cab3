"""Train a VUNet: the appearance of one image in the pose of another.

    python train_vunet.py --config demo.yaml                  a demo world, minutes on a CPU
    python train_vunet.py --config market.yaml                images and joints of an index.p
    python train_vunet.py --config market_retrain.yaml --retrain --checkpoint RUN
    torchrun --nproc_per_node=8 train_vunet.py --config deepfashion.yaml
    python train_vunet.py --config base.yaml prjoti.yaml      the whole-image form
    python train_vunet.py --data mine.py:MyDataset            a Python class of your own
    python train_vunet.py -n NAME -b base.yaml prjoti.yaml -t as edflow is called
    python train_vunet.py --mode transfer --checkpoint RUN    images, no training

Esser, Sutter, Ommer, CVPR 2018. The same command resumes a run that was stopped.
"""

from __future__ import annotations

import math

import torch

from nets.contracts import PeopleDataset
from nets.errors import UserError
from nets.layers import signed
from nets.run import options
from nets.run.ema import EMA
from nets.run.loader import in_order, loader
from nets.run.precision import Precision
from nets.run.ranks import Ranks, closing
from nets.run.run import Run
from nets.run.update import Update
from nets.vunet import VUNet, build, losses
from nets.vunet.data import PersonInputs, open_people
from nets.vunet.infer import without_training
from nets.vunet.objective import kl_factor, loss_of, open_vgg, optimizer_of
from nets.vunet.options import learning_rate, parse
from nets.vunet.published import RENAMED
from nets.vunet.visuals import final_image, show, show_samples, show_transfer
from nets.vunet.warm_start import check_start, start_from, start_from_data


@torch.no_grad()
def validate(
    run: Run, args: options.Namespace, net: VUNet, inputs: PersonInputs, data: PeopleDataset
) -> dict[str, float]:
    """Mean L1 and KL of a test split, without noise and dropout; empty if a signal asks to stop."""
    sums = torch.zeros(3, dtype=torch.float64)
    batches = in_order(
        data, args.batch_size, run.ranks, args.workers, args.on_bad_sample, run.print
    )
    for batch in run.listen(batches):
        out = net(*inputs(batch), "transfer")
        l1 = losses.color_l1(out.image, signed(inputs.target(batch)))
        kl = losses.kl_unit_gaussians(out.posterior, out.prior)
        sums += torch.stack([l1, kl, torch.ones_like(kl)]).sum(1).double().cpu()
    if run.stopping():
        return {}
    l1, kl, count = torch.stack(run.ranks.gather(sums)).sum(0).tolist()
    if not count:
        raise UserError(f"{data.name}: no image of the test split can be read")
    kl_name = "KL_valid" if args.variant == "image" else "kl_loss_valid"
    return {"L1_valid": l1 / count, kl_name: kl / count}


def train(run: Run, args: options.Namespace, precision: Precision) -> None:
    """Train in the run folder, from its newest checkpoint if it has one."""
    # What may be refused comes first: the data-dependent initialisation below takes minutes.
    data = open_people(args, "train")
    test = open_people(args, "test", args.test_images)
    inputs = PersonInputs(args, data.joint_order)
    if args.checkpoint and not run.resumes:
        check_start(args)
    vgg = open_vgg(args, run, precision)
    torch.manual_seed(args.seed)  # all ranks, and every start of this run, draw the same weights
    net = precision.place(build(args))
    optimizer = optimizer_of(args, net)
    ema = EMA(net, args.ema) if args.ema else None
    images_per_step = args.batch_size * args.accumulate * run.world_size
    steps_of_epochs = math.ceil((args.num_epochs or 0) * len(data) / images_per_step)
    total = args.num_steps or steps_of_epochs or args.lr_decay_end
    if not total:
        raise UserError("--num_steps: needed without --num_epochs and --lr_decay_end")
    end = args.lr_decay_end or total  # of the schedules of learning rate and KL
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
            start_from_data(run, args, net, inputs, data)
        if ema:  # averages start at these weights
            ema.load_state_dict(EMA(net, args.ema).state_dict())
    for group in optimizer.param_groups[1:]:
        group["factor"] = args.gain_rate  # not that of the checkpoint
    if args.compile:
        net.compile()
    # With the wiring of the port, the last block of a prior is unused.
    model = run.ranks.wrap(net, unused_parameters=args.wiring == "port")
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
        lr, kl_weight = learning_rate(args, step, end), kl_factor(args, step, end)
        noise = net.noise(images_per_step, run.device, run.generator(step))  # of all ranks
        update.begin(lr)
        for part, batch in update.batches(batches, step):
            first = (part * run.world_size + run.rank) * args.batch_size
            own = noise.rows(slice(first, first + args.batch_size))
            number = step * images_per_step + first + torch.arange(args.batch_size)
            batch = inputs.augmented(batch, number.to(run.device))
            target = signed(inputs.target(batch)).contiguous(memory_format=precision.memory_format)
            mask = None if args.background_weight == 1 else inputs.person(batch)
            with update.forward(model):
                out = model(*inputs(batch), "train", own, args.kl_images or None)
                loss, terms = loss_of(args, vgg, out, target, mask, step, end)
            update.backward(loss, terms)
        run.log(step, update.apply(), lr=lr, kl_weight=kl_weight)

        # Steps 1, 251, 501, ..., as in the published program, and the last.
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
    """Train, or run another --mode, with the options of the command line."""
    args = parse(argv, options.summary(__doc__))
    with closing(Ranks(args.device)) as ranks, Run("vunet", args, ranks, RENAMED) as run:
        precision = Precision(args.precision, run.device, args.channels_last)
        if args.mode == "train":
            train(run, args, precision)
        else:
            without_training(run, args, precision)


if __name__ == "__main__":
    main()
