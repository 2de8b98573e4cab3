"""Precision, averaged weights, devices of one rank."""

import pytest
import torch
from torch import nn

from nets.errors import UserError
from nets.run import precision as precisions
from nets.run.ema import EMA
from nets.run.precision import Precision
from nets.run.ranks import Ranks, bare, closing, hold_gradients

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "able, name",
    [({"amx_bf16": True}, "bf16"), ({"avx512_bf16": True}, "bf16"), ({"avx2": True}, "fp32")],
    ids=str,
)
def test_auto_is_bf16_where_the_processor_has_it(monkeypatch, able, name):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    chosen = Precision("auto", CPU)
    assert chosen.name == name and "this processor has" in chosen.reason
    assert Precision("fp32", CPU).reason == "as asked"


@pytest.mark.gpu
def test_auto_on_cuda(device):
    name, reason = precisions.best_precision(torch.device("cuda", 0))
    assert name in ("bf16", "fp32") and "GPU" in reason


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_networks_compute_in_the_precision_and_learn(name, device):
    torch.manual_seed(0)
    precision = Precision(name, torch.device(device))
    net = precision.place(nn.Conv2d(3, 4, 3))
    assert net.weight.is_contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    x = torch.randn(2, 3, 8, 8, device=device)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        with precision.autocast():
            y = net(x)
            loss = y.float().square().mean()
        assert y.dtype == precision.dtype
        precision.backward(loss)
        precision.step(optimizer)
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2 and net.weight.dtype == torch.float32


def test_fp16_halves_its_scale_and_keeps_it():
    precision = Precision("fp16", CPU)
    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scale = precision.scaler.get_scale()
    precision.backward((weight * float("inf")).sum())
    assert not precision.gradient_norm(optimizer).isfinite()
    assert precision.halve() == precision.scaler.get_scale() == scale / 2
    optimizer.zero_grad()
    precision.backward(2 * weight.sum())  # and the step after it is as any other
    assert precision.gradient_norm(optimizer).item() == 2
    precision.step(optimizer)
    assert weight.item() == -1 and precision.scaler.get_scale() == scale / 2
    again = Precision("fp16", CPU)
    again.load_state_dict(precision.state_dict())
    assert again.scaler.get_scale() == scale / 2
    again.load_state_dict(Precision("bf16", CPU).state_dict())  # a run that changed its precision
    assert again.scaler.get_scale() == scale / 2


@pytest.mark.parametrize("name", ["fp32", "fp16"])
def test_the_norm_is_that_of_the_true_gradients_which_stay(name):
    precision = Precision(name, CPU)
    weights = [nn.Parameter(torch.ones(1)) for _ in range(2)]
    optimizers = [torch.optim.SGD([weight], lr=1.0) for weight in weights]
    precision.backward((3 * weights[0] + 4 * weights[1]).sum())
    assert precision.gradient_norm(*optimizers).item() == 5
    assert [weight.grad.item() for weight in weights] == [3, 4]
    precision.step(*optimizers)
    assert [weight.item() for weight in weights] == [-2, -3]


def test_average_follows_the_formula_and_swaps_in_and_out():
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 1.0)
    ema = EMA(net, 0.75)
    for value in (5.0, 9.0):
        nn.init.constant_(net.weight, value)
        ema.update()
    expected = (1 * 0.75 + 5 * 0.25) * 0.75 + 9 * 0.25
    assert ema.average["weight"].item() == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ZeroDivisionError), ema.swapped() as averaged:
        assert averaged.weight.item() == pytest.approx(expected, rel=1e-6)
        _ = 1 / 0
    assert net.weight.item() == 9
    other = EMA(nn.Linear(1, 1, bias=False), 0.5)
    other.load_state_dict(ema.state_dict())
    assert other.average["weight"].item() == ema.average["weight"].item()


def test_one_rank_needs_no_process_group():
    with closing(Ranks("cpu")) as ranks:
        assert (ranks.rank, ranks.world_size, ranks.is_main) == (0, 1, True)
        net = nn.Linear(2, 2)
        assert ranks.wrap(net) is net and bare(net) is net
        assert ranks.max(3) == 3 and ranks.any(True) and not ranks.any(False)
        assert ranks.gather("x") == ["x"] and ranks.on_main(lambda: 5) == 5
        assert ranks.mean({"a": torch.tensor(2.0)})["a"].item() == 2 and ranks.mean({}) == {}
        assert ranks.part(torch.arange(4)).tolist() == [0, 1, 2, 3]
        with hold_gradients(net, True):
            net(torch.ones(2)).sum().backward()
        assert net.weight.grad is not None


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch's own import
def test_compiled_models_are_saved_bare():
    net = nn.Linear(2, 2)
    assert bare(torch.compile(net)) is net


def test_a_device_that_is_not_there_is_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device cuda: torch finds no CUDA device"):
        Ranks("cuda")
    with pytest.raises(UserError, match="--device must be auto, cpu or cuda, got tpu"):
        Ranks("tpu")
    assert Ranks("auto").device == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(UserError, match="2 ranks on this machine but 1 CUDA devices: use torchrun"):
        Ranks("auto")
    # torchrun --virtual-local-rank: every rank is number 0 of the one GPU that it sees.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert Ranks("auto").device == torch.device("cuda", 0) and chosen == [0]


def test_nccl_is_bound_to_the_device_of_its_rank(monkeypatch):
    """Else it guesses one, and connects in the first step only."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: None)
    for name, value in (("RANK", 1), ("WORLD_SIZE", 2), ("LOCAL_RANK", 1), ("LOCAL_WORLD_SIZE", 2)):
        monkeypatch.setenv(name, str(value))
    given = {}
    store = torch.distributed.HashStore()
    monkeypatch.setattr(torch.distributed, "rendezvous", lambda *a, **k: iter([(store, 1, 2)]))
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda backend, **k: given.update(k, to=backend)
    )
    Ranks("cuda", timeout=5)
    assert given["to"] == "cpu:gloo,cuda:nccl" and given["device_id"] == torch.device("cuda", 1)
    assert given["timeout"].total_seconds() == 5
    Ranks("cpu", timeout=5)
    assert given["to"] == "gloo" and given["device_id"] is None


def test_a_broken_environment_is_one_line(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(UserError, match="WORLD_SIZE in the environment must be a number, got two"):
        Ranks("cpu")


def test_plain_average_of_the_weights_after_every_step():
    net = nn.Linear(1, 1, bias=False)
    mean = EMA(net, None)
    for value in (2.0, 4.0, 9.0):
        nn.init.constant_(net.weight, value)
        mean.update()
    assert mean.average["weight"].item() == pytest.approx(5.0)
    other = EMA(net, None)
    other.load_state_dict(mean.state_dict())
    nn.init.constant_(net.weight, 1.0)
    other.update()
    assert other.average["weight"].item() == pytest.approx(4.0)  # of four steps, not of one
