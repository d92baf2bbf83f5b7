"""The Python manual that comes with the interpreter: real text without a download."""

from pydoc_data.topics import topics

from molino.data.corpus import check_train_fraction, digest, split_fraction


class PyDocs:
    """The topics of `help()`, in alphabetical order, as one text with blank lines between them.

    Its length differs between Python versions (465,048 characters in 3.11.7), and so does its fingerprint.
    """

    licence = "PSF-2.0"
    documents = False

    def __init__(self, name: str = "pydocs", train_fraction: float = 0.9):
        check_train_fraction(train_fraction)
        self.name, self.train_fraction = name, train_fraction

    def fingerprint(self) -> str:
        return digest(self._text(), self.train_fraction)

    def read(self) -> dict[str, list[str]]:
        return split_fraction(self._text(), self.train_fraction)

    def _text(self) -> str:
        return "\n".join(topics[name].rstrip("\n") + "\n" for name in sorted(topics))
