"""deploy/compose.yaml: every command and variable is real, and the order and the times are right."""

import os
import re
import shutil
import subprocess
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from runstore.settings import ServerSettings, load_settings
from tests.deploy.files import DEPLOY, LEAVES_S, compose, parse, seconds, variables_of
from tests.kit.tools import require

SERVICES: dict[str, dict[str, Any]] = compose()["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}
REPLICAS = [name for name in OURS if name.startswith("serve")]
WORKERS = [name for name in OURS if name.startswith("worker")]
RUNNING = [*REPLICAS, *WORKERS, "migrate"]


def environment(name: str) -> dict[str, str]:
    return {key: str(value) for key, value in SERVICES[name].get("environment", {}).items()}


def test_there_are_two_replicas_and_two_workers_of_one_image() -> None:
    assert len(REPLICAS) == len(WORKERS) == 2
    assert len({OURS[name]["image"] for name in OURS}) == 1


@pytest.mark.parametrize("name", RUNNING)
def test_every_command_is_one_of_the_command_line(name: str) -> None:
    parse(OURS[name]["command"])


@pytest.mark.parametrize("name", REPLICAS)
def test_a_replica_runs_no_agents_and_lets_the_proxy_in(name: str) -> None:
    options = parse(OURS[name]["command"])
    assert (options["host"], options["port"]) == ("0.0.0.0", 8082)
    assert "--no-worker" in OURS[name]["command"]
    assert "RUNSTORE_ALLOWED_HOST" in environment(name)


@pytest.mark.parametrize("name", REPLICAS)
def test_a_replica_believes_the_address_that_nginx_forwards(name: str) -> None:
    """Else all clients have one address, and one share of the login function's threads."""
    assert environment(name)["FORWARDED_ALLOW_IPS"] == SERVICES["nginx"]["networks"]["front"]["ipv4_address"]


@pytest.mark.parametrize("name", [*REPLICAS, *WORKERS])
def test_every_variable_is_one_that_the_command_reads(name: str) -> None:
    ours = {key for key in environment(name) if key.startswith("RUNSTORE_")}
    assert {"RUNSTORE_DATABASE_URL", "RUNSTORE_REDIS_URL"} <= ours
    assert ours <= variables_of(OURS[name]["command"])


@pytest.mark.parametrize("name", [*REPLICAS, *WORKERS])
def test_a_process_has_more_time_to_leave_than_it_drains(name: str) -> None:
    drain_s = float(environment(name).get("RUNSTORE_DRAIN_S", ServerSettings().drain_s))
    assert seconds(OURS[name]["stop_grace_period"]) >= drain_s + LEAVES_S


@pytest.mark.parametrize("name", [*REPLICAS, *WORKERS])
def test_nothing_starts_before_the_database_is_migrated(name: str) -> None:
    assert OURS[name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
    assert SERVICES["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    assert SERVICES["migrate"]["restart"] == "no"


def test_every_awaited_service_has_a_health_check() -> None:
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            assert how["condition"] != "service_healthy" or "healthcheck" in SERVICES[other], (name, other)


def test_long_running_services_are_restarted() -> None:
    for name, service in SERVICES.items():
        expected = "no" if name in ("migrate", "cli") else "unless-stopped"
        assert service["restart"] == expected, name


def test_only_the_proxy_is_published_and_only_to_this_machine_by_default() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["nginx"]
    assert SERVICES["nginx"]["ports"] == ["${PUBLISH:-127.0.0.1:8080}:8080"]
    assert "listen 8080;" in (DEPLOY / "nginx/listen.conf").read_text(encoding="utf-8")
    assert compose()["networks"]["data"] == {"internal": True}
    assert [name for name in SERVICES if SERVICES[name]["networks"] == ["data"]] == [
        "postgres", "redis", "migrate", "cli",
    ]  # fmt: skip


def test_the_proxy_knows_the_replicas_addresses() -> None:
    config = (DEPLOY / "nginx/replicas.conf").read_text(encoding="utf-8")
    known = re.findall(r"^server ([\d.]+):8082 ", config, re.M)
    given = [SERVICES[name]["networks"]["front"]["ipv4_address"] for name in REPLICAS]
    assert known == given
    [pool] = compose()["networks"]["front"]["ipam"]["config"]
    for address in map(ip_address, given):
        assert address in ip_network(pool["subnet"])
        assert address not in ip_network(pool["ip_range"]), "another container could have it"


def test_every_image_has_a_version() -> None:
    for name, service in SERVICES.items():
        tag = service["image"].partition(":")[2]
        assert re.match(r"\d+|\$\{TAG:\?", tag), f"{name}: {service['image']}"


def test_every_file_that_is_mounted_is_there() -> None:
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert source in compose()["volumes"] or (DEPLOY / source).exists(), f"{name}: {volume}"
            assert source in compose()["volumes"] or volume.endswith(":ro"), f"{name}: {volume}"


def test_the_configuration_that_is_shipped_can_be_read() -> None:
    assert load_settings(DEPLOY / "config/runstore.toml", models=True)


def test_every_variable_is_in_the_example_and_no_secret_has_a_default() -> None:
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    code = re.sub(r"(^|  )\s*#.*$", "", text, flags=re.M)
    used = set(re.findall(r"\$\{(\w+)", code))
    example = (DEPLOY / ".env.example").read_text(encoding="utf-8")
    assert set(re.findall(r"^(\w+)=", example, re.M)) == used
    for secret in (name for name in used if name.endswith("PASSWORD")):
        assert set(re.findall(rf"\$\{{{secret}(..)", code)) == {":?"}
        assert f"\n{secret}=\n" in example


def test_none_of_ours_has_more_rights_than_it_needs() -> None:
    for name in [*OURS, "nginx"]:
        service = SERVICES[name]
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
    assert SERVICES["nginx"]["user"] != "0"


def test_docker_compose_can_read_it(tmp_path: Path) -> None:
    """`docker compose config` needs no engine."""
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    file = tmp_path / "compose.yaml"
    nameless = re.sub("^name: .*\n", "", text, flags=re.M)  # Debian's version is older than project names
    file.write_text(nameless, encoding="utf-8")
    options = ["--file", str(file), "--project-directory", str(DEPLOY)]
    secrets = {"POSTGRES_PASSWORD": "a", "REDIS_PASSWORD": "b", "TAG": "test"}
    command = [*docker_compose(), *options, "config", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | secrets)
    assert (done.returncode, done.stderr) == (0, "")


def docker_compose() -> list[str]:
    """The plugin of docker, or the program that Debian has."""
    docker = shutil.which("docker")
    if docker and not subprocess.run([docker, "compose", "version"], capture_output=True).returncode:
        return [docker, "compose"]
    return [require("docker-compose")]
