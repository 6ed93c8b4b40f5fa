"""scripts/benchmark.py as a user calls it: small real measurements, and sentences for mistakes."""
import importlib.util
import json
import multiprocessing
import os
import re
import time

import numpy as np
import pytest
from entry import ROOT, run, sentence
from golden import Golden
from golden_rule import noise
from PIL import Image

from common.augment.pipeline import statistics, train_transform
from common.config.load import from_mapping
from common.errors import UserError
from scripts import benchmark_attention
from scripts.benchmark import check_comparison, numbers, ratios
from scripts.growth import main as tables
from scripts.measure import Measurement, cpu_time, machine
from scripts.pipelines import check_against, plain_image, settle

SCRIPT = ROOT / "scripts" / "benchmark.py"
GROWTH = ROOT / "scripts" / "growth.py"
TINY = ("--model", "gmlp_Ti", "--image_size", "16", "--patch_size", "8", "--embed_dim", "8", "--depth", "1",
        "--batch_size", "2", "--device_target", "CPU")
HAS_TORCH = all(importlib.util.find_spec(name) for name in ("torch", "timm"))


def allocate(megabytes: int):
    """Something to measure: a step that sleeps, in a process that holds so much memory."""
    held = np.ones(megabytes << 17)
    return {"held": held.nbytes}, lambda: time.sleep(0.02)


def fail(how: str):
    if how == "sentence":
        raise UserError("key: 3 is not allowed.")
    os._exit(7)


