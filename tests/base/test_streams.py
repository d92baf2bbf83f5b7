"""Standard streams that are closed, or cannot write what is printed."""

import itertools
import os
import subprocess
import sys

import pytest

CODE = """
import os, subprocess, sys
from molino.base.streams import open_streams
open_streams()
for number in (0, 1, 2):
    os.fstat(number)
file = open("new", "w")
assert file.fileno() > 2, file.fileno()
print("en un lugar ñ")
print("de la Mancha ñ", file=sys.stderr)
assert sys.stdin.read() == ""
# What is started has them too.
subprocess.run([sys.executable, "-c", "import os; [os.fstat(n) for n in (0, 1, 2)]"], check=True)
file.write("whole")
"""


@pytest.fixture
def program(tmp_path):
    (tmp_path / "program.py").write_text(CODE, "utf-8")
    return [sys.executable, "program.py"]


@pytest.mark.parametrize("closed", [c for n in (1, 2, 3) for c in itertools.combinations((0, 1, 2), n)], ids=str)
def test_closed_streams_are_opened_on_nothing(tmp_path, program, closed):
    def close():
        for number in closed:
            os.close(number)

    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    done = subprocess.run(program, cwd=tmp_path, preexec_fn=close, **streams)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode() == ("" if 1 in closed else "en un lugar ñ\n")
    assert done.stderr.decode() == ("" if 2 in closed else "de la Mancha ñ\n")
    assert (tmp_path / "new").read_text() == "whole"


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
    ids=["PYTHONIOENCODING", "LC_ALL"],
)
def test_what_a_locale_cannot_write_is_escaped(tmp_path, program, environment):
    done = subprocess.run(
        program,
        cwd=tmp_path,
        env=os.environ | environment,
        capture_output=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0 and done.stdout == b"en un lugar \\xf1\n" and done.stderr == b"de la Mancha \\xf1\n"
