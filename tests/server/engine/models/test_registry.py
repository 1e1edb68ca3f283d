"""Models that are replaced or removed: who runs on them finishes, and nobody holds them longer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from onnx_attribution.errors import NotFound
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.engine.models.loaded import LoadedModel
from onnx_attribution.values import AttributionRequest, Revision, Target
from tests.programs import parsed

X = np.array([[1, 2, 3]], dtype=np.float32)


def net(factor: float) -> bytes:
    """`y = factor * x`."""
    text = f"net (float[N, 3] x) => (float[N, 3] y) {{ f = Constant<value = float {{{factor}}}>() y = Mul(x, f) }}"
    return parsed(text).SerializeToString()


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(provider="cpu", threads=1) as made:
        made.add("net", net(2))
        yield made


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The digests of the models closed so far."""
    found: list[str] = []
    close = LoadedModel.close

    def told(model: LoadedModel) -> None:
        found.append(model.digest)
        close(model)

    monkeypatch.setattr(LoadedModel, "close", told)
    return found


def slope(engine: Engine, name: str = "net") -> float:
    answer = engine.attribute(AttributionRequest(name, {"x": X}, "gradient", target=Target("y", 1)))
    return float(answer.layers["x"].values[0, 1])


def request() -> AttributionRequest:
    return AttributionRequest("net", {"x": X}, "integrated_gradients", target=Target("y", 1), steps=4)


@pytest.mark.parametrize("change", ["replaced", "removed", "engine closed"])
def test_a_stream_finishes_on_the_model_it_began_with(engine: Engine, closed: list[str], change: str) -> None:
    digest = engine.info("net").digest
    stream = engine.stream(request())
    next(stream)
    match change:
        case "replaced":
            engine.add("net", net(5))
        case "removed":
            engine.remove("net")
        case _:
            engine.close()
    assert closed == []
    revisions = [event.attribution for event in stream if isinstance(event, Revision)]
    assert revisions[-1].layers["x"].values.tolist() == [[0, 4, 0]]
    assert closed == [digest]


def test_a_stream_that_is_dropped_holds_no_model(engine: Engine, closed: list[str]) -> None:
    stream = engine.stream(request())
    next(stream)
    engine.remove("net")
    assert closed == []
    stream.close()  # type: ignore[attr-defined]
    assert len(closed) == 1


def test_a_replaced_model_answers_no_more(engine: Engine, closed: list[str]) -> None:
    assert slope(engine) == 2
    digest = engine.info("net").digest
    engine.add("net", net(5))
    assert closed == [digest]
    assert slope(engine) == 5


def test_a_version_is_removed_alone(engine: Engine) -> None:
    engine.add("net", net(5), version=3)
    assert slope(engine) == 5
    engine.remove("net", 3)
    assert slope(engine) == 2
    with pytest.raises(NotFound, match=r"no version '3'; it has: 1"):
        engine.info("net/versions/3")
    with pytest.raises(NotFound, match=r"no version '3'; it has: 1"):
        engine.remove("net", 3)


def test_all_versions_go_with_the_name(engine: Engine) -> None:
    engine.add("net", net(5), version=3)
    engine.add("nets", net(5))
    engine.remove("net")
    assert [info.name for info in engine.models()] == ["nets"]
    for call in (engine.info, engine.layers, engine.remove):
        with pytest.raises(NotFound, match=r"no model 'net'; close names: nets"):
            call("net")


def test_a_model_that_never_loaded_can_be_removed(engine: Engine, closed: list[str]) -> None:
    engine.add("broken", b"no model")
    engine.remove("broken")
    engine.remove("net")
    assert engine.models() == []
    assert closed == []
