"""Experiments of the published program: folders, files, and all ways of storing spectral norms."""

import pytest
import torch

from bilayer_tiny import ENHANCED, OPTIONS, batch, model
from nets import published as originals
from nets.bilayer import DEFAULTS, NETWORKS, fold
from nets.bilayer.published import load, read, take
from nets.errors import UserError
from nets.spectral import settle

BASE = NETWORKS[:4]
ARGS = {"inf_apply_masks": False, "enh_apply_masks": False}


def write(folder, net, names, epoch=7, args=None, change=lambda state: state):
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    for name in names:
        state = change(getattr(net, name).state_dict())
        torch.save(state, folder / "checkpoints" / f"{epoch}_{name}.pth")
    stored = {**OPTIONS, **ARGS, "experiment_name": "007", "lrs": "a: 1e-4", **(args or {})}
    lines = [
        f"{k}: {', '.join(v) if isinstance(v, list) else v}" for k, v in sorted(stored.items())
    ]
    (folder / "args.txt").write_text("\n".join(lines) + "\n")
    return folder


def forward(net, names=BASE):
    with torch.no_grad():
        return net(batch(t=2), names)["pred_target_imgs"]


def test_an_experiments_folder(tmp_path):
    net = model(**ARGS).eval()
    folder = write(tmp_path / "run", net, [*BASE, "discriminator"], epoch=10)
    write(folder, model(5, **ARGS), BASE, epoch=9)
    loaded, options = load(folder)
    assert loaded.names == list(BASE) and not loaded.training
    assert torch.equal(forward(loaded), forward(net))
    assert options["image_size"] == 32 and options["inf_apply_masks"] is False
    assert options["experiment_name"] == "007" and options["lrs"] == "a: 1e-4"
    older, _ = load(folder, which_epoch=9)
    assert not torch.equal(forward(older), forward(net))
    with_critic, _ = load(folder, networks="keypoints_embedder, discriminator")
    assert with_critic.names == ["keypoints_embedder", "discriminator"]
    assert originals.recognise(folder) == "bilayer"
    content = originals.read(folder)
    assert content["system"] == "bilayer" and "10_texture_generator.pth" in content["kind"]


def parametrised(state):
    start = "parametrizations.weight."
    new = {"weight_orig": "original", "weight_u": "0._u", "weight_v": "0._v"}
    new = {key: start + name for key, name in new.items()}
    out = {}
    for key, value in state.items():
        stem, _, leaf = key.rpartition(".")
        out[f"module.{stem}.{new.get(leaf, leaf)}" if stem else f"module.{key}"] = value
    return out


def lean(state):
    drop = ("num_batches_tracked", "identity_grid")
    return {k: v for k, v in state.items() if not k.endswith(drop)}


@pytest.mark.parametrize("change", [parametrised, lean])
def test_other_ways_to_store_the_same(tmp_path, change):
    net = model(**ARGS).eval()
    folder = write(tmp_path, net, BASE, change=change)
    loaded, _ = load(folder)
    assert torch.equal(forward(loaded), forward(net))
    for file in (folder / "checkpoints").iterdir():
        assert originals.recognise(file) == "bilayer"


def test_folded_files(tmp_path):
    net = model(**ARGS).eval()
    before = forward(fold(settle(net, 300)))
    loaded, options = load(write(tmp_path, net, BASE))
    assert torch.equal(forward(loaded), before) and options["spn_networks"] == []
    part = model(**ARGS).eval()
    part.keypoints_embedder.net.mlp[2].fold()
    loaded, options = load(write(tmp_path, part, BASE, epoch=8))
    assert options["spn_exceptions"] == ["keypoints_embedder.net.mlp.2"]
    assert torch.equal(forward(loaded), forward(part))
    fresh = model(9, **ARGS).eval()  # a run that starts from folded files has spectral norms
    for name in BASE:
        take(getattr(fresh, name), tmp_path / "checkpoints" / f"7_{name}.pth", name)
    # The power iterations find a norm of 1 up to some digits.
    assert (forward(fresh) - before).abs().mean() < 1e-3


