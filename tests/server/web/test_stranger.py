"""What people meet who know nothing of a model: files that do not fit, models of text and of rows, models without
derivatives or scores; all of it is said in words, with what would work."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.server.cli.commands import explained, model
from tests.server.web.visitor import Visitor, command_of, sums_of, visiting


def words(text: str) -> str:
    """Returns what there is to read."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", text)))


# --- files


@pytest.fixture(scope="module")
def visitor(digits_path: Path) -> Iterator[Visitor]:
    """Yields somebody who has opened the page of a model that takes pictures."""
    with visiting(digits_path) as one:
        yield one


def written(name: str, file: Path) -> None:
    match name:
        case "flat.npy":
            np.save(file, np.zeros((3, 5), np.float32))
        case "objects.npy":
            np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
        case "two.npz":
            np.savez(file, p=np.zeros((1, 1, 8, 8), np.float32), q=np.zeros((1, 1, 8, 8), np.float32))
        case _:
            file.write_bytes(b"" if name == "empty.npy" else b"something else")


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("flat.npy", "has shape [3, 5]; the model takes ['batch', 1, 8, 8]"),
        ("objects.npy", "'objects.npy' is no file of numbers or text"),
        ("two.npz", "has the arrays p, q, none of them 'image'; name it so"),
        ("empty.npy", "is empty"),
        ("notes.txt", "'notes.txt' is of no known kind; read are .npy"),
        ("photo.png", "pillow knows no such picture"),
        ("model.onnx", "is of no known kind"),
    ],
)
def test_a_file_that_is_no_input_is_refused_as_it_is_sent(
    visitor: Visitor, tmp_path: Path, name: str, word: str
) -> None:
    written(name, tmp_path / name)
    told = visitor.upload(tmp_path / name, "digits.onnx")
    assert word in words(told["html"])
    assert "What would work" in told["html"]
    assert not re.search(r"[0-9a-f]{16}/", told["html"])


