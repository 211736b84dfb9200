"""Collects the nodes of an ONNX graph, names their values and deduplicates constants."""

from __future__ import annotations

from typing import Any

import numpy as np

from rtmtass.errors import MissingPartError
from rtmtass.runtime.folding import Layer
from rtmtass.types import Floats

try:
    import onnx
    from onnx import helper, numpy_helper
except ImportError:
    raise MissingPartError(
        "an ONNX export needs onnx and onnxruntime: pip install 'rtmtass[export]'"
    ) from None


OPSET = 17
"""Version of the operators; every onnxruntime since 1.12 (2022) supports it."""
IR_VERSION = 8
MAX_FRAMES = 512
"""Most frames a call of a graph for any number of frames."""
STATE, NEXT = "state.", "next."
"""State is read from `state.X` and returned as `next.X`; zeros before the first frame."""
_END = np.iinfo(np.int64).max


class Nodes:
    """Collects nodes, constants and state; values are named by number.

    Args:
        is_unstacked: write stacked matmuls one by one, as quantisation needs them.
    """

    def __init__(self, is_unstacked: bool = False) -> None:
        self.is_unstacked = is_unstacked
        self.nodes: list[Any] = []
        self.constants: dict[tuple[str, tuple[int, ...], bytes], Any] = {}
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

    def constant(self, values: Any, kind: type = np.float32) -> str:
        """Return the name of a constant; equal constants are stored once."""
        array = np.ascontiguousarray(values, kind).reshape(np.shape(values))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self.constants:
            self.constants[key] = numpy_helper.from_array(array, f"c{len(self.constants)}")
        return str(self.constants[key].name)

    def put(self, operator: str, *inputs: str, to: str = "", **attributes: Any) -> str:
        """Append a node with one output and return the output's name."""
        name = to or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def put_many(
        self, operator: str, inputs: list[str], outputs: list[str], **attributes: Any
    ) -> None:
        """Append a node with named outputs."""
        self.nodes.append(helper.make_node(operator, inputs, outputs, **attributes))

    def split(self, x: str, sizes: list[int], axis: int) -> list[str]:
        """Split an axis into pieces."""
        names = [f"v{len(self.nodes)}.{i}" for i in range(len(sizes))]
        lengths = self.constant(sizes, np.int64)
        self.put_many("Split", [x, lengths], names, axis=axis)
        return names

    def take(self, x: str, start: int, end: int = _END, axis: int = 0, to: str = "") -> str:
        """Slice an axis."""
        bounds = [self.constant([value], np.int64) for value in (start, end, axis)]
        return self.put("Slice", x, *bounds, to=to)

    def reshape(self, x: str, *shape: int) -> str:
        """Reshape; 0 keeps an axis, -1 is inferred."""
        return self.put("Reshape", x, self.constant(shape, np.int64))

    def state(self, name: str, *shape: int) -> tuple[str, str]:
        """Declare a state; return the names of its input and its output."""
        self.inputs.append(value(STATE + name, shape))
        self.outputs.append(value(NEXT + name, shape))
        return STATE + name, NEXT + name

    def linear(self, x: str, weight: Floats, bias: Floats) -> str:
        """Return x W^T + b for rows of x; a leading axis is a batch of both."""
        if weight.ndim == 2:
            return self.put("Gemm", x, self.constant(weight.T), self.constant(bias))
        transposed = weight.swapaxes(-1, -2)
        if self.is_unstacked:
            rows = zip(self.split(x, [1] * len(transposed), 0), transposed, strict=True)
            products = [self.put("MatMul", row, self.constant(one)) for row, one in rows]
            y = self.put("Concat", *products, axis=0)
        else:
            y = self.put("MatMul", x, self.constant(transposed))
        return self.put("Add", y, self.constant(bias[:, None]))

    def affine(self, x: str, layer: Layer) -> str:
        """Return a folded layer's output: x W^T + b, then a slope where negative."""
        y = self.linear(x, layer.weight, layer.bias)
        if (layer.slope == 1).all():
            return y
        if not layer.slope.any():
            return self.put("Relu", y)
        slope = layer.slope if layer.weight.ndim == 2 else layer.slope[:, None]
        return self.put("PRelu", y, self.constant(slope))


def value(name: str, shape: tuple[int | str, ...]) -> Any:
    """Return the declaration of a float32 input or output."""
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)


def write_model(nodes: Nodes, name: str, about: dict[str, str]) -> Any:
    """Return collected nodes as an ONNX model, with `about` in its metadata."""
    graph = helper.make_graph(
        nodes.nodes, name, nodes.inputs, nodes.outputs, list(nodes.constants.values())
    )
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(
        graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="rtmtass"
    )
    helper.set_model_props(model, about)
    return model
