"""The radix tree, the slots of the KV pool, and both together as the prefix cache of requests.

What always holds (checked by `PrefixCache.check` in tests after every step):

- each slot is in exactly one of the free list or one node: ``free + in tree == total``;
- a locked node locks its ancestors;
- children of a node start with different tokens;
- a node is computed only if its parent is;
- evictable leaves sit in an ordered structure kept up to date, so eviction never walks the tree.

This package decides about tokens and memory. It knows no request fields, no text and no tensors.
"""

from ramet.radix.leases import Leases
from ramet.radix.prefix_cache import KVNode, KVSpan, Path, PrefixCache, is_computed
from ramet.radix.slots import SlotAllocator
from ramet.radix.tree import Match, Node, Payload, RadixTree

__all__ = [
    "KVNode",
    "KVSpan",
    "Leases",
    "Match",
    "Node",
    "Path",
    "Payload",
    "PrefixCache",
    "RadixTree",
    "SlotAllocator",
    "is_computed",
]
