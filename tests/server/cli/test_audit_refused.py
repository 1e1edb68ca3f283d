"""What a user gets wrong in data, labels and folders of an audit is said as such, before any work is done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.server.cli.commands import run

for needed in ("jinja2", "pyarrow", "scipy", "skimage"):
    pytest.importorskip(needed)
Data = tuple[NDArray[np.float32], NDArray[np.int64]]
CHEAP = ["--methods", "gradient", "--checks", "none"]


@pytest.fixture
def samples(tmp_path: Path, digits_data: Data) -> Path:
    path = tmp_path / "digits.npz"
    np.savez(path, image=digits_data[0][:2], labels=digits_data[1][:2])
    return path


def as_npy(path: Path) -> None:
    with path.open("wb") as opened:
        np.save(opened, np.zeros((2, 1, 8, 8), np.float32))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:200]), "cannot be read"),
        (as_npy, "name it .npy"),
    ],
    ids=["empty", "cut", "npy"],
)
def test_broken_data_is_said_to_be_so(
    spoil: Callable[[Path], None], said: str, tmp_path: Path, digits_path: Path, samples: Path
) -> None:
    spoil(samples)
    done = run("audit", digits_path, "--data", samples, *CHEAP, "--out", tmp_path / "out")
    assert (done.exit_code, said in done.stderr) == (2, True), done.stderr


def test_labels_are_one_for_each_sample(tmp_path: Path, digits_path: Path, digits_data: Data) -> None:
    images = digits_data[0][:2]
    for labels, status in (
        (np.eye(10)[[3, 4]], 2),
        (np.array(3), 2),
        (np.array([[3], [4]]), 0),
        (np.array(["²", "3"]), 0),
        (np.array([b"3", b"4"]), 0),
    ):
        np.savez(tmp_path / "x.npz", image=images, labels=labels)
        given = ["--data", str(tmp_path / "x.npz"), *CHEAP, "--anew", "--out", str(tmp_path / "out")]
        done = run("audit", digits_path, *given)
        assert done.exit_code == status, done.output
        assert status == 0 or "one for each sample" in done.stderr


def test_a_place_that_the_report_cannot_have_is_refused(
    tmp_path: Path, digits_path: Path, samples: Path
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "out" / "report.html").mkdir(parents=True)
    for out, said in (("file", "is a file"), ("out", "report.html is a folder")):
        done = run("audit", digits_path, "--data", samples, *CHEAP, "--out", tmp_path / out)
        assert (done.exit_code, said in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "out" / "state").exists()


def test_a_broken_plan_is_refused_and_a_broken_step_done_once_more(
    tmp_path: Path, digits_path: Path, samples: Path
) -> None:
    given = ["audit", str(digits_path), "--data", str(samples), *CHEAP, "--out", str(tmp_path / "out")]
    assert run(*given).exit_code == 0
    step, plan = (tmp_path / "out" / "state" / name for name in ("item-000001.npz", "plan.json"))
    step.write_bytes(b"")
    assert run(*given).exit_code == 0
    assert step.stat().st_size
    for text in ("{", "[]"):
        plan.write_text(text)
        done = run(*given)
        assert done.exit_code == 2
        assert "--anew" in done.stderr
    assert run(*given, "--anew").exit_code == 0


def test_a_file_of_baselines_with_other_numbers_is_another_audit(
    tmp_path: Path, digits_path: Path, samples: Path
) -> None:
    file = tmp_path / "baseline.npy"
    given = ["audit", str(digits_path), "--data", str(samples), *CHEAP, "--baseline", str(file)]
    for value, status in ((0.0, 0), (0.0, 0), (0.5, 2)):
        np.save(file, np.full((1, 1, 8, 8), value, np.float32))
        done = run(*given, "--out", tmp_path / "out")
        assert done.exit_code == status, done.output
    assert "another baseline: --anew" in done.stderr


def test_arrays_of_different_numbers_of_samples_are_named_with_their_axes(tmp_path: Path, two: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.zeros((2, 3), np.float32), b=np.zeros((4, 3), np.float32))
    done = run("audit", two, "--data", tmp_path / "x.npz", *CHEAP, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "2 of 'a' along axis 0, 4 of 'b' along axis 0" in done.stderr
