"""Who sees the page: who has its key, on this machine, and no page of another place."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.server.web.visitor import Visitor, visiting


@pytest.fixture(scope="module")
def visitor(tmp_path_factory: pytest.TempPathFactory, digits_path: Path) -> Iterator[Visitor]:
    """Yields somebody who has opened the page of a model."""
    place = tmp_path_factory.mktemp("guard")
    shutil.copy(digits_path, place)
    with visiting(place / "digits.onnx") as one:
        yield one


def test_without_the_key_there_is_nothing_to_see(visitor: Visitor) -> None:
    stranger = Visitor(visitor.url)
    for path in ("/", "/explain?model=digits.onnx", "/page.js", "/?key=wrong", "/?key=%ff"):
        answer = stranger.ask(path)
        assert answer.status == 403
        assert "digits" not in answer.text
    assert stranger.ask("/", Cookie="page=; ;;=").status == 403


def test_the_key_leaves_the_address_for_a_cookie_that_scripts_do_not_see(visitor: Visitor) -> None:
    answer = Visitor(visitor.url).ask(f"/?{urlsplit(visitor.url).query}&model=m")
    assert answer.status == 200
    assert 'content="0;url=/?model=m"' in answer.text
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert "SameSite=strict" in answer.headers["set-cookie"]


def test_the_key_leads_to_this_page_only(visitor: Visitor) -> None:
    key = urlsplit(visitor.url).query
    assert (
        'content="0;url=/evil.example/?a=%22%3E%3Cb%3E"'
        in Visitor(visitor.url).ask(f"//evil.example/?a=%22%3E%3Cb%3E&{key}").text
    )


def test_another_name_of_this_machine_is_refused(visitor: Visitor) -> None:
    port = urlsplit(visitor.url).port
    assert visitor.ask("/", Host=f"localhost:{port}").status == 303
    for host in ("evil.example", f"127.0.0.1.evil.example:{port}", "", "[::1", "10.0.0.1"):
        assert visitor.ask("/", Host=host).status == 421


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", None])
def test_files_come_from_the_page_only(visitor: Visitor, origin: str | None) -> None:
    headers = {} if origin is None else {"Origin": origin}
    answer = visitor.ask("/upload?model=digits.onnx&name=a.npy", b"x", **headers)
    assert answer.status == 403


def test_another_page_may_lead_here_and_ask_for_nothing(visitor: Visitor) -> None:
    asked = "/spine?model=digits.onnx&input=beside:x"
    assert visitor.ask(asked, Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors").status == 403
    assert visitor.ask("/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate").status == 303


def test_every_answer_forbids_what_comes_from_elsewhere(visitor: Visitor) -> None:
    for path in (
        "/",
        "/explain?model=digits.onnx",
        "/page.css",
        "/page.js",
        "/nowhere",
        "/stream?model=none",
    ):
        policy = visitor.ask(path).headers["content-security-policy"]
        assert policy.startswith("default-src 'self';")
        assert "unsafe" not in policy
        assert "http" not in policy


def test_no_element_has_a_style_or_a_script_of_its_own(visitor: Visitor) -> None:
    text = visitor.get("/explain", model="digits.onnx").text
    assert " style=" not in text
    assert not re.search(r"<[^>]* on\w+=", text)
    assert re.findall(r"<script[^>]*>", text) == ['<script src="/page.js" defer>']


def test_files_of_nobody_are_not_found(visitor: Visitor) -> None:
    for name in ("beside:../../etc/passwd", "beside:digits.onnx", "0123456789abcdef", "/etc/passwd"):
        kind, told = visitor.events(model="digits.onnx", input=name)[-1]
        assert kind == "refused"
        assert "root:" not in told["html"]
