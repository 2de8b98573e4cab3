"""Configurations of the two published VUNet programs, in the words of `train_vunet.py`.

The flat YAML files of the body-part form need no translation. Those of the whole-image form nest
the network's options in `model_pars` and the terms of the loss in `losses`; keys of their framework
that mean nothing here are left out, and that is said.
"""

from __future__ import annotations

from typing import Any

from nets.errors import UserError

RENAMED = {
    "n_data_processes": "workers",
    "experiment_name": "name",
    "dropout_prob": "drop_prob",
}
LEFT_OUT = (
    "iterator",
    "model",
    "code_root",
    "integrations",
    "datasets",
    "debug_timing",
    "ckpt_zero",
    "max_batches_per_epoch",
    "n_prefetch",
    "test_batch_size",
    "eval_all",
    "eval_forever",
)
SETTINGS = ("weight", "start_ramp_it", "start_ramp_val", "end_ramp_it", "end_ramp_val")
TERMS = ("color_L1", "color_L2", "color_gradient", "KL", "perceptual")


def translate(keys: dict[str, Any], source: str) -> dict[str, Any]:
    """The keys of a configuration file as `train_vunet.py` knows them; `source` is its name.

    `model_pars` or `iterator` mark the whole-image form. `final_act` chose both the activation of
    the output and the type of the convolutions; here it sets `tanh` and `conv`.
    """
    result: dict[str, Any] = {}
    if ("model_pars" in keys or "iterator" in keys) and "variant" not in keys:
        result |= {"variant": "image", "log_freq": 1000, "start_log_freq": 1}  # its defaults
    left_out = [key for key in keys if key in LEFT_OUT]
    if left_out:
        print(f"{source}: {', '.join(left_out)}: of another framework, left out")
    for key, value in keys.items():
        if key == "model_pars":
            result |= _model(value, source)
        elif key == "losses":
            result[key] = _losses(value, source, replace=source != "command line")
        elif key == "ckpt_freq" and value is None:
            continue  # once an epoch there; the default here
        elif key not in LEFT_OUT:
            result[RENAMED.get(key, key)] = value
    return result


def _model(keys: Any, source: str) -> dict[str, Any]:
    if not isinstance(keys, dict):
        raise UserError(f"model_pars in {source}: must be a mapping, got {keys!r}")
    result = {RENAMED.get(key, key): value for key, value in keys.items() if key != "final_act"}
    if "final_act" in keys:
        result["tanh"] = keys["final_act"]
        result["conv"] = "none" if keys["final_act"] else "weight_affine"
    return result


def _losses(terms: Any, source: str, replace: bool) -> dict[str, Any]:
    if not isinstance(terms, dict) or not all(isinstance(t, dict | None) for t in terms.values()):
        raise UserError(f"losses in {source}: must map each term to its settings, got {terms!r}")
    if not replace:
        return terms
    # A later file's `losses` replaces an earlier one's: terms it does not name have no weight.
    unset = dict.fromkeys(SETTINGS)
    return {
        name: {**unset, **(terms.get(name) or {})} for name in {**dict.fromkeys(TERMS), **terms}
    }
