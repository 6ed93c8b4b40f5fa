"""Update rules against their papers in float64 and against PyTorch's trajectories; groups, decay rules, schedules."""
import json
from pathlib import Path

import mindspore as ms
import mindspore.dataset as ds
import numpy as np
import pytest
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from common.config.options import Config
from common.errors import UserError
from common.optimizer.build import build_optimizer, describe_groups, parameter_groups
from common.optimizer.rules import LARS, SGD, AdamW, Adan, Lion, NAdam
from common.spec import ModelSpec
from golden_rule import fill, image, labels

GOLDEN = json.loads((Path(__file__).resolve().parent / "data" / "golden" / "schedules.json").read_text())["tiny_mlp"]
SHAPES = {"stem.weight": (4, 3, 2, 2), "stem.bias": (4,), "blocks.0.norm.gamma": (4,), "blocks.0.norm.beta": (4,),
          "blocks.0.fc.weight": (6, 4), "blocks.0.fc.bias": (6,), "pos_embed": (1, 3, 4), "scale": (1,),
          "head.weight": (5, 6), "head.bias": (5,)}
STEPS = 10


def make_parameters(dtype=np.float32) -> list[Parameter]:
    rng = np.random.default_rng(3)
    return [Parameter(Tensor((rng.standard_normal(shape) + 0.1).astype(dtype)), name=name)
            for name, shape in SHAPES.items()]


def make_gradients() -> list[list[np.ndarray]]:
    """Gradients of every step, of very different sizes."""
    rng = np.random.default_rng(4)
    return [[(rng.standard_normal(shape) * 10.0 ** -(i % 5)).astype(np.float32)
             for i, shape in enumerate(SHAPES.values())] for _ in range(STEPS)]


def rates_of_steps() -> np.ndarray:
    return (0.02 * np.linspace(1, 0.1, STEPS)).astype(np.float32)


# The formulas, each for one tensor: a generator that gets gradient, rate, decay and t, and gives the new weight.

def adamw_reference(w, beta1=0.9, beta2=0.999, eps=1e-8):
    m = v = np.zeros_like(w)
    while True:
        g, rate, decay, t = yield w
        w = w * (1 - rate * decay)
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        w = w - rate * (m / (1 - beta1 ** t)) / (np.sqrt(v / (1 - beta2 ** t)) + eps)


def nadam_reference(w, beta1=0.9, beta2=0.999, eps=1e-8):
    m = v = np.zeros_like(w)
    product = 1.0
    while True:
        g, rate, decay, t = yield w
        w = w * (1 - rate * decay)
        mu, mu1 = (beta1 * (1 - 0.5 * 0.96 ** (0.004 * step)) for step in (t, t + 1))
        product = product * mu
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        m_hat = mu1 * m / (1 - product * mu1) + (1 - mu) * g / (1 - product)
        w = w - rate * m_hat / (np.sqrt(v / (1 - beta2 ** t)) + eps)


def adan_reference(w, beta1=0.98, beta2=0.92, beta3=0.99, eps=1e-8):
    m = v = n = np.zeros_like(w)
    before = None
    while True:
        g, rate, decay, t = yield w
        d = np.zeros_like(g) if before is None else g - before
        before = g
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * d
        n = beta3 * n + (1 - beta3) * (g + beta2 * d) ** 2
        m_hat, v_hat, n_hat = m / (1 - beta1 ** t), v / (1 - beta2 ** t), n / (1 - beta3 ** t)
        w = (w - rate / (np.sqrt(n_hat) + eps) * (m_hat + beta2 * v_hat)) / (1 + rate * decay)


def lion_reference(w, beta1=0.9, beta2=0.99):
    m = np.zeros_like(w)
    while True:
        g, rate, decay, _ = yield w
        w = w - rate * (np.sign(beta1 * m + (1 - beta1) * g) + decay * w)
        m = beta2 * m + (1 - beta2) * g


def sgd_reference(w, momentum=0.9, nesterov=False):
    m = np.zeros_like(w)
    while True:
        g, rate, decay, _ = yield w
        g = g + decay * w
        m = momentum * m + g
        w = w - rate * (g + momentum * m if nesterov else m)


