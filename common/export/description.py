"""The JSON file beside an exported one: its input, preprocessing and classes."""
import json
from pathlib import Path
from typing import Any, Mapping, Sequence

import numpy as np

from common.augment.pipeline import statistics
from common.dataset.classes import one_per_output
from common.errors import UserError, reason
from common.export.contents import Contents, Inputs


def preprocessing_of(config: Any) -> dict[str, Any]:
    """Return the keys of a configuration that make an image ready, with the statistics written out."""
    mean, std = statistics(config)
    return {"image_size": config.eval_image_size or config.image_size, "crop_pct": config.crop_pct,
            "interpolation": config.interpolation, "eval_interpolation": config.eval_interpolation,
            "in_channels": config.in_channels, "exif": config.exif, "mean": list(mean), "std": list(std)}


def describe_ports(inputs: Inputs, outputs: Sequence[np.ndarray], contents: Contents) -> dict[str, Any]:
    """Describe what goes in and what comes out."""
    name, shape, dtype = inputs[0]
    colours = "grey" if shape[1] == 1 else "RGB"
    values = f"{colours}, 0..255" if contents.normalization else f"{colours}, (v / 255 - mean) / std"
    described = {"input": {"name": name, "layout": "NCHW", "dtype": dtype, "shape": list(shape), "values": values}}
    if inputs[1:]:
        described["more_inputs"] = [{"name": name, "dtype": dtype, "shape": list(shape), "values": "0 <= v < 1"}
                                    for name, shape, dtype in inputs[1:]]
    ports = [{"name": name, "dtype": "float32", "shape": [shape[0], *output.shape[1:]]}
             for name, output in zip(contents.output_names, outputs)]
    return described | {"output": ports[0]} | ({"more_outputs": ports[1:]} if ports[1:] else {})


def describe_classes(class_names: Sequence[str], outputs: Sequence[np.ndarray], contents: Contents) -> dict[str, Any]:
    """Describe the classes; what is no classifier has none."""
    count = outputs[0].shape[-1] if contents.part == "classifier" else 0
    names = list(class_names) if count else []
    if names:
        one_per_output(names, count)  # refuses what does not fit
    return {"num_classes": count, "class_names": names}


def summarise(description: Mapping[str, Any]) -> list[str]:
    """Say in a few lines what a caller of the file needs to know."""
    one, result, prepared = description["input"], description["output"], description["preprocessing"]
    parts = [f"input {one['name']}, {one['dtype']} {one['layout']} {one['shape']}, {one['values']}"]
    if "mean" in prepared:
        parts.append(f"mean {prepared['mean']}, std {prepared['std']}"
                     + (", inside the file" if description["inside"]["normalization"] else ""))
    parts += [f"input {more['name']}, {more['dtype']} {more['shape']}" for more in description.get("more_inputs", ())]
    parts += [f"output {more['name']} {more['shape']}" for more in (result, *description.get("more_outputs", ()))]
    if description["num_classes"]:
        parts.append(f"{description['num_classes']} classes")
    difference = description["largest_difference"]
    return parts + ["not compared with the network" if difference is None else
                    f"largest difference from the network on {description['compared_images']} images {difference:.1e}"]


def description_path(model_file: str | Path) -> Path:
    """Return where the description of an exported file lies: beside it, with ``.json`` appended."""
    return Path(f"{model_file}.json")


def read_description(model_file: str | Path) -> dict[str, Any]:
    """Read what export wrote about a file: its input, the preprocessing and the class names.

    Raises:
        UserError: if the description is missing or not what export writes.
    """
    path = description_path(model_file)
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        complete = {"input", "preprocessing", "class_names"} <= set(description) and description["input"]["shape"]
        channels, size = (description["preprocessing"].get(key) for key in ("in_channels", "image_size"))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"model_file: '{path}' cannot be read ({reason(error)}); export.py writes it beside the "
                        "model, and both are needed.") from None
    if not complete:
        raise UserError(f"model_file: '{path}' does not describe an exported model; export it again.")
    if complete[1:] != [channels, size, size]:
        raise UserError(f"model_file: '{path}' contradicts itself: the model takes images of the shape {complete[1:]}, "
                        f"and the preprocessing makes {[channels, size, size]}; export it again.")
    return description
