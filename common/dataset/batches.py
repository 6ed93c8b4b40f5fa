"""Batches for training and evaluation: which images, in which order, changed how, is a function of the seed alone.

The unit is the batch. A source computes batch k of a run as a whole (order, decoding, augmentation, mixing), with numpy
generators that are seeded by (seed, epoch, image or position); the framework only asks for the numbers k in turn and
carries the results. So the number of workers, threads or processes, the number of ranks and an interruption between two
epochs change nothing in what a training sees.

On the way of a batch (``common.tasks.train``) this is the first station. Before it: the list of images
(``common.dataset.samples``). After it: each image goes through ``common.augment.pipeline``, the batch through
``common.augment.mixup``, and then into the step, ``common.train_step``.
"""
import dataclasses
import functools
import gc
import logging
import os
import shutil
from typing import Iterator

import cv2
import mindspore.dataset as ds
import numpy as np

from common.augment.mixup import Mixer, smooth_one_hot
from common.augment.pipeline import eval_transform, train_transform
from common.config.options import Config
from common.context.cores import own_cores
from common.dataset.samples import Samples, count_steps, steps_of_epoch
from common.errors import UserError
from common.loss import kind_of

# independent streams of random numbers
_ORDER, _IMAGE, _MIX, _NOISE = range(4)
_PREFETCH = 4  # batches that wait between two stages of the framework's pipeline; its 16 would be gigabytes
_SMALL_IMAGE = 64  # pixels; images in memory, of at most this side, are made faster than a process could hand them over
_SHARED_MEMORY = "/dev/shm"

logger = logging.getLogger(__name__)

# A worker process inherits the parent's objects. If its garbage collector met one of the framework's iterators among
# them, the iterator would stop threads that this process does not have, and abort. Frozen objects are never collected.
os.register_at_fork(after_in_child=gc.freeze)


