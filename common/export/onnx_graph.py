"""From the operations of a MINDIR file to an ONNX model, one by one, whatever network they belong to.

The framework's own converter knows neither ``Erf`` nor a variable number of images. Here the framework only writes down
what a network does (MINDIR), for any number of images. Where it does so with operations that have no translation, it
writes once for 2 images and once for 3; what differs between the two follows from the number of images, and becomes a
computation in the ONNX file. ``common/export/onnx_operators.py`` says what each operation becomes.
"""
import math
from dataclasses import dataclass
from typing import Any, Callable, Mapping, Sequence

import numpy as np

from common.errors import UserError
from common.export.mindir_graph import Graph, Kind, Operation
from common.export.onnx_operators import OPERATORS
from common.export.onnx_simplify import Simplifier

OPSET = 17  # the first with LayerNormalization; onnxruntime knows it since 1.13
IR_VERSION = 8  # of the file, which belongs to that opset
BATCHES = (2, 3)  # numbers of images of the two graphs
LARGEST = 2 ** 31 - 2 ** 20  # bytes: a protocol buffer ends at 2 GB


@dataclass(frozen=True)
class Value:
    """A tensor in the ONNX file: its name, and its kind in the first graph; a size of -1 is not known there."""

    name: str
    kind: Kind


@dataclass(frozen=True)
class PerBatch:
    """A constant that depends on the number of images: what it is for 2, and for 3."""

    two: Any
    three: Any

    def map(self, function: Callable[[Any], Any]) -> "PerBatch":
        """Apply a function to both."""
        return PerBatch(function(self.two), function(self.three))


class Builder:
    """Collects the nodes and constants of an ONNX file.

    Args:
        parameters: name -> value of the network's parameters.
    """

    def __init__(self, parameters: Mapping[str, np.ndarray]):
        self.parameters, self.nodes, self.initializers = parameters, [], {}
        self.constants: dict[tuple, str] = {}
        self.copied: dict[str, Value] = {}  # matrices repeated for every image -> the matrix
        self.first_input, self.batch = "", None

    def add(self, op_type: str, *inputs: Any, outputs: int = 1, **attributes: Any) -> Any:
        """Add a node; inputs are values, names, arrays, or ``None`` for one that is left out.

        Returns:
            The name of its output, or a list of the names of all.
        """
        from onnx import helper

        number = len(self.nodes)
        names = [f"{op_type}_{number}"] if outputs == 1 else [f"{op_type}_{number}_{n}" for n in range(outputs)]
        self.nodes.append(helper.make_node(op_type, [self.tensor(value) for value in inputs], names,
                                           name=f"{op_type}_{number}", **attributes))
        return names[0] if outputs == 1 else names

    def tensor(self, value: Any, dtype: str | None = None) -> str:
        """Return the name of a tensor for any value; a plain number becomes one of ``dtype``."""
        if value is None or isinstance(value, str):
            return value or ""
        if isinstance(value, Value):
            return value.name
        if isinstance(value, PerBatch):
            return self.add("Cast", self.add("Squeeze", self.ints(value)), to=self.type_number(dtype or "int64"))
        array = np.asarray(value) if isinstance(value, np.ndarray) else np.asarray(value, dtype or np.float32)
        key = (array.tobytes(), array.dtype.str, array.shape)
        if key not in self.constants:
            self.constants[key] = f"constant_{len(self.constants)}"
            self.initializers[self.constants[key]] = array
        return self.constants[key]

    def value(self, constant: Any) -> Any:
        """Return a constant array as a tensor in the file, anything else as it is."""
        if isinstance(constant, np.ndarray):
            return Value(self.tensor(constant), Kind(constant.shape, constant.dtype.name))
        if isinstance(constant, PerBatch) and isinstance(constant.two, np.ndarray):
            return Value(self._varying(constant), Kind(constant.two.shape, constant.two.dtype.name))
        return constant

    def ints(self, value: Any) -> str:
        """Return the name of an int64 vector for whole numbers, one of which may follow from the number of images."""
        if isinstance(value, Value):
            return value.name
        if isinstance(value, tuple) and any(isinstance(one, Value) for one in value):
            return self.add("Concat", *map(self.ints, value), axis=0)
        if not isinstance(value, PerBatch):
            return self.tensor(np.asarray(value, np.int64).reshape(-1))
        two, three = (np.asarray(part, np.int64).reshape(-1) for part in (value.two, value.three))
        step = three - two
        return self.add("Add", self.add("Mul", self.batch_size(), step), two - BATCHES[0] * step)

    def sizes(self, x: Value) -> tuple[Any, ...]:
        """Return the shape of a tensor: numbers, and an int64 vector of one for each that is known only when it runs."""
        return tuple(size if size >= 0 else Value(self.add("Shape", x, start=axis, end=axis + 1), Kind((1,), "int64"))
                     for axis, size in enumerate(x.kind.shape))

    def batch_size(self) -> str:
        """Return the name of the number of images, an int64 vector of one."""
        if self.batch is None:
            self.batch = self.add("Shape", self.first_input, start=0, end=1)
        return self.batch

    @staticmethod
    def type_number(dtype: str) -> int:
        """Return the number that ONNX gives to a type."""
        from onnx import helper

        return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def _varying(self, value: PerBatch) -> str:
        """Return the name of a constant with one row per image, each a fixed step above the one before."""
        two, three = value.two, value.three
        axes = [axis for axis in range(three.ndim) if two.shape[axis] != three.shape[axis]]
        axis = axes[0] if len(axes) == 1 else 0
        if len(axes) == 1 and (two.shape[axis], three.shape[axis]) == BATCHES:
            first, second, _ = np.split(three, 3, axis)
            step = second - first
            places = np.arange(3).reshape([-1 if n == axis else 1 for n in range(three.ndim)]).astype(three.dtype)
            if np.array_equal(first + step * places, three) and np.array_equal(np.split(three, [2], axis)[0], two):
                shape = [1] * three.ndim
                if not step.any():
                    return self.add("Expand", first, self.ints(PerBatch(two.shape, three.shape)))
                shape[axis] = -1
                count = self.add("Range", np.array(0), self.add("Squeeze", self.batch_size()), np.array(1))
                rows = self.add("Cast", self.add("Reshape", count, self.ints(shape)),
                                to=self.type_number(three.dtype.name))
                return self.add("Add", self.add("Mul", rows, step), first)
        raise UserError("file_format: a constant of this network depends on the number of images in a way that ONNX "
                        "files cannot follow here; give a fixed --batch_size.")

    def model(self, inputs: Sequence[Any], outputs: Mapping[str, str], ports: Sequence[Any]) -> Any:
        """Return the ONNX model without what no output needs.

        Args:
            inputs: ONNX descriptions of the inputs.
            outputs: name of an output -> name of the tensor.
            ports: ONNX descriptions of the outputs.
        """
        from onnx import helper, numpy_helper

        for name, tensor in outputs.items():
            self.nodes.append(helper.make_node("Identity", [tensor], [name], name=name))
        needed, kept = set(outputs), []
        for node in reversed(Simplifier(self.nodes, self.initializers).simplified()):
            if needed.intersection(node.output):
                needed.update(node.input)
                kept.insert(0, node)
        constants = {name: array for name, array in self.initializers.items() if name in needed}
        if sum(array.nbytes for array in constants.values()) > LARGEST:
            raise UserError("file_format: an ONNX file holds at most 2 GB, and this network has more; choose MINDIR.")
        graph = helper.make_graph(kept, "network", list(inputs), list(ports),
                                  [numpy_helper.from_array(np.ascontiguousarray(array), name)
                                   for name, array in constants.items()])
        return helper.make_model(graph, producer_name="mindspore zoo", ir_version=IR_VERSION,
                                 opset_imports=[helper.make_opsetid("", OPSET)])


