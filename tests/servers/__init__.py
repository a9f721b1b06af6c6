"""Database servers and brokers for tests: the shared ones, and ones of a test's own."""
