"""The data pipelines that scripts/benchmark.py compares: ours, a plain loop, timm's and the framework's own.

Each function runs in a process of its own; it returns facts, and a function that takes so many batches.
"""
import importlib.util
import time
from collections import deque
from contextlib import ExitStack
from itertools import count, islice
from pathlib import Path
from typing import Any, Callable, Iterator

import numpy as np

from common.augment.policies import RandAugment, auto_augment
from common.config.options import Config
from common.errors import UserError
from scripts.measure import Measurement, Step, cpu_time

PIPELINE, PLAIN, TIMM_LOADER, NATIVE = "pipeline", "plain PIL loop", "timm", "native"
_QUIET = 0.3  # seconds without work that mean rest


def our_pipeline(config: Config, steps: int) -> tuple[dict, Step]:
    """The training batches as a training gets them; ``run`` takes ``steps`` of them from the running pipeline."""
    from common.augment.pipeline import sends_bytes
    from common.dataset.batches import train_batches
    from common.dataset.sources import open_samples

    samples = open_samples(config, "train")
    device = "CPU" if config.device_target == "auto" else config.device_target
    batches = train_batches(config, samples, rank=0, world_size=1, as_bytes=sends_bytes(config, device))
    workers = batches.num_parallel_workers
    warm = 4 * workers  # fills what waits between the stages, so that the rest comes as fast as it is made
    iterator = batches.create_tuple_iterator(num_epochs=-1)
    stream = (batch for _ in count() for batch in iterator)
    exhaust(islice(stream, warm))
    return {"workers": workers, "images": len(samples)}, lambda: exhaust(islice(stream, steps))


def plain_pipeline(config: Config, steps: int) -> tuple[dict, Step]:
    """Batches of the same kind, made one after the other by a plain loop."""
    from common.augment.pipeline import statistics
    from common.dataset.batches import TrainBatches
    from common.dataset.sources import open_samples

    samples = open_samples(config, "train")
    source = TrainBatches(config, samples, 0, 1)
    mean, std = (np.array(values, np.float32) for values in statistics(config))
    rng = np.random.default_rng(0)

    def batches() -> Iterator[Any]:
        for number in count():
            arrays, labels = [], []
            for index in source.indices(*divmod(number, len(source))):
                image = samples.load(index)
                arrays += [plain_image(image, transform, mean, std, rng) for transform in source.transforms]
                labels.append(samples.labels[index])
            images, labels = np.stack(arrays), np.array(labels)
            yield source.mixer(images, labels, rng) if source.mixer else (images, labels)

    stream = batches()
    next(stream)
    return {"workers": 1, "images": len(samples)}, lambda: exhaust(islice(stream, steps))


