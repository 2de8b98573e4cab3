"""Checkpoints on the Hugging Face Hub: hf://OWNER/NAME, and the folder that is uploaded there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any

from nets.errors import UserError
from nets.run.files import write_text

PREFIX = "hf://"
ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?")
FILE = "model.safetensors"


def download(address: str) -> Path:
    """The local copy of a repository's model.safetensors; a line says what is downloaded.

    address  hf://OWNER/NAME or hf://OWNER/NAME@REVISION: a branch, a tag or a commit; default: main
    Files lie in huggingface_hub's own cache. Raises UserError, one line, for an address of another
    form, an unknown or closed repository, an unknown revision, and without a connection.
    """
    match = ADDRESS.fullmatch(address)
    if match is None:
        raise UserError(f"--checkpoint {address}: must be hf://OWNER/NAME or hf://OWNER/NAME@TAG")
    name, revision = match[1], match[2] or "main"
    try:
        from huggingface_hub import errors, hf_hub_download
    except ImportError as error:
        raise UserError(f"{address}: needs {error.name}: pip install -e '.[hub]'") from error
    try:
        about = hf_hub_download(name, FILE, revision=revision, dry_run=True)
        if about.will_download:
            size = f", {about.file_size / 1e6:.1f} MB" if about.file_size else ""
            print(f"downloading {FILE} of {address}, commit {about.commit_hash[:12]}{size}")
        return Path(hf_hub_download(name, FILE, revision=revision))
    except errors.GatedRepoError as error:
        why = "access must be asked for on its page; then: hf auth login"
        raise UserError(f"{address}: {why}") from error
    except errors.RepositoryNotFoundError as error:
        why = "no such repository, or a private one, which needs: hf auth login"
        raise UserError(f"{address}: {why}") from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{address}: the repository has no revision {revision}") from error
    except (errors.LocalEntryNotFoundError, ConnectionError) as error:
        why = "not in the cache, and the Hub cannot be reached"
        raise UserError(f"{address}: {why}") from error
    except errors.EntryNotFoundError as error:
        why = f"holds no {FILE}, which export.py --hub writes"
        raise UserError(f"{address}: {why}") from error
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        raise UserError(f"{address}: {str(error).strip().splitlines()[0]}") from error


def shareable(value: Any) -> Any:
    """An option's value without folders of this machine: of a path its last name remains."""
    if isinstance(value, dict):
        return {name: shareable(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [shareable(one) for one in value]
    if isinstance(value, PurePath) or (isinstance(value, str) and "/" in value):
        return PurePath(value).name
    return value


def write_folder(
    folder: Path, content: dict[str, Any], write: Callable[[Path, dict[str, Any]], None]
) -> None:
    """Writes model.safetensors and its card, README.md, to a folder for the Hub.

    content  of a checkpoint; paths among its options are shortened to their last name
    write    `nets.published.write_weights`
    Raises UserError if the folder holds one of the two already.
    """
    content = {**content, "options": shareable(dict(content["options"]))}
    paths = folder / FILE, folder / "README.md"
    for path in paths:
        if path.exists():
            raise UserError(f"{path}: exists already; give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    write(paths[0], content)
    write_text(paths[1], card(folder.resolve().name, content))


def card(name: str, content: dict[str, Any]) -> str:
    """The text of a model card: what the weights are, how to use them, the options."""
    system, model = content["system"], content["parts"]["model"]
    count = sum(tensor.numel() for tensor in model.values())
    data = content["options"].get("data")
    trained = "the demo world, which guise renders" if data is None else f"own data, `{data}`"
    origin = content.get("kind", f"a run of guise on {trained}")
    rows = [f"| {key} | {value} |" for key, value in sorted(content["options"].items())]
    return "\n".join([
        "---", "library_name: guise", "pipeline_tag: image-to-image",
        "tags:", "- guise", f"- {system}", "---",
        f"# {name}", "",
        f"Weights of a {system} network of guise: {count:,} values, after {content['step']} "
        "training steps.", "",
        f"Origin: {origin}.", "",
        "```bash", "pip install -e '.[hub]'    # in a checkout of guise",
        f"python infer.py --checkpoint hf://OWNER/{name} --help", "```", "",
        "The header of `model.safetensors` holds the options below. Before you publish: add the "
        "licence of weights and data to the block on top, and what the network must not be used "
        "for.", "",
        "| option | value |", "|---|---|", *rows, "",
    ])  # fmt: skip
