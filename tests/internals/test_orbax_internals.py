"""What Orbax's errors become."""

import pytest

from gsm8k_grpo.internals.orbax_internals import write_failure


@pytest.mark.parametrize("reason", ["No space left on device", "Permission denied"])
def test_a_failed_write_says_the_systems_reason_alone(reason):
    error = ValueError(f"RESOURCE_EXHAUSTED: Error writing file\nsource locations: a.cc:12\n[{reason}; fsync]")
    assert write_failure(error) == reason


def test_another_failure_says_its_first_line():
    assert write_failure(ValueError("the tree differs\n" + "x" * 999)) == "the tree differs"
    assert write_failure(ValueError("y" * 999)) == "y" * 200
    assert write_failure(OSError()) == "OSError"
