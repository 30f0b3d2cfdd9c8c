"""What each notebook runs: ``Study`` holds its parameters, experiments are its single runs (see
``records.py``).
"""
