"""Logging: what people see on the console, and what each rank's file holds."""
import io
import logging
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tqdm import tqdm

from common.errors import UserError
from common.logger import Waiting, get_logger, set_up


@pytest.fixture(autouse=True)
def quiet_afterwards():
    yield
    for name in ("zoo", "common"):
        for handler in logging.getLogger(name).handlers[:]:
            logging.getLogger(name).removeHandler(handler)
            handler.close()
        logging.getLogger(name).propagate = True


def lines(rank=0, run_dir="run"):
    return Path(run_dir, f"log_rank_{rank}.txt").read_text(encoding="utf-8").splitlines()


def test_rank_0_writes_to_console_and_file(capsys):
    set_up("run", 0, "%(message)s")
    get_logger().info("epoch 1 图")
    assert capsys.readouterr().out == "epoch 1 图\n"
    assert lines() == ["epoch 1 图"]


def test_other_ranks_write_to_their_file_only(capsys):
    set_up("run", 3, "%(message)s")
    get_logger().warning("hello")
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""
    assert lines(3) == ["hello"]
    assert not Path("run/log_rank_0.txt").exists()


def test_other_rank_without_folder_is_silent(capsys):
    set_up(None, 1, "%(message)s")
    get_logger().error("hello")
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


def test_lines_have_the_family_s_prefix(capsys):
    set_up(None, 0, "[%(asctime)s] mindcv.utils.callbacks %(levelname)s - %(message)s")
    get_logger().info("Epoch: [1/2]")
    assert re.fullmatch(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] mindcv\.utils\.callbacks INFO - Epoch: \[1/2\]\n",
                        capsys.readouterr().out)


def test_what_takes_long_says_what_it_does_and_how_long_it_took(capsys, monkeypatch):
    monkeypatch.setattr(Waiting, "FIRST", 0.05)
    set_up(None, 0, "%(message)s")
    done = 1
    with Waiting(lambda: f"Counting, {done} so far"):
        time.sleep(0.6)
        done = 2
    with Waiting("Nothing"):
        pass
    assert capsys.readouterr().out == "Counting, 1 so far, 0 s\nCounting, 2 so far; done after 1 s\n"


def test_date_format_can_be_chosen():
    set_up("run", 0, "%(asctime)s %(message)s", date_format="%Y")
    get_logger().info("x")
    assert re.fullmatch(r"\d{4} x", lines()[0])


def test_second_set_up_replaces_the_first(capsys):
    set_up("first", 0, "%(message)s")
    set_up("second", 0, "%(message)s")
    get_logger().info("once")
    assert capsys.readouterr().out == "once\n"
    assert lines(run_dir="first") == [] and lines(run_dir="second") == ["once"]


def test_resumed_run_continues_its_file():
    for text in ("before", "after"):
        set_up("run", 0, "%(message)s")
        get_logger().info(text)
    assert lines() == ["before", "after"]


def test_modules_that_log_under_their_own_name_are_heard(capsys):
    set_up("run", 0, "%(message)s")
    logging.getLogger("common.dataset.archive").info("unpacking")
    assert capsys.readouterr().out == "unpacking\n"
    assert lines() == ["unpacking"]


def test_debug_lines_are_left_out(capsys):
    set_up(None, 0, "%(message)s")
    get_logger().debug("detail")
    assert capsys.readouterr().out == ""


def test_log_line_does_not_tear_a_progress_bar(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    set_up(None, 0, "%(message)s")
    with tqdm(total=4, file=screen, ncols=40) as bar:
        bar.update(1)
        get_logger().info("saved")
    before, after = screen.getvalue().split("saved\n")
    assert before.endswith("\r")   # the bar was wiped before the line
    assert "1/4" in after          # and drawn again below it


def test_closed_console_does_not_end_the_run():
    code = ("import sys; from common.logger import get_logger, set_up; set_up('run', 0, '%(message)s');"
            "sys.stdout.close(); get_logger().info('still here')")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=600)
    assert done.returncode == 0
    assert lines() == ["still here"]


def test_folder_that_cannot_be_made_is_one_sentence():
    Path("run").write_text("a file")
    with pytest.raises(UserError, match="ckpt_save_dir: the log run/log_rank_0.txt cannot be written"):
        set_up("run", 0)


def test_logger_needs_no_mindspore():
    code = "import sys, common.logger; print('mindspore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600,
                          check=True).stdout == "False\n"
