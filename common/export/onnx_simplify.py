"""The same network with fewer operations, in the forms that onnxruntime knows as one operator.

A linear layer takes its bias along, and GELU and its approximation by tanh are written as PyTorch's exporter writes
them, which onnxruntime replaces by one operator each. Equal to rounding.
"""
import math
from collections import Counter
from typing import Any, Sequence

import numpy as np

TANH_GELU = 2 * math.sqrt(2 / math.pi)  # the approximation is x * sigmoid(TANH_GELU * (x + 0.044715 * x^3))


class Simplifier:
    """Rewrites the nodes of an ONNX graph.

    Args:
        nodes: in the order of the computation; the results of the graph are made by the last ones, Identity.
        constants: name -> value of what is stored in the file; constants are added to it.
    """

    def __init__(self, nodes: Sequence[Any], constants: dict[str, np.ndarray]):
        self.nodes, self.constants = nodes, constants
        self.maker = {name: node for node in nodes for name in node.output}
        self.uses = Counter(name for node in nodes for name in node.input)

    def simplified(self) -> list[Any]:
        """Return the nodes of the simpler graph, and some that nothing needs any more."""
        rules = {"Add": self.bias, "Erf": self.gelu, "Mul": self.tanh_gelu}
        return [made for node in self.nodes for made in rules.get(node.op_type, lambda node: [node])(node)]

    def made_by(self, name: str, op_type: str) -> Any:
        """Return the node that makes a tensor, if it is of that type and made for this use alone; else ``None``."""
        node = self.maker.get(name)
        return node if node is not None and node.op_type == op_type and self.uses[name] == 1 else None

    def is_number(self, name: str, number: float) -> bool:
        """Tell whether a tensor is a constant of that one number."""
        value = self.constants.get(name)
        return value is not None and value.size == 1 and math.isclose(value.item(), number, rel_tol=1e-6)

    def constant(self, value: float, like: str) -> str:
        """Return the name of a number in the type and shape of another constant."""
        array = np.full_like(self.constants[like], value)
        name = f"number_{value:.9g}_{array.dtype.name}_{array.ndim}"
        self.constants[name] = array
        return name

    def bias(self, add: Any) -> list[Any]:
        """Gemm(x, w) + b: Gemm(x, w, b)."""
        product, bias = self.made_by(add.input[0], "Gemm"), self.constants.get(add.input[1])
        if product is None or len(product.input) != 2 or bias is None or bias.ndim != 1:
            return [add]
        product.input.append(add.input[1])
        product.output[0] = add.output[0]
        return []

    def gelu(self, erf: Any) -> list[Any]:
        """erf(x * sqrt(1 / 2)): erf(x / sqrt(2))."""
        product = self.made_by(erf.input[0], "Mul")
        if product is not None and self.is_number(product.input[1], math.sqrt(0.5)):
            product.op_type = "Div"
            product.input[1] = self.constant(math.sqrt(2), product.input[1])
        return [erf]

    def tanh_gelu(self, result: Any) -> list[Any]:
        """x * sigmoid(x * (a + b * x * x)): x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))."""
        x = result.input[0]
        share = self.made_by(result.input[1], "Sigmoid")
        product = share and self.made_by(share.input[0], "Mul")
        total = product and product.input[0] == x and self.made_by(product.input[1], "Add")
        square = total and self.is_number(total.input[0], TANH_GELU) and self.made_by(total.input[1], "Mul")
        scaled = square and square.input[1] == x and self.made_by(square.input[0], "Mul")
        if not (scaled and scaled.input[0] == x and self.is_number(scaled.input[1], TANH_GELU * 0.044715)):
            return [result]
        from onnx import helper

        made, like = [], total.input[0]

        def add(op_type: str, *inputs: str) -> str:
            name = f"{result.name}_{len(made)}"
            made.append(helper.make_node(op_type, inputs, [name], name=name))
            return name

        cube = add("Mul", add("Pow", x, self.constant(3, like)), self.constant(0.044715, like))
        slope = add("Mul", add("Add", x, cube), self.constant(math.sqrt(2 / math.pi), like))
        whole = add("Add", add("Tanh", slope), self.constant(1, like))
        half = add("Mul", x, self.constant(0.5, like))
        return [*made, helper.make_node("Mul", [half, whole], result.output, name=result.name)]
