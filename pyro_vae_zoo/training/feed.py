"""What each step of an epoch is taken on: the order of the data, and their batches.

The order is a function of (number of data, seed, epoch), and so is what is random about the
data; hence an epoch can be entered at any step. Data in memory are one tensor on the
device, out of which a batch is selected. Others are read ahead, by processes where there
are some, and fetched by the GPU out of pinned memory: no step waits that need not.
"""

from collections.abc import Generator, Iterator

from torch import Tensor

from pyro_vae_zoo.data.datasets import Dataset
from pyro_vae_zoo.data.streamed.randomness import epoch_order
from pyro_vae_zoo.data.streamed.rows import Rows
from pyro_vae_zoo.data.streamed.workers import read_ahead
from pyro_vae_zoo.pair.vae import VAE
from pyro_vae_zoo.runtime import Ranks
from pyro_vae_zoo.training.options import TrainOptions

__all__ = ["Feed"]


class Feed:
    """The batches of a training.

    Args:
        data: whose training part it is.
        options: with the size of a batch, and the seed of order and draws.
        vae: for which batches are, on its device and of its dtype.
        ranks: the processes that share each batch.

    >>> import pyro_vae_zoo as zoo
    >>> data = zoo.load_dataset("digits").first(250)
    >>> vae = zoo.create("mean_field", data)
    >>> feed = Feed(data, TrainOptions(batch_size=100), vae, Ranks())
    >>> feed.begin(epoch=0, step=0)
    >>> feed.batch(2).shape, feed.num_steps
    (torch.Size([50, 8, 8]), 3)
    """

    def __init__(
        self, data: Dataset, options: TrainOptions, vae: VAE, ranks: Ranks
    ) -> None:
        self.data = data
        self.options = options
        self.vae = vae
        self.ranks = ranks
        self.num_steps = -(-len(data.train) // options.batch_size)
        self._ahead: Generator[Tensor, None, None] | None = None

    def begin(self, epoch: int, step: int) -> None:
        """Make ready for the steps of an epoch, from one of them on."""
        self.close()
        self.images: Tensor | Rows = self.data.epoch(self.options.seed, epoch)
        self.order = epoch_order(len(self.images), self.options.seed, epoch)
        self._next = step
        if isinstance(self.images, Tensor) and isinstance(self.order, Tensor):
            self.order = self.order.to(self.images.device)

    def batch(self, step: int) -> Tensor:
        """This process's data of a step, counted from 0 within the epoch."""
        if isinstance(self.images, Tensor):
            index = self._share(step).to(self.images.device)
            return self.images.index_select(0, index).to(self.vae.dtype)
        if step == self._next:
            self._next += 1
            x = next(self._read_from(step))
            if self._next == self.num_steps:
                self.close()
        else:
            x = self.images[self._share(step)]
        return x.to(self.vae.device, self.vae.dtype, non_blocking=True)

    def size(self, step: int) -> int:
        """The number of data of a step, of all processes together."""
        size = self.options.batch_size
        return min(size, len(self.images) - step * size)

    def close(self) -> None:
        """End what reads ahead."""
        if self._ahead is not None:
            self._ahead.close()
        self._ahead = None

    def _share(self, step: int) -> Tensor:
        size = self.options.batch_size
        return self.ranks.share(self.order[step * size : (step + 1) * size])

    def _read_from(self, step: int) -> Iterator[Tensor]:
        """The batches of this step and of all after it."""
        if self._ahead is None:
            assert isinstance(self.images, Rows)
            shares = map(self._share, range(step, self.num_steps))
            pinned = self.vae.device.type == "cuda"
            workers = self.images.num_workers
            self._ahead = read_ahead(self.images, shares, workers, pinned)
        return self._ahead
