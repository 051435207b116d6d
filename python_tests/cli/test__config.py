# SPDX-License-Identifier: MIT
"""Option files, examples, completion, progress, and JSON that stands alone, for every subcommand."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from certcal_ext import Certificates, _progress
from certcal_ext.cli import SUBCOMMANDS, _config, app

COUNTS = np.random.default_rng(7).multinomial(1000, [0.9, 0.07, 0.03], 40)
LABELS = np.random.default_rng(8).choice(3, 40, p=[0.8, 0.1, 0.1])
GROUP: Any = typer.main.get_command(app)
COMMANDS: dict[str, Any] = GROUP.commands


def run(*words: object, code: int = 0) -> Any:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, f"{result.stdout}\n{result.stderr}\n{result.exception!r}"
    return result


def fails(*words: object) -> str:
    result = run(*words, code=2)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("certcal: error: ")
    return str(line.removeprefix("certcal: error: "))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    np.savez("data/counts.npz", counts=COUNTS, label=LABELS, sigma=0.25, n=1000)
    return tmp_path


def write(text: str, name: str = "run.toml") -> str:
    Path(name).write_text(text)
    return name


# --- option files ---------------------------------------------------------------------------


def test_a_file_is_the_same_as_options(folder: Path) -> None:
    words = ["--radii", "0,0.05,0.1", "--bins", "9", "--closed", "left", "--alpha", "0.01"]
    wanted = run("bound", "data/counts.npz", *words, "--metrics", "brier,ks", "--json").stdout
    write(
        'file = "counts.npz"\nradii = [0, 0.05, 0.1]\nbins = 9\nclosed = "left"\nalpha = 0.01\n'
        'json = true\nmetrics = ["brier", "ks"]\nequal-mass = false\n',
        "data/run.toml",
    )
    found = run("bound", "--config", "data/run.toml").stdout
    skip = re.compile(r'"created": .*')
    assert skip.sub("", found) == skip.sub("", wanted)


def test_the_command_line_wins(folder: Path) -> None:
    write('[bound]\nradii = "0.1"\nbins = 9\nfile = "nothing.npz"\n')
    for words in (
        ["--config", "run.toml", "--radii", "0.05", "data/counts.npz"],
        ["data/counts.npz", "--radii", "0.05", "--config", "run.toml"],
    ):
        printed = json.loads(run("bound", *words, "--json").stdout)
        assert [row["radius"] for row in printed["radii"]] == [0.05]
        assert printed["bins"] == 9


def test_one_file_for_several_subcommands(folder: Path) -> None:
    write(
        'file = "data/counts.npz"\nbins = 7\n[bound]\nradii = [0.1]\n'
        '[report]\nout = "page.html"\nradius = 0.05\n'
    )
    assert json.loads(run("bound", "--config", "run.toml", "--json").stdout)["bins"] == 7
    run("report", "--config", "run.toml")
    assert "at radius 0.05" in Path("page.html").read_text()
    listed = write('compare = ["b.npz", "c.npz"]\nfile = "counts.npz"\n', "data/two.toml")
    np.savez("data/b.npz", counts=COUNTS[:, ::-1], label=LABELS, sigma=0.25)
    np.savez("data/c.npz", counts=COUNTS[::-1], label=LABELS, sigma=0.25)
    printed = json.loads(run("bound", "--config", listed, "--radii", "0", "--json").stdout)
    assert {row["model"] for row in printed["comparison"]} == {"counts.npz", "b.npz", "c.npz"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("bin = 9", "run.toml: bin: bound has no such option; expected some of alpha, baselines"),
        ("[bound]\nbin = 9", "run.toml: [bound] bin: bound has no such option"),
        ("[bond]\nbins = 9", "[bond]: expected a table named like a subcommand (attack, baselines"),
        ("bins = 9\n[bound]\nbins = 8", "[bound] bins: expected each option once"),
        ("equal-mass = true\nequal_mass = true", "equal_mass: expected each option once"),
        ("bins = 9.0", "bins: expected a whole number, got 9.0"),
        ("bins = true", "bins: expected a whole number, got True"),
        ('bins = "9"', "bins: expected a whole number, got '9'"),
        ("bins = 0", "bins: expected a whole number from 1"),
        ('delta = "x"', "delta: expected a number, got 'x'"),
        ("delta = false", "delta: expected a number, got False"),
        (f"delta = {10**400}", "delta: expected a number that a float holds"),
        ("closed = 1", "closed: expected text in quotes, got 1"),
        ("radii = 1", "radii: expected text in quotes, or a list, got 1"),
        ("radii = [[0]]", "radii: expected numbers or texts in the list, got [0]"),
        ("radii = [true]", "radii: expected numbers or texts in the list, got True"),
        ("radii = [nan]", "--radii: expected numbers separated by commas"),
        ("closed = ['left']", "closed: expected text in quotes, got ['left']"),
        ("out = 3", "out: expected a path in quotes, got 3"),
        ("compare = 'b.npz'", "compare: expected a list, each a path in quotes, got 'b.npz'"),
        ("compare = [1]", "compare: expected a path in quotes, got 1"),
        ("population = 1", "population: expected true or false, got 1"),
        ("delta = 1979-05-27", "delta: expected a number, got datetime.date"),
        ("config = 'x.toml'", "config: bound has no such option"),
        ("bins = ", "run.toml: expected TOML: "),
        ("[" * 5000, "run.toml: expected TOML: "),
        ("bins = " + "[" * 5000, "run.toml: expected TOML: "),
    ],
)
def test_bad_files(folder: Path, text: str, words: str) -> None:
    write(text)
    assert words in fails("bound", "data/counts.npz", "--config", "run.toml")


def test_files_that_are_none(folder: Path) -> None:
    assert "--config: no.toml: no such file" in fails("bound", "--config", "no.toml")
    assert "--config: data: no such file" in fails("bound", "--config", "data")
    Path("binary.toml").write_bytes(b"\xff\xfe\x00")
    assert "binary.toml: expected TOML" in fails("bound", "--config", "binary.toml")
    assert run("bound", "--config", write("bins = 3"), code=2).stdout == ""  # FILE is missing


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("toml") / "x.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    wanted = {"a": int, "b": float, "radii": str, "d": Path, "e": list[Path], "f": bool}
    refused, found = "", {}
    try:
        found = _config.read_options(path, "bound", wanted, SUBCOMMANDS)
    except ValueError as error:
        refused = str(error)
    assert refused.startswith("--config: ") or found.keys() <= wanted.keys()


# --- the options of a run -------------------------------------------------------------------


def stored_options(*words: str) -> str | None:
    """What a subcommand would store, without running it."""
    seen = []

    def bound(**values: Any) -> None:
        seen.append(_config.options_of_this_run())

    bound.__signature__ = __import__("inspect").signature(  # type: ignore[attr-defined]
        SUBCOMMANDS["bound"].bound, eval_str=True
    )
    bound.__wrapped__ = SUBCOMMANDS["bound"].bound  # type: ignore[attr-defined]
    one = typer.Typer()
    one.command("bound")(_config.configurable(bound))
    one.command("other")(lambda: None)
    result = CliRunner().invoke(one, ["bound", *words])
    assert result.exit_code == 0, result.output
    assert _config.options_of_this_run() is None
    (text,) = seen
    return str(text)


def test_the_options_of_a_run_are_a_file_for_the_next(folder: Path) -> None:
    words = ['a b"c\\\x7f\t.npz', "--radii", "0,0.1", "--delta", "1e-5", "--population"]
    text = stored_options(*words, "--compare", "x.npz", "--compare", "y.npz", "--json")
    assert text is not None
    assert text.startswith("[bound]\n")
    assert "json" not in text
    assert "delta = 1e-05\n" in text
    assert 'compare = ["x.npz", "y.npz"]\n' in text
    again = stored_options("--config", write(text))
    assert again == text
    assert stored_options(*words, "--out", "z.parquet") != text  # other files are compared with
    both = [*words, "--compare", "x.npz", "--compare", "y.npz"]
    assert stored_options(*both, "--out", "z.parquet") == text


# --- help and examples ----------------------------------------------------------------------


def examples(name: str) -> list[str]:
    return re.findall(r"\[cyan\](.*?)\[/cyan\]", SUBCOMMANDS[name].EXAMPLES)


def test_every_subcommand_is_listed_once() -> None:
    assert sorted(COMMANDS) == sorted(SUBCOMMANDS)
    listed = {name for module in SUBCOMMANDS.values() for name in [module.__name__.split(".")[-1]]}
    assert listed == set(SUBCOMMANDS)


@pytest.mark.parametrize("name", sorted(SUBCOMMANDS))
def test_help_has_examples_that_parse(name: str) -> None:
    text = run(name, "--help").stdout
    assert "Examples" in text
    assert "--json" in text
    assert "--config" in text
    lines = examples(name)
    assert len(lines) >= 2
    for line in lines:
        words = shlex.split(line)
        start = next(at for at, word in enumerate(words) if word in ("certcal", "certcal_ext"))
        command, arguments = words[start + 1], words[start + 2 :]
        assert command in COMMANDS, line
        # Raises where an option is missing, unknown or of the wrong type. Nothing runs.
        context = COMMANDS[command].make_context(command, list(arguments))
        assert context.params["config"] is None
        shown = " ".join(text.replace("│", " ").split())
        assert " ".join(line.split()) in shown, line


def test_comma_lists_and_result_options_exist() -> None:
    names = {str(param.name) for command in COMMANDS.values() for param in command.params}
    assert names >= _config.COMMA_LISTS
    assert names >= _config.BESIDE_THE_RESULT


# --- JSON -----------------------------------------------------------------------------------

NET = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(16, 3)
        with torch.no_grad():
            self.layer.weight.copy_(torch.linspace(-1, 1, 48).reshape(3, 16).sin() * 3)
            self.layer.bias.zero_()
    def forward(self, x):
        return self.layer(x.flatten(1))
"""
MODEL = "--model json_net:Net --data d.npz"
INVOCATIONS = {
    "certify": f"certify {MODEL} --sigma 0.5 --n0 10 --n 200",
    "bound": "bound data/counts.npz --metrics all --baselines --more-draws --radii 0,0.1",
    "compare": "compare data/counts.npz data/other.npz --radii 0,0.1",
    "recalibrate": "recalibrate data/counts.npz --radii 0",
    "forecast": "forecast data/counts.npz --radii 0,0.1",
    "milp": "milp data/counts.npz --radii 0.1 --max-attacked 1",
    "baselines": "baselines data/counts.npz --radii 0.1",
    "replay": f"replay certificates.parquet {MODEL} --sample 2",
    "train": f"train {MODEL} --sigma 0.5 --method gaussian --epochs 1 --batch-size 6 --out w.pt",
    "attack": f"attack {MODEL} --radius 0.1 --steps 2",
    "report": "report data/counts.npz",
    "export": "export data/counts.npz --to counts.csv",
    "doctor": "doctor",
    "demo": "demo --quick --out demo",
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    home = tmp_path_factory.mktemp("json")
    (home / "json_net.py").write_text(NET)
    (home / "data").mkdir()
    np.savez(home / "data/counts.npz", counts=COUNTS, label=LABELS, sigma=0.25, n=1000)
    np.savez(home / "data/other.npz", counts=COUNTS[::-1], label=LABELS, sigma=0.25)
    images = np.random.default_rng(0).random((12, 1, 4, 4)).astype(np.float32)
    np.savez(home / "d.npz", images=images, labels=np.arange(12) % 3)
    return home


def in_process(words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "certcal_ext", *shlex.split(words)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize("name", list(INVOCATIONS))
def test_json_stands_alone_and_pipes_are_plain(name: str, work: Path) -> None:
    if name == "replay" and not (work / "certificates.parquet").exists():
        in_process(INVOCATIONS["certify"], work)
    result = in_process(f"{INVOCATIONS[name]} --json", work)
    assert result.returncode == 0, result.stderr
    assert isinstance(json.loads(result.stdout), dict)  # one document, nothing before or after
    # Neither an escape nor a carriage return: what a pipe or a log file gets is text in lines.
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", result.stderr)
    if name in ("certify", "train", "attack", "replay"):
        assert re.search(r": 100 % of [\d,]+ (draws|steps|passes), took \d", result.stderr)


def test_every_subcommand_has_its_turn() -> None:
    missing = set(SUBCOMMANDS) - set(INVOCATIONS)
    assert not missing, f"add {missing} to INVOCATIONS"
    for command in COMMANDS.values():
        assert any("--json" in param.opts for param in command.params), command.name


def test_a_table_holds_the_options_that_made_it(work: Path) -> None:
    words = f"{INVOCATIONS['certify']} --seed 5 --stop-radii 0.1,0.2 --n 2000"
    assert in_process(f"{words} --out first.parquet --batch-size 64", work).returncode == 0
    assert in_process("export first.parquet --to again.toml", work).returncode == 0
    text = (work / "again.toml").read_text()
    assert "seed = 5\n" in text
    assert "batch" not in text
    result = in_process("certify --config again.toml --out second.parquet", work)
    assert result.returncode == 0, result.stderr
    first, second = (
        Certificates.from_parquet(work / f"{name}.parquet") for name in ("first", "second")
    )
    assert first == second
    assert first.provenance.options == second.provenance.options == text


# --- progress -------------------------------------------------------------------------------


def test_lines_come_at_tenths_and_after_minutes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(_progress.time, "monotonic", lambda: now[0])
    with _progress.shown("counting", "draws") as show:
        for done, clock in (
            (100, 1.0),
            (110, 5.0),
            (120, 30.0),
            (130, 66.0),
            (131, 67.0),
            (1000, 70.0),
        ):
            now[0] = clock
            show(done, 1000)
        show(1000, 1000)
    assert capsys.readouterr().err.splitlines() == [
        "counting: 11 % of 1,000 draws, about 40 s left",
        "counting: 13 % of 1,000 draws, about 7 min 22 s left",
        "counting: 100 % of 1,000 draws, took 1 min 10 s",
    ]


def test_nothing_to_do_is_shown_as_done(capsys: pytest.CaptureFixture[str]) -> None:
    with _progress.shown("counting", "draws") as show:
        show(0, 0)
    assert "about" not in capsys.readouterr().err


PROGRESS = """
import time
from certcal_ext._progress import shown
with shown("counting", "draws") as show:
    for done in range(0, 101, 10):
        show(done, 100)
        time.sleep(0.02)
"""


def test_a_terminal_gets_a_bar_with_the_time_left() -> None:
    pytest.importorskip("rich")
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRESS],
        stderr=follower,
        stdout=subprocess.PIPE,
        env=environment,
    )
    os.close(follower)
    seen = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # the other side has hung up
            break
        if not part:
            break
        seen += part
    os.close(leader)
    assert process.stdout is not None
    assert process.stdout.read() == b""
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    text = seen.decode()
    assert "counting" in text
    assert "100%" in text
    assert "\x1b[" in text
    assert re.search(r"\d:\d\d:\d\d", text)


