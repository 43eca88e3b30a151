"""Pictures of what a network sees, as PNG files, and the instruments they are drawn from."""

from minigrad.look.deconvnet import METHODS, Projection, project
from minigrad.look.pictures import draw_confusion, draw_curves, draw_filters, draw_predictions

__all__ = [
    "METHODS",
    "Projection",
    "draw_confusion",
    "draw_curves",
    "draw_filters",
    "draw_predictions",
    "project",
]
