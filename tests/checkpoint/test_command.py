"""``python -m common.checkpoint``: look at checkpoints, compare and average them."""
import numpy as np
import pytest
from entry import run, sentence, write_yaml

from common.checkpoint import __main__ as command
from common.checkpoint.average import ACCURACY, average, checkpoints_of, choose, greedy
from common.checkpoint.file import load_checkpoint, save_checkpoint
from common.checkpoint.weights import network_tensors
from common.errors import UserError
from convmlp.src.spec import SPEC as CONVMLP
from gmlp.src.spec import SPEC as GMLP
from hlg.src.spec import SPEC as HLG
from mae.src.spec import SPEC as MAE
from soft.src.spec import SPEC as SOFT


@pytest.fixture
def folder(tmp_path):
    """A run of four epochs, one that was stopped inside an epoch, and a best one."""
    for epoch, top1 in enumerate((0.5, 0.8, 0.7, None), 1):
        save_checkpoint(tmp_path / f"net-{epoch}_5.ckpt", held(epoch), {
            "family": "net", "model": "net_s", "epoch": epoch, "step": 0, "row": {"top1": top1} if top1 else {}})
    save_checkpoint(tmp_path / "net-5_2.ckpt", held(9), {"family": "net", "model": "net_s", "epoch": 4, "step": 2})
    save_checkpoint(tmp_path / "net_best.ckpt", held(2), {"family": "net", "model": "net_s", "epoch": 2, "step": 0,
                                                          "row": {"top1": 0.8}})
    return tmp_path


def held(number: float) -> dict[str, np.ndarray]:
    return {"w": np.full((2, 3), number, np.float32), "n": np.array(7, np.int32),
            "optimizer.w": np.ones(3, np.float32)}


def test_epochs_are_chosen_by_number_and_by_accuracy_each_once(folder):
    files = checkpoints_of([folder])
    assert [file.name for file in files] == [*(f"net-{epoch}_5.ckpt" for epoch in (1, 2, 3, 4)), "net-5_2.ckpt",
                                            "net_best.ckpt"]
    assert [file.name for file in choose(files, last=2)] == ["net-3_5.ckpt", "net-4_5.ckpt"]
    assert [file.name for file in choose(files, best=2)] == ["net-2_5.ckpt", "net-3_5.ckpt"]
    assert len(choose(files)) == 4
    with pytest.raises(UserError, match="there are 3 checkpoints of whole epochs with a top-1, and 4 are wanted"):
        choose(files, best=4)


def test_an_average_is_the_mean_in_float64_of_what_an_evaluation_takes(tmp_path):
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(1000).astype(np.float32) for _ in range(3)]
    for number, value in enumerate(weights):
        ema = {"ema.w": value, "w": np.zeros(1000, np.float32)} if number else {"w": value}  # the first holds none
        save_checkpoint(tmp_path / f"{number}.ckpt", ema | {"train.x": np.ones(1)}, {"config": {"ema": number > 0}})
    tensors, meta = average([tmp_path / f"{number}.ckpt" for number in range(3)])
    assert list(tensors) == ["w"] and tensors["w"].dtype == np.float32
    np.testing.assert_array_equal(tensors["w"], np.mean(np.float64(weights), 0).astype(np.float32))
    assert [one["file"] for one in meta["averaged"]] == ["0.ckpt", "1.ckpt", "2.ckpt"]


@pytest.mark.parametrize("tensors, meta", [({"w": np.zeros(2, np.float32)}, {}), (held(1), {"model": "net_b"})])
def test_an_average_of_different_networks_is_refused(folder, tensors, meta):
    other = save_checkpoint(folder / "other.ckpt", tensors, {"family": "net", "model": "net_s"} | meta)
    with pytest.raises(UserError, match="other.ckpt holds another network"):
        average([folder / "net-1_5.ckpt", other])


def test_a_greedy_soup_takes_what_does_not_make_it_worse(folder):
    """Accuracy here: how near the weights are to 2.4."""
    def evaluate(path):
        return 1 - abs(float(load_checkpoint(path)[0]["w"][0, 0]) - 2.4) / 10

    said = []
    chosen = greedy([folder / f"net-{epoch}_5.ckpt" for epoch in (1, 2, 3, 4)], evaluate, said.append)
    assert [path.name for path in chosen] == ["net-2_5.ckpt", "net-3_5.ckpt"]  # 2.5; with 1 it were 2, with 4 it were 3
    assert [line.rpartition(" ")[2] for line in said[4:]] == ["taken", "out", "out"]


