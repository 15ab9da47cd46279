"""WHERE AND WHY: Grad-CAM and overlays."""