def plain_image(image: Any, transform: Any, mean: np.ndarray, std: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Do what a ``TrainTransform`` does to an image as a textbook writes it; float32 (C, size, size)."""
    from PIL import Image

    image = transform.crop(image.convert("L") if transform.grey else image, rng)
    if rng.random() < transform.hflip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < transform.vflip:
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    image = transform.augment(image, rng)
    if transform.jitter:
        image = transform.jitter(image, rng)
    pixels = np.asarray(image, np.float32).reshape(transform.size, transform.size, -1) / 255
    array = ((pixels - mean) / std).transpose(2, 0, 1)
    transform.erase(array, rng)
    return array


def exhaust(iterator: Iterator[Any]) -> None:
    """Take everything from an iterator, and keep nothing."""
    deque(iterator, maxlen=0)


def timm_pipeline(config: Config, steps: int) -> tuple[dict, Step]:
    """timm's transform, and its collation into uint8 batches, mixed by timm: the fastest form that it has.

    Normalisation and erasing are left to the device, and so are not counted.
    """
    import timm
    import torch
    from timm.data import FastCollateMixup, create_dataset, create_transform
    from timm.data.loader import fast_collate

    torch.set_num_threads(1)
    transform = create_transform(
        config.image_size, is_training=True, use_prefetcher=True, scale=config.scale, ratio=config.ratio,
        hflip=config.hflip, vflip=config.vflip, auto_augment=config.auto_augment.replace("randaug", "rand") or None,
        color_jitter=config.color_jitter, interpolation=config.interpolation)
    collate = fast_collate
    if config.mixup or config.cutmix:
        collate = FastCollateMixup(config.mixup, config.cutmix, prob=config.mixup_prob,
                                   switch_prob=config.mixup_switch_prob, label_smoothing=config.smoothing,
                                   num_classes=config.num_classes)
    data = create_dataset("", root=config.data_dir, split="train", is_training=True, transform=transform)
    loader = torch.utils.data.DataLoader(data, config.batch_size, shuffle=True, drop_last=True, collate_fn=collate)
    stream = (batch for _ in count() for batch in loader)
    next(stream)
    return {"workers": 1, "images": len(data), "version": timm.__version__}, lambda: exhaust(islice(stream, steps))


def native_pipeline(config: Config, steps: int) -> tuple[dict, Step]:
    """The framework's own operations in C++, which decode the crop alone and resize without antialiasing.

    RandAugment is the framework's, with as many operations; nothing is mixed or erased.
    """
    import mindspore as ms
    import mindspore.dataset as ds
    from mindspore.dataset import vision

    from common.augment.pipeline import statistics

    mean, std = (tuple(255 * value for value in values) for values in statistics(config))
    operations = [vision.RandomCropDecodeResize(config.image_size, config.scale, config.ratio, _native_filter(config)),
                  vision.RandomHorizontalFlip(config.hflip), vision.RandomVerticalFlip(config.vflip)]
    augment = auto_augment(config.auto_augment)
    if isinstance(augment, RandAugment):
        operations.append(vision.RandAugment(augment.num_ops, round(augment.magnitude)))
    elif config.auto_augment:
        operations.append(vision.AutoAugment())
    operations += [vision.Normalize(mean, std), vision.HWC2CHW()]
    ds.config.set_numa_enable(False)
    ds.config.set_prefetch_size(2)
    folder = Path(config.data_dir, "train")
    data = ds.ImageFolderDataset(str(folder if folder.is_dir() else config.data_dir), num_parallel_workers=1,
                                 shuffle=True, decode=False)
    images = data.get_dataset_size()
    data = data.map(operations, "image", num_parallel_workers=1).batch(config.batch_size, True, num_parallel_workers=1)
    iterator = data.create_tuple_iterator(num_epochs=-1, output_numpy=True)
    stream = (batch for _ in count() for batch in iterator)
    next(stream)
    return {"workers": 1, "images": images, "version": ms.__version__}, lambda: exhaust(islice(stream, steps))


def _native_filter(config: Config) -> Any:
    from mindspore.dataset.vision import Inter

    return {"nearest": Inter.NEAREST, "bilinear": Inter.BILINEAR}.get(config.interpolation, Inter.BICUBIC)


AGAINST: dict[str, Callable[[Config, int], tuple[dict, Step]]] = {TIMM_LOADER: timm_pipeline, NATIVE: native_pipeline}


def check_against(names: list[str], config: Config) -> None:
    """Check that the pipelines are there and can read the data.

    Raises:
        UserError: if not.
    """
    unknown = [name for name in names if name not in AGAINST]
    if unknown:
        raise UserError(f"against: '{unknown[0]}' is no data pipeline; there are {', '.join(AGAINST)}.")
    missing = [name for name in ("torch", "timm", "torchvision") if importlib.util.find_spec(name) is None]
    if TIMM_LOADER in names and missing:
        raise UserError(f"against: timm needs {' and '.join(missing)}, which is not installed here; pip install -c "
                        "requirements.txt timm.")
    if config.dataset not in ("imagenet", "folder"):
        raise UserError(f"against: {', '.join(names)} is compared on class folders; dataset: {config.dataset} is not "
                        "of that kind.")


def compare_with_loop(config: Config, steps: int, rounds: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure our pipeline with its workers and the plain loop in turn, in fresh processes."""
    results = {}
    for _ in range(rounds):
        for name, build in ((PIPELINE, our_pipeline), (PLAIN, plain_pipeline)):
            with Measurement(name, build, config, steps) as side:
                rate = steps * config.batch_size / side.step()
                side.finish()
            say(f"data: {name} {rate:.0f} images/s")
            empty = {"mode": "data", "name": name, "rates": [], "peak_bytes": 0}
            result = results.setdefault(name, empty | side.facts)
            result["rates"].append(rate)
            result["peak_bytes"] = max(result["peak_bytes"], side.peak)
    for result in results.values():
        result["images_per_s"] = float(np.median(result["rates"]))
        result["images_per_s_per_worker"] = result["images_per_s"] / result["workers"]
    return list(results.values())


def compare_pipelines(config: Config, steps: int, rounds: int, against: list[str],
                      say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure the CPU time of our pipeline beside others, in turn, each in a process of its own."""
    sides = [(PIPELINE, our_pipeline), *((name, AGAINST[name]) for name in against)]
    with ExitStack() as processes:
        running = [processes.enter_context(Measurement(name, quietly, build, config, steps)) for name, build in sides]
        for number in range(rounds + 1):
            for side in running:
                side.step()
            say(f"data: round {number} of {rounds}")
        for side in running:
            side.finish()
    return [summarise(side, steps * config.batch_size) for side in running]


def quietly(build: Callable[..., tuple[dict, Step]], config: Config, steps: int) -> tuple[dict, Step]:
    """Build a pipeline whose steps end when nothing is under way any more."""
    facts, run = build(config, steps)
    settle()
    return facts, lambda: (run(), settle())


def settle() -> None:
    """Wait until threads and workers have filled their queues: what they do belongs to the batches taken."""
    busy = True
    while busy:
        before = cpu_time()
        time.sleep(_QUIET)
        busy = cpu_time() - before > _QUIET / 20


def summarise(side: Measurement, images: int) -> dict[str, Any]:
    """Return the images per second of CPU time in each round but the first."""
    rates = [images / cpu for _, cpu in side.seconds[1:]]
    return {"mode": "data", "name": side.name, **side.facts, "cpu_rates": rates, "peak_bytes": side.peak,
            "images_per_cpu_s": float(np.median(rates))}
