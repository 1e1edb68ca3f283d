"""The small file beside a model: what is read of it, what of it is refused, and what it says in answers."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnx_attribution.errors import ModelError, Reason
from onnx_attribution.server.engine import Engine
from onnx_attribution.server.engine.backend import Backend
from onnx_attribution.server.engine.check import check_file
from onnx_attribution.server.engine.models.card_file import files_beside
from onnx_attribution.values import (
    AttributionRequest,
    ModelInfo,
    Preprocessing,
    References,
    ResolvedTarget,
    Target,
)
from tests.programs import parsed

NET = "net (float[N,3,4,4] image) => (float[N,2] y) { f = Flatten(image) y = Gemm(f, w) }"
W = np.random.default_rng(0).normal(size=(48, 2)).astype(np.float32)
SCORES = "net (float[N,3] x) => (float[N,3] p) { l = Mul(x, k) p = Softmax(l) }"
IMAGE = '[preprocessing.image]\nkind = "image"\nscale = "1/255"\n'
X = np.array([[1, 2, 3], [9, 2, 3]], np.float32)


def written(folder: Path, model: onnx.ModelProto, card: str, name: str = "m") -> Path:
    path = folder / f"{name}.onnx"
    onnx.save(model, path)
    path.with_suffix(".toml").write_text(card)
    return path


def pictures() -> onnx.ModelProto:
    model = parsed(NET)
    model.graph.initializer.append(onnx.numpy_helper.from_array(W, "w"))
    return model


def scores(text: str = SCORES) -> onnx.ModelProto:
    model = parsed(text)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(2, np.float32), "k"))
    return model


def info_of(path: Path, **options: Any) -> ModelInfo:
    with Engine(provider="cpu") as engine:
        engine.add("m", path, **options)
        return engine.info("m")


def target_of(path: Path, target: Any = None, **options: Any) -> ResolvedTarget:
    with Engine(provider="cpu") as engine:
        engine.add("m", path)
        ask = AttributionRequest("m", {"x": X}, "gradient_x_activation", target=target, **options)
        return engine.attribute(ask).target


def test_a_card_says_what_a_model_is(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes("\ufeffcat\r\ndög \r\n\n".removesuffix("\n").encode())
    said = IMAGE + 'size = [4, 4]\nmean = [1, 2, 0.5]\nstd = 0.25\nlayout = "chw"\ncolours = "bgr"\n'
    card = f'description = "What it is."\n{said}[class_names]\ny = "names.txt"\n'
    found = info_of(written(tmp_path, pictures(), card))
    assert found.description == "What it is."
    assert found.class_names == {"y": ("cat", "dög")}
    way = Preprocessing("image", (4, 4), 1 / 255, (1, 2, 0.5), (0.25,), "chw", "bgr")
    assert found.preprocessing == {"image": way}


def test_a_model_without_a_card_says_nothing(tmp_path: Path) -> None:
    onnx.save(pictures(), tmp_path / "m.onnx")
    (tmp_path / "other.toml").write_text("= wrong")
    found = info_of(tmp_path / "m.onnx")
    assert (found.description, found.class_names, found.preprocessing) == ("", {}, {})


def test_bytes_have_the_card_that_is_given_and_a_path_that_one_before_its_own(tmp_path: Path) -> None:
    path = written(tmp_path, pictures(), 'description = "own"')
    (tmp_path / "other.toml").write_text('description = "given"')
    with Engine(provider="cpu") as engine:
        engine.add("bytes", path.read_bytes(), card=tmp_path / "other.toml")
        engine.add("path", path, card=str(tmp_path / "other.toml"))
        engine.add("bare", path.read_bytes())
        engine.add("lost", path.read_bytes(), card=tmp_path / "no.toml")
        said = [engine.info(name).description for name in ("bytes", "path", "bare")]
        assert said == ["given", "given", ""]
        with pytest.raises(ModelError, match=r"no\.toml"):
            engine.info("lost")


@pytest.mark.parametrize(
    ("card", "words"),
    [
        ('description = "a\n"', ["m.toml", "line 1"]),
        ("\n\nx = = 1", ["line 3"]),
        ("a = " + "[" * 5000, ["m.toml"]),
        ("a = " + "9" * 5000, ["m.toml"]),
        ('desciption = "a"', ["'desciption'|desciption", "'description'"]),
        ("description = 3", ["description", "text"]),
        ("class_names = 3", ["class_names", "table"]),
        ('[class_names]\nyy = ["a", "b"]', ["class_names.yy", "'y'"]),
        ('[class_names]\ny = ["a"]', ["class_names.y", r"1 names", r"\[N, 2\]"]),
        ('[class_names]\ny = ["a", 3]', ["class_names.y", "entry 1", "3"]),
        ("[class_names]\ny = []", ["class_names.y"]),
        ('[class_names]\ny = "gaps.txt"', ["class_names.y", "line 2"]),
        ('[class_names]\ny = "latin.txt"', ["latin.txt", "line 2"]),
        ('[class_names]\ny = "lost.txt"', ["class_names.y", "lost.txt", "missing"]),
        ('[preprocessing.images]\nkind = "array"', ["preprocessing.images", "'image'"]),
        ("[preprocessing]\nimage = 3", ["preprocessing.image", "table"]),
        ("[preprocessing.image]\nscale = 1", ["preprocessing.image.kind", "missing", "'image'"]),
        ('[preprocessing.image]\nkind = "picture"', ["preprocessing.image.kind", "'picture'", "'image'"]),
        ('[preprocessing.image]\nkind = "image"', ["preprocessing.image.scale", "missing"]),
        ('[preprocessing.image]\nkind = "text"\nmean = 1', ["preprocessing.image.mean", "'text'"]),
        (IMAGE + "colors = 1", ["preprocessing.image.colors", "'colours'"]),
        (IMAGE + "size = [4, 5]", ["preprocessing.image.size", r"\[N, 3, 4, 4\]"]),
        (IMAGE + "size = 4", ["preprocessing.image.size", "2 numbers"]),
        (IMAGE + "size = [4, 0.5]", ["preprocessing.image.size"]),
        (IMAGE + "std = 0", ["preprocessing.image.std", "0"]),
        (IMAGE + "mean = nan", ["preprocessing.image.mean", "nan"]),
        (IMAGE + 'layout = "chw"\nmean = [1, 2, 3, 4]', ["preprocessing.image.mean", "4 numbers"]),
        (IMAGE + 'mean = "1/0"', ["preprocessing.image.mean"]),
        (IMAGE + "mean = true", ["preprocessing.image.mean"]),
        (IMAGE + 'layout = "nchw"', ["preprocessing.image.layout", "'chw'"]),
        (IMAGE + 'colours = ["rgb"]', ["preprocessing.image.colours", "'rgb'"]),
        ('example = "lost.npz"', ["example", "lost.npz"]),
        ('example = "gaps.txt"', ["example", "gaps.txt"]),
        (f'example = "{"n" * 300}"', ["example", "cannot be read"]),
    ],
)
def test_what_is_wrong_with_a_card_makes_the_model_fail_by_line_or_key(
    tmp_path: Path, card: str, words: list[str]
) -> None:
    (tmp_path / "gaps.txt").write_text("a\n\nb\n")
    (tmp_path / "latin.txt").write_bytes(b"a\n\xe4\n")
    path = written(tmp_path, pictures(), card)
    with Engine(provider="cpu") as engine:
        engine.add("m", path)
        for word in words:
            with pytest.raises(ModelError, match=word) as caught:
                engine.info("m")
        assert caught.value.reason == Reason.CARD_INVALID
        assert str(tmp_path) not in caught.value.message
        (info,) = engine.models()
        assert (info.state, info.reason) == ("FAILED", caught.value.message)


@pytest.mark.parametrize("kind", ["absolute", "above", "link", "folder link", "hard link"])
@pytest.mark.parametrize("key", ["names", "example"])
def test_no_file_outside_of_the_folder_is_read(tmp_path: Path, kind: str, key: str) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "file").write_text("secret\nother\n")
    named = {"absolute": str(outside / "file"), "above": "../outside/file", "folder link": "away/file"}
    (inside / "away").symlink_to(outside)
    if kind == "link":
        (inside / "file").symlink_to(outside / "file")
    elif kind == "hard link":
        os.link(outside / "file", inside / "file")
    name = named.get(kind, "file")
    said = f'example = "{name}"' if key == "example" else f'[class_names]\ny = "{name}"'
    path = written(inside, pictures(), said)
    with pytest.raises(ModelError, match=r"in the folder|link") as caught:
        info_of(path)
    assert "secret" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_a_card_that_is_a_link_is_not_read(tmp_path: Path) -> None:
    path = written(tmp_path, pictures(), "")
    path.with_suffix(".toml").rename(tmp_path / "else.toml")
    path.with_suffix(".toml").symlink_to(tmp_path / "else.toml")
    with pytest.raises(ModelError, match=r"m\.toml.*link"):
        info_of(path)


def test_names_are_of_classes_and_not_of_the_batch_nor_of_what_is_no_tensor_of_scores(tmp_path: Path) -> None:
    body = "{ l = Mul(x, k) p = ArgMax<axis = 1, keepdims = 0>(l) }"
    model = scores("net (float[N,3] x) => (int64[N] p) " + body)
    with pytest.raises(ModelError, match=r"class_names.p.*the scores are 'l'"):
        info_of(written(tmp_path, model, '[class_names]\np = ["a", "b", "c"]'))
    path = written(tmp_path, model, '[class_names]\nl = ["a", "b", "c"]')
    assert target_of(path).labels == ("c", "a")


A_B_C = '[class_names]\np = ["a", "b", "c"]'


@pytest.mark.parametrize(
    ("target", "labels"),
    [
        (None, ("c", "a")),
        (1, ("b", "b")),
        (-1, ("c", "c")),
        ([0, 2], ("a", "c")),
        (slice(0, 2), ("a, b", "a, b")),
        (Target("p", 1, minus=None), ("b", "b")),
        (Target(None, [0, 2], minus=1), ("a - b", "c - b")),
        (Target(None, 1, logit=True), ("b", "b")),
        (Target("l", 2), ("c", "c")),
        (Target(None, 1, mean_centred=True), ("b - mean", "b - mean")),
        (np.array([True, False, True]), ("a, c", "a, c")),
        (np.array([0.5, 0.0, -1.0]), ("a, c", "a, c")),
        (Target("x", 1), ()),
    ],
)
def test_the_classes_of_a_target_have_their_names_per_sample(
    tmp_path: Path, target: Any, labels: tuple[str, ...]
) -> None:
    found = target_of(written(tmp_path, scores(), A_B_C), target, source=["x"])
    assert found.labels == labels


@pytest.mark.parametrize("method", ["gradient", "neuron_ig", "deeplift_rescale", "smoothgrad", "occlusion"])
def test_labels_are_one_for_each_sample_with_references_and_several_targets(
    tmp_path: Path, method: str
) -> None:
    with Engine(provider="cpu") as engine:
        engine.add("m", written(tmp_path, scores(), A_B_C))
        given = {} if method in ("gradient", "smoothgrad") else {"x": References(X[:, ::-1].copy())}
        ask = AttributionRequest("m", {"x": X}, method, targets=[None, 1], baselines=given)
        found = engine.attribute(ask)
    assert [one.labels for one in found.targets] == [("c", "a"), ("b", "b")]


def test_a_region_of_pixels_has_the_name_of_its_class_and_many_classes_none(tmp_path: Path) -> None:
    model = scores("net (float[N,5,2,2] x) => (float[N,5,2,2] p) { p = Mul(x, k) }")
    path = written(tmp_path, model, '[class_names]\np = ["a", "b", "c", "d", "e"]')
    x = np.ones((1, 5, 2, 2), np.float32)
    with Engine(provider="cpu") as engine:
        engine.add("m", path)
        for target, labels in (((3, slice(None), 1), ("d",)), ((slice(None), 0, 0), ())):
            found = engine.attribute(AttributionRequest("m", {"x": x}, "gradient", target=target))
            assert found.target.labels == labels


def test_names_without_an_axis_of_their_own_are_left_out_with_a_warning(tmp_path: Path) -> None:
    model = scores("net (float[N,3,3] x) => (float[N,3,3] p) { p = Mul(x, k) }")
    with Engine(provider="cpu") as engine:
        engine.add("m", written(tmp_path, model, A_B_C))
        x = np.ones((1, 3, 3), np.float32)
        found = engine.attribute(AttributionRequest("m", {"x": x}, "gradient", target=(1, 2)))
    assert found.target.labels == ()
    assert any("3 names of classes of 'p'" in one for one in found.warnings)


def test_an_example_lets_a_model_load_that_random_inputs_do_not_suit(tmp_path: Path) -> None:
    """The Reshape takes its size from an input, of which only 6 and -1 will do."""
    text = "net (float[N,6] x, int64[1] s) => (float[a] y) { y = Reshape(x, s) }"
    onnx.save(parsed(text), tmp_path / "m.onnx")
    s = np.array([6])
    with pytest.raises(ModelError):
        info_of(tmp_path / "m.onnx")
    np.savez(tmp_path / "e.npz", x=np.ones((1, 6)), s=s)
    (tmp_path / "m.toml").write_text('example = "e.npz"')
    with Engine(provider="cpu") as engine:
        engine.add("m", tmp_path / "m.onnx")
        found = engine.example("m")
    assert {name: (array.dtype.name, array.shape) for name, array in found.items()} == {
        "x": ("float32", (1, 6)),
        "s": ("int64", (1,)),
    }


def test_an_example_of_several_samples_leaves_the_batch_what_it_is(tmp_path: Path) -> None:
    np.savez(tmp_path / "e.npz", image=np.ones((3, 3, 4, 4), np.float32))
    path = written(tmp_path, pictures(), 'example = "e.npz"')
    found = info_of(path)
    assert (found.batch, found.inputs[0].batch_axis) == ("dynamic", 0)


def _object(path: Path) -> None:
    np.savez(path, image=np.array([{}], object))


def _bomb(path: Path) -> None:
    """An array of terabytes in a header of 128 bytes."""
    with zipfile.ZipFile(path, "w") as archive, archive.open("image.npy", "w") as file:
        np.lib.format.write_array_header_1_0(
            file, {"shape": (1 << 40, 3, 4, 4), "fortran_order": False, "descr": "<f4"}
        )


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: np.savez(path, imgae=np.ones(3)), "'imgae'.*'image'"),
        (lambda path: np.savez(path, other=np.ones(3)), "'other'.*'image'"),
        (lambda path: np.savez(path), "no array for input 'image'"),
        (
            lambda path: np.savez(path, image=np.ones((1, 3, 4, 5))),
            r"\[1, 3, 4, 5\].*\[N, 3, 4, 4\]|\[1, 3, 4, 5\]",
        ),
        (lambda path: np.savez(path, image=np.ones((3, 4, 4))), r"\[3, 4, 4\]"),
        (lambda path: np.savez(path, image=np.ones((1, 3, 4, 4), int)), "int64.*float32"),
        (_object, "e.npz"),
        (_bomb, "e.npz"),
    ],
)
def test_an_example_that_does_not_fit_is_refused_by_name(
    tmp_path: Path, write: Callable[[Path], None], words: str
) -> None:
    write(tmp_path / "e.npz")
    with pytest.raises(ModelError, match=words) as caught:
        info_of(written(tmp_path, pictures(), 'example = "e.npz"'))
    assert caught.value.reason == Reason.CARD_INVALID


def test_check_does_not_take_a_model_for_sound_whose_card_is_not(tmp_path: Path) -> None:
    path = written(tmp_path, scores(), '[class_names]\nq = ["a"]')
    with pytest.raises(ModelError, match=r"class_names\.q"):
        check_file(path, Backend("cpu"))


def test_the_files_of_a_model_are_its_card_and_those_that_this_names(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("a")
    (tmp_path / "m.toml").write_text('example = "../e.npz"\n[class_names]\ny = "names.txt"\nz = "lost.txt"')
    assert files_beside(tmp_path / "m.onnx") == [tmp_path / "m.toml", tmp_path / "names.txt"]
    (tmp_path / "m.toml").write_text("= = =")
    assert files_beside(tmp_path / "m.onnx") == [tmp_path / "m.toml"]
    (tmp_path / "m.toml").write_text(f'example = "{"n" * 300}"')
    assert files_beside(tmp_path / "m.onnx") == [tmp_path / "m.toml"]
    assert files_beside(tmp_path / "other.onnx") == []
