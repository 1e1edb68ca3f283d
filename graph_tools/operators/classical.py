"""Classical models (ai.onnx.ml) by standard operators: linear models, support vector machines, and what prepares
their inputs. Trees, encoders and thresholds have no derivative."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_attribution.errors import NotDifferentiable, Reason
from onnx_attribution.graph_tools.ir.emit import Emitter, Value, shape_of
from onnx_attribution.graph_tools.operators.decompose import composite
from onnx_attribution.graph_tools.operators.registry import NodeView, zero
from onnx_attribution.graph_tools.operators.transpose import rank_of

ML = "ai.onnx.ml"
Floats = NDArray[np.float32]


def _floats(node: NodeView, name: str) -> Floats:
    return np.asarray(node.attribute(name, []), dtype=np.float32)


def _word(node: NodeView, name: str, default: str) -> str:
    value = node.attribute(name, default)
    return value.decode() if isinstance(value, bytes) else str(value)


def _refused(node: NodeView, reason: Reason, why: str) -> NotDifferentiable:
    return NotDifferentiable(
        f"{node.operator} (node {node.name!r}) {why}", reason=reason, node=node.name, operator=f"{ML}.{node.operator}",
        tensor=node.z.name,
    )  # fmt: skip


def _real(op: Emitter, x: Value) -> Value:
    """x as float32, `[N, C]`."""
    value = op.cast(x, np.float32)
    return op("Unsqueeze", value, op.ints([0])) if rank_of(x) == 1 else value


# --- what prepares inputs


@composite("Scaler", domain=ML)
def scaler(op: Emitter, node: NodeView) -> Value:
    made = op.cast(node.input(0), np.float32)
    if len(offset := _floats(node, "offset")):
        made = op("Sub", made, offset)
    return op("Mul", made, scale) if len(scale := _floats(node, "scale")) else made


@composite("Imputer", domain=ML)
def imputer(op: Emitter, node: NodeView) -> Value:
    x, replaced = node.input(0), node.attribute("replaced_value_float", 0.0)
    missing = op("IsNaN", x) if np.isnan(replaced) else op("Equal", x, op.like(x, replaced))
    return op("Where", missing, _floats(node, "imputed_value_floats"), x)


@composite("Normalizer", domain=ML)
def normalizer(op: Emitter, node: NodeView) -> Value:
    """Rows whose norm is 0 stay."""
    x, kind, axis = op.cast(node.input(0), np.float32), _word(node, "norm", "MAX"), op.ints([-1])
    norm = op({"MAX": "ReduceMax", "L1": "ReduceL1", "L2": "ReduceL2"}[kind], x, axis, keepdims=1)
    empty = op("Equal", norm, op.like(norm, 0))
    return op("Div", x, op("Where", empty, op.like(norm, 1), norm))


@composite("FeatureVectorizer", domain=ML)
def feature_vectorizer(op: Emitter, node: NodeView) -> Value:
    parts = [op.cast(x, np.float32) for x in node.inputs if x is not None]
    whole = [op("Unsqueeze", x, op.ints([1])) if rank_of(x) == 1 else x for x in parts]
    return op("Concat", *whole, axis=1)


@composite("ArrayFeatureExtractor", domain=ML)
def array_feature_extractor(op: Emitter, node: NodeView) -> Value:
    x = node.input(0)
    made = op(
        "Gather", x, op("Reshape", op.cast(node.input(1), np.int64), op.ints([-1])), axis=rank_of(x) - 1
    )
    return op("Unsqueeze", made, op.ints([0])) if rank_of(x) == 1 else made


# --- scores to results


def _finished(op: Emitter, node: NodeView, scores: Value, count: int) -> Value:
    """The scores after the post transform of the node."""
    kind = _word(node, "post_transform", "NONE")
    if kind == "LOGISTIC":
        return op("Sigmoid", scores)
    if kind == "SOFTMAX":
        return op("Softmax", scores, axis=-1)
    if kind == "SOFTMAX_ZERO":
        zeros = op("Equal", scores, op.like(scores, 0))
        hidden = op("Where", zeros, op.like(scores, float(np.finfo(np.float32).min) / 4), scores)
        return op("Where", zeros, op.like(scores, 0), op("Softmax", hidden, axis=-1))
    if kind != "NONE":
        raise _refused(node, Reason.FORM_WITHOUT_RULE, f"with the post transform {kind} has no rule")
    return scores


def _labels(node: NodeView) -> int:
    found = (
        node.attribute(name, []) for name in ("classlabels_ints", "classlabels_int64s", "classlabels_strings")
    )
    return max(map(len, found))


def _classes(op: Emitter, node: NodeView, scores: Value, count: int) -> Value:
    """The scores after the post transform; a single one of two classes is completed by the other's."""
    made = _finished(op, node, scores, count)
    if count != 1 or _labels(node) != 2:
        return made
    kind = _word(node, "post_transform", "NONE")
    other = op("Sub", op.like(made, 1), made) if kind in ("LOGISTIC", "NONE") else op("Neg", made)
    return op("Concat", other, made, axis=1)


