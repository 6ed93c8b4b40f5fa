"""The card of a run, ``card.md``: what it was made of, what came of it, and how to do it again.

It is written whole when the training begins and after every epoch, from the records of the run; a run that is continued
keeps the list of its starts.
"""
import platform
import shlex
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, Sequence

import cv2
import mindspore as ms
import numpy as np
import PIL

from common.config.options import fields_of
from common.config.origins import place_of
from common.dataset.samples import Samples
from common.files import ROOT, write_whole
from common.run.facts import CARD, facts_text, read_facts
from common.run.training import Run


class Card:
    """Writes the card of a run; on rank 0 alone.

    Args:
        run: the run, whose history holds the epochs that are done.
        parameters: number of trainable parameters.
        eval_samples: the evaluation images, if there is an evaluation.
        start: epochs, and steps of the next one, that are done already; ``None``: nothing is left to do.
    """

    def __init__(self, run: Run, parameters: int, eval_samples: Samples | None, start: tuple[int, int] | None):
        self.run = run
        config = run.config
        data = {"name": run.samples.name, "training_images": len(run.samples),
                "training_hash": run.samples.fingerprint()}
        if eval_samples is not None:
            data |= {"evaluation_images": len(eval_samples), "evaluation_hash": eval_samples.fingerprint()}
        starts = read_facts(run.folder.folder).get("starts", []) if start != (0, 0) else []
        starts += [] if start is None else [{
            "time": time.strftime("%Y-%m-%d %H:%M:%S"), "epochs_done": start[0], "steps_done": start[1],
            "device": run.runtime.device, "ranks": run.runtime.world_size, "host": socket.gethostname(),
            "commit": commit(), "versions": versions(), "folder": str(Path.cwd()),
            "command": shlex.join(["python", *sys.argv])}]
        self.facts: dict[str, Any] = {
            "model": run.spec.name_of(vars(config)), "family": run.spec.name, "task": config.task,
            "parameters": parameters, "data": data | {"classes": len(run.samples.classes)}, "seed": config.seed,
            "images_per_step": run.state.global_batch, "steps_per_epoch": run.state.steps_per_epoch,
            "epochs": run.state.epochs, "starts": starts}

    def write(self) -> None:
        """Write the card as things stand.

        Raises:
            UserError: if that is not possible.
        """
        state = self.run.state
        results: dict[str, Any] = {"epochs_done": len(state.history)}
        if state.history:
            results["last"] = {key: value for key, value in state.history[-1].items() if not key.endswith("_time")}
        if state.bests:
            results["best"] = [{"epoch": epoch, "top1": top1} for top1, epoch in state.bests]
        write_whole(self.run.file(CARD), facts_text(self.facts | results) + self._text())

    def _text(self) -> str:
        facts, history = self.facts, self.run.state.history
        data = facts["data"]
        lines = [f"# {facts['model']} on {data['name']}", "", self._result(), ""]
        if history:
            lines += ["![Curves](curves.png)", ""]
        images = f"{data['training_images']:,}, hash of the list {data['training_hash']}"
        rows = [("network", f"{facts['model']}, {facts['parameters']:,} trainable parameters"),
                ("training images", images)]
        if "evaluation_images" in data:
            rows.append(("evaluation images", f"{data['evaluation_images']:,}, hash of the list "
                                              f"{data['evaluation_hash']}"))
        rows += [("classes", f"{data['classes']:,}"), ("seed", facts["seed"]),
                 ("images per step", f"{facts['images_per_step']:,}; {facts['steps_per_epoch']:,} steps per epoch")]
        lines += [*table(("", ""), rows), "", "## Configuration", "", "What is not a default:", ""]
        lines += [*table(("key", "value", "from"), self._configuration()), "", "## Starts", ""]
        lines += [*table(("time", "after", "device", "commit", "versions", "command"),
                         [(one["time"], f"epoch {one['epochs_done']}" + (f", step {one['steps_done']}" * bool(
                             one["steps_done"])), f"{one['ranks']} x {one['device']} on {one['host']}", one["commit"],
                           ", ".join(f"{name} {number}" for name, number in one["versions"].items()),
                           f"in {one['folder']}: `{one['command']}`") for one in facts["starts"]]), ""]
        return "\n".join([*lines, "## Again", "", "```bash", *self._again(), "```", ""])

    def _result(self) -> str:
        state = self.run.state
        if not state.history:
            return "No epoch is done yet."
        last = state.history[-1]
        top1 = f", top-1 {last['top1']:.2%}" if last.get("top1") is not None else ""
        best = f"**Best top-1: {state.best:.2%}**, after epoch {state.best_epoch}. " if state.best_epoch else ""
        seconds = round(sum(row["epoch_time"] + row.get("eval_time", 0.0) for row in state.history))
        return (f"{best}Epoch {last['epoch']} of {state.epochs}: loss {last['loss']:.4g}{top1}. {len(state.history)} "
                f"epochs took {timedelta(seconds=seconds)}.")

    def _configuration(self) -> list[Sequence[Any]]:
        """Return key, value and place of what is written somewhere, or follows from something else."""
        config = self.run.config
        values = {name: getattr(config, name) for name, field in fields_of(type(config)).items()
                  if not field.metadata["unused"] and (name in config.given or getattr(config, name) != field.default)}
        return [(f"`{name}`", f"`{value}`", place_of(config, name) if name in config.given else "follows")
                for name, value in values.items()]

    def _again(self) -> list[str]:
        """Return the commands that repeat the run in a folder beside it."""
        folder, ranks = self.run.folder.folder.resolve(), self.run.runtime.world_size
        program = shlex.join([str(ROOT / self.run.spec.name / "train.py"), "--config_path", str(folder / "config.yaml"),
                              "--ckpt_save_dir", f"{folder}_again"])
        launcher = f"msrun --worker_num={ranks} --local_worker_num={ranks} --join=True" if ranks > 1 else "python"
        return [f"{launcher} {program}"]


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Return a table in Markdown."""
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in line]
             for line in (head, ["---"] * len(head), *rows)]
    return [f"| {' | '.join(line)} |" for line in cells]


def versions() -> dict[str, str]:
    """Return the versions of what computes."""
    return {"python": platform.python_version(), "mindspore": ms.__version__, "numpy": np.__version__,
            "pillow": PIL.__version__, "opencv": cv2.__version__}


def commit() -> str:
    """Return the commit of this repository, and whether files differ from it; ``unknown`` without git."""
    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *words], text=True, capture_output=True, timeout=20, check=True,
                              stdin=subprocess.DEVNULL).stdout.strip()

    try:
        top, head = git("rev-parse", "--show-toplevel", "HEAD").splitlines()
        changed = git("status", "--porcelain", "--untracked-files=no")
    except (OSError, ValueError, subprocess.SubprocessError):
        return "unknown"
    return "unknown" if Path(top).resolve() != ROOT else head + (" and changes" if changed else "")
