"""Tools for whole dataset folders: checking, converting, splitting."""