def test_sizes_come_from_the_weights(tmp_path):
    """Without args.txt, options that no tensor implies are the published defaults."""
    net = model(**ENHANCED, **ARGS).eval()
    folder = write(tmp_path, net, NETWORKS)
    (folder / "args.txt").unlink()
    loaded, options = load(folder, **ARGS, enh_unrolling_depth=2)
    same = [k for k in OPTIONS if not k.startswith("dis_")]
    assert {k: options[k] for k in same} == {k: OPTIONS[k] for k in same}
    assert options["pse_emb_source_pose"] and options["inf_pred_source_data"]
    with torch.no_grad():
        a, b = (n(batch(n=2), NETWORKS[:5])["pred_enh_target_imgs"] for n in (loaded, net))
    assert torch.equal(a, b)
    _, options = load(folder, networks="discriminator", image_size=32)
    assert options["dis_num_blocks"] == 3 and options["dis_max_channels"] == 16
    one = tmp_path / "somewhere.pth"
    torch.save(net.inference_generator.state_dict(), one)
    alone, options = load(one)
    assert alone.names == ["inference_generator"] and options["inf_num_channels"] == 4
    assert options["tex_max_channels"] == 16 and options["emb_max_channels"] == 16


def test_inputs_and_outputs_follow_from_the_weights(tmp_path):
    stored = {"emb_no_stickman": True, "dis_no_stickman": True, "inf_pred_segmentation": False}
    folder = write(tmp_path, model(**stored), [*BASE, "discriminator"])
    (folder / "args.txt").unlink()
    _, options = load(folder, networks=[*BASE, "discriminator"])
    assert {key: options[key] for key in stored} == stored


def test_harmonic_encoding_follows_from_the_shape(tmp_path):
    """Published args.txt files turn the encoding on, but the published weights lack it."""
    net = model(**ARGS).eval()
    loaded, options = load(write(tmp_path / "a", net, BASE, args={"pse_use_harmonic_enc": True}))
    assert options["pse_use_harmonic_enc"] is False and loaded.keypoints_embedder.harmonics == 0
    net = model(**ARGS, pse_use_harmonic_enc=True).eval()
    folder = write(tmp_path / "b", net, BASE, args={"pse_use_harmonic_enc": False})
    loaded, options = load(folder)
    assert options["pse_use_harmonic_enc"] is True
    assert torch.equal(forward(loaded), forward(net))
    file = folder / "checkpoints" / "7_keypoints_embedder.pth"
    state = torch.load(file, weights_only=True)
    state["net.frequencies"] = state.pop("frequencies")
    torch.save(state, file)
    assert torch.equal(forward(load(folder)[0]), forward(net))


def test_the_enhancers_experiment_takes_the_base_from_another(tmp_path):
    net = model(**ENHANCED, **ARGS).eval()
    write(tmp_path / "runs" / "main", net, BASE, epoch=2225)
    args = {"init_experiment_dir": "/elsewhere/runs/main", "init_which_epoch": 2225,
            "init_networks": list(BASE)}  # fmt: skip
    folder = write(
        tmp_path / "runs" / "enhancer", net, ["texture_enhancer", "discriminator"], 1225, args
    )
    loaded, options = load(folder)
    assert loaded.names == list(NETWORKS[:5]) and options["pse_emb_source_pose"]
    with torch.no_grad():
        a, b = (n(batch(n=1), NETWORKS[:5])["pred_enh_target_imgs"] for n in (loaded, net))
    assert torch.equal(a, b)
    (tmp_path / "runs" / "main" / "checkpoints" / "2225_texture_generator.pth").unlink()
    with pytest.raises(UserError, match=r"2225_texture_generator\.pth: no such file"):
        load(folder)


def test_a_single_file_stands_for_its_epoch(tmp_path):
    net = model(**ARGS).eval()
    folder = write(tmp_path, net, BASE)
    loaded, _ = load(folder / "checkpoints" / "7_keypoints_embedder.pth")
    assert loaded.names == list(BASE) and torch.equal(forward(loaded), forward(net))
    one, _ = load(
        folder / "checkpoints" / "7_keypoints_embedder.pth", networks="keypoints_embedder"
    )
    assert one.names == ["keypoints_embedder"]


