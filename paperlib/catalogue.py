"""The list of methods: what there is, from which paper, in which file, and which tests prove it."""

from .losses import FEATURE_LOSSES, METHOD_NOTES, OBJECTIVES, Objective, kd
from .quantizers import METHODS

# Tests beside those that every quantizer and every loss goes through: the formula, written out a
# second time.
PROOFS = {
    "ewgs": "test_ewgs_gradients_inside_at_and_beyond_the_bounds",
    "dorefa": "test_one_bit_weights",
    "pact": "test_pact_gradients",
    "lsq": "test_lsq_gradients_decide_by_the_unrounded_value",
    "lsq+": "test_lsq_plus_moves_the_grid_and_its_offset_learns_from_what_is_outside",
    "ternary": "test_ternary_weights",
    "dorefa_released": "test_released_dorefa_keeps_its_first_scale_and_its_maximums_gradient",
    "pact_released": "test_released_pact_has_half_a_grid_and_an_alpha_that_stays",
    "lsq_released": "test_released_lsq_differs_from_the_paper_between_the_last_level_and_the_next",
    "ce": "test_cross_entropy_of_soft_labels_is_linear_in_them",
    "kd": "test_kd_is_the_written_out_divergence",
    "sqakd": "test_kd_is_the_written_out_divergence",
    "dkd": "test_dkd_is_the_written_out_formula",
    "at": "test_attention_is_the_written_out_formula",
    "nst": "test_nst_is_the_written_out_formula",
    "sp": "test_similarity_is_the_written_out_formula",
    "rkd": "test_rkd_is_the_written_out_formula",
    "crd": "test_crd_is_the_written_out_formula",
    "fitnet": "test_fitnet_is_the_hint_after_its_regressor",
    "cc": "test_correlation_is_the_written_out_formula",
    "vid": "test_vid_is_the_gaussian_likelihood_torch_computes",
    "fsp": "test_fsp_is_the_written_out_formula",
    "fsp_active": "test_fsp_is_the_written_out_formula",
    "ft": "test_factor_is_the_written_out_formula",
    "pkt": "test_pkt_is_the_written_out_formula",
    "kdsvd": "test_kdsvd_is_the_written_out_formula",
    "cktf": "test_cktf_is_crd_on_the_vector_and_theta_times_crd_on_the_maps",
}


def _file(thing: object) -> str:
    return thing.__module__.removeprefix("paperlib.").replace(".", "/") + ".py"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _weights(objective: Objective) -> str:
    """gamma CE + alpha KL + beta L in short, the layers after it."""
    terms = [
        (objective.gamma, "CE"),
        (objective.alpha, "KL" if objective.logit_loss == "kd" else objective.logit_loss.upper()),
    ]
    terms.append((objective.beta, "L(" + ", ".join(objective.layers) + ")"))
    text = " + ".join(
        f"{weight:g} {name}" if weight != 1 else name for weight, name in terms if weight
    )
    return text + (f"; {objective.init_epochs} epochs before" if objective.init_epochs else "")


def methods() -> str:
    """Two Markdown tables, of all quantizers and of all losses."""
    quantizers = []
    for name, method in METHODS.items():
        files = ", ".join(
            f"`{file}`" for file in dict.fromkeys((_file(method.weight), _file(method.activation)))
        )
        quantizers.append([f"`{name}`", method.paper, files, f"`{PROOFS[name]}`"])
    losses = []
    for name, objective in OBJECTIVES.items():
        function = FEATURE_LOSSES.get(
            objective.feature_loss, kd
        )  # all losses of logits are in one file
        note = METHOD_NOTES[name]
        losses.append(
            [
                f"`{name}`",
                note.paper,
                _weights(objective),
                note.cutmix,
                f"`{_file(function)}`",
                f"`{PROOFS[name]}`",
            ]
        )
    return (
        _table(["quantizer", "paper", "file", "proof"], quantizers)
        + "\n"
        + _table(["loss", "paper", "weights and layers", "under CutMix", "file", "proof"], losses)
    )
