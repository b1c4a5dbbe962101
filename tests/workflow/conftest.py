"""Copies of the project that the workflow's tests share."""

import shutil

import pytest

from workflow_copy import Snakemake, copy_sources


@pytest.fixture(scope="session")
def snakemake(tmp_path_factory):
    """Calls Snakemake; see its class."""
    return Snakemake(tmp_path_factory.mktemp("offline"))


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    """The project without results."""
    return copy_sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="session")
def finished(snakemake, sources, tmp_path_factory):
    """The project after a whole run. Not to be changed."""
    return snakemake.finish(shutil.copytree(sources, tmp_path_factory.mktemp("finished") / "project"))


@pytest.fixture
def project(finished, tmp_path):
    """The project after a whole run, to be changed."""
    return shutil.copytree(finished, tmp_path / "project")
