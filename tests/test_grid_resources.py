"""What jobs ask Slurm for: options over a profile, whose faults are all named at once."""

from pathlib import Path

import pytest
from grid_jobs import grid_in
from in_process import say

from bench.errors import BenchError
from bench.grid import Grid, GridFolder, read_resources
from bench.grid.slurm import batches, script

METHODS = ("acl", "byol", "deacl", "simclr")


def test_resources_come_from_options_over_a_profile(tmp_path: Path) -> None:
    profile = tmp_path / "a100.toml"
    profile.write_text('partition = "gpu"\ngpus = 1\n')
    found = read_resources(profile, {"gpus": 4, "time": None}, ["qos=long", "--exclusive"], METHODS)
    assert found == ({"partition": "gpu", "gpus": 4, "qos": "long", "exclusive": True}, {})
    profile.write_text("[deacl]\ngpus = 1.5\n")
    with pytest.raises(BenchError, match=r"\[deacl\] gpus = 1\.5 is neither text nor a whole number"):
        read_resources(profile, {}, [], METHODS)
    profile.write_text(f"cpus = {'1' * 5000}")
    with pytest.raises(BenchError, match="is not TOML: Exceeds the limit"):
        read_resources(profile, {}, [], METHODS)
    profile.write_text("gpus")
    with pytest.raises(BenchError, match="is not TOML"):
        read_resources(profile, {}, [], METHODS)
    with pytest.raises(BenchError, match="cannot be read"):
        read_resources(tmp_path / "none.toml", {}, [], METHODS)
    with pytest.raises(BenchError, match="not of the form KEY=VALUE"):
        read_resources(None, {}, ["=long"], METHODS)


def test_a_profile_is_utf8_whatever_the_locale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = tmp_path / "a100.toml"
    profile.write_text('comment = "Zürich"\n', "utf-8")
    read_text = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path, encoding="ascii": read_text(path, encoding))
    assert read_resources(profile, {}, [], METHODS) == ({"comment": "Zürich"}, {})


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("array=0-3", r"--slurm array=0-3: array follows from the grid\. Leave it out"),
        ("dependency=afterok:3", "dependency follows from the grid"),
        ("signal=USR1@10", r"signal follows from the grid\. Type --slurm grace=SECONDS"),
        ("--no-requeue", "no-requeue follows from the grid"),
        pytest.param(f"grace={'1' * 5000}", "grace must be a whole number from 1", id="thousands of digits"),
        ("grace=x", r"grace must be a whole number from 1 \(given: x\)"),
        ("grace", r"grace must be a whole number from 1 \(given: True\)"),
        ("gpus=two", r"gpus must be a whole number from 0, or such as a100:2 \(given: two\)"),
        ("gpus-per-node", r"gpus must be a whole number from 0, or such as a100:2 \(given: True\)"),
        ("array_parallelism=0", "array_parallelism must be a whole number from 1"),
        ("cpus-per-task=4", "cpus is given twice"),
        ("t=1", "time is given twice"),
    ],
)
def test_what_a_grid_decides_or_was_given_is_refused(tmp_path: Path, item: str, message: str) -> None:
    with pytest.raises(BenchError, match=message):
        read_resources(None, {"cpus": 3, "time": "12:00:00"}, [item], METHODS)
    (tmp_path / "profile.toml").write_text('[deacl]\narray = "0-3"')
    with pytest.raises(BenchError, match=r"--profile .*: \[deacl\] array follows from the grid"):
        read_resources(tmp_path / "profile.toml", {}, [], METHODS)


@pytest.mark.parametrize(
    "time", ["12h", "1:2:3:4", "2 days", "-5", "12:00:", "1-", "25:99:99", "25:00:60", "90:99", "2-24"]
)
def test_a_time_that_sbatch_cannot_read_is_refused(time: str) -> None:
    with pytest.raises(BenchError, match=rf"--time: time must be such as .* 12:00:00 .*given: {time}\)"):
        read_resources(None, {"time": time}, [], METHODS)
    with pytest.raises(BenchError, match=rf"--slurm t={time}: time must be"):
        read_resources(None, {}, [f"t={time}"], METHODS)


@pytest.mark.parametrize("time", ["90", "90:00", "12:00:00", "2-12", "2-12:30", "2-12:30:00", "UNLIMITED"])
def test_every_form_of_a_time_is_passed_on(time: str) -> None:
    assert read_resources(None, {"time": time}, [], METHODS).of_all == {"time": time}


