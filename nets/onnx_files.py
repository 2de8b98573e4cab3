"""Reads the ONNX files that export.py wrote, and runs them with onnxruntime."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nets.errors import UserError


class Session:
    """One ONNX file, opened on the CPU with as many threads as torch.

    facts    the metadata of the file
    shapes   name of an input -> its shape; a dynamic axis has its name
    outputs  names of the outputs
    Raises UserError if the file cannot be opened, or onnxruntime is missing.
    """

    def __init__(self, path: Path):
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError(
                f"{path}: needs {error.name}, which runs ONNX files: pip install -e '.[export]'"
            ) from error
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        settings.log_severity_level = 3  # errors, which are raised as well
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), settings, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises a dozen types of its own
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path}: not an ONNX file that onnxruntime opens: {reason}") from error
        self.path = path
        self.facts: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self.shapes = {value.name: list(value.shape) for value in self._session.get_inputs()}
        self.outputs = [value.name for value in self._session.get_outputs()]

    def __call__(self, inputs: dict[str, Tensor]) -> list[Tensor]:
        """The outputs, in order. Inputs that the graph does not use are left out."""
        given = {name: inputs[name].contiguous().numpy() for name in self.shapes}
        return [torch.from_numpy(array) for array in self._session.run(None, given)]


class ExportedGraphs:
    """The exported graphs of one network, of which one file is given and others lie beside it."""

    def __init__(self, path: Path):
        first = Session(path)
        if "guise_graph" not in first.facts:
            raise UserError(f"{path}: an ONNX file that export.py did not write")
        missing = {"guise_system", "guise_options", "guise_step", "guise_weights"} - {*first.facts}
        if missing:
            raise UserError(f"{path}: of an earlier version of guise; export it again")
        self.path, self.facts = path, first.facts
        self._sessions = {first.facts["guise_graph"]: first}

    def __getitem__(self, graph: str) -> Session:
        """The session of a graph, such as "avatar_frame".

        Raises UserError if its file is not beside the given one, or is of other weights.
        """
        if graph not in self._sessions:
            path = self.path.with_name(f"{graph}.onnx")
            if not path.is_file():
                raise UserError(
                    f"{self.path}: needs {path.name} beside it, which export.py writes as well"
                )
            other = Session(path)
            if other.facts.get("guise_graph") != graph:
                raise UserError(f"{path}: must hold the graph {graph} of export.py")
            if other.facts.get("guise_weights") != self.facts["guise_weights"]:
                raise UserError(f"{path}: of other weights than {self.path}; export both again")
            self._sessions[graph] = other
        return self._sessions[graph]


def read(path: Path, system: str | None = None) -> dict[str, Any]:
    """The content of an exported file in the form of `nets.run.checkpoints`.

    system   raise where the file is of another one
    returns  {"system", "step", "options", "parts": {"graphs": ExportedGraphs}, "kind"}
    """
    graphs = ExportedGraphs(path)
    facts = graphs.facts
    if system is not None and facts["guise_system"] != system:
        raise UserError(f"{path}: a network of {facts['guise_system']}, not of {system}")
    kind = facts.get("guise_kind")
    try:
        step, trained = int(facts["guise_step"]), dict(json.loads(facts["guise_options"]))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: its metadata do not say which network it is of") from error
    return {
        "system": facts["guise_system"],
        "step": step,
        "options": trained,
        "parts": {"graphs": graphs},
        "kind": f"{kind}, as ONNX" if kind else "as ONNX",
    }


def graphs_of(content: dict[str, Any]) -> ExportedGraphs | None:
    """The exported graphs of a content that `read` returned; None for a checkpoint's."""
    graphs: ExportedGraphs | None = content["parts"].get("graphs")
    return graphs


def refuse(options: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raises UserError if one of these options is set: exported graphs cannot do it."""
    for name in names:
        if options[name]:
            raise UserError(f"--{name}: not with an exported file; give the checkpoint")
