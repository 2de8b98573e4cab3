"""Devices and ranks: one process, or the processes that torchrun started."""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nets.errors import UserError
from nets.run.options import RankLost

Result = TypeVar("Result")
# What DistributedDataParallel calls sending rank 0's buffers in every forward pass.
_NAMES = inspect.signature(DistributedDataParallel).parameters
_KEEP_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _NAMES else "broadcast_buffers"
LOST = re.compile(r"gloo|NCCL|ProcessGroup|TCPStore|[Tt]imed out")
TIMEOUT = 600.0  # seconds; GUISE_RANK_TIMEOUT overrides it
BEAT = 2.0  # seconds between two signs of life of `PatientRanks`
PATIENCE = 60.0  # seconds without one until a rank is lost; GUISE_RANK_TIMEOUT overrides it


class Ranks:
    """This process among the ranks of a run, and operations that all ranks call together.

    device       torch.device of this rank
    rank         0 .. world_size - 1 among all machines; local_rank among those of this machine
    is_main      whether this is rank 0, the only one that writes files
    Without torchrun: one rank and no process group; every method works and costs nothing.
    """

    def __init__(self, device: str = "auto", timeout: float | None = None):
        """Join the ranks that torchrun started.

        device   "cpu", "cuda", or "auto": cuda where there is one
        timeout  seconds to wait for a rank that does not answer before the run ends
        Raises UserError if there is no such device.
        """
        self.rank = _integer("RANK", 0)
        self.world_size = _integer("WORLD_SIZE", 1)
        self.local_rank = _integer("LOCAL_RANK", 0)
        self.local_world_size = _integer("LOCAL_WORLD_SIZE", 1)
        self.is_main = self.rank == 0
        self.device = _device(device, self.local_rank, self.local_world_size)
        self.note = ""
        if self.world_size == 1:
            return
        if self.device.type == "cpu":
            self.note = _share_threads(self.local_world_size)
        if timeout is None:
            timeout = float(os.environ.get("GUISE_RANK_TIMEOUT", TIMEOUT))
        backend = "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo"
        store, _, _ = next(dist.rendezvous("env://", timeout=timedelta(seconds=timeout)))
        # Each attempt of torchrun --max-restarts has its own prefix, for their store is the same.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._store = dist.PrefixStore(f"guise/{attempt}", store)
        dist.init_process_group(
            backend,
            store=self._store,
            rank=self.rank,
            world_size=self.world_size,
            timeout=timedelta(seconds=timeout),
            # NCCL connects now and not in the first step; a wrong mapping of ranks is found here.
            device_id=self.device if self.device.type == "cuda" else None,
        )

    def max(self, number: float) -> float:
        """The largest of the ranks' numbers, the same on all; exact up to 2**53."""
        if self.world_size == 1:
            return number
        value = torch.tensor(number, dtype=torch.float64)
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return value.item()

    def any(self, flag: bool) -> bool:
        """True if the flag is set on any rank."""
        return bool(self.max(float(flag)))

    def mean(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """The mean of each scalar over the ranks, as float32; all ranks pass the same names."""
        names = sorted(values)
        if not names:
            return {}
        scalars = [values[name].detach().to(self.device, torch.float32) for name in names]
        stacked = torch.stack([scalar.reshape(()) for scalar in scalars])
        if self.world_size > 1:
            dist.all_reduce(stacked)
            stacked = stacked / self.world_size
        return dict(zip(names, stacked.unbind(), strict=True))

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in rank order, on every rank: numbers, lists, CPU tensors."""
        if self.world_size == 1:
            return [value]
        values = [None] * self.world_size
        self._meet()
        dist.all_gather_object(values, value)
        return values

    def on_main(self, work: Callable[[], Result]) -> Result:
        """Run `work()` on rank 0 and return its result, or raise its error, on every rank."""
        if self.world_size == 1:
            return work()
        box: list[Any] = [None, None]
        if self.is_main:
            try:
                box[0] = work()
            except (UserError, OSError) as error:
                box[1] = error
        self._meet()
        dist.broadcast_object_list(box)
        if box[1] is not None:
            raise box[1]
        return box[0]

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.any(False)

    def part(self, whole: Tensor) -> Tensor:
        """This rank's rows of a tensor with the rows of all ranks, such as shared noise."""
        return whole.chunk(self.world_size)[self.rank] if self.world_size > 1 else whole

    def wrap(self, model: nn.Module, unused_parameters: bool = False) -> nn.Module:
        """The model whose backward pass averages gradients over the ranks (itself for one rank).

        Rank 0's weights are sent to all ranks now; buffers stay each rank's own.
        unused_parameters  some parameters get no gradient in some steps (slower)
        A model is compiled in place (`model.compile()`) before it is wrapped.
        """
        if self.world_size == 1:
            return model
        buffers: dict[str, Any] = {_KEEP_BUFFERS: False}
        return DistributedDataParallel(
            model,
            device_ids=[self.device.index] if self.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
            find_unused_parameters=unused_parameters,
            **buffers,
        )

    def silent(self, patience: float = 3.0) -> list[int]:
        """The ranks that hang or are dead, after another rank was lost.

        They are those that do not report within `patience` seconds that they, too, lost a rank.
        Empty if that cannot be determined.
        """
        try:
            self._store.set(f"lost/{self.rank}", "1")
            deadline = time.monotonic() + patience
            alive: set[int] = set()
            while len(alive) < self.world_size and time.monotonic() < deadline:
                time.sleep(0.1)
                alive = {r for r in range(self.world_size) if self._store.check([f"lost/{r}"])}
        except (RuntimeError, ValueError):
            return []
        return sorted(set(range(self.world_size)) - alive)

    def _meet(self) -> None:
        """Called before objects are exchanged; `PatientRanks` wait here for each other."""

    def close(self) -> None:
        """Leave the process group at an orderly end; waits for the other ranks."""
        if dist.is_initialized():
            dist.destroy_process_group()


class PatientRanks(Ranks):
    """Ranks that work for hours without an operation in common, on the CPU.

        with PatientRanks() as ranks:
            names = ranks.on_main(list_files)  # may take longer than the timeout of an operation
            results = ranks.gather(work(names[ranks.rank :: ranks.world_size]))

    Each rank sends a sign of life every two seconds from a thread. Ranks wait for each other as
    long as all of them send one. Raises RankLost, which names the ranks that failed or are silent.
    """

    def __init__(self) -> None:
        super().__init__("cpu")
        self._patience = float(os.environ.get("GUISE_RANK_TIMEOUT", PATIENCE))
        self._meetings = 0
        self._left = threading.Event()
        self._beats = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> PatientRanks:
        if self.world_size > 1:
            self._store.add(f"beats/{self.rank}", 1)
            self._beats.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, *trace: object
    ) -> None:
        if self.world_size == 1:
            return
        self._left.set()
        # A thread still in a call of the store when Python ends would abort the process.
        self._beats.join(timeout=5 * BEAT)
        if kind is None:
            self.close()
            return
        with contextlib.suppress(RuntimeError):  # the store may be gone
            self._store.set(f"failed/{self.rank}", "1")
        text = str(error)
        if isinstance(error, dist.DistError) or (kind is RuntimeError and LOST.search(text)):
            raise RankLost(f"another rank cannot be reached: {text.splitlines()[0]}") from error

    def _beat(self) -> None:
        with contextlib.suppress(RuntimeError):  # the store is gone: `_meet` reports that
            while not self._left.wait(BEAT):
                self._store.add(f"beats/{self.rank}", 1)

    def _meet(self) -> None:
        """Wait until all ranks are here. Raises RankLost."""
        self._meetings += 1
        place = f"meeting/{self._meetings}"
        self._store.set(f"{place}/{self.rank}", "1")
        waiting = {rank: (0, time.monotonic()) for rank in range(self.world_size)}
        while waiting:
            waiting = self._still_waiting(place, waiting)
            time.sleep(0.05 if waiting else 0)

    def _still_waiting(
        self, place: str, waiting: dict[int, tuple[int, float]]
    ) -> dict[int, tuple[int, float]]:
        """The ranks that are not at `place` yet, with their last beat and when it was seen."""
        result = {}
        for rank, (beats, seen) in waiting.items():
            if self._store.check([f"{place}/{rank}"]):
                continue
            if self._store.check([f"failed/{rank}"]):
                raise RankLost(f"rank {rank} failed")
            now = self._store.add(f"beats/{rank}", 0)
            if now == beats and time.monotonic() - seen > self._patience:
                raise RankLost(f"rank {rank} sent no sign of life for {self._patience:g} s")
            result[rank] = (beats, seen) if now == beats else (now, time.monotonic())
        return result


