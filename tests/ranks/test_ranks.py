"""Many ranks, one truth: real jobs of one, two and three processes on the CPU must find the same.

What each rank does is in rank_worker.py. The jobs run side by side: they wait for each other's start most of the time.
"""
import csv
import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
from entry import ROOT
from rank_jobs import launcher, logs, stop, with_own_python, write_images
from trajectories import check

from common.pictures.report import FILES

WORKER = ROOT / "tests" / "rank_worker.py"
CASES = {1: ("evaluation", "sharding", "probe_norm", "steps", "synchronised"),
         2: ("evaluation", "sharding", "probe_norm", "steps", "synchronised", "replaced", "apart", "trajectories"),
         3: ("evaluation", "sharding", "probe_norm", "apart")}

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


def run_jobs(folder, cases_of: dict[int, tuple[str, ...]]) -> dict[int, list[tuple[dict, dict]]]:
    """Run a job for every number of ranks; return what each rank found: arrays, and the rest."""
    jobs = {}
    for ranks, cases in cases_of.items():
        start = [sys.executable] if ranks == 1 else launcher(ranks, folder / f"logs_{ranks}")
        with open(folder / f"log_{ranks}", "wb") as log:
            jobs[ranks] = subprocess.Popen([*start, WORKER, folder, *cases], cwd=folder, env=with_own_python(),
                                           stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
    try:
        for ranks, job in jobs.items():
            assert job.wait(timeout=1500) == 0, logs(folder)
    finally:
        for job in jobs.values():
            stop(job)
    return {ranks: [(dict(np.load(folder / str(ranks) / f"rank_{rank}.npz")),
                     json.loads((folder / str(ranks) / f"rank_{rank}.json").read_text())) for rank in range(ranks)]
            for ranks in cases_of}


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[int, list[tuple[dict, dict]]]:
    """Per number of ranks, what each rank found in all cases."""
    folder = tmp_path_factory.mktemp("ranks")
    write_images(folder / "many", 101)
    write_images(folder / "two", 2)
    return run_jobs(folder, CASES)


def arrays(found, ranks: int, rank: int, case: str) -> dict[str, np.ndarray]:
    """Return the parameters that a rank kept under the name of a case."""
    kept = {name.partition("/")[2]: value for name, value in found[ranks][rank][0].items()
            if name.startswith(f"{case}/")}
    assert kept, case
    return kept


def difference(one: dict, other: dict) -> float:
    """Return the largest difference of any value of any parameter."""
    assert one.keys() == other.keys()
    return max(float(abs(one[name].astype(np.float64) - other[name]).max()) for name in one)


# trainings of the authors

@pytest.mark.parametrize("name", ["gmlp_accum", "convmlp"])
def test_two_ranks_repeat_a_training_of_the_authors(name, found):
    """With half of every batch each: the loss is the mean of theirs, the norm that of the reduced gradient."""
    check_training(name, found)


@pytest.mark.long
def test_two_ranks_with_fused_operators_repeat_a_training_of_the_authors(tmp_path):
    check_training("gmlp_accum", run_jobs(tmp_path, {2: ("fused",)}))


def check_training(name, found):
    results = [arrays(found, 2, rank, f"trajectory {name}") for rank in range(2)]
    together = results[0] | {"loss": (results[0]["loss"] + results[1]["loss"]) / 2}
    if "output" in together:
        together["tensors"] = arrays(found, 2, 0, f"tensor of {name}")
    assert len(together["loss"]) >= 3
    check(name, together)
    assert all(np.array_equal(results[0][key], results[1][key]) for key in results[0] if key != "loss")


# evaluation

@pytest.mark.parametrize("case, seen", [("many 7", 101), ("many 40", 101), ("two 7", 2)])
def test_evaluation_gives_the_same_text_on_any_number_of_ranks(case, seen, found):
    results = [values[f"evaluation {case}"] for ranks in found.values() for _, values in ranks]
    assert {text for text, _, _ in results} == {results[0][0]} and "Top_1" in results[0][0]
    assert {count for _, count, _ in results} == {seen}


def test_any_batch_size_and_either_engine_give_the_same_text(found):
    values = found[1][0][1]
    assert values["evaluation many 7"][0] == values["evaluation many 40"][0] != values["evaluation two 7"][0]


def test_a_report_is_the_same_on_any_number_of_ranks(found):
    reports = [{name: bytes.fromhex(content) for name, content in ranks[0][1]["report"].items()}
               for ranks in found.values()]
    assert sorted(reports[0]) == sorted(FILES)
    assert reports[0] == reports[1] == reports[2]
    rows = list(csv.DictReader(io.StringIO(reports[0]["classes.csv"].decode())))
    assert sum(int(row["images"]) for row in rows) == 101
    wrong = 101 - sum(int(row["correct"]) for row in rows)
    assert len(reports[0]["mistakes.csv"].splitlines()) == 1 + wrong and wrong > 50
    top1 = float(re.search(r"Top_1_Accuracy': ([\d.]+)", found[1][0][1]["evaluation many 40"][0])[1])
    assert top1 == pytest.approx(1 - wrong / 101, abs=1e-4)  # of an evaluation without a report


def test_only_rank_0_prints_the_result(found):
    for ranks in found.values():
        printed = [values["evaluation many 7"][2] for _, values in ranks]
        assert printed[0] == [ranks[0][1]["evaluation many 7"][0]] and not any(printed[1:])


# data

@pytest.mark.parametrize("ranks", [2, 3])
def test_training_data_is_shared_out_without_overlap(ranks, found):
    alone = found[1][0][0]["labels"]
    parts = [arrays["labels"] for arrays, _ in found[ranks]]
    for epoch in range(2):
        seen = np.concatenate([part[epoch].reshape(-1) for part in parts])
        assert len(seen) == len(set(seen.tolist())) == alone[epoch].size
    np.testing.assert_array_equal(np.concatenate(parts, axis=2), alone)  # the same batches in the same order
    assert not np.array_equal(alone[0], alone[1])  # and another one in the next epoch


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_same_image_is_augmented_alike_wherever_it_is_seen(ranks, found):
    parts = [arrays["images"] for arrays, _ in found[ranks]]
    np.testing.assert_array_equal(np.concatenate(parts, axis=2), found[1][0][0]["images"])


# steps

@pytest.mark.parametrize("case", ["plain", "clipped", "clipped sum"])
@pytest.mark.parametrize("update", [1, 2])
def test_a_step_of_two_ranks_equals_one_of_one_rank_with_the_whole_batch(case, update, found):
    alone = arrays(found, 1, 0, f"{case} {update}")
    for rank in range(2):
        assert difference(arrays(found, 2, rank, f"{case} {update}"), alone) < 1e-5
    moved = difference(alone, arrays(found, 1, 0, f"plain {3 - update}"))
    assert moved > 1e-3  # otherwise the test shows nothing
    losses = [np.array(values[f"{case} losses"]) for _, values in found[2]]
    np.testing.assert_allclose(sum(losses) / 2, found[1][0][1][f"{case} losses"], rtol=1e-5)


def test_clipping_before_the_reduction_would_show(found):
    alone = arrays(found, 1, 0, "wrong 1")
    assert difference(alone, arrays(found, 1, 0, "clipped 1")) < 1e-5  # on one rank both orders are the same
    assert difference(arrays(found, 2, 0, "wrong 1"), alone) > 1e-4
    assert found[2][0][1]["wrong norm"] < 0.9 * 0.05  # a mean of clipped gradients is shorter than the limit


def test_the_clipped_norm_is_that_of_the_mean_gradient(found):
    norms = [values["clipped norm"] for ranks in (1, 2) for _, values in found[ranks]]
    assert norms[0] > 0.5 and norms == pytest.approx([norms[0]] * 3, rel=1e-5)


def test_base_lr_follows_the_global_batch(found):
    assert [values["lr"] for ranks in (1, 2) for _, values in found[ranks]] == [pytest.approx(0.1 * 12 / 256)] * 3


def test_a_loss_that_is_no_number_on_one_rank_stops_all_and_reaches_no_weight(found):
    said = [values["nan"] for _, values in found[2]]
    assert "gradients of 1 update(s)" in said[0] and "the loss was not a finite number at step 3" in said[1]
    for rank in range(2):
        assert difference(arrays(found, 2, rank, "after nan"), arrays(found, 2, 0, "plain 2")) == 0


def test_a_value_that_one_rank_cut_off_drops_the_update_of_all(found):
    assert [values["saturated"] for _, values in found[2]] == [[1, 512.0]] * 2


# BatchNorm

@pytest.mark.parametrize("update", [1, 3])
def test_synchronised_batch_norm_of_two_ranks_equals_one_rank_with_the_whole_batch(update, found):
    alone = arrays(found, 1, 0, f"sync {update}")
    assert sum(name.endswith("moving_variance") for name in alone) == 6 == found[2][0][1]["sync cells"]
    assert found[1][0][1]["sync cells"] == 0  # one rank needs no other cell
    for rank in range(2):
        assert difference(arrays(found, 2, rank, f"sync {update}"), alone) < 1e-5
    if update == 3:
        assert difference(alone, arrays(found, 1, 0, "sync 1")) > 1e-2


@pytest.mark.parametrize("variant", ["convmlp_s", "soft_tiny", "hlg_mobile", "hlg_tiny_avgpool", "vit_base_patch16"])
def test_every_batch_norm_of_every_model_is_replaced_under_the_same_names(variant, found):
    result = found[2][0][1][f"replaced {variant}"]
    assert result["all"] and result["same names"] and 0 < 2 * result["count"] == result["statistics"]


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_norm_of_the_linear_probe_is_synchronised_too(ranks, found):
    alone = found[1][0][0]
    for name in ("probe output", "probe gradient", "probe later"):
        together = np.concatenate([arrays[name] for arrays, _ in found[ranks]])
        np.testing.assert_allclose(together, alone[name], atol=1e-5)
    assert difference(arrays(found, ranks, ranks - 1, "probe"), arrays(found, 1, 0, "probe")) < 1e-6


@pytest.mark.parametrize("ranks", [2, 3])
def test_without_synchronisation_all_ranks_go_on_with_the_mean_of_their_running_statistics(ranks, found):
    before, after = ([arrays(found, ranks, rank, when) for rank in range(ranks)] for when in ("before", "after"))
    assert len(before[0]) == 2 * 6 * 2  # mean and variance, of the network and of its moving average
    assert difference(*before[:2]) > 0.1
    mean = {name: np.mean([part[name].astype(np.float64) for part in before], axis=0) for name in before[0]}
    for part in after:
        assert difference(part, after[0]) == 0 and difference(part, mean) < 1e-6
