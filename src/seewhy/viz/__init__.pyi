from .comparison import montage as montage, save_comparison as save_comparison
from .contact import contact_sheet as contact_sheet
from .figures import explanation_grid as explanation_grid, grid as grid
from .html import Bar as Bar, Figure as Figure, Section as Section, page as page
from .one_map import heatmap as heatmap, overlay as overlay
from .pairs import pair_figure as pair_figure
from .randomization import randomization_figure as randomization_figure
from .segments import object_figure as object_figure, segments_figure as segments_figure
from .volumes import slices_figure as slices_figure
