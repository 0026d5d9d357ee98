from .grid import explanation_grid as explanation_grid
from .segments import segments_figure as segments_figure
