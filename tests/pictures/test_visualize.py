"""visualize.py of every model: known weights have known pictures, and a picture has a row for each image."""
import importlib

import mindspore as ms
import numpy as np
import pytest
from entry import TINY
from mindspore import nn
from PIL import Image

from common.checkpoint.file import save_checkpoint
from common.checkpoint.weights import weights_of
from common.config.load import from_mapping
from common.main import main
from common.network import build_network
from common.pictures.heat_map import HEAT, SIGNED, lay_over, signed_map
from common.pictures.inside import grad_cam, operation_by_operation
from common.tasks.visualize import CELL
from gmlp.src.filter_picture import PLACES, filter_rows
from gmlp.src.spec import SPEC as GMLP
from mae.src.attention_picture import attention_of, attention_weights, roll_out
from mae.src.spec import SPEC as MAE

COMMON = {"num_classes": 10, "in_channels": 3, "device_target": "CPU"}
VIT = COMMON | {"image_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
# Of each model: a small network, flags, how many pictures a row has, and whether a row is an image.
SMALL = {
    "gmlp": (TINY, [], len(PLACES), False),
    "convmlp": (COMMON | {"model": "convmlp_s", "image_size": 32, "channels": 8, "n_conv_blocks": 1,
                          "dims": [8, 16, 16], "depths": [1, 1, 1]}, [], 3, True),
    "soft": (COMMON | {"model": "soft_tiny", "image_size": 64, "dims": [16, 32, 64, 64], "num_heads": [1, 2, 4, 4],
                       "depths": [1, 1, 1, 1]}, ["--positions", "0.5,0.5"], 4, True),
    "hlg": (COMMON | {"model": "hlg_mobile", "image_size": 56, "dims": [16, 16, 16], "num_heads": [1, 2, 2],
                      "depths": [1, 1, 1], "mlp_ratio": [2, 2, 2]}, [], 3, True),
    "mae": (VIT | {"model": "vit_base_patch16"}, [], 4, True),
    "mae reconstruction": (VIT | {"model": "mae_vit_base_patch16", "decoder_embed_dim": 16, "decoder_depth": 1,
                                  "decoder_num_heads": 2}, [], 4, True)}


def visualize(name, folder, *flags):
    """Save a network with weights of chance and two images in a folder, and draw them; returns the picture."""
    family, (settings, more, _, _) = name.split()[0], SMALL[name]
    spec = importlib.import_module(f"{family}.src.spec").SPEC
    config = from_mapping(settings, "test", spec=spec)
    meta = {"family": family, "model": spec.variant(config.model), "config": settings}
    ms.set_seed(1)  # the same weights in every call
    save_checkpoint(folder / "tiny.ckpt", weights_of(build_network(config, spec)), meta)
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    main("visualize", spec, ["--ckpt_path", str(folder / "tiny.ckpt"), "--image", str(folder / "[0-9].png"), "--out",
                             str(folder / "new" / "out.png"), *more, *flags])
    return folder / "new" / "out.png"


@pytest.mark.parametrize("name", SMALL)
def test_a_row_for_each_image(name, tmp_path):
    _, _, columns, of_images = SMALL[name]
    with Image.open(visualize(name, tmp_path)) as picture:
        assert picture.width == columns * (CELL + 14) + 14
        assert picture.height > 2 * CELL
        assert picture.height < 3 * CELL or not of_images


def test_many_images_go_to_several_pictures_and_keep_their_masks(tmp_path, monkeypatch):
    whole = Image.open(visualize("mae reconstruction", tmp_path)).convert("RGB")
    monkeypatch.setattr("common.tasks.visualize.PAGE", 1)
    first = Image.open(visualize("mae reconstruction", tmp_path)).convert("RGB")
    second = Image.open(tmp_path / "new" / "out_2.png").convert("RGB")
    assert first.height < 0.6 * whole.height and first.size == second.size
    for page, row in ((first, 0), (second, 1)):
        top = 14 + row * (first.height - 14)
        seen = whole.crop((14, top, whole.width - 14, top + CELL))
        assert np.array_equal(seen, page.crop((14, 14, page.width - 14, 14 + CELL)))


def test_a_masked_autoencoder_shows_its_attention_and_a_classifier_reconstructs_nothing(tmp_path, capsys):
    usual = visualize("mae reconstruction", tmp_path).read_bytes()
    assert visualize("mae reconstruction", tmp_path, "--view", "attention").read_bytes() != usual
    with pytest.raises(SystemExit, match="2"):
        visualize("mae", tmp_path, "--view", "reconstruction")
    assert "view: a reconstruction needs the decoder" in capsys.readouterr().err


def test_an_image_is_asked_for(capsys):
    with pytest.raises(SystemExit, match="2"):
        main("visualize", MAE, ["--model", "vit_base_patch16"])
    assert capsys.readouterr().err == "error: image: name the images to look at (--image FILE, FOLDER or 'PATTERN').\n"


# Grad-CAM

def test_hooks_leave_the_mode_as_it_was(mode):
    before = ms.get_context("mode")
    with pytest.raises(ZeroDivisionError), operation_by_operation():
        assert ms.get_context("mode") == ms.PYNATIVE_MODE
        1 / 0
    assert ms.get_context("mode") == before


class Linear(nn.Cell):
    """Logits that are a linear function of the mean of a cell's maps."""

    def __init__(self, weights, tokens):
        super().__init__()
        self.maps, self.tokens = nn.Identity(), tokens
        self.weights = ms.Tensor(weights)

    def construct(self, x):
        x = x.transpose(0, 2, 3, 1)
        x = self.maps(x.reshape(x.shape[0], -1, x.shape[3]) if self.tokens else x)
        return x.mean(1 if self.tokens else (1, 2)) @ self.weights


@pytest.mark.parametrize("tokens", [False, True])
def test_grad_cam_of_a_linear_head_is_the_weighted_sum_of_the_maps(tokens):
    """Every place has the gradient weight / places, so that the map is relu(sum of weight * map) / places."""
    rng = np.random.default_rng(0)
    images, weights = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 3, 4, 4), (3, 5)))
    network = Linear(weights, tokens)
    found = grad_cam(network, [network.maps], images, [4, 1])
    expected = np.maximum(np.einsum("bchw,cb->bhw", images, weights[:, [4, 1]]), 0) / 16
    assert found.shape == (2, 4, 4) and np.allclose(found, expected, atol=1e-6)
    assert (found == 0).any() and (found > 0).any()


