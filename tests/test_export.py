"""export.py: files that onnxruntime and AOTInductor run, equal to the networks in PyTorch."""

import json

import pytest
import torch

import export
import guise
import train_vunet
from bilayer_tiny import avatar_run
from dcign_tiny import SIZE, write_run
from landmark_files import untrained
from nets import exports

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

FILES = {
    "vunet": ["vunet"],
    "landmarks": ["landmarks", "landmarks_transfer"],
    "bilayer": ["avatar_frame", "avatar_identity"],
    "dcign": ["dcign_decoder", "dcign_encoder"],
}
FIXED = {"avatar_identity"}  # batches of one


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Checkpoints of small networks, by system."""
    folder = tmp_path_factory.mktemp("runs")
    train_vunet.main(["--config", "smoke.yaml", "--num_steps", "1", "--name", "vunet",
                      "--run_dir", str(folder)])  # fmt: skip
    write_run(folder / "dcign")
    return {"vunet": folder / "vunet", "bilayer": avatar_run(folder), "dcign": folder / "dcign",
            "landmarks": untrained(folder)}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("system", FILES)
def test_onnx_files_equal_the_network(runs, system, tmp_path, capsys):
    export.main(["--checkpoint", str(runs[system]), "-o", str(tmp_path / "out")])
    files = sorted((tmp_path / "out").iterdir())
    assert [file.name for file in files] == [f"{name}.onnx" for name in FILES[system]]
    assert capsys.readouterr().out.count("greatest difference to PyTorch") == len(files)
    for file in files:
        content = onnx.load(file)
        assert {node.domain for node in content.graph.node} <= {""}  # standard operators alone
        facts = {entry.key: entry.value for entry in content.metadata_props}
        assert facts["guise_system"] == system and facts["guise_graph"] == file.stem
        assert json.loads(facts["guise_options"])
        first = content.graph.input[0].type.tensor_type.shape.dim[0]
        assert first.dim_value == 1 if file.stem in FIXED else first.dim_param == "N"


@pytest.mark.slow
def test_a_package_of_aotinductor_equals_the_network(runs, tmp_path):
    export.main(["--checkpoint", str(runs["dcign"]), "-o", str(tmp_path), "--format", "aoti"])
    loaded = torch._inductor.aoti_load_package(str(tmp_path / "dcign_decoder.pt2"))
    network = guise.load(runs["dcign"])
    code = torch.randn(5, network.net.encode(torch.zeros(1, 1, SIZE, SIZE))[0].shape[1])
    with torch.no_grad():
        assert (loaded(code) - network.net.decode(code)).abs().max() < 1e-4
    assert json.loads((tmp_path / "dcign_decoder.pt2.json").read_text())["guise_system"] == "dcign"


def test_a_file_that_differs_is_an_error(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        exports, "write_onnx", lambda graph, path, facts: path.write_text("") or 0.1
    )
    with pytest.raises(SystemExit):
        export.main(["--checkpoint", str(runs["dcign"]), "-o", str(tmp_path)])
    assert "dcign_encoder.onnx: differs from PyTorch by 1.0e-01" in capsys.readouterr().err


def test_the_difference_is_relative_and_sees_every_output(runs):
    graph, _ = exports.graphs(guise.load(runs["dcign"]))

    def run(inputs):
        with torch.no_grad():
            mean, log_variance = graph.module(*inputs.values())
        return [mean, log_variance * 1.5]

    assert exports.difference(graph, run) == pytest.approx(0.5, rel=1e-3)
