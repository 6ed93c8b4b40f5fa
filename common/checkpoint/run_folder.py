"""The checkpoints of one run: which there are, which are kept, which is the newest whole one."""
import re
import shutil
from pathlib import Path
from typing import Any, Mapping, NamedTuple

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

    Args:
        folder: the run's folder.
        name: the model's name in file names.
        keep: how many checkpoints of whole epochs to keep.
        steps_per_epoch: optimizer steps of an epoch.
    """

    def __init__(self, folder: Path, name: str, keep: int = 10, steps_per_epoch: int = 0):
        self.folder = Path(folder)
        self.name = name
        self.keep = keep
        self.steps_per_epoch = steps_per_epoch
        self.lock = FolderLock(self.folder)

    @property
    def best(self) -> Path:
        return self.folder / f"{self.name}_best.ckpt"

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
        earlier = self.checkpoints()
        earlier = earlier[:earlier.index(path)]
        inside = [old for old in earlier if int(old.stem.rpartition("_")[2]) < self.steps_per_epoch]
        whole = [old for old in earlier if old not in inside]
        kept = self.keep - (step >= self.steps_per_epoch)
        for old in [*inside, *whole[:max(0, len(whole) - kept)]]:
            old.unlink(missing_ok=True)
        return path

    def save_best(self, tensors: Mapping[str, Any], meta: Mapping[str, Any], same_as: Path | None = None) -> Path:
        """Write the best checkpoint; ``same_as`` is a file of the same content, if there is one.

        Raises:
            UserError: if it cannot be written, or the folder is no longer there.
        """
        self.lock.check()
        if same_as is None:
            return save_checkpoint(self.best, tensors, meta)
        with written_whole(self.best, "ckpt_save_dir") as unfinished:
            shutil.copyfile(same_as, unfinished)
        return self.best

    def mend_best(self, epoch: int, source: Path) -> str:
        """Make the best checkpoint be that of ``epoch``, as a run would have left it that was not stopped.

        Args:
            epoch: the best epoch so far, from 1.
            source: the checkpoint from which the run continues.

        Returns:
            What was found and done, in a sentence; empty if all was well.
        """
        problem = f"{self.best} was missing"
        if self.best.exists():
            try:
                held = load_checkpoint(self.best)[1].get("epoch", 0)
                problem = "" if held == epoch else f"{self.best} held epoch {held} instead of {epoch}"
            except Damaged:
                problem = f"{self.best} was damaged"
        if not problem:
            return ""
        for path in (self.path_of(epoch, self.steps_per_epoch), source, source.with_name(self.best.name)):
            try:
                meta = load_checkpoint(path)[1]
            except UserError:
                continue
            if (meta.get("epoch"), meta.get("step", 0)) == (epoch, 0):
                self.save_best({}, {}, same_as=path)
                return f"{problem}; it is made again from {path}."
        return (f"{problem}, and the checkpoint of epoch {epoch}, the best so far, is not there to make it again; it "
                "stays so until a better epoch comes.")

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
