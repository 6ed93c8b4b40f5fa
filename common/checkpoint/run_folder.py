"""The checkpoints of one run: which there are, which are kept, which is the newest whole one."""
import glob
import re
import shutil
from pathlib import Path
from typing import Any, Mapping

import numpy as np

from common.checkpoint.file import load_checkpoint, save_checkpoint
from common.errors import UserError
from common.files import written_whole


class RunFolder:
    """The checkpoints of one run: ``NAME-EPOCH_STEP.ckpt``, of which the newest are kept, and ``NAME_best.ckpt``.

    Args:
        folder: the run's folder.
        name: the model's name in file names.
        keep: how many epoch checkpoints to keep.
    """

    def __init__(self, folder: Path, name: str, keep: int = 10):
        self.folder = Path(folder)
        self.name = name
        self.keep = keep

    @property
    def best(self) -> Path:
        return self.folder / f"{self.name}_best.ckpt"

    def checkpoints(self) -> list[Path]:
        """Return the epoch checkpoints, oldest first."""
        pattern = re.compile(re.escape(self.name) + r"-(\d+)_(\d+)\.ckpt")
        found = [(int(m.group(1)), int(m.group(2)), p) for p in self.folder.glob("*.ckpt")
                 if (m := pattern.fullmatch(p.name))]
        return [path for *_, path in sorted(found)]

    def save(self, epoch: int, step: int, tensors: Mapping[str, Any], meta: Mapping[str, Any]) -> Path:
        """Write the checkpoint of an epoch (counted from 1) and delete the oldest beyond ``keep``."""
        path = save_checkpoint(self.folder / f"{self.name}-{epoch}_{step}.ckpt", tensors, meta)
        killed = self.folder.glob(f".{glob.escape(self.name)}*.unfinished.ckpt")  # left by a process that was killed
        for old in [*self.checkpoints()[:-self.keep], *killed]:
            old.unlink()
        return path

    def save_best(self, tensors: Mapping[str, Any], meta: Mapping[str, Any], same_as: Path | None = None) -> Path:
        """Write the best checkpoint; ``same_as`` is a file of the same content, if there is one."""
        if same_as is None:
            return save_checkpoint(self.best, tensors, meta)
        with written_whole(self.best, "ckpt_save_dir") as unfinished:
            shutil.copyfile(same_as, unfinished)
        return self.best

    def newest(self) -> tuple[Path, dict[str, np.ndarray], dict[str, Any], list[str]] | None:
        """Read the newest checkpoint that is whole.

        Returns:
            Path, tensors, meta data, and the sentences about newer files that could not be read; None for no run.

        Raises:
            UserError: if there are checkpoints but none can be read, or only those of another run.
        """
        problems = []
        if not self.checkpoints() and (others := sorted(self.folder.glob("[!.]*-[0-9]*_[0-9]*.ckpt"))):
            raise UserError(f"ckpt_save_dir: {self.folder} holds another run ({others[0].name}), not one of "
                            f"{self.name}; choose another folder.")
        for path in reversed(self.checkpoints()):
            try:
                return path, *load_checkpoint(path), problems
            except UserError as error:
                problems.append(str(error))
        if problems:
            raise UserError(f"ckpt_save_dir: none of the checkpoints in {self.folder} can be read, the newest because "
                            f"of: {problems[0]} Move them away to start again.")
        return None
