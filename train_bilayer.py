"""Train bilayer head avatars: one photograph of a head, driven by 68 points.

    python train_bilayer.py --config demo_bilayer.yaml        a demo world, minutes on a CPU
    torchrun --nproc_per_node=8 train_bilayer.py --config bilayer_base.yaml --data_root DATA
    python train_bilayer.py --config bilayer_finetune.yaml --data_root DATA \\
        --init_experiment_dir runs/vc2-hq_adrianb_paper_main --init_which_epoch 2225
    torchrun ... train_bilayer.py --config bilayer_enhancer.yaml --data_root DATA \\
        --init_experiment_dir runs/test_experiment --init_which_epoch 2225

Zakharov et al., ECCV 2020. The same command goes on where it was stopped.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from nets.bilayer import standing_statistics
from nets.bilayer.data import open_avatars, prepare
from nets.bilayer.experiment import Experiment, printing_to
from nets.bilayer.network import build
from nets.bilayer.objective import SHOWN, Scores, mean_scores, naming_options, open_losses
from nets.bilayer.options import learning_rate, optimizer, parse, schedule
from nets.bilayer.visuals import grid
from nets.bilayer.warm_start import start
from nets.run import options
from nets.run.ema import EMA
from nets.run.loader import Loader, in_order, loader
from nets.run.log import Window
from nets.run.precision import Precision
from nets.run.ranks import Ranks, closing, hold_gradients
from nets.run.run import Run

Optimizers = dict[str, torch.optim.Optimizer]


class Training:
    """What the loop below works with: networks, optimisers, data, and who is told."""

    def __init__(self, run: Run, args: options.Namespace, precision: Precision):
        self.run, self.args, self.precision = run, args, precision
        names = args.save_dataset_filenames
        self.data = open_avatars(args, "train", names)
        self.test = None if args.skip_test else open_avatars(args, "test", names)
        torch.manual_seed(args.seed)  # the same weights on every rank, in every start of this run
        with naming_options():
            self.net = precision.place(build(options.plain(args)))
        if run.world_size > 1 and run.device.type == "cuda":
            torch.nn.SyncBatchNorm.convert_sync_batchnorm(self.net)
        self.optimizers: Optimizers = {
            name: optimizer(args, name, parameters) for name, parameters in self.net.trainable()
        }
        self.closures = [
            n for n in self.optimizers if args.use_closure or args.optims[n] == "lbfgs"
        ]
        self.clock = (run.step, time.perf_counter())
        self.step_epoch, self.total = schedule(args, len(self.data))
        self.experiment = Experiment(run, args, self.step_epoch)
        decay = {"running_average": args.wgv_momentum, "average": None}.get(args.wgv_mode, args.ema)
        self.ema = None if decay == 0 else EMA(self.net, decay)
        self.losses = precision.place(open_losses(args, run, precision))
        self.scores = Scores(args, run)

    def batches(self, seed: int) -> Loader:
        """Batches of this rank's share of `batch_size`."""
        args, ranks = self.args, self.run.ranks
        size = args.batch_size // (ranks.world_size * args.accumulate)
        settings = {"on_bad_sample": args.on_bad_sample, "accumulate": args.accumulate}
        settings |= {"workers": args.workers, "shuffle": self.data.shuffle}
        return loader(self.data, size, ranks, seed=seed, report=self.run.print, **settings)

    def tests(self) -> Iterator[dict[str, Any]]:
        size = max(1, self.args.batch_size // self.run.world_size)
        bad = self.args.on_bad_sample
        rest = in_order(self.test, size, self.run.ranks, 0, bad, self.run.print)
        return itertools.islice(rest, 1) if self.args.debug else rest

    def objective(self, model: Any, batch: dict[str, Any]) -> Tensor:
        """A batch's loss again, with fresh gradients: for optimisers that ask several times."""
        for opt in self.optimizers.values():
            opt.zero_grad(set_to_none=True)
        with self.precision.autocast():
            data = model(prepare(batch, self.args), self.args.networks_train)
            loss = sum(self.losses(data).values())
        loss.backward()
        return loss

    def averaged(self) -> contextlib.AbstractContextManager:
        return self.ema.swapped() if self.ema else contextlib.nullcontext()


def validate(t: Training, step: int) -> None:
    """Standing statistics, then all test data through `networks_test`: means, grid, list."""
    args, run, begun = t.args, t.run, time.perf_counter()
    if args.calc_stats:
        count = min(args.stats_calc_iters, 10) if args.debug else args.stats_calc_iters
        stream = t.batches(args.seed + 1)
        some = (b for number in range(count) for b in stream.batches((step + 1) * count + number))
        batches = (prepare(batch, args) for batch in run.listen(some))
        with t.precision.autocast():
            standing_statistics(t.net, batches, args.networks_calc_stats)
    if t.test is None:
        return
    t.net.eval()
    files: list[str] = []

    def prepared() -> Iterator[dict[str, Tensor]]:
        for batch in run.listen(t.tests()):
            files.extend(batch.get("files", []))
            yield prepare(batch, args)

    with t.precision.autocast():
        means, data = mean_scores(t.net, args.networks_test, prepared(), t.scores, run.ranks)
    if run.stopping():
        return
    t.experiment.append_tests(run.ranks.gather(files))
    seconds = time.perf_counter() - begun
    t.experiment.losses(step, "test", means, seconds)
    run.record(step, {f"test_{name}": value for name, value in means.items()})
    number = t.experiment.epoch(step) // args.test_freq
    if data:
        t.experiment.grid(step, "test", number, grid(data, args.networks_test, args.num_visuals))


def tell_step(t: Training, step: int, data: dict[str, Tensor], terms: dict[str, Tensor]) -> None:
    """What metrics/ shows of single steps."""
    args, experiment = t.args, t.experiment
    if step % args.metrics_log_rate == 0:
        numbers = {f"losses/{name}": value.item() for name, value in terms.items()}
        numbers["loss/train_loss"] = sum(numbers.values())
        for name, opt in t.optimizers.items():
            adam = "betas" in opt.param_groups[0]
            first = 1 - args.adam_beta1 ** (step + 1) if adam else 1.0
            numbers[f"lrs/{name}"] = opt.param_groups[0]["lr"] / first
        with torch.no_grad(), t.precision.autocast():
            scores = t.scores(data)
        numbers |= {f"metrics/{SHOWN[k]}": float(v) for k, v in scores.items()}
        (last, since), t.clock = t.clock, (step, time.perf_counter())
        numbers["timing/seconds_per_step"] = (t.clock[1] - since) / max(1, step - last)
        experiment.scalars(step, numbers)
    if step % args.images_log_rate == 0:
        shown = {"source_image": "source_imgs", "target_image": "target_imgs",
                 "generated_image": args.dis_fake_imgs_name}  # fmt: skip
        experiment.images(step, {k: data[v][0, 0] for k, v in shown.items() if v in data})


def train(t: Training) -> None:
    run, args, precision = t.run, t.args, t.precision
    net, experiment, step_epoch = t.net, t.experiment, t.step_epoch
    size = sum(p.numel() for opt in t.optimizers.values() for p in opt.param_groups[0]["params"])
    run.print(
        f"training {', '.join(t.optimizers)} ({size:,} parameters) on {t.data.name}: "
        f"{len(t.data)} videos, {args.image_size} px, {t.total} steps of {args.batch_size}, "
        f"{step_epoch} an epoch, on {run.device} in {precision.name} ({precision.reason}); "
        f"run folder {run.folder}"
    )
    states = {f"optimizer_{name}": opt for name, opt in t.optimizers.items()}
    fresh = not run.resume(model=net, ema=t.ema, losses=t.losses, precision=precision, **states)
    if fresh:
        start(run, args, net, t.optimizers, step_epoch)
        if t.ema:
            t.ema.load_state_dict(EMA(net, t.ema.decay).state_dict())
    experiment.open(run.step)
    if args.save_dataset_filenames:
        experiment.open_list("train", t.data, run.step * args.batch_size)
        if t.test is not None:
            experiment.open_list("test", t.test, 0 if fresh else len(t.test))
    if args.compile:
        net.compile()
    model = run.ranks.wrap(net, unused_parameters=True)  # the embedder's last block is idle
    batches = t.batches(args.seed)
    every = args.visual_freq if args.visual_freq > 0 else step_epoch
    begun = time.perf_counter()
    if fresh and not args.skip_test and args.save_initial_test_before_training:
        with t.averaged():
            validate(t, run.step - 1)

    for step in run.steps(t.total, args.batch_size):
        net.train()
        for name, opt in t.optimizers.items():
            for group in opt.param_groups:
                group["lr"] = args.lrs[name] * learning_rate(args, step, t.total)
            opt.zero_grad(set_to_none=True)
        finite, told = True, Window()  # of all batches of the step
        for part, batch in enumerate(batches.batches(step)):
            if args.save_dataset_filenames:
                experiment.append("train", itertools.chain(*run.ranks.gather(batch["files"])))
            hold = hold_gradients(model, part + 1 < args.accumulate)
            with naming_options(), hold, precision.autocast():
                data = model(prepare(batch, args), args.networks_train)
                terms = t.losses(data)
            finite = finite and run.check(terms, batch)
            told.add(terms)
            if finite:
                precision.backward(sum(terms.values()) / args.accumulate)
        if finite:
            norm = precision.gradient_norm(*t.optimizers.values())
            finite = run.check({"gradient_norm": norm}, batch)
        if finite:
            precision.step(*(opt for name, opt in t.optimizers.items() if name not in t.closures))
            for name in t.closures:
                t.optimizers[name].step(lambda batch=batch: t.objective(model, batch))
            if t.ema:
                t.ema.update()
        means = run.log(step, told.means() if finite else {}, every=every)
        tell_step(t, step, data, terms)
        if means and run.due(step, every):
            experiment.losses(step, "train", means, time.perf_counter() - begun)
            number, begun = (step + 1) // every, time.perf_counter()
            image = grid(data, args.networks_train, args.num_visuals)
            experiment.grid(step, "train", number, image)
        testing = experiment.ends(step, args.test_freq)
        saving = experiment.ends(step, args.checkpoint_freq) or (testing and args.debug)
        if testing or (saving and args.calc_stats):
            with t.averaged():
                validate(t, step)
        if saving and not run.stopping():
            networks = {name: getattr(net, name) for name in args.networks_to_train}
            experiment.save_networks(experiment.epoch(step), networks, t.optimizers)
        run.save(step)


@options.user_errors()
def main(argv: list[str] | None = None) -> None:
    args = parse(__doc__.split("\n\n")[0], argv)
    with closing(Ranks(args.device)) as ranks, contextlib.ExitStack() as stack:
        if args.no_disk_write_ops:
            args.run_dir = stack.enter_context(tempfile.TemporaryDirectory())
        run = stack.enter_context(Run("bilayer", args, ranks))
        if args.redirect_print_to_file:
            stack.enter_context(printing_to(run.folder / "logs", run.rank))
        if args.debug:
            stack.enter_context(torch.autograd.detect_anomaly(check_nan=False))
        t = Training(run, args, Precision(args.precision, run.device, args.channels_last))
        stack.enter_context(contextlib.closing(t.experiment))
        train(t)


if __name__ == "__main__":
    main()
