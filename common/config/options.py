"""The schema of the configuration: every key with its type, default, meaning, other spellings and limits.

``Config`` holds what all models have; a model adds its own in a subclass, ``ModelSpec.options``. Each field is a YAML
key and a flag (``--name``), and so is each of its aliases, which are the names that the old model zoo and the
authors' files use. ``common/config/load.py`` fills it. Imports no MindSpore, so that ``--help`` and wrong options are
answered at once.
"""
import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, Callable, Literal, Mapping, Sequence

from common.config import written
from common.config.datasets import DATASETS

CALLER_VARIABLE = "ZOO_CALLER"  # environment: the folder in which the user started a launch script
SECTIONS = {
    "run": "Device, precision, reproducibility",
    "data": "Data set and loading",
    "augment": "Image size and augmentation",
    "model": "Network and its weights",
    "loss": "Loss and loss scale",
    "schedule": "Length of the training and learning rate",
    "optim": "Optimizer",
    "saving": "Run folder, checkpoints, resuming",
    "evaluate": "Evaluation",
    "cloud": "Cloud platforms (ModelArts, OpenI)",
    "export": "Export and prediction",
}

TRAINING_TASKS = ("train", "pretrain", "finetune", "linprobe")
DATA_TASKS = TRAINING_TASKS + ("eval",)
TASKS = TRAINING_TASKS + ("eval", "export", "infer", "visualize")
TASKS_OF_SECTION = dict.fromkeys(SECTIONS, TASKS) | dict.fromkeys(
    ("loss", "schedule", "optim", "saving", "evaluate"), TRAINING_TASKS)


def option(default: Any, help: str, *, section: str, aliases: Sequence[str] = (),
           choices: Mapping[str, Sequence[Any]] | Sequence[str] | None = None,
           convert: Callable[[Any], Any] | None = None, converted_aliases: Mapping[str, Callable] | None = None,
           path: bool = False, unused: bool = False, tasks: Sequence[str] = (), ge: float | None = None,
           gt: float | None = None, le: float | None = None, lt: float | None = None) -> Any:
    """Declare one key of the configuration.

    Args:
        default: the value when neither YAML nor flags give one.
        help: meaning and unit, one sentence.
        section: a key of ``SECTIONS``. In ``model``, a key whose default is ``None`` is an argument of the network.
        aliases: other names with the same value.
        choices: the allowed values, compared without case; a mapping also gives other spellings of each.
        convert: applied to what the user wrote, before the type is checked.
        converted_aliases: other names whose value means something else: name -> function to this key's value.
        path: a path, in which ``~`` and ``$NAME`` are expanded.
        unused: accepted for old files, with a warning; the help does not show it.
        tasks: the tasks that read it, whose help shows it; empty: those of its section.
        ge, gt, le, lt: limits (>=, >, <=, <) of a number, or of every number of a list.
    """
    spellings = choices if choices is None or isinstance(choices, Mapping) else {name: () for name in choices}
    metadata = {"help": help, "section": section, "aliases": tuple(aliases), "choices": spellings, "convert": convert,
                "converted_aliases": dict(converted_aliases or {}), "path": path, "unused": unused,
                "tasks": tuple(tasks) or TASKS_OF_SECTION[section],
                "limits": {">=": ge, ">": gt, "<=": le, "<": lt}}
    return dataclasses.field(default=default, metadata=metadata, compare=not unused)


def _section(name: str) -> Callable:
    """Return ``option`` with the section filled in."""
    return lambda default, help, **more: option(default, help, section=name, **more)


_run, _data, _augment, _model, _loss, _schedule, _optim, _saving, _evaluate, _cloud, _export = map(_section, SECTIONS)
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "random")


