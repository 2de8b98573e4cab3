"""Pictures of a VUNet in training, and the modes of its script that do not train."""

from __future__ import annotations

from typing import Any

import torch

from nets.data.people import open_people, write_pictures, write_pictures_index
from nets.run import checkpoints, options
from nets.run.images import labelled_grid, tile
from nets.run.loader import in_order, loader
from nets.run.precision import Precision
from nets.run.run import Run
from nets.vunet import Inputs, VUNet, reconstructions, signed, transfer_grid, transfers

from . import load_network

IMAGE_NAMES = {  # what the program of the image form calls what `reconstructions` does
    "x": "target", "c": "pose", "sample": "images_prediction",
    "test_sample": "images_prediction_sample",
}  # fmt: skip


def show(run: Run, step: int, net: VUNet, inputs: Inputs, batch: Any, prefix: str) -> None:
    """Reconstructions and samples of a batch, under the names of the form's published program."""
    noise = net.noise(len(batch["target"]), run.device, run.generator(step, "show"))
    made = reconstructions(net, inputs, batch, noise)
    if run.args.variant == "image":
        made = {IMAGE_NAMES[name]: pictures for name, pictures in made.items()}
        made["appearance"] = inputs.source(batch)[0]
    for name, pictures in made.items():
        run.image(prefix + name, step, pictures)


def show_transfer(
    run: Run, step: int, net: VUNet, inputs: Inputs, batch: Any, alone: bool = False
) -> None:
    """The transfer grid of a batch; `alone`: of no training step, the file is transfer_<step>."""
    cells = tile(transfer_grid(net, inputs, batch), columns=len(batch["target"]) + 1)
    run.image(*_called("transfer", step, alone), cells)


def show_samples(
    run: Run, step: int, net: VUNet, inputs: Inputs, batch: Any, alone: bool = False
) -> None:
    """Poses, and pictures drawn from the prior for them."""
    noise = net.noise(len(batch["target"]), run.device, run.generator(step, "show"))
    pose = inputs.pose(batch["joints"])
    run.image(*_called("testing_cond", step, alone), pose)
    made = net(pose, mode="sample", noise=noise).image
    run.image(*_called("testing_test_sample", step, alone), made)


def _called(name: str, step: int, alone: bool) -> tuple[str, int | None]:
    return (f"{name}_{step}", None) if alone else (name, step)


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
            pictures(run, number, net, inputs, batch, alone=True)
    run.print(f"pictures: {run.folder / 'images'}")
