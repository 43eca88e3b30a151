"""Pictures of what a network sees, as PNG files, and the instruments they are drawn from."""

from minigrad.look.activations import Strongest, find_strongest, patch, project_strongest
from minigrad.look.deconvnet import METHODS, Projection, project
from minigrad.look.filters import Spectrum, draw_filters, draw_spectrum, spectrum, weight_stages
from minigrad.look.invariance import (
    CHANGES,
    IDENTITY,
    Invariance,
    changed,
    draw_invariance,
    invariance,
)
from minigrad.look.maps import dead_maps, draw_maps
from minigrad.look.neighbours import Neighbours, find_neighbours
from minigrad.look.occlusion import Occlusion, draw_occlusion, occlude
from minigrad.look.pictures import draw_confusion, draw_curves, draw_predictions

__all__ = [
    "CHANGES",
    "IDENTITY",
    "METHODS",
    "Invariance",
    "Neighbours",
    "Occlusion",
    "Projection",
    "Spectrum",
    "Strongest",
    "changed",
    "dead_maps",
    "draw_confusion",
    "draw_curves",
    "draw_filters",
    "draw_invariance",
    "draw_maps",
    "draw_occlusion",
    "draw_predictions",
    "draw_spectrum",
    "find_neighbours",
    "find_strongest",
    "invariance",
    "occlude",
    "patch",
    "project",
    "project_strongest",
    "spectrum",
    "weight_stages",
]
