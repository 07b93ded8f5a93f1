"""A known structure is found: `studies/structure.py`, a chain of three nodes."""

import pytest
import torch

from studies import structure


def test_data_of_the_chain_are_as_they_are_said_to_be():
    """Variances of the blocks; the root's and the leaf's correlate through z_2 alone."""
    root, middle, leaf = (
        structure.chain(200_000, seed=1).double().split(structure.SIZE, -1)
    )
    noise, step = structure.NOISE**2, structure.INNOVATION**2
    for k, block in enumerate((root, middle, leaf)):
        expected = 1 + k * step + noise
        assert block.var(0).tolist() == pytest.approx([expected] * 2, rel=0.02)
    covariance = leaf.T @ middle / len(leaf)
    through = (
        covariance @ (middle.T @ middle / len(leaf) - noise * torch.eye(2)).inverse()
    )
    direct = leaf.T @ root / len(leaf)
    torch.testing.assert_close(
        direct, through @ (middle.T @ root / len(leaf)), rtol=0, atol=0.03
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_a_known_structure_is_found(seed):
    """True edges open; closing the absent one afterwards leaves the bound as it is."""
    row = structure.learn(structure.chain_data(), seed, penalty=0.0, epochs=100)
    for edge in structure.TRUE_EDGES:
        assert row["probabilities"][edge] > 0.95
        assert row["frozen"][edge] == 1.0
        assert row["elbo_without"][edge] - row["elbo"] < -0.05  # which is a change
    assert abs(row["elbo_without"][structure.ABSENT_EDGE] - row["elbo"]) < 0.01


@pytest.mark.slow
def test_a_penalty_closes_the_absent_edge():
    row = structure.learn(structure.chain_data(), 0, penalty=0.03, epochs=100)
    assert row["frozen"] == {"z_3->z_2": 1.0, "z_3->z_1": 0.0, "z_2->z_1": 1.0}
