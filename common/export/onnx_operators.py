"""What each operation of MindSpore is in ONNX (opset 17): a table of functions.

Each is called with the builder, the operation and its inputs, which are ``Value`` for tensors, else constants as the
framework has them: numbers, tuples, arrays, or ``PerBatch`` where they follow from the number of images. It returns the
name of the tensor that it made, a list of names for several outputs, or one of its inputs.
"""
from typing import Any, Callable

import numpy as np

from common.errors import UserError

END = 2 ** 63 - 1  # of an axis, however long
Translation = Callable[..., Any]


def _same(op_type: str) -> Translation:
    """The operation with the same operands; plain numbers take the type of the tensor beside them."""
    def translation(builder, operation, *inputs):
        dtype = next((one.kind.dtype for one in inputs if hasattr(one, "kind")), operation.kinds[0].dtype)
        return builder.add(op_type, *(builder.tensor(one, dtype) for one in inputs))
    return translation


def _reduce(op_type: str) -> Translation:
    """A sum, mean or maximum over axes; none: over all."""
    def translation(builder, operation, x, axes=None, keep_dims=False, *_):
        axes = None if axes in (None, ()) else list(axes) if isinstance(axes, tuple) else [axes]
        keep = int(bool(keep_dims))
        if op_type == "ReduceSum":  # the only one whose axes are an input in this opset
            return builder.add(op_type, x, None if axes is None else builder.ints(axes), keepdims=keep)
        return builder.add(op_type, x, keepdims=keep, **({} if axes is None else {"axes": axes}))
    return translation


def _reshape(builder, operation, x, shape):
    return builder.add("Reshape", x, builder.ints(shape))


def _transpose(builder, operation, x, order):
    return builder.add("Transpose", x, perm=list(order))


def _turned(builder, x):
    """Swap the last two axes."""
    axes = list(range(len(x.kind.shape)))
    return builder.add("Transpose", x, perm=[*axes[:-2], axes[-1], axes[-2]])


def _product(builder, operation, x, y, transpose_x=False, transpose_y=False):
    if x.kind.shape[:-2] == y.kind.shape[:-2]:
        x = builder.copied.get(x.name, x)  # MatMul takes the matrix that is the same for all images once
    if (transpose_x or transpose_y) and len(x.kind.shape) == len(y.kind.shape) == 2:
        return builder.add("Gemm", x, y, transA=int(transpose_x), transB=int(transpose_y))
    return builder.add("MatMul", _turned(builder, x) if transpose_x else x, _turned(builder, y) if transpose_y else y)


def _bias(builder, operation, x, bias, *_):
    """A number per channel; channels are the second axis."""
    rank = len(x.kind.shape)
    column = builder.add("Reshape", bias, builder.ints([-1] + [1] * (rank - 2))) if rank > 2 else bias
    return builder.add("Add", x, column)


def _layer_norm(builder, operation, x, gamma, beta, begin_norm_axis=-1, begin_params_axis=-1, epsilon=1e-7):
    return [builder.add("LayerNormalization", x, gamma, beta, axis=begin_norm_axis, epsilon=epsilon), None, None]


def _batch_norm(builder, operation, x, scale, offset, mean, variance, is_training=False, epsilon=1e-5, *_):
    if is_training:
        raise UserError("file_format: a BatchNorm in training mode cannot be exported.")
    return [builder.add("BatchNormalization", x, scale, offset, mean, variance, epsilon=epsilon)] + [None] * 4


def _convolution(builder, operation, x, weight, *_):
    a = operation.attributes
    pads = _pads(a)
    return builder.add("Conv", x, weight, kernel_shape=list(weight.kind.shape[2:]), strides=list(a["stride"][-2:]),
                       dilations=list(a["dilation"][-2:]), group=a.get("group", 1), **pads)


def _pads(attributes: dict[str, Any]) -> dict[str, Any]:
    """Padding as ONNX has it; the framework's order is top, bottom, left, right."""
    mode = str(attributes["pad_mode"]).lower()
    if mode in ("same", "1"):
        return {"auto_pad": "SAME_UPPER"}
    top, bottom, left, right = attributes["pad"] if mode in ("pad", "0") else (0,) * 4
    return {"pads": [top, left, bottom, right]}


def _max_pool(builder, operation, x):
    a = operation.attributes
    return builder.add("MaxPool", x, kernel_shape=list(a["kernel_size"][-2:]), strides=list(a["strides"][-2:]),
                       auto_pad="SAME_UPPER" if a["pad_mode"] == "SAME" else "VALID")