def test_network_is_measured_in_training_and_inference(tmp_path):
    result = run(SCRIPT, *TINY, "--steps", "2", "--pynative", "--floor", "--json", tmp_path / "numbers.json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    written = json.loads((tmp_path / "numbers.json").read_text())
    train, its_products, infer, products = written["results"]
    # the patches, two of a block and the head, and the one over positions
    assert its_products["products"] == products["products"] == 5 and set(written["ratios"]["infer"]) == {
        "of_it_products"}
    assert (train["mode"], infer["mode"]) == ("train", "infer")
    assert train["parameters"] == infer["parameters"] > 8 * 8 * 3 * 8
    assert len(train["steps_s"]) == 2
    assert train["images_per_s"] == pytest.approx(2 / train["step_s"])
    assert train["peak_bytes"] > 100e6  # MindSpore alone is more
    lines = result.stdout.splitlines()
    assert f"{train['parameters']:,} parameters" in lines[0] and "MindSpore" in lines[0]
    assert lines[1].startswith("train  MindSpore") and f"first step {train['first_step_s']:.1f} s" in lines[1]
    assert lines[3].startswith("infer  MindSpore") and "peak memory" in lines[3]
    assert lines[5].startswith("train  MindSpore: of it products") and "cores, load" in lines[7]


def test_pipeline_is_measured_beside_a_plain_loop(tmp_path):
    result = run(SCRIPT, "--model", "gmlp_ti", "--mode", "data", "--config_path", "config/gmlp_digits.yaml",
                 "--dataset", "digits", "--steps", "2", "--rounds", "1", "--json", tmp_path / "numbers.json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    written = json.loads((tmp_path / "numbers.json").read_text())
    pipeline, plain = written["results"]
    assert pipeline["images"] == plain["images"] and len(pipeline["rates"]) == 1
    assert written["ratios"]["plain PIL loop"]["speed"] == pytest.approx(pipeline["rates"][0] / plain["rates"][0])
    assert "pipeline / plain PIL loop: speed" in result.stdout


@pytest.mark.parametrize("changes", [{}, {"in_channels": 1}, {
    "auto_augment": "randaug-m9-mstd0.5-inc1", "re_prob": 1.0, "vflip": 0.5, "interpolation": "random"},
    {"color_jitter": 0.4}])
def test_plain_loop_does_the_work_of_the_pipeline(changes):
    config = from_mapping({"model": "gmlp_ti", "image_size": 24} | changes, "test")
    transform = train_transform(config)
    mean, std = (np.array(values, np.float32) for values in statistics(config))
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    for seed in range(8):
        plain = plain_image(Image.fromarray(pixels), transform, mean, std, np.random.default_rng(seed))
        ours = transform(Image.fromarray(pixels), np.random.default_rng(seed))
        np.testing.assert_allclose(plain, ours, atol=1e-5)


def test_peak_memory_is_that_of_the_process_alone():
    with Measurement("small", allocate, 1) as small, Measurement("large", allocate, 200) as large:
        assert large.facts == {"held": 200 << 20}
        for side in (small, large):
            assert side.step() >= 0.02
            side.finish()
    assert 180 << 20 < large.peak - small.peak < 220 << 20
    (wall, cpu), = small.seconds
    assert cpu < wall / 2  # waiting costs time but no processor


def test_cpu_time_counts_worker_processes_and_settling_waits_for_them():
    before = cpu_time()
    worker = multiprocessing.get_context("fork").Process(target=work, args=(0.5,))
    worker.start()
    settle()
    assert cpu_time() - before >= 0.45
    worker.terminate()
    worker.join()


def work(seconds: float):
    """Work so long, then wait."""
    while time.process_time() < seconds:
        pass
    time.sleep(60)


def test_pipeline_is_measured_beside_the_framework_s_own(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    for number in range(8):
        file = tmp_path / "data" / "train" / "ab"[number % 2] / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    result = run(SCRIPT, "--model", "gmlp_ti", "--mode", "data", "--data_dir", tmp_path / "data", "--num_classes", "2",
                 "--image_size", "16", "--batch_size", "4", "--auto_augment", "randaug-m9", "--against", "native",
                 "--steps", "2", "--rounds", "1", "--json", tmp_path / "numbers.json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    written = json.loads((tmp_path / "numbers.json").read_text())
    ours, theirs = written["results"]
    assert (ours["name"], theirs["name"], ours["images"], theirs["images"]) == ("pipeline", "native", 8, 8)
    assert written["ratios"]["native"]["speed_per_cpu_time"] == pytest.approx(
        ours["cpu_rates"][0] / theirs["cpu_rates"][0])
    assert "pipeline / native: speed per cpu time" in result.stdout


@pytest.mark.skipif(HAS_TORCH, reason="timm is installed")
def test_a_loader_that_is_not_installed_is_named():
    with pytest.raises(UserError, match="against: timm needs .*timm"):
        check_against(["timm"], from_mapping({"model": "gmlp_ti", "dataset": "folder"}, "test"))


def test_mistake_inside_the_process_is_told_outside():
    with pytest.raises(UserError, match="^key: 3 is not allowed.$"):
        Measurement("x", fail, "sentence")


def test_process_that_dies_is_named_with_its_code():
    with pytest.raises(UserError, match="the measurement of x ended early with code 7"):
        Measurement("x", fail, "exit")


def test_first_two_steps_do_not_count():
    side = Measurement.__new__(Measurement)
    side.name, side.facts, side.peak = "x", {}, 5
    side.seconds = [(90.0, 80.0), (9.0, 8.0), (2.0, 1.0), (4.0, 1.5), (3.0, 2.0)]
    result = numbers(side, "train", 12)
    assert (result["first_step_s"], result["step_s"], result["fastest_s"], result["cpu_s"]) == (90.0, 3.0, 2.0, 1.5)
    assert result["images_per_s"] == 4.0


def test_ratio_is_that_of_neighbouring_steps():
    common = {"mode": "train", "cpu_s": 1.0}
    ours = common | {"name": "MindSpore", "steps_s": [2.0, 20.0, 4.0], "peak_bytes": 300}
    theirs = common | {"name": "PyTorch", "steps_s": [1.0, 10.0, 1.0], "peak_bytes": 100}
    assert ratios([ours, theirs]) == {"train": {"time": 2.0, "cpu_time": 1.0, "memory": 3.0}}
    assert ratios([ours]) == {}


def test_machine_says_how_busy_it_is():
    found = machine()
    assert found["processor"] and found["cores"] >= 1 and found["load"] >= 0


@pytest.mark.parametrize("arguments, message", [
    (("--model", "gmlp_tiny"), "'gmlp_tiny' is not a variant of any model here"),
    (("--mode", "train"), "arguments are required: --model"),
    (("--model", "gmlp_ti", "--mode", "fast"), "invalid choice: 'fast'"),
    (("--model", "gmlp_ti", "--steps", "0"), "steps: 0 is not a positive number"),
    (("--model", "gmlp_ti", "--dept", "2"), "'dept' (command line) is not an option; --help shows all. Did you mean"),
    (("--model", "gmlp_ti", "--depth"), "'--depth' (command line) is neither an option with a value"),
    (("--model", "gmlp_ti", "--batch_size", "many"), "batch_size"),
    (("--model", "gmlp_ti", "--config_path", "a.yaml"), "read by --mode data alone"),
    (("--model", "gmlp_ti", "--mode", "data", "--data_dir", "nowhere"), "data_dir: 'nowhere'"),
    (("--model", "gmlp_ti", "--mode", "data", "--dataset", "digits", "--against", "torch"), "'torch' is no data pipeline"),
    (("--model", "gmlp_ti", "--mode", "data", "--dataset", "digits", "--against", "native"), "compared on class folders"),
    (("--model", "gmlp_ti", "--mode", "train", "--against", "native"), "'native' is nothing that networks are compared"),
    (("--model", "soft_norm_tiny", "--against", "torch"), "soft_norm_tiny was not written for PyTorch"),
])
def test_mistake_is_one_sentence(arguments, message):
    assert message in sentence(run(SCRIPT, *arguments))


@pytest.mark.long
def test_cost_is_told_as_the_work_grows(tmp_path):
    for number in range(16):
        file = tmp_path / "data" / ("train", "val")[number % 2] / "ab"[number // 8] / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20, 30, 3), number, np.uint8)).save(file)
    network = TINY[2:8] + ("--depth", "1", "--num_classes", "2", "--batch_size", "2", "--graph_kernel", "False")
    result = run(GROWTH, *network, "--batches", "2", "--sizes", "28", "--workers", "1", "--steps", "1", "--data_dir",
                 tmp_path / "data", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    batch, size, workers, evaluation, machine_line = result.stdout.strip().split("\n\n")
    assert [len(table.splitlines()) for table in (batch, size, workers, evaluation)] == [3, 3, 3, 4]
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for table in (batch, size, workers, evaluation)
            for line in table.splitlines()[2:]]
    assert [row[0] for row in rows] == ["2", "28 x 28", "1", "MindSpore", "onnxruntime"]
    assert rows[1][1] == "49" and rows[3][1] == rows[4][1] == "8"
    assert all(float(cell.replace(",", "")) >= 0 for row in rows for cell in row[2:])
    assert "cores, load" in machine_line


@pytest.mark.parametrize("arguments, message", [
    (("--tables", "speed"), "tables: 'speed' is unknown; there are batch, size, workers, evaluation."),
    (("--tables", "workers"), "data_dir: the tables workers and evaluation read images"),
    (("--tables", "size", "--sizes", "230"), "sizes: 230 is no multiple of 28"),
    (("--tables", "batch", "--batches", "1,0"), "batches: '1,0' is no list of positive numbers"),
])
def test_mistake_about_growth_is_one_sentence(arguments, message):
    with pytest.raises(UserError, match=re.escape(message)):
        growth(arguments)


def test_what_cannot_fit_is_not_tried():
    report = growth(("--tables", "size", "--sizes", "28000", "--steps", "1"), measured={"seconds": 1, "mebibytes": 2})
    assert "| 28000 x 28000 | 49,000,000 | 1.000 | 2 | too large |" in report


def growth(arguments, measured=None):
    """The report of the program, where ``measured`` is what a layer of attention costs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark_attention, "measure_alone", lambda *_, **__: measured)
        return tables(arguments)


def test_comparison_is_of_the_published_network():
    config = from_mapping({"model": "gmlp_ti", "depth": 2}, "test")
    with pytest.raises(UserError, match="leave out depth" if HAS_TORCH else "pip install torch timm"):
        check_comparison(config, "torch")


def test_help_names_the_options():
    result = run(SCRIPT, "--help")
    assert result.returncode == 0
    assert all(option in result.stdout for option in ("--model", "--mode", "--against", "--pynative", "--batch_size"))


def test_both_engines_run_in_turn(tmp_path):
    pytest.importorskip("onnxruntime")
    result = run(SCRIPT, *TINY, "--steps", "2", "--mode", "infer", "--against", "onnxruntime", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert re.search(r"infer  MindSpore / onnxruntime: time [\d.]+, cpu time [\d.]+\n", result.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_TORCH, reason="torch and timm are not installed")
def test_torch_runs_the_same_network_in_turn(tmp_path):
    result = run(SCRIPT, "--model", "gmlp_ti", "--batch_size", "1", "--steps", "2", "--mode", "infer", "--against",
                 "torch,onnxruntime", "--threads", "1", "--json", tmp_path / "numbers.json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    ours, theirs, _ = json.loads((tmp_path / "numbers.json").read_text())["results"]
    assert ours["parameters"] == theirs["parameters"] == 5867328
    assert (ours["threads"], theirs["threads"]) == (1, 1)
    assert re.search(r"infer  MindSpore / PyTorch: time .* memory [\d.]+, onnxruntime's time [\d.]+,", result.stdout)


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="torch is not installed")
@pytest.mark.parametrize("name", ["hlg_mobile", "hlg_mobile_avgpool", "hlg_tiny_dwconv", "hlg_tiny_avgpool_paper",
                                  "convmlp_s", "soft_tiny"])
def test_a_network_in_pytorch_reproduces_the_golden_numbers(name):
    """The logits, and the gradient's norm for each tensor, to what HLG's own golden tests allow."""
    import torch

    golden = Golden(name)
    network = importlib.import_module(f"scripts.{name.split('_')[0]}_torch").build(name.removesuffix("_paper"), drop_path_rate=0.0,
                    **({"layout": "paper"} if name.endswith("_paper") else {}))
    tensors = golden.tensors()
    names = {key: zoo_name(key, tensors) for key in network.state_dict() if not key.endswith("num_batches_tracked")}
    network.load_state_dict({key: torch.from_numpy(tensors[name]) for key, name in names.items()}, strict=False)
    assert set(golden.manifest["grad_keys"]) <= set(names.values())
    for phase, suffix in (("eval", ""), ("train", "_train")):
        logits = network.train(phase == "train")(torch.from_numpy(golden.images))
        gradients = torch.autograd.grad(
            torch.nn.functional.cross_entropy(logits, torch.from_numpy(golden.labels)),
            list(network.parameters()), allow_unused=True)
        np.testing.assert_allclose(logits.detach().numpy(), golden.arrays[f"logits{suffix}"], atol=2e-4)
        norms = {names[key]: float(gradient.double().norm())
                 for (key, _), gradient in zip(network.named_parameters(), gradients) if gradient is not None}
        zero = golden.manifest.get(f"zero_grad_keys_{phase}", ())
        for key, norm in zip(golden.manifest["grad_keys"], golden.arrays[f"grad_norms_{phase}"]):
            loose = ".pos_" in key  # norms of two numbers, see tests/hlg/test_hlg.py
            assert key in zero or norms[key] == pytest.approx(norm, rel=1.5e-2 if loose else 5e-3, abs=1e-5), key


@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="torch is not installed")
@pytest.mark.parametrize("loss", ["raw", "norm"])
def test_the_masked_autoencoder_in_pytorch_reproduces_the_golden_numbers(loss):
    import torch

    from scripts.mae_torch import build

    golden = Golden("mae_vit_base_patch16")
    network = build(golden.manifest["variant"], norm_pix_loss=loss == "norm")
    network.load_state_dict({key: torch.from_numpy(value) for key, value in golden.tensors().items()})
    found = network(torch.from_numpy(golden.images), torch.from_numpy(noise(golden.manifest["batch"], 196)))
    assert float(found) == pytest.approx(float(golden.arrays[f"loss_{loss}"]), rel=1e-5)
    found.backward()
    norms = {name: float(p.grad.double().norm()) for name, p in network.named_parameters()}
    for key, norm in zip(golden.manifest["grad_keys"], golden.arrays[f"grad_norms_{loss}"]):
        assert norms[key] == pytest.approx(norm, rel=1e-4), key


def zoo_name(key: str, tensors) -> str:
    """The name of one of PyTorch's tensors in the golden numbers, those of hlg_mobile by MindSpore's names."""
    module, _, kind = key.rpartition(".")
    zoo = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    other = f"{module}.{zoo.get(kind, kind)}"
    return key if key in tensors else other
