"""``accelsim doctor``: what it finds, and what it says of what is missing."""

from __future__ import annotations

import json
from importlib import metadata

import numpy
import pytest
from click.testing import CliRunner

from accelsim.cli import cli, doctor


def run(*words):
    return CliRunner().invoke(cli, ["doctor", *words])


def test_names_versions_cores_and_cache():
    document = json.loads(run("--json", "-").stdout)
    assert document["schema"] == "accelsim.doctor/1"
    packages = {package["name"]: package for package in document["packages"]}
    assert packages["numpy"]["installed"] == numpy.__version__
    assert packages["numpy"]["serves"]
    assert document["cores"] >= 1
    assert set(document["extras"]) == {
        extra for extra in metadata.metadata("accelsim").get_all("Provides-Extra") if extra != "dev"
    }


def test_missing_extra_is_named_with_its_command_and_is_no_fault(monkeypatch):
    absent(monkeypatch, "optuna")
    done = run()
    assert done.exit_code == 0
    assert "optuna missing; install with: pip install 'optuna>=" in done.stdout


@pytest.mark.parametrize(("version", "said"), [(None, "simpy missing"), ("3.0", "simpy is 3.0")])
def test_fault_of_a_package_that_all_need(monkeypatch, version, said):
    absent(monkeypatch, "simpy", version)
    done = run()
    assert done.exit_code == 1
    assert done.stderr.startswith(f"error: {said}; install with: pip install 'simpy>=")


def test_runs_from_a_folder_that_is_not_installed(monkeypatch):
    def nothing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "requires", nothing)
    done = run()
    assert done.exit_code == 0
    assert "not installed as a distribution" in done.stdout


def absent(monkeypatch, name, version=None):
    """Make one distribution look absent, or of another version."""

    def found(asked):
        if asked != name:
            return metadata.version(asked)
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(doctor, "version", found)
