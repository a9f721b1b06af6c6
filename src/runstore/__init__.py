"""An event-sourced run store for LLM agents behind an HTTP API."""

__version__ = "0.1.0"
