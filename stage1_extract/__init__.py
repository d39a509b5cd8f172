"""Stage one: videos in, a store of per-frame embeddings out."""
