import pytest

from plasticity.scripts.main import main

SMALL = "--architecture mlp --hidden 4 --epochs-per-task 1 --probe-size 16 --metrics dead_fraction"


@pytest.fixture
def on_digits():
    """Function that runs a command on small permuted digits, and returns its exit code."""

    def call(command, *words):
        given = [command, "permuted-digits", *SMALL.split()]
        with pytest.raises(SystemExit) as end:
            main([*given, *(word for each in words for word in str(each).split())])
        return end.value.code

    return call
