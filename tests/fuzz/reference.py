"""What is right: the file in float64, run by onnxruntime, each sample alone, and differences of its values."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper

from tests.checks import to_double
from tests.fuzz.generate import Case

Array = NDArray[Any]
Feeds = Mapping[str, Array]
STEP = 1e-5
CHOOSING = {
    "Abs",
    "Clip",
    "Greater",
    "Less",
    "Max",
    "Min",
    "ReduceL1",
    "ReduceMax",
    "ReduceMin",
    "Relu",
    "TopK",
}


class NotRunnable(Exception):
    """The file does not run on a sample alone, so that nothing is right or wrong of it."""


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """A session of one thread that computes the nodes as they stand and says nothing.

    Raises:
        NotRunnable: onnxruntime does not take the model.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise NotRunnable(str(error)) from error


def bare(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in float64, without what it declares of tensors inside and of the shapes of outputs."""
    found = to_double(model)
    for value in found.graph.output:
        value.type.tensor_type.ClearField("shape")
    return found


class Truth:
    """The numbers of one case. Samples are given alone, hidden tensors by name beside the inputs.

    Raises:
        NotRunnable: onnxruntime does not run the file itself on a sample alone.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self.model = bare(case.model)
        plain = session(case.model)
        self._plain: list[Array] = []
        for row in case.rows:
            try:
                self._plain.append(plain.run([case.target], dict(row))[0])
            except Exception as error:
                raise NotRunnable(str(error)) from error
        self._sessions: dict[tuple[tuple[str, ...], tuple[str, ...]], onnxruntime.InferenceSession] = {}

    def run(self, feeds: Feeds, fetched: Sequence[str]) -> list[Array]:
        """Tensors of the file at one sample; a hidden tensor among the feeds is taken as it is given."""
        inputs = {x.name for x in self.case.inputs}
        held = tuple(sorted(name for name in feeds if name not in inputs))
        key = (held, tuple(fetched))
        if key not in self._sessions:
            self._sessions[key] = session(with_inputs(self.model, held, fetched))
        used = self._sessions[key]
        wanted = {x.name for x in used.get_inputs()}
        try:
            return cast(
                list[Array], used.run(list(fetched), {n: _wide(a) for n, a in feeds.items() if n in wanted})
            )
        except Exception as error:
            raise NotRunnable(str(error)) from error

    def sample(self, k: int) -> dict[str, Array]:
        """The inputs of one sample."""
        return {name: _wide(array) for name, array in self.case.rows[k].items()}

    def unit(self, name: str, array: Array) -> Array:
        """A tensor at one sample, without the axis of the samples."""
        dims = self.case.dims[name]
        return np.take(array, 0, axis=dims.index("N")) if "N" in dims else array

    def value(self, feeds: Feeds) -> float:
        """The number that is explained."""
        (found,) = self.run(feeds, [self.case.target])
        return float(np.sum(self.unit(self.case.target, found)[self.case.index]))

    def decided_by_rounding(self, k: int) -> bool:
        """Whether the file itself, rounded as it stands, is elsewhere at a sample: a comparison of like numbers."""
        wide = self.value(self.sample(k))
        own = float(np.sum(self.unit(self.case.target, self._plain[k])[self.case.index], dtype=np.float64))
        return bool(abs(own - wide) > 2e-3 * (abs(wide) + 1e-2))

    @cached_property
    def has_ties(self) -> bool:
        """Whether equal numbers may compete, at which a derivative is one of many while differences see one.

        Zeros are equal to each other, and to what operators fill in; other numbers are alike by chance only.
        """
        bodies = [f.node for f in self.case.model.functions] + [self.case.model.graph.node]
        return any(node.op_type in CHOOSING for body in bodies for node in _nodes(body))

    def gradient(self, feeds: Feeds, name: str) -> Array:
        """Its derivatives by differences; NaN where it has a kink or a jump, or is not finite."""
        at = np.array(feeds[name], np.float64)
        found = np.full(at.size, np.nan)
        if self.has_ties and any((a == 0).any() for n, a in feeds.items() if a.dtype.kind == "f"):
            return found.reshape(at.shape)
        here = self.value(feeds)
        for k in range(at.size):

            def moved(t: float, k: int = k) -> float:
                point = np.array(at)
                point.reshape(-1)[k] += t
                return self.value({**feeds, name: point})

            found[k] = difference(moved, here)
        return found.reshape(at.shape)

    def changes(self, feeds: Feeds, name: str, others: Sequence[Array]) -> bool:
        """Whether the number depends on an input, everything else held."""
        here = self.value(feeds)
        values = np.array([self.value({**feeds, name: other}) for other in others])
        return bool((np.abs(values - here) > 1e-9 * max(1.0, abs(here))).any())


def difference(moved: Callable[[float], float], here: float) -> float:
    """The derivative at 0 of a function whose value there is known; NaN where two steps or two sides disagree."""
    ahead, behind = moved(STEP), moved(-STEP)
    near, far = moved(STEP / 2), moved(-STEP / 2)
    wide, narrow = (ahead - behind) / (2 * STEP), (near - far) / STEP
    gap, half = abs(ahead - 2 * here + behind) / STEP, abs(near - 2 * here + far) / (STEP / 2)
    noise = 1e-9 * (1 + abs(here))
    kink = half > noise and half > 0.75 * gap  # where the function is smooth, the sides approach each other
    if not np.isfinite(narrow) or kink or abs(wide - narrow) > 1e-5 * abs(narrow) + noise:
        return float("nan")
    return (4 * narrow - wide) / 3


def _nodes(body: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes, those of their bodies included."""
    for node in body:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g.node)


def with_inputs(model: onnx.ModelProto, held: Sequence[str], fetched: Sequence[str]) -> onnx.ModelProto:
    """The model with hidden tensors as inputs, and other outputs."""
    found = copy.deepcopy(model)
    for node in found.graph.node:
        for place, name in enumerate(node.output):
            if name in held:
                node.output[place] = f"{name}/made"
    double = onnx.TensorProto.DOUBLE
    found.graph.input.extend(helper.make_tensor_value_info(name, double, None) for name in held)
    del found.graph.output[:]
    found.graph.output.extend(helper.make_tensor_value_info(name, double, None) for name in fetched)
    return found


def _wide(array: Array) -> Array:
    return np.asarray(array, np.float64 if array.dtype.kind == "f" else None)
