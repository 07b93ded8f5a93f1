"""Trains on a file that need not fit into memory: its memory, and the time of a step.

    python benchmarks/larger_than_memory.py [--gigabytes 4] [--folder DIR] [--out FILE]

Writes an `.npy` file of bits, a byte each, 28 x 28 a row. Times steps of `mean_field` in
turns of some steps each, on rows out of the whole file and on 20,000 of them in memory;
what is read was read before or not, as the system's cache has it. Then measures, in a
process for each, the peak of resident memory (without the workers') over as many steps and
an evaluation: with rows in memory, with as many of a small file, and with the large one.
Pages of the file are in the system's cache and in no process, since rows are read and not
mapped.

Marks: a step on the file takes at most 1.3 times as long, and the large file at most 50 MB
more memory than the small one.
"""

import json
import math
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyro
import torch
from timing import in_turn, make, parser, peak_memory, ratio, summary, write

import pyro_vae_zoo as zoo
from pyro_vae_zoo.runtime import Ranks
from pyro_vae_zoo.training.feed import Feed
from pyro_vae_zoo.training.options import TrainOptions
from pyro_vae_zoo.training.steps import Steps

IN_MEMORY = 20_000  # rows, of 63 MB as float32
JUDGED = 1000  # rows, for validation and for test
AT_A_TIME = 10_000  # rows that are written
TURN = 20  # steps
KINDS = ("in memory", "small file", "file", "file, 2 workers")


def write_file(path, gigabytes):
    """Bits of 28 x 28, until so much is there; the number of rows."""
    rows = max(int(gigabytes * 1e9 / 784), 2 * JUDGED + 1000)
    array = np.lib.format.open_memmap(path, "w+", np.bool_, (rows, 28, 28))
    random = np.random.default_rng(0)
    for start in range(0, rows, AT_A_TIME):
        part = array[start : start + AT_A_TIME]
        part[:] = random.random(part.shape, np.float32) < 0.13
    array.flush()
    train = array[2 * JUDGED :]
    few = train[:: max(len(train) // IN_MEMORY, 1)][:IN_MEMORY]
    np.save(path.with_name("few.npy"), few)
    return rows


def data_of(kind, path):
    x = np.load(path, mmap_mode="r")
    judged = x[:JUDGED], x[JUDGED : 2 * JUDGED]
    few = path.with_name("few.npy")
    if kind == "in memory":
        train = np.load(few)
    elif kind == "small file":
        train = np.load(few, mmap_mode="r")
    else:
        train = x[2 * JUDGED :]
    return zoo.Dataset(train, *judged).read_by(2 if "workers" in kind else 0)


class Contestant:
    """Steps on data of a kind, epoch after epoch."""

    def __init__(self, kind, path, batch_size, compile):
        options = TrainOptions(batch_size=batch_size, epochs=1)
        self.vae, self.data = make("mean_field"), data_of(kind, path)
        self.feed = Feed(self.data, options, self.vae, Ranks())
        phase = self.vae.phases[0]
        self.steps = Steps(self.vae, phase, options, Ranks(), batch_size)
        self.epoch = self.step = 0
        self.feed.begin(0, 0)
        if compile:
            self.steps.compile(self.feed.batch(0), must=True)

    def run(self):
        """Some steps."""
        for _ in range(TURN):
            if self.step == self.feed.num_steps:
                self.epoch, self.step = self.epoch + 1, 0
                self.feed.begin(self.epoch, 0)
            x = self.feed.batch(self.step)
            self.steps.take(x, {}, 0.0, 0.0, self.step)
            self.step += 1


def settings():
    return pyro.settings.context(
        module_local_params=True, validate_distributions_pyro=False
    )


def time_steps(path, args):
    with settings():
        kinds = [kind for kind in KINDS if kind != "small file"]
        runs = {k: Contestant(k, path, args.batch_size, args.compile) for k in kinds}
        times = in_turn({k: c.run for k, c in runs.items()}, "cpu", args.repeats)
        for contestant in runs.values():
            contestant.feed.close()
    steps = {kind: [t / TURN for t in values] for kind, values in times.items()}
    base = steps["in memory"]
    return {k: summary(v) | {"over": ratio(v, base)} for k, v in steps.items()}


def peak(kind, path, args):
    """What a process of its own says of its memory, in MB."""
    command = [sys.executable, __file__, "--alone", kind, "--file", path]
    command += ["--batch-size", str(args.batch_size), "--repeats", str(args.repeats)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def alone(args):
    with settings():
        contestant = Contestant(args.alone, args.file, args.batch_size, False)
        for _ in range(args.repeats):
            contestant.run()
        contestant.feed.close()
    zoo.evaluate(contestant.vae, contestant.data, 10)
    print(json.dumps(round(peak_memory() / 1e6, 1)))


def main():
    options = parser(__doc__, repeats=30)
    options.add_argument("--gigabytes", type=float, default=4.0)
    options.add_argument("--folder", type=Path, help="where there is room")
    options.add_argument("--batch-size", type=int, default=100)
    options.add_argument("--compile", action="store_true", help="compile the steps")
    options.add_argument(
        "--alone", choices=KINDS, help="of this program's own processes"
    )
    options.add_argument("--file", type=Path, help="likewise")
    args = options.parse_args()
    torch.set_num_threads(1)
    if args.alone:
        return alone(args)
    folder = Path(tempfile.mkdtemp(dir=args.folder))
    try:
        path = folder / "bits.npy"
        rows = write_file(path, args.gigabytes)
        times = time_steps(path, args)
        peaks = {kind: peak(kind, path, args) for kind in KINDS}
        size = path.stat().st_size
    finally:
        shutil.rmtree(folder)
    print(f"{size / 1e9:.3g} GB, {rows:,} rows, batches of {args.batch_size}")
    print(f"{'':18}{'ms a step':>10}{'/ in memory':>13}{'peak, MB':>10}")
    for kind, used in peaks.items():
        row = times.get(kind, {"milliseconds": math.nan, "over": math.nan})
        print(f"{kind:18}{row['milliseconds']:10.2f}{row['over']:13.2f}{used:10.1f}")
    found = {"bytes": size, "rows": rows, "time": times, "peak_mb": peaks}
    write(found, args.out)
    return None


if __name__ == "__main__":
    main()
