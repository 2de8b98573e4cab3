"""The experiment folder in the published program's layout, and the contents of its files."""

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train_bilayer
from avatar_folder import write_folder
from nets import published as originals
from nets.bilayer.network import build
from nets.bilayer.published import read_args
from nets.bilayer.visuals import columns_of, grid
from nets.data.heads.videos import AvatarList
from nets.run import checkpoints

NETWORKS = ["identity_embedder", "texture_generator", "keypoints_embedder", "inference_generator",
            "discriminator"]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    data = write_folder(root / "data", people=4)
    argv = ["--config", "smoke_bilayer.yaml", "--experiment_dir", root, "--experiment_name", "one"]
    argv += ["--data", data, "--save_dataset_filenames", "--batch_size", 2]
    argv += ["--metrics_log_rate", 2, "--images_log_rate", 4]
    train_bilayer.main([str(a) for a in argv])
    return root / "runs" / "one"


def test_networks_are_stored_by_epoch_as_the_published_program_does(folder):
    for epoch in (2, 4):
        for name in NETWORKS:
            state = torch.load(folder / f"checkpoints/{epoch}_{name}.pth", weights_only=True)
            assert all(isinstance(value, torch.Tensor) for value in state.values())
            moments = torch.load(folder / f"checkpoints/{epoch}_opt_{name}.pth", weights_only=True)
            assert moments["state"]
    assert {k.split(".")[0] for k in state} == {"net"}
    assert "net.first_conv.weight_orig" in state and "net.first_conv.weight_u" in state


def test_the_folder_is_read_like_a_published_one(folder):
    model, options = originals.load("bilayer", folder)
    assert options["image_size"] == 32 and "discriminator" not in model.names
    own = checkpoints.read(checkpoints.find(folder))["parts"]["model"]
    for key, value in model.state_dict().items():
        assert torch.equal(value, own[key]), key


def test_args_are_a_sorted_line_each_and_read_back(folder):
    lines = (folder / "args.txt").read_text().splitlines()
    assert lines == sorted(lines) and "batch_size: 2" in lines
    assert "networks_train: " + ", ".join(NETWORKS) in lines
    assert "emb_apply_masks: True" in lines
    stored = read_args(folder / "args.txt")
    assert stored["tex_num_channels"] == 4 and stored["networks_to_train"] == NETWORKS
    build(stored)


def test_losses_are_a_json_line_a_log(folder):
    lines = [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]
    train = [line for line in lines if line["phase"] == "train"]
    assert [line["epoch"] for line in train] == [1, 2, 3, 4]
    assert [line["step"] for line in train] == [2, 4, 6, 8]
    assert {"D_ADV", "G_ADV", "G_FM", "G_L1", "G_BCE", "G_WPR"} <= train[0].keys()
    assert [line["epoch"] for line in lines if line["phase"] == "test"] == [0, 2, 4]


def test_losses_are_a_pickle_of_lists_for_the_published_program(folder):
    means = pickle.loads((folder / "losses.pkl").read_bytes())
    lines = [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]
    for phase, name in (("train", "G_ADV"), ("test", "G_PSNR")):
        logged = [line for line in lines if line["phase"] == phase]
        assert len(logged) > 1 and means[name] == [line[name] for line in logged]
    assert all(type(value) is float for values in means.values() for value in values)


def test_grids_are_numbered_by_phase(folder):
    train = sorted(f.name for f in (folder / "images/train").iterdir())
    assert train == [f"000{i}_00.jpg" for i in (1, 2, 3, 4)]
    assert sorted(f.name for f in (folder / "images/test").iterdir()) == [
        f"000{i}_00.jpg" for i in (0, 1, 2)
    ]
    with Image.open(folder / "images/train/0004_00.jpg") as image:
        assert image.size == (11 * 32, 2 * 32)  # the published grid has 11 columns


