"""What the training loop and the quantizers expect of a network."""

from torch import Tensor, nn


class Classifier(nn.Module):
    """A network that gives logits and named features.

    `full_precision` names the modules that stay unquantized when a student is made of this network: a name covers the
    module and all below it. The paper keeps the first and the last layers so.
    """

    full_precision: tuple[str, ...] = ()

    def features(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(N, 3, H, W) float images, normalised -> (N, classes) logits and {"f0": ..., "f1": ..., ...}."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) float images, normalised -> (N, classes) logits."""
        return self.features(images)[0]
