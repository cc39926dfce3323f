"""DCRec: dual conditional diffusion for sequential recommendation (Huang et al., WSDM 2026, arXiv 2410.21967)."""

from cloud.generators.dcrec.model import DCRec

__all__ = ["DCRec"]
