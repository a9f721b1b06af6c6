"""The scripted model, which answers by rules, without a provider."""
