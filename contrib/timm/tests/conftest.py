"""torchvision's operators, where its C library cannot be loaded.

PyPI's torchvision is built for PyPI's torch: beside the CPU build of torch its library does not load, and importing it,
which timm does, fails ("operator torchvision::nms does not exist"), although what timm uses of it is plain Python. Only
the operators' names and types are declared here; calling one would fail.
"""

import importlib.metadata
import os
from pathlib import Path

import torch

os.environ["HF_HUB_OFFLINE"] = "1"

SIZES = "SymInt batch_size, SymInt channels, SymInt height, SymInt width"
ROI = "Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width"
PADS = (
    "SymInt stride_h, SymInt stride_w, SymInt pad_h, SymInt pad_w, SymInt dilation_h, SymInt dilation_w, "
    "SymInt groups, SymInt offset_groups, bool use_mask"
)
MAPPED = "Tensor rois, Tensor channel_mapping, float spatial_scale, SymInt pooled_height, SymInt pooled_width"
SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    f"roi_align(Tensor input, {ROI}, int sampling_ratio, bool aligned) -> Tensor",
    f"_roi_align_backward(Tensor grad, {ROI}, {SIZES}, int sampling_ratio, bool aligned) -> Tensor",
    f"ps_roi_align(Tensor input, {ROI}, int sampling_ratio) -> (Tensor, Tensor)",
    f"_ps_roi_align_backward(Tensor grad, {MAPPED}, int sampling_ratio, {SIZES}) -> Tensor",
    f"roi_pool(Tensor input, {ROI}) -> (Tensor, Tensor)",
    "_roi_pool_backward(Tensor grad, Tensor rois, Tensor argmax, float spatial_scale, SymInt pooled_height, "
    f"SymInt pooled_width, {SIZES}) -> Tensor",
    f"ps_roi_pool(Tensor input, {ROI}) -> (Tensor, Tensor)",
    f"_ps_roi_pool_backward(Tensor grad, {MAPPED}, {SIZES}) -> Tensor",
    "qroi_align(Tensor input, Tensor rois, float input_scale, int input_zero_point, float rois_scale, "
    "int rois_zero_point, float spatial_scale, SymInt pooled_height, SymInt pooled_width, int sampling_ratio, "
    "bool aligned) -> Tensor",
    f"deform_conv2d(Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, {PADS}) -> Tensor",
    f"_deform_conv2d_backward(Tensor grad, Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, "
    f"{PADS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)


def _loads() -> bool:
    """Whether torchvision's library can be loaded; it is loaded again, without harm, when torchvision is imported."""
    files = importlib.metadata.files("torchvision") or []
    found = [file for file in files if Path(file).name.startswith("_C.") and Path(file).suffix in (".so", ".pyd")]
    try:
        torch.ops.load_library(str(found[0].locate()))
    except (IndexError, OSError):
        return False
    return True


if not _loads():
    DECLARED = torch.library.Library("torchvision", "DEF")  # kept: what it declares goes with it
    for schema in SCHEMAS:
        DECLARED.define(schema)
