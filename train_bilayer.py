"""Train bilayer head avatars: one photograph of a head, driven by 68 points.

    python train_bilayer.py --config demo_bilayer.yaml        a demo world, minutes on a CPU
    torchrun --nproc_per_node=8 train_bilayer.py --config bilayer_base.yaml --data DATA
    python train_bilayer.py --config bilayer_finetune.yaml --data DATA \\
        --init_experiment_dir runs/vc2-hq_adrianb_paper_main --init_which_epoch 2225
    torchrun ... train_bilayer.py --config bilayer_enhancer.yaml --data DATA \\
        --init_experiment_dir runs/test_experiment --init_which_epoch 2225

Zakharov et al., ECCV 2020. The same command goes on where it was stopped.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from nets.bilayer import Bilayer, build, standing_statistics
from nets.bilayer.data import Avatars, further_tests, open_avatars, poses_of, prepare
from nets.bilayer.experiment import Experiment, printing_to
from nets.bilayer.losses import Losses
from nets.bilayer.objective import Scores, mean_scores, naming_options, open_losses
from nets.bilayer.options import learning_rate, optimizer, parse, schedule
from nets.bilayer.published_options import RENAMED
from nets.bilayer.visuals import grid
from nets.bilayer.warm_start import check_start, go_back, start
from nets.contracts import Dataset
from nets.run import options
from nets.run.ema import EMA
from nets.run.loader import Loader, in_order, loader
from nets.run.precision import Precision
from nets.run.ranks import Ranks, closing
from nets.run.run import Run
from nets.run.update import Update

Optimizers = dict[str, torch.optim.Optimizer]


def open_networks(
    run: Run, args: options.Namespace, precision: Precision
) -> tuple[Bilayer, Optimizers]:
    """The networks, the same on every rank and at every start, and an optimiser for each of them
    that learns.
    """
    torch.manual_seed(args.seed)
    with naming_options():
        net = precision.place(build(options.plain(args)))
    if run.world_size > 1 and run.device.type == "cuda":
        torch.nn.SyncBatchNorm.convert_sync_batchnorm(net)
    return net, {name: optimizer(args, name, weights) for name, weights in net.trainable()}


def average_decay(args: options.Namespace) -> float | None:
    """Decay of the moving average of the weights; 0: no average, None: the plain mean."""
    return {"running_average": args.wgv_momentum, "average": None}.get(args.wgv_mode, args.ema)


def open_loader(run: Run, args: options.Namespace, data: Avatars, seed: int) -> Loader:
    """Batches of this rank's share of `batch_size`."""
    size = args.batch_size // (run.world_size * args.accumulate)
    settings = {"on_bad_sample": args.on_bad_sample, "accumulate": args.accumulate}
    settings |= {"workers": args.workers, "shuffle": data.shuffle}
    return loader(data, size, run.ranks, seed=seed, report=run.print, **settings)


def calculate_statistics(
    run: Run, args: options.Namespace, net: Bilayer, data: Avatars, step: int
) -> None:
    """Set the running statistics of BatchNorm to their means over training batches."""
    count = min(args.stats_calc_iters, 10) if args.debug else args.stats_calc_iters
    source = open_loader(run, args, data, args.seed + 1)
    batches = (b for number in range(count) for b in source.batches((step + 1) * count + number))
    prepared = (prepare(batch, args) for batch in run.listen(batches))
    standing_statistics(net, prepared, args.networks_calc_stats)


