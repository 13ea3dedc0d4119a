"""MoBA: the blocks whose mean key a query likes best, and its own."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from accelsim.attention.kernels import WORK
from accelsim.policies._base import Positive
from accelsim.policies._selection import FROM_PROBABILITIES, Needs, SelectionPart, Sharing
from accelsim.policies.selections._blocks import (
    full_blocks,
    keep_blocks,
    open_blocks,
    ranked,
    shared,
)
from accelsim.policies.selector import (
    Block,
    Decision,
    Selector,
    Shape,
    heads_per_decision,
    work_by_kv_head,
)


class MoBA(SelectionPart):
    """Mixture of block attention (Lu et al. 2025, arXiv 2502.13189, section 2.2).

    Score of a block of ``block_tokens`` keys for a query: its product with the mean of the keys.
    Budget: ``blocks`` blocks each query and head, of which its own (up to itself) is always one and
    later ones never are. In a prompt each query decides alone. The paper trains with it, reads
    prompts with it and decodes with full attention; ``decode: {selection: none}`` is that. Under a
    mask only blocks of which a query sees a key are ranked; a bias is in no product (ours).

    Asks of the hardware: a mean per full block, written when it fills and read by the queries after
    it (of a prompt once), a small dense product, a top-k over blocks each query and head, whole
    blocks in one run.

    Attributes:
        block_tokens: keys of a block.
        blocks: blocks that a query attends to, its own among them.
        share: who decides together; every query head in the paper.
    """

    kind: Literal["moba"]
    block_tokens: Positive = 512
    blocks: Positive = 3
    share: Sharing = "query_head"
    in_prompt: ClassVar[bool] = True
    needs: ClassVar[Needs] = Needs(
        selection="every_step", metadata=True, write_backs=True, permanent=False
    )
    follows: ClassVar[frozenset[str]] = FROM_PROBABILITIES

    def selector(self, shape: Shape, seed: int = 0) -> Selector:
        """Return the rule at work on one sequence."""
        return MoBASelector(self, shape, seed)


class MoBASelector(Selector):
    """Blocks by their mean."""

    def __init__(self, rule: MoBA, shape: Shape, seed: int = 0) -> None:
        super().__init__(shape, seed)
        self.rule = rule
        self.heads = heads_per_decision(shape, rule.share)
        self._read: dict[int, NDArray[np.bool_]] = {}

    def run(self, block: Block) -> Decision:
        """Rank the full blocks before each query's own."""
        shape, size, rows = self.shape, self.rule.block_tokens, block.positions
        decision = Decision.empty(block, shape.num_kv_heads)
        full = block.key.shape[1] // size
        means = full_blocks(block.key, full, size).mean(axis=2)
        products = block.query @ np.repeat(means, shape.group, axis=0).transpose(0, 2, 1)
        gate = np.ascontiguousarray(shared(products, self.heads))
        work = np.zeros((len(gate), len(rows)), dtype=WORK)
        dense = np.full(len(rows), self.rule.min_keys - 1)
        allowed = np.full(len(rows), self.rule.blocks - 1)
        opened = open_blocks(block, full, size)
        keep_blocks(
            gate, opened, rows, block.visible, 0, size, dense, allowed, self.heads, self.seed,
            decision.kept, work,
        )  # fmt: skip
        decision.work = work_by_kv_head(work, shape)
        filled = (rows + 1) % size == 0
        decision.written_vectors[:] = filled
        before = opened & (np.arange(full) < (rows // size)[:, None]) & ranked(work)[:, None]
        if self.stage(block) == "decode":
            decision.metadata_vectors[:] = before.sum(axis=1)
        elif block.look.hidden is not None:
            decision.metadata_vectors[:] = self._first_reads(block.layer, before)
        elif self._ranks_in_prompt():
            decision.metadata_vectors[:] = filled
        self.attend(block, decision)
        return decision

    def _first_reads(self, layer: int, ranks: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Blocks that each query of a prompt ranks and none before it did, [rows].

        Args:
            layer: where.
            ranks: [rows, blocks].
        """
        most = -(-self.shape.tokens // self.rule.block_tokens)
        known = self._read.setdefault(layer, np.zeros(most, dtype=np.bool_))[: ranks.shape[1]]
        new = ranks.any(axis=0) & ~known
        known |= new
        return np.bincount(ranks[:, new].argmax(axis=0), minlength=len(ranks))

    def _ranks_in_prompt(self) -> bool:
        """Whether the last query of the prompt has more blocks than it may take."""
        prompt = self.shape.prompt_tokens
        many = (prompt - 1) // self.rule.block_tokens >= self.rule.blocks
        return many and prompt >= self.rule.min_keys