def test_half_precision_files_become_float32(tmp_path):
    net = model(**ARGS).eval()
    half = lambda state: {k: v.half() if v.is_floating_point() else v for k, v in state.items()}  # noqa: E731
    loaded, _ = load(write(tmp_path, net, BASE, change=half))
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


def test_what_does_not_fit_is_named_and_nothing_is_half_loaded(tmp_path):
    net = model(**ARGS).eval()
    folder = write(tmp_path, net, BASE)
    path = folder / "checkpoints" / "7_identity_embedder.pth"
    good = torch.load(path, weights_only=True)

    def refuse(message, call=lambda: load(folder)):
        with pytest.raises(UserError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)

    bad = {k: v for k, v in good.items() if k not in ("net.enc.0.bias", "net.enc.1.block.0.bias")}
    bad["net.enc.2.block.0.bias"], bad["net.more"] = torch.zeros(3), torch.zeros(1)
    bad["net.dec_blocks.0.block.0.bias"] = torch.zeros(5)
    torch.save(bad, path)
    here = net.state_dict()
    refuse(r"identity_embedder.pth: not a bilayer identity embedder of these options: .*is missing"
           r".*; and \d+ more")  # fmt: skip
    refuse("not a bilayer identity", lambda: take(net.identity_embedder, path, "identity_embedder"))
    assert all(torch.equal(v, here[k]) for k, v in net.state_dict().items())
    refuse("not a bilayer discriminator: it holds net.enc",
           lambda: take(net.discriminator, path, "discriminator"))  # fmt: skip
    torch.save(good, path)
    refuse("no networks of epoch 8; epochs: 7", lambda: load(folder, which_epoch=8))
    refuse("7_discriminator.pth: no such file", lambda: load(folder, networks="discriminator"))
    refuse(
        "must be of identity_embedder, .* got generator", lambda: load(folder, networks="generator")
    )
    refuse("no such file or folder", lambda: load(folder / "absent"))
    refuse("holds no EPOCH_NETWORK.pth", lambda: load(tmp_path / "checkpoints" / ".."  / "empty")
           if (tmp_path / "empty").mkdir() is None else None)  # fmt: skip
    torch.save({"model": 1}, path)
    refuse("must map names to tensors")
    torch.save({"net.enc.0.bias": print}, path)
    refuse("more than tensors and plain values; refused")
    torch.save({"a": torch.zeros(1)}, tmp_path / "x.pth")
    refuse("x.pth: not a network of head avatars: it holds a", lambda: load(tmp_path / "x.pth"))
    (folder / "args.txt").write_text("image_size: big\n")
    refuse("image_size in .*args.txt, line 1: must be a whole number > 0, got big")
    (folder / "args.txt").write_text("image_size: 32\nnonsense\n")
    refuse(r"args.txt, line 2: must be `name: value`, is 'nonsense'")


def test_args_are_read_by_their_declared_types(tmp_path):
    path = write(tmp_path, model(**ARGS), BASE, args={
        "visual_freq": -1, "wpr_loss_weight_decay": "1.0", "per_loss_weights": "10.0, 0.01",
        "networks_to_train": "identity_embedder, discriminator", "eps": "1e-07", "bn_momentum": "1",
        "emb_no_stickman": "False", "data_root": "None", "init_experiment_dir": "",
    })  # fmt: skip
    options = read(path)["options"]
    assert options["visual_freq"] == -1 and isinstance(options["visual_freq"], int)
    assert options["per_loss_weights"] == "10.0, 0.01" and options["eps"] == 1e-7
    assert options["bn_momentum"] == 1.0 and type(options["bn_momentum"]) is float
    assert options["data_root"] is None
    assert options["networks_to_train"] == list(BASE)  # the networks that were loaded
    assert set(DEFAULTS) <= set(options)
