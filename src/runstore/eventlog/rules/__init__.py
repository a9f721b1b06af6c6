"""The rules across runs: quotas, idempotency keys, sessions, stops."""