# --- completion -----------------------------------------------------------------------------


def complete(*words: str) -> tuple[list[str], str]:
    """What bash would offer for the last word, and what was imported for it."""
    environment = {
        **os.environ,
        "_CERTCAL_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(("certcal", *words)),
        "COMP_CWORD": str(len(words)),
    }
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "certcal_ext"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=environment,
    )
    return result.stdout.split(), result.stderr


def test_bash_completes_subcommands_and_options() -> None:
    started = time.perf_counter()
    offered, imported = complete("")
    assert sorted(offered) == sorted(SUBCOMMANDS)
    assert time.perf_counter() - started < 10
    for heavy in ("torch", "matplotlib", "numpy", "pyarrow", "scipy", "jinja2"):
        assert not re.search(rf"\| +{heavy}(\.|$)", imported, re.MULTILINE)
    assert complete("bo")[0] == ["bound"]
    assert complete("bound", "--conf")[0] == ["--config"]
    # A file that is being named is not read: it may not be there yet.
    assert complete("bound", "--config", "no.toml", "--bi")[0] == ["--bins"]


def test_bash_takes_the_completion_that_is_shown(tmp_path: Path) -> None:
    """In a real bash: the script that --show-completion prints defines a completion of certcal."""
    bash = Path("/bin/bash")
    if not bash.exists():
        pytest.skip("there is no /bin/bash")
    script = (
        f'"{sys.executable}" -m certcal_ext --show-completion > shown && source shown && '
        "complete -p certcal"
    )
    result = subprocess.run(
        [str(bash), "--norc", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert "-F _certcal_completion certcal" in result.stdout


# --- the pages ------------------------------------------------------------------------------

ROOT = Path(__file__).resolve().parents[2]


def page_lines() -> list[tuple[str, str]]:
    """(page, command line) of every use of certcal in a block of shell lines."""
    found = []
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = page.read_text(encoding="utf-8")
        for block in re.findall(r"```(?:bash|sh|console)\n(.*?)```", text, flags=re.DOTALL):
            for line in re.sub(r"\\\n\s*", " ", block).splitlines():
                words = shlex.split(line, comments=True)
                if "certcal" in words or "certcal_ext" in words:
                    found.append((page.name, shlex.join(words)))
    return found


def test_command_lines_of_the_pages_parse() -> None:
    lines = page_lines()
    assert len(lines) > 20
    for page, line in lines:
        words = shlex.split(line)
        start = next(at for at, word in enumerate(words) if word in ("certcal", "certcal_ext"))
        command, *arguments = words[start + 1 :]
        if command.startswith("--") or "--config" in arguments or "..." in arguments:
            continue  # what is in the file, or left out, is not known here
        assert command in COMMANDS, f"{page}: {line}"
        COMMANDS[command].make_context(command, arguments)


def test_option_files_of_the_pages_are_read(tmp_path: Path) -> None:
    seen = 0
    for page in sorted((ROOT / "docs").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        for block in re.findall(r"```toml\n(.*?)```", text, flags=re.DOTALL):
            (tmp_path / "run.toml").write_text(block)
            for name in re.findall(r"^\[(\w+)\]", block, flags=re.MULTILINE):
                words = ["--config", str(tmp_path / "run.toml")]
                words += ["--out", "x"] if name == "train" else []
                context = COMMANDS[name].make_context(name, words, parent=typer.Context(GROUP))
                assert context.params["config"] is not None
                seen += 1
    assert seen
