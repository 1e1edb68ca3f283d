"""deploy/compose.yaml and deploy/kubernetes.yaml agree with the image and with the settings."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
import yaml

from onnx_attribution.server.settings import Settings
from tests.image.dockerfile import ROOT, stages

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
CPU = stages()["cpu"]
PORTS = {int(port) for port in CPU.last("EXPOSE").split()}
UID = 10001
COMPOSE = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
OBJECTS = {one["kind"]: one for one in yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text())}
POD = OBJECTS["Deployment"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]


def settings(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What a server in the image makes of the variables; each must be one of ours."""
    known = {f"ONNX_ATTRIBUTION_{name.upper()}" for name in Settings.model_fields}
    assert variables.keys() <= known
    for name, value in {**CPU.variables, **variables}.items():
        if name.startswith("ONNX_ATTRIBUTION_"):
            monkeypatch.setenv(name, value)
    return Settings()


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_a_composed_server_is_of_the_image_and_writes_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = COMPOSE["services"][name]
    target = service["build"]["target"]
    assert service["image"] == f"onnx-attribution:{VERSION}" + {"cpu": "", "gpu": "-gpu"}[target]
    assert target in stages()
    assert (ROOT / "deploy" / service["build"]["context"] / service["build"]["dockerfile"]).is_file()

    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    (volume,) = service["volumes"]
    assert (volume["target"], volume["read_only"]) == ("/models", True)
    assert set(service["ports"]) == {f"127.0.0.1:{port}:{port}" for port in PORTS}

    found = settings(service["environment"], monkeypatch)
    assert found.port in PORTS
    seconds = int(service["stop_grace_period"].removesuffix("s"))
    assert seconds > found.lame_duck + found.grace_seconds


def test_pods_of_the_image_get_what_the_server_is_set_to(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CONTAINER["image"] == f"onnx-attribution:{VERSION}"
    assert not {"command", "args"} & CONTAINER.keys()  # the image's own
    ports = {one["name"]: one["containerPort"] for one in CONTAINER["ports"]}
    found = settings({one["name"]: one["value"] for one in CONTAINER["env"]}, monkeypatch)
    assert ports == {"grpc": found.port, "http": found.http_port}
    assert set(ports.values()) == PORTS
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert CONTAINER[probe]["grpc"]["port"] == found.port
    assert CONTAINER["startupProbe"]["periodSeconds"] * CONTAINER["startupProbe"]["failureThreshold"] == 300

    stop = CONTAINER["lifecycle"]["preStop"]["exec"]["command"]
    assert stop[0] == "sleep"
    drained = int(stop[1]) + found.lame_duck + found.grace_seconds
    assert POD["terminationGracePeriodSeconds"] > drained

    memory = CONTAINER["resources"]["limits"]["memory"]
    assert int(memory.removesuffix("Gi")) << 10 > found.memory_budget_mib


def test_pods_have_no_privileges_and_a_file_system_to_read() -> None:
    assert POD["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": UID,
        "runAsGroup": UID,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert CPU.last("USER") == f"{UID}:{UID}"
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert POD["automountServiceAccountToken"] is False
    mounts = {one["mountPath"]: one for one in CONTAINER["volumeMounts"]}
    assert mounts.keys() == {"/models", "/tmp"}
    assert mounts["/models"]["readOnly"] is True
    volumes = {one["name"]: one for one in POD["volumes"]}
    assert volumes[mounts["/models"]["name"]]["persistentVolumeClaim"]["readOnly"] is True
    assert "emptyDir" in volumes[mounts["/tmp"]["name"]]


def test_a_cluster_sets_no_variable_that_would_be_taken_for_a_setting() -> None:
    """A service called onnx-attribution is announced as ONNX_ATTRIBUTION_PORT=tcp://..., unless that is off."""
    assert POD["enableServiceLinks"] is False


def test_the_service_and_the_budget_select_the_pods() -> None:
    labels = OBJECTS["Deployment"]["spec"]["template"]["metadata"]["labels"]
    service: dict[str, Any] = OBJECTS["Service"]["spec"]
    assert service["clusterIP"] == "None"  # clients see every pod
    variables = {one["name"]: one["value"] for one in CONTAINER["env"]}
    assert float(variables["ONNX_ATTRIBUTION_CONNECTION_SECONDS"]) > 0  # and look for new ones now and then
    assert service["selector"] == labels
    assert {one["port"] for one in service["ports"]} == PORTS
    names = {one["name"] for one in CONTAINER["ports"]}
    assert {one["targetPort"] for one in service["ports"]} == names
    for kind in ("Deployment", "PodDisruptionBudget"):
        assert OBJECTS[kind]["spec"]["selector"]["matchLabels"] == labels
