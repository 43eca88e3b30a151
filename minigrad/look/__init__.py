"""Pictures of what a network sees, as PNG files, and the instruments they are drawn from."""

from minigrad.look.activations import Strongest, find_strongest, patch, project_strongest
from minigrad.look.deconvnet import METHODS, Projection, project
from minigrad.look.pictures import draw_confusion, draw_curves, draw_filters, draw_predictions

__all__ = [
    "METHODS",
    "Projection",
    "Strongest",
    "draw_confusion",
    "draw_curves",
    "draw_filters",
    "draw_predictions",
    "find_strongest",
    "patch",
    "project",
    "project_strongest",
]