def _mean_pool(builder, operation, x, kernel, strides, mode=2, *_):
    return builder.add("AveragePool", x, kernel_shape=list(kernel), strides=list(strides),
                       auto_pad="SAME_UPPER" if mode == 1 else "VALID")


def _max_pool_3d(builder, operation, x, *_):
    a = operation.attributes
    return [builder.add("MaxPool", x, kernel_shape=list(a["ksize"]), strides=list(a["strides"]),
                        pads=list(a["pads"]) * 2, dilations=list(a["dilation"]), ceil_mode=int(a["ceil_mode"])), None]


def _expand_dims(builder, operation, x, axis):
    return builder.add("Unsqueeze", x, builder.ints(axis))


def _squeeze(builder, operation, x, axes=()):
    return builder.add("Squeeze", x, builder.ints(axes) if axes not in (None, ()) else None)


def _split(builder, operation, x, axis, count):
    return builder.add("Split", x, outputs=count, axis=axis) if count > 1 else [builder.add("Identity", x)]


def _concat(builder, operation, parts, axis):
    dtype = operation.kinds[0].dtype
    return builder.add("Concat", *(builder.tensor(part, dtype) for part in parts), axis=axis)


def _stack(builder, operation, parts):
    axis = operation.attributes["axis"]
    return builder.add("Concat", *(builder.add("Unsqueeze", part, builder.ints(axis)) for part in parts), axis=axis)


def _broadcast(builder, operation, x, shape):
    def without_unknown(sizes):
        return tuple(1 if size == -1 else size for size in sizes)  # 1 keeps an axis as it is
    copies = builder.add("Expand", x, builder.ints(shape.map(without_unknown) if hasattr(shape, "map")
                                                   else without_unknown(shape)))
    if len(x.kind.shape) == 2 and operation.kinds[0].shape[1:] == x.kind.shape:
        builder.copied[copies] = x
    return copies


def _tile(builder, operation, x, times):
    return builder.add("Tile", x, builder.ints(times))


def _slice(builder, operation, x, begin, end, strides, begin_mask=0, end_mask=0, ellipsis_mask=0, new_axis_mask=0,
           shrink_mask=0):
    """A range with a step on every leading axis; the masks are bit by bit: from the start, to the end, one index."""
    def bits(mask):
        return [axis for axis in range(len(strides)) if mask >> axis & 1]

    def each(values, function):
        """Apply (axis, value) -> value to the values, which may follow from the number of images."""
        def changed(row):
            return tuple(function(axis, value) for axis, value in enumerate(row))
        return values.map(changed) if hasattr(values, "map") else changed(values)

    shrunk = bits(shrink_mask)
    if ellipsis_mask or new_axis_mask or shrunk and hasattr(begin, "map"):
        raise UserError("file_format: a slice with ... or None, or an index that depends on the number of images, has no "
                        "translation to ONNX yet.")
    starts = each(begin, lambda axis, value: 0 if axis in bits(begin_mask) else value)
    stops = each(end, lambda axis, value: END if axis in bits(end_mask) else value)
    stops = each(stops, lambda axis, value: (begin[axis] + 1 or END) if axis in shrunk else value)
    cut = builder.add("Slice", x, builder.ints(starts), builder.ints(stops), builder.ints(range(len(strides))),
                      builder.ints(strides))
    return builder.add("Squeeze", cut, builder.ints(shrunk)) if shrunk else cut


def _clamp(builder, operation, x, low=None, high=None):
    return builder.add("Clip", x, *(None if one is None else builder.tensor(one, x.kind.dtype) for one in (low, high)))


def _largest(builder, operation, x, axis, keep_dims):
    keep = int(bool(keep_dims))
    return [builder.add("ArgMax", x, axis=axis, keepdims=keep),
            builder.add("ReduceMax", x, axes=[axis], keepdims=keep)]


def _sort(builder, operation, x):
    axis = operation.attributes["axis"]
    values, places = builder.add("TopK", x, builder.ints(x.kind.shape[axis]), outputs=2, axis=axis, sorted=1,
                                 largest=int(operation.attributes["descending"]))
    return [values, builder.add("Cast", places, to=builder.type_number(operation.kinds[1].dtype))]


def _gather(builder, operation, x, indices, axis, batch_dims=0):
    if batch_dims:
        raise UserError("file_format: a gather with batch_dims has no translation to ONNX yet.")
    return builder.add("Gather", x, indices, axis=axis)


def _cast(builder, operation, x, *_):
    return builder.add("Cast", x, to=builder.type_number(operation.kinds[0].dtype))


def _eye(builder, operation, rows, columns, *_):
    return builder.tensor(np.eye(rows, columns, dtype=operation.kinds[0].dtype))


