"""Where a value of the configuration was written: in a file, and there in which line, or by the user himself."""
import re
from pathlib import Path

from common.config.options import Config, names_of


def is_file(source: str) -> bool:
    """Whether the source of a value is a file: of its own keys, or the base of one."""
    return Path(source.removeprefix("base ")).is_file()


def is_asked(config: Config, name: str) -> bool:
    """Whether the user wrote a value himself, on the command line or in a program: it is no file's and no default."""
    return name in config.given and not is_file(config.given[name])


def place_of(config: Config, name: str) -> str:
    """Return where a value was written, such as ``gmlp/config/gmlp_Ti.yaml, line 12``; ``default`` if nowhere."""
    source = config.given.get(name, "default")
    file = Path(source.removeprefix("base "))
    if file.suffix.lower() not in (".yaml", ".yml") or not file.is_file():
        return source
    spellings = "|".join(key for key, standard in names_of(type(config)).items() if standard == name)
    lines = file.read_text(encoding="utf-8-sig").splitlines()
    number = next((number for number, line in enumerate(lines, 1) if re.match(rf"\s*({spellings})\s*:", line)), 0)
    return f"{file}, line {number}" if number else str(file)
