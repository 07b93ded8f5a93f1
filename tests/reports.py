"""Results as runs leave them, and the cells of the tables that are made of them."""

import json

from studies.report.layout import Layout
from studies.report.paper import markdown_panels
from studies.report.rows import read_folders, read_panels


def result(guide="iaf", seed=0, log_likelihood=-90.0, elbo=-92.0, **changes):
    return {
        "guide": guide,
        "data": "digits",
        "variant": "one draw, 1297/250/250",
        "split": "test",
        "elbo": elbo,
        "elbo_std_error": 0.3,
        "log_likelihood": log_likelihood,
        "log_likelihood_std_error": 0.25,
        "log_likelihood_mc_error": 0.004,
        "kl": 20.5,
        "active_units": {"z": "6/8"},
        "khat": {"median": 0.35, "above_0.7": 0.06},
        "ess": 432.1,
        "num_particles": 1000,
        "num_data": 250,
        "weights": "best",
        "num_parameters": 123456,
        "epochs": 10,
        "best_epoch": 9,
        "seed": seed,
        "seconds": 25.0,
        "options": {"num_flows": 4} if guide == "iaf" else {},
        "training": {"lr": 0.001, "batch_size": 100, "seed": seed},
        "device": "cpu",
        "num_threads": 2,
        "versions": {"torch": "2.6"},
    } | changes


def markdown_rows(text):
    header, _, *rows = [line for line in text.splitlines() if line.startswith("|")]
    names = [cell.strip() for cell in header.strip("|").split("|")]
    cells = [[c.strip() for c in row.strip("|").split("|")] for row in rows]
    return [dict(zip(names, row, strict=True)) for row in cells]


def row_result(row, seed=0, log_likelihood=-90.0, elbo=-92.0, **changes):
    added = {
        "table": "flows",
        "row": row,
        "budget": "cpu",
        "source": "a paper, table 1",
        "published": None,
        "train_size": 1297,
        "ess": 321.0,
    }
    return result(row, seed, log_likelihood, elbo) | added | changes


def write(folder, *results):
    """Files as `studies/reproduce.py` writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    for r in results:
        (folder / f"{r['row']}-s{r['seed']}.json").write_text(json.dumps(r))


def panels_of(tmp_path, *results, layout=None):
    write(tmp_path / "flows_cpu", *results)
    return read_panels(read_folders(tmp_path), "flows_cpu", layout or Layout())


def full(panels, layout=None):
    return markdown_panels(panels, layout or Layout(), "a command")