def test_grad_cam_takes_the_last_map_that_says_where():
    class Pyramid(nn.Cell):
        def __init__(self):
            super().__init__()
            self.cells_of_maps = nn.CellList([nn.Identity() for _ in range(3)])

        def construct(self, x):
            x = x.transpose(0, 2, 3, 1)
            for cell in self.cells_of_maps:  # maps of 8, 4 and 2
                _, height, width, channels = x.shape
                x = cell(x).reshape(-1, height // 2, 2, width // 2, 2, channels).mean((2, 4))
            return x.mean((1, 2))

    network, images = Pyramid(), np.ones((1, 3, 8, 8), np.float32)
    cells = list(network.cells_of_maps)
    assert grad_cam(network, cells, images, [0]).shape == (1, 4, 4)
    assert grad_cam(network, cells[2:], images, [0]).shape == (1, 2, 2)


# attention

def test_attention_of_a_vit_is_that_of_its_own_cell():
    """With the values 1 and the projection as the identity, an attention returns the sum of its weights, 1; with one
    token's value 1 it returns that token's weights."""
    network = MAE.build("vit_base_patch16", **{key: value for key, value in VIT.items() if key != "device_target"})
    images = np.random.default_rng(0).standard_normal((2, 3, 16, 16)).astype(np.float32)
    weights = attention_weights(network.set_train(False), images)
    assert weights.shape == (2, 2, 17, 17) and np.allclose(weights.sum(-1), 1, atol=1e-6)
    attention = network.blocks[0].attn
    tokens = np.random.default_rng(1).standard_normal((1, 17, 16)).astype(np.float32)
    query = attention.qkv.weight.asnumpy()[:16].reshape(2, 8, 16) @ tokens[0].T
    key = attention.qkv.weight.asnumpy()[16:32].reshape(2, 8, 16) @ tokens[0].T
    scores = np.exp(query.swapaxes(1, 2) @ key / 8 ** 0.5)
    expected = (scores / scores.sum(-1, keepdims=True)).mean(0)
    assert np.allclose(attention_of(attention, ms.Tensor(tokens))[0], expected, atol=1e-5)


def test_roll_out_multiplies_the_blocks_with_half_of_the_identity():
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(5), (3, 2, 5))
    steps = [(block + np.eye(5)) / 2 for block in weights]
    assert np.allclose(roll_out(weights), steps[2] @ steps[1] @ steps[0])
    assert np.allclose(roll_out(weights).sum(-1), 1)
    assert np.allclose(roll_out(np.tile(np.eye(5), (4, 1, 1, 1))), np.eye(5))  # who looks at itself alone stays itself


# filters

def test_a_filter_is_a_row_of_the_spatial_projection():
    network = GMLP.build("gmlp_ti", num_classes=10, image_size=24, patch_size=4, embed_dim=8, depth=1, mlp_ratio=2)
    weight = np.zeros((36, 36), np.float32)
    token = round(PLACES[1][0] * 5) * 6 + round(PLACES[1][1] * 5)
    weight[token, 6 * 4 + 5], weight[token, 6 * 5] = 2.0, -1.0
    network.blocks[0].gate.proj.weight.set_data(ms.Tensor(weight))
    (row,) = filter_rows(network)
    pixels = np.asarray(row[1][0])
    colours = {place: tuple(pixels[round((place[0] + 0.5) * 224 / 6), round((place[1] + 0.5) * 224 / 6)])
               for place in ((4, 5), (5, 0), (3, 3))}
    assert colours == {(4, 5): tuple(SIGNED[4]), (5, 0): tuple(SIGNED[1]), (3, 3): (255, 255, 255)}
    assert row[1][1] == "block 1, token 2, 3"


# colours

def test_a_map_is_brightest_where_it_is_largest():
    picture = lay_over(Image.new("RGB", (50, 50), "black"), np.array([[0, 0, 0], [0, 0, 5], [0, 0, 0]]))
    light = np.asarray(picture.convert("L")).astype(int)
    assert np.unravel_index(light.argmax(), light.shape)[1] > 150
    assert abs(np.asarray(picture)[112, 220] - 0.8 * HEAT[4]).max() < 6 and light[:, :20].max() < 30
    even = lay_over(Image.new("RGB", (50, 50), "white"), np.ones((3, 3)))
    assert len(even.getcolors()) == 1  # nothing stands out where all is alike


def test_signs_are_told_apart_and_the_proportions_kept():
    picture = signed_map(np.array([[-2.0, 0.0, 2.0]]))
    assert picture.size == (224, 75)
    assert [picture.getpixel((x, 30)) for x in (20, 112, 200)] == [tuple(map(int, SIGNED[i])) for i in (0, 2, 4)]
