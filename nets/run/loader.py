"""The data loader: the batches of any step, whatever the number of workers and after any restart.

The order of epoch e is a permutation from (seed, e). Epochs follow each other without a gap, so the
last batch of one is completed from the next. Step k takes the k-th piece of that stream, divided
among accumulated batches and ranks. Two ranks with batch b therefore see what one rank with batch
2b does.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.queues import Queue
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate
from torch.utils.data import Dataset as TorchDataset

from nets.contracts import Dataset, Place
from nets.errors import BadSample, UserError
from nets.run.ranks import Ranks
from nets.run.seeds import generator
from nets.run.shortage import shortage
from nets.run.stop import SIGNALS

Batched = TypeVar("Batched")
ATTEMPTS = 20  # replacements tried for one bad sample


class Order:
    """(epoch, index) of a position in the endless stream of samples."""

    def __init__(self, length: int, seed: int, shuffle: bool = True):
        self.length = length
        self.seed = seed
        self.shuffle = shuffle
        self._epoch = -1
        self._permutation: list[int] = []

    def __getitem__(self, position: int) -> Place:
        epoch, place = divmod(position, self.length)
        if not self.shuffle:
            return epoch, place
        if epoch != self._epoch:
            order = torch.randperm(self.length, generator=generator(self.seed, "order", epoch))
            self._permutation = order.tolist()
            self._epoch = epoch
        return epoch, self._permutation[place]


class Loader:
    """The batches of a training run, by step; `loader` constructs it."""

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        ranks: Ranks,
        workers: int = 0,
        seed: int = 0,
        shuffle: bool = True,
        on_bad_sample: str = "fail",
        accumulate: int = 1,
        report: Callable[[str], None] = print,
    ):
        if not len(dataset):
            raise UserError(f"{getattr(dataset, 'name', 'dataset')}: holds no samples")
        self.length = len(dataset)
        self.order = Order(self.length, seed, shuffle)
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.ranks = ranks
        self.report = report
        self.skipped: set[str] = set()
        self._reader = _Reader(dataset, seed, replace=on_bad_sample == "skip")
        self._skip = on_bad_sample == "skip"
        self._workers = workers
        self._next: int | None = None
        self._stream: Iterator[Any] | None = None

    @property
    def samples_per_step(self) -> int:
        """Samples over all ranks and accumulated batches."""
        return self.batch_size * self.accumulate * self.ranks.world_size

    def epoch(self, step: int) -> int:
        """The epoch of the step's first sample."""
        return step * self.samples_per_step // self.length

    def batch(self, step: int) -> dict[str, Any]:
        """The batch of a step, on the device: a dict of stacked tensors. accumulate must be 1."""
        if self.accumulate != 1:
            raise ValueError(f"batch: accumulate must be 1, got {self.accumulate}; use batches")
        (batch,) = self.batches(step)
        return batch

    def batches(self, step: int) -> Iterator[dict[str, Any]]:
        """The `accumulate` batches of a step, on the device."""
        if step != self._next:
            self._stream = None  # ends its workers before the next ones are forked
            first = step * self.samples_per_step + self.ranks.rank * self.batch_size
            places = _places(self.order, first, self.batch_size, self.ranks.world_size)
            self._stream = _stream(self._reader, places, self._workers, self.ranks)
        assert self._stream is not None  # set when _next was set
        self._next = None  # until all are taken: a caller that breaks off leaves some behind
        for _ in range(self.accumulate):
            batch, bad = _next(self._stream)
            self._count(bad)
            if batch is None:
                raise bad[-1]
            yield to_device(batch, self.ranks.device)
        self._next = step + 1

    def _count(self, bad: list[BadSample]) -> None:
        """Raise the first bad sample, or with `skip` report them, up to 1 % of the data."""
        for error in bad:
            if not self._skip:
                raise error
            if error.file not in self.skipped:
                self.skipped.add(error.file)
                self.report(f"skipped ({len(self.skipped)}): {error}")
        limit = min(100, max(10, self.length // 100))
        if len(self.skipped) > limit:
            raise UserError(f"more than {limit} samples cannot be read; the last one: {bad[-1]}")


def loader(
    dataset: Dataset,
    batch_size: int,
    ranks: Ranks,
    **settings: Any,
) -> Loader:
    """An endless source of batches by step; see `Loader`.

    dataset        see `nets.contracts.Dataset`; it may have __getitems__ for a list of places
    batch_size     samples a batch and rank
    workers        reading processes of this rank; 0: read here
    seed, shuffle  the order of an epoch is a permutation from (seed, epoch), or 0, 1, 2, ...
    on_bad_sample  "fail": raise BadSample; "skip": report it and replace it by another sample,
                   drawn from (seed, epoch, index); UserError beyond 1 % of the dataset (at least
                   10, at most 100 files)
    accumulate     batches a step
    report         called with a line for each skipped sample
    """
    return Loader(dataset, batch_size, ranks, **settings)


def in_order(
    dataset: Dataset,
    batch_size: int,
    ranks: Ranks,
    workers: int = 0,
    on_bad_sample: str = "fail",
    report: Callable[[str], None] = print,
) -> Iterator[dict[str, Any]]:
    """Batches of this rank's samples, each once, in order, on the device; the last may be short.

    Rank r of R reads samples r, r + R, r + 2R, ...; the epoch is always 0. A bad sample raises
    BadSample; with on_bad_sample="skip" it is left out and reported.
    """
    mine = range(ranks.rank, len(dataset), ranks.world_size)
    places = [
        [(0, index) for index in mine[start : start + batch_size]]
        for start in range(0, len(mine), batch_size)
    ]
    stream = _stream(_Reader(dataset, 0, replace=False), places, workers, ranks)
    for _ in places:
        batch, bad = _next(stream)
        for error in bad:
            if on_bad_sample != "skip":
                raise error
            report(f"left out: {error}")
        if batch is not None:
            yield to_device(batch, ranks.device)


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch with all its tensors on the device; copies of pinned ones are asynchronous."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        return [to_device(value, device) for value in batch]
    return batch


def fetched(
    batches: Iterable[Batched], compute: Callable[[Batched], Tensor], ahead: int
) -> Iterator[tuple[Batched, Tensor]]:
    """Each batch with `compute(batch)` on the CPU.

    ahead  0: one after the other. 1: the next batch is begun before a result is handed out, which
           on CUDA keeps the GPU at work while the CPU writes; results come through pinned memory
    """
    waiting: deque[tuple[Batched, Tensor, torch.cuda.Event | None]] = deque()

    def next_one() -> tuple[Batched, Tensor]:
        batch, result, done = waiting.popleft()
        if done is not None:
            done.synchronize()
        return batch, result

    for batch in batches:
        result = compute(batch)
        if result.is_cuda and ahead:
            host = torch.empty(result.shape, dtype=result.dtype, pin_memory=True)
            host.copy_(result, non_blocking=True)
            done = torch.cuda.Event()
            done.record()
            waiting.append((batch, host, done))
        else:
            waiting.append((batch, result.cpu(), None))
        while len(waiting) > ahead:
            yield next_one()
    while waiting:
        yield next_one()


def _places(order: Order, position: int, count: int, ranks: int) -> Iterator[list[Place]]:
    """The places of a rank's batches from a position on, without end.

    It is no method: its frame would keep the loader in a reference cycle, and its workers alive.
    """
    while True:
        yield [order[position + i] for i in range(count)]
        position += count * ranks


class _Reader(TorchDataset):
    """Reads a batch's samples and returns bad ones beside the batch.

    (As an exception a bad sample would lose its file's name on the way out of a worker.)
    replace  replace a bad sample by another one. A batch is None if no replacement can be read, or
             if no sample is left
    """

    def __init__(self, dataset: Dataset, seed: int, replace: bool):
        self.dataset = dataset
        self.seed = seed
        self.replace = replace

    def __getitems__(self, places: list[Place]) -> tuple[Any, list[BadSample]]:
        bad: list[BadSample] = []
        read_all = getattr(self.dataset, "__getitems__", None)
        samples = None
        if read_all is not None:
            try:
                samples = read_all(places)
            except BadSample:
                samples = None  # read one by one, to learn which one is bad
        if samples is None:
            samples = [self._read(place, bad) for place in places]
        good = [sample for sample in samples if sample is not None]
        whole = len(good) == len(places) or not self.replace
        return (default_collate(good) if good and whole else None), bad

    def _read(self, place: Place, bad: list[BadSample]) -> dict[str, Any] | None:
        try:
            return self.dataset[place]
        except BadSample as error:
            bad.append(error)
        return self._replacement(place, bad) if self.replace else None

    def _replacement(self, place: Place, bad: list[BadSample]) -> dict[str, Any] | None:
        """Another sample of the same epoch, drawn at random; the same one after a restart."""
        epoch, index = place
        drawn = generator(self.seed, "replacement", epoch, index)
        for other in torch.randint(len(self.dataset), (ATTEMPTS,), generator=drawn).tolist():
            if other != index:
                try:
                    return self.dataset[epoch, other]
                except BadSample as error:
                    bad.append(error)
        return None


def _stream(reader: _Reader, places: Any, workers: int, ranks: Ranks) -> Iterator[Any]:
    """The reader's batch for each list of places, in order; workers read ahead."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        source = DataLoader(
            reader,
            batch_sampler=places,
            num_workers=workers,
            collate_fn=_as_it_is,
            worker_init_fn=_follow_the_parent,
            pin_memory=ranks.device.type == "cuda",
            prefetch_factor=2 if workers else None,
            # Else a new iterator, as after a restart, would draw from the global generator.
            generator=torch.Generator(),
        )
        # Signals wait until `_follow_the_parent` has run in the new workers.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            return iter(source)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _next(stream: Iterator[Any]) -> Any:
    """The next batch. Raises UserError if a worker died, of which torch has several errors."""
    try:
        return next(stream)
    except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:
        text = str(error)
        if remedy := shortage(text):
            raise UserError(remedy) from error
        own = isinstance(error, RuntimeError) and not text.startswith("DataLoader worker")
        if own or text.startswith("Caught "):  # raised by the dataset, with its own traceback
            raise
        raise UserError(
            f"a process that reads data died ({' '.join(text.split())}); was memory short? "
            f"--workers 0 reads in the training process"
        ) from error


def _as_it_is(batch: Any) -> Any:
    return batch


def _follow_the_parent(worker: int) -> None:
    """Let the parent decide when a worker ends: ignore Ctrl-C, SIGHUP and a scheduler's SIGTERM.

    The worker dies with its parent, however that died. It holds the parent's connections to the
    other ranks, which would otherwise not notice that a rank is gone.
    """
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, {signal.SIGTERM})
    threading.Thread(target=_obey_the_parent_only, daemon=True).start()
    # A batch that cannot be handed over would be printed and lost, and the parent wait for ever.
    Queue._on_queue_feeder_error = staticmethod(_give_up)  # type: ignore[attr-defined]


def _give_up(error: Exception, batch: object) -> None:
    """End the worker, with one line; the parent then ends the run."""
    text = " ".join(str(error).split())
    print(f"a batch cannot be handed over: {shortage(text) or text}", file=sys.stderr, flush=True)
    os._exit(1)


def _obey_the_parent_only() -> None:
    """End the process on a SIGTERM that the parent sent; ignore others."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
