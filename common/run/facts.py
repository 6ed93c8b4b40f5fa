"""The facts of a run that its card begins with, as YAML between two lines of ``---``. Imports no MindSpore."""
import json
from pathlib import Path
from typing import Any, Mapping

import yaml

CARD = "card.md"


def facts_text(facts: Mapping[str, Any]) -> str:
    """Return the facts as the beginning of a card."""
    plain = json.loads(json.dumps(facts))  # numpy's numbers and tuples are none of YAML's
    return f"---\n{yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=10**6)}---\n"


def read_facts(folder: Path) -> dict[str, Any]:
    """Return the facts of the card in a run folder; none, if there is no card or nobody can read it any more."""
    try:
        _, head, _ = (folder / CARD).read_text(encoding="utf-8").split("---\n", 2)
        facts = yaml.safe_load(head)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return facts if isinstance(facts, dict) else {}
