"""Train a VUNet: the appearance of one picture in the pose of another.

    python train_vunet.py --config demo.yaml                  a demo world, minutes on a CPU
    python train_vunet.py --config market.yaml                pictures and joints of an index.p
    python train_vunet.py --config market_retrain.yaml --retrain --checkpoint RUN
    torchrun --nproc_per_node=8 train_vunet.py --config deepfashion.yaml
    python train_vunet.py --config base.yaml prjoti.yaml      the whole-image form
    python train_vunet.py --mode transfer --checkpoint RUN    pictures, no training

Esser, Sutter, Ommer, CVPR 2018. The same command goes on where it was stopped.
"""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from nets import losses, vgg
from nets.data.people import open_people, write_pictures, write_pictures_index
from nets.errors import UserError
from nets.layers import fold, initialise_from_data
from nets.originals.vunet import SETTINGS, TERMS, translate
from nets.run import checkpoints, options
from nets.run.ema import EMA
from nets.run.images import labelled_grid, tile
from nets.run.loader import in_order, loader
from nets.run.options import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, add_flag
from nets.run.precision import Precision
from nets.run.ranks import Ranks, closing, hold_gradients
from nets.run.run import Run
from nets.vunet import (
    Inputs,
    Output,
    VUNet,
    build,
    reconstructions,
    signed,
    transfer_grid,
    transfers,
)

FORMS = {  # what an option that is null means
    "parts": {
        "appearance": "crops", "stickman": "parts", "pairing": "same", "conv": "weight",
        "tanh": False, "nf_start": 32, "lr": 1e-3, "lr_decay_begin": 1000, "lr_decay_end": 100_000,
        "betas": [0.5, 0.9],
    },
    "image": {
        "appearance": "picture", "stickman": "image", "pairing": "identity", "conv": "none",
        "tanh": True, "nf_start": 64, "lr": 1e-4, "betas": [0.9, 0.999],
    },
}  # fmt: skip
IMAGE_LOSSES = {
    "color_L1": {"weight": 0.5},
    "KL": {"start_ramp_it": 2000, "start_ramp_val": 0.0, "end_ramp_it": 3500, "end_ramp_val": 1.0},
    "perceptual": {"weight": 1.0},
}


