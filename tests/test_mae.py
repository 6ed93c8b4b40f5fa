"""MAE and its ViT: the authors' numbers, sizes, initial values, the faults of the old zoo's version, bad arguments."""
import math

import numpy as np
import pytest
from golden import Golden, Module, check_classifier, load_strictly
from golden_rule import fill, noise

from common.errors import UserError
from mae.src.spec import SPEC

SMALL = {"image_size": 32, "patch_size": 4, "embed_dim": 64, "depth": 2, "num_heads": 4}
SMALL_DECODER = {"decoder_embed_dim": 32, "decoder_depth": 1, "decoder_num_heads": 4}
FIXED = ("pos_embed", "decoder_pos_embed")


def tiny_mae(**arguments):
    """The network of the golden numbers mae_vit_tiny."""
    return SPEC.build("mae_vit_base_patch16", **(SMALL | SMALL_DECODER | arguments))


def tiny_vit(**arguments):
    """The network of the golden numbers vit_tiny_*."""
    return SPEC.build("vit_base_patch16", **({"num_classes": 10} | SMALL | arguments))


def parameters(network) -> dict[str, np.ndarray]:
    return {p.name: p.asnumpy() for p in network.get_parameters() if not p.name.endswith("random_state")}


# the authors' numbers: ViT

@pytest.mark.parametrize("pooling", ["cls", "gap"])
def test_tiny_vit_reproduces_the_golden_numbers(mode, pooling):
    check_classifier(Golden(f"vit_tiny_{pooling}"), tiny_vit(global_pool=pooling == "gap"), SPEC.convert, SPEC.restore)


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["cls", "gap"])
def test_base_vit_reproduces_the_golden_numbers(mode, pooling):
    network = SPEC.build("vit_base_patch16", global_pool=pooling == "gap")
    check_classifier(Golden(f"vit_base_patch16_{pooling}"), network, SPEC.convert, SPEC.restore)


def test_block_reproduces_the_golden_numbers_at_both_scales(mode):
    from mae.src.vit import Block

    Module("vit_block").check(Block(16, 4), SPEC.convert)


# the authors' numbers: masked autoencoder

class Reconstruction:
    """What a masked autoencoder computed, with gradients under the authors' names."""

    def __init__(self, network, images, noise_values, normalised: bool):
        import mindspore as ms
        from mindspore import Tensor

        network.norm_pix_loss = normalised
        weights = network.trainable_params()
        step = ms.value_and_grad(network, None, ms.ParameterTuple(weights), has_aux=True)
        (loss, pred, mask), gradients = step(Tensor(images), Tensor(noise_values))
        self.loss, self.pred, self.mask = float(loss.asnumpy()), pred.asnumpy(), mask.asnumpy()
        self.gradients = SPEC.restore({p.name: g.asnumpy() for p, g in zip(weights, gradients)})


def check_autoencoder(golden: Golden, network) -> dict[str, float]:
    """Fill a masked autoencoder and hold it to the stored results; returns the largest differences."""
    from mindspore import Tensor

    from mae.src.mae_vit import shuffled

    own = {name: value for name, value in parameters(network).items() if name in FIXED}
    load_strictly(network, SPEC.convert(golden.tensors()) | own)
    stored, found = golden.arrays, {}
    masking = noise(2, network.noise_length)
    shuffle, place = shuffled(Tensor(masking))
    np.testing.assert_array_equal(place.asnumpy(), stored["ids_restore"])
    latent = network.encode(Tensor(golden.images), shuffle[:, :network.kept]).asnumpy()
    found["latent"] = max(np.abs(latent[:, 0] - stored["latent_cls"]).max(),
                          np.abs(latent.mean(-1) - stored["latent_token_mean"]).max())
    np.testing.assert_allclose(np.linalg.norm(latent, axis=-1), stored["latent_token_l2"], rtol=1e-5)
    for kind in ("raw", "norm"):
        result = Reconstruction(network, golden.images, masking, kind == "norm")
        np.testing.assert_array_equal(result.mask, stored["mask"])
        assert result.pred.shape == tuple(stored["pred_shape"])
        found["pred"] = np.abs(result.pred[:, :8] - stored["pred_first8"]).max()
        np.testing.assert_allclose(np.linalg.norm(result.pred, axis=-1), stored["pred_patch_l2"], rtol=1e-5)
        np.testing.assert_allclose(result.pred.sum(-1), stored["pred_patch_sum"], atol=2e-5 * result.pred.shape[-1])
        found[f"loss_{kind}"] = abs(result.loss / float(stored[f"loss_{kind}"]) - 1)
        norms = np.array([np.linalg.norm(result.gradients[k].astype(np.float64)) for k in golden.manifest["grad_keys"]])
        expected = stored[f"grad_norms_{kind}"]
        found[f"gradient norms {kind}"] = (np.abs(norms - expected) / (1e-4 * expected + 1e-6)).max()
        for key in golden.manifest["full_grads"]:
            whole = stored[f"grad_{kind}/{key}"]
            found[f"gradient {key} {kind}"] = (np.linalg.norm(result.gradients[key] - whole)
                                               / (1e-4 * np.linalg.norm(whole) + 1e-6))
    assert found["pred"] <= 2e-5 and found["latent"] <= 2e-5, found
    assert found["loss_raw"] <= 1e-5 and found["loss_norm"] <= 1e-5, found
    assert all(share <= 1 for name, share in found.items() if name.startswith("gradient")), found
    return found


def test_tiny_autoencoder_reproduces_the_golden_numbers(mode):
    check_autoencoder(Golden("mae_vit_tiny"), tiny_mae())


@pytest.mark.slow
def test_base_autoencoder_reproduces_the_golden_numbers(mode):
    check_autoencoder(Golden("mae_vit_base_patch16"), SPEC.build("mae_vit_base_patch16"))
