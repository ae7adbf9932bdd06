"""Classifiers of RobustBench's model zoo with the weights that their authors released."""
