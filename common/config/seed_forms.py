"""What the documents of the original versions name and this repository keeps elsewhere. Imports no MindSpore."""
from pathlib import Path
from typing import Mapping

from common.config.options import Config
from common.config.yaml_file import read_yaml
from common.files import ROOT


def shipped_file(name: str, model_dir: Path) -> Path | None:
    """Find a configuration by a path that was right in the original versions; ``None``: it is none of those.

    Such as ``/path/code/configs/gmlp/gmlp_Ti.yaml`` for ``gmlp/config/gmlp_Ti.yaml``, and ``config/export.yml`` for
    SOFT's ``config/SOFT_export.yml``.

    Args:
        name: the path as the user wrote it, where there is no such file.
        model_dir: the model's folder.
    """
    path = Path(name)
    place = next((number for number, part in enumerate(path.parts[:-1]) if part in ("config", "configs")), None)
    if place is None or path.is_absolute() and Path(*path.parts[:place]).resolve() not in (ROOT, model_dir.resolve()):
        return None
    config = model_dir / "config"
    same = [config / path.name] if (config / path.name).is_file() else sorted(config.glob(f"*_{path.stem}.y*ml"))
    return same[0] if len(same) == 1 else None


def best_of_default(default_configs: Mapping[str, str], model_dir: Path) -> Path | None:
    """Return the newest best checkpoint where the model's train.py writes by default; ``None``: there is none."""
    file = model_dir / default_configs.get("train", "")
    written = read_yaml(file) if file.is_file() else {}
    folder = Path(written.get("ckpt_save_dir", Config.ckpt_save_dir))
    return max(folder.glob("*_best.ckpt"), key=lambda file: file.stat().st_mtime, default=None)
