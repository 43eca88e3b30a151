"""Instruments that show what a network sees, and the drawing of their results as PNG files."""

from minigrad.look.activations import (
    Strongest,
    draw_nine,
    draw_projections,
    find_strongest,
    patch,
    peaks_of,
    project_strongest,
)
from minigrad.look.deconvnet import METHODS, Projection, project
from minigrad.look.evolution import Moment, draw_evolution, follow_features
from minigrad.look.filters import Spectrum, draw_filters, draw_spectrum, spectrum, weight_stages
from minigrad.look.invariance import (
    CHANGES,
    IDENTITY,
    Invariance,
    changed,
    draw_invariance,
    measure_invariance,
)
from minigrad.look.ledgers import draw_ledgers, stage_seconds
from minigrad.look.maps import dead_maps, draw_maps
from minigrad.look.neighbours import Neighbours, draw_neighbours, find_neighbours
from minigrad.look.occlusion import Occlusion, draw_occlusion, occlude
from minigrad.look.pictures import draw_confusion, draw_curves, draw_predictions

__all__ = [
    "CHANGES",
    "IDENTITY",
    "METHODS",
    "Invariance",
    "Moment",
    "Neighbours",
    "Occlusion",
    "Projection",
    "Spectrum",
    "Strongest",
    "changed",
    "dead_maps",
    "draw_confusion",
    "draw_curves",
    "draw_evolution",
    "draw_filters",
    "draw_invariance",
    "draw_ledgers",
    "draw_maps",
    "draw_neighbours",
    "draw_nine",
    "draw_occlusion",
    "draw_predictions",
    "draw_projections",
    "draw_spectrum",
    "find_neighbours",
    "find_strongest",
    "follow_features",
    "measure_invariance",
    "occlude",
    "patch",
    "peaks_of",
    "project",
    "project_strongest",
    "spectrum",
    "stage_seconds",
    "weight_stages",
]
