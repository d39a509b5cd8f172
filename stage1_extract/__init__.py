"""Stage one: videos in, a store of per-frame embeddings out.

from stage1_extract import EmbeddingStore, ExtractSettings, extract
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stage1_extract.config import ExtractSettings
    from stage1_extract.extraction import ExtractSummary, extract
    from stage1_extract.manifest import Manifest, read_manifest
    from stage1_extract.store import EmbeddingStore

__all__ = [
    "EmbeddingStore",
    "ExtractSettings",
    "ExtractSummary",
    "Manifest",
    "extract",
    "read_manifest",
]
_MODULES = {
    "EmbeddingStore": "store",
    "ExtractSettings": "config",
    "ExtractSummary": "extraction",
    "Manifest": "manifest",
    "extract": "extraction",
    "read_manifest": "manifest",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is used: reading a store needs no decoder, and no Keras."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