# fmt: off
def parser() -> options.ArgumentParser:
    p = options.parser("vunet", __doc__.split("\n\n")[0])
    g = p.add_argument_group("what to do")
    add = g.add_argument
    add("--mode", type=Literal["train", "test", "transfer", "add_reconstructions"], default="train",
        help="train; or, from --checkpoint: pictures drawn from the prior, transfer grids, or "
        "every test picture reconstructed, with an index.p of them")
    add("--checkpoint", type=str | None, default=None,
        help="a checkpoint or run folder to start from")
    add_flag(g, "--retrain", False, "second round: take weights and moments, begin at step 0")
    add_flag(g, "--reset_optimizer", False, "with --checkpoint: begin with fresh moments")
    add_flag(g, "--keep_kl", False, "the KL weight is the last one of its ramp from the beginning")
    add("--log_dir", type=str | None, default=None, help="another name of --run_dir")
    g = p.add_argument_group("data (none: the demo world of people)")
    add = g.add_argument
    add("--data_index", type=str | None, default=None, help="an index.p, index.json or index.npz")
    add("--data_root", type=str | None, default=None, help="a folder with meta.yaml (Prjoti)")
    add("--pairing", type=Literal["same", "identity", "any"] | None, default=None,
        help="where the appearance comes from: the target itself, another picture of the same "
        "identity, any picture; default: same for parts, identity for image")
    add("--fit", type=Literal["squash", "letterbox"], default="squash",
        help="how pictures become square")
    add("--batch_size", type=PositiveInt, default=16, help="pictures per step and rank")
    add("--test_images", type=NonNegativeInt, default=256,
        help="pictures of the test split that a validation looks at; 0: all")
    g = p.add_argument_group("network")
    add = g.add_argument
    add("--variant", type=Literal["parts", "image"], default="parts",
        help="body-part crops, coarsest map 2^bottleneck_factor; or whole image, down to 1x1")
    add("--appearance", type=Literal["crops", "picture"] | None, default=None,
        help="what the appearance encoder sees; default: by variant")
    add("--stickman", type=Literal["parts", "image"] | None, default=None,
        help="style of the drawn pose; default: by variant")
    add("--spatial_size", type=PositiveInt, default=256, help="side of the pictures, pixels")
    add("--box_factor", type=NonNegativeInt, default=2, help="crops have side S / 2^box_factor")
    add("--bottleneck_factor", type=PositiveInt, default=2, help="coarsest side, as power of two")
    add("--nf_start", type=PositiveInt | None, default=None,
        help="channels of the finest scale; default: 32 for parts, 64 for image")
    add("--nf_max", type=PositiveInt, default=128, help="most channels of a scale")
    add("--drop_prob", type=options.Fraction, default=0.0, help="dropout inside residual blocks")
    add("--img_channels", type=Literal[3], default=3, help="channels of a picture")
    add("--pose_channels", type=Literal[3], default=3, help="channels of a drawn pose")
    add("--out_channels", type=Literal[3], default=3, help="channels of the output")
    add("--conv", type=Literal["none", "weight", "weight_affine"] | None, default=None,
        help="normalisation of the convolutions of the image form (parts: always weight)")
    add("--tanh", type=bool | None, default=None, help="image form: bounded output; default true")
    add("--wiring", type=Literal["chain", "port"], default="chain",
        help="image form: autoregressive prior; port: as imported checkpoints learnt it")
    add("--missing_part", type=float, default=0.0, help="value of a missing crop, in [-1, 1]")
    add("--init_batches", type=NonNegativeInt, default=4,
        help="batches for data-dependent initialisation of weight normalisation; 0: none")
    g = p.add_argument_group("loss, parts form: 5 * (features + Gram) + kl * KL")
    add = g.add_argument
    add("--feature_layers", type=list[str], default=list(losses.PARTS_LAYERS),
        help="input_1 (pixels) and layers of VGG19")
    add("--feature_weights", type=list[NonNegativeFloat], default=[1.0] * 6, help="one a layer")
    add("--gram_weights", type=list[NonNegativeFloat], default=[0.0] * 6, help="one a layer")
    add("--background_weight", type=NonNegativeFloat, default=1.0,
        help="both forms: of pixels off the person, where the data have masks (the demo world)")
    add("--kl_start", type=NonNegativeInt | None, default=None,
        help="step up to which the KL weight is kl_min; default: lr_decay_end / 2")
    add("--kl_end", type=NonNegativeInt | None, default=None,
        help="step from which it is kl_max; default: 3/4 lr_decay_end")
    add("--kl_min", type=NonNegativeFloat, default=1e-6, help="first KL weight")
    add("--kl_max", type=NonNegativeFloat, default=1.0, help="last KL weight")
    g = p.add_argument_group("loss, image form: weighted sum of the terms that have a weight")
    for term in TERMS:
        g.add_argument(f"--losses.{term}.weight", type=NonNegativeFloat | None, default=None,
                       help=f"factor of {term}")
        for field, kind, text in (("start_ramp_it", NonNegativeInt, "step at which a ramp starts"),
                                  ("start_ramp_val", NonNegativeFloat, "weight up to there"),
                                  ("end_ramp_it", NonNegativeInt, "step at which it ends"),
                                  ("end_ramp_val", NonNegativeFloat, "weight from there on")):
            g.add_argument(f"--losses.{term}.{field}", type=kind | None, default=None, help=text)
    g.add_argument("--losses.perceptual.vgg_feat_weights", type=list[NonNegativeFloat],
                   default=[1.0] * 6, help="factors of the picture and of relu1_2 .. relu5_2")
    g = p.add_argument_group("VGG19")
    add = g.add_argument
    add("--vgg_weights", type=str | None, default=None,
        help="file of weights; default: torch's cache")
    add("--perceptual", type=Literal["pretrained", "random"], default="pretrained",
        help="random: a seeded random VGG19 where there are no weights")
    add_flag(g, "--vgg_download", False, "fetch the weights when they are not there")
    g = p.add_argument_group("schedule")
    add = g.add_argument
    add("--lr", type=PositiveFloat | None, default=None,
        help="learning rate; default: 1e-3 for parts, 1e-4 for image")
    add("--betas", type=tuple[options.Fraction, options.Fraction] | None, default=None,
        help="of Adam; default: 0.5, 0.9 for parts, 0.9, 0.999 for image")
    add("--lr_decay_begin", type=NonNegativeInt | None, default=None,
        help="step from which it falls linearly; default: 1000 for parts, never for image")
    add("--lr_decay_end", type=PositiveInt | None, default=None,
        help="step at which it is 0 and training ends; default: 100000 for parts")
    add("--num_steps", type=PositiveInt | None, default=None, help="steps, instead of lr_decay_end")
    add("--num_epochs", type=PositiveInt | None, default=None, help="epochs, instead of steps")
    add("--test_freq", type=PositiveInt, default=1000, help="steps between two validations")
    return p
