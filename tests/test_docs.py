"""README and docs/: every command runs, shortened; no link is dead; the README fits two screens."""

import gzip
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import CPU, ROOT, small_text

import molino as package
from molino.command.completion import SHELLS
from molino.runs.directory import LAST
from molino.trained.load import load_checkpoint

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
README = PAGES[0].read_text("utf-8")
TEXTS = {page.name: page.read_text("utf-8") for page in PAGES}
SMALL = ("data.block_size=8", "data.batch_size=4", "debug=fast")
# All of the held-out text is read at each validation: once, at the end, is enough to see that a command runs.
SHORT = ("trainer.max_steps=4", "trainer.val_every=4", "trainer.checkpoint_every=4", "trainer.log_every=2")
pytestmark = pytest.mark.xdist_group("docs")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands_of(text: str) -> list[str]:
    """The commands of a page: lines of its blocks, and what stands in the text as a whole."""
    joined = text.replace("\\\n", " ")
    lines = [line for block in blocks(joined, "bash") for line in block.splitlines()]
    lines += re.findall(r"^    (.+)$", joined, re.MULTILINE)
    lines += [
        words
        for words in re.findall(r"`(molino [^`\n]*=[^`\n]*)`", joined)
        if not re.search(r"[<|]|\.\.\.|=N\b", words)
    ]
    # Without its comment, and with single spaces.
    return [
        shlex.join(shlex.split(line, comments=True)) for line in lines if line.startswith(("molino ", "tensorboard"))
    ]


# Those of your-own-code.md run in test_own_code.py, in the folder of the page; shells are asked in test_completion.py.
COMMANDS = list(
    dict.fromkeys(
        command
        for name, text in TEXTS.items()
        if name != "your-own-code.md"
        for command in commands_of(text)
        if not command.startswith("molino completion")
    )
)
# Two processes train in test_train.py; what only a Slurm can run runs in test_slurm_jobs.py; the sweep is below.
ELSEWHERE = ("ddp", "fsdp", "slurm", "sweep=first", " first ")


def about(*verbs: str) -> list[str]:
    starts = tuple(f"molino {verb}" for verb in verbs)
    return [c for c in COMMANDS if c.startswith(starts) and not any(words in c for words in ELSEWHERE)]


