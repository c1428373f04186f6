"""Video backbones of dual encoders, one file each."""