# fmt: on


def parse(argv: list[str] | None = None) -> options.Namespace:
    """The options, with what depends on the variant filled in and what contradicts refused."""
    args = options.parse(parser(), argv, translate)
    for name, value in FORMS[args.variant].items():
        args[name] = value if args[name] is None else args[name]
    if args.variant == "image":
        image_losses(args)
    args.run_dir = args.log_dir or args.run_dir
    if args.mode != "train" and not args.checkpoint:
        raise UserError(f"--mode {args.mode}: needs --checkpoint")
    if args.mode != "train" and args.name:
        folder = Path(args.run_dir) / args.name
        if checkpoints.stored(folder / "checkpoints"):
            raise UserError(f"--mode {args.mode}: {folder} is a training run; give another --name")
    if args.retrain and not args.checkpoint:
        raise UserError("--retrain: needs --checkpoint, the last of the first round")
    for name in ("feature_weights", "gram_weights"):
        if len(args[name]) != len(args.feature_layers):
            raise UserError(
                f"{name}: must be {len(args.feature_layers)} numbers, one for each of "
                f"feature_layers, got {len(args[name])}"
            )
    try:
        with torch.device("meta"):
            build(args)
        for layer in args.feature_layers:
            vgg.layer_position(layer)
    except ValueError as error:
        raise UserError(str(error)) from error
    return args


def image_losses(args: options.Namespace) -> None:
    """Fill in the published losses where none is given; refuse what cannot be computed."""
    if all(args.losses[term][field] is None for term in TERMS for field in SETTINGS):
        for term, settings in IMAGE_LOSSES.items():
            for field, value in settings.items():
                args.losses[term][field] = value
    count = len(args.losses["perceptual"]["vgg_feat_weights"])
    if count != len(losses.IMAGE_LAYERS):
        raise UserError(f"losses.perceptual.vgg_feat_weights: must be 6 numbers, got {count}")
    if not any(weights(args, 1 << 60).values()):
        raise UserError("losses: no term has a weight above 0 in the end")


def weights(args: options.Namespace, step: int) -> dict[str, float]:
    """Image form: the factor at a step of each term of the loss that has one."""
    result = {}
    for term in TERMS:
        settings = args.losses[term]
        ramp = [
            settings[f"{end}_ramp_{what}"] for end in ("start", "end") for what in ("it", "val")
        ]
        if None not in ramp:
            if ramp[0] > ramp[2]:
                raise UserError(f"losses.{term}: a ramp must end at or after start_ramp_it")
            at_end = args.keep_kl and term == "KL"
            result[term] = ramp[3] if at_end else losses.linear_ramp(step, *ramp)
        elif any(value is not None for value in ramp):
            raise UserError(f"losses.{term}: a ramp needs all of its four settings")
        elif settings["weight"] is not None:
            result[term] = settings["weight"]
    return {term: weight for term, weight in result.items() if weight or term == "KL"}


def kl_factor(args: options.Namespace, step: int, end: int) -> float:
    """Weight of the KL. Parts form: linear from kl_min to kl_max, late, since at first the decoder
    ignores the latents.
    """
    if args.variant == "image":
        return weights(args, step).get("KL", 0.0)
    if args.keep_kl:
        return args.kl_max
    start = end // 2 if args.kl_start is None else args.kl_start
    stop = 3 * end // 4 if args.kl_end is None else args.kl_end
    return losses.linear_ramp(step, start, args.kl_min, max(start, stop), args.kl_max)


