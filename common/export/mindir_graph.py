"""A MINDIR file as a plain list of operations, for translation into other formats.

The file is a protocol buffer whose description MindSpore installs with itself. Only what a network does is kept: the
order that the framework holds between reading and writing parameters means nothing where nothing is written.
"""
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError, reason

DTYPES = {1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool",
          10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 17: "float64"}  # of the format's TensorProto


@dataclass(frozen=True)
class Kind:
    """Shape and type of a tensor."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        name: of the framework's primitive.
        inputs: names of values.
        output: name of its value.
        attributes: of the primitive: numbers, texts, truth values, and tuples of them.
        kinds: of the output; more than one for an operation with several outputs.
        scope: the cell in which it is, for people.
    """

    name: str
    inputs: tuple[str, ...]
    output: str
    attributes: dict[str, Any]
    kinds: tuple[Kind, ...]
    scope: str


@dataclass
class Graph:
    """What a file computes; every value has a name.

    Attributes:
        inputs: name -> kind, in the order of the call.
        parameters: name of the value -> name of the parameter in the network.
        constants: name -> number, text, tuple of them, array, or ``None``.
        operations: each after those whose values it uses.
        output: name of the value that is returned.
    """

    inputs: dict[str, Kind] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    output: str = ""


def read_graph(path: str | Path) -> Graph:
    """Read a MINDIR file; the values of the parameters are left to the network.

    Raises:
        UserError: if the file cannot be read, or what it does depends on values: it branches or loops.
    """
    from mindspore.train.mind_ir_pb2 import ModelProto

    model = ModelProto()
    try:
        model.ParseFromString(Path(path).read_bytes())
    except Exception as error:  # of the protocol buffer library, whose class depends on its version
        raise UserError(f"'{path}' is not a MINDIR file, or only a part of one ({reason(error)}).") from error
    if model.functions:
        raise UserError(f"'{path}' branches or loops while it runs; only a fixed sequence of operations can be "
                        "translated to another format.")
    primitives = {primitive.name: (primitive.op_type, {a.name: _value(a) for a in primitive.attribute})
                  for primitive in model.primitives}
    graph = Graph(inputs={one.name: _kind(one.tensor[0]) for one in model.graph.input},
                  parameters={one.name: one.name.partition(":")[2] for one in model.graph.parameter},
                  output=model.graph.output[0].name)
    for node in model.graph.node:
        held = {a.name: a for a in node.attribute}
        if node.op_type == "Constant":
            graph.constants[node.output[0]] = _value(held["value"])
            continue
        name, attributes = primitives[node.op_type.partition("::")[2]]
        kinds = _kinds(held["shape"]) if "shape" in held else ()
        graph.operations.append(Operation(name, tuple(node.input), node.output[0], attributes, kinds, node.domain))
    return graph


def _kind(tensor: Any) -> Kind:
    return Kind(tuple(tensor.dims), DTYPES.get(tensor.data_type, ""))


def _kinds(attribute: Any) -> tuple[Kind, ...]:
    """Return the kinds of an output; those of a tuple one after the other."""
    return tuple(map(_kind, attribute.tensors)) + tuple(kind for one in attribute.values for kind in _kinds(one))


def _value(attribute: Any) -> Any:
    """Return a constant as a Python value; ``None`` for what is none, such as the order of side effects."""
    kind = attribute.AttributeType.Name(attribute.type)
    if kind in ("TUPLE", "LIST"):
        return tuple(map(_value, attribute.values))
    if kind == "TENSORS":
        return _array(attribute.tensors[0])
    if kind == "BOOL":
        return bool(_number(attribute, "i", "ints"))
    if kind.startswith(("INT", "UINT")):
        return int(_number(attribute, "i", "ints"))
    if kind in ("FLOAT", "DOUBLE", "FLOAT32", "FLOAT64"):
        names = ("d", "doubles") if kind in ("DOUBLE", "FLOAT64") else ("f", "floats")
        return float(_number(attribute, *names))
    if kind == "STRING":
        return _number(attribute, "s", "strings").decode()
    return None


def _number(attribute: Any, single: str, repeated: str) -> Any:
    """Return a value, which stands alone or, inside a tuple, as a list of one."""
    several = getattr(attribute, repeated)
    return several[0] if several else getattr(attribute, single)


def _array(tensor: Any) -> np.ndarray:
    """Return a constant tensor."""
    shape, dtype = tuple(tensor.dims), np.dtype(DTYPES[tensor.data_type])
    if len(tensor.raw_data) != math.prod(shape) * dtype.itemsize:
        raise UserError(f"the constant '{tensor.name}' of a MINDIR file is stored in a way that is not known here.")
    return np.frombuffer(tensor.raw_data, dtype).reshape(shape)
