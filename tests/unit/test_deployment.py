"""The image and compose files, as far as they can be checked without Docker."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from paramem.settings import ClientSettings, Settings

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SERVICES = COMPOSE["services"]
OWN = {name: one for name, one in SERVICES.items() if one["profiles"] != ["observe"]}
OBSERVERS = {name: one for name, one in SERVICES.items() if one["profiles"] == ["observe"]}
DEPLOY = ROOT / "deploy"


@pytest.mark.parametrize("name", SERVICES)
def test_containers_are_locked_down(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert "USER paramem" in DOCKERFILE


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_each_profile_runs_one_server_and_one_worker_on_the_same_volumes(profile: str) -> None:
    chosen = [service for service in OWN.values() if service["profiles"] == [profile]]
    assert sorted(service["command"][0] for service in chosen) == ["serve", "worker"]
    assert chosen[0]["volumes"] == chosen[1]["volumes"]
    assert all(volume.split(":")[0] in COMPOSE["volumes"] for volume in chosen[0]["volumes"])
    models = {service["environment"]["PARAMEM_MODEL"] for service in chosen}
    assert len(models) == 1  # a memory is readable only by the model that wrote it


def test_gpu_services_reserve_the_card() -> None:
    for name in ("server-gpu", "worker-gpu"):
        [device] = SERVICES[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device["capabilities"] == ["gpu"]


def test_every_setting_named_in_the_files_exists() -> None:
    text = (ROOT / "docker-compose.yml").read_text() + DOCKERFILE + (ROOT / "README.md").read_text()
    for document in (ROOT / "docs").glob("*.md"):
        text += document.read_text()
    known = {
        f"PARAMEM_{name.upper()}" for name in (*Settings.model_fields, *ClientSettings.model_fields)
    }
    assert set(re.findall(r"PARAMEM_[A-Z][A-Z_]+[A-Z]", text)) <= known


def test_servers_have_a_key_file_and_a_healthcheck() -> None:
    for service in OWN.values():
        if service["command"] == ["serve"]:
            assert service["environment"]["PARAMEM_API_KEY_FILE"] == "/run/secrets/api_keys"
            assert "/healthz" in " ".join(service["healthcheck"]["test"])
    assert COMPOSE["secrets"]["api_keys"]["file"].startswith("./secrets/")
    assert "/secrets/" in (ROOT / ".gitignore").read_text()


def test_the_image_copies_every_package_of_the_house() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {
        pattern.rstrip("*")
        for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]
    }
    copied = set(re.findall(r"^COPY (\w+) \1$", DOCKERFILE, re.MULTILINE))
    assert copied == packages


def test_the_containers_grace_is_longer_than_the_services() -> None:
    grace = Settings().shutdown_grace_s
    for service in SERVICES.values():
        assert float(service["stop_grace_period"].removesuffix("s")) > grace


def test_observers_run_pinned_images_on_files_and_volumes_that_exist() -> None:
    assert set(OBSERVERS) == {"prometheus", "grafana"}
    for service in OBSERVERS.values():
        assert re.fullmatch(r"[a-z]+/[a-z]+:v?\d+\.\d+\.\d+", service["image"])
        for volume in service["volumes"]:
            source, _, target = volume.partition(":")
            if source.startswith("./"):
                assert (ROOT / source).exists(), source
                assert target.endswith(":ro")
            else:
                assert source in COMPOSE["volumes"]
        for secret in service.get("secrets", []):
            assert COMPOSE["secrets"][secret]["file"].startswith("./secrets/")
    [server] = {str(one.get("networks")) for one in OWN.values() if one["command"] == ["serve"]}
    scraped = yaml.safe_load((DEPLOY / "observe" / "prometheus.yml").read_text())
    [target] = scraped["scrape_configs"][0]["static_configs"][0]["targets"]
    assert target.partition(":")[0] in server
    assert target.endswith(":8420")


def test_grafana_finds_its_data_source_and_dashboards() -> None:
    provisioning = DEPLOY / "observe" / "provisioning"
    [source] = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())[
        "datasources"
    ]
    [provider] = yaml.safe_load((provisioning / "dashboards" / "paramem.yml").read_text())[
        "providers"
    ]
    mounted = [volume.split(":")[1] for volume in SERVICES["grafana"]["volumes"]]
    assert provider["options"]["path"] in mounted
    assert source["url"].startswith("http://prometheus:")
    dashboard = json.loads((DEPLOY / "observe" / "dashboards" / "paramem.json").read_text())
    used = {panel["datasource"]["uid"] for panel in dashboard["panels"]}
    assert used == {source["uid"]}


def test_the_proxy_leads_to_the_published_port_and_lets_events_pass() -> None:
    proxy = (DEPLOY / "Caddyfile").read_text()
    [port] = re.findall(r"reverse_proxy 127\.0\.0\.1:(\d+)", proxy)
    assert all(port in one["ports"][0] for one in OWN.values() if "ports" in one)
    assert "flush_interval -1" in proxy
