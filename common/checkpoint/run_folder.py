"""The checkpoints of one run: which there are, which are kept, which is the newest whole one."""
import glob
import re
import shutil
from pathlib import Path
from typing import Any, Mapping, NamedTuple, Sequence

import numpy as np

from common.checkpoint.file import Damaged, load_checkpoint, save_checkpoint
from common.checkpoint.lock import FolderLock
from common.errors import UserError
from common.files import remove_unfinished, written_whole


class Found(NamedTuple):
    """A checkpoint that was read: path, tensors, description, and sentences about newer ones that are damaged."""

    path: Path
    tensors: dict[str, np.ndarray]
    meta: dict[str, Any]
    problems: list[str]


class RunFolder:
    """The checkpoints of one run: ``NAME-EPOCH_STEP.ckpt``, of which the newest are kept, and ``NAME_best.ckpt``.

    One with fewer steps than an epoch has was written inside that epoch; it is deleted as soon as there is a newer one.
    Where more than one best are kept, each also lies under the name of its epoch, ``NAME_best_epochEPOCH.ckpt``.

    Args:
        folder: the run's folder.
        name: the model's name in file names.
        keep: how many checkpoints of whole epochs to keep.
        steps_per_epoch: optimizer steps of an epoch.
        keep_best: how many of the best to keep.
    """

    def __init__(self, folder: Path, name: str, keep: int = 10, steps_per_epoch: int = 0, keep_best: int = 1):
        self.folder = Path(folder)
        self.name = name
        self.keep = keep
        self.steps_per_epoch = steps_per_epoch
        self.keep_best = keep_best
        self.lock = FolderLock(self.folder)

    @property
    def best(self) -> Path:
        return self.folder / f"{self.name}_best.ckpt"

    def best_files(self, epochs: Sequence[int]) -> dict[Path, int]:
        """Return the files of the best epochs, of which the best is the first, and the epoch that each holds."""
        named = {self.folder / f"{self.name}_best_epoch{epoch}.ckpt": epoch for epoch in epochs}
        return {self.best: epochs[0]} | (named if self.keep_best > 1 else {})

    def begin(self) -> None:
        """Take the folder for this process, and remove what killed processes have left unfinished.

        Raises:
            UserError: if another training writes to it, or nothing can be written.
        """
        self.lock.take()
        remove_unfinished(self.folder)

    def checkpoints(self) -> list[Path]:
        """Return the checkpoints but for the best, oldest first."""
        pattern = re.compile(re.escape(self.name) + r"-(\d+)_(\d+)\.ckpt")
        found = [(int(m.group(1)), int(m.group(2)), p) for p in self.folder.glob("*.ckpt")
                 if (m := pattern.fullmatch(p.name))]
        return [path for *_, path in sorted(found)]

    def path_of(self, epoch: int, step: int) -> Path:
        """Return where the checkpoint after a step (counted from 1) of an epoch (from 1) is kept."""
        return self.folder / f"{self.name}-{epoch}_{step}.ckpt"

    def save(self, epoch: int, step: int, tensors: Mapping[str, Any], meta: Mapping[str, Any]) -> Path:
        """Write the checkpoint after a step of an epoch, and delete the oldest beyond ``keep``.

        Raises:
            UserError: if it cannot be written, or the folder is no longer there.
        """
        self.lock.check()
        path = save_checkpoint(self.path_of(epoch, step), tensors, meta)
        self.remove_before(path)
        return path

    def remove_before(self, path: Path) -> None:
        """Delete what need not be kept beside a checkpoint: those inside epochs before it, the oldest beyond ``keep``."""
        earlier = self.checkpoints()
        earlier = earlier[:earlier.index(path)] if path in earlier else []  # it may be that of another run
        inside = [old for old in earlier if int(old.stem.rpartition("_")[2]) < self.steps_per_epoch]
        whole = [old for old in earlier if old not in inside]
        kept = self.keep - (int(path.stem.rpartition("_")[2]) >= self.steps_per_epoch)
        for old in [*inside, *whole[:max(0, len(whole) - kept)]]:
            old.unlink(missing_ok=True)

    def save_best(self, tensors: Mapping[str, Any], meta: Mapping[str, Any], epochs: Sequence[int],
                  same_as: Path | None = None) -> None:
        """Write the checkpoint of one of the best epochs, and delete those of epochs that are no longer among them.

        Args:
            tensors: name -> value.
            meta: its description, with its ``epoch``.
            epochs: the best so far, the best first.
            same_as: a file of the same content, if there is one.

        Raises:
            UserError: if it cannot be written, or the folder is no longer there.
        """
        self.lock.check()
        for path, epoch in self.best_files(epochs).items():
            if epoch == meta["epoch"]:
                same_as = _copied(same_as, path) if same_as else save_checkpoint(path, tensors, meta)
        self._remove_other_bests(epochs)

    def _remove_other_bests(self, epochs: Sequence[int]) -> None:
        for path in self.folder.glob(f"{glob.escape(self.name)}_best_epoch*.ckpt"):
            if path not in self.best_files(epochs):
                path.unlink(missing_ok=True)

    def mend_best(self, epochs: Sequence[int], source: Path) -> list[str]:
        """Make the best checkpoints be those of ``epochs``, as a run would have left them that was not stopped.

        Args:
            epochs: the best epochs so far, from 1, the best first.
            source: the checkpoint from which the run continues.

        Returns:
            What was found and done, in sentences; none if all was well.
        """
        self.lock.check()
        said = [self._mend(path, epoch, source) for path, epoch in self.best_files(epochs).items()]
        self._remove_other_bests(epochs)
        return [sentence for sentence in said if sentence]

    def _mend(self, file: Path, epoch: int, source: Path) -> str:
        problem = f"{file} was missing"
        if file.exists():
            try:
                held = load_checkpoint(file)[1].get("epoch", 0)
                problem = "" if held == epoch else f"{file} held epoch {held} instead of {epoch}"
            except Damaged:
                problem = f"{file} was damaged"
        if not problem:
            return ""
        named = self.folder / f"{self.name}_best_epoch{epoch}.ckpt"
        for path in (self.path_of(epoch, self.steps_per_epoch), source, self.best, named,
                     source.with_name(self.best.name), source.with_name(named.name)):
            try:
                meta = load_checkpoint(path)[1]
            except UserError:
                continue
            if (meta.get("epoch"), meta.get("step", 0)) == (epoch, 0):
                _copied(path, file)
                return f"{problem}; it is made again from {path}."
        return (f"{problem}, and the checkpoint of epoch {epoch}, one of the best so far, is not there to make it "
                "again; it stays so until a better epoch comes.")

    def newest(self) -> Found | None:
        """Read the newest checkpoint that is whole; ``None``: there is no run yet.

        Raises:
            UserError: if there are checkpoints but none is whole, or only those of another run, or the newest cannot be
                read for a reason that is not its own, such as a lack of memory.
        """
        problems: list[str] = []
        if not self.checkpoints() and (others := sorted(self.folder.glob("[!.]*-[0-9]*_[0-9]*.ckpt"))):
            raise UserError(f"ckpt_save_dir: {self.folder} holds another run ({others[0].name}), not one of "
                            f"{self.name}; choose another folder.")
        for path in reversed(self.checkpoints()):
            try:
                return Found(path, *load_checkpoint(path), problems)
            except Damaged as error:
                problems.append(str(error))
        if problems:
            raise UserError(f"ckpt_save_dir: none of the checkpoints in {self.folder} can be read, the newest because "
                            f"of: {problems[0]} Move them away to start again.")
        return None


def _copied(source: Path, path: Path) -> Path:
    """Copy a checkpoint to a path, whole or not at all."""
    with written_whole(path, "ckpt_save_dir") as unfinished:
        shutil.copyfile(source, unfinished)
    return path
