"""The first hour: 40 photos of one's own, from a folder to onnxruntime, in a few commands, for every model."""
import json

import numpy as np
import onnxruntime
import pytest
from entry import run
from PIL import Image

BRIEF = ("--epochs", "1", "--num_workers", "1")
OP_BY_OP = ("--mode", "pynative")  # to compile a network takes longer than its few steps
# as small as they can be at their size of image
SMALL = {"gmlp": ("--embed_dim", "32", "--depth", "2"), "mae": ("--embed_dim", "48", "--depth", "2"),
         "convmlp": ("--channels", "8", "--dims", "8,16,16"),
         "soft": ("--dims", "16,16,16,32", "--depths", "1,1,1,1", "--num_heads", "1,1,1,1"),
         "hlg": ("--dims", "16,32", "--depths", "1,1", "--num_heads", "1,1", "--mlp_ratio", "2,2")}
MODELS = ["gmlp", "mae", *(pytest.param(name, marks=pytest.mark.long) for name in ("convmlp", "soft", "hlg"))]


def take_photos(folder):
    """40 images in two folders: red things in one, green things in the other."""
    rng = np.random.default_rng(0)
    for name, colour in (("apples", (200, 40, 40)), ("leaves", (40, 160, 60))):
        (folder / name).mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(0, 60, (72, 96, 3))
            top, left = rng.integers(5, 40, 2)
            pixels[top:top + 30, left:left + 30] = colour
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number:02}.png")


@pytest.mark.parametrize("model", MODELS)
def test_own_photos_go_from_a_folder_to_onnxruntime(model, tmp_path):
    photos, folder = tmp_path / "photos", tmp_path / "run"
    take_photos(photos)

    def command(program, *flags):
        result = run(f"{model}/{program}.py", *flags, *OP_BY_OP)
        assert result.returncode == 0, f"{program} {flags}\n{result.stdout[-2000:]}\n{result.stderr[-2000:]}"
        return result.stdout + result.stderr

    said = command("train", "--finetune", "--data_dir", photos, "--ckpt_save_dir", folder, *BRIEF, *SMALL[model])
    assert "8 of its 40 images are for the evaluation" in said
    best = next(folder.glob("*_best.ckpt"))
    said = command("train", "--finetune", "--data_dir", photos, "--ckpt_path", best, "--ckpt_save_dir",
                   tmp_path / "again", *BRIEF, *SMALL[model])
    assert "Starting from the weights of" in said
    assert "8 images" in command("eval", "--ckpt_path", best)
    assert "apples" in command("infer", "--ckpt_path", best, "--image", photos / "apples")
    file = tmp_path / f"{model}.onnx"
    command("export", "--ckpt_path", best, "--file_format", "ONNX", "--batch_size", "1", "--with_preprocess",
            "--softmax", "--file_name", file)
    session = onnxruntime.InferenceSession(file)
    port, described = session.get_inputs()[0], json.loads(next(tmp_path.glob("*.json")).read_text("utf-8"))
    image = Image.open(photos / "leaves" / "00.png").resize(port.shape[2:])
    probabilities, = session.run(None, {port.name: np.asarray(image).transpose(2, 0, 1)[None]})
    assert probabilities.shape == (1, 2) and abs(probabilities.sum() - 1) < 1e-5
    assert described["class_names"] == ["apples", "leaves"]
