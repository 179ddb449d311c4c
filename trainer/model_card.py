"""MODEL_CARD.md: what a person should know before putting a bundle into service."""

from __future__ import annotations

from typing import Any


def model_card(manifest: dict[str, Any]) -> str:
    """Render the card from the fields of a manifest."""
    int8 = manifest.get("int8")
    size, training, diffusion = manifest["input"], manifest["training"], manifest["diffusion"]
    licence = training["data_licence"] or "not stated; the owner of the images decides"
    return f"""# Model card

| | |
| --- | --- |
| method, profile | {manifest["method"]}, {manifest["profile"]} |
| made by | edge-ad {manifest["edge_ad_version"]}, {manifest["created_at"]} |
| input | {size["width"]} x {size["height"]} pixels, RGB; {_fit(size)} |
| size | {manifest["params"]:,} parameters, {manifest["macs"] / 1e9:.2f} GMACs {_frame_macs(manifest)} |
| noise | {_noise(diffusion)} |
| score | mean of the {manifest["top_k"]} largest pixels of the anomaly map |
| trained on | {len(training["images_sha256"])} good images, {training["steps"]} steps, {training["minutes"]} min |
| held out for calibration | {len(training["calibration_sha256"])} good images |
| licence of the training data | {licence} |
| pretrained weights inside | {manifest["pretrained"] or "none"} |
{_int8_section(int8) if int8 else ""}
## Use

It tells parts like those it was trained on from parts that look different. It says nothing about parts, cameras or
lighting that it has not seen. It has no threshold: calibrate it on site, with good parts, before you act on it
(`edge-ad-calibrate fit`).

## Limits

Defects that are smaller than about two pixels of the input, and changes of light within the range that training
varies (see the profile), are not found. The golden images are procedural and show nothing of the training data.
"""


def _frame_macs(manifest: dict[str, Any]) -> str:
    """What they are of."""
    tiles = manifest["input"]["tiles"]["rows"] * manifest["input"]["tiles"]["columns"]
    return "a frame" if tiles == 1 else f"a tile, {tiles * manifest['macs'] / 1e9:.2f} a frame"


def _noise(diffusion: dict[str, Any]) -> str:
    """From which timesteps an image is repainted."""
    t_s, t_b, w, timesteps = (diffusion[name] for name in ("t_s", "t_b", "w", "timesteps"))
    return f"one step from t = {t_s} of {timesteps}, {f'guided from {t_b}, w = {w:g}' if w > 0 else 'not guided'}"


def _fit(size: dict[str, Any]) -> str:
    """How a frame gets there."""
    how = "keeps its shape, padded (letterbox)" if size["fit"] == "letterbox" else "is stretched to it"
    rows, columns, overlap = (size["tiles"][name] for name in ("rows", "columns", "overlap"))
    if rows * columns == 1:
        return f"a frame of another shape {how}"
    grid = f"{rows} x {columns} tiles of a frame that share {overlap} pixels"
    turned = f"; {columns} x {rows} where it is taller than wide" if size["tiles"]["turns"] else ""
    return f"{grid}{turned}; a frame of another shape {how}"


def _int8_changes(int8: dict[str, Any]) -> str:
    """Of the figures that the layers were chosen by."""
    return ", ".join(f"{int8[f'{figure}_change']:+.4f}" for figure in ("image_auroc", "pixel_ap", "aupro"))


def _int8_section(int8: dict[str, Any]) -> str:
    kept = ", ".join(f"`{layer}`" for layer in int8["fp32_layers"]) or "none"
    return f"""
## INT8

| `model.int8.onnx` | made after training, symmetric, weights per output channel |
| --- | --- |
| ranges of the activations | "{int8["range_rule"]}", from {len(int8["images_sha256"])} unseen good images |
| convolutions in INT8 | {int8["int8_layers"]} |
| convolutions in FP32, the most sensitive first | {kept} |
| score correlation with FP32 | {int8["score_correlation"]:.5f}, on good images and synthetic defects |
| change of image AUROC, pixel AP, AUPRO | {_int8_changes(int8)}, on the same |

Its scores are not those of FP32: a station that runs it has a calibration of its own (`precision: int8`).
"""