def _filled(value: int) -> Translation:
    """A tensor full of one number, of a given shape."""
    def translation(builder, operation, shape, *_):
        dtype = operation.kinds[0].dtype
        return builder.add("Expand", builder.tensor(value, dtype), builder.ints(shape))
    return translation


def _filled_like(value: int) -> Translation:
    def translation(builder, operation, x, *_):
        return builder.add("Expand", builder.tensor(value, operation.kinds[0].dtype), builder.add("Shape", x))
    return translation


def _softmax(builder, operation, x, axes=-1):
    return builder.add("Softmax", x, axis=axes[0] if isinstance(axes, tuple) else axes)


def _tanh_gelu(builder, operation, x, *_):
    """The framework's GeLU is the approximation by tanh."""
    cube = builder.add("Mul", builder.add("Mul", x, x), x)
    inner = builder.add("Add", x, builder.add("Mul", cube, builder.tensor(0.044715, x.kind.dtype)))
    tanh = builder.add("Tanh", builder.add("Mul", inner, builder.tensor((2 / np.pi) ** 0.5, x.kind.dtype)))
    half = builder.add("Mul", x, builder.tensor(0.5, x.kind.dtype))
    return builder.add("Mul", half, builder.add("Add", tanh, builder.tensor(1.0, x.kind.dtype)))


_UNARY = {"Abs": "Abs", "Erf": "Erf", "Exp": "Exp", "HSwish": "HardSwish", "Identity": "Identity", "Log": "Log",
          "Neg": "Neg", "ReLU": "Relu", "Reciprocal": "Reciprocal", "Sigmoid": "Sigmoid", "Sqrt": "Sqrt",
          "Tanh": "Tanh"}
_BINARY = {"Add": "Add", "Adds": "Add", "Div": "Div", "Divs": "Div", "EqScalar": "Equal", "Equal": "Equal",
           "Greater": "Greater", "GreaterEqual": "GreaterOrEqual", "GreaterEqualScalar": "GreaterOrEqual",
           "Less": "Less", "LessEqual": "LessOrEqual", "LessScalar": "Less", "Maximum": "Max", "Minimum": "Min",
           "Mul": "Mul", "Muls": "Mul", "Pow": "Pow", "RealDiv": "Div", "Select": "Where", "Sub": "Sub", "Subs": "Sub"}

OPERATORS: dict[str, Translation] = {
    **{name: _same(op_type) for name, op_type in (_UNARY | _BINARY).items()},
    "ArgMaxWithValue": _largest,
    "AvgPool": _mean_pool,
    "BatchMatMul": _product,
    "BatchNorm": _batch_norm,
    "BiasAdd": _bias,
    "BroadcastTo": _broadcast,
    "Cast": _cast,
    "ClampScalar": _clamp,
    "Concat": _concat,
    "Conv2D": _convolution,
    "Depend": lambda builder, operation, x, *_: x,
    "ExpandDims": _expand_dims,
    "Eye": _eye,
    "Gather": _gather,
    "GeLU": _tanh_gelu,
    "LayerNorm": _layer_norm,
    "Load": lambda builder, operation, x, *_: x,
    "MakeTuple": lambda builder, operation, *items: tuple(items),
    "MatMul": _product,
    "MatMulExt": _product,
    "Max": _reduce("ReduceMax"),
    "MaxPool": _max_pool,
    "MaxPool3DWithArgmax": _max_pool_3d,
    "MeanExt": _reduce("ReduceMean"),
    "Ones": _filled(1),
    "OnesLike": _filled_like(1),
    "ReduceMax": _reduce("ReduceMax"),
    "ReduceMean": _reduce("ReduceMean"),
    "ReduceSum": _reduce("ReduceSum"),
    "Reshape": _reshape,
    "ReLU6": lambda builder, operation, x: _clamp(builder, operation, x, 0, 6),
    "Rsqrt": lambda builder, operation, x: builder.add("Reciprocal", builder.add("Sqrt", x)),
    "Shape": lambda builder, operation, x: builder.sizes(x),
    "SiLU": lambda builder, operation, x: builder.add("Mul", x, builder.add("Sigmoid", x)),
    "Softmax": _softmax,
    "Sort": _sort,
    "Split": _split,
    "Square": lambda builder, operation, x: builder.add("Mul", x, x),
    "Squeeze": _squeeze,
    "Stack": _stack,
    "StridedSlice": _slice,
    "SumExt": _reduce("ReduceSum"),
    "Tile": _tile,
    "Transpose": _transpose,
    "TupleGetItem": lambda builder, operation, items, index: items[index],
    "UpdateState": lambda builder, operation, *_: None,
    "Zeros": _filled(0),
    "ZerosLike": _filled_like(0),
}
