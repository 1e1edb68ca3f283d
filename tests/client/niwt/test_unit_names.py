"""A table of names is read as it is written; only what is above chance is shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnx_attribution.client.niwt.unit_names import UnitName, UnitNames, read_names
from onnx_attribution.errors import InvalidArgument

NAMES = UnitNames(
    (
        UnitName("conv", 0, "striped, wide", 2.5, 1.0, "ab" * 32),
        UnitName("conv", 1, 'a "big"\nhoof', 0.5, 1.0),
        UnitName("conv", 3, "größe", 3.0, 1.0),
        UnitName("dense", 1, "hooves", 2.0, 1.0),
    )
)


def test_a_table_is_read_as_it_is_written(tmp_path: Path) -> None:
    NAMES.write(tmp_path / "names.csv")
    assert read_names(tmp_path / "names.csv") == NAMES
    assert (tmp_path / "names.csv").read_text().splitlines()[0] == "layer,unit,name,score,null,model"


def test_a_table_without_digests_is_read_and_tells_of_no_model(tmp_path: Path) -> None:
    (tmp_path / "old.csv").write_text("layer,unit,name,score,null\nconv,1,a,3,2\n")
    assert read_names(tmp_path / "old.csv") == UnitNames((UnitName("conv", 1, "a", 3.0, 2.0),))
    assert read_names(tmp_path / "old.csv").strange("cd" * 32) == ""


def test_names_of_another_model_are_told_but_for_those_of_the_one_that_it_was_made_of() -> None:
    assert NAMES.strange("ab" * 32) == NAMES.strange("cd" * 32, ["ab" * 32]) == ""
    words = NAMES.strange("cd" * 32, ["ef" * 32])
    assert "names.csv names units of another model: the digest of its file is abababababab..." in words
    assert "here cdcdcdcdcdcd..." in words


def test_names_by_chance_are_not_shown() -> None:
    assert NAMES.of("conv") == {0: "striped, wide", 3: "größe"}
    assert NAMES.words("conv") == "0 striped, wide, 3 größe"
    assert NAMES.words("none") == ""
    many = UnitNames(tuple(UnitName("l", k, "n", 2, 1) for k in range(9)))
    assert many.words("l") == "0 n, 1 n, 2 n, 3 n, 4 n, ... (9 in all)"


@pytest.mark.parametrize(
    "values",
    [
        np.array([1.0, 50, 0, -4]),
        np.array([[0.5, 50, 0, -2], [0.5, 0, 0, -2]]),
        np.array([1.0, 50, 0, -4])[:, None, None] * np.full((1, 2, 2), 0.25),
    ],
    ids=["units", "tokens", "positions"],
)
def test_those_that_contribute_most_come_first(values: np.ndarray) -> None:
    assert NAMES.strongest("conv", values) == "3 größe -4, 0 striped, wide +1"
    assert NAMES.strongest("none", values) == ""
    assert NAMES.strongest("conv", np.zeros_like(values)) == ""
    assert NAMES.strongest("conv", np.array([1.0])) == "0 striped, wide +1"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n", "names.csv is no table of names; it begins with layer,unit,name,score,null,model"),
        ("", "is no table of names"),
        (
            "layer,unit,name,score,null\nconv,x,a,1,2\n",
            "line 2: conv,x,a,1,2 is not layer,unit,name,score,null",
        ),
        ("layer,unit,name,score,null\nconv,1,a,1\n", "line 2"),
        ("layer,unit,name,score,null\nconv,-1,a,1,2\n", "line 2"),
        ("layer,unit,name,score,null\nconv,1,a,nan,2\n", "line 2"),
        (
            "layer,unit,name,score,null\nconv,1,a,3,2\nconv,1,b,3,2\n",
            "line 3: unit 1 of 'conv' has a name already",
        ),
        ('layer,unit,name,score,null\n"conv', "cannot be read as a table"),
    ],
)
def test_what_is_no_table_of_names_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "names.csv").write_text(text)
    with pytest.raises(InvalidArgument) as caught:
        read_names(tmp_path / "names.csv")
    assert words in caught.value.message


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="cannot be written"):
        NAMES.write(tmp_path / "none" / "names.csv")
    with pytest.raises(InvalidArgument, match="cannot be read as a table"):
        read_names(tmp_path / "none.csv")
