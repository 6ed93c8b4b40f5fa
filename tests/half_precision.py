"""Hold a network at half precision to the same one in float32: its logits, and the gradients of all weights."""
import mindspore as ms
import numpy as np
from golden import load_strictly
from mindspore import Tensor, nn, ops

from common.layers.precision import apply_precision


class Gradient(nn.Cell):
    """Logits, and the gradient of the sum of their squares with regard to all weights."""

    def __init__(self, network):
        super().__init__(auto_prefix=False)
        self.network = network
        self.gradient = ms.value_and_grad(self.objective, None, network.trainable_params(), has_aux=True)

    def objective(self, images):
        logits = self.network(images)
        return ops.square(logits).sum(), logits

    def construct(self, images):
        return self.gradient(images)


def check_half_precision(exact: nn.Cell, network: nn.Cell, level: str, size: int) -> dict[str, np.ndarray]:
    """Give ``network`` the weights of ``exact`` and a precision, and train both on the same two images.

    Returns:
        The gradients by name.
    """
    load_strictly(network, {p.name: p.asnumpy() for p in exact.get_parameters() if not p.name.endswith("random_state")})
    apply_precision(network, level).set_train()
    images = Tensor(np.random.default_rng(1).standard_normal((2, 3, size, size)).astype(np.float32))
    mode = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    expected = exact.set_train()(images).asnumpy()
    ms.set_context(mode=mode)
    (_, logits), gradients = Gradient(network)(images)
    assert logits.dtype == ms.float32
    assert 0 < np.abs(logits.asnumpy() - expected).max() < 0.02 * np.abs(expected).max() + 5e-3
    found = {weight.name: gradient.asnumpy() for weight, gradient in zip(network.trainable_params(), gradients)}
    for name, gradient in found.items():
        assert gradient.dtype == np.float32 and np.isfinite(gradient).all(), name
    return found
