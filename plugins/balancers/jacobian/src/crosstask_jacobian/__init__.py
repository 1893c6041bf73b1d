"""Aggregators of task gradients."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_jacobian.aligned_mtl import AlignedMTL
    from crosstask_jacobian.cagrad import CAGrad
    from crosstask_jacobian.config import ConFIG
    from crosstask_jacobian.cr_mogm import CRMOGM
    from crosstask_jacobian.db_mtl import DBMTL
    from crosstask_jacobian.dualproj import DualProj
    from crosstask_jacobian.excess_mtl import ExcessMTL
    from crosstask_jacobian.fairgrad import FairGrad
    from crosstask_jacobian.graddrop import GradDrop
    from crosstask_jacobian.gradvac import GradVac
    from crosstask_jacobian.imtl_g import IMTLG
    from crosstask_jacobian.mgda import MGDA
    from crosstask_jacobian.moco import MoCo
    from crosstask_jacobian.modo import MoDo
    from crosstask_jacobian.nash_mtl import NashMTL
    from crosstask_jacobian.pcd import PCD
    from crosstask_jacobian.rgw import RGW
    from crosstask_jacobian.sdmgrad import SDMGrad
    from crosstask_jacobian.upgrad import UPGrad

__all__ = [
    "CRMOGM",
    "DBMTL",
    "IMTLG",
    "MGDA",
    "PCD",
    "RGW",
    "AlignedMTL",
    "CAGrad",
    "ConFIG",
    "DualProj",
    "ExcessMTL",
    "FairGrad",
    "GradDrop",
    "GradVac",
    "MoCo",
    "MoDo",
    "NashMTL",
    "SDMGrad",
    "UPGrad",
]

__getattr__ = lazily(
    __name__,
    {
        "RGW": "rgw",
        "PCD": "pcd",
        "CRMOGM": "cr_mogm",
        "AlignedMTL": "aligned_mtl",
        "CAGrad": "cagrad",
        "ConFIG": "config",
        "DBMTL": "db_mtl",
        "DualProj": "dualproj",
        "ExcessMTL": "excess_mtl",
        "FairGrad": "fairgrad",
        "GradDrop": "graddrop",
        "GradVac": "gradvac",
        "IMTLG": "imtl_g",
        "MGDA": "mgda",
        "MoCo": "moco",
        "MoDo": "modo",
        "NashMTL": "nash_mtl",
        "SDMGrad": "sdmgrad",
        "UPGrad": "upgrad",
    },
)
