"""``--finetune``: the one way to train on few images of one's own, whatever the model. Imports no MindSpore.

It stands for a configuration: with weights ``common/data/finetune.yaml`` and the checkpoint's network, without them a
small network of the model, ``MODEL/config/finetune_small.yaml``, whose base that is.
"""
from pathlib import Path
from typing import Any, Mapping

from common.config.datasets import DATASETS
from common.config.options import TRAINING_TASKS, Config, fields_of, network_keys
from common.errors import UserError
from common.files import DATA, ROOT
from common.spec import ModelSpec

_FINETUNING = DATA / "finetune.yaml"
_FINETUNING_SMALL = "config/finetune_small.yaml"  # of a model: the same with a small network, which begins with nothing
_OF_NETWORK = ("in_channels", "image_size", "eval_image_size", "crop_pct", "interpolation", "eval_interpolation",
               "mean", "std")  # beside the section of the model: what a network that goes on learning was used to


def finetuning_file(task: str, named: Path | None, model_dir: Path, has_network: str | None) -> Path:
    """Return the file that ``--finetune`` stands for.

    Raises:
        UserError: if another file is named, or this is no training.
    """
    if task not in TRAINING_TASKS or task == "pretrain":
        raise UserError(f"--finetune (command line) is for {model_dir.name}/train.py, and this is "
                        f"{'a pre-training' if task == 'pretrain' else f'{task}.py'}; leave it out.")
    if named:
        raise UserError(f"--finetune and --config_path {named} (command line) both choose a configuration; give one of "
                        f"them. --finetune is {_FINETUNING.relative_to(ROOT)} or {model_dir.name}/{_FINETUNING_SMALL}.")
    return _FINETUNING if has_network else model_dir / _FINETUNING_SMALL


def network_of(held: Mapping[str, Any], known: ModelSpec, spec: ModelSpec, schema: type[Config]) -> dict[str, Any]:
    """Return the network that a checkpoint holds, and the images that it is used to, for a training on other images.

    The checkpoint of another kind of training names a network that this one has under another name: MAE's encoder.
    """
    result = {name: value for name, value in held.items()
              if name in _OF_NETWORK or fields_of(schema)[name].metadata["section"] == "model"}
    if data := DATASETS.get(held.get("dataset")):
        result |= {"mean": result.get("mean") or data.mean, "std": result.get("std") or data.std}
    model = result.get("model")
    if model in known.variants and model not in spec.variants:
        sizes = known.variants[model].items()
        result["model"] = max(spec.variants, key=lambda name: len(sizes & spec.variants[name].items()))
        ours = spec.variants[result["model"]]
        result = {name: value for name, value in result.items() if name not in network_keys(schema) or name in ours}
    return result