def lars_reference(w, momentum=0.9, trust=0.001):
    m = np.zeros_like(w)
    while True:
        g, rate, decay, _ = yield w
        if w.ndim > 1:
            g = g + decay * w
            norms = np.linalg.norm(w), np.linalg.norm(g)
            g = g * (trust * norms[0] / norms[1] if min(norms) > 0 else 1)
        m = momentum * m + g
        w = w - rate * m


RULES = {"adamw": (AdamW, {}, adamw_reference), "adamw eps": (AdamW, {"beta2": 0.95, "eps": 1e-3}, adamw_reference),
         "nadam": (NAdam, {"beta1": 0.8}, nadam_reference), "adan": (Adan, {}, adan_reference),
         "lion": (Lion, {}, lion_reference), "sgd": (SGD, {"momentum": 0.0}, sgd_reference),
         "momentum": (SGD, {}, sgd_reference), "nesterov": (SGD, {"nesterov": True}, sgd_reference),
         "lars": (LARS, {"momentum": 0.8, "trust": 0.1}, lars_reference)}


def expected(reference, options, weights, gradients, rates, decays) -> list[np.ndarray]:
    """Run the formula in float64; ``rates`` per step and tensor, ``decays`` per tensor."""
    final = []
    for i, w in enumerate(weights):
        formula = reference(w.astype(np.float64), **options)
        next(formula)
        for t, g in enumerate(gradients, start=1):
            w = formula.send((g[i].astype(np.float64), float(rates[t - 1][i]), decays[i], t))
        final.append(w)
    return final


def apply(optimizer, gradients) -> None:
    for step in gradients:
        optimizer(tuple(Tensor(g) for g in step))


@pytest.mark.parametrize("name", list(RULES))
def test_ten_updates_equal_the_formula_in_float64(name, mode):
    rule, options, reference = RULES[name]
    parameters, gradients, rates = make_parameters(), make_gradients(), rates_of_steps()
    initial = [p.asnumpy().copy() for p in parameters]
    scales = [0.5 if p.name.startswith("stem") else 1.0 for p in parameters]
    decays = [0.1 if p.ndim > 1 else 0.0 for p in parameters]
    groups = parameter_groups(parameters, 0.1, lambda p: p.ndim == 1, lambda p: 0.5 if "stem" in p.name else 1.0)
    apply(rule(groups, rates, **options), gradients)
    final = expected(reference, options, initial, gradients, np.outer(rates, scales), decays)
    for parameter, value in zip(parameters, final):
        np.testing.assert_allclose(parameter.asnumpy(), value, atol=1e-6, err_msg=parameter.name)


class TinyMlp(nn.Cell):
    """The network of the stored trajectories, with the mean cross entropy of its batch."""

    def __init__(self, factor: float):
        super().__init__()
        shapes = {"fc1.weight": (32, 16), "fc1.bias": (32,), "fc2.weight": (10, 32), "fc2.bias": (10,)}
        for name, shape in shapes.items():
            setattr(self, name.replace(".", "_"), Parameter(Tensor(fill(name, shape)), name=name))
        self.x = Tensor(image(8, 4, channels=1, seed=5).reshape(8, 16))
        self.y = Tensor(np.eye(10, dtype=np.float32)[labels(8, 10, seed=5)])
        self.factor = factor

    def construct(self):
        hidden = ops.matmul(self.x, self.fc1_weight.T) + self.fc1_bias
        hidden = 0.5 * hidden * (1.0 + ops.erf(hidden * 0.7071067811865476))
        logits = ops.matmul(hidden, self.fc2_weight.T) + self.fc2_bias
        return (ops.logsumexp(logits, 1) - (logits * self.y).sum(1)).mean() * self.factor


