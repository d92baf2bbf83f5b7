"""What can be done: the verbs of the command, each with a line on it."""

# In the order in which one comes to them.
VERBS = {
    "data": "look at a corpus before anything is trained on it",
    "train": "train a model; with -m a whole sweep",
    "evaluate": "measure a run exactly on a whole split, beside what counting achieves",
    "generate": "sample text",
    "predict": "ask a run about examples: their class, their score, the right choice",
    "score": "ask a language model about examples that it was never trained on",
    "explain": "look inside a trained model: architecture, predictions, attention",
    "results": "compare runs in a table, on a page, in pictures",
    "export": "write a run as a folder that transformers loads, or molino alone",
}
# Verbs that take plain words: the setting which lists them, and how --help calls them.
WORDS = {"results": ("runs", "[sweep or folder ...]")}
