"""One map in colors: the drawing lives in `seewhy.core.heatmap`, since an `Explanation` draws itself."""

from seewhy.core.heatmap import heatmap as heatmap, overlay as overlay
