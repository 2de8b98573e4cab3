"""The loader: what each step sees does not depend on workers, ranks or restarts."""

import os
import signal
import time
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import Dataset

from nets.errors import BadSample, UserError
from nets.run.loader import fetched, in_order, loader
from nets.run.options import user_errors
from toy import Numbers


def ranks(rank=0, world_size=1):
    return SimpleNamespace(rank=rank, world_size=world_size, device=torch.device("cpu"))


def seen(data, step):
    return [place for batch in data.batches(step) for place in batch["place"].tolist()]


class Places(Dataset):
    """Samples that tell where they are from."""

    def __init__(self, length, bad=()):
        self.length, self.bad = length, bad

    def __len__(self):
        return self.length

    def __getitem__(self, place):
        if place[1] in self.bad:
            raise BadSample(f"{place[1]}.png", "truncated")
        return {"place": torch.tensor(place)}


class Whole(Places):
    """The same, several at once."""

    calls = 0

    def __getitems__(self, places):
        self.calls += 1
        return [self[place] for place in places]


def test_an_epoch_has_each_sample_once_and_the_next_another_order():
    data = loader(Places(12), 4, ranks(), seed=3)
    epochs = [[place for step in range(3) for place in seen(data, 3 * e + step)] for e in range(2)]
    for e, places in enumerate(epochs):
        assert {epoch for epoch, _ in places} == {e}
        assert sorted(index for _, index in places) == list(range(12))
    assert [i for _, i in epochs[0]] != [i for _, i in epochs[1]]
    other = loader(Places(12), 4, ranks(), seed=4)
    assert seen(other, 0) != epochs[0][:4]


def test_the_last_batch_of_an_epoch_is_completed_from_the_next():
    data = loader(Places(5), 3, ranks(), shuffle=False)
    assert seen(data, 1) == [[0, 3], [0, 4], [1, 0]]
    assert seen(data, 2) == [[1, 1], [1, 2], [1, 3]]
    assert [data.epoch(step) for step in range(4)] == [0, 0, 1, 1]


def test_fewer_samples_than_a_batch_go_round():
    assert seen(loader(Places(1), 3, ranks()), 1) == [[3, 0], [4, 0], [5, 0]]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_any_step_can_be_entered_directly_with_any_workers(workers):
    expected = [loader(Numbers(), 4, ranks(), seed=1).batch(step) for step in range(14)]
    data = loader(Numbers(), 4, ranks(), seed=1, workers=workers)
    for step in (7, 8, 9, 2, 13):  # 23 samples: steps 5 and 11 cross the end of an epoch
        batch = data.batch(step)
        assert torch.equal(batch["x"], expected[step]["x"])
        assert torch.equal(batch["index"], expected[step]["index"])


def test_entering_a_step_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    loader(Numbers(), 4, ranks()).batch(5)
    first = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(torch.rand(3), first)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_ranks_divide_what_one_rank_sees(accumulate):
    whole = loader(Places(11), 4, ranks(), accumulate=accumulate)
    halves = [loader(Places(11), 2, ranks(r, 2), accumulate=accumulate) for r in range(2)]
    for step in (0, 1, 5):
        mine = [list(half.batches(step)) for half in halves]
        for part, batch in enumerate(whole.batches(step)):
            both = torch.cat([mine[0][part]["place"], mine[1][part]["place"]])
            assert torch.equal(batch["place"], both)


def test_accumulated_batches_are_one_larger_batch():
    small, large = loader(Places(11), 2, ranks(), accumulate=3), loader(Places(11), 6, ranks())
    assert seen(small, 4) == seen(large, 4)
    with pytest.raises(ValueError, match="batch: accumulate must be 1, got 3"):
        small.batch(0)


def test_breaking_off_in_a_step_does_not_shift_the_next():
    data = loader(Places(11), 2, ranks(), accumulate=3)
    for _ in data.batches(0):
        break
    assert seen(data, 1) == seen(loader(Places(11), 2, ranks(), accumulate=3), 1)


def test_a_dataset_that_reads_several_at_once_is_asked_so():
    dataset = Whole(7)
    assert seen(loader(dataset, 3, ranks()), 0) == seen(loader(Places(7), 3, ranks()), 0)
    assert dataset.calls == 1


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", [Places, Whole])
def test_a_bad_sample_stops_with_its_file(workers, kind):
    data = loader(kind(6, bad=[4]), 6, ranks(), workers=workers)
    with pytest.raises(BadSample, match=r"^4.png: truncated$"):
        data.batch(0)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", [Places, Whole])
