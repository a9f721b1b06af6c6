"""Projections of an installed package: a folder on `sys.path` with metadata, as pip leaves it."""

from pathlib import Path


def install(folder: Path, **entries: str) -> None:
    """Let `folder`, which is on `sys.path`, hold the metadata of a package with these entry points."""
    metadata = folder / "their_projections-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: their-projections\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in entries.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[runstore.projections]", *lines, ""]))
