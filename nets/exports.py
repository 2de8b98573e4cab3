"""Networks as graphs that run without Python: ONNX files and torch.export packages.

The project's operators go out as standard ones: each is replaced by its definition in PyTorch.
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import nets
from nets import api
from nets.bilayer import Avatar, Bilayer
from nets.errors import UserError
from nets.onnx_files import Session
from nets.ops._library import REFERENCES

BATCH = "N"  # name of a dynamic axis
OPSET = 20


class ExportGraph(NamedTuple):
    """One function of a network.

    name     of the file, such as "vunet" or "avatar_frame"
    module   computes the outputs from the inputs
    inputs   name -> example tensor; the first axis is a batch of any size if `batch` names it
    outputs  names of the outputs
    batch    names of the inputs with a dynamic batch
    about    what goes in and comes out: ranges and shapes, for the metadata
    """

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]
    batch: tuple[str, ...]
    about: str


class Wrapped(nn.Module):
    """A function of a network as a module."""

    def __init__(self, net: nn.Module, function: Callable[..., Any]):
        super().__init__()
        self.net, self.function = net, function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self.net, *inputs)


def graphs(model: api.Model) -> Iterator[ExportGraph]:
    """The graphs of a loaded network, in float32 on the CPU."""
    makers: dict[str, Callable[[Any], Iterator[ExportGraph]]] = {
        "vunet": _vunet, "landmarks": _landmarks, "bilayer": _bilayer, "dcign": _dcign,
    }  # fmt: skip
    yield from makers[model.system](model)


def _vunet(model: api.LoadedVUNet) -> Iterator[ExportGraph]:
    side = model.size
    joints = torch.rand(2, 17, 2) * side
    pose = model._inputs.pose(joints)
    appearance = model._inputs.appearance(torch.zeros(2, 3, side, side, dtype=torch.uint8), joints)
    yield ExportGraph(
        "vunet",
        Wrapped(model.net, lambda net, pose, appearance: net(pose, appearance, "transfer").image),
        {"pose": pose.float().contiguous(), "appearance": appearance.float().contiguous()},
        ("image",),
        ("pose", "appearance"),
        f"pose (N, {pose.shape[1]}, S, S): the drawn stick figure; appearance (N, "
        f"{appearance.shape[1]}, s, s): "
        f"{'stacked crops of body parts' if model._inputs.crops else 'an image'}; "
        "image (N, 3, S, S); all in [-1, 1]",
    )


def _landmarks(model: api.LoadedLandmarks) -> Iterator[ExportGraph]:
    image = torch.rand(2, 3, model.size, model.size) * 2 - 1
    yield ExportGraph(
        "landmarks",
        Wrapped(model.net, lambda net, image: net.landmarks(image).means),
        {"image": image},
        ("points",),
        ("image",),
        "image (N, 3, S, S) in [-1, 1]; points (N, K, 2), (x, y) in [-1, 1]",
    )
    yield ExportGraph(
        "landmarks_transfer",
        Wrapped(model.net, lambda net, pose, look: net(pose, look).reconstruction),
        {"pose": image, "appearance": image.flip(0)},
        ("image",),
        ("pose", "appearance"),
        "pose, appearance (N, 3, S, S): images in [-1, 1]; image (N, 3, S, S), "
        "each appearance in its pose",
    )


def _bilayer(model: api.LoadedBilayer) -> Iterator[ExportGraph]:
    side, points = model.size, 2 * model._faces.count
    sources = {"image": torch.rand(1, 3, side, side) * 2 - 1}
    if getattr(model.net.identity_embedder, "stickman", False):
        sources["stickman"] = torch.rand(1, 3, side, side)
    if model.options["emb_apply_masks"]:
        sources["mask"] = torch.rand(1, 1, side, side)
    names = list(sources)
    if "texture_enhancer" in model.net.names:
        print("the avatar is exported without its texture enhancer")

    def identity(net: Any, *given: Tensor) -> tuple[Tensor, ...]:
        source = dict(zip(names, given, strict=True))
        avatar = net.create_avatar(
            source["image"], None, source.get("stickman"), source.get("mask")
        )
        return (avatar.texture, *(tensor for pair in avatar.pairs for tensor in pair))

    with torch.no_grad():
        outputs = identity(model.net, *sources.values())
        masked = model.net.drive(_avatar(outputs), torch.zeros(1, points)).mask is not None
    kept = ("texture", *(f"adaptive_{i}" for i in range(len(outputs) - 1)))
    yield ExportGraph(
        "avatar_identity",
        Wrapped(model.net, identity),
        sources,
        kept,
        (),
        "image (1, 3, S, S) in [-1, 1], stickman (1, 3, S, S), mask (1, 1, S, S) in [0, 1]: one "
        "person; texture and adaptive_*: what avatar_frame takes",
    )
    pose = torch.rand(2, points) * 2 - 1
    yield ExportGraph(
        "avatar_frame",
        frame_of(model.net),
        {"pose": pose, **dict(zip(kept, outputs, strict=True))},
        ("image", "mask") if masked else ("image",),
        ("pose",),
        "pose (N, 2 K): the face points of N frames, x and y in turn, in [-1, 1]; image "
        "(N, 3, S, S) in [-1, 1], mask (N, 1, S, S) in [0, 1]",
    )


def frame_of(net: Bilayer) -> nn.Module:
    """A module: poses (N, 2 K), texture and adaptive parameters to images and, if any, masks."""

    def frame(net: Bilayer, pose: Tensor, *person: Tensor) -> tuple[Tensor, ...]:
        frames = net.drive(_avatar(person), pose)
        return (frames.image,) if frames.mask is None else (frames.image, frames.mask)

    return Wrapped(net, frame)


def _avatar(outputs: tuple[Tensor, ...]) -> Avatar:
    texture, *flat = outputs
    return Avatar(texture, list(zip(flat[::2], flat[1::2], strict=True)), texture[:, None], None)


def _dcign(model: api.LoadedDCIGN) -> Iterator[ExportGraph]:
    side = model.net.image_size
    image = torch.rand(2, 1, side, side)
    with torch.no_grad():
        code = model.net.encode(image)[0]
    yield ExportGraph(
        "dcign_encoder",
        Wrapped(model.net, lambda net, image: net.encode(image)),
        {"image": image},
        ("mean", "log_variance"),
        ("image",),
        "image (N, 1, S, S), grey in [0, 1]; mean, log_variance (N, latents)",
    )
    yield ExportGraph(
        "dcign_decoder",
        Wrapped(model.net, lambda net, code: net.decode(code)),
        {"code": code.clone()},
        ("image",),
        ("code",),
        "code (N, latents); image (N, 1, S, S), grey in [0, 1]",
    )


def metadata(model: api.Model, graph: ExportGraph) -> dict[str, str]:
    """What an exported file says of itself."""
    weights = hashlib.sha256()  # files that belong together have the same
    for name, tensor in sorted(model.net.state_dict().items()):
        weights.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    kind = {} if model.kind is None else {"guise_kind": model.kind}
    return {
        "guise_version": nets.__version__,
        "guise_system": model.system,
        "guise_graph": graph.name,
        "guise_about": graph.about,
        "guise_step": str(model.step),
        "guise_options": json.dumps(dict(model.options), default=str),
        "guise_weights": weights.hexdigest()[:16],
        **kind,
    }


def exported(graph: ExportGraph) -> torch.export.ExportedProgram:
    """The graph as an ExportedProgram of standard operators."""
    size = torch.export.Dim(BATCH, min=1)
    dynamic = {name: {0: size} for name in graph.batch}
    shapes = tuple(dynamic.get(name) for name in graph.inputs)
    with torch.no_grad(), _quiet():
        program = torch.export.export(
            graph.module.eval(), tuple(graph.inputs.values()), dynamic_shapes=(shapes,)
        )
        table = {**torch.export.default_decompositions(), **REFERENCES}
        table[torch.ops.aten.empty_permuted.default] = _empty
        table[torch.ops.aten.hypot.default] = lambda a, b: (a.square() + b.square()).sqrt()
        return program.run_decompositions(table)


def _empty(size: list[int], physical_layout: list[int], **more: Any) -> Tensor:
    """`empty_permuted` without the memory layout, which ONNX has no word for."""
    return torch.empty(size, dtype=more.get("dtype"), device=more.get("device"))


def write_onnx(graph: ExportGraph, path: Path, facts: dict[str, str]) -> float:
    """Writes an ONNX file; returns the greatest difference of onnxruntime to PyTorch."""
    try:
        import onnx
        import onnxruntime  # noqa: F401  runs the file
        import onnxscript  # noqa: F401  torch.onnx needs it
    except ImportError as error:
        raise UserError(f"--format onnx: needs {error.name}: pip install -e '.[export]'") from error
    with _quiet():
        program = torch.onnx.export(
            exported(graph),
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # of dynamo=True
    model = program.model_proto
    axes = [value.type.tensor_type.shape.dim[0] for value in model.graph.input]
    batch = {axis.dim_param for axis in axes if axis.dim_param}  # torch calls it s0, s21, ...
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param in batch:
                axis.dim_param = BATCH
    for key, text in facts.items():
        model.metadata_props.add(key=key, value=text)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return difference(graph, Session(path))


def write_package(graph: ExportGraph, path: Path, facts: dict[str, str]) -> float:
    """Writes an AOTInductor package for this processor; returns the difference to PyTorch."""
    with _quiet():
        torch._inductor.aoti_compile_and_package(exported(graph), package_path=str(path))
        compiled = torch._inductor.aoti_load_package(str(path))
    Path(f"{path}.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")

    def run(inputs: dict[str, Tensor]) -> list[Tensor]:
        result = compiled(*inputs.values())
        return [result] if isinstance(result, Tensor) else list(result)

    return difference(graph, run)


def difference(graph: ExportGraph, run: Callable[[dict[str, Tensor]], list[Tensor]]) -> float:
    """The greatest difference between `run` and the network, in units of each output's largest
    value; where the batch is dynamic, on batches of three sizes.
    """
    worst = 0.0
    for size in (1, 2, 3) if graph.batch else (1,):
        rows = torch.arange(size) % 2
        inputs = {n: t[rows] if n in graph.batch else t for n, t in graph.inputs.items()}
        with torch.no_grad():
            expected = graph.module(*inputs.values())
        expected = [expected] if isinstance(expected, Tensor) else list(expected)
        for got, right in zip(run(inputs), expected, strict=True):
            scale = max(float(right.abs().max()), 1e-6)
            worst = max(worst, float((got - right).abs().max()) / scale)
    return worst


class _quiet:
    """Keeps what exporters say about themselves off the terminal."""

    def __enter__(self) -> None:
        self.catch = warnings.catch_warnings()
        self.catch.__enter__()
        warnings.simplefilter("ignore")
        self.level = logging.root.manager.disable
        logging.disable(logging.WARNING)

    def __exit__(self, *error: object) -> None:
        logging.disable(self.level)
        self.catch.__exit__(*error)  # type: ignore[arg-type]  # passed on as they came
