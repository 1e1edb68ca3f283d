"""The page of a model in Chromium: load, pick, upload, compare, save; nothing is asked for elsewhere or said to be
wrong, and a phone shows it whole, in dark and in light."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from numpy.typing import NDArray

from onnx_attribution.server.web import in_browser
from tests.browser.test_browser import scripted
from tests.server.web.visitor import visiting


@pytest.fixture(scope="module")
def seen(
    tmp_path_factory: pytest.TempPathFactory,
    digits_path: Path,
    digits_data: tuple[NDArray[np.float32], NDArray[np.int64]],
) -> dict[str, Any]:
    """Returns what Chromium says of the page."""
    folder, out = tmp_path_factory.mktemp("model"), tmp_path_factory.mktemp("desk")
    shutil.copy(digits_path, folder)
    np.save(folder / "three.npy", digits_data[0][:3])
    np.save(out / "mine.npy", digits_data[0][5:6])
    began: list[str] = []
    with (
        visiting(folder / "digits.onnx", data=digits_path.with_name("digits.npz")) as visitor,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr("webbrowser.open", began.append)
        with in_browser(visitor.url):  # a file that leads there
            found: dict[str, Any] = json.loads(scripted("desk.mjs", *began, out / "mine.npy", out))
        return {**found, "at": urlsplit(visitor.url).netloc}


def test_revisions_are_seen_to_change_until_the_last(seen: dict[str, Any]) -> None:
    numbers = seen["opened"]["numbers"]
    assert len(numbers) > 1
    assert numbers == sorted(set(numbers))
    assert seen["opened"]["final"] in numbers
    assert "key" not in seen["opened"]["address"]


def test_a_layer_is_picked_on_the_spine(seen: dict[str, Any]) -> None:
    assert seen["picked"]["layer"] == "relu2"
    assert "relu2" in seen["picked"]["current"]
    assert "is to be explained" in seen["picked"]["facts"]


def test_a_unit_has_its_examples(seen: dict[str, Any]) -> None:
    assert re.fullmatch(r"Unit \d+ of relu2", seen["unit"]["title"])
    assert seen["unit"]["images"] == 18
    assert seen["unit"]["broken"] == 0


def test_a_file_is_sent_and_explained(seen: dict[str, Any]) -> None:
    assert seen["uploaded"]["input"] == "mine.npy"
    assert "--input mine.npy" in seen["uploaded"]["command"]


def test_a_file_that_is_no_input_or_too_large_is_refused_in_words(seen: dict[str, Any]) -> None:
    assert "'notes.txt' is of no known kind" in seen["wrong"]
    assert "huge.npy is larger than the 0.5 MiB" in seen["huge"]


def test_a_file_is_sent_as_the_baseline(seen: dict[str, Any]) -> None:
    assert "mine.npy, where the target is" in seen["baseline"]


def test_two_methods_are_compared_by_the_keyboard(seen: dict[str, Any]) -> None:
    assert seen["focused"] == "b.method"
    assert [one.split(" relu2")[0] for one in seen["compared"]] == ["neuron ig", "deeplift rescale"]


def test_a_refusal_is_read_in_words(seen: dict[str, Any]) -> None:
    assert "77" in seen["refused"]
    assert "What would work" in seen["refused"]
    assert seen["saved_refusals"] == 0


def test_the_saved_file_opens_alone(seen: dict[str, Any]) -> None:
    assert len(seen["alone"]["requests"]) == 1
    assert seen["alone"]["messages"] == []
    assert seen["alone"]["broken"] == 0
    assert len(seen["alone"]["commands"]) == 2


def test_nothing_is_asked_for_elsewhere_and_nothing_is_said_on_the_console(seen: dict[str, Any]) -> None:
    assert {urlsplit(one).netloc for one in seen["requests"]} == {seen["at"]}
    assert seen["messages"] == []


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_picture_is_broken_and_nothing_lies_outside(seen: dict[str, Any], scheme: str, width: int) -> None:
    found = seen["widths"][f"{scheme} {width}"]
    assert found["images"] >= 4
    assert found["broken"] == 0
    assert found["page"] <= width
    assert found["narrow"] == 0
    assert found["smallest"] >= 12
    ink, paper = (
        sum(int(part) for part in found[name].strip("rgb()").split(",")[:3]) for name in ("ink", "paper")
    )
    assert ink > paper if scheme == "dark" else ink < paper
