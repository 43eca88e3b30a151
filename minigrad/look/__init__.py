"""Pictures of what a network sees, as PNG files, and the instruments they are drawn from."""

from minigrad.look.activations import Strongest, find_strongest, patch, project_strongest
from minigrad.look.deconvnet import METHODS, Projection, project
from minigrad.look.filters import Spectrum, draw_filters, draw_spectrum, spectrum, weight_stages
from minigrad.look.maps import dead_maps, draw_maps
from minigrad.look.pictures import draw_confusion, draw_curves, draw_predictions

__all__ = [
    "METHODS",
    "Projection",
    "Spectrum",
    "Strongest",
    "dead_maps",
    "draw_confusion",
    "draw_curves",
    "draw_filters",
    "draw_maps",
    "draw_predictions",
    "draw_spectrum",
    "find_strongest",
    "patch",
    "project",
    "project_strongest",
    "spectrum",
    "weight_stages",
]