def translate(graphs: Sequence[Graph], parameters: Mapping[str, np.ndarray], input_names: Sequence[str],
              output_names: Sequence[str]) -> Any:
    """Return the ONNX model of a network.

    Args:
        graphs: one, of a fixed number of images or of any; or two, of 2 and 3 images, for a model of any number.
        parameters: name -> value of the network's parameters.
        input_names, output_names: of the model's inputs and outputs, in the order of the call and of the result.

    Returns:
        An ``onnx.ModelProto``.

    Raises:
        UserError: naming the operation that has no translation, or if the network cannot be one for any number of
            images.
    """
    from onnx import helper

    first, last = graphs[0], graphs[-1]
    builder = Builder(parameters)
    builder.first_input = input_names[0]
    batch = next(iter(first.inputs.values())).shape[0]
    batch = "batch" if len(graphs) > 1 or batch < 0 else batch
    values: dict[str, Any] = {}
    inputs = []
    for name, (key, kind) in zip(input_names, first.inputs.items()):
        values[key] = Value(name, kind)
        inputs.append(helper.make_tensor_value_info(name, builder.type_number(kind.dtype), [batch, *kind.shape[1:]]))
    for key, name in first.parameters.items():
        array = parameters[name]
        builder.initializers[name] = array
        values[key] = Value(name, Kind(array.shape, array.dtype.name))
    values |= {key: constant for key, constant in first.constants.items()}
    _check_same(first, last)
    for operation, other in zip(first.operations, last.operations):
        operands = [_merged(values[one], first.constants.get(one), last.constants.get(two))
                    for one, two in zip(operation.inputs, other.inputs)]
        values[operation.output] = _translated(builder, operation, operands)
    results = values[first.output]
    results = results if isinstance(results, tuple) else (results,)
    ports = [helper.make_tensor_value_info(name, builder.type_number(result.kind.dtype),
                                           [batch, *result.kind.shape[1:]])
             for name, result in zip(output_names, results)]
    return builder.model(inputs, dict(zip(output_names, (result.name for result in results))), ports)


def _check_same(first: Graph, last: Graph) -> None:
    """Hold that two graphs of one network differ in their constants at most."""
    if [(one.name, len(one.inputs), one.attributes) for one in first.operations] != [
            (one.name, len(one.inputs), one.attributes) for one in last.operations]:
        raise UserError("batch_size: this network does something else for another number of images; give a fixed "
                        "--batch_size.")


def _merged(value: Any, two: Any, three: Any) -> Any:
    """Return an operand: a constant that differs between the graphs becomes ``PerBatch``.

    Asked for every use, as the framework may keep equal constants of one graph once.
    """
    return value if two is None or three is None or _equal(two, three) else PerBatch(two, three)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.shape == other.shape and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    return one == other


def _translated(builder: Builder, operation: Operation, inputs: list[Any]) -> Any:
    """Translate one operation; the result is a value, a tuple of them, or ``None`` for what only orders others."""
    if operation.name not in OPERATORS:
        raise UserError(f"file_format: the operation {operation.name} ({operation.scope}) has no translation to ONNX "
                        "yet; choose MINDIR, or add it in common/export/onnx_operators.py.")
    result = OPERATORS[operation.name](builder, operation, *map(builder.value, inputs))
    if isinstance(result, str):
        return Value(result, operation.kinds[0])
    if isinstance(result, list):
        return tuple(name and Value(name, kind) for name, kind in zip(result, operation.kinds))
    return result


def size_of(parameters: Mapping[str, np.ndarray]) -> int:
    """Return the bytes that parameters take."""
    return sum(math.prod(array.shape) * array.dtype.itemsize for array in parameters.values())
