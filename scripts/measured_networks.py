"""The networks that scripts/benchmark.py measures: ours, the same in PyTorch, and ours as onnxruntime runs it.

Each function that returns facts and the function of one step runs in a process of its own.
"""
import importlib
from typing import Any

import numpy as np

from common.config.options import Config
from common.context.device import prepare_environment
from common.spec import find_model
from scripts.floor import mindspore_products, torch_products
from scripts.measure import Step

TIMM = {"gmlp_ti": "gmlp_ti16_224", "gmlp_s": "gmlp_s16_224", "gmlp_b": "gmlp_b16_224"} | {
    f"vit_{size}": f"vit_{size}_224" for size in ("base_patch16", "large_patch16", "huge_patch14")}
OWN_TORCH = ("convmlp", "hlg", "mae", "soft")  # families whose networks are in scripts/FAMILY_torch.py
LR, CLIP = 1e-3, 1.0


def our_network(config: Config, mode: str, steps: int) -> tuple[dict, Step]:
    """A network of this repository, training or predicting."""
    spec = find_model(config.model)
    prepare_environment(spec.uses_convolutions)
    import mindspore as ms

    from common.context.device import start
    from common.network import build_network
    from common.tasks.train import build_step

    runtime = start(config)
    network = build_network(config, spec)
    inputs = [ms.Tensor(array) for array in random_batch(config, getattr(network, "noise_length", 0))]
    if mode == "train":
        step = build_step(config, spec.for_task(config.task), network, np.full(steps, LR, np.float32), runtime)
    else:
        step = network.set_train(False)
        inputs = inputs if config.task == "pretrain" else inputs[:1]

    def run() -> None:
        result = step(*inputs)
        (result[0] if isinstance(result, tuple) else result).asnumpy()  # waits for the device

    return {"framework": f"MindSpore {ms.__version__}", "device": runtime.device,
            "threads": config.num_threads or "its own choice",
            "parameters": sum(p.size for p in network.trainable_params())}, run


def torch_network(config: Config, mode: str, device: str) -> tuple[dict, Step]:
    """The same network in PyTorch."""
    import torch

    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    place = "cuda" if device == "GPU" else "cpu"
    spec = find_model(config.model)
    own_rate = spec.variants[config.model].get("drop_path_rate", 0.0)
    arguments = {"num_classes": config.num_classes,
                 "drop_path_rate": own_rate if config.drop_path_rate is None else config.drop_path_rate}
    framework = f"PyTorch {torch.__version__}"
    if spec.name in OWN_TORCH and config.model not in TIMM:
        family = importlib.import_module(f"scripts.{spec.name}_torch")
        network = family.build(config.model, image_size=config.image_size, in_channels=config.in_channels, **arguments)
    else:
        import timm

        framework += f", timm {timm.__version__}"
        network = timm.create_model(TIMM[config.model], img_size=config.image_size, in_chans=config.in_channels,
                                    **arguments)
    network.to(place)
    inputs = [torch.from_numpy(array).to(place) for array in random_batch(config, getattr(network, "noise_length", 0))]
    optimizer = torch.optim.AdamW(network.parameters(), lr=LR, weight_decay=config.weight_decay)

    def train() -> None:
        optimizer.zero_grad()
        loss = (network(*inputs) if config.task == "pretrain" else
                torch.nn.functional.cross_entropy(network(inputs[0]), inputs[1].long()))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimizer.step()
        loss.item()

    def infer() -> None:
        with torch.inference_mode():
            network(*inputs if config.task == "pretrain" else inputs[:1]).cpu()

    network.train(mode == "train")
    return {"framework": framework, "device": device, "threads": torch.get_num_threads(),
            "parameters": sum(p.numel() for p in network.parameters())}, train if mode == "train" else infer


def our_products(config: Config, mode: str) -> tuple[dict, Step]:
    """The products of a step of our network alone."""
    facts, forward = our_network(config, "infer", 1)
    facts["products"], run = mindspore_products(forward, mode == "train")
    return facts, run


def their_products(config: Config, mode: str, device: str) -> tuple[dict, Step]:
    """Those of a step of PyTorch's network."""
    import torch

    facts, step = torch_network(config, mode, device)
    facts["products"], run = torch_products(step, torch.cuda.synchronize if device == "GPU" else lambda: None)
    return facts, run


def onnx_network(config: Config, mode: str, parameters: int) -> tuple[dict, Step]:
    """Our network as the engine onnxruntime runs it."""
    prepare_environment(find_model(config.model).uses_convolutions)
    from common.context.device import start

    start(config)
    images, network = random_batch(config)[0], onnx_session(config)
    return {"framework": f"onnxruntime {network.version}", "device": "CPU", "threads": network.threads,
            "parameters": parameters}, lambda: network(images)


def onnx_session(config: Config) -> Any:
    """Return our network with random weights as an ``OnnxNetwork``."""
    from common.engine import INPUT, OUTPUT
    from common.export.onnx_file import onnx_model
    from common.export.onnx_network import OnnxNetwork
    from common.network import build_network

    shape = (None, config.in_channels, config.image_size, config.image_size)
    network = build_network(config, find_model(config.model)).set_train(False)
    return OnnxNetwork(onnx_model(network, [(INPUT, shape, "float32")], [OUTPUT]).SerializeToString(),
                       config.num_threads)


def random_batch(config: Config, noise_length: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return images float32 (B, C, H, W), and labels int32 (B,) or the noise float32 (B, L) of a masked autoencoder."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((config.batch_size, config.in_channels, config.image_size, config.image_size))
    if noise_length:
        return images.astype(np.float32), rng.random((config.batch_size, noise_length), np.float32)
    return images.astype(np.float32), rng.integers(0, config.num_classes, config.batch_size).astype(np.int32)
