"""A training loop of your own, in plain PyTorch.

    python examples/my_loop.py

An objective of the zoo is a loss like any other, for whatever optimiser and schedule.
`zoo.fit` does the same, and validates, keeps the best epoch and resumes.
"""

import torch
from torch.utils.data import DataLoader

import pyro_vae_zoo as zoo


def train(vae, data, epochs=20, batch_size=100, lr=1e-3):
    """Maximise the ELBO; its mean over each epoch, in nats per datum."""
    loss = zoo.CompiledTrace_ELBO()(vae.model, vae.guide)
    optimizer = torch.optim.AdamW(vae.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    batch_size = min(batch_size, len(data.train))
    batches = DataLoader(data.train, batch_size, shuffle=True, drop_last=True)
    elbos = []
    for _ in range(epochs):
        vae.train()
        total = 0.0
        for x in batches:
            optimizer.zero_grad()
            negative_elbo = loss(x)  # summed over the batch
            negative_elbo.backward()
            optimizer.step()
            total -= negative_elbo.item()
        schedule.step()
        elbos.append(total / (len(batches) * batch_size))
    vae.eval()
    return elbos


if __name__ == "__main__":
    vae = zoo.create("iaf", data := zoo.load_dataset("digits"), latent_dim=8)
    print(train(vae, data)[-1], zoo.evaluate(vae, data.test, 100).log_likelihood)
