"""YAML as we read it: the safe subset, and a key given twice is an error instead of a silent override."""

from collections.abc import Hashable

import yaml


class YamlError(Exception):
    """The text is not what we read; one line, with the place where it is known."""


def parse_yaml(text: str) -> object:
    """The one document in `text`, None if there is none. Raises YamlError."""
    try:
        loader = _UniqueKeyLoader(text)
        return loader.get_single_data()
    except (yaml.YAMLError, ValueError) as error:  # ValueError: what looks like a date and is none
        raise YamlError(" ".join(str(error).split())) from error


class _UniqueKeyLoader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)
