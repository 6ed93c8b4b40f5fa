"""SOFT as a user meets it: training on the digits, log lines, conversion, pictures, every kind of mistake."""
import json
import re

import numpy as np
import pytest
from entry import ROOT, check_help, check_old_zoo_lines, run, sentence
from PIL import Image

from common.checkpoint.foreign import read_tensors, write_safetensors
from common.config.load import from_file
from soft.src.spec import SPEC

SIZES = {"dims": (8, 16, 16, 16), "num_heads": (1, 2, 2, 2), "depths": (1, 1, 1, 1)}
FLAGS = [word for key, value in SIZES.items() for word in (f"--{key}", ",".join(map(str, value)))]
OP_BY_OP = ("--mode", "pynative")  # to compile a network takes longer than its few steps
SHORT = ("--image_size", "32", "--epochs", "1", "--warmup_epochs", "0", "--batch_size", "240", "--num_workers", "1",
         *FLAGS)


def test_help_works_from_everywhere():
    check_help("soft", "train", "eval", "export", "infer", "pth2ckpt", "visualize")


@pytest.mark.parametrize("name", ["SOFT_config.yml", "SOFT_tiny_cloud_graph_ascend_O3.yml", "SOFT_eval.yml",
                                  "SOFT_export.yml", "SOFT_small.yml", "SOFT_medium.yml", "SOFT_large.yml",
                                  "SOFT_huge.yml", "SOFT_digits.yml"])
def test_shipped_file_names_a_variant_and_begins_with_what_it_is_for(name):
    path = ROOT / "soft/config" / name
    assert SPEC.variant(from_file(path, SPEC).model)
    header = path.read_text().split("\n\n")[0]
    assert "Command, in soft/" in header or "Start file soft/train.py" in header
    assert "Hardware:" in header


def test_original_file_gives_the_configuration_that_is_shipped():
    shipped = from_file(ROOT / "soft/config/SOFT_tiny_cloud_graph_ascend_O3.yml", SPEC)
    assert from_file(ROOT / "tests/data/seed_SOFT_tiny.yml", SPEC) == shipped


@pytest.mark.long
def test_a_small_soft_learns_the_digits(tmp_path):
    result = run("soft/train.py", "--config_path", "config/SOFT_digits.yml", "--ckpt_save_dir", tmp_path / "run",
                 timeout=1800)
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert max(row["top1"] for row in rows) >= 0.96
    losses = [row["loss"] for row in rows]
    assert losses[-1] < 0.4 * losses[0] and losses[-1] < 1.02 * min(losses)
    assert sum(later < earlier for earlier, later in zip(losses, losses[1:])) >= len(losses) - 3
    assert (tmp_path / "run" / "curves.png").is_file()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An epoch of a tiny SOFT on the digits."""
    folder = tmp_path_factory.mktemp("soft")
    result = run("soft/train.py", "--config_path", "config/SOFT_digits.yml", *SHORT, "--drop_path_rate", "0.1",
                 *OP_BY_OP, "--ckpt_save_dir", folder / "run", "--prefix", "tiny", timeout=900)
    assert result.returncode == 0, result.stderr
    return folder / "run", result


def test_training_logs_the_seeds_lines_in_their_order(trained):
    check_old_zoo_lines(trained[1], epochs=1)


def test_evaluation_needs_only_a_checkpoint_and_prints_the_seeds_line(trained):
    folder, _ = trained
    result = run("eval.py", "--ckpt_path", folder / "tiny_best.ckpt", *OP_BY_OP, cwd=ROOT / "soft")
    assert result.returncode == 0, result.stderr
    found = re.fullmatch(r"accuracy=(\d\.\d{6}), per step time: \d+\.\d{4}s", result.stdout.strip().splitlines()[-1])
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert float(found[1]) == pytest.approx(max(row["top1"] for row in rows), abs=1e-6)


def test_one_checkpoint_is_evaluated_at_other_image_sizes(trained):
    folder, _ = trained
    result = run("soft/eval.py", "--ckpt_path", folder / "tiny_best.ckpt", "--eval_image_size", "48",
                 *OP_BY_OP)
    assert result.returncode == 0 and "accuracy=" in result.stdout, result.stderr


def test_export_agrees_with_the_network(trained, tmp_path):
    folder, _ = trained
    result = run("soft/export.py", "--ckpt_file", folder / "tiny_best.ckpt", "--file_name", tmp_path / "soft",
                 "--batch_size", "1")
    assert result.returncode == 0 and (tmp_path / "soft.mindir").is_file(), result.stderr


def test_attention_is_drawn_for_the_chosen_places(trained, tmp_path):
    folder, _ = trained
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(tmp_path / "image.png")
    result = run("soft/visualize.py", "--ckpt", folder / "tiny_best.ckpt", "--image", tmp_path / "image.png", "--out",
                 tmp_path / "out" / "attention.png", "--positions", "0.5,0.5;0,1")
    assert result.returncode == 0, result.stderr
    with Image.open(tmp_path / "out" / "attention.png") as picture:
        assert picture.width > 4 * 224 and 2 * 224 < picture.height < 3 * 224  # four columns, two rows


def test_attention_maps_are_rows_of_the_kernel_as_a_whole(trained):
    """Of a small map the whole N x N kernel can be written down: K V K^T, mean over the heads."""
    from soft.src.attention_picture import attention_maps

    network = SPEC.build("soft_tiny", num_classes=10, image_size=64, dims=(16, 32, 64, 64), num_heads=(1, 2, 4, 4),
                         depths=(1, 1, 1, 1))
    image = np.random.default_rng(0).standard_normal((3, 64, 64)).astype(np.float32)
    inputs = []
    network.block2[0].attn.register_forward_pre_hook(lambda cell, args: inputs.append(args))
    maps = attention_maps(network, image, [(0.0, 0.0), (1.0, 1.0), (0.0, 1.0)])
    attention = network.block2[0].attn
    wide, inverse = attention.factors(attention.query(inputs[0][0]) * attention.scale, inputs[0][1])
    wide, inverse = wide.asnumpy()[0], inverse.asnumpy()[0]
    whole = (wide @ inverse @ wide.swapaxes(1, 2)).mean(0)
    assert [m.shape for m in maps] == [(3, 16, 16), (3, 8, 8), (3, 4, 4)]
    for row, token in enumerate((0, 63, 7)):
        assert np.allclose(maps[1][row].ravel(), whole[token], rtol=1e-4, atol=1e-4)


# conversion

def authors_file(path, **changes):
    """Weights under the authors' names, as safetensors."""
    network = SPEC.build("soft_tiny", num_classes=10, image_size=32, **(SIZES | changes))
    write_safetensors(path, SPEC.restore({p.name: p.asnumpy() for p in network.get_parameters()}))
    return path


