"""DiffusionAD: norm-guided one-step denoising diffusion (Zhang et al., arXiv 2303.08730)."""
