"""A pair of the zoo trained by Lightning, which this file needs: `pip install lightning`.

    python examples/my_lightning.py

The module holds the loss, whose parameters are those of the pair; when the trainer is done,
the pair is evaluated, saved and drawn as any other.
"""

import lightning
import torch
from torch.utils.data import DataLoader

import pyro_vae_zoo as zoo


class Training(lightning.LightningModule):
    """Maximises the ELBO of a VAE."""

    def __init__(self, vae, lr=1e-3):
        super().__init__()
        self.loss = zoo.CompiledTrace_ELBO()(vae.model, vae.guide)
        self.lr = lr

    def training_step(self, x, index):
        """The mean of the negative ELBO, in nats per datum."""
        loss = self.loss(x) / len(x)
        self.log("train_elbo", -loss, prog_bar=True, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self):
        """AdamW over both sides of the pair."""
        return torch.optim.AdamW(self.loss.parameters(), self.lr)


if __name__ == "__main__":
    vae = zoo.create("iaf", data := zoo.load_dataset("digits"), latent_dim=8)
    batches = DataLoader(data.train, 100, shuffle=True, drop_last=True)
    lightning.Trainer(max_epochs=20, accelerator="cpu").fit(Training(vae), batches)
    print(zoo.evaluate(vae, data.test, 100).log_likelihood)
