"""What a batch of training clips remembers: a bank in small, with what happens to the entries of a large one."""

import torch
from torch import Tensor

from maskbank.bank.entries import Entries
from maskbank.bank.merging import MERGE_THRESHOLD, unmatched
from maskbank.networks.lite import similarity
from maskbank.networks.novelty import key_novelty

THIN = 0.3  # chance that entries are dropped when a frame is memorized
DROPPED = 0.5  # share of them; which ones the bank would drop depends on a longer past than a clip has
MERGE = 0.3  # chance that a frame is merged into the ones before it, where there are some


class ClipMemory:
    """Seed frames stay whole; of later frames some entries are left out, as `AdaptivePolicy` does in time.

    Args:
        key: (B, Ck, N) of the seed frames of B clips.
        value: (B, n, Cv, N).
    """

    def __init__(self, key: Tensor, value: Tensor):
        self._frames = [(key, value, torch.ones_like(key[:, 0], dtype=torch.bool))]

    def memorize(self, key: Tensor, value: Tensor) -> None:
        """Adds a frame; sizes as the seed's."""
        new = (key, value, torch.ones_like(key[:, 0], dtype=torch.bool))
        happens = torch.rand(()).item()
        if happens < THIN:
            new = (key, value, torch.rand_like(key[:, 0].float()) > DROPPED)
        elif happens < THIN + MERGE and len(self._frames) > 1:
            new = _merged(self._frames.pop(), new)
        self._frames.append(new)

    def read(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """The read-out (B, n, Cv, M) for a query key (B, Ck, M), and its `key_novelty` (B, M), without a gradient."""
        keys, values, kept = (torch.cat(parts, -1) for parts in zip(*self._frames, strict=True))
        with torch.autocast(query.device.type, enabled=False):  # a bank compares in full precision
            scores = similarity(keys.float(), query.float()).masked_fill(~kept[:, None], -torch.inf)
            novelty = key_novelty(scores.detach().amax(2), query.detach().float())
        readout = values.flatten(1, 2) @ scores.softmax(2).transpose(1, 2)
        return readout.unflatten(1, values.shape[1:3]), novelty


MemorizedFrame = tuple[Tensor, Tensor, Tensor]  # keys (B, Ck, N), values (B, n, Cv, N), kept (B, N) bool


def _merged(older: MemorizedFrame, new: MemorizedFrame) -> MemorizedFrame:
    """Two frames as one, clip by clip; clips with fewer entries are padded with some that are not kept."""
    merged = []
    for clip in range(len(new[0])):
        old_entries, new_entries = (
            Entries.of_frame(keys[clip].float(), values[clip].float(), 0).select(kept[clip])
            for keys, values, kept in (older, new)
        )
        with torch.autocast(new[0].device.type, enabled=False):  # a bank compares in full precision
            merged.append(old_entries.concat(unmatched(old_entries, new_entries, MERGE_THRESHOLD)))
    longest = max(map(len, merged))

    def padded(tensor: Tensor) -> Tensor:
        return torch.nn.functional.pad(tensor, (0, longest - tensor.shape[-1]))

    return (
        torch.stack([padded(entries.keys) for entries in merged]).to(new[0].dtype),
        torch.stack([padded(entries.values) for entries in merged]).to(new[1].dtype),
        torch.stack([padded(torch.ones_like(entries.keys[0], dtype=torch.bool)) for entries in merged]),
    )
