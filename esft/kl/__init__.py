"""KL divergence between two models, estimated on what they draw themselves."""