def learning_rate(args: options.Namespace, step: int, total: int) -> float:
    if args.lr_decay_begin is None:
        return args.lr
    end = args.lr_decay_end or total
    left = 1 - (step - args.lr_decay_begin) / max(1, end - args.lr_decay_begin)
    return args.lr * min(1.0, max(0.0, left))


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
    out: Output,
    target: Tensor,
    mask: Tensor | None,
    step: int,
    end: int,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The scalar to minimise and what it is made of."""
    if mask is not None and args.background_weight != 1:  # |w y - w t| = w |y - t|
        weight = torch.where(mask[:, None], 1.0, args.background_weight)
        out, target = out._replace(image=out.image * weight), target * weight
    if args.variant == "image":
        feat = args.losses["perceptual"]["vgg_feat_weights"]
        # The KL is always among the terms: else the prior would have no gradient, of which ranks
        # that average gradients complain.
        factors = {"KL": 0.0, **weights(args, step)}
        return losses.image_losses(out.image, target, out.posterior, out.prior, factors, net, feat)
    return losses.parts_losses(
        out.image,
        target,
        out.posterior,
        out.prior,
        kl_factor(args, step, end),
        net,
        args.feature_layers,
        args.feature_weights,
        args.gram_weights,
    )


@torch.no_grad()
def validate(run: Run, args: options.Namespace, net: VUNet, inputs: Inputs, data: Any) -> dict:
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
        raise UserError(f"{data.name}: no picture of the test split can be read")
    return {"valid_L1": l1 / count, "valid_KL": kl / count}


def show(run: Run, step: int, net: VUNet, inputs: Inputs, batch: Any, prefix: str) -> None:
    noise = net.noise(len(batch["target"]), run.device, run.generator(step, "show"))
    for name, pictures in reconstructions(net, inputs, batch, noise).items():
        run.image(prefix + name, step, pictures)


def show_transfer(run: Run, step: int, net: VUNet, inputs: Inputs, batch: Any) -> None:
    cells = transfer_grid(net, inputs, batch)
    run.image("transfer", step, tile(cells, columns=len(batch["target"]) + 1))


def show_samples(run: Run, step: int, net: VUNet, inputs: Inputs, batch: Any) -> None:
    """Poses, and pictures drawn from the prior for them."""
    noise = net.noise(len(batch["target"]), run.device, run.generator(step, "show"))
    pose = inputs.pose(batch["joints"])
    run.image("testing_cond", step, pose)
    run.image("testing_test_sample", step, net(pose, mode="sample", noise=noise).image)


@torch.no_grad()
def final_picture(run: Run, net: VUNet, inputs: Inputs, data: Any, bad: str) -> None:
    """Four people in the poses of four others, and what a perfect transfer shows if it is known."""
    n = min(4, len(data))
    batch = loader(data, 2 * n, run.ranks, shuffle=False, on_bad_sample=bad).batch(0)
    poses, appearances = inputs(batch)
    sources, poses = signed(inputs.source(batch)[0]), poses[-n:]
    made = transfers(net, poses, appearances[:n])
    rows, names = [[None, *poses]], ["pose"]
    for i in range(n):
        rows.append([sources[i], *made[i]])
        names.append("source, transfers")
        if hasattr(data, "transfer_truth"):
            ids = (batch["outfit"][i].expand(n), batch["pose"][-n:], batch["background"][-n:])
            rows.append([None, *data.transfer_truth(*(t.cpu() for t in ids))["image"]])
            names.append("truth")
    path = run.image("final", run.step - 1, labelled_grid(rows, names))
    run.print(f"sources, poses, transfers: {path}")


@torch.no_grad()
def without_training(run: Run, args: options.Namespace, precision: Precision) -> None:
    """The modes test, transfer and add_reconstructions, with the options of the checkpoint."""
    run.stop_listening()
    path = checkpoints.find(args.checkpoint)
    net, trained = load_network(checkpoints.read(path, "vunet"), path, precision)
    if args.data_index or args.data_root:
        given = {"data_index": args.data_index, "data_root": args.data_root}
        trained |= {**given, "pairing": "same"}  # other data need not know identities
    bad, workers = args.on_bad_sample, args.workers
    if args.mode == "add_reconstructions":
        data = open_people({**trained, "pairing": "same"}, "test")
        inputs = Inputs(trained, data.joint_order)
        with precision.autocast():
            made = (
                (batch, net(*inputs(batch), "transfer").image)
                for batch in in_order(data, args.batch_size, run.ranks, workers, bad, run.print)
            )
            folder = run.folder / "reconstructions"
            written = [w for of in run.ranks.gather(write_pictures(made, folder)) for w in of]
        run.ranks.on_main(lambda: write_pictures_index(data.joint_order, written, folder))
        run.print(f"{len(written)} reconstructions and their index: {folder}")
        return
    data = open_people(trained, "test")
    inputs = Inputs(trained, data.joint_order)
    count = min(args.batch_size, len(data))
    batches = loader(data, count, run.ranks, seed=args.seed, on_bad_sample=bad, workers=workers)
    pictures = show_transfer if args.mode == "transfer" else show_samples
    for number in range(10):
        batch = batches.batch(number)
        with precision.autocast():
            pictures(run, number - 1, net, inputs, batch)
    run.print(f"pictures: {run.folder / 'images'}")


def prepare(run: Run, args: options.Namespace, net: VUNet, inputs: Inputs, data: Any) -> None:
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
    inputs = Inputs(args, data.joint_order)
    torch.manual_seed(args.seed)  # the same weights on every rank, in every start of this run
    net = precision.place(build(args))
    optimizer = torch.optim.Adam(net.parameters(), args.lr, tuple(args.betas), fused=True)
    ema = EMA(net, args.ema) if args.ema else None
    images = args.batch_size * args.accumulate * run.world_size
    end = args.lr_decay_end or 0
    total = args.num_steps or math.ceil((args.num_epochs or 0) * len(data) / images) or end
    if not total:
        raise UserError("how long to train: give --num_steps, --num_epochs or --lr_decay_end")
    size = sum(p.numel() for p in net.parameters())
    run.print(
        f"training a VUNet ({args.variant}, {size:,} parameters) on {data.name}: {len(data)} "
        f"pictures of {args.spatial_size} px, {total} steps of {images} pictures, on {run.device} "
        f"in {precision.name} ({precision.reason}); run folder {run.folder}"
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

    for step in run.steps(total, images):
        net.train()
        lr = learning_rate(args, step, end or total)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad(set_to_none=True)
        noise = net.noise(images, run.device, run.generator(step))  # of all ranks
        finite = True
        for part, batch in enumerate(batches.batches(step)):
            target = signed(batch["target"]).contiguous(memory_format=precision.memory_format)
            first = (part * run.world_size + run.rank) * args.batch_size
            mine = noise.rows(slice(first, first + args.batch_size))
            with hold_gradients(model, part + 1 < args.accumulate), precision.autocast():
                out = model(*inputs(batch), "train", mine)
                loss, terms = loss_of(
                    args, features, out, target, batch.get("mask"), step, end or total
                )
            finite = finite and run.check(terms, batch)
            if finite:
                precision.backward(loss / args.accumulate)
        if finite:
            precision.step(optimizer)
            if ema:
                ema.update()
        run.log(step, terms if finite else {}, lr=lr, kl_weight=kl_factor(args, step, end or total))

        pictures = step == 0 or run.due(step, args.log_freq)
        scoring, score = run.due(step, args.test_freq), None
        if pictures or scoring:
            net.eval()
            with ema.swapped() if ema else contextlib.nullcontext(), precision.autocast():
                if pictures:
                    show(run, step, net, inputs, batch, "")
                    show(run, step, net, inputs, tests.batch(step), "valid_")
                if scoring:
                    batch = tests.batch(step)
                    show_transfer(run, step, net, inputs, batch)
                    show_samples(run, step, net, inputs, batch)
                    scores = validate(run, args, net, inputs, test)
                    run.record(step, scores)
                    score = scores.get("valid_L1")
        run.save(step, score)
    net.eval()
    with ema.swapped() if ema else contextlib.nullcontext(), precision.autocast():
        final_picture(run, net, inputs, test, args.on_bad_sample)


def load_network(
    content: dict[str, Any], path: Path, precision: Precision
) -> tuple[VUNet, dict[str, Any]]:
    """The network of a checkpoint for inference, with averaged weights where it has them, and the
    options it was trained with.
    """
    trained = content["options"]
    net = build(trained)
    checkpoints.load_weights(content, net, path)
    return precision.place(fold(net).eval()), dict(trained)


def start_from(run: Run, args: options.Namespace, net: VUNet, optimizer: Any) -> None:
    """Begin with the weights, and the moments, of --checkpoint; at its step, or at 0 to retrain."""
    path = checkpoints.find(args.checkpoint)
    content = checkpoints.read(path, "vunet")
    parts = {"model": net} if args.reset_optimizer else {"model": net, "optimizer": optimizer}
    checkpoints.load_parts(content, parts, path)
    run.step = 0 if args.retrain else content["step"]
    run.print(f"starting from {path}, step {content['step']}, as step {run.step}")


@options.user_errors()
def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    with closing(Ranks(args.device)) as ranks, Run("vunet", args, ranks) as run:
        precision = Precision(args.precision, run.device, args.channels_last)
        if args.mode == "train":
            train(run, args, precision)
        else:
            without_training(run, args, precision)


if __name__ == "__main__":
    main()
