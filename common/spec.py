"""ModelSpec: all that ``common`` knows of a model. Imports without MindSpore, so that wrong names are found at once."""
import fnmatch
import functools
import importlib
import inspect
import re
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Mapping

import numpy as np

from common.context.device import prepare_environment
from common.errors import UserError, nearest
from common.files import ROOT
from common.logger import LogStyle

_WIDTH_AND_DEPTH = {"embed_dim", "dims", "depth", "depths"}


def program(family: str, task: str) -> str:
    """Return the program of a model that does a task, or, where not every model has one, its train.py."""
    return f"{family}/{task if task in ('train', 'eval', 'export', 'infer') else 'train'}.py"


def fewer_than_two_axes(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a parameter is a bias or belongs to a norm; what carries no weight decay in most recipes."""
    return len(shape) < 2


@dataclass(frozen=True)
class ModelSpec:
    """The interface between a model folder and ``common``.

    Args:
        name: the folder, for example ``gmlp``.
        variants: variant name -> constructor arguments of the network.
        network: constructor arguments -> the class of the network (an ``nn.Cell``), and those arguments that go to it.
            A function, because it imports MindSpore, which this module does not.
        convert: the authors' tensors (name -> array) to ours (parameter name -> array); by default the names are ours.
        restore: ours to the authors': the inverse of ``convert``.
        no_weight_decay: whether a parameter (name, shape) carries no weight decay.
        layer_id: the layer number of a parameter (name, depth) for layer-wise decay; 0 is next to the input.
        aliases: other spellings of variants, such as those of the seeds.
        display_names: variant -> the spelling that checkpoints and log lines carry, where it is not the variant's name.
        log_style: the family's log lines.
        options: the model's own keys, a subclass of ``common.config.options.Config``; ``None``: those of all models do.
        defaults: key -> default where it is not the schema's; by ``per_task`` for one task.
        default_configs: task -> YAML file in the model folder, read when no ``--config_path`` is given.
        uses_convolutions: whether the network contains k x k convolutions (the CPU needs a setting for them).
        fuses_operators: whether a training on a CPU is faster with operators fused, and gives the golden numbers.
        float32_products: what needs matrix products of real float32, a clause for a warning where they are not.
        tasks: the kinds of training that the model offers.
        per_task: task -> fields of this class that differ for it, such as the variants or the log lines.
        remark: follows the sentence about an unknown variant.
        fit: (tensors of a checkpoint by our names, network) -> the tensors that a training of this network begins with,
            and the names of the parameters that keep their initial values; for weights of a related network.
        architecture: the constructor arguments that tensors, under our names or the authors', imply; for checkpoints
            that do not say with which configuration they were trained.
        misfit: (tensors of a checkpoint by our names, its description, network) -> a sentence that says which other
            network of the family the tensors are for; empty where that is not so.
        dead: (name of a parameter, network) -> whether it has no effect, so that a checkpoint may hold it and the
            network lack it, or the other way round.
        draw_samples: (config, network, images, path) writes the picture that a pre-training draws of a few of its
            images every ``sample_every`` epochs, which is a key of its options.
        visualize: (config, network, class names, ``common.pictures.sheet.Subject`` of some images) -> the rows of a
            picture, see ``common.pictures.sheet.Row``; for visualize.py.
        looks_at_images: whether ``visualize`` draws images; otherwise it draws the weights alone.
        export_part: (config, this object) -> the network of ``config.part`` with the weights of ``config.ckpt_path``,
            and the ``common.export.contents.Contents`` of its file; ``None`` for the classifier.
    """

    name: str
    variants: Mapping[str, Mapping[str, Any]]
    network: Callable[..., tuple[type, dict[str, Any]]]
    convert: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]] = dict
    restore: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]] = dict
    no_weight_decay: Callable[[str, tuple[int, ...]], bool] = fewer_than_two_axes
    layer_id: Callable[[str, int], int] | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    display_names: Mapping[str, str] = field(default_factory=dict)
    log_style: LogStyle = LogStyle()
    options: type | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    default_configs: Mapping[str, str] = field(default_factory=dict)
    uses_convolutions: bool = False
    fuses_operators: bool = False
    float32_products: str = ""
    tasks: tuple[str, ...] = ("train",)
    per_task: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    remark: str = ""
    fit: Callable[[Mapping[str, np.ndarray], Any], tuple[dict[str, np.ndarray], list[str]]] | None = None
    architecture: Callable[[Mapping[str, np.ndarray]], dict[str, Any]] | None = None
    misfit: Callable[[Mapping[str, np.ndarray], Mapping[str, Any], Any], str] | None = None
    dead: Callable[[str, Any], bool] | None = None
    draw_samples: Callable[[Any, Any, Any, Any], None] | None = None
    visualize: Callable[[Any, Any, Any, Any], Any] | None = None
    looks_at_images: bool = True
    export_part: Callable[[Any, Any], Any] | None = None

    def for_task(self, task: str) -> "ModelSpec":
        """Return what holds for one task."""
        return replace(self, **self.per_task.get(task, {}))

    def variant(self, name: str) -> str:
        """Return the standard name of a variant.

        Raises:
            UserError: if there is no such variant.
        """
        known = {v.lower(): v for v in self.variants} | {a.lower(): v for a, v in self.aliases.items()
                                                         if v in self.variants}
        if str(name).lower() not in known:
            raise UserError(f"model '{name}' is not a variant of {self.name}; there are "
                            f"{', '.join(self.variants)}.{self.remark or nearest(name, self.variants)}")
        return known[str(name).lower()]

    def display_name(self, name: str) -> str:
        """Return the spelling of a variant that checkpoint names and log lines carry."""
        variant = self.variant(name)
        return self.display_names.get(variant, variant)

    def name_of(self, values: Mapping[str, Any]) -> str:
        """Return what people call a network: its variant, or, of other widths or depths, ``gmlp (dim 64, depth 6)``.

        Args:
            values: ``model``, a variant, and the arguments that go beyond it, as in a configuration.
        """
        variant = self.variants[self.variant(values["model"])]
        sizes = {key: usual if (size := values.get(key)) is None else tuple(size) if isinstance(size, list) else size
                 for key, usual in variant.items() if key != "drop_path_rate"}
        other = [key for key, size in sizes.items() if size != variant[key]]
        name = self.display_name(values["model"])
        if _WIDTH_AND_DEPTH & set(other):
            name, other = name.partition("_")[0], [key for key in sizes if key in _WIDTH_AND_DEPTH]
        shown = ", ".join(f"{key.removeprefix('embed_')} {'-'.join(map(str, np.atleast_1d(size)))}"
                          for key, size in sizes.items() if key in other)
        return f"{name} ({shown})" if shown else name

    def file_name_of(self, values: Mapping[str, Any]) -> str:
        """Return ``name_of`` as a part of file names: ``gmlp_dim64_depth6``."""
        return re.sub(r"[( ),]+", lambda gap: "_" if gap[0] in (" (", ", ") else "", self.name_of(values))

    def build(self, variant: str, num_classes: int | None = None, image_size: int = 224, in_channels: int = 3,
              drop_path_rate: float | None = 0.0, **overrides: Any):
        """Build the network of a variant; any constructor argument can be overridden.

        Args:
            variant: a variant name or one of its aliases.
            num_classes: outputs of the head; ``None``: the network's own, 1000 in all but hlg_mobile.
            image_size: height and width of the images, in pixels.
            in_channels: channels of the images.
            drop_path_rate: probability of dropping a residual branch while training; ``None``: the variant's own.

        Returns:
            An ``nn.Cell``: float32 images (N, C, H, W) -> logits (N, num_classes).

        Raises:
            UserError: for an unknown variant, or for arguments that do not fit together.
        """
        arguments = dict(self.variants[self.variant(variant)])
        if drop_path_rate is not None:
            arguments["drop_path_rate"] = drop_path_rate
        if num_classes is not None:
            arguments["num_classes"] = num_classes
        arguments.update(overrides, image_size=image_size, in_channels=in_channels)
        prepare_environment(self.uses_convolutions)  # for programs other than the entry points: notebooks, tests
        cell, arguments = self.network(**arguments)
        known = list(inspect.signature(cell.__init__).parameters)[1:]
        for key in arguments:
            if key not in known:
                raise UserError(f"{key} is not an argument of {self.display_name(variant)}; there are "
                                f"{', '.join(known)}.{nearest(key, known)}")
        return cell(**arguments)

    def recognise(self, tensors: Mapping[str, np.ndarray], model: str = "", num_classes: int | None = None
                  ) -> tuple[str, dict[str, Any]]:
        """Find the variant that tensors belong to.

        Args:
            tensors: the weights, under the authors' names or ours.
            model: the variant that is expected; empty: whichever fits.
            num_classes: outputs of the head; None: as in the tensors.

        Returns:
            The variant and the arguments that go beyond it, as in a configuration. For sizes that no variant has, the
            first variant that has arguments of these names, with all sizes given.

        Raises:
            UserError: for tensors of something else, or of another variant than ``model``.
        """
        found = self.architecture(tensors)
        if not found:
            others = [spec.name for spec in all_specs() if spec.architecture and spec.architecture(tensors)]
            raise UserError(f"ckpt_path: these are not the weights of a {self.name}"
                            + (f", but of a {others[0]}; use {others[0]}/pth2ckpt.py." if len(others) == 1 else
                               f": the first tensors are {', '.join(list(tensors)[:3])}."))

        def differing(variant: str) -> list[str]:
            return [key for key, value in self.variants[variant].items() if found.get(key, value) != value]

        if model:
            variant = self.variant(model)
            if wrong := differing(variant):
                held = ", ".join(f"{key} {found[key]} instead of {self.variants[variant][key]}" for key in wrong)
                raise UserError(f"model: the file does not hold {self.display_name(variant)}: it has {held}.")
        else:
            variant = min(self.variants, key=lambda v: (bool(differing(v)), -len(set(self.variants[v]) & set(found)),
                                                        len(differing(v))))
        settings = {key: value for key, value in found.items() if self.variants[variant].get(key) != value}
        return variant, settings | ({} if num_classes is None else {"num_classes": num_classes})


@functools.cache
def all_specs() -> tuple[ModelSpec, ...]:
    """Return the models whose folders lie beside this package, by name; each imports without MindSpore."""
    folders = sorted(file.parents[1].name for file in ROOT.glob("*/src/spec.py"))
    return tuple(importlib.import_module(f"{folder}.src.spec").SPEC for folder in folders)


def list_models(pattern: str = "*") -> list[str]:
    """Return the names of all variants of all models that fit a pattern such as ``gmlp*`` or ``*_tiny*``, sorted."""
    return sorted(name for spec in all_specs() for name in spec.variants if fnmatch.fnmatch(name, pattern.lower()))


def find_model(name: str) -> ModelSpec:
    """Return the model that has a variant of this name, or one that is also called so.

    Raises:
        UserError: if there is none.
    """
    known = {known_name.lower(): spec for spec in all_specs() for known_name in (*spec.variants, *spec.aliases)}
    if name.lower() not in known:
        raise UserError(f"model: '{name}' is not a variant of any model here; there are {', '.join(list_models())}."
                        f"{nearest(name, list_models())}")
    return known[name.lower()]
