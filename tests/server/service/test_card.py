"""The small file beside a served model: in messages, and what a changed or malformed one does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnx_attribution import errors
from onnx_attribution.proto import attribution_pb2 as pb
from onnx_attribution.proto import catalog, events
from onnx_attribution.server.service.repository import Repository
from onnx_attribution.values import Attribution, ModelInfo, Preprocessing, ResolvedTarget
from tests.server.service.test_lifecycle import X, serving, write

NAMES = '[class_names]\ny = "names.txt"'


def card(folder: Path, text: str) -> None:
    (folder / "m" / "1" / "model.toml").write_text(text)


def names(folder: Path, *given: str) -> None:
    (folder / "m" / "1" / "names.txt").write_text("\n".join(given))


@pytest.mark.parametrize(
    "way",
    [
        Preprocessing("text"),
        Preprocessing("image", (2, 3), 1 / 255, (0.1, 0.2, 0.3), (0.5,), "hwc", "bgr"),
        Preprocessing("image", None, 2.0),
    ],
)
def test_what_a_card_says_goes_into_a_message_and_comes_back(way: Preprocessing) -> None:
    info = ModelInfo(
        "m",
        1,
        "READY",
        batch="single",
        description="d",
        class_names={"y": ("a", "b")},
        preprocessing={"x": way},
    )
    message = pb.Model.FromString(catalog.to_model(info).SerializeToString())
    assert catalog.from_model(message) == info


@pytest.mark.parametrize("labels", [(), ("cat", "")])
def test_labels_go_into_a_summary_and_come_back(labels: tuple[str, ...]) -> None:
    two = np.array([1.0, 2.0])
    target = ResolvedTarget("y", ("0", "1"), two, two, labels)
    answer = Attribution("gradient", "dynamic", (target,), {}, 2, 0, 0.1, "d", "cpu")
    assert events.from_summary(events.to_summary(answer), []).target.labels == labels


def test_answers_and_models_have_what_the_card_says(tmp_path: Path) -> None:
    write(tmp_path, "m", 2)
    card(tmp_path, 'description = "Twice."\n' + NAMES)
    names(tmp_path, "left", "right")
    with serving(tmp_path) as served:
        found = served.client.model("m")
        assert (found.description, found.class_names) == ("Twice.", {"y": ("left", "right")})
        assert served.client.attribute("m", X, method="gradient").target.labels == ("right",)
        stream = served.client.attribute("m", np.array([[3, 2], [2, 3]], np.float32), targets=[None, 0])
        assert [one.labels for one in stream.targets] == [("left", "right"), ("left", "left")]


def test_a_changed_card_or_file_of_it_is_loaded_and_a_malformed_one_leaves_the_old(tmp_path: Path) -> None:
    write(tmp_path, "m", 2)
    with serving(tmp_path) as served:
        assert served.load("m").description == ""
        names(tmp_path, "left", "right")
        card(tmp_path, 'description = "new"\n' + NAMES)
        assert served.load("m").description == "new"
        names(tmp_path, "up", "down")
        assert list(served.load("m").class_names["y"].names) == ["up", "down"]
        card(tmp_path, 'descripton = "newer"')
        with pytest.raises(errors.ModelError, match=r"model.toml: descripton.*'description'") as caught:
            served.load("m")
        assert caught.value.reason == errors.Reason.CARD_INVALID
        assert str(tmp_path) not in str(caught.value)
        assert served.client.model("m").description == "new"
        (tmp_path / "m" / "1" / "model.toml").unlink()
        assert served.load("m").description == ""


def test_a_model_whose_card_is_wrong_is_listed_as_failed_with_the_key(tmp_path: Path) -> None:
    write(tmp_path, "m", 2)
    write(tmp_path, "other", 3)
    card(tmp_path, '[class_names]\ny = ["a", "b", "c"]')
    with serving(tmp_path) as served:
        with pytest.raises(errors.ModelError, match=r"class_names\.y"):
            served.client.attribute("m", X)
        (failed,) = [one for one in served.client.models() if one.state == "FAILED"]
        assert failed.name == "m"
        assert "model.toml: class_names.y: there are 3 names" in failed.reason
        assert served.y("other") == 3


def test_who_follows_the_folders_sees_a_changed_card(tmp_path: Path) -> None:
    write(tmp_path, "m", 2)
    with serving(tmp_path) as served:
        repository = Repository(served.engine, [tmp_path])
        repository.start(lambda file, why: None)
        changes: list[tuple[str, str]] = []
        card(tmp_path, 'description = "new"')
        repository.follow(lambda name, what: changes.append((name, what)))
        assert changes == [("m", "replaced")]
        assert served.client.model("m").description == "new"
