"""The rows of a run's CSV files as lists."""

from pathlib import Path

from minigrad.training.run_folder import RunFolder


def read(path: Path) -> list[list[str]]:
    """Without the header."""
    return [list(row.values()) for row in RunFolder(path.parent).rows(path.name)]
