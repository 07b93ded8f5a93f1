"""A killed training goes on, and ends as if nothing had been: bit for bit."""

import itertools

import crashes
import pytest
from crashes import Training

IAF = Training("iaf", {"num_flows": 1})
HIERARCHY = Training("self_reflective", {"num_layers": 2, "latent_dim": 2})
MIXTURE = Training("recursive_mixture", {"num_components": 3})
GRAPH = Training("gated_dag", {"num_nodes": 3, "node_hidden_dims": (8,)})
COMPILED = Training("iaf", {"num_flows": 1}, compile=True)


@pytest.fixture(scope="module")
def server_of():
    """The server of each training, which has a folder of its own for the undisturbed."""
    servers = {}

    def get(training):
        key = repr(training)
        if key not in servers:
            servers[key] = crashes.Server(training)
        return servers[key]

    yield get
    for server in servers.values():
        server.close()


@pytest.fixture(scope="module")
def undisturbed(server_of, tmp_path_factory):
    """How each training ends that nobody kills."""
    ends = {}

    def end_of(training):
        key = repr(training)
        if key not in ends:
            folder = tmp_path_factory.mktemp("undisturbed")
            server_of(training).finish(folder)
            ends[key] = crashes.end_of(folder)
        return ends[key]

    return end_of


@pytest.fixture
def kills(server_of, undisturbed):
    return Kills(server_of, undisturbed)


class Kills:
    """Kills trainings, and has them go on to the end that they should come to."""

    def __init__(self, server_of, undisturbed):
        self.server_of, self.undisturbed = server_of, undisturbed

    def once(self, training, folder, number, first, last):
        server = self.server_of(training)
        return crashes.kill_after_a_while(server, folder, number, first, last)

    def while_writing(self, training, folder):
        return crashes.kill_while_writing(self.server_of(training), folder)

    def check(self, training, folder):
        self.server_of(training).finish(folder)
        assert crashes.same(crashes.end_of(folder), self.undisturbed(training))

    def several(self, training, times, tmp_path, first=0, last=None):
        """How often it was killed before it was done."""
        in_time = 0
        for number in range(times):
            folder = tmp_path / str(number)
            last = last or training.epochs
            in_time += self.once(training, folder, number, first, last)
            self.check(training, folder)
        return in_time


def test_killed_while_it_steps_and_while_it_writes(kills, tmp_path):
    assert kills.several(IAF, 1, tmp_path) > 0
    folder = tmp_path / "writing"
    kills.while_writing(IAF, folder)
    kills.check(IAF, folder)


def test_killed_again_and_again(kills, tmp_path):
    """The same run, before it has done anything and as it goes on."""
    for number in range(3):
        kills.once(IAF, tmp_path, number, 2 * number, 2 * number + 2)
    kills.check(IAF, tmp_path)


def test_metrics_are_cut_back_to_the_checkpoint(kills, tmp_path):
    kills.once(IAF, tmp_path, 0, 2, 3)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 77}\n{"epo')  # an epoch past it, and a line half written
    kills.check(IAF, tmp_path)


@pytest.mark.slow
def test_iaf_fifty_times(kills, tmp_path):
    assert kills.several(IAF, 40, tmp_path) > 30
    written = 0
    for number in range(10):
        folder = tmp_path / f"writing-{number}"
        written += kills.while_writing(IAF, folder)
        kills.check(IAF, folder)
    assert written > 0


@pytest.mark.slow
def test_a_hierarchy_ten_times(kills, tmp_path):
    assert kills.several(HIERARCHY, 10, tmp_path) > 5


@pytest.mark.slow
@pytest.mark.parametrize("training", [MIXTURE, GRAPH], ids=lambda t: t.guide)
def test_each_phase_ten_times(training, kills, tmp_path):
    records, _ = kills.undisturbed(training)
    phases = [name for name, _ in itertools.groupby(r["phase"] for r in records)]
    assert len(phases) > 1
    for name in phases:
        epochs = [r["epoch"] for r in records if r["phase"] == name]
        folder, first = tmp_path / name.replace(" ", "-"), epochs[0] - 1
        assert kills.several(training, 10, folder, first, epochs[-1]) > 5


@pytest.mark.slow
def test_compiled_three_times(kills, tmp_path):
    assert kills.several(COMPILED, 3, tmp_path, first=1) > 0
