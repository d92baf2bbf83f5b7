"""A decoder-only model that reads a source and goes on with the target, as if they were one text.

Shape suffixes: B batch, S time (tokens of the source), T time (tokens of the target), C channels, V vocabulary.
"""

import torch
from torch import Tensor, nn

from molino.base.errors import ConfigError
from molino.models.capabilities import Capabilities, capabilities_of, tensor_of
from molino.models.head import head_losses


class SourceFirst(nn.Module):
    """Targets behind their sources, without any padding between them.

    Args:
        model: see `molino.models`; it goes on with texts, and its head is a product with a table.

    Attributes:
        block_size: the longest source, and the longest target: half of what the model reads.

    Raises ConfigError for a model that does not.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        can, name = capabilities_of(model), type(model).__name__
        if not can.next_token or can.cache is None or can.hidden is None or can.head is None or can.counts:
            raise ConfigError(
                f"to write about a source takes a model that does, or that goes on with a text and keeps a cache, and "
                f"{name} does neither: choose model=transformer, model=t5, model=gpt, model=llama or model=lstm"
            )
        if can.cache.numbers_per_token == 0:
            raise ConfigError(f"{name} sees one token at a time, and no source before it: choose model=transformer")
        self.model, self.vocab_size, self.block_size = model, model.vocab_size, model.block_size // 2
        self.capabilities = Capabilities(next_token=False)

    def forward(self, tokens_BT: Tensor, source_BS: Tensor, seen_BS: Tensor | None = None) -> Tensor:
        """Logits (B, T, V) of the token after each token of the targets."""
        return self.model.head(self._hidden(tokens_BT, source_BS, seen_BS))

    def losses(
        self,
        tokens_BT: Tensor,
        targets_BT: Tensor,
        source_BS: Tensor,
        seen_BS: Tensor | None = None,
        smoothing: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """The smoothed loss and the loss itself, see `molino.models.head.head_losses`."""
        hidden_BTC = self._hidden(tokens_BT, source_BS, seen_BS)
        weight_VC = tensor_of(self.model, capabilities_of(self.model).head)
        return head_losses(hidden_BTC, weight_VC, targets_BT, smoothing)

    def _hidden(self, tokens_BT: Tensor, source_BS: Tensor, seen_BS: Tensor | None) -> Tensor:
        """What the head reads at the tokens of the targets."""
        T, S = tokens_BT.shape[1], source_BS.shape[1]
        if seen_BS is None:
            return self.model.hidden(torch.cat([source_BS, tokens_BT], dim=1))[:, S:]
        # Behind each source comes its target, and behind that what is left of the padding.
        ends_B1 = seen_BS.sum(1, keepdim=True)
        places_BT = ends_B1 + torch.arange(T, device=ends_B1.device)
        together = torch.cat([source_BS, torch.zeros_like(tokens_BT)], dim=1).scatter(1, places_BT, tokens_BT)
        hidden_BXC = self.model.hidden(together)
        return hidden_BXC.gather(1, places_BT[..., None].expand(-1, -1, hidden_BXC.shape[-1]))
