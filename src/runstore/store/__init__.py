"""Operations on runs, hierarchies, keys and workers, shared by all surfaces."""
