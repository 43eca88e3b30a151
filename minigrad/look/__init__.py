"""Pictures of what a network sees, as PNG files."""

from minigrad.look.pictures import draw_confusion, draw_curves, draw_filters, draw_predictions

__all__ = ["draw_confusion", "draw_curves", "draw_filters", "draw_predictions"]