def trajectory(name: str):
    """Repeat a stored run; return losses, gradient norms, final loss, and the parameters."""
    stored = GOLDEN[name]
    network = TinyMlp(stored["loss_scale"])
    parameters = network.trainable_params()
    # the reference's AdamW is that of MAE's pre-training, without decay of tensors of one axis
    groups = parameter_groups(parameters, stored["weight_decay"], lambda p: name.startswith("adamw") and p.ndim == 1)
    common = {"parameters": groups, "lr": stored["lr"]}
    if name.startswith("adamw"):
        optimizer = AdamW(**common, beta1=stored["betas"][0], beta2=stored["betas"][1], eps=stored["eps"])
    elif name.startswith("lars"):
        optimizer = LARS(**common, momentum=stored["momentum"], trust=stored["trust_coefficient"])
    else:
        optimizer = SGD(**common, momentum=stored["momentum"], nesterov=stored["nesterov"])
    gradient = ms.value_and_grad(network, None, ParameterTuple(parameters))
    losses, norms = [], []
    for _ in range(10):
        loss, gradients = gradient()
        norm = np.sqrt(sum(float((g.asnumpy().astype(np.float64) ** 2).sum()) for g in gradients))
        if stored.get("clip"):
            factor = np.float32(min(1.0, stored["clip"] / (norm + 1e-6)))
            gradients = tuple(Tensor(g.asnumpy() * factor) for g in gradients)
        optimizer(gradients)
        losses.append(float(loss.asnumpy()))
        norms.append(norm)
    return losses, norms, float(gradient()[0].asnumpy()), {p.name: p.asnumpy() for p in parameters}


def check_trajectory(name: str) -> None:
    stored = GOLDEN[name]
    losses, norms, final_loss, parameters = trajectory(name)
    np.testing.assert_allclose(losses, stored["losses"], rtol=1e-5)
    np.testing.assert_allclose(norms, stored["grad_norms_before_clip"], rtol=1e-5)
    assert final_loss == pytest.approx(stored["final_loss"], rel=1e-5)
    np.testing.assert_allclose(parameters["fc2.bias"], stored["final_fc2_bias"], atol=2e-6)
    np.testing.assert_allclose(parameters["fc1.weight"][0], stored["final_fc1_weight_row0"], atol=2e-6)
    for key, norm in stored["final_param_norms"].items():
        assert np.linalg.norm(parameters[key].astype(np.float64)) == pytest.approx(norm, rel=1e-5), key


@pytest.mark.parametrize("name", ["adamw", "adamw_clip1"])
def test_ten_steps_of_adamw_follow_the_trajectory_of_pytorch(name, mode):
    check_trajectory(name)


@pytest.mark.parametrize("name", ["adamw_clip1_loss_x10", "sgd_nesterov", "lars", "lars_wd"])
def test_ten_steps_follow_the_trajectory_of_the_reference(name):
    check_trajectory(name)


class Regression(nn.Cell):
    def __init__(self):
        super().__init__()
        self.fc = nn.Dense(3, 2)
        self.fc.weight.set_data(Tensor(fill("fc.weight", (2, 3))))
        self.fc.bias.set_data(Tensor(fill("fc.bias", (2,))))

    def construct(self, x):
        return self.fc(x)


def test_adamw_with_rates_and_decay_per_group_through_the_frameworks_model(mode):
    rng = np.random.default_rng(8)
    x, y = rng.standard_normal((STEPS, 4, 3)).astype(np.float32), rng.standard_normal((STEPS, 4, 2)).astype(np.float32)
    network = Regression()
    weight, bias = network.trainable_params()
    rates = np.stack([np.linspace(0.05, 0.005, STEPS), np.linspace(0.001, 0.02, STEPS)], 1).astype(np.float32)
    initial = [weight.asnumpy().copy(), bias.asnumpy().copy()]
    optimizer = AdamW([{"params": [weight], "lr": rates[:, 0].tolist(), "weight_decay": 0.3},
                       {"params": [bias], "lr": Tensor(rates[:, 1]), "weight_decay": 0.0},
                       {"order_params": [weight, bias]}], rates[:, 0])
    model = ms.Model(network, nn.MSELoss(), optimizer)
    model.train(1, ds.NumpySlicesDataset((x, y), ["x", "y"], shuffle=False), dataset_sink_mode=False)

    formulas = [adamw_reference(w.astype(np.float64)) for w in initial]
    values = [next(formula) for formula in formulas]
    for t in range(1, STEPS + 1):
        error = x[t - 1].astype(np.float64) @ values[0].T + values[1] - y[t - 1]
        gradients = 2 * error.T @ x[t - 1] / error.size, 2 * error.sum(0) / error.size
        values = [formula.send((g, float(rate), decay, t)) for formula, g, rate, decay
                  in zip(formulas, gradients, rates[t - 1], (0.3, 0.0))]
    np.testing.assert_allclose(weight.asnumpy(), values[0], atol=2e-6)
    np.testing.assert_allclose(bias.asnumpy(), values[1], atol=2e-6)


