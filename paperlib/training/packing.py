"""Many students as one network: every weight gets one more axis, and one kernel serves all
students.

A student of ResNet-20 is too small to fill a GPU. Students of one architecture differ in their
weights and their images only, so their forward passes are one function mapped over a new first axis
(`torch.func.vmap`): convolutions become grouped, everything else is as it was. The gradient of the
summed losses is each student's own, and optimisers that work element by element, as SGD and Adam
do, do not notice.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from ..basics.checks import require
from ..models import Classifier
from ..models.outputs import logits_in


class _Features(nn.Module):
    """`features`, or of another network its logits alone, as `forward`, which is what
    `functional_call` calls.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if isinstance(self.model, Classifier):
            return self.model.features(images)
        return logits_in(self.model(images)), {}


class Pack:
    """S networks of one architecture with their parameters and buffers stacked.

    models  networks that differ in weights only; they keep their own tensors until `unpack`. The
            pack learns as `models.learning` has it.
    parameters, buffers  name (as in the network) -> (S, ...) tensor; the parameters are leaves that
                         require gradients.

    Raises ValueError for no models, or for models whose parameters have different names or shapes.
    """

    def __init__(self, models: Sequence[nn.Module]):
        shapes = [[(name, p.shape) for name, p in m.named_parameters()] for m in models]
        same = models and all(other == shapes[0] for other in shapes)
        wanted = "a pack takes one or more networks of one architecture"
        require(same, f"{wanted}, got {len(models)} that differ")
        self.models = list(models)
        wrapped = [_Features(model) for model in models]
        stacked, buffers = stack_module_state(wrapped)
        self.parameters = {name.removeprefix("model."): value for name, value in stacked.items()}
        self.buffers = {name.removeprefix("model."): value for name, value in buffers.items()}
        self._state = (stacked, buffers)
        self._skeleton = copy.deepcopy(wrapped[0])
        if not self.models[0].training:
            self._skeleton.train()

    def features(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(S, N, 3, H, W) images -> (S, N, C) logits and features with the same first axis;
        statistics are updated.
        """

        def one(parameters: dict, buffers: dict, images: Tensor) -> tuple:
            return functional_call(self._skeleton, (parameters, buffers), (images,))

        return vmap(one)(*self._state, images)

    @torch.no_grad()
    def unpack(self) -> list[nn.Module]:
        """Copy every student's share back into its network; returns the networks."""
        stacked = self.state_dict()
        for k, model in enumerate(self.models):
            for name, value in (*model.named_parameters(), *model.named_buffers()):
                value.copy_(stacked[name][k])
        return self.models

    def state_dict(self) -> dict[str, Tensor]:
        """All stacked tensors by name."""
        return self.parameters | self.buffers

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Copy back what `state_dict` gave."""
        for name, value in self.state_dict().items():
            value.copy_(state[name])