def test_event_folders_hold_what_they_should(folder):
    paper = EventAccumulator(str(folder / "tensorboard_paper")).Reload()
    assert {"results_train", "results_test"} <= set(paper.Tags()["images"])
    assert {"G_L1_train", "G_PSNR_test"} <= set(paper.Tags()["scalars"])
    single = EventAccumulator(str(folder / "metrics")).Reload()
    tags = single.Tags()
    assert {f"images/{n}_image" for n in ("source", "target", "generated")} == set(tags["images"])
    assert {f"lrs/{name}" for name in NETWORKS} <= set(tags["scalars"])
    assert {"loss/train_loss", "losses/G_L1", "metrics/PSNR", "timing/seconds_per_step"} <= set(
        tags["scalars"]
    )
    assert [event.step for event in single.Scalars("losses/G_L1")] == [1, 3, 5, 7]
    rates = [event.value for event in single.Scalars("lrs/discriminator")]
    np.testing.assert_allclose(rates[:2], [2e-4 / (1 - 0.5), 2e-4 / (1 - 0.5**3)], rtol=1e-5)


def test_lists_name_the_frames_in_the_order_of_their_use(folder):
    data = folder.parents[1] / "data"
    lines = (folder / "train_filenames.txt").read_text().splitlines()
    assert lines[0] == f"data-root: {data}"
    assert lines[1].startswith("source1: id") and lines[2].startswith("target1: id")
    assert len(lines) == 1 + 8 * 2 * 2
    again = AvatarList(folder / "train_filenames.txt", "train", None, 32)
    assert len(again) == 16
    tests = (folder / "test_filenames.txt").read_text().splitlines()
    assert len(tests) == 1 + 4 * 2  # all tests have the same frames, which are listed once
    assert [line.split(": ")[1][:3] for line in tests[1::2]] == ["id0", "id1", "id2", "id3"]


def test_a_run_follows_a_list(folder, tmp_path):
    argv = ["--config", "smoke_bilayer.yaml", "--experiment_dir", tmp_path, "--experiment_name"]
    argv += ["two", "--dataset_load_from_txt", "--save_dataset_filenames", "--batch_size", 2]
    for phase in ("train", "test"):
        argv += [f"--{phase}_load_from_filename", folder / f"{phase}_filenames.txt"]
    train_bilayer.main([str(a) for a in [*argv, "--num_epochs", 1]])
    used = (tmp_path / "runs/two/train_filenames.txt").read_text()
    assert used == (folder / "train_filenames.txt").read_text()


def test_nothing_stays_with_no_disk_write_ops(tmp_path, capsys):
    argv = ["--config", "smoke_bilayer.yaml", "--experiment_dir", tmp_path, "--num_epochs", 1]
    train_bilayer.main([str(a) for a in [*argv, "--no_disk_write_ops", "--skip_test"]])
    assert not list(tmp_path.rglob("*"))


def test_prints_can_go_to_a_file(tmp_path, capsys):
    argv = ["--config", "smoke_bilayer.yaml", "--experiment_dir", tmp_path, "--num_epochs", 1]
    train_bilayer.main([str(a) for a in [*argv, "--redirect_print_to_file", "--skip_test"]])
    text = (tmp_path / "runs/test/logs/stdout_0.txt").read_text()
    assert "epoch 1 train" in text and "epoch 1 train" not in capsys.readouterr().out


def test_grid_shows_columns_in_the_published_order():
    batch = {
        name: torch.zeros(2, 1, 3, 8, 8)
        for name in ("source_imgs", "source_stickmen", "target_imgs", "target_stickmen",
                     "pred_tex_hf_rgbs", "pred_target_imgs", "pred_target_delta_lf_rgbs",
                     "pred_target_delta_hf_rgbs")
    }  # fmt: skip
    batch["pred_target_uvs"] = torch.ones(2, 1, 8, 8, 2)
    batch["pred_target_segs"] = torch.ones(2, 1, 1, 8, 8)
    names = [title for title, _ in columns_of(batch, NETWORKS)]
    assert names == ["source", "source stickman", "texture", "target", "prediction", "LF", "HF",
                     "UV", "predicted mask", "target stickman"]  # fmt: skip
    image = grid(batch, NETWORKS, 1)
    assert image.shape == (8, 80, 3)
    assert image[0, 7 * 8].tolist() == [255, 255, 0]  # (u, v, -1)
    assert image[0, 8 * 8].tolist() == [255, 255, 255]  # a mask of 1
