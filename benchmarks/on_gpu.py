"""Measures on one GPU, within a budget of seconds, all that needs one.

    OUT=results/gpu bash benchmarks/on_gpu.sh [--dry]

It needs no network, and the package from this checkout. Its parts run one after another,
each in a process of its own that has so many seconds at most:

    machine     the card, the versions, and which data there are
    tests       the tests marked `gpu`, one by one
    steps       `svi_step.py`: milliseconds for a training step in float32, TF32 and
                bfloat16; `ours` is replayed as a CUDA graph, `drop-in` is not
    importance  `gpu_evaluate.py`: log p(x) of 10,000 images with 5,000 draws each; the
                mark is 60 s
    memory      `soak.py`: memory after each epoch of 2,000 replayed steps
    rows        `gpu_rows.py`: rows of `studies.reproduce --table flows --budget full`,
                side by side in all the time that is left

Each part writes `<part>.json` under `--out`, as it goes where it measures more than one
thing. `summary.json` is written anew after each part and says of all of them whether it is
done, has failed (with its last lines), was stopped or was left out, and how many seconds it
took: what comes later loses nothing of what was. With `--dry` everything is small and on
the CPU: that says whether the programs run, and nothing about speed.

The exit code is 0 where every part is done.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
LAST_LINES = 20
SIZES, NETWORKS = (100, 1000), ("mean_field", "iaf_2")  # of the training steps
MOST_OF_A_CALL, LEAST_OF_A_CALL = 70, 15  # seconds of one call of `svi_step.py`
GRACE = 5  # seconds from a polite signal to one that nobody survives
TEST_LINE = re.compile(r"^(\S+::.*?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b")


@dataclass
class Outcome:
    """What became of a part.

    Attributes:
        state: done, failed, stopped (its time was up) or left out.
        seconds: that it took.
        reason: why it was left out, or how it ended.
        last_lines: of its output, where it is not done.
    """

    state: str
    seconds: float = 0.0
    reason: str = ""
    last_lines: list[str] | None = None


class Run:
    """One run of all parts: its options, its clock, and what became of each part."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.end = time.monotonic() + args.seconds
        self.outcomes: dict[str, Outcome] = {}
        self.process: subprocess.Popen | None = None

    @property
    def device(self) -> str:
        """The device that the parts compute on."""
        return "cpu" if self.args.dry else "cuda"

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.end - time.monotonic()

    def out(self, name: str) -> Path:
        """The file of a part."""
        return self.args.out / f"{name}.json"

    def read(self, name: str) -> dict:
        """What a part wrote; empty where it wrote nothing that can be read."""
        return _read(self.out(name))

    def write(self, name: str, value: object) -> None:
        """Write JSON whole or not at all, without the package, which may be missing."""
        path = self.out(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(value, indent=2) + "\n")
        temporary.replace(path)

    def summarise(self) -> None:
        """Write what became of all parts so far."""
        parts = {name: asdict(self.outcomes[name]) for name in self.outcomes}
        took = self.args.seconds - self.left
        self.write(
            "summary",
            {
                "command": "bash benchmarks/on_gpu.sh" + " --dry" * self.args.dry,
                "dry": self.args.dry,
                "seconds": round(took, 1),
                "of": self.args.seconds,
                "machine": self.read("machine"),
                "parts": parts,
            },
        )

    def call(self, words: list[object], seconds: float, log: str) -> Outcome:
        """Run a Python program in a process group of its own; stop it in time.

        Its output goes to `<log>.log` of the working folder.
        """
        seconds = min(seconds, self.left)
        if seconds <= 0:
            return Outcome("left out", reason="no time was left")
        command = [sys.executable, *map(str, words)]
        path, start = self.args.work / f"{log}.log", time.monotonic()
        with open(path, "a") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                start_new_session=True,  # so that its children are stopped with it
            )
            try:
                code = self.process.wait(max(seconds - GRACE, seconds / 2))
                state = "done" if code == 0 else "failed"
                reason = "" if code == 0 else f"exit code {code}"
            except subprocess.TimeoutExpired:
                state, reason = "stopped", f"its {seconds:.0f} s were up"
            finally:
                self.stop()
        took = round(time.monotonic() - start, 1)
        lines = None if state == "done" else _last_lines(path)
        return Outcome(state, took, reason, lines)

    def stop(self) -> None:
        """End the program that runs, and all that it has started."""
        process, self.process = self.process, None
        if process is None:
            return
        if process.poll() is None:
            _signal(process.pid, signal.SIGINT)
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                pass  # it is asked less politely
        _signal(process.pid, signal.SIGKILL)  # and who was left of its group
        process.wait()


