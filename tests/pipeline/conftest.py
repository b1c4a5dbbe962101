"""The small run that the pipeline's tests share."""

import shutil

import pytest
from filelock import FileLock

from small_run import make_small_run, snakemake


@pytest.fixture(scope="session")
def finished(tmp_path_factory, worker_id):
    """A copy of the project in which the default recipe ran to its report, with few steps and a smaller model.

    pytest's processes make it once, and each has a copy.
    """
    alone = worker_id == "master"
    shared = (tmp_path_factory.mktemp("alone") if alone else tmp_path_factory.getbasetemp().parent) / "small-run"
    with FileLock(f"{shared}.lock"):
        if not (shared / "results" / "report.html").exists():
            shutil.rmtree(shared, ignore_errors=True)
            make_small_run(shared)
    return shutil.copytree(shared, tmp_path_factory.mktemp("pipeline") / "project", symlinks=True)


@pytest.fixture(scope="session")
def exported(finished):
    """The export of the finished recipe."""
    status, printed = snakemake(finished, "results/tiny/export/README.md")
    assert status == 0, printed
    return finished / "results/tiny/export"