@pytest.mark.parametrize("name", ["adamw", "nadam", "adan", "lion", "nesterov", "lars"])
def test_state_is_float32_and_named_after_its_parameter_for_a_float16_parameter(name, mode):
    rule, options, reference = RULES[name]
    parameters, gradients = make_parameters(np.float16)[:3], [step[:3] for step in make_gradients()[:3]]
    initial = [p.asnumpy().copy() for p in parameters]
    optimizer = rule(parameters, 0.01, 0.1, **options)
    apply(optimizer, gradients)
    final = expected(reference, options, initial, gradients, np.full((3, 3), 0.01), [0.1] * 3)
    for parameter, value in zip(parameters, final):
        assert parameter.dtype == ms.float16
        np.testing.assert_allclose(parameter.asnumpy(), value, atol=4e-3)
    state = [p for p in optimizer.get_parameters() if p.name.endswith("stem.weight") and p.name != "stem.weight"]
    assert state and all(p.dtype == ms.float32 and np.abs(p.asnumpy()).max() > 0 for p in state)


def test_state_names_are_unique_and_adamw_keeps_the_old_zoos(mode):
    optimizer = AdamW(make_parameters(), 0.1)
    names = [p.name for p in optimizer.get_parameters()]
    assert len(names) == len(set(names))
    assert {f"{moment}.{name}" for moment in ("adam_m", "adam_v") for name in SHAPES} < set(names)


def test_every_update_uses_the_rate_of_the_updates_before_it(mode):
    parameter = Parameter(Tensor(np.zeros(2, np.float32)), name="weight")
    optimizer = SGD([parameter], np.array([1, 10, 100, 1000], np.float32), momentum=0.0)
    gradient = [[np.ones(2, np.float32)]]
    apply(optimizer, gradient * 2)
    np.testing.assert_array_equal(parameter.asnumpy(), [-11, -11])
    optimizer.global_step.set_data(Tensor([3], ms.int32))     # as after resuming
    apply(optimizer, gradient)
    np.testing.assert_array_equal(parameter.asnumpy(), [-1011, -1011])
    assert optimizer.global_step.asnumpy() == [4]


def test_weights_that_were_set_anew_are_the_ones_that_learn(mode):
    """The framework's own optimizers go on updating the old memory here, in PyNative mode."""
    parameter = Parameter(Tensor(np.zeros(2, np.float32)), name="weight")
    optimizer = SGD([parameter], 1.0, momentum=0.0)
    apply(optimizer, [[np.ones(2, np.float32)]])
    parameter.set_data(Tensor(np.full(2, 7.0, np.float32)))
    apply(optimizer, [[np.ones(2, np.float32)]])
    np.testing.assert_array_equal(parameter.asnumpy(), [6, 6])


def test_gradient_centralisation_subtracts_the_mean_per_output_of_any_width(mode):
    parameters, gradients = make_parameters(), make_gradients()[:1]
    initial = [p.asnumpy().copy() for p in parameters]
    apply(SGD(parameters, 1.0, momentum=0.0, centralise=True), gradients)
    for parameter, before, g in zip(parameters, initial, gradients[0]):
        if g.ndim > 1:
            g = g - g.mean(tuple(range(1, g.ndim)), keepdims=True)
        np.testing.assert_allclose(parameter.asnumpy(), before - g, atol=1e-6)


