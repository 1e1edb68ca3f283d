"""The engine's answers beside the reference: what differs, what is refused, and what breaks."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnx_attribution.errors import AttributionError, InvalidArgument, NotDifferentiable, NotFound
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import Attribution, AttributionRequest, LayerAttribution, Target
from tests.fuzz.draft import Array, Value
from tests.fuzz.generate import Case
from tests.fuzz.questions import STEPS, Ask, asks, behind, leads
from tests.fuzz.reference import NotRunnable, Truth
from tests.fuzz.tally import Fault, Tally
from tests.method_names import DEEPLIFT_METHODS, PATH_METHODS

Answer = Callable[[Case, AttributionRequest], Attribution]


@dataclass(frozen=True)
class Tolerance:
    """How far numbers may differ: a share of the largest of the sample, and a share of what was subtracted.

    Of a float64 file nothing but the differences is inexact. A float32 file rounds each of its twenty or so
    operators, some of which subtract like numbers, so that 6e-8 becomes some 1e-4.
    """

    share: float
    floor: float


WIDE, NARROW = Tolerance(2e-5, 2e-8), Tolerance(2e-3, 2e-5)
COMPLETE = {np.dtype(np.float64): 1e-7, np.dtype(np.float32): 1e-5}
"""How far DeepLIFT's sum may miss the change, relative to the sum of absolute contributions. In float64 it would be
1e-9, if onnxruntime did not fuse a MatMul with a factor before it, which it keeps as float32."""


def examine(case: Case, tally: Tally, answer: Answer | None = None, only: Ask | None = None) -> list[Fault]:
    """Asks the questions of a case, or only one, and compares; NotRunnable where there is nothing to compare with."""
    truth = Truth(case)
    values = [truth.value(truth.sample(k)) for k in range(len(case.rows))]
    faults: list[Fault] = []
    with Asker(case) as engine, warnings.catch_warnings():
        warnings.simplefilter("error")  # what numpy says of an answer, users would read
        ask_engine = answer or engine
        for ask in [only] if only else asks(case):
            try:
                faults += _Question(case, truth, values, ask, tally, ask_engine).check()
            except NotRunnable as error:
                raise RuntimeError(f"the reference of {case.label} breaks at {ask}") from error
    tally.cases += 1
    tally.faults += [(case, fault) for fault in faults]
    return faults


class Asker:
    """An engine that knows one model."""

    def __init__(self, case: Case) -> None:
        self._engine = Engine(provider="cpu", threads=1)
        self._engine.add(
            "m", copy.deepcopy(case.model), batch_axes=dict(case.stated), shapes=dict(case.shapes)
        )

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.close()

    def __call__(self, case: Case, request: AttributionRequest) -> Attribution:
        return self._engine.attribute(request)


@dataclass
class _Question:
    """One question about one case, for all samples and for each alone."""

    case: Case
    truth: Truth
    values: Sequence[float]
    ask: Ask
    tally: Tally
    answer: Answer
    faults: list[Fault] = field(default_factory=list)
    maps: dict[tuple[object, ...], Array | None] = field(default_factory=dict)

    def check(self) -> list[Fault]:
        """What is wrong with the answers."""
        samples = list(range(len(self.case.rows)))
        alone = [self._answer([k]) for k in samples]
        joint = self._answer(samples) if len(samples) > 1 else None
        for k, found in zip(samples, alone, strict=True):
            if found is not None:
                self._sample(found, 0, k, f"sample {k} alone")
        if joint is not None:
            for k in samples:
                before = len(self.faults)
                self._sample(joint, k, k, f"sample {k} of {len(samples)}")
                if len(self.faults) == before and (one := alone[k]) is not None and k != self.case.outside:
                    self._together(joint, one, k)
        return self.faults

    def _fault(self, kind: str, words: str) -> None:
        self.faults.append(Fault(kind, str(self.ask), words))

    def _answer(self, chosen: Sequence[int], whole: bool = False) -> Attribution | None:
        """The answer about some samples; with `whole`, where the target keeps the axis of its samples."""
        index, axis = list(self.case.index), Value("", self.case.dims[self.case.target]).axis
        if whole and axis is not None:
            index.insert(axis, 0)
        self.tally.asked[self.case.theme] += not whole
        request = AttributionRequest(
            "m", self.case.together(chosen), self.ask.method, self.ask.layers, self.ask.source,
            Target(self.case.target, tuple(index) or None), self.ask.baselines, steps=STEPS,
        )  # fmt: skip
        try:
            found = self.answer(self.case, request)
        except (InvalidArgument, NotDifferentiable) as error:
            if axis is not None and not whole and error.message.startswith("the target index has"):
                # rows run one by one may keep the axis, and the refusal says so
                return self._answer(chosen, whole=True)
            words = re.sub(r"'[^']*'|[0-9.]+", "_", str(error))[:150]
            self.tally.refuse(self.case, f"{'one' if len(chosen) == 1 else 'several'}: {words}")
            return None
        except AttributionError as error:
            self._fault(
                "name" if isinstance(error, NotFound) else "failure",
                f"{len(chosen)} samples: {type(error).__name__}: {error}"[:600],
            )
            return None
        except Exception as error:
            self._fault("exception", f"{len(chosen)} samples: {type(error).__name__}: {error}"[:600])
            return None
        self.tally.answers += 1
        if any(len(layer.values) != len(chosen) for layer in found.layers.values()):
            shapes = {n: layer.values.shape for n, layer in found.layers.items()}
            self._fault("samples", f"{len(chosen)} samples, and the maps have shapes {shapes}")
            return None
        return found

    # --- one sample of an answer

    def _sample(self, found: Attribution, place: int, k: int, where: str) -> None:
        """Compares what an answer says of a sample."""
        if k == self.case.outside:
            return
        if self.truth.decided_by_rounding(k):
            self.tally.kinks += 1
            return
        feeds = self.truth.sample(k)
        value = self.values[k]
        if np.isfinite(value):
            self._numbers("value", where, np.array(found.target.value[place]), np.array(value), abs(value))
        sources = self._sources(found)
        held = {s: self._activation(feeds, s) for s in sources if s not in feeds}
        at = {**feeds, **held}
        if not self.ask.source and not self.ask.layers and self.ask.method != "occlusion":
            self._left_out(found, sources, at, where)
        low: Mapping[str, Array] = {}
        if self.ask.method in PATH_METHODS | DEEPLIFT_METHODS:
            low = {s: self._baseline(feeds, s) for s in sources}
            if not self._change(found, place, {**at, **low}, where):
                return
        expected = {name: self._known(k, name, at, low) for name in found.layers}
        size = max((_largest(e) for e in expected.values() if e is not None), default=0.0)
        for name, layer in found.layers.items():
            wanted = expected[name]
            if wanted is None:
                continue
            got = np.asarray(layer.values[place], np.float64)
            if got.size != wanted.size:
                self._fault("shape", f"{where}: {name} has shape {got.shape}, the tensor {wanted.shape}")
                continue
            self._numbers(self.ask.method, f"{where}, {name}", got.reshape(-1), wanted.reshape(-1), size)
            self._sums(layer, place, where)
        if self.ask.method in DEEPLIFT_METHODS:
            self._complete(found, place, sources, where)

    def _known(self, k: int, name: str, at: Mapping[str, Array], low: Mapping[str, Array]) -> Array | None:
        """The map of a layer at sample `k`, which several answers are compared with."""
        key = (k, name, *at, *low)
        if key not in self.maps:
            self.maps[key] = self._expected(name, at, low)
        return self.maps[key]

    def _expected(self, name: str, at: Mapping[str, Array], low: Mapping[str, Array]) -> Array | None:
        """The map of a layer at a sample; None where only its sum is known."""
        method, inputs = self.ask.method, {x.name for x in self.case.inputs}
        if method == "occlusion":
            return self._occluded(name, at)
        if method in DEEPLIFT_METHODS:
            return None
        if method in PATH_METHODS:
            return self._along(name, at, low)
        point = at if name in inputs or name in at else {**at, name: self._activation(at, name)}
        gradient = self.truth.gradient(point, name)
        return gradient * point[name] if method == "gradient_x_activation" else gradient

    def _occluded(self, name: str, at: Mapping[str, Array]) -> Array:
        here, x = self.truth.value(at), np.array(at[name])
        found = np.empty(x.size)
        for k in range(x.size):
            other = np.array(x)
            other.reshape(-1)[k] = 0
            found[k] = here - self.truth.value({**at, name: other})
        return found

    def _along(self, name: str, at: Mapping[str, Array], low: Mapping[str, Array]) -> Array:
        """The trapezoid sum of gradient times step, on the straight path of the sources."""
        total: Array | float = 0.0
        before: tuple[Array, Array] | None = None
        for k in range(STEPS + 1):
            point = {**at, **{s: b + k / STEPS * (at[s] - b) for s, b in low.items()}}
            if name not in point:
                point[name] = self._activation(point, name)
            here = (self.truth.gradient(point, name), point[name])
            if before is not None:
                total = total + (here[0] + before[0]) / 2 * (here[1] - before[1])
            before = here
        return np.asarray(total)

    def _activation(self, feeds: Mapping[str, Array], name: str) -> Array:
        return self.truth.run(feeds, [name])[0]

    def _sources(self, found: Attribution) -> list[str]:
        """The sources as the request or the answer names them."""
        if self.ask.source:
            return list(self.ask.source)
        if self.ask.layers and self.ask.method == "integrated_gradients":
            return list(self.ask.layers)
        if self.ask.layers and self.ask.method not in ("gradient", "gradient_x_activation"):
            needed = behind(self.case.model, self.case.target)
            return [x.name for x in self.case.inputs if not x.integers and x.name in needed]
        return [] if self.ask.layers else list(found.layers)

    def _baseline(self, feeds: Mapping[str, Array], name: str) -> Array:
        """A source at x': given, or zeros; a hidden one where the float inputs that reach it are zeros."""
        if name in self.ask.baselines:
            return self.ask.baselines[name].astype(np.float64)
        if name in feeds:
            return np.zeros_like(feeds[name])
        floats = [x.name for x in self.case.inputs if not x.integers]
        if name in leads(self.case.model, floats):
            return self._activation({**feeds, **{n: np.zeros_like(feeds[n]) for n in floats}}, name)
        return np.zeros_like(self._activation(feeds, name))

    def _change(self, found: Attribution, place: int, at: Mapping[str, Array], where: str) -> bool:
        """Whether the target at x' is what it is said to be."""
        low = self.truth.value(at)
        if not np.isfinite(low):
            return True
        said = np.array(found.target.baseline_value[place])
        return self._numbers("baseline", where, said, np.array(low), abs(low))

    def _left_out(
        self, found: Attribution, sources: Sequence[str], at: Mapping[str, Array], where: str
    ) -> None:
        """An input that moves the target and that no source stands for is named by a warning."""
        if not np.isfinite(self.truth.value(at)):
            return
        for x in self.case.inputs:
            if x.name in sources or any(repr(x.name) in words for words in found.warnings):
                continue
            here = at[x.name]
            others = [(here + 1) % 5, 0 * here] if x.integers else [here + 0.5, 1.7 * here]
            if self.truth.changes(at, x.name, others):
                self._fault(
                    "left out",
                    f"{where}: the target depends on {x.name}, the sources are {sources}; {found.warnings}",
                )

    def _sums(self, layer: LayerAttribution, place: int, where: str) -> None:
        """At a cut the estimate is no less than what is known to be missing."""
        missing, estimate = abs(layer.residual[place]), layer.error_estimate[place]
        if self.ask.method not in PATH_METHODS or not layer.cut or not np.isfinite(missing):
            return
        slack = self._tolerance().floor * (1 + abs(layer.sum[place])) + 1e-6 * missing
        if missing > estimate + slack:
            self._fault("estimate", f"{where}, {layer.name}: residual {missing:.3g}, estimate {estimate:.3g}")

    def _complete(self, found: Attribution, place: int, sources: Sequence[str], where: str) -> None:
        """At a cut contributions sum to the change; so do those of all sources."""
        change = float(found.target.value[place] - found.target.baseline_value[place])
        if self.ask.layers and not all(x.cut for x in found.layers.values()):
            return
        parts = [np.asarray(x.values[place], np.float64) for x in found.layers.values()]
        total, size = sum(float(p.sum()) for p in parts), sum(float(np.abs(p).sum()) for p in parts)
        if not np.isfinite(change):
            return
        self.tally.numbers += 1
        share = COMPLETE[self.case.dtype]
        slack = (
            share * (size + abs(found.target.value[place]) + abs(found.target.baseline_value[place])) + 1e-12
        )
        if not abs(total - change) <= slack:
            self._fault(
                "sum",
                f"{where}: contributions sum to {total:.9g}, the change is {change:.9g} (sum |C| {size:.3g})",
            )

    def _together(self, joint: Attribution, one: Attribution, k: int) -> None:
        """A sample's numbers among others are those that it has alone."""
        for name, layer in joint.layers.items():
            if name not in one.layers:
                self._fault("layers", f"{name} is a layer of all samples, and not of sample {k} alone")
                continue
            alone = np.asarray(one.layers[name].values[0], np.float64).reshape(-1)
            found = np.asarray(layer.values[k], np.float64).reshape(-1)
            size = _largest(alone)
            if alone.size != found.size:
                self._fault("together", f"sample {k}, {name}: {found.size} numbers, alone {alone.size}")
                continue
            self._numbers("together", f"sample {k}, {name}", found, alone, size)

    # --- numbers

    def _tolerance(self) -> Tolerance:
        return WIDE if self.case.dtype == np.float64 else NARROW

    def _numbers(self, kind: str, where: str, found: Array, wanted: Array, size: float) -> bool:
        """Whether all numbers agree that the reference knows."""
        known = np.isfinite(wanted)
        self.tally.numbers += int(known.sum())
        self.tally.kinks += int((~known).sum())
        allowed = self._tolerance()
        values = [abs(v) for v in self.values if np.isfinite(v)]
        slack = allowed.share * size + allowed.floor * (1 + max(values, default=0))
        with np.errstate(invalid="ignore"):
            wrong = known & ~(np.abs(found - wanted) <= slack)
        if wrong.any():
            self._fault(kind, f"{where}: {_short(found)} and not {_short(wanted)}")
        return not wrong.any()


def _largest(array: Array) -> float:
    """The largest number that is known."""
    return float(np.abs(array[np.isfinite(array)]).max(initial=0))


def _short(array: Array) -> str:
    return np.array2string(np.asarray(array), precision=6, threshold=12, max_line_width=10_000)
