"""A table of classes is read as it is written, and what is wrong with one is said by line, class and column."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnx_attribution.client.niwt.classes import Classes, read_classes
from onnx_attribution.errors import InvalidArgument

TABLE = "class,seen,striped,hooves\nhorse,0,0,1\ntiger,1,1,\nzebra,,1,1\n"


def read(folder: Path, text: str | bytes) -> Classes:
    file = folder / "classes.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_classes(file)


def test_a_table_is_read_as_it_is_written(tmp_path: Path) -> None:
    found = read(tmp_path, TABLE)
    assert found.names == ("horse", "tiger", "zebra")
    assert found.seen == (0, 1, None)
    assert found.attributes == ("striped", "hooves")
    np.testing.assert_array_equal(found.values, [[0, 1], [1, np.nan], [1, 1]])
    np.testing.assert_array_equal(found.described([1, 0]), [[1, np.nan], [0, 1]])
    assert found.rows_of(["zebra"]) == [2]
    assert found.unseen_names() == ["zebra"]


@pytest.mark.parametrize(
    "text",
    [
        "\ufeff" + TABLE,
        TABLE.replace("\n", "\r\n"),
        TABLE.replace(",", " , "),
        TABLE.replace("\n", "\n\n"),
        TABLE.replace("horse", '"horse"').replace("class,seen", "Class,Seen"),
        TABLE.rstrip("\n"),
    ],
    ids=["byte order mark", "Windows", "spaces", "empty lines", "quotes and capitals", "no last newline"],
)
def test_spreadsheets_write_it_in_many_ways(tmp_path: Path, text: str) -> None:
    wanted, found = read(tmp_path, TABLE), read(tmp_path, text)
    assert (found.names, found.seen, found.attributes) == (wanted.names, wanted.seen, wanted.attributes)
    np.testing.assert_array_equal(found.values, wanted.values)


def test_a_name_may_hold_a_comma_and_letters_of_any_alphabet(tmp_path: Path) -> None:
    assert read(tmp_path, 'class,seen,größe\n"cat, wild",0,1\nжираф,,2\n').names == ("cat, wild", "жираф")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("zebra, horse", ["zebra", "horse"]),
        ('"cat, wild",zebra', ["cat, wild", "zebra"]),
        (' "cat, wild" ', ["cat, wild"]),
        ("cat, wild", ["cat, wild"]),
        ('the ""big"" one', ['the ""big"" one']),
        ('"the ""big"" one"', ['the "big" one']),
        ('the "big" one', ['the "big" one']),
        ("a,b", ["a", "b"]),
        ('"a,b"', ["a,b"]),
        (" , ", []),
    ],
)
def test_a_list_of_names_has_those_with_a_comma_in_quotes(
    tmp_path: Path, text: str, names: list[str]
) -> None:
    table = 'class,seen,x\n"cat, wild",,1\nzebra,,2\nhorse,0,2\n"the ""big"" one",,1\n"a,b",,1\na,,1\nb,,1\n'
    assert read(tmp_path, table).named(text) == names


def test_a_list_of_names_whose_quotes_do_not_close_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="a name with a comma stands in quotes"):
        read(tmp_path, TABLE).named('"zebra')


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("class,seen", "name,seen", "line 1: the header begins with class,seen, not name,seen"),
        (",striped,hooves\n", "\n", "line 1: there are no attributes"),
        ("striped,hooves", "striped,", "line 1: attribute 2 has no name"),
        ("striped,hooves", "striped,Striped", "line 1: the attribute 'Striped' has the name of 'striped'"),
        ("tiger,1,1,", "tiger,1,1", "line 3: it has 3 cells, and the header has 4"),
        ("tiger,1", ",1", "line 3: the class has no name"),
        ("tiger,1", "Horse,1", "line 3: the class 'Horse' has the name of 'horse'"),
        ("tiger,1", "tiger,0", "line 3: the output index 0 of 'tiger' is that of 'horse' already"),
        ("tiger,1", "tiger,-1", "line 3: seen of 'tiger' is '-1', and no output index"),
        ("tiger,1", "tiger,yes", "line 3: seen of 'tiger' is 'yes', and no output index"),
        ("tiger,1", "tiger,1.5", "line 3: seen of 'tiger' is '1.5', and no output index"),
        ("horse,0,0", "horse,0,no", "line 2: 'striped' of 'horse' is 'no', and no number"),
        ("horse,0,0", "horse,0,nan", "line 2: 'striped' of 'horse' is 'nan', and no number"),
        ("horse,0,0", "horse,0,1_0", "line 2: 'striped' of 'horse' is '1_0', and no number"),
        ("zebra,,1,1", "zebra,,,", "line 4: the class 'zebra' has no attributes"),
        (TABLE, "", "the table is empty"),
        (TABLE[TABLE.index("\n") :], "\n", "there are no classes, only a header"),
        ("horse", '"horse', "cannot be read as a table"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in TABLE
    with pytest.raises(InvalidArgument) as caught:
        read(tmp_path, TABLE.replace(old, new))
    assert words in caught.value.message


def test_a_file_that_is_no_text_and_one_that_is_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="cannot be read as a table"):
        read(tmp_path, b"\xff\xfe\x00")
    with pytest.raises(InvalidArgument, match="cannot be read as a table"):
        read_classes(tmp_path / "none.csv")


def test_classes_that_are_not_there_are_refused_with_those_that_are(tmp_path: Path) -> None:
    found = read(tmp_path, TABLE)
    with pytest.raises(InvalidArgument, match="no class 'quagga'; those without an output index are: zebra"):
        found.rows_of(["quagga"])
    with pytest.raises(InvalidArgument, match="'zebra' is named twice"):
        found.rows_of(["zebra", "zebra"])
    with pytest.raises(InvalidArgument, match="no class has the output index 5"):
        found.described([0, 5])
    with pytest.raises(InvalidArgument, match="'tiger' has the output index 1; the network's go from 0 to 0"):
        found.require_outputs(1)
    found.require_outputs(2)


def test_few_seen_classes_and_attributes_that_are_the_same_for_all_are_warned_of(tmp_path: Path) -> None:
    few = read(tmp_path, TABLE).warnings()
    assert "describes 2 classes that the network has seen" in few[0]
    assert "'hooves' does not tell seen classes apart" in few[1]
    rows = "\n".join(f"c{k},{k},{k % 2},{k % 3}" for k in range(20))
    assert read(tmp_path, f"class,seen,a,b\n{rows}\n").warnings() == []
    assert len(read(tmp_path, f"class,seen,a,b\n{rows}\n".replace("c19,19", "c19,")).warnings()) == 1
