from .core import ContractError as ContractError
from .datasets import (
    DATASET_CHECKS as DATASET_CHECKS,
    about_is_json as about_is_json,
    boxes_are_in_the_image as boxes_are_in_the_image,
    boxes_hold_their_masks as boxes_hold_their_masks,
    card_is_filled_in as card_is_filled_in,
    check_dataset as check_dataset,
    ids_are_unique as ids_are_unique,
    ignored_pixels_are_nobodys as ignored_pixels_are_nobodys,
    image_is_rgb as image_is_rgb,
    item_does_not_depend_on_others as item_does_not_depend_on_others,
    item_is_the_readers_own as item_is_the_readers_own,
    labels_are_classes as labels_are_classes,
    masks_are_the_images as masks_are_the_images,
    numbers_like_a_sequence as numbers_like_a_sequence,
    random_state_stays as random_state_stays,
    wrong_folder_is_told as wrong_folder_is_told,
)
from .method_cards import (
    card_complete as card_complete,
    cost_as_declared as cost_as_declared,
    needs_checked_first as needs_checked_first,
    options_checked as options_checked,
    options_declared as options_declared,
)
from .method_safety import (
    frozen_model_works as frozen_model_works,
    input_untouched as input_untouched,
    model_untouched as model_untouched,
    training_mode_ignored as training_mode_ignored,
    untouched_after_bad_target as untouched_after_bad_target,
    untouched_after_exception as untouched_after_exception,
)
from .method_values import (
    any_grad_mode as any_grad_mode,
    any_input_form as any_input_form,
    autocast_agrees as autocast_agrees,
    batch_equals_singles as batch_equals_singles,
    chunks_do_not_matter as chunks_do_not_matter,
    default_target_is_the_answer as default_target_is_the_answer,
    flat_image as flat_image,
    grid_and_dtype as grid_and_dtype,
    nan_weights_raise as nan_weights_raise,
    seeded_runs_repeat as seeded_runs_repeat,
    sign_as_declared as sign_as_declared,
    target_matters as target_matters,
    targets_by_image as targets_by_image,
    weights_matter as weights_matter,
)
from .methods import METHOD_CHECKS as METHOD_CHECKS, check_method as check_method
from .metrics import METRIC_CHECKS as METRIC_CHECKS, check_metric as check_metric
from .models import (
    MODEL_CHECKS as MODEL_CHECKS,
    attention_is_a_distribution as attention_is_a_distribution,
    batch_is_singles as batch_is_singles,
    cam_layer_is_reached as cam_layer_is_reached,
    cells_lie_where_the_pixels_are as cells_lie_where_the_pixels_are,
    check_model as check_model,
    embedding_leads_to_logits as embedding_leads_to_logits,
    layers_have_names as layers_have_names,
    model_left_alone as model_left_alone,
    offers_are_true as offers_are_true,
    other_sizes_work_or_say_so as other_sizes_work_or_say_so,
    same_answer_as_the_module as same_answer_as_the_module,
    stages_lie_on_grids as stages_lie_on_grids,
    tail_continues_the_model as tail_continues_the_model,
    tokens_are_prefix_and_grid as tokens_are_prefix_and_grid,
)
