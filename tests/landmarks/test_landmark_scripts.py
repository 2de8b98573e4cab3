"""train_landmarks.py and infer.py from end to end, in runs of seconds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import evaluate
import infer
import train_landmarks
from landmark_files import SMOKE, bbc_folder, frame, untrained
from nets.data.io.images import write_image
from nets.data.io.video import open_video
from nets.data.io.video_writer import VideoWriter
from nets.landmarks import build, build_discriminator
from nets.landmarks import infer as landmark_infer
from nets.landmarks.options import learning_rate, parse
from nets.landmarks.visuals import palette
from nets.run import checkpoints, options

ROOT = Path(__file__).resolve().parents[2]


def train(folder, *arguments, monkeypatch, name="a"):
    monkeypatch.chdir(folder)
    train_landmarks.main([*SMOKE, "--name", name, *map(str, arguments)])
    return folder / "runs/landmarks" / name


def weights(run, step, part="model"):
    content = checkpoints.read(checkpoints.path_of(run / "checkpoints", step), "landmarks")
    return content["parts"][part]


def assert_same(ours, theirs, **tolerance):
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key], **(tolerance or {"rtol": 0, "atol": 0}))


def refused(arguments, message, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        train_landmarks.main([*map(str, arguments), "--name", "a"])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and message in error and error.count("\n") == 1


def test_a_run_tells_what_it_does_and_shows_it(tmp_path, monkeypatch, capsys):
    run = train(tmp_path, monkeypatch=monkeypatch)
    output = capsys.readouterr().out
    assert "training 4 landmarks" in output and "clips world: 80000 frames of 32 px" in output
    final = tmp_path / output.strip().splitlines()[-1].rsplit(": ", 1)[1]
    with Image.open(final) as image:
        assert image.width > 8 * 32 and image.height > 6 * 32
    names = {path.name for path in (run / "images").iterdir()}
    for name, columns, side in (
        ("target_reconstruction_background_foreground", 4, 32),
        ("inputamask_inputbmask", 2, 32),
        ("input_a_b", 2, 32),
        ("raw_heatmap", 1, 16),
    ):
        assert f"{name}_0000002.png" in names
        with Image.open(run / "images" / f"{name}_0000002.png") as image:
            assert image.size == (columns * side, side)
    lines = [json.loads(t) for t in (run / "log.txt").read_text().splitlines() if t[0] == "{"]
    assert [t["step"] for t in lines if "validation.loss" in t] == [2, 4]
    assert {"vgg.loss", "learning_rate"} <= lines[0].keys()


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    options = ["--use_gan", "--ndf", 4, "--ema", 0.5, "--use_warped", "--test_freq", 4]
    whole = train(tmp_path, *options, monkeypatch=monkeypatch, name="whole")
    train(tmp_path, *options, "--num_steps", 2, monkeypatch=monkeypatch, name="parts")
    parts = train(tmp_path, *options, monkeypatch=monkeypatch, name="parts")
    for part in ("model", "discriminator"):
        assert_same(weights(whole, 4, part), weights(parts, 4, part))
    moments = weights(parts, 4, "optimizer_D")["state"]
    assert {float(state["step"]) for state in moments.values()} == {4.0}
    before = weights(whole, 2, "discriminator")
    assert any(not torch.equal(before[k], v) for k, v in weights(whole, 4, "discriminator").items())


def test_the_discriminator_gets_no_gradient_from_the_networks_step(tmp_path, monkeypatch):
    """A step of both networks equals separate steps in the order of the published program."""
    from nets.landmarks.data import LandmarkInputs, open_clips
    from nets.landmarks.losses import discriminator_loss, gan_loss, perceptual_loss
    from nets.run.loader import loader
    from nets.run.ranks import Ranks

    options = ["--use_gan", "--ndf", 4, "--num_steps", 1, "--weight_decay", 0]
    run = train(tmp_path, *options, monkeypatch=monkeypatch)
    args = parse("", [*SMOKE, *map(str, options)])
    torch.manual_seed(0)
    net, critic = build(args).train(), build_discriminator(args)
    data = open_clips(args, "train", True)
    batch = loader(data, args.batch_size, Ranks("cpu"), seed=0).batch(0)
    images = LandmarkInputs(args, data.joint_order)(batch, True, False)
    out = net(images.pose, images.appearance)
    fake, real = out.reconstruction, images.target
    loss = perceptual_loss(fake, real) + gan_loss(critic(fake), True)
    for module, value in ((net, loss), (critic, discriminator_loss(critic, fake, real)[0])):
        adam = torch.optim.Adam(module.parameters(), args.lr)
        adam.zero_grad()
        value.backward(retain_graph=True)
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        if module is net:  # for the critic's own step: old weights, no old gradient
            critic.zero_grad()
        adam.step()
    # Adam's first step is about lr * sign(gradient). Rounding may change the sign of a few.
    for module, part in ((net, "model"), (critic, "discriminator")):
        state = module.state_dict()
        off = [(state[k] - v).abs().flatten() for k, v in weights(run, 1, part).items()]
        assert (torch.cat(off) > 1e-4).float().mean() < 0.02


def test_the_originals_yaml_works_unmodified(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    args = parse("", ["--config", "train_args_bbc_pose.yaml", "--dataset_path", "D",
                      "--save_path", "some/S", "--use_DDP"])  # fmt: skip
    assert (args.run_dir, args.name, args.workers) == ("some", "S", 8)
    assert args.lr == 1e-4 and args.vgg_lambda == 5.0 and args.weight_decay == 5e-6
    assert args.use_temporal and not args.use_warped and args.no_grad_clip and args.reduced_w
    assert args.checkpoint is None and args.val_freq == 2 and args.save_freq == 2
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/defaults.yaml").write_text("n_landmarks: 7\nuse_warped: true\n")
    capsys.readouterr()
    args = parse("", ["--use_temporal"])  # ignores the file in the working directory, with a note
    assert args.n_landmarks == 30 and not args.use_warped
    assert "configs/defaults.yaml: not read" in capsys.readouterr().out
    args = parse("", ["--config", "configs/defaults.yaml"])
    assert args.n_landmarks == 7 and args.use_warped
    assert not capsys.readouterr().out


def test_the_published_defaults_are_ours():
    ours = options.plain(parse("", ["--use_temporal"]))
    theirs = options.plain(parse("", ["--config", "defaults.yaml", "--use_temporal"]))
    differing = {key for key in ours if ours[key] != theirs[key]}
    assert not differing


@pytest.mark.slow
def test_bbc_pose_trains_resumes_from_its_own_files_and_is_evaluated(tmp_path, monkeypatch):
    data = bbc_folder(tmp_path / "bbc")
    options = ["--dataset", "bbc_pose", "--dataset_path", data, "--save_path", tmp_path / "S",
               "--flip_probability", 0.5]  # fmt: skip
    run = train(tmp_path, *options, monkeypatch=monkeypatch, name="x")
    assert not run.exists()
    run = tmp_path / "S"
    state = weights(run, 4)
    torch.save(state, tmp_path / "checkpoint_2.ckpt")
    again = train(tmp_path, *options[:4], "--resume_ckpt", tmp_path / "checkpoint_2.ckpt",
                  "--learning_rate", 1e-9, "--num_steps", 1, monkeypatch=monkeypatch)  # fmt: skip
    trained = [key for key in state if not key.endswith(("_u", "_v"))]
    ours = weights(again, 1)
    for key in trained:
        torch.testing.assert_close(ours[key], state[key], atol=1e-6, rtol=0)
    evaluate.main(["--checkpoint", str(run), "--workers", "0", "--out", "scores.json"])
    assert "val" in json.loads((tmp_path / "scores.json").read_text())


def test_starting_from_weights_and_moments(tmp_path, monkeypatch, capsys):
    first = train(tmp_path, "--num_steps", 2, monkeypatch=monkeypatch, name="first")
    content = checkpoints.read(first / "checkpoints/step_00000002.pt")
    torch.save(content["parts"]["model"], tmp_path / "checkpoint_0.ckpt")
    adam = content["parts"]["optimizer"]
    torch.save(adam, tmp_path / "latest_optimizer_g_state.ckpt")
    last = ["--num_steps", 1, "--learning_rate", 1e-12, "--weight_decay", 0]
    theirs = train(tmp_path, *last, "--resume_ckpt", "checkpoint_0.ckpt", "--resume_ckpt_opt_G",
                   "latest_optimizer_g_state.ckpt", monkeypatch=monkeypatch, name="b")  # fmt: skip
    ours = train(tmp_path, *last, "--resume_ckpt", first, monkeypatch=monkeypatch, name="c")
    output = capsys.readouterr().out
    assert "model: started from checkpoint_0.ckpt" in output
    assert "optimizer: started from latest_optimizer_g_state.ckpt" in output
    assert_same(weights(theirs, 1), weights(ours, 1))
    steps = {float(s["step"]) for s in weights(ours, 1, "optimizer")["state"].values()}
    assert steps == {3.0}


@pytest.mark.parametrize("kind", ["frames", "video", "images"])
def test_own_data(tmp_path, monkeypatch, kind):
    data = tmp_path / "data"
    if kind == "video":
        data.mkdir()
        with VideoWriter(data / "a.mp4", 10) as video:
            for i in range(6):
                video.write(frame(30 * i))
    for i in range(6):
        if kind == "frames":
            write_image(data / f"clip/{i}.png", frame(30 * i))
        if kind == "images":
            write_image(data / f"{i}.png", frame(30 * i)[:1])  # grey
    options = ["--dataset", "images" if kind == "images" else "clips", "--dataset_path", data]
    if kind == "images":
        options += ["--use_temporal", "false", "--use_warped"]
    run = train(tmp_path, *options, "--num_steps", 1, monkeypatch=monkeypatch)
    assert (run / "images/final_0000001.png").is_file()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "--use_temporal, --use_warped: give one of them or both"),
        (["--use_temporal", "--dataset", "clips"], "--dataset clips: needs --data"),
        (["--use_temporal", "--dataset_path", "x"], "--data: needs --dataset"),
        (["--use_temporal", "--dataset", "images", "--dataset_path", "x"], "use_warped and not"),
        (["--use_warped", "--img_size", "100"], "image_size: must be a multiple of 16"),
        (["--use_warped", "--rot_lb", "1"], "rot_lb: must be at most rot_ub"),
        (["--use_warped", "--narrowing", "9"], "narrowing must be 1 to 8, got 9"),
        (["--use_warped", "--motion_weight", "1"], "motion_weight: only with use_temporal"),
        (["--use_temporal", "--motion_mask_weight", "1"], "only with use_fg_bg_mask"),
        (["--use_warped", "--resume_ckpt_D", "x"], "only with use_gan"),
        (["--use_warped", "--flip_probability", "2"], "flip_probability: must be at most 1"),
        (["--config", "train_args_bbc_pose.yaml"], "--dataset bbc_pose: needs --data"),
        (["--use_gann"], "did you mean --use_gan"),
    ],
)
def test_options_that_contradict(arguments, message, tmp_path, monkeypatch, capsys):
    refused(arguments, message, monkeypatch, capsys, tmp_path)


def test_checkpoints_of_other_networks(tmp_path, monkeypatch, capsys):
    first = untrained(tmp_path)
    for arguments, message in (
        (["--n_landmarks", "5"], "not weights for the model of these options"),
        (["--use_gan", "--ndf", "4", "--resume_ckpt_D", str(first)], "holds no discriminator"),
    ):
        given = [*SMOKE, "--run_dir", "r", "--resume_ckpt", str(first), *arguments]
        refused(given, message, monkeypatch, capsys, tmp_path)
    other = ["--resume", "auto", "--n_landmarks", "5"]
    with pytest.raises(SystemExit):
        train(tmp_path, *other, monkeypatch=monkeypatch)
    assert "not the model of these options" in capsys.readouterr().err


def test_a_missing_file_is_refused_before_networks_and_data(tmp_path, monkeypatch, capsys):
    def slow(*_):
        raise AssertionError("opened first")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(train_landmarks, "open_data", slow)
    given = [*SMOKE, "--resume_ckpt", "checkpoint_98.ckpt"]
    refused(given, "checkpoint_98.ckpt", monkeypatch, capsys, tmp_path)
    monkeypatch.setattr(train_landmarks, "build", slow)
    given = ["--config", "train_args_bbc_pose.yaml", "--dataset_path", "bbcpose"]
    message = "no torchvision VGG19 weights"
    refused(given, message, monkeypatch, capsys, tmp_path)
    assert not (tmp_path / "runs/landmarks/a").exists()


def test_a_file_that_does_not_fit_is_refused_before_networks(tmp_path, monkeypatch, capsys):
    gan = [*SMOKE, "--use_gan", "--ndf", "4", "--resume_ckpt", str(tmp_path / "wrong.pt")]
    args, states = parse("", gan), {}
    nets = {"model": build(args), "discriminator": build_discriminator(args)}
    for (name, net), adam in zip(nets.items(), ("optimizer", "optimizer_D"), strict=True):
        optimizer = torch.optim.Adam(net.parameters())
        for p in net.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
        states |= {name: net.state_dict(), adam: optimizer.state_dict()}
    content = {"system": "landmarks", "step": 0, "options": options.plain(args), "best": None}

    def slow(*_):
        raise AssertionError("opened first")

    for name in ("build", "open_data", "perceptual_net"):
        monkeypatch.setattr(train_landmarks, name, slow)
    for wrong, state in states.items():
        moments = "optimizer" in wrong
        held = state["state"][0] if moments else state
        key = next(name for name, value in held.items() if value.ndim)
        right, held[key] = held[key], torch.zeros(3)
        checkpoints.write(tmp_path / "wrong.pt", content | {"parts": states, "log": []})
        held[key] = right
        message = f"wrong.pt: {wrong if moments else f'not weights for the {wrong}'}"
        refused(gan, message, monkeypatch, capsys, tmp_path)
        assert not (tmp_path / "runs/landmarks/a").exists()


def test_the_learning_rate_rises_and_falls():
    args = parse("", [*SMOKE, "--warmup", "3", "--lr_decay_begin", "10", "--learning_rate", "1"])
    assert [learning_rate(args, s, 20) for s in (0, 3, 9, 15, 20)] == [0.25, 1, 1, 0.5, 0]
    args.lr_decay_begin = None
    assert learning_rate(args, 10**6, 20) == 1


def test_the_palette_is_pascal_vocs_and_has_no_end():
    colours = palette(300).int().tolist()
    assert colours[:4] == [[128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]]
    assert colours[7] == [64, 0, 0] and colours[40] == [192, 0, 64]
    assert len({tuple(c) for c in colours[:255]}) == 255


def test_inference_draws_masks_and_transfers(tmp_path, monkeypatch, capsys):
    untrained(tmp_path)
    monkeypatch.chdir(tmp_path)
    for i in range(2):
        write_image(tmp_path / f"in/{i}.png", frame(60 + 90 * i, 50, 70))
    with VideoWriter(tmp_path / "v.mp4", 12.5) as video:
        for i in range(20):  # more than one batch
            video.write(frame(10 * i, 48, 64))
    infer.main(["-d", "in/0.png", "-o", "one.png"])
    for name in ("one", "one_mask", "one_background"):
        with Image.open(f"{name}.png") as image:
            assert image.size == (70, 50)
    with Image.open("one.png") as image:
        assert len(image.getcolors()) > 4  # dots on a flat image
    infer.main(["-s", "in/0.png", "-d", "in/1.png", "-o", "pair.png"])
    with Image.open("pair.png") as image:
        assert image.size == (32, 32)
    infer.main(["-d", "v.mp4"])
    infer.main(["-s", "in/0.png", "-d", "v.mp4", "-o", "moved.mp4"])
    for name, size in (("out", (48, 64)), ("out_mask", (48, 64)), ("moved", (32, 32))):
        result = open_video(f"{name}.mp4")
        assert result.size == size and result.fps == pytest.approx(12.5)
        assert len(list(result)) == 20
    capsys.readouterr()
    for arguments, message in (
        (["-s", "v.mp4", "-d", "in/0.png"], "the appearance comes from an image"),
        (["-s", "in", "-d", "v.mp4"], "give one video, and one image"),
        (["-d", "v.mp4", "-o", "x.gif"], "a video is written as"),
        (["-d", "v.mp4", "--concat"], "--concat: only with -s"),
        (["-s", "in/0.png", "-d", "in/1.png", "--concat"], "--concat: only with a driving video"),
        (["-d", "in/0.png", "--fps", "5"], "--fps: only with a driving video"),
        (["-d", "in/0.png", "in/1.png"], "several need -s"),
    ):
        with pytest.raises(SystemExit) as ended:
            infer.main(arguments)
        assert ended.value.code == 2 and message in capsys.readouterr().err


def test_a_video_with_source_driving_and_result_side_by_side(tmp_path, monkeypatch, capsys):
    run = untrained(tmp_path)
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "me.png", frame(60, 50, 70))
    with VideoWriter(tmp_path / "talk.mp4", 12.5) as video:
        for i in range(4):
            video.write(frame(40 + 40 * i, 48, 64))
    command = ["--checkpoint", str(run), "-s", "me.png", "-d", "talk.mp4", "-o", "out.mp4"]
    infer.main([*command, "--concat"])
    assert "written: out.mp4, out_concat.mp4" in capsys.readouterr().out
    both = open_video("out_concat.mp4")
    assert both.size == (32, 96) and both.fps == pytest.approx(12.5)
    results = [image for _, image in open_video("out.mp4")]
    shown = [image.float() for _, image in both]
    assert len(shown) == len(results) == 4
    for i, image in enumerate(shown):  # videos are lossy
        source, driving, result = (part.mean().item() for part in image.split(32, 2))
        assert abs(source - 60) < 8 and abs(driving - (40 + 40 * i)) < 8
        assert abs(result - results[i].float().mean().item()) < 8


def test_the_demo_shows_people_in_the_poses_of_others(tmp_path, monkeypatch, capsys):
    run = untrained(tmp_path)
    monkeypatch.chdir(tmp_path)
    infer.main(["--checkpoint", str(run), "-o", "demo.png"])
    assert "people of the demo world" in capsys.readouterr().out
    with Image.open("demo.png") as image:
        assert image.width >= 6 * 256 and image.height >= 4 * 256  # with mask and background
    source, driving, truth = landmark_infer.people(4, 64)
    assert source.shape == driving.shape == truth.shape == (4, 3, 64, 64)
    same = [(source[i] == truth[i]).float().mean().item() for i in range(4)]
    other = [(driving[i] == truth[i]).float().mean().item() for i in range(4)]
    assert min(same) > 0.3 > max(other)  # the source's background


def test_the_demo_of_own_clips_shows_their_frames(tmp_path, monkeypatch, capsys):
    for clip in range(5):
        for i in range(6):
            write_image(tmp_path / f"data/{clip}/{i}.png", frame(20 * clip + 10 * i))
    run = untrained(tmp_path, "--dataset", "clips", "--data", "data")
    monkeypatch.chdir(tmp_path)
    infer.main(["--checkpoint", str(run), "-o", "demo.png"])
    assert "frames of the run's own test data" in capsys.readouterr().out
    (tmp_path / "data").rename(tmp_path / "moved")
    infer.main(["--checkpoint", str(run), "-o", "demo.png"])
    assert "people of the demo world, as data is missing" in capsys.readouterr().out


@pytest.mark.slow
def test_two_ranks_equal_one_with_twice_the_batch(tmp_path):
    def started(folder, batch, ranks):
        start = [sys.executable]
        if ranks > 1:
            # It adds --local-rank=N to the command line.
            start += ["-m", "torch.distributed.launch", f"--nproc_per_node={ranks}",
                      "--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0"]  # fmt: skip
        done = subprocess.run(
            [*start, ROOT / "train_landmarks.py", *SMOKE, "--use_gan", "--ndf", "4", "--use_DDP",
             "--no_grad_clip", "--num_steps", "1", "--batch_size", str(batch),
             "--run_dir", folder, "--name", "a"],
            cwd=tmp_path, capture_output=True, text=True, timeout=600,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return tmp_path / folder / "a"

    two, one = started("two", 4, 2), started("one", 8, 1)
    # Gradients are compared, not weights. Adam's first step is their sign, also where a gradient is
    # rounding error, as for biases before an instance norm. At 32 pixels, sums in another order
    # differ by 4 %, due to norms of 2 x 2 maps. Without averaging, gradients would differ by half.
    for part in ("optimizer", "optimizer_D"):
        states = (weights(run, 1, part)["state"].values() for run in (two, one))
        ours, theirs = (torch.cat([s["exp_avg"].flatten() for s in some]) for some in states)
        assert (ours - theirs).norm() < 0.15 * theirs.norm()
    assert (two / "log.txt").read_text().count("training 4 landmarks") == 1


@pytest.mark.slow
def test_a_minute_of_the_demo_beats_what_needs_no_learning(tmp_path, monkeypatch):
    """150 of 1450 steps. benchmarks/learning.py has the limits of the whole demo."""
    monkeypatch.chdir(tmp_path)
    train_landmarks.main(["--config", "demo_landmarks.yaml", "--num_steps", "150", "--name", "a",
                          "--lr_decay_begin", "100", "--test_freq", "150"])  # fmt: skip
    evaluate.main(["--held_out", "200", "--workers", "0", "--out", "scores.json"])
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["regression"]["ratio_to_mean_pose"] < 0.7
    assert scores["mask"]["iou"]["mean"] > 0.35  # a mask of half the image has 0.25
    assert scores["background"]["ratio_to_mean_image"] < 0.9
