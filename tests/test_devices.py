"""What a library writes as it starts is shown only if it does not start."""

import os

import pytest

from breakhis_cls.modeling.devices import hold_stderr


def test_start_up_lines_are_dropped_and_shown_with_an_error(capfd):
    with hold_stderr():
        os.write(2, b"for developers\n")
    assert capfd.readouterr().err == ""
    with pytest.raises(ImportError), hold_stderr():
        os.write(2, b"no such symbol\n")
        raise ImportError
    os.write(2, b"and stderr is itself again\n")
    assert capfd.readouterr().err == "no such symbol\nand stderr is itself again\n"
