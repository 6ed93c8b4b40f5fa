"""The shared package; programs of one's own import ``create_model``, ``list_models`` and ``Predictor`` from it."""
from importlib import import_module
from typing import Any

_HOMES = {"create_model": "common.models", "list_models": "common.spec", "Predictor": "common.predict"}


def __getattr__(name: str) -> Any:
    """Import what is asked for only then: most modules of the package load without MindSpore, and stay so."""
    if name not in _HOMES:
        raise AttributeError(f"module 'common' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