def test_a_file_that_is_too_large_is_refused(
    visitor: Visitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnx_attribution.server.web.pages.files.MOST_BYTES", 1 << 20)
    (tmp_path / "huge.npy").write_bytes(bytes((1 << 20) + 1))
    assert "'huge.npy' is larger than 1 MiB" in words(
        visitor.upload(tmp_path / "huge.npy", "digits.onnx")["html"]
    )
    assert re.search(r'data-most="\d{8}"', visitor.get("/explain", model="digits.onnx").text)


# --- models


def test_a_sample_of_few_values_is_typed(tmp_path: Path) -> None:
    text = (
        "m (string[N,1] s, float[N,1] a, float[N,2] b) => (float[N,2] y, string[N,1] t) "
        "{ t = Identity(s) y = Mul(a, b) }"
    )
    file = model(tmp_path, text)
    with visiting(file) as visitor:
        page = words(visitor.get("/explain", model="text.onnx").text)
        assert "as s=text a=1 b=1,1" in page
        assert "or type one" in page
        asked: dict[str, Any] = {"model": "text.onnx", "input": "values", "target": "y:1"}
        found = visitor.final(**asked, method="gradient_x_activation", values="s='two words' a=3 b=2,-5")
        assert sums_of(found) == pytest.approx([-15, -15])
        command = command_of(found)
        assert "s=two words" in command
        told = explained(*command[1:])
        assert [told["layers"][name]["sum"][0] for name in "ab"] == pytest.approx([-15, -15])
        for values, word in {
            "a=3 b=2,-5": "there is no value of 's'",
            "s=x a=3 b=2": "is no sample; write it as s=text a=1 b=1,1",
            "s=x a=/etc/passwd b=1,2": "names a file",
            "s=@x a=1 b=1,2": "names a file",
            "3 4 5": "is for no input",
        }.items():
            kind, refusal = visitor.events(**asked, values=values)[-1]
            assert kind == "refused"
            assert word in words(refusal["html"])


def test_without_derivatives_a_method_without_them_is_one_click_away(tmp_path: Path) -> None:
    file = model(tmp_path, "m (float[N,2] x) => (float[N,2] y) { h = Sign(x) y = Add(h, h) }")
    with visiting(file) as visitor:
        asked = {"model": "text.onnx", "input": "values", "values": "3,-1"}
        kind, told = visitor.events(**asked)[-1]
        assert kind == "refused"
        assert "every way goes through Sign" in words(told["html"])
        links = [html.unescape(one) for one in re.findall(r'href="/explain\?([^"]*)"', told["html"])]
        assert "method=occlusion" in links[0]
        # Of y = 2 sign(x) the first element has 2, and nothing of the other.
        assert sums_of(visitor.final(**asked, method="occlusion", target="0")) == pytest.approx([2])


def test_a_model_without_scores_has_its_page(tmp_path: Path) -> None:
    file = model(tmp_path, "m (float[N,3] x) => (int64[N] y) { y = ArgMax<axis=1, keepdims=0>(x) }")
    with visiting(file) as visitor:
        asked = {"model": "text.onnx", "input": "values", "values": "1,5,2"}
        answer = visitor.get("/explain", **asked)
        assert answer.status == 200
        assert "y 1" in words(visitor.get("/prediction", **asked).text)
        assert "no output of the model holds floats" in words(visitor.events(**asked)[-1][1]["html"])
        # Without its 5 the largest is the last, 2: that takes 1 - 2. The others change nothing.
        assert sums_of(visitor.final(**asked, method="occlusion", target="y")) == pytest.approx([-1])


def test_the_scores_behind_a_label_are_shown(tmp_path: Path) -> None:
    text = "m (float[N,3] x) => (int64[N] y) { s = Softmax(x) y = ArgMax<axis=1, keepdims=0>(s) }"
    with visiting(model(tmp_path, text)) as visitor:
        found = visitor.get("/prediction", model="text.onnx", input="values", values="1,5,2").text
    e = np.exp([1.0, 5.0, 2.0])
    assert f"1 {e[1] / e.sum():.4g}" in words(found)
    assert "y 1" in words(found)
    assert 'target=1"' in found


def test_a_model_of_other_layers_has_them_all_on_its_spine(tmp_path: Path) -> None:
    with visiting(
        model(tmp_path, "m (float[N,2] x) => (float[N,2] y) { h = Neg(x) y = Add(h, h) }")
    ) as visitor:
        found = visitor.spine(
            model="text.onnx", input="values", values="1,2", target="0", method="deeplift_rescale"
        )
    assert re.findall(r'class="name">(\w+)<', found) == ["x", "h", "y"]


def test_a_method_that_says_nothing_of_layers_names_those_that_do(
    visitor: Visitor, digits_path: Path
) -> None:
    key = visitor.upload(digits_path.with_name("digits.npz"), "digits.onnx")["key"]
    found = visitor.spine(model="digits.onnx", input=key, method="occlusion")
    assert "nothing of those between" in found
    links = [html.unescape(one) for one in re.findall(r'href="/explain\?([^"]*)"', found)]
    assert "method=deeplift_rescale" in links[1]


def test_of_several_outputs_a_score_is_chosen_by_a_click(tmp_path: Path) -> None:
    text = "m (float[N,2] x) => (float[N,2] y, float[N,3] z) { y = Relu(x) z = MatMul(x, w) }"
    file = model(tmp_path, text.replace("m (float[N,2] x)", "m (float[N,2] x, float[2,3] w)"))
    with visiting(file) as visitor:
        np.savez(
            tmp_path / "in.npz", x=np.ones((1, 2), np.float32), w=np.arange(6, dtype=np.float32).reshape(2, 3)
        )
        key = visitor.upload(tmp_path / "in.npz", "text.onnx")["key"]
        asked = {"model": "text.onnx", "input": key, "method": "gradient_x_activation"}
        told = words(visitor.events(**asked)[-1][1]["html"])
        assert "name the target: 'y', 'z'" in told
        assert "A click on a score" in told
        link = re.search(r"target=(z%3A2)", visitor.get("/prediction", **asked).text)
        assert link is not None
        assert 7 in sums_of(visitor.final(**asked, target="z:2"))  # 2 + 5
