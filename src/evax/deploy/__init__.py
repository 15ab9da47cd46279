"""OUTSIDE: bundles and the predictor that runs them."""