def test_a_skipped_sample_is_replaced_reported_once_and_reproducible(workers, kind):
    lines = []
    settings = {"on_bad_sample": "skip", "shuffle": False, "report": lines.append}
    data = loader(kind(40, bad=[4, 30]), 40, ranks(), workers=workers, **settings)
    first = [index for _, index in seen(data, 0)]
    assert len(first) == 40 and not {4, 30} & set(first)
    assert [first[i] for i in range(40) if i not in (4, 30)] == [
        i for i in range(40) if i not in (4, 30)
    ]
    second = [index for _, index in seen(data, 1)]
    assert (first[4], first[30]) != (second[4], second[30])  # drawn anew, not the neighbour
    assert lines == ["skipped (1): 4.png: truncated", "skipped (2): 30.png: truncated"]
    again = loader(kind(40, bad=[4, 30]), 40, ranks(), **settings)
    assert [index for _, index in seen(again, 1)] == second


def test_too_many_bad_samples_stop():
    data = loader(Places(100, bad=range(0, 40)), 100, ranks(), on_bad_sample="skip", report=len)
    with pytest.raises(UserError, match=r"more than 10 samples cannot be read; the last one: "):
        data.batch(0)


def test_no_good_sample_at_all_stops():
    data = loader(Places(1, bad=[0]), 2, ranks(), on_bad_sample="skip", report=len)
    with pytest.raises(BadSample, match=r"0.png: truncated"):
        data.batch(0)


def test_an_empty_dataset_is_refused():
    with pytest.raises(UserError, match="holds no samples"):
        loader(Places(0), 2, ranks())


@pytest.mark.parametrize("workers", [0, 2])
def test_in_order_reads_each_sample_once_over_the_ranks(workers):
    found = [
        [batch["place"][:, 1].tolist() for batch in in_order(Places(8), 3, ranks(r, 2), workers)]
        for r in range(2)
    ]
    assert found == [[[0, 2, 4], [6]], [[1, 3, 5], [7]]]
    assert list(in_order(Places(1), 3, ranks(1, 2))) == []


def test_in_order_leaves_bad_samples_out_or_stops():
    lines = []
    places = Places(5, bad=[1, 3, 4])
    kept = list(in_order(places, 2, ranks(), on_bad_sample="skip", report=lines.append))
    assert [batch["place"][:, 1].tolist() for batch in kept] == [[0], [2]]
    assert lines == [f"left out: {i}.png: truncated" for i in (1, 3, 4)]
    with pytest.raises(BadSample, match=r"^1.png: truncated$"):
        list(in_order(places, 2, ranks()))


class Deadly(Places):
    def __getitem__(self, place):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_gives_one_line(capsys):
    with pytest.raises(SystemExit) as caught, user_errors():
        loader(Deadly(5), 2, ranks(), workers=1).batch(0)
    assert caught.value.code == 2
    assert "a process that reads data died" in capsys.readouterr().err


class Pid(Places):
    def __getitem__(self, place):
        return {"pid": os.getpid()}


def test_workers_leave_a_signal_to_the_parent():
    data = loader(Pid(5), 2, ranks(), workers=1)
    worker = int(data.batch(0)["pid"][0])
    from_elsewhere = f"kill -TERM {worker}; kill -INT {worker}; kill -USR1 {worker}"
    assert os.system(from_elsewhere) == 0
    time.sleep(0.2)
    assert [int(data.batch(step)["pid"][0]) for step in range(1, 8)] == [worker] * 7
    os.kill(worker, signal.SIGTERM)  # the parent's
    with pytest.raises(UserError, match="a process that reads data died"):
        for step in range(8, 30):
            data.batch(step)


@pytest.mark.parametrize("ahead", [0, 1])
def test_results_come_in_order_and_the_next_batch_is_begun_before(ahead):
    began = []

    def compute(batch):
        began.append(batch)
        return torch.tensor([batch])

    seen = []
    for batch, result in fetched(iter(range(4)), compute, ahead):
        seen.append((batch, result.item(), len(began)))
    assert seen == [(i, i, min(i + 1 + ahead, 4)) for i in range(4)]
    assert list(fetched([], compute, ahead)) == []


@pytest.mark.gpu
def test_results_of_a_gpu_are_whole_when_they_are_handed_out():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    out = torch.zeros(1 << 20, device="cuda")  # overwritten by every batch, as a graph's output is

    def compute(batch):
        return out.fill_(batch)

    for batch, result in fetched(iter(range(1, 9)), compute, 1):
        assert not result.is_cuda and result.eq(batch).all()
