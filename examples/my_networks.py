"""Networks of your own, in the places of encoder and decoder.

    python examples/train.py --encoder examples/my_networks.py:MyEncoder
    python examples/compare.py --guides iaf --decoder examples/my_networks.py:my_decoder

They are called with those of `event_shape`, `latent_dim`, `hidden_dims` and `num_params`
that they declare. Run this file to check them.
"""

from torch import Size, nn

import pyro_vae_zoo as zoo


class MyEncoder(nn.Sequential):
    """A row of the image is a token: data `(n, H, W)` to features `(n, width)`."""

    def __init__(self, event_shape, width: int = 32):
        layer = nn.TransformerEncoderLayer(width, 4, 64, dropout=0.0, batch_first=True)
        last = nn.Flatten(), nn.Linear(event_shape[-2] * width, width), nn.ReLU()
        super().__init__(nn.Linear(event_shape[-1], width), layer, *last)


def my_decoder(latent_dim, event_shape, num_params):
    """Latents `(n, latent_dim)` to as many numbers a datum as the likelihood takes."""
    numel = num_params * Size(event_shape).numel()
    layers = (
        nn.Linear(latent_dim, 64),
        nn.SiLU(),
        nn.LayerNorm(64),
        nn.Linear(64, numel),
    )
    return nn.Sequential(*layers)


if __name__ == "__main__":
    data = zoo.load_dataset("digits")
    vae = zoo.create("iaf", data, encoder=MyEncoder, decoder=my_decoder, latent_dim=8)
    zoo.testing.check_vae(vae, data.train[:50])
    print("the pair keeps the contract")
