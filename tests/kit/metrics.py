"""Reading `/metrics`."""

import httpx
from prometheus_client.parser import text_string_to_metric_families


def sample(http: httpx.Client, name: str, **labels: str) -> float:
    """One number."""
    for family in text_string_to_metric_families(http.get("/metrics").text):
        for found in family.samples:
            if found.name == name and found.labels == labels:
                return found.value
    raise AssertionError(f"no sample {name}{labels}")
