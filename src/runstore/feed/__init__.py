"""Live news of committed events, and the tails that read them."""