def test_other_names_of_sbatch_and_numbers_are_understood(tmp_path: Path) -> None:
    (tmp_path / "profile.toml").write_text('cpus-per-task = 4\narray_parallelism = "3"\n[deacl]\nt = "2:00"')
    found = read_resources(tmp_path / "profile.toml", {}, ["p=gpu", "gpus-per-node=2", "grace=120"], METHODS)
    assert found.of_all == {"cpus": 4, "array_parallelism": 3, "partition": "gpu", "gpus": "2", "grace": 120}
    assert found.of_one == {"deacl": {"time": "2:00"}}


def test_every_fault_of_a_profile_is_in_one_message(tmp_path: Path) -> None:
    (tmp_path / "profile.toml").write_text(
        'time = "25:99:99"\ngpus = true\nwalltime = "12:00:00"\narray = "0-3"\nmem = 1.5\nt = "1:00"\n'
        '[acl]\ngpus = "two"\n[deacll]\ncpus = 0\n[shared]\ngpus = "a100:2"\nmail_user = "me@here"\n'
    )
    with pytest.raises(BenchError) as caught:
        read_resources(tmp_path / "profile.toml", {}, [], METHODS)
    first, *faults = str(caught.value).split("\n  - ")
    assert first == f"--profile {tmp_path / 'profile.toml'}: 8 faults"
    beginnings = (
        *("unknown section 'deacll'. Did you mean 'deacl'", "time must be such as", "gpus must be a whole number"),
        *(
            "unknown option of sbatch 'walltime'.",
            "array follows from the grid",
            "mem = 1.5 is neither",
        ),
        *("[acl] gpus must be a whole number from 0", "[deacll] cpus must be a whole number from 1 (given: 0)"),
    )
    assert [fault.startswith(begin) for fault, begin in zip(faults, beginnings, strict=True)] == 8 * [True], faults
    assert "--slurm walltime=VALUE" in faults[3]
    (tmp_path / "profile.toml").write_text("cpus = 4\ncpus_per_task = 8\n")
    with pytest.raises(BenchError, match=r"profile\.toml: cpus is given twice"):
        read_resources(tmp_path / "profile.toml", {}, [], METHODS)


def test_a_section_of_the_profile_is_for_the_jobs_of_a_method(tmp_path: Path) -> None:
    profile = tmp_path / "a100.toml"
    profile.write_text(
        'gpus = 1\ntime = "1:00"\n[acl]\ngpus = 2\ntime = "9:00"\n[shared]\nmem = "8G"\n[byol]\ngpus = 3\n'
    )
    found = read_resources(profile, {"time": "2:00"}, [], METHODS)
    assert found.names == {"gpus", "time", "mem"}
    jobs = tuple(
        job.model_copy(update={"method": method, "command": ("run", *more)})
        for job, method, *more in zip(
            grid_in(tmp_path, {"a": [], "b": [], "c": [], "d": []}).grid.jobs,
            ("acl", "simclr", "(shared stage)", "acl"),
            ("", "", "--shared-only", ""),
            strict=True,
        )
    )
    given = found.given(jobs)
    assert [job.resources for job in given] == [{"gpus": 2}, {}, {"mem": "8G"}, {"gpus": 2}]
    with pytest.raises(BenchError, match=r"--profile .*: unknown section 'byol'.*Allowed: acl, shared, simclr"):
        read_resources(profile, {}, [], ["acl", "simclr"])
    grid = GridFolder.create(tmp_path, Grid(asked={}, jobs=given, resources=found.of_all))
    made = batches(grid.grid.jobs)
    assert [[job.name for job in batch.jobs] for batch in made] == [["a", "d"], ["b"], ["c"]]
    asked = [
        {line.removeprefix("#SBATCH --") for line in script(grid, batch).splitlines() if "gpus-per-node" in line}
        for batch in made
    ]
    assert asked == [{"gpus-per-node=2"}, {"gpus-per-node=1"}, {"gpus-per-node=1"}]


@pytest.mark.parametrize(
    ("section", "methods", "message"),
    [
        ("all", "all", "unknown section 'all'"),
        ("Mine", "deacl,gone.py:Mine", "there is no file"),
        ("Mine", "deacl", "'Mine'"),
    ],
)
def test_a_section_is_a_method_of_a_package_or_of_the_files_that_are_named(
    section: str,
    methods: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "a100.toml").write_text(f"[{section}]\ncpus = 4\n")
    words = ("--methods", methods, "--datasets", "digits", "--on", "slurm", "--profile", str(tmp_path / "a100.toml"))
    code, _, said = say(monkeypatch, capsys, "matrix", *words, "--dry-run")
    assert code == 1
    assert message in said
