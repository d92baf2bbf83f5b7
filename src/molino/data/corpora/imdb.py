"""IMDB Large Movie Review v1.0 (Maas et al., ACL 2011): 50,000 reviews, each positive or negative."""

import functools
import hashlib
import itertools
from pathlib import Path

from molino.base.errors import DataError
from molino.base.files import atomic_write, make_directory
from molino.data.archives import read_members
from molino.data.corpora.remote import remote_file
from molino.data.corpus import decode, digest
from molino.data.download import CACHE_HINT, at_hand, fetch
from molino.data.examples import Example

REVIEWS_PER_FOLDER = 12_500
# Of the last 10 % of the training reviews. Reviews of one film have neighbouring numbers, so a block keeps a film's
# reviews on one side where a random choice would spread them over both.
VALIDATION_REVIEWS = 2_500
MEMBERS = r"aclImdb/(train|test)/(pos|neg)/\d+_\d+\.txt"


class Imdb:
    """The labelled reviews, ordered by number with positive and negative ones alternating.

    'train' and 'val' are the first 90 % and the last 10 % of the archive's train part, 'test' is its test part.

    Args:
        licence: its licence.
        sha256: checksum of the reviews themselves, in their order, each followed by a NUL byte; train part first.
        whole: url, sha256 and mirror_path of the full archive.
        labelled: the same of an archive without the unlabelled reviews; taken where it is at hand and the full one is
            not. Both hold the same reviews.
        cache: folder for downloads, and for the reviews as they were in the archive.
        mirror: folder that holds `raw/`, or None.
    """

    name = "imdb"
    documents = True

    def __init__(self, licence: str, sha256: str, whole: dict, labelled: dict, cache: str, mirror: str | None = None):
        self.licence, self.sha256, self.cache, self.mirror = licence, sha256, cache, mirror
        archives = [remote_file(whole), remote_file(labelled)]
        self.file = next((file for file in archives if at_hand(file, cache, mirror)), archives[0])

    def fingerprint(self) -> str:
        return digest(self.sha256, VALIDATION_REVIEWS)

    def examples(self) -> dict[str, list[Example]]:
        """Return the reviews, each positive or negative."""
        return self._examples

    @functools.cached_property
    def _examples(self) -> dict[str, list[Example]]:
        labels = itertools.cycle(("positive", "negative"))
        return {split: [Example(text, label=next(labels)) for text in texts] for split, texts in self.read().items()}

    def read(self) -> dict[str, list[str]]:
        """Return the reviews. The archives take some ten seconds to decompress, so the cache keeps a plain copy."""
        copy = Path(self.cache).expanduser() / "texts" / self.fingerprint()
        reviews = copy.read_bytes() if copy.is_file() else b""
        if hashlib.sha256(reviews).hexdigest() != self.sha256:
            reviews = self._unpack()
            make_directory(copy.parent, CACHE_HINT)
            with atomic_write(copy, CACHE_HINT) as file:
                file.write(reviews)
        texts = [decode(review, copy) for review in reviews.split(b"\0")[:-1]]
        test_start = 2 * REVIEWS_PER_FOLDER
        val_start = test_start - VALIDATION_REVIEWS
        return {"train": texts[:val_start], "val": texts[val_start:test_start], "test": texts[test_start:]}

    def _unpack(self) -> bytes:
        """Return the reviews in their order, each followed by a NUL byte, from the archive."""
        path = fetch(self.file, self.cache, self.mirror)
        reviews = {}
        for name, contents in read_members(path, MEMBERS):
            _, part, folder, file_name = name.split("/")
            reviews[part == "test", int(file_name.split("_")[0]), folder == "neg"] = contents
        ordered = b"".join(reviews[key] + b"\0" for key in sorted(reviews))
        found = hashlib.sha256(ordered).hexdigest()
        if found != self.sha256:
            raise DataError(f"{path} does not hold the expected reviews (sha256 {found}, not {self.sha256})")
        return ordered
