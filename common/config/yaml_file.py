"""YAML files: strict reading, with sentences for what is wrong, and writing. Imports no MindSpore."""
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from common.config.options import SECTIONS, Config, fields_of
from common.errors import UserError
from common.files import write_whole

_FLOAT = re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?$")
_MERGE = "tag:yaml.org,2002:merge"  # the key <<
LARGEST, BRACKETS = 256 << 10, 1000  # bytes and open brackets of a file; more would take YAML minutes


class _Loader(yaml.SafeLoader):
    """YAML in which ``1e-3`` is a number, and a key that stands twice with different values is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: dict = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                continue  # its keys come beneath those that stand here
            key, value = self.construct_object(key_node, deep=True), self.construct_object(value_node, deep=True)
            if isinstance(key, Hashable) and key in seen and seen[key] != value:
                raise UserError(f"key '{key}' stands twice, as {seen[key]!r} and as {value!r} in line "
                                f"{key_node.start_mark.line + 1}; keep one of them")
            seen[key if isinstance(key, Hashable) else None] = value
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that ``_Loader`` would read as numbers."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def effective_text(config: Config, origins: Mapping[str, str] | None = None) -> str:
    """Return the effective configuration as YAML, by section; read back it gives an equal ``Config``.

    Args:
        config: the configuration.
        origins: key -> where its value comes from, shown behind it; what is missing is a default, or follows from
            another key. ``None``: nothing is shown.
    """
    lines = ["# The effective configuration of a run. Start it again with --config_path and this file."]
    for section, title in SECTIONS.items():
        lines += ["", f"# {title}"]
        for name, field in fields_of(type(config)).items():
            if field.metadata["section"] != section or field.metadata["unused"] or (
                    name == "lr" and config.base_lr is not None):
                continue  # base_lr replaces lr, and a file must not hold both
            value = getattr(config, name)
            flow = None if isinstance(value, tuple) else False  # lists in brackets, all else plain
            line = yaml.dump({name: list(value) if flow is None else value}, Dumper=_Dumper, default_flow_style=flow,
                             allow_unicode=True, width=10**6).rstrip("\n")
            if origins is not None:
                line = f"{line:40}  # {origins.get(name, 'default' if value == field.default else 'follows')}"
            lines.append(line)
    return "\n".join(lines) + "\n"


def save_config(config: Config, path: str | Path) -> None:
    """Write ``effective_text`` to a file."""
    write_whole(path, effective_text(config))


def read_yaml(file: Path) -> dict[str, Any]:
    """Return the first document of a YAML file; the old zoo's files hold help texts in a second and third one.

    Raises:
        UserError: if the file cannot be read, is empty, or holds no keys.
    """
    try:
        text = _limited(file)
        for _ in yaml.parse(text, Loader=_Loader):
            pass  # the whole file must be YAML, although only its first document counts
        document = next(yaml.load_all(text, Loader=_Loader), None)
    except OSError as error:
        raise UserError(f"configuration {file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"configuration {file} is not a YAML file: it is not text in UTF-8.") from error
    except UserError as error:
        raise UserError(f"configuration {file}: {error}.") from error
    except RecursionError as error:
        raise UserError(f"configuration {file} is nested too deeply, or a part of it contains itself; keys stand at "
                        "the left margin.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}: " if mark else ""
        problem = _missing_space(text) or place + str(getattr(error, "problem", None) or error).splitlines()[0]
        raise UserError(f"configuration {file} is not a YAML file: {problem}.") from error
    if document is None:
        raise UserError(f"configuration {file} is empty; it should hold lines 'key: value'.")
    if not isinstance(document, dict):
        problem = _missing_space(text) or f"it is a {'list' if isinstance(document, list) else 'single value'}"
        raise UserError(f"configuration {file} should hold lines 'key: value': {problem}.")
    return document


def _limited(file: Path) -> str:
    """Return the text of a file, if it is one that YAML can read in a moment."""
    if file.stat().st_size > LARGEST:
        raise UserError(f"it has {file.stat().st_size:,} bytes, and no configuration has more than {LARGEST:,}")
    text = file.read_text(encoding="utf-8-sig")
    if text.count("[") + text.count("{") > BRACKETS:
        raise UserError(f"it opens more than {BRACKETS:,} brackets, which no configuration does")
    return text


def _missing_space(text: str) -> str | None:
    """Find ``key:value``, which YAML reads as one word."""
    for number, line in enumerate(text.splitlines(), 1):
        found = re.match(r"\s*([A-Za-z_]\w*):(?=[^\s:])", line)
        if found:
            return f"line {number}, '{line.strip()}', needs a space after '{found.group(1)}:'"
    return None