@pytest.fixture
def home(tiny, tmp_path, monkeypatch):
    """A folder with a run, in which somebody types."""
    shutil.copytree(tiny.path, tmp_path / "outputs" / tiny.path.name)
    (tmp_path / "my texts").mkdir()
    for number in range(3):
        (tmp_path / "my texts" / f"{number}.txt").write_text(small_text(number, 100), "utf-8")
    (tmp_path / "prompts.txt").write_text("en un\nde la\n", "utf-8")
    posts = [{"text": small_text(number, 20), "post": {"body": small_text(number, 20)}} for number in range(30)]
    (tmp_path / "posts.csv").write_text("text\n" + "".join('"{text}"\n'.format(**post) for post in posts), "utf-8")
    lines = "".join(json.dumps(post) + "\n" for post in posts)
    (tmp_path / "posts.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "notes.txt").write_bytes(small_text(0, 100).replace("\n", "\r\n").encode())
    with zipfile.ZipFile(tmp_path / "books.zip", "w") as archive:
        for file in (tmp_path / "my texts").iterdir():
            archive.write(file, file.name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def export_named(molino, command: str) -> None:
    """Export the folder that a command is about."""
    for name in re.findall(r"\bsource=((?:my|own)-model)\b", command):
        wanted = ("format=molino",) if name == "own-model" else ()
        assert molino("export", "run=latest", f"to={name}", *wanted).status == 0


@pytest.mark.parametrize("command", about("train"))
def test_training_commands(molino, mirror, tiny, home, shared_cache, command):
    arguments = shlex.split(command)[2:]
    if "--help" in arguments:
        assert "Usage: molino train" in molino("train", *arguments).out
        return
    before = len(list((home / "outputs").rglob("summary.json")))
    more = [*SMALL, *SHORT] if "kneser_ney" not in command else list(SMALL)  # which has no steps
    if "resume=latest" in command:
        (home / "outputs" / tiny.path.name / "summary.json").unlink()
        more, before = [], before - 1
    if "continue=latest" in command:
        more = ["trainer.max_steps=24"]
    export_named(molino, command)
    if "task=span" in command:
        more += ["data.block_size=128"]  # a context would be hundreds of windows
    fewer = ["hydra.sweeper.n_trials=2"] if "optuna" in command else []
    fewer += ["hydra.launcher.workers=1"] if "launcher=local" in command else []
    fewer += ["model=gpt", "model.n_layer=1,2"] if "n_trials" in command else []
    # What is to begin from it is trained too.
    begun = [each for each in arguments if each.startswith("weights=data=")]
    arguments = [f"{each} trainer.max_steps=2 trainer.val_every=2" if each in begun else each for each in arguments]
    before += len(begun)
    fewer += ["hardware.compile=false"] if "experiment=" in command else []
    if "epochs" in command:
        more = [*SMALL, "trainer.epochs=0.0005"]
    if "task=sequence_to_sequence" in command:
        more += ["data.block_size=80"]  # no target is longer
    labelled = re.search("task=classification|data=sst2|task=span|data=multi30k", command)
    fewer += [] if re.search("data=text|resume|continue", command) or labelled else ["data.corpus.train_fraction=0.98"]
    fewer = [each for each in fewer if not (each.startswith("data.corpus") and "imdb" in command)]
    done = molino("train", *arguments, *fewer, *more, f"paths.mirror={mirror}", f"paths.cache={shared_cache}")
    assert done.status == 0, done.err
    after = len(list((home / "outputs").rglob("summary.json")))
    sweep = [each for each in arguments if re.match(r"(model|seed)=.*,", each)]
    runs = 2 if "optuna" in command else 1
    for each in sweep if "optuna" not in command else ():
        runs *= len(each.split(","))
    assert after - before == runs, done.out


@pytest.fixture(scope="session")
def classifier(molino, mirror, shared_cache, tmp_path_factory):
    """A run of which examples can be asked, hardly trained."""
    outputs = tmp_path_factory.mktemp("classifier")
    sizes = (
        "data.tokenizer.max_size=500",
        "model.n_layer=1",
        "model.n_embd=8",
        "model.n_head=2",
        "trainer.max_steps=2",
    )
    places = (f"paths.mirror={mirror}", f"paths.cache={shared_cache}", f"paths.outputs={outputs}")
    done = molino("train", "data=sst2", "task=classification", *sizes, *places, *CPU)
    assert done.status == 0, done.err
    return next(outputs.iterdir())


# Of runs that fill in what is hidden, and of runs that write about sources.
MASKED, WRITTEN = (re.compile(words) for words in ("<mask>|pseudo=", r"\btarget=|writing\.|Ein Mann"))


def of_another_task(command: str) -> bool:
    return bool(MASKED.search(command) or WRITTEN.search(command))


TESTED = [command for command in about("evaluate") if "split=test" in command and not of_another_task(command)]
ASKED = [command for command in about("predict", "score") if not of_another_task(command)]


@pytest.mark.parametrize("command", [*ASKED, *TESTED])
def test_commands_about_examples(molino, mirror, tiny, classifier, home, shared_cache, command):
    verb, *arguments = shlex.split(command)[1:]
    if verb != "score":
        shutil.rmtree(home / "outputs" / tiny.path.name)
        shutil.copytree(classifier, home / "outputs" / classifier.name)
        (home / "sentences.csv").write_text("sentence\na dull mess\n", "utf-8")
    places = [f"paths.mirror={mirror}", f"paths.cache={shared_cache}"] if verb != "predict" else []
    done = molino(verb, *arguments, *places, *CPU)
    assert done.status == 0 and done.out.strip(), done.err
    if "to=answers.jsonl" in arguments:
        (answer,) = map(json.loads, (home / "answers.jsonl").read_text("utf-8").splitlines())
        assert answer["text"] == "a dull mess" and answer["label"] in ("negative", "positive")


LOOKED = about("data", "evaluate", "generate", "explain", "results", "export")


@pytest.mark.parametrize("command", list(filter(of_another_task, [*LOOKED, *about("predict")])))
def test_commands_about_other_runs(molino, tiny, tmp_path, monkeypatch, shared_cache, command):
    sizes = ("model.n_layer=1", "model.n_embd=8", "model.n_head=2", "data.batch_size=4", "debug=fast")
    task = ("data=text", f"data.path={tiny.file}", "task=masked_language_model", "model=bert", "data.block_size=32")
    if WRITTEN.search(command):
        lines = [small_text(number, 3).replace("\n", " ") for number in range(40)]
        for name in ("one.txt", "other.txt"):
            (tmp_path / name).write_text("\n".join(lines) + "\n", "utf-8")
        files = ("data=pairs", "data.path=one.txt", "data.target_path=other.txt", "data.test_fraction=0.2")
        task = (*files, "task=sequence_to_sequence", "task.written=0", "model=t5")
    monkeypatch.chdir(tmp_path)
    done = molino("train", *task, *sizes, f"paths.cache={shared_cache}", *CPU)
    assert done.status == 0, done.err
    verb, *arguments = shlex.split(command)[1:]
    places = [f"paths.cache={shared_cache}"] if verb == "evaluate" else []
    done = molino(verb, *arguments, *places, *CPU)
    assert done.status == 0 and done.out.strip(), done.err


OF_LANGUAGE_MODELS = [each for each in LOOKED if each not in TESTED and not of_another_task(each)]


@pytest.mark.parametrize("command", OF_LANGUAGE_MODELS)
def test_commands_about_text_and_runs(molino, mirror, tiny, home, shared_cache, command):
    verb, *arguments = shlex.split(command)[1:]
    export_named(molino, command)
    if command == "molino generate run=latest":
        done = molino(verb, *arguments, *CPU)  # nobody types, and nothing is piped
        assert done.status == 2 and done.err.startswith("molino: there is no prompt")
        return
    places = {
        "data": [f"paths.mirror={mirror}", f"paths.cache={shared_cache}"],
        "evaluate": [f"paths.mirror={mirror}", f"paths.cache={shared_cache}", *CPU],
        "generate": list(CPU),
        "explain": list(CPU),
    }
    if "data=shakespeare" in arguments and verb == "evaluate":
        places["evaluate"].append("data.corpus.train_fraction=0.98")
    done = molino(verb, *arguments, *places.get(verb, []))
    assert done.status == 0 and done.out.strip(), done.err
    for made in [each.partition("=")[2] for each in arguments if each.startswith("to=")]:
        assert (home / made).exists()


PIPED = [line for text in TEXTS.values() for block in blocks(text, "bash") for line in block.splitlines()
         if re.match(r"echo .* \| molino ", line)]  # fmt: skip


@pytest.mark.parametrize("line", PIPED)
def test_what_is_piped_into_a_command(home, line):
    words, command = line.split(" | ")
    run = [sys.executable, "-m", *shlex.split(command), *CPU]
    done = subprocess.run(run, input=f"{shlex.split(words)[1]}\n", capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith(shlex.split(words)[1]), done.stderr


def test_every_command_is_of_a_verb_that_is_tested_here():
    known = about("train", "data", "evaluate", "generate", "predict", "score", "explain", "results", "export")
    others = [c for c in COMMANDS if c not in known and not any(words in c for words in ELSEWHERE)]
    assert others == ["tensorboard --logdir outputs"]


def test_the_command_by_itself():
    def say(*words: str) -> str:
        command = [sys.executable, "-m", "molino", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout

    shown = say()
    for verb in ("data", "train", "evaluate", "generate", "predict", "score", "explain", "results", "export"):
        assert re.search(rf"^  {verb} ", shown, re.MULTILINE)
    assert "molino train " in shown and "molino generate run=latest" in shown
    versions = say("--version")
    assert re.match(r"molino-lm \S+, torch \S+, lightning \S+, hydra-core \S+, Python \S+; device: cpu", versions)
    for shell in SHELLS:
        assert f"molino completion {shell}" in TEXTS["commands.md"]


def test_what_is_not_a_verb_is_met_with_the_nearest():
    command = [sys.executable, "-m", "molino", "trian"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("molino: there is no verb 'trian'; did you mean train?")


def test_the_test_command_and_the_wheel_are_what_ci_runs():
    ci = (ROOT / ".ci" / "run").read_text("utf-8")
    (command,) = [line for block in blocks(README, "bash") for line in block.splitlines() if "pytest" in line]
    assert command in ci.splitlines()
    assert "pip wheel" in ci and "bin/molino train" in ci


def test_the_main_job_is_the_default_run(molino, shared_cache, tmp_path):
    lines = [line for block in blocks(README, "bash") for line in block.splitlines()]
    (command,) = [line for line in lines if line.endswith("/molino train")]
    assert command.startswith("python3 -m venv .venv && .venv/bin/pip install -e . && ")
    less = ("debug=fast", "data.corpus.train_fraction=0.98")
    done = molino("train", *less, f"paths.outputs={tmp_path}", f"paths.cache={shared_cache}")
    assert done.status == 0, done.err
    for name in (
        "held-out loss",
        "perplexity",
        "bits per character",
        "unigram floor",
        "Kneser-Ney floor",
        "--- step 20 ---",
    ):
        assert name in done.out


def test_scripts_are_the_same_as_the_command(tiny, tmp_path):
    settings = (f"run={tiny.path}", "prompt=En", "max_new_tokens=5", f"paths.outputs={tiny.outputs}", *CPU)
    script = [sys.executable, str(ROOT / "scripts" / "generate.py"), *settings]
    command = [sys.executable, "-m", "molino", "generate", *settings]
    one, other = (subprocess.run(each, capture_output=True, text=True, cwd=tmp_path) for each in (script, command))
    # How fast it went differs.
    said, others = (re.sub(r"in [\d.]+ s: [\d,]+ a second", "", each.stderr) for each in (one, other))
    assert (one.returncode, one.stdout, said) == (other.returncode, other.stdout, others) and one.stdout
    scripts = {path.stem for path in (ROOT / "scripts").glob("*.py")}
    assert scripts == {
        "benchmark", "data", "evaluate", "explain", "export", "generate", "predict", "results", "score", "train",
    }  # fmt: skip


def test_the_sweep_that_is_shown(molino, mirror, shared_cache, tmp_path, monkeypatch):
    """With one seed, one rate and few steps: 4 of its 24 runs."""
    monkeypatch.chdir(tmp_path)
    train, compare = (shlex.split(c)[2:] for c in COMMANDS if "sweep=first" in c or " first " in c)
    assert {"seed=0,1,2", "optimizer.lr=1e-3,1e-2", "model=bigram,gpt", "data=quijote,shakespeare"} <= set(train)
    short = ["trainer.max_steps=4", "trainer.val_every=4", "trainer.checkpoint_every=4", "trainer.log_every=2"]
    fewer = [
        "seed=0",
        "optimizer.lr=1e-3",
        "hydra.launcher.workers=1",
        "data.corpus.train_fraction=0.99",
        "data.block_size=8",
        *short,
    ]
    done = molino("train", *train, *fewer, f"paths.mirror={mirror}", f"paths.cache={shared_cache}")
    assert done.status == 0, done.out + done.err
    assert len(list((tmp_path / "outputs" / "sweeps" / "first").glob("*/summary.json"))) == 4
    done = molino("results", *compare)
    assert done.status == 0 and done.out.count("\n| ") == 4 + 1, done.out + done.err
    assert (tmp_path / "report" / "index.html").is_file()


def test_a_resumed_run_that_lacked_its_summary_has_the_same(molino, tiny, tmp_path):
    shutil.copytree(tiny.path, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    done = molino("train", "resume=latest", f"paths.outputs={tmp_path}", f"paths.cache={tiny.cache}")
    # The copy stands at its last step: only the summary was missing.
    assert done.status == 0, done.err
    again, summary = (json.loads((run / "summary.json").read_text()) for run in (tmp_path / "run", tiny.path))
    # Its clock went on from what the checkpoint says.
    saved = [each["seconds"] for each in load_checkpoint(tiny.path / LAST)["callbacks"].values() if "seconds" in each]
    assert again.pop("seconds") > saved[0] and summary.pop("seconds") >= saved[0] and again == summary


def test_tensorboard_reads_the_outputs(tiny):
    command = [sys.executable, "-m", "tensorboard.main", "--inspect", "--logdir", str(tiny.outputs)]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    assert "val/loss" in shown and f"{tiny.path.name}/floors/bigram" in shown


@pytest.mark.parametrize("page", ["README.md", "python.md"])
def test_what_is_shown_of_python(page, mirror, shared_cache, tmp_path, monkeypatch):
    """With few steps."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOLINO_MIRROR", str(mirror))
    monkeypatch.setenv("MOLINO_CACHE", str(shared_cache))
    train = package.train

    def shortened(overrides, **more):
        fewer = [] if "corpus" in more else ["data.corpus.train_fraction=0.98"]
        text = {"corpus": more["corpus"] * 20} if "corpus" in more else {}
        return train([*overrides, *SMALL, "trainer.max_steps=20", *fewer, *CPU], quiet=True, **text)

    monkeypatch.setitem(vars(package), "train", shortened)
    (code,) = blocks(TEXTS[page], "python")
    names = {}
    exec(code, names)
    assert names["run"].summary["steps"] == 20
    for name in re.findall(r"`run\.(\w+)", TEXTS[page]):
        assert hasattr(names["run"], name), name


def test_the_readme_fits_two_screens_and_has_ten_commands():
    assert len(README.splitlines()) <= 130 and len(README.encode("utf-8")) <= 9000
    section = README[README.index("## Ten commands") : README.index("## More")]
    assert len(commands_of(section)) == 10


def anchors(text: str) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_no_link_is_dead(page):
    text = page.read_text("utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists() and file.is_relative_to(ROOT), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(file.read_text("utf-8")), f"{page.name}: {target}"
    # Files that are named in passing are there too.
    folders = "src|tests|docs|examples|benchmarks" + ("" if page.name == "your-own-code.md" else "|conf")
    named = re.findall(rf"`((?:{folders})/[\w./-]+)`", text)
    assert not [name for name in named if not (ROOT / name).exists()]


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_a_page_can_be_found_and_begins_with_what_one_can_do(page):
    assert f"(docs/{page.name})" in README
    title, empty, first, *_ = page.read_text("utf-8").splitlines()
    assert title.startswith("# ") and empty == "" and first and not first.startswith(("#", "|", "-", "!"))


def test_benchmarks_that_are_named_are_there():
    shown = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "benchmark.py"), "--help"], capture_output=True, text=True
    ).stdout
    for name in re.findall(r"scripts/benchmark\.py (\w+)", "".join(TEXTS.values())):
        assert name in shown and (ROOT / "benchmarks" / f"{name}.py").is_file()
    assert os.access(ROOT / ".ci" / "run", os.X_OK) and Path(ROOT / "LICENSE").is_file()
