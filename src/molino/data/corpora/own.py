"""Examples in files of one's own: where these lie, and how they are split."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from molino.base.console import working
from molino.base.errors import ConfigError, DataError
from molino.base.files import sha256_file
from molino.data.examples import Example, checked, split_examples

LICENCE = "the user's own text"


class OwnFiles:
    """Files of one's own, of which each split has one or is a share of the first.

    Args:
        needed: what is said where there is no first file.
        files: the file of each split, None where it has none.
        fractions: in its place, which share of the training examples each other split is; by their digests, so that
            none moves when the file grows.

    Attributes:
        name: that of the first file.
        paths: by split, of those that have a file.
        fractions: by split, 0 where it has a file.

    Raises:
        ConfigError: there is no first file, a fraction is out of range or nothing is held out.
        DataError: there is no such file.
    """

    def __init__(self, needed: str, files: Mapping[str, str | None], fractions: Mapping[str, float]):
        if not files["train"]:
            raise ConfigError(needed)
        check_fractions(**{f"{split}_fraction": fraction for split, fraction in fractions.items()})
        self.name, self.paths = Path(files["train"]).absolute().name, own_paths(files)
        self.fractions = {split: 0.0 if split in self.paths else fraction for split, fraction in fractions.items()}
        if "val" not in self.paths and not fractions["val"]:
            raise ConfigError("data.val_fraction=0 leaves nothing to validate on: give data.val_path, or a fraction")

    def checksums(self, paths: Mapping[str, Path] | None = None) -> dict[str, str]:
        """Return the sha256 of the files, or of others beside them, by split."""
        with working(f"reading {self.name}"):
            return {split: sha256_file(path) for split, path in (self.paths if paths is None else paths).items()}

    def split(
        self, found: Mapping[str, list[Example]], places: Iterable[float] | None = None
    ) -> dict[str, list[Example]]:
        """Return the examples of all splits.

        Args:
            found: those of each file.
            places: what decides where each of the training examples is, see molino.data.examples.split_examples.

        Raises:
            DataError: they make no splits.
        """
        found = {**found, **split_examples(found["train"], self.fractions, places=places)}
        return checked(found, self.name)


def setting(split: str, kind: str) -> str:
    """Return the setting that names a file of a split, which is a `path` or another kind."""
    return f"data.{kind}" if split == "train" else f"data.{split}_{kind}"


def own_paths(files: Mapping[str, str | None], kind: str = "path") -> dict[str, Path]:
    """Return where the files of splits lie, of those that have one.

    Raises:
        DataError: there is no such file.
    """
    paths = {split: Path(file).expanduser() for split, file in files.items() if file}
    for split, path in paths.items():
        if not path.is_file():
            raise DataError(f"{setting(split, kind)}={path} is no file (now in {Path.cwd()})")
    return paths


def check_fractions(**fractions: float) -> None:
    """Raise ConfigError unless these shares leave some examples to train on."""
    for name, value in fractions.items():
        if not 0 <= value < 1:
            raise ConfigError(f"data.{name}={value} must be from 0 up to, not including, 1")
    if sum(fractions.values()) >= 1:
        raise ConfigError(f"{' and '.join(f'data.{name}={value}' for name, value in fractions.items())} leave no rest")
