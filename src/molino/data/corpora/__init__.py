"""The corpora. Each is an object with the contract of `molino.data.corpus.Corpus`."""