def test_two_optimizers_of_one_rule_keep_their_own_settings(mode):
    first, second = (Parameter(Tensor(np.ones(2, np.float32)), name=name) for name in ("first", "second"))
    gradient = [[np.ones(2, np.float32)]]
    slow, fast = SGD([first], 0.25, momentum=0.0), SGD([second], 0.5, momentum=0.5)
    for optimizer in (slow, fast, slow, fast):
        apply(optimizer, gradient)
    np.testing.assert_array_equal(first.asnumpy(), [0.5, 0.5])
    np.testing.assert_array_equal(second.asnumpy(), [-0.25, -0.25])


def test_lars_leaves_a_gradient_alone_where_a_norm_is_zero(mode):
    weight = Parameter(Tensor(np.zeros((2, 2), np.float32)), name="weight")
    still = Parameter(Tensor(np.ones((2, 2), np.float32)), name="still")
    apply(LARS([weight, still], 0.5), [[np.ones((2, 2), np.float32), np.zeros((2, 2), np.float32)]])
    np.testing.assert_array_equal(weight.asnumpy(), np.full((2, 2), -0.5))
    np.testing.assert_array_equal(still.asnumpy(), np.ones((2, 2)))


class Network(nn.Cell):
    """Holds the parameters of SHAPES."""

    def __init__(self):
        super().__init__()
        self.weights = ParameterTuple(make_parameters())


def layer_of(name: str, depth: int) -> int:
    return 0 if name.startswith(("stem", "pos_embed")) else 1 if name.startswith("blocks") else depth + 1


SPEC = ModelSpec(name="toy", variants={"toy_s": {"depth": 1}}, network=Network, convert=dict, restore=dict,
                 no_weight_decay=lambda name, shape: len(shape) == 1 or name == "pos_embed", layer_id=layer_of)
LR = np.full(3, 0.1, np.float32)


def decayed(optimizer) -> set[str]:
    return {p.name for p, decay in zip(optimizer.parameters, optimizer.decays) if decay}


def test_the_models_rule_decides_what_is_decayed():
    optimizer = build_optimizer(Config(model="toy_s", weight_decay=0.3), SPEC, Network(), LR)
    assert decayed(optimizer) == {"stem.weight", "blocks.0.fc.weight", "head.weight"}
    assert set(optimizer.decays) == {0.0, 0.3}


def test_without_the_filter_everything_is_decayed():
    config = Config(model="toy_s", filter_bias_and_bn=False)
    assert decayed(build_optimizer(config, SPEC, Network(), LR)) == set(SHAPES)


def test_the_old_zoos_filter_goes_by_parts_of_names_and_comes_first():
    config = Config(model="toy_s", no_weight_decay_filter="beta, bias")
    optimizer = build_optimizer(config, SPEC, Network(), LR)
    assert set(SHAPES) - decayed(optimizer) == {"stem.bias", "blocks.0.norm.beta", "blocks.0.fc.bias", "head.bias"}


def test_frozen_parameters_are_left_out_and_the_order_is_the_networks():
    network = Network()
    network.weights[0].requires_grad = False
    optimizer = build_optimizer(Config(model="toy_s"), SPEC, network, LR)
    assert [p.name for p in optimizer.parameters] == list(SHAPES)[1:]
    assert not any("stem.weight" in p.name for p in optimizer.get_parameters())
    groups = parameter_groups(network.weights, 0.1, lambda p: False)
    assert [p.name for p in groups[0]["params"]] == [p.name for p in groups[-1]["order_params"]] == list(SHAPES)[1:]


def test_layer_decay_scales_the_rate_by_the_layers_distance_from_the_head(mode):
    network = Network()
    before = {p.name: p.asnumpy().copy() for p in network.weights}
    config = Config(model="toy_s", layer_decay=0.5, opt="sgd", momentum=0.0, weight_decay=0.0)
    optimizer = build_optimizer(config, SPEC, network, LR)
    apply(optimizer, [[np.ones(shape, np.float32) for shape in SHAPES.values()]])
    for parameter in network.weights:
        scale = {0: 0.25, 1: 0.5, 2: 1.0}[layer_of(parameter.name, 1)]
        np.testing.assert_allclose(before[parameter.name] - parameter.asnumpy(), 0.1 * scale, atol=1e-6)


