"""The planted faults of tests/planted still fit the sources, and their runner tells a fault that is
found from one that is not. `python tests/planted/run.py` plants them all."""

from tests.planted import run


def test_every_fault_can_be_planted():
    faults = run.faults()
    assert len(faults) > 8
    assert [f"{fault.what}: {why}" for fault in faults if (why := fault.misfit())] == []
    assert len({fault.what for fault in faults}) == len(faults)
    assert all(fault.before != fault.after for fault in faults)


def test_the_runner_tells_found_from_not_found(tmp_path):
    (tmp_path / "minigrad").mkdir()
    (tmp_path / "minigrad" / "__init__.py").touch()
    (tmp_path / "minigrad" / "value.py").write_text("value = 3  # three\n")
    (tmp_path / "test_value.py").write_text(
        "from minigrad.value import value\ndef test_value(): assert value == 3\n"
    )
    tests = ("test_value.py",)
    wrong = run.Fault("room", "wrong", "minigrad/value.py", "= 3", "= 4", tests)
    harmless = run.Fault("room", "harmless", "minigrad/value.py", "three", "four", tests)
    assert run.is_found(wrong, tmp_path)
    assert not run.is_found(harmless, tmp_path)
    assert (tmp_path / "minigrad" / "value.py").read_text() == "value = 3  # three\n"
