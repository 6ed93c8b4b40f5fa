"""The schema in words: the text of ``--help`` and the parameter tables of the README files."""
import dataclasses
import textwrap
from typing import Any

from common.config.options import SECTIONS, Config, fields_of
from common.config.values import describe_kind
from common.spec import ModelSpec


def _show(value: Any) -> str:
    if value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else str(value)


def _other_names(field: dataclasses.Field) -> list[str]:
    return [*field.metadata["aliases"], *field.metadata["converted_aliases"]]


def help_text(spec: ModelSpec | None = None, task: str = "train") -> str:
    """Return the help: every key by section with type, default, meaning and other names."""
    lines = ["usage: [--config_path FILE.yaml] [--key value | --key=value ...]", "",
             "Every key below stands in a YAML file as 'key: value', or on the command line, which wins.",
             "A switch (true or false) without a value on the command line is true."]
    if spec is not None:
        lines += [f"Variants of {spec.name}: {', '.join(spec.variants)}."]
        if task in spec.default_configs:
            lines += [f"Without --config_path (or --config): {spec.default_configs[task]} in the folder {spec.name}."]
    for section, title in SECTIONS.items():
        lines += ["", f"{title}:"]
        for name, field in fields_of((spec.options if spec else None) or Config).items():
            if field.metadata["section"] != section:
                continue
            lines.append(f"  --{name}  {describe_kind(field)}; default {_show(field.default)}")
            names = _other_names(field)
            text = field.metadata["help"] + (f" (also --{', --'.join(names)})" if names else "")
            lines += textwrap.wrap(text, 112, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines) + "\n"


def markdown_table(section: str | None = None, schema: type[Config] = Config) -> str:
    """Return the parameter table of a README, of one section or, with a heading each, of all."""
    if section is None:
        return "\n".join(f"### {title}\n\n{markdown_table(name, schema)}" for name, title in SECTIONS.items())
    lines = ["| key | default | meaning | also accepted as |", "|---|---|---|---|"]
    for name, field in fields_of(schema).items():
        if field.metadata["section"] == section and not field.metadata["unused"]:
            meaning = f"{field.metadata['help']} ({describe_kind(field)})".replace("|", "\\|")
            others = ", ".join(f"`{other}`" for other in _other_names(field))
            lines.append(f"| `{name}` | {_show(field.default)} | {meaning} | {others} |")
    return "\n".join(lines) + "\n"