def validate(
    run: Run,
    args: options.Namespace,
    net: Bilayer,
    test: Dataset,
    scores: Scores,
    experiment: Experiment,
    step: int,
    phase: str = "test",
) -> None:
    """Run all data of a phase through `networks_test`: log mean scores, write a grid.

    Phase test also lists its files. Phase metrics has batches of one pair.
    """
    begun = time.perf_counter()
    size = 1 if phase == "metrics" else max(1, args.batch_size // run.world_size)
    batches = in_order(test, size, run.ranks, 0, args.on_bad_sample, run.print)
    files: list[str] = []

    def prepared() -> Iterator[dict[str, Tensor]]:
        for batch in run.listen(itertools.islice(batches, 1) if args.debug else batches):
            files.extend(batch.get("files", []))
            yield prepare(batch, args)

    means, data = mean_scores(net, args.networks_test, prepared(), scores, run.ranks)
    if run.stopping():
        return
    if phase == "test":
        experiment.append_tests(run.ranks.gather(files))
    experiment.losses(step, phase, means, time.perf_counter() - begun)
    run.record(step, {f"{phase}_{name}": value for name, value in means.items()})
    number = experiment.epoch(step) // (args.metrics_freq if phase == "metrics" else args.test_freq)
    if data:
        experiment.grid(step, phase, number, grid(data, args.networks_test, args.num_visuals))


def gradients_again(
    args: options.Namespace,
    model: nn.Module,
    losses: Losses,
    optimizers: Optimizers,
    precision: Precision,
    batch: dict[str, Any],
) -> Tensor:
    """A batch's loss, with fresh gradients: for optimisers that evaluate it several times."""
    for opt in optimizers.values():
        opt.zero_grad(set_to_none=True)
    with precision.autocast():
        loss = sum(losses(model(prepare(batch, args), args.networks_train)).values())
    loss.backward()
    return loss


def train(
    run: Run, args: options.Namespace, precision: Precision, stack: contextlib.ExitStack
) -> None:
    if not run.resumes:
        check_start(run.folder, args)
    data = open_avatars(args, "train", args.save_dataset_filenames)
    tests: dict[str, Dataset] = {}
    if not args.skip_test:
        tests["test"] = open_avatars(args, "test", args.save_dataset_filenames)
    tests |= further_tests(args)
    losses = precision.place(open_losses(args, run, precision))  # looks for its weight files
    scores = Scores(args, run)
    net, optimizers = open_networks(run, args, precision)
    decay = average_decay(args)
    ema = None if decay == 0 else EMA(net, decay)
    step_epoch, total = schedule(args, len(data))
    experiment = stack.enter_context(contextlib.closing(Experiment(run, args, step_epoch)))
    size = sum(p.numel() for opt in optimizers.values() for p in opt.param_groups[0]["params"])
    run.print(
        f"training {', '.join(optimizers)} ({size:,} parameters) on {data.name}: {len(data)} "
        f"videos, {args.image_size} px, {total} steps of {args.batch_size}, {step_epoch} an epoch, "
        f"on {run.device} in {precision.name} ({precision.reason}); run folder {run.folder}"
    )
    states = {f"optimizer_{name}": opt for name, opt in optimizers.items()}
    fresh = not run.resume(model=net, ema=ema, losses=losses, precision=precision, **states)
    if fresh:
        new = "keypoints_embedder" in optimizers.keys() - set(args.init_networks)
        if args.pse_init == "whitened" and new:
            net.keypoints_embedder.whiten(poses_of(data))
        start(run, args, net, optimizers, step_epoch)
        if ema:
            ema.load_state_dict(EMA(net, decay).state_dict())
    experiment.open(run.step)
    if args.save_dataset_filenames:
        experiment.open_list("train", data, run.step * args.batch_size)
        if "test" in tests:
            experiment.open_list("test", tests["test"], 0 if fresh else len(tests["test"]))
    if args.compile:
        net.compile()
    model = run.ranks.wrap(net, unused_parameters=True)  # the embedder's last block is idle

    def closure(batch: dict[str, Any]) -> Tensor:
        return gradients_again(args, model, losses, optimizers, precision, batch)

    closures = {
        opt: closure
        for name, opt in optimizers.items()
        if args.use_closure or args.optims[name] == "lbfgs"
    }
    update = Update(run, precision, list(optimizers.values()), ema, args.accumulate, closures)
    batches = open_loader(run, args, data, args.seed)
    limited = [getattr(net, name) for name in optimizers] if args.max_grad_norm else []
    every = args.visual_freq if args.visual_freq > 0 else step_epoch
    begun = time.perf_counter()

    def evaluate(step: int, phases: Iterable[str]) -> None:
        with update.evaluating(net):
            if args.calc_stats:
                calculate_statistics(run, args, net, data, step)
            for phase in phases:
                validate(run, args, net, tests[phase], scores, experiment, step, phase)

    if fresh and tests and args.save_initial_test_before_training:
        evaluate(run.step - 1, tests)

    for step in run.steps(total, args.batch_size):
        net.train()
        factor = learning_rate(args, step, total)
        update.begin([args.lrs[name] * factor for name in optimizers])
        for _, batch in update.batches(batches, step):
            if args.save_dataset_filenames:
                experiment.append("train", itertools.chain(*run.ranks.gather(batch["files"])))
            with naming_options(), update.forward(model):
                result = model(prepare(batch, args), args.networks_train)
                terms = losses(result)
            update.backward(sum(terms.values()), terms)
        means = run.log(step, update.apply(limited, args.max_grad_norm), every=every)
        with torch.no_grad(), precision.autocast():
            experiment.step_metrics(step, result, terms, optimizers, scores)

        if means and run.due(step, every):
            experiment.losses(step, "train", means, time.perf_counter() - begun)
            number, begun = (step + 1) // every, time.perf_counter()
            image = grid(result, args.networks_train, args.num_visuals)
            experiment.grid(step, "train", number, image)
        testing = experiment.ends(step, args.test_freq)
        measuring = experiment.ends(step, args.metrics_freq)
        saving = experiment.ends(step, args.checkpoint_freq) or (testing and args.debug)
        due = [name for name in tests if (measuring if name == "metrics" else testing)]
        if due or ((testing or saving) and args.calc_stats):
            evaluate(step, due)
        if saving and not run.stopping():
            networks = {name: getattr(net, name) for name in args.networks_to_train}
            experiment.save_networks(experiment.epoch(step), networks, optimizers)
        run.save(step)


@options.user_errors()
def main(argv: list[str] | None = None) -> None:
    args = parse(options.summary(__doc__), argv)
    with closing(Ranks(args.device)) as ranks, contextlib.ExitStack() as stack:
        if args.no_disk_write_ops:
            args.run_dir = stack.enter_context(tempfile.TemporaryDirectory())
        notes = ranks.on_main(lambda: go_back(args, lambda: open_avatars(args, "train")))
        run = stack.enter_context(Run("bilayer", args, ranks, RENAMED))
        if args.redirect_print_to_file:
            stack.enter_context(printing_to(run.folder / "logs", run.rank))
        for note in notes:
            run.print(note)
        if args.debug:
            stack.enter_context(torch.autograd.detect_anomaly(check_nan=False))
        train(run, args, Precision(args.precision, run.device, args.channels_last), stack)


if __name__ == "__main__":
    main()