def generator(seed: int, stream: int, *place: int) -> np.random.Generator:
    """Return the generator of one place in a run; equal arguments give equal numbers, others unrelated ones."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream, *place)))


def soft_targets(config: Config) -> bool:
    """Whether the loss of this configuration reads a row of probabilities per image instead of a class number."""
    return bool(config.mixup or config.cutmix) or kind_of(config).rows


def mixer(config: Config) -> Mixer:
    """Return what makes soft targets, mixed or not.

    It smooths the targets itself, but for a loss that smooths rows inside.
    """
    smoothing = 0.0 if kind_of(config).smooths_rows else config.smoothing
    return Mixer(config.mixup, config.cutmix, config.mixup_prob, config.mixup_switch_prob, config.num_classes,
                 smoothing)


class TrainBatches:
    """The batches of one rank, by number: batch k is number k % length of pass k // length through the images.

    Rank r takes rows r*B..(r+1)*B of every global batch, which so is the same for any number of ranks. For the
    Jensen-Shannon loss a batch has 3 * B rows: the images without colour changes, then two augmented copies of them.

    ``repeated_augmentation`` R > 1: the order of the epoch has each image R times in a row, and its places go to the
    ranks in turn, as in DeiT's RASampler, so that each rank gets another repeat and a global batch holds B * world / R
    images. The set of images and augmentations in a global batch is the same for any number of ranks; an epoch has as
    many steps as without, and so sees the first 1 / R of its order. Source: Hoffer et al. 2020, "Augment your batch";
    Touvron et al. 2021, "DeiT" (arXiv 2012.12877).

    Args:
        config: the configuration.
        samples: the training images.
        rank: of this process.
        world_size: number of ranks.
        noise_length: for a masked autoencoder the number L of patches: its batches are (image, noise) with noise
            float32 (B, L) uniform in [0, 1); 0: (image, label).
        as_bytes: give images as uint8, to be normalised and blended by ``common.train_step.FromBytes``; with mixup
            there is a third column, the share of its partner in each image, float32 (1,).
    """

    def __init__(self, config: Config, samples: Samples, rank: int, world_size: int, noise_length: int = 0,
                 as_bytes: bool = False):
        self.config, self.samples, self.rank, self.noise_length = config, samples, rank, noise_length
        self.global_batch = config.batch_size * world_size
        self.length = count_steps(config, len(samples), world_size) * config.accumulation_steps
        self.epoch_length = steps_of_epoch(config, len(samples), world_size) * config.accumulation_steps
        self.transforms = [train_transform(config, as_bytes)]
        copies = kind_of(config).copies
        if copies > 1 and not noise_length:
            if config.mixup or config.cutmix:
                raise UserError(f"loss: {config.loss} compares copies of one image and takes no mixed ones; set mixup: "
                                "0 and cutmix: 0.")
            clean = train_transform(dataclasses.replace(config, auto_augment="", color_jitter=None, re_prob=0.0), as_bytes)
            self.transforms = [clean] + self.transforms * (copies - 1)
        side = config.image_size
        self.shape = (len(self.transforms) * config.batch_size, config.in_channels, side, side)
        self.dtype = np.dtype(np.uint8 if as_bytes else np.float32)
        self.mixer = mixer(config) if soft_targets(config) and not noise_length else None
        self.leaves_blending = as_bytes and self.mixer is not None and config.mixup > 0
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def __len__(self) -> int:
        return self.length

    def order(self, epoch: int) -> np.ndarray:
        """Return the images of an epoch in the order in which they are seen, int64 (n,)."""
        known, order = self._order  # one read: several threads may share this object
        if known != epoch:
            count = len(self.samples)
            shuffle = self.config.shuffle
            order = generator(self.config.seed, _ORDER, epoch).permutation(count) if shuffle else np.arange(count)
            self._order = (epoch, order)
        return order

    def indices(self, epoch: int, position: int) -> np.ndarray:
        """Return the images of this rank's batch at a position of an epoch, int64 (B,)."""
        return self.places(epoch, position)[0]

    def places(self, epoch: int, position: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the images of this rank's batch, and of each image which of its repeats it is, both int64 (B,)."""
        first, count = position * self.global_batch, self.config.batch_size
        repeats = self.config.repeated_augmentation
        if repeats == 1:
            rows = first + self.rank * count + np.arange(count)
        else:  # in turn, so that the repeats of an image come to different ranks
            rows = first + self.rank + self.global_batch // count * np.arange(count)
        order = self.order(epoch)
        return order[rows // repeats % len(order)], rows % repeats

    def __getitem__(self, number: int) -> tuple[np.ndarray, ...]:
        """Return image float32 (B, C, H, W), and label int32 (B,), soft float32 (B, K), or noise float32 (B, L).

        As bytes: image uint8, and with mixup a third array, see the class.
        """
        config = self.config
        epoch, position = divmod(int(number), self.length)
        images, count = np.empty(self.shape, self.dtype), config.batch_size
        labels = np.empty(count, np.int32)
        noise = np.empty((count, self.noise_length), np.float32)
        for row, (index, repeat) in enumerate(np.stack(self.places(epoch, position), axis=1).tolist()):
            labels[row] = self._fill(images[row::count], epoch, index, repeat)
            if self.noise_length:
                place = (index, repeat) if repeat else (index,)
                noise[row] = generator(config.seed, _NOISE, epoch, *place).random(self.noise_length, np.float32)
        labels = np.tile(labels, len(self.transforms))
        if self.noise_length:
            return images, noise
        if self.mixer is None:
            return images, labels
        if 0 < config.mixup_off_epoch <= epoch:
            mixed = images, smooth_one_hot(labels, config.num_classes, self.mixer.smoothing), np.float32(0)
        else:
            mix = self.mixer.without_blending if self.leaves_blending else self.mixer
            mixed = mix(images, labels, generator(config.seed, _MIX, epoch, position, self.rank))
        return (*mixed[:2], mixed[2].reshape(1)) if self.leaves_blending else mixed[:2]

    def _fill(self, rows: np.ndarray, epoch: int, index: int, repeat: int) -> int:
        """Write the forms of one image into ``rows``, float32 (forms, C, H, W), and return its label.

        Where ``on_error`` is skip, the next good image takes the place of a broken one.
        """
        count = len(self.samples)
        open_image = self.samples.picture if self.config.fast_decode else self.samples.load
        for candidate in range(index, index + count):
            try:
                picture = open_image(candidate % count)
                for form, transform in enumerate(self.transforms):
                    copy = repeat * len(self.transforms) + form
                    transform(picture, generator(self.config.seed, _IMAGE, epoch, index, copy), rows[form])
                return self.samples.labels[candidate % count]
            except UserError:
                if self.config.on_error != "skip":
                    raise
                self.samples.note_error(candidate % count)
        raise UserError(f"none of the {count} training images of {self.samples.name} can be read.")


class EvalBatches:
    """The evaluation batches of one rank, in order; every rank has as many, filled up with zeros and label -1.

    With ``on_error: skip`` an image that cannot be read is such a zero image: it is counted as unread, not as wrong.
    """

    def __init__(self, config: Config, samples: Samples, rank: int, world_size: int):
        self.samples, self.skip = samples, config.on_error == "skip"
        self.batch = config.eval_batch_size or config.batch_size
        self.first, self.stride = rank * self.batch, self.batch * world_size
        self.length = -(-len(samples) // self.stride)
        self.transform = eval_transform(config)
        side = config.eval_image_size or config.image_size
        self.shape, self.dtype = (self.batch, config.in_channels, side, side), np.dtype(np.float32)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return image float32 (B, C, H, W) and label int32 (B,)."""
        images, labels = np.zeros(self.shape, self.dtype), np.full(self.batch, -1, np.int32)
        start = self.first + int(number) % self.length * self.stride
        for row, index in enumerate(range(start, min(start + self.batch, len(self.samples)))):
            try:
                images[row] = self.transform(self.samples.load(index))
                labels[row] = self.samples.labels[index]
            except UserError:
                if not self.skip:
                    raise
                self.samples.note_error(index)
        return images, labels


class _Numbers(ds.Sampler):
    """The numbers of the batches, ``count`` in every iteration: the framework begins one with every epoch.

    Every iterator of a data set works on a copy, and so begins with ``first`` again.
    """

    def __init__(self, count: int, first: int = 0):
        self.count, self.first = count, first
        super().__init__()

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        first, self.first = self.first, self.first + self.count
        return iter(range(first, self.first))


def train_batches(config: Config, samples: Samples, *, rank: int, world_size: int, start_epoch: int = 0,
                  start_batch: int = 0, noise_length: int = 0, as_bytes: bool = False) -> ds.GeneratorDataset:
    """Return the training batches; each epoch of the framework is the next epoch of the run.

    Args:
        config: the configuration.
        samples: the training images.
        rank: of this process.
        world_size: number of ranks.
        start_epoch: the epoch that the first iteration gives; do not use ``set_init_step`` besides.
        start_batch: the first batch of that epoch, whose rest is then all there is: a data set has one length.
        noise_length: see ``TrainBatches``.
        as_bytes: see ``TrainBatches``.

    Returns:
        A data set with the columns image and label, or image and noise; perhaps also share.

    Raises:
        UserError: if the images do not fill one step.
    """
    source = TrainBatches(config, samples, rank, world_size, noise_length, as_bytes)
    workers = _workers("num_workers", config.num_workers, samples, config.image_size)
    columns = ["image", "noise" if noise_length else "label"] + ["share"] * source.leaves_blending
    numbers = _Numbers(source.epoch_length - start_batch, start_epoch * source.epoch_length + start_batch)
    return _pipeline(source, columns, config, numbers, workers)


def eval_batches(config: Config, samples: Samples, *, rank: int, world_size: int) -> ds.GeneratorDataset:
    """Return the evaluation batches, with the columns image and label; label -1 marks what is not to be counted."""
    source = EvalBatches(config, samples, rank, world_size)
    key = "eval_num_workers" if config.eval_num_workers else "num_workers"
    workers = _workers(key, getattr(config, key), samples, source.shape[-1])
    return _pipeline(source, ["image", "label"], config, _Numbers(len(source)), workers)


def _workers(key: str, asked: int, samples: Samples, side: int) -> int:
    """Return the number of worker processes; 1 means a thread of this process."""
    if samples.in_memory and side <= _SMALL_IMAGE:
        return 1
    # the framework refuses more workers than CPUs; a launcher may have bound this process to a part of them
    available = len(own_cores())
    if asked > available:
        _tell_once(f"{key}: {asked} is more than the CPUs of this process; {available} are used")
    return min(asked, available)


@functools.cache
def _tell_once(line: str) -> None:
    logger.info(line)


def _pipeline(source: TrainBatches | EvalBatches, columns: list[str], config: Config, sampler: _Numbers, workers: int,
              processes: bool = True) -> ds.GeneratorDataset:
    """Hand a source over to the framework."""
    if config.on_error == "skip" and not source.samples.in_memory:
        source.samples.count_errors()
    ds.config.set_prefetch_size(_PREFETCH)
    if workers > 1 and processes:
        cv2.setNumThreads(0)  # OpenCV's own threads do not live on in a forked process, which would wait for them
        needed = workers * 2 * _PREFETCH * source.dtype.itemsize * int(np.prod(source.shape))  # bytes
        if os.path.isdir(_SHARED_MEMORY) and shutil.disk_usage(_SHARED_MEMORY).free < needed:
            _tell_once(f"{_SHARED_MEMORY} has less than the {needed >> 20} MB that {workers} workers can fill; batches "
                       "go through pipes, which is slower (give the container more shared memory, or fewer workers)")
            ds.config.set_enable_shared_mem(False)
    return ds.GeneratorDataset(source, columns, sampler=sampler, num_parallel_workers=workers,
                               python_multiprocessing=processes)
