from .core import (
    ContractError as ContractError,
)
from .dataset_case import DATASET_CHECKS as DATASET_CHECKS
from .datasets import (
    check_about_json as check_about_json,
    check_boxes_contain_masks as check_boxes_contain_masks,
    check_boxes_in_image as check_boxes_in_image,
    check_dataset as check_dataset,
    check_dataset_card as check_dataset_card,
    check_ids_unique as check_ids_unique,
    check_ignore_disjoint_from_masks as check_ignore_disjoint_from_masks,
    check_image_rgb as check_image_rgb,
    check_labels as check_labels,
    check_masks_match_image as check_masks_match_image,
    check_missing_root_error as check_missing_root_error,
    check_random_state_untouched as check_random_state_untouched,
    check_reading_order_invariance as check_reading_order_invariance,
    check_samples_not_shared as check_samples_not_shared,
    check_sequence_indexing as check_sequence_indexing,
)
from .method_cards import (
    check_capabilities_first as check_capabilities_first,
    check_cost as check_cost,
    check_method_card as check_method_card,
    check_option_declarations as check_option_declarations,
    check_option_values as check_option_values,
)
from .method_case import METHOD_CHECKS as METHOD_CHECKS
from .method_safety import (
    check_batch_untouched as check_batch_untouched,
    check_frozen_model as check_frozen_model,
    check_method_leaves_model_untouched as check_method_leaves_model_untouched,
    check_training_mode as check_training_mode,
    check_untouched_after_bad_target as check_untouched_after_bad_target,
    check_untouched_after_exception as check_untouched_after_exception,
)
from .method_values import (
    check_autocast as check_autocast,
    check_batch_size_invariance as check_batch_size_invariance,
    check_class_specificity as check_class_specificity,
    check_constant_image as check_constant_image,
    check_default_target as check_default_target,
    check_dependence_on_weights as check_dependence_on_weights,
    check_grad_modes as check_grad_modes,
    check_grid_and_dtype as check_grid_and_dtype,
    check_image_index as check_image_index,
    check_inference_weights as check_inference_weights,
    check_input_forms as check_input_forms,
    check_map_independent_of_batch as check_map_independent_of_batch,
    check_method_seed as check_method_seed,
    check_nan_weights as check_nan_weights,
    check_sign as check_sign,
    check_target_per_image as check_target_per_image,
)
from .methods import (
    check_method as check_method,
)
from .metric_cards import (
    check_metric_card as check_metric_card,
    check_metric_options as check_metric_options,
    check_passes as check_passes,
    check_requirements_first as check_requirements_first,
)
from .metric_case import METRIC_CHECKS as METRIC_CHECKS
from .metric_invariance import (
    check_invalid_pixels_ignored as check_invalid_pixels_ignored,
    check_map_forms as check_map_forms,
    check_metric_seed as check_metric_seed,
    check_monotone_invariance as check_monotone_invariance,
    check_requirements_matter as check_requirements_matter,
    check_scale_invariance as check_scale_invariance,
)
from .metric_safety import (
    check_exceptions_propagate as check_exceptions_propagate,
    check_inputs_untouched as check_inputs_untouched,
    check_metric_leaves_state_untouched as check_metric_leaves_state_untouched,
)
from .metric_values import (
    check_aggregates as check_aggregates,
    check_bounds as check_bounds,
    check_constant_map as check_constant_map,
    check_curves as check_curves,
    check_direction as check_direction,
    check_full_mask as check_full_mask,
    check_missing_truth_isolated as check_missing_truth_isolated,
    check_nonfinite_map_isolated as check_nonfinite_map_isolated,
    check_value_independent_of_batch as check_value_independent_of_batch,
    check_value_per_map as check_value_per_map,
)
from .metrics import (
    check_metric as check_metric,
)
from .model_case import MODEL_CHECKS as MODEL_CHECKS
from .model_layers import (
    check_attention_rows as check_attention_rows,
    check_cam_layer_reached as check_cam_layer_reached,
    check_cell_locations as check_cell_locations,
    check_layer_lookup as check_layer_lookup,
    check_other_input_sizes as check_other_input_sizes,
    check_stage_grids as check_stage_grids,
    check_token_count as check_token_count,
)
from .model_outputs import (
    check_capabilities as check_capabilities,
    check_embedding_feeds_head as check_embedding_feeds_head,
    check_module_untouched as check_module_untouched,
    check_output_equals_module as check_output_equals_module,
    check_output_independent_of_batch as check_output_independent_of_batch,
    check_tail as check_tail,
)
from .models import (
    check_model as check_model,
)
from .sources import (
    SOURCE_CHECKS as SOURCE_CHECKS,
    check_foreign_module as check_foreign_module,
    check_loaded_model as check_loaded_model,
    check_source as check_source,
    check_source_extras as check_source_extras,
    check_source_names as check_source_names,
    check_source_parts as check_source_parts,
    check_unknown_model as check_unknown_model,
)
from .state import PassCounter as PassCounter