@pytest.mark.parametrize("ckpt_path, moved", [("weights.ckpt", 2), ("", 4)])
def test_only_the_head_learns_in_the_frozen_epochs_where_there_are_weights(mode, ckpt_path, moved):
    network = Network()
    before = {p.name: p.asnumpy().copy() for p in network.weights}
    config = Config(model="toy_s", epochs=2, freeze_epochs=1, ckpt_path=ckpt_path, opt="sgd", momentum=0.0,
                    weight_decay=0.0)
    optimizer = build_optimizer(config, SPEC, network, np.full(4, 0.1, np.float32))  # two steps in an epoch
    apply(optimizer, [[np.ones(shape, np.float32) for shape in SHAPES.values()]] * 4)
    for parameter in network.weights:
        steps = 4 if parameter.name.startswith("head") else moved
        np.testing.assert_allclose(before[parameter.name] - parameter.asnumpy(), 0.1 * steps, atol=1e-6)


def test_layer_decay_follows_a_depth_from_the_configuration():
    config = Config(model="toy_s", layer_decay=0.5, depth=3)
    optimizer = build_optimizer(config, SPEC, Network(), LR)
    assert dict(zip(SHAPES, optimizer.lr_scales))["stem.weight"] == 0.5 ** 4


def test_groups_are_described_with_counts():
    network = Network()
    optimizer = build_optimizer(Config(model="toy_s", layer_decay=0.5, weight_decay=0.05), SPEC, network, LR)
    lines = describe_groups(optimizer)
    assert lines[0] == "1 tensor, 48 values: weight decay 0.05, learning rate x 0.25"
    assert "2 tensors, 6 values: weight decay 0" in lines
    assert len(lines) == 6


@pytest.mark.parametrize("opt, rule, options", [
    ("adamw", AdamW, {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}),
    ("nadam", NAdam, {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}),
    ("adan", Adan, {"betas": (0.98, 0.92, 0.99), "eps": 1e-8}),
    ("lion", Lion, {"beta1": 0.9, "beta2": 0.99}),
    ("sgd", SGD, {"momentum": 0.9, "nesterov": False}), ("momentum", SGD, {"momentum": 0.9}),
    ("lars", LARS, {"momentum": 0.9, "trust": 0.001})])
def test_every_rule_has_its_own_defaults(opt, rule, options):
    optimizer = build_optimizer(Config(model="toy_s", opt=opt), SPEC, Network(), LR)
    assert type(optimizer) is rule
    for name, value in options.items():
        assert getattr(optimizer, name) == pytest.approx(value, rel=1e-7), name


def test_configuration_reaches_the_rule():
    config = Config(model="toy_s", opt="adan", beta1=0.5, beta2=0.25, eps=1e-3, gc_flag=True)
    optimizer = build_optimizer(config, SPEC, Network(), LR)
    assert (optimizer.betas, optimizer.eps, optimizer.centralise) == ((0.5, 0.25, 0.99), 1e-3, True)
    config = Config(model="toy_s", opt="sgd", momentum=0.7, use_nesterov=True)
    optimizer = build_optimizer(config, SPEC, Network(), LR)
    assert (optimizer.momentum, optimizer.nesterov, optimizer.centralise) == (0.7, True, False)


def test_layer_decay_of_a_model_without_layer_numbers_is_refused():
    spec = ModelSpec(name="stages", variants={"stages_s": {}}, network=Network, convert=dict, restore=dict,
                     no_weight_decay=lambda name, shape: False)
    with pytest.raises(UserError, match="layer_decay: 0.5 needs a model whose layers are numbered, which stages is"):
        build_optimizer(Config(model="stages_s", layer_decay=0.5), spec, Network(), LR)


def test_unknown_optimizer_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="Did you mean 'adamw'"):
        build_optimizer(Config(model="toy_s", opt="adamwd"), SPEC, Network(), LR)


def test_a_network_without_trainable_parameters_is_refused():
    with pytest.raises(UserError, match="no trainable parameters"):
        build_optimizer(Config(model="toy_s"), SPEC, nn.ReLU(), LR)