@pytest.mark.parametrize("spec", [GMLP, CONVMLP, SOFT, HLG, MAE.for_task("finetune")], ids=lambda spec: spec.name)
def test_the_accuracy_is_found_in_what_each_model_prints(spec):
    lines = spec.log_style.evaluation.format(top1=0.7225, top5=0.9, loss=1.2, seen=10, total_time=3.0, step_time=0.1)
    assert float(ACCURACY.search(lines)[1]) == 0.7225


def test_what_each_holds_is_listed_and_what_differs_named(folder, capsys):
    assert command.main(["list", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7 and lines[2].split()[3:] == ["net_s", "2", "80.00%", "7", "weights,", "optimizer"]
    assert command.main(["diff", str(folder / "net-2_5.ckpt"), str(folder / "net_best.ckpt")]) == 0
    assert command.main(["diff", str(folder / "net-2_5.ckpt"), str(folder / "net-3_5.ckpt")]) == 1
    said = capsys.readouterr().out
    assert "epoch: 2 -> 3" in said and "w: 0.5, at most 1" in said and "2 tensors are equal" in said
    for name, config in (("a", {"lr": 1}), ("b", {"lr": 2}), ("c", {})):
        save_checkpoint(folder / f"{name}.ckpt", held(1), {"config": config} if config else {})
    command.main(["diff", str(folder / "a.ckpt"), str(folder / "b.ckpt")])
    command.main(["diff", str(folder / "c.ckpt"), str(folder / "b.ckpt")])
    assert capsys.readouterr().out.splitlines() == [
        "config lr: 1 -> 2", "3 tensors are equal", f"configuration only in {folder / 'b.ckpt'}", "3 tensors are equal"]
    with pytest.raises(UserError, match="required: command"):
        command.main([])


def test_damaged_and_infinite_checkpoints_are_found(folder, capsys):
    assert command.main(["verify", str(folder)]) == 0
    cut = folder / "net-1_5.ckpt"
    cut.write_bytes(cut.read_bytes()[:-9])
    save_checkpoint(folder / "net-9_5.ckpt", {"w": np.array([1, np.nan])}, {})
    capsys.readouterr()
    assert command.main(["verify", str(folder)]) == 1
    wrong = [line for line in capsys.readouterr().out.splitlines() if line.startswith("WRONG")]
    assert len(wrong) == 2 and "net-1_5.ckpt" in wrong[0] and "not finite: w" in wrong[1]
    assert command.main(["list", str(folder)]) == 1
    listed = capsys.readouterr().out.splitlines()
    assert listed[-1] == wrong[0] and len(listed) == 8 and not any("net-1_5.ckpt" in line for line in listed[:-1])


def test_a_run_is_averaged_by_its_evaluation_and_the_result_evaluated(tmp_path):
    config = write_yaml(tmp_path / "a.yaml", epochs=3, depth=1, image_size=8, batch_size=256, keep_checkpoint_max=3,
                        mode="pynative")
    result = run("gmlp/train.py", "--config_path", config, "--ckpt_save_dir", tmp_path / "run")
    assert result.returncode == 0, result.stderr[-2000:]
    out = tmp_path / "soup.ckpt"
    made = run("-m", "common.checkpoint", "average", tmp_path / "run", "--best", "2", "--greedy", "--out", out,
               "--batch_size", "360")
    assert made.returncode == 0, made.stderr[-2000:]
    assert f"is the average of {len(load_checkpoint(out)[1]['averaged'])}: gmlp_dim16_depth1-" in made.stdout
    assert set(load_checkpoint(out)[0]) == set(network_tensors(load_checkpoint(next(
        (tmp_path / "run").glob("*_best.ckpt")))[0]))
    evaluated = run("gmlp/eval.py", "--ckpt_path", out)
    assert evaluated.returncode == 0, evaluated.stderr[-2000:]
    wrong = run("-m", "common.checkpoint", "average", tmp_path / "run", "--greedy", "--out", out, "--batch_sice", "360")
    assert "batch_sice" in sentence(wrong)
