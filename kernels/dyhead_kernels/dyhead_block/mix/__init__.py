"""The mix of the branches: upsample, weigh, add, activate."""