# --- linear models


def _linear(op: Emitter, node: NodeView, count: int) -> Value:
    x = _real(op, node.input(0))
    weights = _floats(node, "coefficients").reshape(count, -1)
    made = op("MatMul", x, np.ascontiguousarray(weights.T))
    intercepts = _floats(node, "intercepts")
    return op("Add", made, intercepts) if len(intercepts) else made


@composite("LinearRegressor", domain=ML)
def linear_regressor(op: Emitter, node: NodeView) -> Value:
    count = node.attribute("targets", 1)
    return _finished(op, node, _linear(op, node, count), count)


@composite("LinearClassifier", domain=ML)
def linear_classifier(op: Emitter, node: NodeView) -> list[Value | None]:
    """Outputs: label, scores."""
    features = (shape_of(node.input(0)) or ("?",))[-1]
    intercepts, weights = _floats(node, "intercepts"), _floats(node, "coefficients")
    count = len(intercepts) or (len(weights) // features if isinstance(features, int) else _labels(node))
    return [None, _classes(op, node, _linear(op, node, count), count)]


# --- support vector machines


def _kernel(op: Emitter, node: NodeView, x: Value, vectors: Floats) -> Value:
    """What each support vector gives: `[N, vectors]`."""
    kind = _word(node, "kernel_type", "LINEAR")
    gamma, shift, degree = [float(p) for p in node.attribute("kernel_params", None) or [0, 0, 0]]
    if kind == "RBF":
        d = op("Sub", op("Unsqueeze", x, op.ints([1])), vectors[None])
        squared = op("ReduceSum", op("Mul", d, d), op.ints([2]), keepdims=0)
        return op("Exp", op("Mul", squared, op.like(x, -gamma)))
    product = op("MatMul", x, np.ascontiguousarray(vectors.T))
    if kind == "LINEAR":
        return product
    inner = op("Add", op("Mul", product, op.like(x, gamma)), op.like(x, shift))
    return op("Tanh", inner) if kind == "SIGMOID" else op("Pow", inner, op.like(x, degree))


@composite("SVMRegressor", domain=ML)
def svm_regressor(op: Emitter, node: NodeView) -> Value:
    if node.attribute("one_class", 0):
        raise _refused(node, Reason.ZERO_DERIVATIVE, "of one class is a threshold: it has no derivative")
    x, coefficients, count = (
        _real(op, node.input(0)),
        _floats(node, "coefficients"),
        node.attribute("n_supports", 0),
    )
    if count:
        x = _kernel(op, node, x, _floats(node, "support_vectors").reshape(count, -1))
    made = op("Add", op("MatMul", x, coefficients.reshape(-1, 1)), _floats(node, "rho")[:1])
    return _finished(op, node, made, 1)


@composite("SVMClassifier", domain=ML, approximate=True)  # the kernel stops within 0.005 / classes
def svm_classifier(op: Emitter, node: NodeView) -> list[Value | None]:
    """Outputs: label, and a score for each pair of classes or a probability for each class."""
    x, per_class = _real(op, node.input(0)), list(node.attribute("vectors_per_class", []))
    rho = _floats(node, "rho")
    if not per_class:
        weights = _floats(node, "coefficients").reshape(_labels(node), -1)
        scores = op("Add", op("MatMul", x, np.ascontiguousarray(weights.T)), rho[:1])
        return [None, _finished(op, node, scores, _labels(node))]
    total, classes = sum(per_class), len(per_class)
    kernel = _kernel(op, node, x, _floats(node, "support_vectors").reshape(total, -1))
    pairs = [(i, j) for i in range(classes) for j in range(i + 1, classes)]
    scores = op("Add", op("MatMul", kernel, _pair_weights(node, pairs, per_class)), rho[: len(pairs)])
    slope, offset = _floats(node, "prob_a"), _floats(node, "prob_b")
    if not len(slope):
        return [None, _decisions(op, node, scores, len(pairs))]
    beaten = op("Sigmoid", op("Neg", op("Add", op("Mul", scores, slope), offset)))
    beaten = op("Clip", beaten, op.like(beaten, 1e-7), op.like(beaten, 1 - 1e-7))
    if classes == 2:
        return [None, op("Concat", beaten, op("Sub", op.like(beaten, 1), beaten), axis=1)]
    return [None, _coupled(op, beaten, pairs, classes)]


def _pair_weights(node: NodeView, pairs: list[tuple[int, int]], per_class: list[int]) -> Floats:
    """The weight of each support vector in each pair `[vectors, pairs]`: only those of its two classes count."""
    ends = np.cumsum(per_class)
    starts = ends - per_class
    coefficients = _floats(node, "coefficients").reshape(len(per_class) - 1, -1)
    weights: Any = np.zeros((int(ends[-1]), len(pairs)), dtype=np.float32)
    for at, (i, j) in enumerate(pairs):
        weights[starts[i] : ends[i], at] = coefficients[j - 1, starts[i] : ends[i]]
        weights[starts[j] : ends[j], at] = coefficients[i, starts[j] : ends[j]]
    made: Floats = weights
    return made


def _decisions(op: Emitter, node: NodeView, scores: Value, count: int) -> Value:
    made = _finished(op, node, scores, count)
    if count != 1:
        return made
    return op("Concat", op("Neg", made), made, axis=1)


def _coupled(op: Emitter, beaten: Value, pairs: list[tuple[int, int]], classes: int) -> Value:
    """Probabilities of classes from those of pairs (Wu, Lin, Weng 2004): p Q p is least where p sums to 1.

    Solved exactly where the kernel iterates to within 0.005 / classes: [Q e; e 0] [p; b] = [0; 1].
    """
    there: Any = np.zeros((len(pairs), classes * classes), dtype=np.float32)
    back = there.copy()
    for at, (i, j) in enumerate(pairs):
        there[at, i * classes + j] = back[at, j * classes + i] = 1
    lost = op("Sub", op.like(beaten, 1), beaten)
    r = op("Add", op("MatMul", beaten, there), op("MatMul", lost, back))
    r = op("Reshape", r, op.ints([-1, classes, classes]))  # r[i, j]: how sure i is against j; 0 at i = j
    turned = op("Transpose", r, perm=[0, 2, 1])
    diagonal = op("ReduceSum", op("Mul", turned, turned), op.ints([2]), keepdims=1)
    q = op("Sub", op("Mul", diagonal, np.eye(classes, dtype=np.float32)), op("Mul", turned, r))
    border: Any = np.zeros((1, classes + 1, classes + 1), dtype=np.float32)
    border[0, -1, :-1] = border[0, :-1, -1] = 1
    whole = op("Add", op("Pad", q, op.ints([0, 0, 0, 0, 1, 1])), border)
    inverse = op("Inverse", whole, domain="com.microsoft")
    inverse.shape = [None, classes + 1, classes + 1]
    last = op("Gather", inverse, op.constant(np.int64(classes)), axis=2)
    return op("Slice", last, op.ints([0]), op.ints([classes]), op.ints([1]))


# --- what has no derivative

zero(
    "is constant between thresholds", "Binarizer", "TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor",
    domain=ML,
)  # fmt: skip
zero("looks up categories", "CategoryMapper", "LabelEncoder", "OneHotEncoder", domain=ML)
zero("takes or gives a dictionary", "CastMap", "DictVectorizer", "ZipMap", domain=ML)
