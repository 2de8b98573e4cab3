"""YAML of plain values, in which a key that stands twice is an error."""

from __future__ import annotations

from typing import Any

import yaml


class _UniqueKeys(yaml.SafeLoader):
    """PyYAML's safe loader; of a key that stands twice it would silently take the last value."""


def _mapping(loader: _UniqueKeys, node: yaml.MappingNode) -> dict[Any, Any]:
    keys: set[tuple[str, str]] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):  # merged keys (<<) come later and may be replaced
            if (key.tag, key.value) in keys:
                problem = f"{key.value} stands twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            keys.add((key.tag, key.value))
    return loader.construct_mapping(node, deep=True)


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def load(text: str) -> Any:
    """The value of a YAML text: mappings, lists, texts, numbers, dates and null only.

    Raises yaml.YAMLError, with the line, if it is not YAML, asks for another type, or has a key
    twice.
    """
    loader = _UniqueKeys(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()