def _signal(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return  # nobody is left


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def _last_lines(path: Path) -> list[str]:
    text = path.read_text(errors="replace").replace("\r", "\n")
    return [line for line in text.splitlines() if line.strip()][-LAST_LINES:]


# ------------------------------------------------------------------------- the parts


def machine(run: Run, seconds: float) -> Outcome:
    """The card, the versions, and which data there are."""
    words = [HERE / "gpu_machine.py", "--device", run.device, "--out"]
    words += [run.out("machine"), "--work", run.args.work]
    return run.call(words, seconds, "machine")


def tests(run: Run, seconds: float) -> Outcome:
    """The tests marked `gpu`; those that fail once more, with warnings no errors."""
    found = sorted((ROOT / "tests").rglob("test_*.py"))
    files = [path for path in found if "mark.gpu" in path.read_text()]
    pytest = ["-m", "pytest", "-m", "gpu", "-v", "--tb=short", "-p", "no:cacheprovider"]
    pytest += ["--color=no", "--continue-on-collection-errors"]
    if run.args.dry:
        pytest += ["--collect-only", "--assert=plain"]  # which nothing is to explain
        outcome = run.call([*pytest, *files], seconds, "tests")
        run.write("tests", {"collected_only": True})
        return outcome
    outcome = run.call([*pytest, *files], seconds, "tests")
    results = _tests_of(run.args.work / "tests.log")
    report = {"files": [str(p.relative_to(ROOT)) for p in files], "outcomes": results}
    run.write("tests", report)
    bad = [test for test, state in results.items() if state in ("FAILED", "ERROR")]
    if bad or not results:
        again = [*pytest, "-W", "default", *(bad or files)]
        rest = seconds - outcome.seconds
        second = run.call(again, rest, "tests-again")
        report["again_with_warnings_no_errors"] = {
            "state": second.state,
            "outcomes": _tests_of(run.args.work / "tests-again.log"),
            "last_lines": second.last_lines,
        }
        run.write("tests", report)
    return outcome


def _tests_of(log: Path) -> dict[str, str]:
    """Test -> outcome, as far as pytest came."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    matches = [match for line in lines if (match := TEST_LINE.match(line))]
    return {match[1]: match[2] for match in matches}


def steps(run: Run, seconds: float) -> Outcome:
    """Training steps: a call of `svi_step.py` for each batch size, network and precision.

    Each call writes a file of its own, and this part's is made of them after each: one
    that fails or is stopped takes nothing from the others.
    """
    end = time.monotonic() + seconds
    precisions = ("float32", "tf32", "bf16")
    calls = [(n, net, p) for n in SIZES for net in NETWORKS for p in precisions]
    if run.args.dry:
        calls = [(20, "mean_field", "float32")]
    report: dict = {"time": [], "calls": {}}
    worst = Outcome("done")
    for number, (size, network, precision) in enumerate(calls):
        path = run.args.work / f"steps-{number}.json"
        words = [HERE / "svi_step.py", "--device", run.device, "--networks", network]
        words += ["--batch-sizes", size, "--repeats", 10, "--out", path]
        words += ["--tf32"] if precision == "tf32" else []
        others = ["SVI", "drop-in", "hand+c"]  # once, in float32
        if run.args.dry or precision != "float32":
            others = []
        words += ["--only", "ours+bf16" if precision == "bf16" else "ours", *others]
        words += ["--check"] if run.args.dry else []
        rest = end - time.monotonic()
        outcome = Outcome("left out", reason=f"{rest:.0f} s of this part were left")
        if rest >= LEAST_OF_A_CALL or run.args.dry:
            most = rest if run.args.dry else min(rest, MOST_OF_A_CALL)
            outcome = run.call(words, most, f"steps-{number}")
        report["calls"][f"{network}, {size}, {precision}"] = asdict(outcome)
        result = _read(path)
        rows = result.get("time", [])
        report["time"] += [row | {"precision": precision} for row in rows]
        if "hardware" in result:
            report["hardware"] = result["hardware"]
        run.write("steps", report)
        if outcome.state not in ("done", "left out") and worst.state != "failed":
            worst = outcome
    states = {call["state"] for call in report["calls"].values()}
    if states == {"left out"}:
        return Outcome("failed", reason="no call had time to begin; see `calls`")
    reason = f"{worst.reason}; see `calls`" if worst.reason else ""
    return Outcome(worst.state, 0.0, reason, worst.last_lines)


def importance(run: Run, seconds: float) -> Outcome:
    """Importance sampling of log p(x): 10,000 images with 5,000 draws each."""
    words = [HERE / "gpu_evaluate.py", "--device", run.device]
    if run.args.dry:
        words += ["--num-data", "20", "--num-particles", "50"]
    return run.call([*words, "--out", run.out("importance")], seconds, "importance")


def memory(run: Run, seconds: float) -> Outcome:
    """Memory over 2,000 steps of `fit`, which replays them."""
    kind = "eager" if run.args.dry else "compiled"  # compiling takes CI a minute
    words = [HERE / "soak.py", "--only", kind, "--device", run.device]
    words += ["--steps", "130" if run.args.dry else "2000"]
    if (data := run.read("machine").get("small_data")) is not None:
        words += ["--data", data]
    return run.call([*words, "--out", run.out("memory")], seconds, "memory")


def rows(run: Run, seconds: float) -> Outcome:
    """Rows of the flows' table at the full budget, as many as there is time for."""
    words = [HERE / "gpu_rows.py", "--device", run.device, "--work", run.args.work]
    words += ["--seconds", int(seconds - 2 * GRACE), "--out", run.out("rows")]
    data = run.args.data or run.read("machine").get("data_of_rows")
    if run.args.dry:
        words += ["--budget", "smoke", "--rows", "mean_field"]
    elif data is not None:
        words += ["--data", data]
    return run.call(words, seconds, "rows")


# Part -> what runs it, and its seconds at most and at least; rows have all that is left.
PARTS: dict[str, tuple[Callable[[Run, float], Outcome], float, float]] = {
    "machine": (machine, 45, 5),
    "tests": (tests, 90, 20),
    "steps": (steps, 180, 20),
    "importance": (importance, 80, 20),
    "memory": (memory, 60, 20),
    "rows": (rows, 10_000, 45),
}


def run_all(run: Run, parts: dict = PARTS) -> None:
    """Run the parts; whatever happens, the summary says what became of each."""
    for name, (part, most, least) in parts.items():
        card, reason = run.read("machine"), ""
        if name != "machine" and card and not (run.args.dry or card.get("cuda")):
            reason = "no CUDA device"
        elif run.left < (least / 4 if run.args.dry else least):
            reason = f"{run.left:.0f} s were left, of {least} at least"
        if reason:
            run.outcomes[name] = Outcome("left out", reason=reason)
            run.summarise()
            continue
        print(f"{name}: {run.left:.0f} s are left", flush=True)
        run.outcomes[name] = Outcome("stopped", reason="the run ended in it")
        run.summarise()
        start = time.monotonic()
        try:
            outcome = part(run, min(most, run.left))
        except Exception as error:  # of this file: the parts to come are not to miss it
            outcome = Outcome("failed", reason=f"{type(error).__name__}: {error}")
        outcome.seconds = round(time.monotonic() - start, 1)
        run.outcomes[name] = outcome
        run.summarise()
        print(f"{name}: {outcome.state}, {outcome.seconds} s {outcome.reason}")
        for line in outcome.last_lines or ():
            print(f"    {line}")


def arguments() -> argparse.Namespace:
    """The options of the command line."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--dry", action="store_true", help="small, and on the CPU")
    options.add_argument("--seconds", type=float, default=465, help="for everything")
    options.add_argument("--out", type=Path, required=True, help="for the JSON files")
    options.add_argument("--work", type=Path, required=True, help="for all else")
    options.add_argument("--data", help="of the rows, in place of their table's")
    args = options.parse_args()
    args.out, args.work = args.out.resolve(), args.work.resolve()
    return args


def main() -> int:
    """Run all parts; 0 where each is done."""
    run = Run(arguments())
    run.args.work.mkdir(parents=True, exist_ok=True)
    for part in (*PARTS, "summary"):
        run.out(part).unlink(missing_ok=True)  # of an earlier run

    def ended(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # `timeout` sends it twice
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, ended)
    try:
        run_all(run)
    finally:
        run.stop()
        for name in PARTS:
            run.outcomes.setdefault(name, Outcome("left out", reason="the run ended"))
        run.summarise()
    return 0 if all(o.state == "done" for o in run.outcomes.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
