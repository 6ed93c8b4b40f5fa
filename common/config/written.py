"""What the user may write for some keys besides their value; each function returns the value. Imports no MindSpore."""
import json
from typing import Any

from common.errors import UserError


def no_switch_for_weights(value: Any) -> Any:
    """Old files switch pre-trained weights on and off in the key that also holds the path."""
    return _no_switch(value, "true does not say which weights; give the path of a checkpoint, or leave the key out")


def no_switch_for_resuming(value: Any) -> Any:
    """Continuing a run in its own folder needs no switch, so ``true`` can only be a misunderstanding."""
    return _no_switch(value, "give the path of a checkpoint; a run in the same ckpt_save_dir continues by itself")


def _no_switch(value: Any, sentence: str) -> Any:
    if str(value).lower() in ("true", "1"):
        raise UserError(sentence)
    return "" if str(value).lower() in ("false", "0") else value


def policy(value: Any) -> Any:
    """The old zoo writes 0 and 1 where newer files name the policy."""
    text = str(value).lower()
    return "" if text in ("0", "false", "none") else "autoaugment" if text in ("1", "true") else value


def comma_separated(value: Any) -> Any:
    """A list may be written as such."""
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else value


def addresses(value: Any) -> Any:
    """A platform on whose page nothing was chosen gives an empty list; YAML may hold a list as such."""
    if isinstance(value, (list, dict)):
        value = json.dumps(value)
    return "" if isinstance(value, str) and value.replace(" ", "") in ("[]", "{}", "''", '""') else value
