"""SpAtten (HPCA 2021): one file per block, and the wiring in accelerator.py."""
