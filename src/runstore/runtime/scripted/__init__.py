"""The scripted model: it answers by rules, without a provider."""
