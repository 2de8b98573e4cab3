"""Distil a small, fast network of one head avatar from a large one.

    python distil.py                                      a demo person, minutes on two cores
    python distil.py --checkpoint RUN -s me.jpg           driving poses of the demo world
    python distil.py --checkpoint RUN -s me.jpg -d talk.mp4
    python infer.py --checkpoint runs/avatars/TIME -d drive.mp4 -o out.mp4

The student learns the frames that the large network, its teacher, renders of that person. It needs
no other photos of the person: only driving poses. The same command goes on where it was stopped.
"""

from __future__ import annotations

import torch

from nets import published
from nets.bilayer.distil import (
    begin,
    complete,
    learning_rate,
    make_person,
    open_poses,
    parser,
    terms_of,
)
from nets.bilayer.network import Driver
from nets.bilayer.sources import Faces
from nets.bilayer.warm_start import Loaded, load_model, student_of
from nets.errors import UserError
from nets.run import options
from nets.run.ema import EMA
from nets.run.images import to_uint8
from nets.run.loader import loader
from nets.run.precision import Precision
from nets.run.ranks import Ranks, closing
from nets.run.run import Run
from nets.run.update import Update
from nets.spectral import fold

SHOWN = 6  # poses of the image that compares teacher and student


def train(run: Run, args: options.Namespace, precision: Precision, model: Loaded) -> None:
    faces = Faces(model.options, True, args.detector)
    source, avatar = make_person(args, model, faces)
    try:
        teacher = Driver(model.net, avatar, precision.dtype)
    except ValueError as error:
        raise UserError(f"{args.checkpoint}: {error}") from error
    data = open_poses(args, faces)
    torch.manual_seed(args.seed)  # the same weights on every rank, in every start of this run
    student = precision.place(student_of(args))
    optimizer = torch.optim.Adam(student.parameters(), args.lr, fused=True)
    ema = EMA(student, args.ema) if args.ema else None
    size = sum(p.numel() for p in student.parameters())
    run.print(
        f"distilling {args.checkpoint} into {size:,} parameters, {args.inf_num_channels} to "
        f"{args.inf_max_channels} channels, {len(student.texture[0, 0])} px, on {data.name}: "
        f"{args.num_steps} steps of {args.batch_size}, on {run.device} in {precision.name} "
        f"({precision.reason}); run folder {run.folder}"
    )
    parts = {"model": student, "optimizer": optimizer, "ema": ema, "precision": precision}
    if not run.resume(**parts):
        begin(student, model, source, avatar)
        if ema:
            ema.load_state_dict(EMA(student, args.ema).state_dict())
    if args.compile:
        student.compile()
    wrapped = run.ranks.wrap(student)
    update = Update(run, precision, [optimizer], ema, args.accumulate)
    batches = loader(
        data,
        args.batch_size // (run.world_size * args.accumulate),
        run.ranks,
        workers=args.workers,
        seed=args.seed,
        on_bad_sample=args.on_bad_sample,
        accumulate=args.accumulate,
        report=run.print,
    )

    for step in run.steps(args.num_steps, args.batch_size):
        student.train()
        lr = learning_rate(args, step)
        update.begin(lr)
        for _, batch in update.batches(batches, step):
            with update.forward(wrapped):
                image, layers = wrapped(batch["pose"])
                terms = terms_of(image, layers, teacher, batch["pose"])
            update.backward(sum(terms.values(), torch.zeros((), device=run.device)), terms)
        run.log(step, update.apply([student]), lr=lr)
        if run.due(step, args.ckpt_freq):
            poses = torch.stack([data[0, i]["pose"] for i in range(min(SHOWN, len(data)))])
            with update.evaluating(student):
                rows = [teacher(poses.to(run.device))[0], student(poses.to(run.device))[0]]
                run.image("teacher_student", step, torch.cat([to_uint8(row) for row in rows]))
        run.save(step)


@options.user_errors()
def main(argv: list[str] | None = None) -> None:
    args = options.parse(parser(options.summary(__doc__)), argv)
    path = published.find(args.checkpoint, "bilayer")
    with closing(Ranks(args.device)) as ranks:
        if args.batch_size % (ranks.world_size * args.accumulate):
            raise UserError(
                f"batch_size: must be a multiple of {ranks.world_size} ranks x {args.accumulate} "
                f"accumulated batches, got {args.batch_size}"
            )
        precision = Precision(args.precision, ranks.device, args.channels_last)
        model = load_model(published.read_checkpoint(path, "bilayer"), path, precision)
        fold(model.net)
        complete(args, model, path)
        with Run("bilayer", args, ranks) as run:
            train(run, args, precision, model)


if __name__ == "__main__":
    main()
