"""What explains and proves: suites, baselines and experiments; no part of what is installed."""