@dataclass(frozen=True)
class Config:
    """The effective configuration of a run: what all models share. Change a copy with ``dataclasses.replace``."""

    # run
    task: str = _run("train", "what is done; the entry point decides, mae/train.py follows this key", tasks=("train",),
                     choices=(*TASKS, "convert"))
    mode: str = _run("graph", "graph: compiled, fast; pynative: op by op, for debugging", aliases=("context_mode",),
                     choices={"graph": ("0", "GRAPH_MODE"), "pynative": ("1", "PYNATIVE_MODE")})
    device_target: str = _run("auto", "device; auto takes Ascend, then GPU, then CPU, whichever is there",
                              choices=("auto", "Ascend", "GPU", "CPU"))
    device_id: int | None = _run(None, "index of the device; none: DEVICE_ID of the environment, else 0", ge=0)
    distribute: bool = _run(False, "data parallel over the ranks that a launcher started; unless given, on where one "
                            "did",
                            aliases=("run_distribute", "use_parallel", "is_distributed"), tasks=DATA_TASKS)
    parallel_mode: str = _run("data_parallel", "how ranks share the work", choices=("data_parallel",),
                              tasks=TRAINING_TASKS)
    gradients_mean: bool = _run(True, "average (true) or sum (false) gradients over the ranks", tasks=TRAINING_TASKS)
    sync_bn: bool = _run(False, "BatchNorm normalises by the batches of all ranks together; false: each rank by its "
                         "own, and running statistics are averaged over the ranks at the end of every epoch",
                         aliases=("use_sync_bn",), tasks=TRAINING_TASKS)
    allreduce_buckets: int = _run(2, "groups in which the gradients of several ranks are reduced; from two on, this "
                                  "goes on while the rest of the backward pass is computed", ge=1, tasks=TRAINING_TASKS)
    seed: int = _run(42, "seed of all randomness: initial weights, order of the data, augmentation, drop path", ge=0)
    max_call_depth: int = _run(10000, "depth limit of nested calls while a graph is compiled", ge=1)
    save_graphs: bool = _run(False, "write the compiler's intermediate graphs to ckpt_save_dir/graphs, for debugging")
    dataset_sink_mode: bool = _run(False, "send batches to the device ahead of the computation (Ascend, GPU)",
                                   aliases=("sink_mode",), tasks=TRAINING_TASKS)
    sink_size: int = _run(0, "batches of an epoch, the next one goes on in the data where it ended; 0 or -1: once "
                          "through the data", aliases=("per_step_size",), ge=-1, tasks=TRAINING_TASKS)
    amp_level: str = _run("O0", "precision: O0 float32, O1 mixed by operator, O2 float16 but for norms, O3 float16, "
                          "bf16 bfloat16 but for norms (Ascend 910B and newer; needs no loss scale)",
                          choices={"O0": (), "O1": (), "O2": (), "O3": (), "bf16": ("bfloat16",)})
    allow_tf32: bool = _run(False, "Ascend, GPU: convolutions and products of float32 may round their inputs to 10 "
                            "binary digits, which is faster; false: float32 is float32", aliases=("allow_hf32",))
    jit_level: str = _run("O0", "how graphs are compiled: O0 operator by operator, O1 with fused operators, O2 as a "
                          "whole (Ascend's graph engine, which MindSpore gives up)", choices=("O0", "O1", "O2"))
    graph_kernel: bool | Literal["auto"] = _run(
        "auto", "CPU: fuse operators (gMLP, ViT, MAE); auto: in trainings so long that it pays", tasks=TRAINING_TASKS)
    compile_cache: str = _run("", "CPU: folder that keeps compiled graphs of training and evaluation, so that the next "
                              "process with the same network and settings starts sooner; empty: none", path=True,
                              tasks=DATA_TASKS)
    deterministic: bool = _run(False, "the same sums in every run on a device, at the cost of speed")
    max_device_memory: float | None = _run(None, "most memory of a device that is used, in GB, to share it; none: all",
                                           gt=0)
    recompute: bool = _run(False, "compute blocks a second time in the backward pass instead of keeping what they "
                           "computed: less memory for more time", tasks=TRAINING_TASKS)
    open_profiler: bool = _run(False, "record a profile of the run; use it with epochs: 1", tasks=TRAINING_TASKS)
    log_interval: int = _run(100, "steps between two log lines within an epoch", ge=1, tasks=TRAINING_TASKS)
    engine: str = _run("auto", "CPU: who answers in evaluation and prediction; auto: onnxruntime where it can, with an "
                       "ONNX file made once and kept beside the checkpoint, in .onnx", tasks=("eval", "infer"),
                       choices=("auto", "mindspore", "onnxruntime"))
    num_threads: int = _run(0, "CPU threads of the framework; 0: the framework decides", ge=0)

    # data
    dataset: str = _data("imagenet", "kind of data set: class folders (imagenet, folder), binary batches (cifar10, "
                         "cifar100), the digits of this repository, or a JSON list of images (list); for eval.py also "
                         "imagenet_real, _v2, _a, _r, _sketch",
                         aliases=("dataset_name", "dataset_choose"),
                         choices={name: one.spellings for name, one in DATASETS.items()})
    data_dir: str = _data("", "folder with train/ and val/, or the CIFAR files, or the training images themselves",
                          aliases=("dataset_path", "train_data_path"), path=True, tasks=DATA_TASKS)
    eval_dir: str = _data("", "folder of the evaluation images; empty: val/ (or the test batch) in data_dir",
                          aliases=("eval_path", "val_data_path"), path=True, tasks=DATA_TASKS)
    img_ids: str = _data("", "JSON, CSV or TXT file that lists the images to use, relative to data_dir; means "
                         "dataset: list", path=True, tasks=DATA_TASKS)
    download: bool = _data(False, "fetch CIFAR into data_dir when it is not there", tasks=DATA_TASKS)
    val_share: float = _data(0.0, "share of every class that is set aside for evaluation where there is no val/", ge=0,
                             lt=1, tasks=DATA_TASKS)
    on_error: str = _data("raise", "an image that cannot be read: stop, or take the next one",
                          choices=("raise", "skip"), tasks=DATA_TASKS)
    exif: bool = _data(True, "turn images as the camera noted it, scale 16-bit grey; false: PIL's RGB, as the authors")
    max_image_pixels: int = _data(178_956_970, "largest width x height; a larger image counts as broken", ge=1)
    fast_decode: bool = _data(True, "decode, resize and rotate with OpenCV, in the mean 0.4 of 255 grey levels from "
                              "PIL (rotated 1.6); false: PIL's pixels to the bit", tasks=TRAINING_TASKS)
    normalize_on: str = _data("auto", "where images are normalised and blended; auto: workers for a CPU or re_prob, "
                              "else device", choices=("auto", "device", "workers"), tasks=TRAINING_TASKS)
    data_cache: str = _data("", "folder on a fast disk or in memory (/dev/shm/NAME) that keeps images once read",
                            path=True, tasks=DATA_TASKS)
    data_cache_form: str = _data("encoded", "what data_cache keeps: files, or pixels: larger, with nothing to decode",
                                 choices=("encoded", "decoded"), tasks=DATA_TASKS)
    data_cache_gb: float = _data(100.0, "most that data_cache holds, in units of 10**9 bytes", gt=0, tasks=DATA_TASKS)
    repeated_augmentation: int = _data(1, "times that each drawn image comes in a global batch, augmented differently; "
                                       "an epoch has as many steps as with 1, and so sees a share of the images", ge=1,
                                       le=1000, tasks=TRAINING_TASKS)
    shuffle: bool = _data(True, "new random order of the training images in every epoch", tasks=TRAINING_TASKS)
    num_workers: int = _data(4, "parallel workers that read and augment images",
                             aliases=("num_parallel_workers", "train_num_workers"), ge=1, tasks=DATA_TASKS)
    eval_num_workers: int | None = _data(None, "the same for evaluation; none: num_workers", ge=1, tasks=DATA_TASKS)
    batch_size: int | Literal["dynamic"] = _data(128, "images per step and device; of an exported file: the images "
                                                 "that it takes at once, dynamic: any number", ge=1,
                                                 tasks=TRAINING_TASKS + ("eval", "export"))
    eval_batch_size: int | None = _data(None, "images per evaluation step and device; none: batch_size", ge=1,
                                        tasks=DATA_TASKS)
    drop_remainder: bool = _data(True, "leave out the last, smaller batch of a training epoch", tasks=TRAINING_TASKS)
    num_classes: int = _data(1000, "number of classes; known of CIFAR and the digits", aliases=("class_num",), ge=1)
    in_channels: int = _data(3, "channels of the images", ge=1)

    # augment
    image_size: int = _augment(224, "height and width of training images in pixels",
                               aliases=("image_resize", "train_image_size"), ge=1, le=4096)
    eval_image_size: int | None = _augment(None, "the same for evaluation; none: image_size", ge=1, le=4096)
    scale: tuple[float, ...] = _augment((0.08, 1.0), "least and largest share of the area in a random crop; crop_min "
                                        "gives the least alone, with 1.0", gt=0, le=1,
                                        converted_aliases={"crop_min": lambda least: [least, 1.0]},
                                        tasks=TRAINING_TASKS)
    ratio: tuple[float, ...] = _augment((0.75, 1.333), "least and largest width / height of a random crop", gt=0,
                                        tasks=TRAINING_TASKS)
    hflip: float = _augment(0.5, "probability of a horizontal flip", ge=0, le=1, tasks=TRAINING_TASKS)
    vflip: float = _augment(0.0, "probability of a vertical flip", ge=0, le=1, tasks=TRAINING_TASKS)
    interpolation: str = _augment("bilinear", "resampling of training images", choices=_INTERPOLATIONS)
    eval_interpolation: str | None = _augment(None, "the same for evaluation; none: interpolation (random: bicubic)",
                                              choices=_INTERPOLATIONS[:-1])
    color_jitter: float | tuple[float, ...] | None = _augment(
        None, "strength of random brightness, contrast, saturation (and hue), one number or a list; only without "
        "auto_augment", ge=0, tasks=TRAINING_TASKS)
    auto_augment: str = _augment("", "policy such as randaug-m9-mstd0.5-inc1, v0, 3a, ta_wide or augmix; empty: none",
                                 aliases=("autoaugment",), convert=written.policy, tasks=TRAINING_TASKS)
    crop_pct: float | None = _augment(0.875, "evaluation: side of the centre crop / short side of the resized image; "
                                      "none: the old zoo's rule (image size / 0.875, rounded to 16)", gt=0, le=1)
    re_prob: float = _augment(0.0, "probability of random erasing", aliases=("re_prop",), ge=0, le=1,
                              tasks=TRAINING_TASKS)
    re_mode: str = _augment("const", "erase with zeros, with one random colour, or with random pixels",
                            choices=("const", "rand", "pixel"), tasks=TRAINING_TASKS)
    re_count: int = _augment(1, "most rectangles erased in one image", ge=1, le=1000, tasks=TRAINING_TASKS)
    mixup: float = _augment(0.0, "alpha of mixup's beta distribution; 0: no mixup", ge=0, le=100, tasks=TRAINING_TASKS)
    cutmix: float = _augment(0.0, "alpha of cutmix's beta distribution; 0: no cutmix", ge=0, le=100,
                            tasks=TRAINING_TASKS)
    mixup_prob: float = _augment(1.0, "probability that a batch is mixed at all", ge=0, le=1, tasks=TRAINING_TASKS)
    mixup_switch_prob: float = _augment(0.5, "probability of cutmix where both are on", aliases=("switch_prob",),
                                        ge=0, le=1, tasks=TRAINING_TASKS)
    mixup_off_epoch: int = _augment(0, "epochs after which nothing is mixed any more; 0: never", ge=0,
                                    tasks=TRAINING_TASKS)
    mean: tuple[float, ...] | None = _augment(None, "mean per channel in units of 0..1 (values above 1: of 0..255); "
                                              "none: the data set's", ge=0)
    std: tuple[float, ...] | None = _augment(None, "standard deviation per channel, in the units of mean; none: the "
                                             "data set's", ge=1e-3)

    # model
    model: str = _model("", "variant of the network", aliases=("backbone", "variant", "model_name"))
    ckpt_path: str = _model("", "checkpoint with the weights to begin with, to evaluate or to export; eval.py: also "
                            "several, with commas, or a folder of them", path=True,
                            aliases=("pretrained", "use_ckpt", "checkpoint_path", "chcekpoint_path", "ckpt_file",
                                     "ckpt"), convert=written.no_switch_for_weights)
    drop_path_rate: float | None = _model(None, "probability of dropping a residual branch; none: the variant's own",
                                          aliases=("dropout",), ge=0, lt=1)
    patch_size: int | tuple[int, ...] | None = _model(None, "side of a patch in pixels; none: the variant's own", ge=1)
    embed_dim: int | None = _model(None, "width of the tokens; none: the variant's own", aliases=("encoder_dim",), ge=1)
    depth: int | None = _model(None, "number of blocks; none: the variant's own", aliases=("encoder_layers",), ge=1,
                               le=1000)
    depths: tuple[int, ...] | None = _model(None, "number of blocks per stage; none: the variant's own", ge=0,
                                            le=1000)
    dims: tuple[int, ...] | None = _model(None, "width per stage; none: the variant's own", ge=1)
    num_heads: int | tuple[int, ...] | None = _model(None, "attention heads (per stage); none: the variant's own",
                                                     aliases=("encoder_num_heads",), ge=1)
    mlp_ratio: int | float | tuple[float, ...] | None = _model(
        None, "hidden width of an MLP / width of the tokens (per stage); none: the variant's own", ge=0.1, le=100)

    # loss
    loss: str = _loss("CE", "CE cross entropy, BCE binary cross entropy, ce_smooth and ce_smooth_mixup the old zoo's "
                      "smoothed forms, soft_ce for soft labels, asl asymmetric, jsd Jensen-Shannon",
                      aliases=("loss_name",), choices=("CE", "BCE", "ce_smooth", "ce_smooth_mixup", "soft_ce", "asl",
                                                       "jsd"))
    label_smoothing: float = _loss(0.0, "probability spread over the other classes", aliases=("label_smooth_factor",),
                                   ge=0, lt=1)
    use_label_smooth: bool = _loss(True, "false: label_smoothing counts as 0")
    loss_scale: float = _loss(1.0, "factor on the loss against underflow in float16; when dynamic the first value, by "
                              "default 65536", gt=0)
    dynamic_loss_scale: bool = _loss(False, "adapt the loss scale to overflows", aliases=("use_dynamic_loss_scale",))
    loss_scale_window: int = _loss(2000, "steps without overflow after which a dynamic scale doubles", ge=1)
    drop_overflow_update: bool = _loss(False, "leave out updates whose gradients overflow, instead of stopping; "
                                       "true by default with a dynamic scale")

    # schedule
    epochs: int = _schedule(300, "length of the training in epochs", ge=1, le=10**6,
                            aliases=("epoch_size", "max_epoch", "epoch"))
    scheduler: str = _schedule("cosine_decay", "shape of the learning rate after the warm-up",
                               aliases=("lr_decay_mode",),
                               choices={"cosine_decay": (), "cosine": ("cos",), "exponential": ("exp",),
                                        "polynomial": ("poly",), "step": ("steps",), "linear": (), "constant": ()})
    lr: float = _schedule(1e-3, "learning rate after the warm-up, whatever the batch size", gt=0, le=1e30,
                        aliases=("lr_max", "learning_rate"))
    base_lr: float | None = _schedule(None, "learning rate per 256 images of the global batch; replaces lr",
                                      aliases=("blr",), gt=0, le=1e30)
    min_lr: float = _schedule(0.0, "learning rate at the end", ge=0, le=1e30,
                              aliases=("lr_min", "end_learning_rate", "lr_end"))
    lr_init: float = _schedule(0.0, "learning rate at the start of the warm-up",
                               aliases=("start_learning_rate", "warmup_lr"), ge=0, le=1e30)
    warmup_epochs: int | float = _schedule(0, "length of the linear warm-up in epochs", ge=0)
    decay_epochs: int | float | None = _schedule(None, "length of the decay in epochs, min_lr after it; none: to the "
                                                 "end", gt=0)
    decay_rate: float = _schedule(0.1, "factor of the step schedule at each of lr_steps, and of the exponential one "
                                  "over decay_epochs", gt=0, le=1)
    lr_steps: tuple[float, ...] | None = _schedule(None, "epochs at which the step schedule multiplies by decay_rate; "
                                                   "none: at 30, 60 and 80 % of the training", gt=0)
    poly_power: float = _schedule(2.0, "exponent of the polynomial schedule", gt=0)
    warmup_prefix: bool = _schedule(True, "the decay begins at the end of the warm-up; false: it counts from step 0, "
                                    "and the warm-up takes the place of its beginning")
    lr_per_epoch: bool = _schedule(False, "the learning rate changes between epochs only, not in every step")
    lr_delay: int = _schedule(0, "updates by which the learning rate comes late; 1 for recipes that step their "
                              "schedule "
                              "after the optimizer, so that the first rate is used twice", ge=0)
    cooldown_epochs: int | float = _schedule(0, "epochs at min_lr at the end", ge=0)

    # optim
    opt: str = _optim("adamw", "optimizer", aliases=("optimizer",),
                      choices=("adamw", "sgd", "momentum", "lars", "lion", "nadam", "adan"))
    eps: float = _optim(1e-8, "epsilon in the denominator of Adam-like optimizers", aliases=("opt_eps",), gt=0)
    beta1: float | None = _optim(None, "decay of the first moment; none: the optimizer's own (0.9; adan 0.98)", ge=0,
                                 lt=1)
    beta2: float | None = _optim(None, "decay of the second moment; none: the optimizer's own (0.999; lion 0.99, adan "
                                 "0.92)", ge=0, lt=1)
    momentum: float = _optim(0.9, "momentum of sgd, momentum, lars", ge=0, lt=1)
    use_nesterov: bool = _optim(False, "Nesterov's form of the momentum", aliases=("nesterov",))
    weight_decay: float = _optim(0.05, "weight decay per step, times the learning rate", ge=0)
    filter_bias_and_bn: bool = _optim(True, "no weight decay on biases and norm parameters")
    no_weight_decay_filter: str = _optim("", "parts of parameter names without weight decay, separated by commas; "
                                         "replaces filter_bias_and_bn", convert=written.comma_separated)
    layer_decay: float | None = _optim(None, "factor on the learning rate per layer below the head; none: no such "
                                       "decay", gt=0, le=1)
    freeze_epochs: int | float = _optim(0, "first epochs, in which only the head learns (with ckpt_path)", ge=0)
    gc_flag: bool = _optim(False, "centralise gradients: subtract their mean per output")
    clip_grad: bool = _optim(False, "clip gradients by their global norm", aliases=("use_global_norm",))
    clip_value: float = _optim(1.0, "largest global norm of the gradients", aliases=("clip_gn_value",), gt=0)
    accumulation_steps: int = _optim(1, "batches whose gradients are averaged for one update", aliases=("accum_iter",),
                                     ge=1)
    ema: bool = _optim(False, "keep a moving average of the weights, and evaluate it", aliases=("use_ema",))
    ema_decay: float = _optim(0.9999, "share of the old average in every step", gt=0, lt=1)

    # saving
    ckpt_save_dir: str = _saving("./outputs", "run folder: checkpoints, log, history, curves, effective config",
                                 aliases=("save_checkpoint_path", "save_dir"), path=True)
    save_checkpoint: bool = _saving(True, "save checkpoints")
    save_checkpoint_epochs: int = _saving(1, "epochs between two checkpoints; the last epoch is always saved",
                                          aliases=("save_ckpt_epochs", "ckpt_save_interval"), ge=1)
    save_checkpoint_steps: int = _saving(0, "optimizer steps between two checkpoints inside an epoch, of which the "
                                         "newest "
                                         "is kept until the epoch has one; 0: none", aliases=("save_ckpt_steps",), ge=0)
    keep_checkpoint_max: int = _saving(10, "checkpoints kept, the oldest go first; the best is kept besides", ge=1)
    keep_best_max: int = _saving(1, "checkpoints of the highest top-1 kept; with more than one, each also under the "
                                 "name of its epoch, NAME_best_epochN.ckpt", ge=1)
    tensorboard: bool = _saving(False, "write the curves also for TensorBoard, into the folder tensorboard of the run")
    resume: str = _saving("", "checkpoint of a run to continue; a run in the same ckpt_save_dir continues by itself",
                          path=True, convert=written.no_switch_for_resuming)
    prefix: str = _saving("", "beginning of checkpoint names; empty: the name of the variant")

    # evaluate
    eval_interval: int = _evaluate(1, "epochs between two evaluations", aliases=("val_interval",), ge=1)
    eval_offset: int = _evaluate(-1, "evaluate after epoch e (from 1) when e % eval_interval is this; -1: "
                                 "epochs % eval_interval, so that the last epoch is evaluated", ge=-1)
    val_while_train: bool = _evaluate(True, "evaluate during the training at all")
    report: str = _evaluate("", "eval.py: folder for precision, recall, F1, a reliability diagram, a confusion matrix and "
                            "the most confident mistakes; empty: none", path=True, tasks=("eval",))

    # cloud
    enable_modelarts: bool = _cloud(False, "stage data and results between the cloud's storage and the machine; on by "
                                    "itself for obs:// and s3:// addresses", aliases=("run_modelarts",))
    data_url: str = _cloud("", "storage address of the data set", convert=written.addresses)
    train_url: str = _cloud("", "storage address for the results", convert=written.addresses)
    checkpoint_url: str = _cloud("", "storage address of the weights to begin with, or OpenI's JSON list",
                                 aliases=("ckpt_url", "pretrain_url"), convert=written.addresses)
    multi_data_url: str = _cloud("", "OpenI: JSON list of several data sets", convert=written.addresses)
    data_path: str = _cloud("", "local folder of data_url (/cache/data for a remote one); is data_dir where that is "
                            "not given", path=True)
    output_path: str = _cloud("", "local folder of train_url", path=True)
    load_path: str = _cloud("", "local folder of checkpoint_url (/cache/pretrain for a remote one)", path=True)

    # export
    file_format: str = _export("MINDIR", "format of the exported file; SAFETENSORS: weights alone, under the authors' "
                               "names; AIR, on Ascend only, is deprecated in MindSpore 2: prefer MINDIR",
                               choices=("MINDIR", "AIR", "ONNX", "SAFETENSORS"), tasks=("export",))
    file_name: str = _export("", "exported file, the ending may be left out; empty: the name of the variant, "
                             "beside export.py", path=True, tasks=("export",))
    part: str = _export("classifier", "what is exported", choices=("classifier",), tasks=("export",))
    with_preprocess: bool = _export(False, "put the normalisation into the exported file, which then takes pixels, "
                                    "uint8 0..255", tasks=("export",))
    softmax: bool = _export(False, "put a softmax into the exported file, which then gives probabilities",
                            tasks=("export",))
    model_file: str = _export("", "exported file to predict with, instead of a checkpoint", path=True, tasks=("infer",))
    image: str = _export("", "image, folder or pattern to predict or to look at", path=True,
                         tasks=("infer", "visualize"))
    out: str = _export("", "picture to write (PNG), of programs that draw one", path=True, tasks=("visualize",))
    top_k: int = _export(5, "classes shown per image", ge=1, tasks=("infer",))
    class_names: str = _export("", "file with one class name per line, or a JSON list", path=True, tasks=("infer",))
    json: str = _export("", "file for the predictions as JSON", path=True, tasks=("infer",))
    csv: str = _export("", "file for the predictions as CSV", path=True, tasks=("infer",))
    sheet: str = _export("", "picture to write (PNG): the images with their predictions", path=True, tasks=("infer",))
    verify: bool = _export(True, "load the exported or converted file again and compare it with the network",
                           tasks=("export",))

    given: Mapping[str, str] = dataclasses.field(default_factory=dict, compare=False, repr=False)  # key -> its source

    def __post_init__(self):
        """Keep lists as tuples: a frozen object should not hold what can be changed."""
        for field in dataclasses.fields(self):
            if isinstance(getattr(self, field.name), list):
                object.__setattr__(self, field.name, tuple(getattr(self, field.name)))

    @property
    def smoothing(self) -> float:
        """The label smoothing that applies: ``use_label_smooth: 0`` switches it off."""
        return self.label_smoothing if self.use_label_smooth else 0.0


@functools.cache
def fields_of(schema: type[Config]) -> dict[str, dataclasses.Field]:
    """Return key -> field of a schema: ``Config``, or a model's subclass of it."""
    return {field.name: field for field in dataclasses.fields(schema) if field.name != "given"}


@functools.cache
def names_of(schema: type[Config]) -> dict[str, str]:
    """Return every name that a user may write -> the key that it stands for."""
    others = {alias: name for name, field in fields_of(schema).items()
              for alias in (*field.metadata["aliases"], *field.metadata["converted_aliases"])}
    return {name: name for name in fields_of(schema)} | others


@functools.cache
def network_keys(schema: type[Config]) -> tuple[str, ...]:
    """Return the keys that are arguments of the network: those about the model that are ``None`` unless given."""
    return tuple(name for name, field in fields_of(schema).items() if field.metadata["section"] == "model"
                 and field.default is None and name != "drop_path_rate")  # which every network has


FIELDS, NAMES = fields_of(Config), names_of(Config)
