"""The schema in words: the text of ``--help`` and the parameter tables of the README files."""
import dataclasses
import textwrap
from typing import Any

from common.config.options import SECTIONS, TRAINING_TASKS, Config, fields_of, network_keys
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


def help_text(schema: type[Config], task: str, *, about: str = "", defaults: Config | None = None, source: str = "",
              spec: ModelSpec | None = None) -> str:
    """Return the help of a program: what it does, and the keys that it reads, by section.

    Args:
        schema: the keys of the model.
        task: what the program does.
        about: a sentence about it and an example, ``Does this: ``command``.``
        defaults: the configuration without further flags.
        source: the file that ``defaults`` come from; empty: none.
        spec: the model; its variants are listed.
    """
    lines = [about.strip().replace(": ``", ":\n\n  ").replace("``.", "\n").replace("``", "")]
    lines += ["Every key below stands in a YAML file as 'key: value', or on the command line as --key value, which",
              "wins; a switch (true or false) without a value is true. --config_path FILE (or --config) names the "
               "file;",
              "--print_config shows all values, and where each comes from; --dry_run only checks them and their paths."]
    if task in TRAINING_TASKS and task != "pretrain":
        lines += ["--finetune is for few images of your own: --finetune --data_dir FOLDER [--ckpt_path WEIGHTS] takes",
                  "the network of the weights, or a small one, and a recipe for it, in the place of --config_path."]
    if spec is not None:
        lines += textwrap.wrap(f"Variants of {spec.name}: {', '.join(spec.variants)}.", 118)
    lines += [f"The defaults below are those of {source}." if source else "No file is read unless you name one."]
    for section, title in SECTIONS.items():
        keys = {name: field for name, field in fields_of(schema).items() if field.metadata["section"] == section
                and task in field.metadata["tasks"] and not field.metadata["unused"] and _is_of(name, schema, spec)}
        lines += ["", f"{title}:"] if keys else []
        for name, field in keys.items():
            names = _other_names(field)
            text = (f"(also --{', --'.join(names)}) " if names else "") + field.metadata["help"]
            value = getattr(defaults, name) if defaults is not None else field.default
            lines += textwrap.wrap(f"--{name}  {text}; {describe_kind(field)}; default {_show(value)}", 118,
                                   initial_indent="  ", subsequent_indent="      ", break_long_words=False,
                                   break_on_hyphens=False)
    return "\n".join(lines) + "\n"


def _is_of(name: str, schema: type[Config], spec: ModelSpec | None) -> bool:
    """Whether a model has a key: of the sizes that all networks share, those that its variants or its options name."""
    if spec is None or name not in network_keys(Config):
        return True
    return name in schema.__annotations__ or any(name in arguments for arguments in spec.variants.values())


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
