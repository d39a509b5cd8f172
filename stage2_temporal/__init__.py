"""Stage two: a store of embeddings in, a trained recurrent model and its report out."""
