"""docs/licences.md lists what images hold, under licences that are allowed; others are refused."""

from __future__ import annotations

import pytest

from tests.image.dockerfile import ROOT
from tests.image.test_locks import locked
from tests.release.licences import allowed, page, rows

PAGE = (ROOT / "docs" / "licences.md").read_text()


def test_every_package_of_the_image_is_listed_with_an_allowed_licence() -> None:
    found = rows(PAGE)
    assert locked("cpu").keys() <= found.keys(), "run: make licences"
    assert {name: licence for name, licence in found.items() if not allowed(licence)} == {}


def test_the_page_is_what_its_command_makes_of_its_rows() -> None:
    assert page(rows(PAGE).items()) == PAGE, "run: make licences"


@pytest.mark.parametrize(
    ("licence", "fine"),
    [
        ("MIT", True),
        ("Apache-2.0 OR GPL-3.0-only", True),
        ("MIT AND GPL-3.0-only", False),
        ("GPL-3.0-only", False),
        ("GNU Affero General Public License v3", False),
        ("BSD-3-Clause AND 0BSD AND MIT AND Zlib AND CC0-1.0", True),
        ("(MIT OR Apache-2.0) AND GPL-3.0-only", False),
        ("(MIT OR Apache-2.0) AND BSD-3-Clause", True),
        ("ISC License (ISCL)", True),
        ("A Licence of Ours (ALO)", False),
        ("MIT License; BSD License", True),
        ("UNKNOWN", False),
        ("", False),
    ],
)
def test_a_licence_that_nobody_allowed_is_refused(licence: str, fine: bool) -> None:
    assert allowed(licence) is fine
