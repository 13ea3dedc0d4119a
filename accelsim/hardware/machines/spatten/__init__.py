"""SpAtten as published (Wang, Zhang, Han, HPCA 2021)."""