def test_authors_weights_come_in_with_their_depths_and_go_back_bit_for_bit(tmp_path):
    source = authors_file(tmp_path / "soft.safetensors", depths=(1, 2, 1, 1))
    done = run("soft/pth2ckpt.py", "--ckpt_path", source)
    assert done.returncode == 0 and "depths (1, 2, 1, 1)" in done.stdout, done.stderr
    back = run("soft/pth2ckpt.py", "--ckpt_path", tmp_path / "soft.ckpt", "--out", tmp_path / "back.safetensors")
    assert back.returncode == 0, back.stderr
    first, second = read_tensors(source), read_tensors(tmp_path / "back.safetensors")
    assert set(first) == set(second) and all(np.array_equal(first[name], second[name]) for name in first)


def test_a_checkpoint_without_description_tells_its_depths_by_its_tensors(tmp_path):
    from common.checkpoint.file import save_checkpoint
    from common.checkpoint.weights import weights_of

    network = SPEC.build("soft_tiny", num_classes=10, image_size=32, **(SIZES | {"depths": (2, 1, 1, 1)}))
    path = save_checkpoint(tmp_path / "bare.ckpt", weights_of(network), {})
    found = run("soft/eval.py", "--ckpt_path", path, "--dataset", "digits", "--image_size", "32", "--batch_size", "120",
                "--mode", "pynative")
    assert found.returncode == 0 and "accuracy=" in found.stdout, found.stderr
    message = sentence(run("soft/eval.py", "--config_path", "config/SOFT_digits.yml", *SHORT, "--ckpt_path", path))
    assert "depths [2, 1, 1, 1]" in message and "depths [1, 1, 1, 1]" in message and "--depths 2,1,1,1" in message


# mistakes

@pytest.mark.parametrize("flags, words", [
    (("--image_size", "28"), "28 x 28 gives a map of 7 x 7 tokens in stage 1"),
    (("--num_heads", "3,2,2,2"), "num_heads"),
    (("--depths", "1,2"), "depths"),
    (("--backbone", "soft_tini"), "soft_tiny"),
])
def test_a_mistake_is_one_sentence(tmp_path, flags, words):
    result = run("soft/train.py", "--config_path", "config/SOFT_digits.yml", *SHORT, *flags, "--ckpt_save_dir",
                 tmp_path / "run")
    assert words in sentence(result)


@pytest.mark.parametrize("entry", ["train", "eval"])
def test_a_normalised_checkpoint_in_a_plain_network_is_named(tmp_path, entry):
    from common.checkpoint.file import save_checkpoint
    from common.checkpoint.weights import weights_of

    network = SPEC.build("soft_norm_tiny", num_classes=10, image_size=32, **SIZES)
    path = save_checkpoint(tmp_path / "norm.ckpt", weights_of(network),
                           {"family": "soft", "model": "soft_norm_tiny"})
    message = sentence(run(f"soft/{entry}.py", "--config_path", "config/SOFT_digits.yml", *SHORT, "--ckpt_path", path,
                           "--ckpt_save_dir", tmp_path / "run"))
    assert "soft_norm_tiny" in message and "--model soft_norm_tiny" in message


def test_positions_that_are_none_are_refused(tmp_path):
    message = sentence(run("soft/visualize.py", "--image", "x.png", "--ckpt_path", "", "--positions", "0.5;2"))
    assert "positions: '0.5;2'" in message
