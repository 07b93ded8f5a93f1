"""Runs rows of the flows' table side by side on one GPU for so many seconds.

    python benchmarks/gpu_rows.py --seconds 120 --work /tmp/rows --out results/gpu/rows.json

Each row is `python -m studies.reproduce --table flows --budget full --rows ROW`. When its
time is up a row is interrupted, which saves it; of what did not finish is told how far it
came, the bounds of its last epoch, and how long all of it would have taken in this company.
A row begins where another has finished, while a third of the time is left. The file is
written anew every few seconds.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from pyro_vae_zoo.errors import DataFileError
from pyro_vae_zoo.files import METRICS_FILE, read_json, write_json
from pyro_vae_zoo.report import read_metrics
from studies.recipes import TABLES

ROOT = Path(__file__).resolve().parent.parent
# The study's claims first: no flow, the best, the longest; then those it lacks.
ROWS = ("mean_field", "iaf_2", "planar_10", "sylvester_triangular_2", "iaf_10")
ROWS += ("householder_10", "spline_coupling_2", "planar_2")
GRACE = 8  # seconds for an interrupted row to save
LINES = 10


class Rows:
    """The rows: those that run, and what is known of each."""

    def __init__(self, args):
        self.args = args
        self.start = time.monotonic()
        self.waiting = list(args.rows)
        self.running = {}
        self.began, self.ended, self.codes = {}, {}, {}

    @property
    def left(self):
        """Seconds that are left."""
        return self.args.seconds - (time.monotonic() - self.start)

    def begin(self, row):
        """Start the process of a row."""
        args = self.args
        words = [sys.executable, "-m", "studies.reproduce", "--table", "flows"]
        words += ["--budget", args.budget, "--rows", row, "--seed", "0", "--quiet"]
        words += ["--device", args.device, "--out", args.work, "--runs-dir", args.work]
        words += ["--data", args.data] if args.data else []
        threads = max((os.cpu_count() or 1) // args.at_once, 1)
        with open(self.log(row), "w") as log:
            self.running[row] = subprocess.Popen(
                [str(word) for word in words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env={"OMP_NUM_THREADS": str(threads)} | os.environ,
            )
        self.began[row] = time.monotonic()

    def log(self, row):
        """The file of a row's output."""
        return self.args.work / f"{row}.log"

    def look(self):
        """Take note of the rows that have ended, and start others in their place."""
        for row, process in list(self.running.items()):
            if process.poll() is not None:
                self.codes[row] = process.returncode
                self.ended[row] = time.monotonic()
                del self.running[row]
        enough = not self.began or self.left > self.args.seconds / 3
        while enough and self.waiting and len(self.running) < self.args.at_once:
            self.begin(self.waiting.pop(0))

    def interrupt(self):
        """Have all rows save, and end them."""
        for process in self.running.values():
            process.send_signal(signal.SIGINT)
        end = time.monotonic() + GRACE
        for process in self.running.values():
            try:
                process.wait(max(end - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def report(self):
        """What is known of each row."""
        return {
            "budget": self.args.budget,
            "seconds": round(time.monotonic() - self.start, 1),
            "data": self.args.data or "the table's own",
            "at_once": self.args.at_once,
            "rows": {row: self.known(row) for row in self.began},
            "left_out": self.waiting,
        }

    def known(self, row):
        """The result of a finished row, or how far one came."""
        args = self.args
        took = self.ended.get(row, time.monotonic()) - self.began[row]
        about = {"state": "unfinished", "seconds_here": round(took, 1)}
        path = args.work / f"flows_{args.budget}" / f"{row}-s0.json"
        if path.exists():
            result = read_json(path)
            return about | {"state": "finished", "result": result}
        if self.codes.get(row, 0) not in (0, 130):
            text = self.log(row).read_text(errors="replace")
            lines = [line for line in text.splitlines() if line.strip()]
            about |= {"state": "failed", "last_lines": lines[-LINES:]}
        epochs = TABLES["flows"].budgets[args.budget].training["epochs"]
        folder = args.work / f"flows-{args.budget}" / f"{row}-s0"
        metrics = metrics_of(folder)
        if metrics:
            each = statistics.median(record["seconds"] for record in metrics)
            about |= {
                "epochs": len(metrics),
                "of_epochs": epochs,
                "seconds_per_epoch": each,
                "seconds_for_all_epochs": round(epochs * each),
                "last_epoch": metrics[-1],
            }
        return about


def metrics_of(folder):
    """The records of a run's epochs; empty before the first, and while one is written."""
    if not (folder / METRICS_FILE).exists():
        return []
    try:
        return read_metrics(folder)
    except DataFileError:
        return []


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--seconds", type=float, required=True, help="for all of it")
    parser.add_argument("--at-once", type=int, default=3, help="rows side by side")
    parser.add_argument("--budget", choices=("smoke", "full"), default="full")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS)
    parser.add_argument("--data", help="a data set or an .npz in place of the table's")
    parser.add_argument("--work", type=Path, required=True, help="for run folders")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rows = Rows(args)
    try:
        rows.look()
        while rows.running and rows.left > GRACE:
            time.sleep(min(5.0, max(rows.left - GRACE, 0)) if rows.left < 30 else 2.0)
            rows.look()
            write_json(args.out, rows.report())
    finally:
        rows.interrupt()
        rows.look()
        report = rows.report()
        write_json(args.out, report)
    states = [row["state"] for row in report["rows"].values()]
    print({state: states.count(state) for state in sorted(set(states))})
    if "failed" in states:
        raise SystemExit("a row failed; see its `last_lines`")


if __name__ == "__main__":
    main()
