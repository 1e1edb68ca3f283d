"""Every method has a class, a recipe, a message and a definition in numpy, and the engine's numbers are those."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from onnx_attribution.methods import registered
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.server.engine import Engine
from onnx_attribution.values import AttributionRequest
from tests.definitions.network import HIDDEN, SOURCE, drawn

NAMES = sorted(name for name, cls in registered().items() if cls.__module__.startswith("onnx_attribution."))


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        yield made


def definition(name: str) -> ModuleType:
    """The definition of a method."""
    return importlib.import_module(f"tests.definitions.{name}")


def test_every_method_has_a_recipe_a_message_and_a_definition(engine: Engine) -> None:
    assert [one.name for one in engine.methods() if one.name in NAMES] == [
        name for name in registered() if name in NAMES
    ]
    messages = pb.AttributeRequest.DESCRIPTOR.oneofs_by_name["method"].fields
    assert {one.name for one in messages} - {"custom"} == set(NAMES)
    assert all(definition(name).attributions for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_message_has_a_field_for_each_parameter(engine: Engine, name: str) -> None:
    info = next(one for one in engine.methods() if one.name == name)
    field = pb.AttributeRequest.DESCRIPTOR.fields_by_name[name]
    assert field.message_type is not None
    assert [one.name for one in field.message_type.fields] == [one.name for one in info.parameters]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("changed", [False, True], ids=["defaults", "changed"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_numbers_are_those_of_the_definition(engine: Engine, name: str, changed: bool, seed: int) -> None:
    net, x, baseline = drawn(seed)
    engine.add(f"net{seed}", net.model())
    own: Any = definition(name)
    parameters = getattr(own, "CHANGED" if changed else "GIVEN", {})
    for layer in getattr(own, "LAYERS", (SOURCE, HIDDEN)):
        answer = engine.attribute(
            AttributionRequest(
                f"net{seed}",
                {"x": x},
                name,
                getattr(own, "ASKED", [layer]),
                baselines={"x": baseline},
                **parameters,
            )
        )
        found = np.asarray(answer.layers[layer].values, np.float64)
        wanted = own.attributions(net, layer, x, baseline, **parameters)
        if not changed and hasattr(own, "TOLERANCE"):
            assert np.abs(found - wanted).sum() <= own.TOLERANCE * np.abs(wanted).sum()
        else:
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
