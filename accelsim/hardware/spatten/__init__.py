"""SpAtten as released (HPCA 2021): one file per aspect, wired up in ``accelerator.py``."""
