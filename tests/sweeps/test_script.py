"""The batch script of a submission."""

import subprocess
from pathlib import Path

import pytest

from molino.base.errors import ConfigError
from molino.sweeps.slurm.script import (
    arguments,
    check_options,
    compose,
    directives,
    environment,
    read_template,
    sbatch_options,
)


def test_what_is_asked_of_sbatch():
    asked = {"partition": "gpu", "memory": 1.5, "comment": "of the lab", "account": None, "minutes": 30}
    options = sbatch_options(asked, {"nodes": 1, "array": None}, {"nice": 10, "exclusive": True, "hold": False})
    assert arguments(options)[:3] == ["--requeue", "--partition=gpu", "--comment=of the lab"]
    assert directives(options) == [
        "#SBATCH --requeue", "#SBATCH --partition=gpu", '#SBATCH --comment="of the lab"', "#SBATCH --time=30",
        "#SBATCH --mem=1536M", "#SBATCH --nodes=1", "#SBATCH --nice=10", "#SBATCH --exclusive",
    ]  # fmt: skip
    # What is added is not overruled.
    options = sbatch_options({"job_name": None}, {}, {"job-name": 'my "own"', "requeue": False})
    assert directives(options) == ['#SBATCH --job-name="my \\"own\\""', "#SBATCH --no-requeue"]


def test_a_job_in_which_a_command_is_typed_says_nothing_to_those_it_submits(monkeypatch):
    for name in ("SLURM_CONF", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT", "SBATCH_ACCOUNT", "SBATCH_ARRAY_INX"):
        monkeypatch.setenv(name, "3")
    told = {name for name in environment() if name.startswith(("SLURM_", "SBATCH_"))}
    assert {"SLURM_CONF", "SBATCH_ACCOUNT"} <= told
    assert not told & {"SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT", "SBATCH_ARRAY_INX"}


def test_a_setup_line_that_fails_ends_the_job(tmp_path):
    for setup, said in ((["false", "echo on"], ""), (["export A='1 2'", 'echo "$A"'], "1 2\n")):
        script = compose(["#SBATCH --nodes=1"], setup, tmp_path / "job", str(tmp_path), 3, None)
        body = script.partition("# So many threads")[0]
        done = subprocess.run(["bash"], input=body, capture_output=True, text=True)
        assert (done.stdout, done.returncode != 0) == (said, said == "")
    assert script.splitlines()[:2] == ["#!/bin/bash", "#SBATCH --nodes=1"] and "export OMP_NUM_THREADS=3\n" in script


def test_odd_names_are_quoted(tmp_path):
    home = tmp_path / "with 'quotes' and $"
    home.mkdir()
    script = compose([], [], home / "job", str(home), 1, None).replace("exec ", "exec echo ")
    done = subprocess.run(["bash"], input=script.replace("\nexec", "\npwd\nexec"), capture_output=True, text=True)
    assert done.stdout.splitlines()[0] == str(home) and done.stdout.rstrip().endswith(str(home / "job"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{{directives}}\n{{command}}\n", "begin it with #!"),
        ("#!/bin/bash\n{{command}}\n", "must say {{directives}} once"),
        ("#!/bin/bash\n{{directives}}\n{{command}}\n{{command}}\n", "must say {{command}} once"),
        ("#!/bin/bash\n{{directives}}\n{{command}}\n", "must say {{setup}} once"),
    ],
)
def test_templates_that_lack_a_part(tmp_path, text, says):
    (tmp_path / "mine.sh").write_text(text)
    with pytest.raises(ConfigError, match=says.replace("{", r"\{")):
        read_template(str(tmp_path / "mine.sh"), ["module load cuda"])


def test_a_template_has_the_parts_in_its_places(tmp_path):
    (tmp_path / "mine.sh").write_text("#!/bin/sh\n{{directives}}\nbefore\n{{setup}}\nbetween\n{{command}}\nafter\n")
    text = read_template(str(tmp_path / "mine.sh"), ["module load cuda"])
    script = compose(["#SBATCH --a=1"], ["module load cuda"], Path("/job"), "/", 1, text)
    places = [script.index(words) for words in ("#SBATCH --a", "before", "module load", "between", "exec", "after")]
    assert places == sorted(places) and "{{" not in script


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"array": "1"}, "at_once"), ({"time": 3}, "minutes"), ({"mail_type": 1}, "mail-type"),
        ({"test": True}, "print"), ({"arr": 1}, "at_once"),
    ],
)  # fmt: skip
def test_options_that_say_what_settings_do(options, says):
    with pytest.raises(ConfigError, match=says):
        check_options(options, {"minutes": 60})
    check_options({"job-name": "x", "nice": 1}, {"job_name": None})
