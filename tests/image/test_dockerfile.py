"""deploy/Dockerfile keeps to hadolint's rules, to the settings of the server, and to what a cluster asks of images."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from fnmatch import fnmatch

import pytest
from typer.testing import CliRunner

from onnx_attribution.server.cli.app import app
from onnx_attribution.server.settings import Settings
from tests.image.dockerfile import FILE, ROOT, Stage, pairs, stages

STAGES = stages()
IMAGES = [STAGES["cpu"], STAGES["gpu"]]
image = pytest.mark.parametrize("stage", IMAGES, ids=[stage.name for stage in IMAGES])


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed; it is in the dev extra where it has a wheel")
    result = subprocess.run(
        [hadolint, "--no-color", "--failure-threshold", "style", FILE], capture_output=True, text=True
    )
    assert (result.returncode, result.stdout) == (0, ""), result.stdout


def test_every_base_has_a_version() -> None:
    bases = {stage.base for stage in STAGES.values()} - STAGES.keys()
    assert len(bases) == 2
    for base in bases:
        assert re.search(r":\d+\.\d+[\w.-]*$|@sha256:[0-9a-f]{64}$", base), base


def test_nothing_is_fetched_but_from_indexes_with_hashes() -> None:
    for stage in STAGES.values():
        assert not stage.values("ADD")
        for run in stage.values("RUN"):
            assert not re.search(r"\b(curl|wget|git)\b|https?://", run)
            for install in re.findall(r"pip (?:install|wheel) [^&|;]*", run):
                assert "--no-cache-dir" in install
                assert "--require-hashes" in install or "--no-deps" in install, install


def test_system_packages_bring_no_others_and_leave_no_lists() -> None:
    runs = [run for stage in STAGES.values() for run in stage.values("RUN") if "apt-get install" in run]
    assert runs
    for run in runs:
        assert "--no-install-recommends" in run
        assert run.rstrip().endswith("rm -rf /var/lib/apt/lists/*")


@image
def test_an_image_runs_as_nobody_in_particular(stage: Stage) -> None:
    assert stage.last("USER") == "10001:10001"
    assert stage.steps.index(("USER", "10001:10001")) > max(
        place for place, (name, _) in enumerate(stage.steps) if name in ("RUN", "COPY", "WORKDIR")
    ), "what is installed belongs to root"


@image
def test_an_image_receives_signals_itself(stage: Stage) -> None:
    assert stage.words("ENTRYPOINT") == ["onnx-attribution"]
    assert stage.words("CMD") == ["serve", "/models"]
    assert not stage.values("STOPSIGNAL")  # SIGTERM is the default, and drains
    assert not stage.values("VOLUME")  # an engine would make a writable one


@image
def test_the_health_check_is_a_command_of_ours(stage: Stage) -> None:
    program, *arguments = stage.words("HEALTHCHECK")
    assert program == "onnx-attribution"
    shown = CliRunner().invoke(app, [*arguments, "--help"])
    assert shown.exit_code == 0
    for option in ("--interval", "--timeout", "--start-period", "--retries"):
        assert option in stage.last("HEALTHCHECK")


@image
def test_variables_are_settings_and_ports_are_theirs(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = {name: value for name, value in stage.variables.items() if name.startswith("ONNX_ATTRIBUTION_")}
    for name, value in ours.items():
        assert name.removeprefix("ONNX_ATTRIBUTION_").lower() in Settings.model_fields, name
        monkeypatch.setenv(name, value)
    settings = Settings(allow_insecure=True)
    assert (settings.host, settings.http_host) == ("0.0.0.0", "0.0.0.0")
    assert stage.last("EXPOSE").split() == [str(settings.port), str(settings.http_port)]
    with pytest.raises(ValueError, match="not encrypted"):
        Settings()  # the image alone does not decide for plaintext


@image
def test_labels_say_what_the_image_is(stage: Stage) -> None:
    labels = pairs(stage.last("LABEL"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    prefix = "org.opencontainers.image."
    assert labels[f"{prefix}title"] == project["name"]
    assert labels[f"{prefix}version"] == project["version"]
    assert labels[f"{prefix}licenses"] == project["license"]
    assert {f"{prefix}description", f"{prefix}revision"} <= labels.keys()


def test_cpu_and_gpu_differ_only_where_they_must() -> None:
    cpu, gpu = IMAGES
    differing = ("LABEL", "COPY", "ENV")
    same = [[step for step in stage.steps if step[0] not in differing] for stage in (cpu, gpu)]
    assert same[0] == same[1]
    assert {**cpu.variables, "ONNX_ATTRIBUTION_PROVIDER": "cuda"} == gpu.variables


def test_what_is_copied_exists_and_is_sent_to_the_builder() -> None:
    lines = (FILE.parent / "Dockerfile.dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    sent = [line.removeprefix("!") for line in lines if line.startswith("!")]
    for stage in STAGES.values():
        for copied in stage.values("COPY"):
            if copied.startswith("--from="):
                assert copied.removeprefix("--from=").split()[0] in STAGES
                continue
            for source in copied.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert any(fnmatch(source.rstrip("/"), f"{one}*") for one in sent), source


def test_run_names_no_absolute_path_outside_the_prefix() -> None:
    """`make image` runs these lines on a machine that is not a container."""
    for name in ("wheel", "cpu-installed", "cpu"):
        for run in STAGES[name].values("RUN"):
            assert not re.search(r"(?:^|[\s=\"'])/", run), run