def hold_gradients(model: nn.Module, hold: bool) -> AbstractContextManager:
    """A context in which, if `hold`, backward passes accumulate gradients without averaging."""
    if hold and isinstance(model, DistributedDataParallel):
        return model.no_sync()
    return contextlib.nullcontext()


def bare(model: Any) -> Any:
    """The model without the wrappers of DistributedDataParallel and torch.compile."""
    while isinstance(model, DistributedDataParallel) or hasattr(model, "_orig_mod"):
        model = model.module if isinstance(model, DistributedDataParallel) else model._orig_mod
    return model


@contextlib.contextmanager
def closing(ranks: Ranks) -> Iterator[Ranks]:
    """Close the ranks when the block ends without an error.

    Raises RankLost, which names them, if the block failed because other ranks do not answer.
    """
    try:
        yield ranks
    except RuntimeError as error:
        text = str(error)
        if ranks.world_size == 1 or not LOST.search(text):
            raise
        silent = ", ".join(map(str, ranks.silent()))
        who = f"rank {silent}" if silent else "another rank"
        raise RankLost(f"{who} died or cannot be reached: {text.splitlines()[0]}") from error
    ranks.close()


def _integer(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    try:
        return int(text)
    except ValueError as error:
        raise UserError(f"{name} in the environment must be a number, got {text}") from error


def _device(name: str, local_rank: int, local_world_size: int) -> torch.device:
    available = torch.cuda.is_available()
    if name == "cpu" or (name == "auto" and not available):
        return torch.device("cpu")
    if name not in ("auto", "cuda"):
        raise UserError(f"--device must be auto, cpu or cuda, got {name}")
    if not available:
        raise UserError("--device cuda: torch finds no CUDA device; --device cpu works without")
    count = torch.cuda.device_count()
    # With torchrun --virtual-local-rank each rank sees its own GPU alone, as number 0.
    own = local_rank == 0 and count == 1 and os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if local_world_size > count and not own:
        raise UserError(
            f"{local_world_size} ranks on this machine but {count} CUDA "
            f"devices: use torchrun --nproc_per_node={count}"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def _share_threads(ranks: int) -> str:
    """Divide the processor cores among the machine's ranks; torchrun gives each one thread."""
    if ranks == 1 or os.environ.get("OMP_NUM_THREADS", "1") != "1":
        return ""
    cores = len(os.sched_getaffinity(0))
    threads = max(1, cores // ranks)
    torch.set_num_threads(threads)
    return f"{cores} processor cores shared by {ranks} ranks: {threads} thread(s) each"
