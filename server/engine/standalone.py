"""Files that attribute by themselves: a model with the whole method around it, for any runtime of ONNX models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx

from onnx_attribution.errors import InvalidArgument, Reason
from onnx_attribution.graph_tools.ir.emit import element_type
from onnx_attribution.graph_tools.ir.reach import ancestors
from onnx_attribution.graph_tools.programs.line import Line, OpenLine, Terms
from onnx_attribution.graph_tools.programs.portable import portable
from onnx_attribution.graph_tools.programs.question import Along, Asked, AtInput, Between
from onnx_attribution.graph_tools.programs.signature import Choice
from onnx_attribution.graph_tools.programs.single import in_float32, is_double
from onnx_attribution.graph_tools.programs.standalone import standalone_program
from onnx_attribution.graph_tools.select.cuts import is_cut, is_joint_cut
from onnx_attribution.methods import Method
from onnx_attribution.server.engine import recipe as recipes
from onnx_attribution.server.engine.export import (
    Exported,
    foreign_operators,
    require_own_places,
    scalar_of,
    together,
)
from onnx_attribution.server.engine.models.forward import forward
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.server.engine.recipe import Recipe, contribution, multiplier, recipe_of
from onnx_attribution.server.engine.request.targets import chosen
from onnx_attribution.server.engine.request.tensors import check_between, source_and_layers
from onnx_attribution.server.engine.rows import chebyshev
from onnx_attribution.server.engine.rows.plan import Plan, conductance_plan, mean_plan
from onnx_attribution.values import Array, AttributionRequest, Baseline, Target

SPECTRAL = (2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Standalone:
    """What a file is built of.

    The target is as in a request; without an index it is an input: the index of an element, or `by_weight` weights.
    `baselines` hold for all samples; those of other sources are inputs. `steps_input`: so is the number of steps of a
    path. `loop`: its nodes are evaluated one after the other. `spectral`: they are Chebyshev nodes, and the sums those
    of the polynomial through them. `float32`: nothing of the file is in float64, whatever rules compute in it.
    """

    method: Method
    layers: Sequence[str] = ()
    source: Sequence[str] = ()
    target: Target = field(default_factory=Target)
    by_weight: bool = False
    baselines: Mapping[str, Baseline] | None = None
    steps_input: bool = False
    loop: bool = False
    spectral: bool = False
    float32: bool = False


def standalone_model(model: LoadedModel, wish: Standalone) -> Exported:
    """The file.

    Raises:
        InvalidArgument, NotFound, NotDifferentiable: the message names what stands in the way.
    """
    model.require_computed([wish.target.tensor, *wish.layers, *wish.source])
    recipe = recipe_of(wish.method)
    at = _evaluated(wish, recipe)
    found = chosen(model, wish.target, recipe)
    require_own_places(found)
    request = AttributionRequest("", {}, wish.method, list(wish.layers), source=list(wish.source))
    sources, layers, is_default = source_and_layers(model, request, recipe, [found.tensor])
    choice = Choice(sources, layers, found.tensor)
    check_between(model, choice)
    notes = [*model.network.notes, *found.notes]
    shared = together(model, sources, layers, found.tensor, notes) and not recipe.alone
    if isinstance(at, Along) and not shared:
        at = replace(at, loop=True)
    nodes = model.nodes
    asked = Asked(
        choice,
        scalar_of(model, found, wish.target, by_index=not wish.by_weight),
        at,
        _baselines(model, wish, sources) if recipe.needs_reference else {},
        recipe.sums_to_change,
        frozenset(layer for layer in layers if is_cut(nodes, sources, found.tensor, [layer])),
        is_joint_cut(nodes, sources, found.tensor, layers),
        not shared,
        recipe.table,
        recipe.relevance,
    )
    program = standalone_program(model.network, asked)
    portable(program.model)
    words = [
        model.held(sources, found.tensor) if is_default else "",
        model.rounding(layers, found.tensor) if recipe.takes_gradients else "",
        model.randomness(found.tensor, {}),
        *foreign_operators(program.model),
    ]
    made = in_float32(program.model) if wish.float32 and is_double(program.model) else program.model
    if is_double(made):
        words.append(
            "it computes in float64, which WebGPU has not, and graphics cards do slowly: --float32 does without"
        )
    parameters = {name: value for name, value in wish.method.parameters().items() if value not in (None, {})}
    if isinstance(recipe.at, recipes.Path):
        auto = recipe.at.quadrature == "auto"
        rule = "spectral" if wish.spectral else "trapezoid" if auto else recipe.at.quadrature
        parameters |= {"quadrature": rule, "steps": "an input" if wish.steps_input else recipe.at.steps}
        if auto and not wish.steps_input and not wish.spectral:
            words.append(
                f"a file lays its steps equally: a trapezoid of {recipe.at.steps}; --steps says how many"
            )
    told = {
        "method": wish.method.name,
        "layers": ", ".join(layers),
        "source": ", ".join(sources),
        "rows": _rows(at),
        **parameters,
    }
    for key, value in told.items():
        made.metadata_props.add(key=f"onnx_attribution.{key}", value=str(value))
    return Exported(made, layers, model.weights, (*notes, *filter(None, words)))


def _rows(at: AtInput | Along | Between) -> int | str:
    """How many rows of the network one sample takes."""
    if isinstance(at, Along):
        return len(at.line.alphas) if isinstance(at.line, Line) else "steps + 1"
    return 2 if isinstance(at, Between) else 1


def example_of(model: LoadedModel, found: Exported) -> dict[str, Array]:
    """Inputs that the file has beside those of the model, for one sample."""
    example, given = dict(model.network.example), {}
    for value in found.model.graph.input:
        if value.name in example:
            continue
        kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        sizes = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
        if value.name.startswith("baseline/"):
            name = value.name.removeprefix("baseline/")
            like = example[name] if name in example else forward(model, example, [name])[name]
            given[value.name] = np.zeros_like(like)
        elif value.name == "target/weight":
            given[value.name] = np.ones(sizes, kind)
        else:
            given[value.name] = np.full(sizes, 4 if value.name == "steps" else 0, kind)
    return given


def _evaluated(wish: Standalone, recipe: Recipe) -> AtInput | Along | Between:
    """Where the method is evaluated, in the words of programs."""
    at, multiply, name = recipe.at, recipe.reduce is contribution, wish.method.name
    if (wish.steps_input or wish.spectral) and not isinstance(at, recipes.Path):
        raise InvalidArgument(f"{name} has no steps, and so no rule for them", option="steps")
    if recipe.pooled is not None or recipe.reduce not in (multiplier, contribution):
        raise InvalidArgument(f"{name} is reduced by Python, which no file holds; explain evaluates it")
    match at:
        case recipes.AtInput():
            return AtInput(multiply)
        case recipes.Ends():
            return Between(multiply, at.near_zero, at.reveal_cancel)
        case recipes.Path() if at.through is not None:
            raise InvalidArgument(
                f"{name} cannot be built into a file yet: it is of a neuron; explain evaluates it"
            )
        case recipes.Path():
            return Along(_line(wish, at), at.conductance, multiply, wish.loop)
    does = (
        "its thresholds are found and applied outside of a run"
        if isinstance(at, recipes.Trace)
        else "it draws points at random"
        if isinstance(at, recipes.Draws)
        else "it runs the model as it is, which any runtime does with the model's own file"
    )
    raise InvalidArgument(
        f"{name} cannot be built into a file: {does}; explain evaluates it, and methods that take gradients can be "
        "built"
    )


def _line(wish: Standalone, at: recipes.Path) -> Line | OpenLine:
    if wish.method.parameters().get("tolerance") is not None:
        raise InvalidArgument(
            "a file has the steps that it is built for, or takes them as an input, and cannot refine them for a "
            "tolerance: choose steps instead, and read the error estimate",
            option="tolerance",
        )
    if wish.spectral:
        if wish.steps_input or at.steps not in SPECTRAL:
            raise InvalidArgument(
                f"a spectral rule is built for {', '.join(map(str, SPECTRAL[:-1]))} or {SPECTRAL[-1]} steps",
                option="steps",
            )
        return spectral(at.steps, at.conductance)
    quadrature = "trapezoid" if at.quadrature == "auto" else at.quadrature
    if not wish.steps_input:
        return line_of((conductance_plan if at.conductance else mean_plan)(quadrature, at.steps))
    if quadrature not in ("trapezoid", "left", "right"):
        raise InvalidArgument(
            f"steps are an input with the quadratures trapezoid, left and right, not with {quadrature}; build it "
            "for a number of steps",
            option="quadrature",
        )
    return OpenLine(quadrature, at.conductance)


def line_of(plan: Plan) -> Line:
    """A plan with both ends among its nodes; equal terms of both levels are one."""
    alphas = np.concatenate([plan.alphas, [end for end in (0.0, 1.0) if end not in plan.alphas]])
    places: dict[tuple[int, int, int], int] = {}
    levels = [level for level in (plan.fine, plan.coarse) if level]
    for term in sorted((t for level in levels for t in level), key=lambda t: t.gradient):
        places.setdefault((term.gradient, term.left, term.right), len(places))
    weights = np.zeros((len(levels), len(places)))
    for number, level in enumerate(levels):
        for term in level:
            weights[number, places[term.gradient, term.left, term.right]] += term.weight
    gradient, left, right = np.asarray(list(places), np.int64).T
    return Line(alphas, Terms(gradient, left, right, weights))


def spectral(level: int, conductance: bool) -> Line:
    """The rule of the polynomial through `level` + 1 Chebyshev nodes, and that of every second one."""
    every, none = np.arange(level + 1), np.zeros(level + 1, np.int64)
    levels = [level, level // 2]
    if not conductance:
        weights = np.zeros((2, level + 1))
        for row, one in zip(weights, levels, strict=True):
            row[:: level // one] = chebyshev.weights(one)
        return Line(chebyshev.nodes(level), Terms(every, none, none, weights))
    products = np.zeros((2, level + 1, level + 1))
    for matrix, one in zip(products, levels, strict=True):
        matrix[:: level // one, :: level // one] = chebyshev.products(one)
    return Line(chebyshev.nodes(level), products)


def _baselines(model: LoadedModel, wish: Standalone, sources: Sequence[str]) -> dict[str, Array | None]:
    """The sources, or the inputs that lead to a hidden one, whose baseline is given here, or an input of the
    file (None).

    A hidden source whose own baseline is not given is what the network makes of its float inputs at theirs, if it has
    any.
    """
    given = {model.tensor(name): value for name, value in (wish.baselines or {}).items()}
    inputs, nodes = model.network.input_axes, model.nodes
    found: dict[str, Array | None] = {}
    for source in sources:
        behind = ancestors(nodes, [source])
        leading = [x for x in model.graph.inputs if x.name in inputs and x.name in behind]
        floats = [x.name for x in leading if x.name in given] or [
            x.name for x in leading if element_type(x).kind == "f"
        ]
        own = source in inputs or source in given or not floats
        found |= {
            name: _constant(model, name, given.pop(name, None)) for name in ([source] if own else floats)
        }
    if given:
        raise InvalidArgument(
            f"{next(iter(given))!r} has a baseline but is no source, nor does it lead to one; the sources are "
            f"{', '.join(map(repr, sources))}",
            reason=Reason.BASELINE_INVALID,
        )
    return found


def _constant(model: LoadedModel, name: str, value: Baseline | None) -> Array | None:
    """A baseline of all samples as a constant."""
    if value is None:
        return None
    tensor = model.tensors[name]
    array, kind = np.asarray(value), element_type(tensor)
    sizes = list(tensor.shape or ())
    axis = model.network.input_axes.get(name)
    fits = array.ndim <= len(sizes) and all(
        n == 1 or (isinstance(d, int) and n == d and k != axis)
        for k, (n, d) in enumerate(zip(array.shape[::-1], sizes[::-1], strict=False))
        for k in [len(sizes) - 1 - k]
    )
    if array.dtype.kind not in "fiub" or not fits or not np.isfinite(array.astype(kind)).all():
        raise InvalidArgument(
            f"the baseline of {name!r} is {array.dtype.name} of shape {list(array.shape)}; a file holds finite numbers "
            f"that broadcast to {['?' if not isinstance(d, int) else d for d in sizes]}, one row for all samples",
            reason=Reason.BASELINE_INVALID,
        )
    return array.astype(kind)
