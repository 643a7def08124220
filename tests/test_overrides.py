"""Tests for lightning_mixup.rules: every operation that torch lets a tensor override.

Each of them is given arguments that make it run on plain tensors, and then mixed labels in place
of each argument in turn. Whatever comes of them must follow from the candidates, or be refused.
"""

import inspect
import itertools
import re
import warnings
from dataclasses import dataclass
from functools import cache, cached_property

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import get_testing_overrides, resolve_name

from lightning_mixup import MixedTarget, merge
from lightning_mixup.calls import NoRuleError
from lightning_mixup.operations import FACTS, NUMBERS, PRINTS, TALLIES, name_of, writes_in_place
from lightning_mixup.targets import Kind, is_lost, make_mixed, plain, weighted_sum

WEIGHTS = pytest.mark.parametrize("per_sample", [False, True], ids=["per_batch", "per_sample"])
DEVELOPED_ON = "2.13"
B = 4
FIRST, SECOND = torch.tensor([0, 1, 3, 2]), torch.tensor([1, 2, 0, 3])
SHARES = {
    False: torch.tensor([0.375, 0.625], dtype=torch.float64),
    True: torch.tensor([[0.75, 0.125, 0.375, 0.875], [0.25, 0.875, 0.625, 0.125]]).double(),
}

# What labels are made into, so that an operation takes them.


@dataclass(frozen=True)
class Slot:
    """A place for labels, or for a plain tensor of the same form."""

    form: str

    def __repr__(self):
        return self.form


def spread(y, *shape):
    pattern = torch.arange(B * torch.Size(shape).numel(), dtype=torch.float64).cos() + 2
    return (y.double() + 1).reshape(-1, *[1] * len(shape)) / 4 * pattern.reshape(-1, *shape)


def matrix(y):
    return 5 * torch.eye(B, dtype=torch.float64) + F.one_hot(y, B)


FORMS = {
    "labels": lambda y: y,
    "vector": lambda y: y.double() / 8 + 0.1,
    "matrix": matrix,
    "chances": lambda y: F.one_hot(y, B) * 0.5 + 0.25 + 0 * y.double()[:, None],
    "mask": lambda y: y % 2 == 0,
    "column": lambda y: y[:, None],
    "one_hot": lambda y: F.one_hot(y, B),
    "hot": lambda y: F.one_hot(y, B).bool(),
    "sequence": lambda y: spread(y, 4, 4),
    "image": lambda y: spread(y, 2, 4, 4),
    "volume": lambda y: spread(y, 1, 4, 4, 4),
    "complex": lambda y: torch.complex(matrix(y), F.one_hot(y, B).double()),
    "single": lambda y: y[:1],
    "flag": lambda y: y[:1] % 2 == 0,
    "label": lambda y: y[0],
    "number": lambda y: y[0].double(),
    "triple": lambda y: spread(y, 3),
    "pair": lambda y: spread(y, 2),
    "bytes": lambda y: y.to(torch.uint8),
    "int32": lambda y: y.int(),
    "int_matrix": lambda y: F.one_hot(y, B).int(),
    "images_of_labels": lambda y: y[:, None, None].expand(-1, 2, 2).clone(),
    "floats": lambda y: matrix(y).float(),
    "pixels": lambda y: spread(y, 2, 2, 2),
    "rays": lambda y: spread(y, 2, 2, 2, 3),
    "theta": lambda y: spread(y, 2, 3),
    "patches": lambda y: spread(y, 4, 9),
}


def shaped(form, y):
    """Returns labels in some form, in memory of their own."""
    return _shaped(form, tuple(y.tolist())).clone()


@cache
def _shaped(form, labels):
    return FORMS[form](torch.tensor(labels))


FLOATING = {name for name, form in FORMS.items() if form(FIRST).is_floating_point()}
KEYS = dict.fromkeys(FLOATING, "float") | {"vector": "vector", "complex": "complex"}
SLOTS = {name: Slot(name) for name in FORMS}
USUAL = tuple(list(SLOTS.values())[:12])
Y, VECTOR, MATRIX, MASK = (SLOTS[name] for name in ("labels", "vector", "matrix", "mask"))
COLUMN, HOT, SEQUENCE, IMAGE = (SLOTS[name] for name in ("column", "hot", "sequence", "image"))
ONE_HOT, COMPLEX = SLOTS["one_hot"], SLOTS["complex"]


def slots_in(tree):
    if isinstance(tree, Slot):
        return [tree]
    if isinstance(tree, dict):
        tree = tree.values()
    elif not isinstance(tree, (list, tuple)):
        return []
    return [slot for value in tree for slot in slots_in(value)]


def filled(tree, values):
    """Returns arguments, with the next value in each slot."""
    if isinstance(tree, Slot):
        return next(values)
    if isinstance(tree, (list, tuple)):
        return type(tree)([filled(value, values) for value in tree])
    if isinstance(tree, dict):
        return {key: filled(value, values) for key, value in tree.items()}
    return tree


# Arguments for each operation: by the names of its parameters, or from a table.


def words(text):
    return text.split()


OF_NAMES = {
    "dim": (0, 1, "a", -1),
    "index": (Y, ONE_HOT, COLUMN),
    "indices": (Y, (Y,), 0, [0, 1]),
    "mask": (MASK, HOT),
    "condition": (MASK, HOT),
    "kernel_size": (2,),
    "size": ((4,), (4, 4), (4, 1)),
    "n": (2,),
    "p": (0.5, 2),
    "stride": (1, (1,), (1, 1)),
    "output_size": (2, (2, 2)),
    "eps": (1e-5,),
    "train": (False,),
    "training": (False,),
    "groups": (1, 2),
    "indices_or_sections": (2,),
    "split_size_or_sections": (2, (2, 2)),
    "dim0": (0,),
    "dim1": (-1,),
    "momentum": (0.1,),
    "padding": (0,),
    "dilation": (1,),
    "reduce": ("mean", "prod"),
    "normalized_shape": ((4,),),
    "dtype": (torch.float64,),
    "k": (1,),
    "align_corners": (False,),
    "chunks": (2,),
    "dims": ((0,),),
    "destination": (-1,),
    "start": (0,),
    "length": (2,),
    "shape": ((4, 1), (4, 4)),
    "norm_type": (2,),
    "maxnorm": (1.0,),
    "axis0": (0,),
    "axis1": (-1,),
    "dimension": (0,),
    "callable": (abs,),
    "cudnn_enabled": (False,),
    "pad": ((1, 0),),
    "axis": (0,),
    "num_groups": (2,),
    "names": ((0,),),
    "num_samples": (1,),
    "threshold": (1,),
    "shifts": (1,),
    "step": (1,),
    "*size": (2,),
    "tensors": ([Y, Y], [MATRIX, MATRIX]),
    "*tensors": (Y, MATRIX),
    "*matrices": (MATRIX,),
    "value": (1, *USUAL),
    "exponent": (2, VECTOR, MATRIX),
    "fill_value": (1,),
    "bins": (4,),
    "upscale_factor": (1,),
    "downscale_factor": (2,),
    "log_input": (True,),
    "full": (False,),
    "reduction": (1, 0),
    "val": (1.0,),
    "upper": (True,),
    "sizes": ((2, 2),),
    "split_size": (2,),
    "split_sizes": ((2, 2),),
    "idx": (0,),
    "memo": ({},),
    "format_spec": ("",),
    "proto": (2,),
    "*reps": (2,),
    "quant_min": (0,),
    "quant_max": (255,),
    "running_mean": (None, VECTOR),
    "running_var": (None, VECTOR),
    "n_fft": (4,),
    "weight": (None, *USUAL),
    "bias": (None, VECTOR),
    "min": (1, *USUAL),
    "max": (1, *USUAL),
    "q": (0.5,),
    "use_input_stats": (True,),
    "N": (4,),
    "C": (2,),
    "HxW": (16,),
    "group": (1,),
}
TENSORS = words("""
    input self other tensor source src mat2 b input2 a vec2 input1 y batch1 batch2 tensor1 tensor2
    mat1 mean x values A vec output B scale end x1 x2 anchor positive negative target hx mat real
    imag abs ang v tau LD LU LU_data prob boundaries sorted_sequence e te inputs logits var input3
    query key vec1 primal tangent grad_out grid theta LU_pivots pivots z
""")


def call(*args, **kwargs):
    return args, kwargs


ARANGE, PIVOTS, LENGTHS = torch.arange(B), torch.arange(1, B + 1).int(), torch.tensor([1] * B)
PLACES = 2 * torch.arange(4).expand(B, 4, 4)
CELL = torch.arange(48.0, dtype=torch.float64).reshape(12, 4).sin()
LSTM = torch.arange(64.0, dtype=torch.float64).reshape(16, 4).sin()
ONE = [call(SLOTS["single"]), call(SLOTS["label"]), call(SLOTS["number"])]
SYMBOLIC = [call(SLOTS["number"])]
GRU = (False, 1, 0.0, False, False, False)
START = torch.zeros(1, B, B, dtype=torch.float64)
CLASS_LOSSES = [
    call(MATRIX, Y),
    call(MATRIX, Y, weight=VECTOR, reduction="sum"),
    call(MATRIX, Y, reduction="none"),
    call(MATRIX, Y, reduction="sum"),
    call(IMAGE, SLOTS["images_of_labels"]),
]
SCATTERS = [
    call(MATRIX, 0, ONE_HOT, MATRIX),
    call(MATRIX, 1, COLUMN, MATRIX),
    call(MATRIX, 1, COLUMN, 1.0),
    call(VECTOR, 0, Y, 1.0),
]
TABLE = {
    "__array__": [call(Y)],
    "__bool__": ONE,
    "__complex__": ONE,
    "__float__": ONE,
    "__getitem__": [
        *[call(slot, 0) for slot in (Y, MATRIX)],
        *[call(MATRIX, index) for index in (Y, MASK, HOT, (ARANGE, Y), (Y, Y), slice(2))],
        call(Y, Y),
        call(VECTOR, Y),
    ],
    "__index__": ONE[:2],
    "__int__": ONE,
    "__long__": ONE,
    "__nonzero__": ONE,
    "__setitem__": [
        *[call(slot, MASK, 1) for slot in (Y, MATRIX)],
        *[call(MATRIX, index, 2.0) for index in (Y, HOT, (ARANGE, Y), 0, slice(2))],
        call(Y, 0, 7),
        call(Y, slice(2), 7),
        call(MATRIX, 0, VECTOR),
        call(VECTOR, Y, VECTOR),
        call(VECTOR, slice(None), VECTOR),
        call(Y, slice(None), Y),
    ],
    "_fused_rms_norm": [call(MATRIX, (4,), VECTOR, 1e-5)],
    "_native_batch_norm_legit": [call(MATRIX, VECTOR, VECTOR, True, 0.1, 1e-5)],
    "_sym_int": SYMBOLIC,
    "addbmm": [call(MATRIX, SEQUENCE, SEQUENCE)],
    "affine_grid": [call(SLOTS["theta"], (4, 2, 2, 2), align_corners=False)],
    "affine_grid_generator": [call(SLOTS["theta"], (4, 2, 2, 2), False)],
    "baddbmm": [call(SEQUENCE, SEQUENCE, SEQUENCE)],
    "batch_norm": [
        call(MATRIX, VECTOR, VECTOR, VECTOR, VECTOR, False, 0.1, 1e-5, False),
        call(MATRIX, VECTOR, VECTOR, VECTOR, VECTOR, True, 0.1, 1e-5, False),
        call(MATRIX, VECTOR, VECTOR, VECTOR, VECTOR, True),
        call(MATRIX, VECTOR, VECTOR),
        call(MATRIX, None, None, training=True),
    ],
    "bilinear": [call(MATRIX, MATRIX, SEQUENCE)],
    "bmm": [call(SEQUENCE, SEQUENCE)],
    "clamp": [call(Y, 1), call(MATRIX, 1.0), call(MATRIX, None, MATRIX), call(Y, Y, Y)],
    "conv_transpose2d": [call(IMAGE, torch.ones(2, 1, 2, 2).double())],
    "conv_transpose3d": [call(SLOTS["volume"], torch.ones(1, 1, 2, 2, 2).double())],
    "conv_tbc": [call(SEQUENCE, SEQUENCE, VECTOR)],
    "convolution": [call(SEQUENCE, SEQUENCE, None, (1,), (0,), (1,), False, (0,), 1)],
    "cosine_embedding_loss": [call(MATRIX, MATRIX, Y)],
    "cross": [call(SLOTS["triple"], SLOTS["triple"])],
    "cross_entropy": [*CLASS_LOSSES, call(MATRIX, SLOTS["chances"])],
    "ctc_loss": [call(SEQUENCE, COLUMN, LENGTHS * 4, LENGTHS)],
    "einsum": [
        call("i,i->i", VECTOR, VECTOR),
        call("ij->i", MATRIX),
        call("bi,ij->bj", MATRIX, MATRIX),
        call("ij->j", MATRIX),
    ],
    "embedding_bag": [
        call(MATRIX, Y, torch.tensor([0, 2])),
        call(Y, MATRIX, torch.tensor([0, 2])),
    ],
    "fake_quantize_per_channel_affine": [
        call(SLOTS["floats"], torch.ones(B), torch.zeros(B, dtype=torch.int32), 0, 0, 255)
    ],
    "fake_quantize_per_tensor_affine": [call(SLOTS["floats"], 1.0, 0, 0, 255)],
    "fold": [call(SLOTS["patches"], (4, 4), 2)],
    "frobenius_norm": [call(MATRIX, (0, 1)), call(MATRIX, (1,))],
    "grid_sample": [call(IMAGE, SLOTS["pixels"], align_corners=False)],
    "grid_sampler": [call(IMAGE, SLOTS["pixels"], 0, 0, False)],
    "grid_sampler_3d": [call(SLOTS["volume"], SLOTS["rays"], 0, 0, False)],
    "gru": [call(SEQUENCE, START, [CELL, CELL], *GRU)],
    "gru_cell": [call(MATRIX, MATRIX, CELL, CELL)],
    "index_put": [call(MATRIX, (ARANGE, Y), VECTOR), call(VECTOR, (Y,), VECTOR)],
    "interpolate": [call(IMAGE, (2, 2)), call(SEQUENCE, 2, mode="linear")],
    "is_nonzero": ONE,
    "item": ONE,
    "ldl_solve": [call(MATRIX, PIVOTS, MATRIX)],
    "linear_cross_entropy": [call(MATRIX, MATRIX, Y)],
    "local_response_norm": [call(SEQUENCE, 2)],
    "lstm": [call(SEQUENCE, [START, START], [LSTM, LSTM], *GRU)],
    "lstm_cell": [call(MATRIX, (MATRIX, MATRIX), LSTM, LSTM)],
    "lu_solve": [call(MATRIX, MATRIX, PIVOTS), call(MATRIX, PIVOTS, MATRIX)],
    "lu_unpack": [call(MATRIX, PIVOTS)],
    "map2_": [call(VECTOR, VECTOR, VECTOR, lambda a, b, c: a + b * c)],
    "map_": [call(VECTOR, VECTOR, lambda a, b: a + b), call(Y, Y, lambda a, b: a + b)],
    "max_unpool1d": [call(SEQUENCE, PLACES, 2)],
    "max_unpool2d": [
        call(SLOTS["pixels"], 2 * torch.arange(4).reshape(2, 2).expand(4, 2, 2, 2), 2)
    ],
    "max_unpool3d": [
        call(SLOTS["volume"], torch.arange(64).reshape(4, 4, 4).expand(4, 1, 4, 4, 4), 2)
    ],
    "movedim": [call(MATRIX, 0, 1)],
    "multi_head_attention_forward": [
        call(*[SEQUENCE] * 3, 4, 2, CELL, None, None, None, False, 0.0, MATRIX, VECTOR)
    ],
    "native_batch_norm": [call(MATRIX, VECTOR, VECTOR, None, None, True, 0.1, 1e-5)],
    "native_layer_norm": [call(MATRIX, (4,), VECTOR, VECTOR, 1e-5)],
    "nll_loss": CLASS_LOSSES,
    "nonzero_static": [call(MATRIX, size=4)],
    "one_hot": [call(Y), call(Y, 5), call(COLUMN)],
    "ormqr": [call(MATRIX, VECTOR, MATRIX)],
    "permute": [call(MATRIX, (1, 0)), call(IMAGE, (2, 0, 3, 1))],
    "polygamma": [call(1, VECTOR), call(VECTOR, 1)],
    "repeat_interleave": [call(Y, 2), call(MATRIX, 2, 0), call(MATRIX, Y, 0), call(Y)],
    "rnn_relu": [call(SEQUENCE, START, [MATRIX, MATRIX], *GRU)],
    "rnn_relu_cell": [call(MATRIX, MATRIX, MATRIX, MATRIX)],
    "scatter": SCATTERS,
    "segment_reduce": [call(VECTOR, "sum", lengths=torch.tensor([2, 2]))],
    "select": [call(MATRIX, 0, 1), call(MATRIX, 1, 1), call(Y, 0, 1)],
    "select_scatter": [call(MATRIX, VECTOR, 0, 1), call(MATRIX, VECTOR, 1, 1)],
    "solve_triangular": [call(MATRIX, MATRIX, upper=True)],
    "split_with_sizes": [call(MATRIX, (2, 2)), call(Y, (1, 3))],
    "sym_float": SYMBOLIC,
    "tensorinv": [call(MATRIX, ind=1)],
    "unfold": [call(MATRIX, 0, 2, 1), call(MATRIX, 1, 2, 1), call(IMAGE, (2, 2))],
    "view_as_complex": [call(SLOTS["pair"])],
    "where": [
        call(HOT, MATRIX, MATRIX),
        call(MATRIX, HOT, MATRIX),
        call(MASK, 1.0, VECTOR),
        call(MASK, VECTOR, 0.0),
        call(MASK, Y, Y),
        call(MASK),
    ],
}
SAME_ARGUMENTS = {
    "addbmm_": "addbmm",
    "baddbmm_": "baddbmm",
    "clamp_": "clamp",
    "clip": "clamp",
    "clip_": "clamp",
    "grid_sampler_2d": "grid_sampler",
    "index_put_": "index_put",
    "linalg_cross": "cross",
    "linalg_ldl_solve": "ldl_solve",
    "linalg_lu_solve": "lu_solve",
    "moveaxis": "movedim",
    "rnn_tanh": "rnn_relu",
    "rnn_tanh_cell": "rnn_relu_cell",
    "scatter_": "scatter",
    "select_copy": "select",
    "special_polygamma": "polygamma",
    "split_with_sizes_copy": "split_with_sizes",
    "sym_sqrt": "sym_float",
    "unfold_copy": "unfold",
    "unsafe_split_with_sizes": "split_with_sizes",
    "upsample": "interpolate",
    "view_as_complex_copy": "view_as_complex",
    **{f"_sym_{name}": "sym_float" for name in words("cos cosh sin sinh tan tanh asin acos atan")},
}
MORE = [{"dim": 0}, {"dim": 1}, {"inplace": True}, {"reduction": "none"}, {"reduction": "sum"}]

# Operations that are left out, and why.
LEFT_OUT = {
    "has statistics of its own, which it updates once for each candidate": words("""
        batch_norm batch_norm_update_stats nn.functional.batch_norm
    """),
    "makes a sparse tensor, which cannot be mixed": words("Tensor.to_sparse"),
    "takes complex tensors alone, where labels are real": words("Tensor.imag.__get__"),
    "is not asked for by torch; called as a method, it is refused below": words("Tensor.set_"),
    "random": words("""
        bernoulli binomial lobpcg multinomial poisson functional.pca_lowrank
        functional.svd_lowrank nn.functional.dropout nn.functional.dropout1d
        nn.functional.dropout2d nn.functional.dropout3d nn.functional.gumbel_softmax
        nn.functional.fractional_max_pool2d nn.functional.fractional_max_pool2d_with_indices
        nn.functional.fractional_max_pool3d nn.functional.fractional_max_pool3d_with_indices
        nn.init.uniform_ nn.init.normal_ nn.init.kaiming_uniform_ Tensor.bernoulli
        Tensor.bernoulli_ Tensor.cauchy_ Tensor.exponential_ Tensor.geometric_
        Tensor.log_normal_ Tensor.multinomial Tensor.normal_ Tensor.random_ Tensor.uniform_
    """),
    "gives memory as it was found": words("empty_like Tensor.resize"),
    "tells one object from another, or makes it anew": words("""
        Tensor.__array_wrap__ Tensor.__dlpack__ Tensor.__setstate__ Tensor._base.__get__
        Tensor._cdata.__get__ Tensor._is_view Tensor._version.__get__ Tensor.const_data_ptr
        Tensor.data_ptr
    """),
    "needs a tensor that requires grad": words("""
        Tensor.backward Tensor.register_hook Tensor.register_post_accumulate_grad_hook
        Tensor.retain_grad
    """),
    "needs a sparse or nested tensor": words("""
        Tensor._coalesced_ Tensor._dimI Tensor._dimV Tensor._indices Tensor._nested_tensor_size
        Tensor._nested_tensor_storage_offsets Tensor._nested_tensor_strides Tensor._nnz
        Tensor._sparse_mask_projection Tensor._to_dense Tensor._values Tensor.ccol_indices
        Tensor.coalesce Tensor.col_indices Tensor.crow_indices Tensor.indices
        Tensor.is_coalesced Tensor.resize_as_sparse_ Tensor.row_indices Tensor.smm
        Tensor.sparse_mask Tensor.sparse_resize_ Tensor.sparse_resize_and_clear_ Tensor.sspaddmm
        Tensor.values _indices_copy _sparse_broadcast_to_copy _values_copy ccol_indices_copy
        col_indices_copy crow_indices_copy hspmm indices_copy native_norm row_indices_copy smm
        sspaddmm values_copy
    """),
    "needs a quantized or packed tensor": words("""
        Tensor.int_repr Tensor.q_per_channel_axis Tensor.q_per_channel_scales
        Tensor.q_per_channel_zero_points Tensor.q_scale Tensor.q_zero_point Tensor.qscheme
        Tensor.to_mkldnn _rowwise_prune _wrapped_linear_prepack
        _wrapped_quantized_linear_prepacked choose_qparams_optimized fbgemm_linear_fp16_weight
        fbgemm_linear_fp16_weight_fp32_activation fbgemm_linear_int8_weight
        fbgemm_linear_int8_weight_fp32_activation fbgemm_linear_quantize_weight
        fbgemm_pack_gemm_matrix_fp16 fbgemm_pack_quantized_matrix
        fused_moving_avg_obs_fake_quant int_repr q_per_channel_axis q_per_channel_scales
        q_per_channel_zero_points q_scale q_zero_point quantize_per_channel quantize_per_tensor
        quantize_per_tensor_dynamic quantized_batch_norm quantized_gru_cell quantized_lstm_cell
        quantized_max_pool1d quantized_max_pool2d quantized_max_pool3d quantized_rnn_relu_cell
        quantized_rnn_tanh_cell
    """),
    "needs another device": words("""
        Tensor.__cuda_array_interface__.__get__ Tensor._autocast_to_full_precision
        Tensor._autocast_to_reduced_precision Tensor.cuda Tensor.ipu Tensor.mtia
        Tensor.pin_memory Tensor.record_stream Tensor.xpu batch_norm_backward_elemt
        batch_norm_backward_reduce batch_norm_elemt batch_norm_gather_stats
        batch_norm_gather_stats_with_counts batch_norm_stats miopen_batch_norm
        miopen_convolution miopen_convolution_add_relu miopen_convolution_relu
        miopen_convolution_transpose miopen_depthwise_convolution miopen_rnn
    """),
    "needs a group of processes": words("""
        distributed.distributed_c10d.all_gather
        distributed.distributed_c10d.all_gather_coalesced
        distributed.distributed_c10d.all_gather_single distributed.distributed_c10d.all_reduce
        distributed.distributed_c10d.all_reduce_coalesced
        distributed.distributed_c10d.all_to_all distributed.distributed_c10d.all_to_all_single
        distributed.distributed_c10d.broadcast distributed.distributed_c10d.gather
        distributed.distributed_c10d.irecv distributed.distributed_c10d.isend
        distributed.distributed_c10d.recv distributed.distributed_c10d.reduce
        distributed.distributed_c10d.reduce_scatter
        distributed.distributed_c10d.reduce_scatter_single distributed.distributed_c10d.scatter
        distributed.distributed_c10d.send
    """),
    "takes numbers of Python, named dimensions, or levels of differentiation": words("""
        Tensor.index _fw_primal_copy _make_dual_copy nn.functional._sym_int sym_ite sym_max
        sym_min sym_not sym_sqrt sym_sum
    """),
    "asserts": words("_assert_async _functional_assert_async"),
}


def full_name(function):
    name = resolve_name(function) or f"{function.__module__ or 'torch'}.{function.__name__}"
    return name.removeprefix("torch.")


def runs(function, template):
    """Returns whether an operation takes these arguments, where the labels are plain."""
    tensors = iter([shaped(slot.form, FIRST) for slot in slots_in(template)])
    args, kwargs = filled(template, tensors)
    try:
        return function(*args, **kwargs) is not NotImplemented
    except Exception:  # of whatever kind: the arguments do not fit
        return False


def searched(signature):
    """Returns arguments by the names of the parameters, those of a single form first."""
    parameters = [
        f"*{p.name}" if p.kind is p.VAR_POSITIONAL else p.name
        for p in signature.parameters.values()
        if p.default is p.empty and p.kind is not p.VAR_KEYWORD
    ]
    choices = [OF_NAMES.get(p, USUAL if p in TENSORS else (None,)) for p in parameters]
    products = list(itertools.islice(itertools.product(*choices), 2000))
    products.sort(key=lambda args: len(set(slots_in(args))))
    return [(args, {}) for args in products if slots_in(args)][:80]


def templates_of(function, signature):
    """Returns arguments that fit, one for each choice of integers and floats; and a few more."""
    bare = name_of(function)
    table = TABLE.get(SAME_ARGUMENTS.get(bare, bare))
    if table is not None:
        return [template for template in table if runs(function, template)]
    found = {}
    for template in searched(signature):
        key = tuple(KEYS.get(slot.form, "integer") for slot in slots_in(template))
        if key in found or ("complex" in key and len(key) > 1 and found):
            continue
        if runs(function, template):
            found[key] = template
            if len(found) == 3:
                break
    floats = [args for key, (args, _) in found.items() if key[0] == "float"]
    options = [(args, more) for args in floats[:1] for more in MORE]
    options += [((Y, MATRIX, *args[2:]), {}) for args in floats if args[:2] == (MATRIX, MATRIX)]
    return list(found.values()) + [t for t in options if runs(function, t)]


# The inventory.

OPERATIONS = {}
for function, dummy in get_testing_overrides().items():
    OPERATIONS.setdefault(full_name(function), (function, inspect.signature(dummy)))


def templates_found():
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, (function, signature) in OPERATIONS.items():
            if not any(name in names for names in LEFT_OUT.values()):
                templates = templates_of(function, signature)
                if templates:
                    found[name] = templates
    return found


TEMPLATES = templates_found()


@dataclass(frozen=True, eq=False)
class Case:
    """An operation, its arguments, and which of them are labels."""

    name: str
    template: tuple
    places: tuple

    @property
    def function(self):
        return OPERATIONS[self.name][0]

    @property
    def slots(self):
        return slots_in(self.template)

    def __repr__(self):
        return f"{self.name}{self.template}, labels at {self.places}"


def cases_of(name):
    """Returns an operation with labels in each of its places, and in all of them."""
    for template in TEMPLATES[name]:
        count = len(slots_in(template))
        for place in range(count):
            yield Case(name, template, (place,))
        if count > 1 and template is TEMPLATES[name][0]:
            yield Case(name, template, tuple(range(count)))


# Runs.


def plain_tensor(form, place):
    return _plain_tensor(form, place).clone()


@cache
def _plain_tensor(form, place):
    """Returns what stands beside labels: other labels, and floats that are all different."""
    made = shaped(form, torch.tensor([2, 0, 3, 1]).roll(place))
    if not made.is_floating_point():
        return made
    return made * (0.95 + torch.arange(made.numel()).cos().reshape(made.shape) / 20).to(made)


def run_case(case, make, *, gradient=False):
    """Runs an operation; returns what came of it, what became of its arguments, and the leaves."""
    leaves, tensors = [], []
    for place, slot in enumerate(case.slots):
        if place in case.places:
            tensors.append(make(slot.form))
            continue
        made = plain_tensor(slot.form, place)
        if gradient and made.is_floating_point():
            leaves.append(made.requires_grad_())
            made = made.clone()
        tensors.append(made)
    args, kwargs = filled(case.template, iter(tensors))
    if case.function is torch.Tensor.__setitem__:
        case.function(*args, **kwargs)
        result = None
    else:
        result = case.function(*args, **kwargs)
    return flat([result, tensors]), leaves


def flat(tree):
    if isinstance(tree, dict):
        tree = list(tree.values())
    elif not isinstance(tree, (list, tuple)) or isinstance(tree, torch.Size):
        return [tree]
    return [leaf for value in tree for leaf in flat(value)]


def target_of(*, per_sample):
    return MixedTarget([FIRST.clone(), SECOND.clone()], SHARES[per_sample])


def formed(target, *, number=False):
    """Returns a function that makes mixed tensors of each form, all of one target."""

    def make(form):
        rows = [shaped(form, row) for row in target.candidates]
        weights = target.weights
        if weights.ndim > 1:
            weights = weights[:, 0] if rows[0].ndim == 0 else weights[:, : len(rows[0])]
            weights = weights.reshape(*weights.shape, *[1] * (rows[0].ndim - weights.ndim + 1))
        if number and rows[0].is_floating_point():
            rows = [weighted_sum(rows, weights), *rows]
            return make_mixed(rows, weights, Kind.NUMBER, target.usage)
        return make_mixed(rows, weights, Kind.LABEL, target.usage)

    return make


def same(a, b):
    if isinstance(a, Tensor) != isinstance(b, Tensor):
        return False
    if not isinstance(a, Tensor):
        return repr(a) == repr(b) or type(a).__module__ != "builtins"
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.layout != torch.strided or a.is_quantized:
        return repr(a) == repr(b)
    a, b = (t.cfloat() if t.dtype is torch.complex32 else t for t in (a, b))
    return torch.equal(a, b) or torch.allclose(a, b, rtol=1e-9, atol=1e-9, equal_nan=True)


def close(a, b, dtype):
    """Returns whether numbers that came of such a dtype are alike."""
    coarse = dtype not in (torch.float64, torch.complex128) and dtype.is_floating_point
    tolerance = 1e-5 if coarse else 1e-9
    return bool(((a - b).abs() <= tolerance * (1 + b.abs())).all())


class Oracle:
    """What an operation gives for each candidate, and with each sample exchanged in turn."""

    def __init__(self, case, target, *, gradient):
        rows = target.candidates

        def at(y):
            return run_case(case, lambda form: shaped(form, y), gradient=gradient)

        self.at, self.rows, self.weights = at, rows, target.weights
        self.runs = [at(row) for row in rows]
        self.candidates = [leaves for leaves, _ in self.runs]

    @cached_property
    def exchanged(self):
        if self.weights.ndim == 1:
            return []
        return [self.at(torch.where(i == ARANGE, self.rows[1], self.rows[0])) for i in range(B)]

    def mixture(self, i):
        """Returns the mixture of a result, None if it is no sum of one term for each sample."""
        first, second = (leaves[i] for leaves in self.candidates)
        if self.weights.ndim == 1:
            if first.shape != second.shape:
                return None
            return weighted_sum([double(first), double(second)], self.weights)
        exchanged = [leaves[i] for leaves, _ in self.exchanged]
        if any(other.shape != first.shape for other in [second, *exchanged]):
            return None
        return sum_of_changes(first, second, *exchanged, weights=self.weights[1])


def double(tensor):
    tensor = tensor.detach()
    return tensor.cdouble() if tensor.is_complex() else tensor.double()


def sum_of_changes(first, second, *exchanged, weights):
    dtype, values = first.dtype, [double(t) for t in (first, second, *exchanged)]
    everywhere = torch.stack([t.isfinite() for t in values]).all(0)
    first, second, *exchanged = (torch.where(everywhere, t, 0) for t in values)
    changes = [other - first for other in exchanged]
    if not close(first + sum(changes), second, dtype):
        return None
    total = first + sum(weight * change for weight, change in zip(weights, changes, strict=True))
    return torch.where(everywhere, total, torch.nan)


def agrees(actual, expected):
    """Returns whether numbers are alike wherever what is expected is finite."""
    if expected is None or actual.shape != expected.shape:
        return False
    known = expected.isfinite()
    found = torch.where(known, double(actual), 0)
    return close(found, torch.where(known, expected, 0).to(found), actual.dtype)


# The law.

READS_OF_FLOATS = words("""
    histc functional.unique functional.unique_consecutive Tensor.histc Tensor.unique
    Tensor.unique_consecutive
""")


def complaint(case, leaf, i, oracle):
    """Returns what is wrong with a result, if anything is."""
    dominant, *others = expected = [leaves[i] for leaves in oracle.candidates]
    if not isinstance(leaf, Tensor):
        return None if same(leaf, dominant) else f"is {leaf!r}, not {dominant!r}"
    if isinstance(leaf, MixedTarget):
        return complaint_of_mixed(leaf, i, oracle)
    if all(same(dominant, other) for other in others) and same(leaf, dominant):
        return None
    if not isinstance(dominant, Tensor):
        return f"is {leaf}, not {dominant!r}"
    numeric = leaf.is_floating_point() or leaf.is_complex()
    if numeric and agrees(leaf, oracle.mixture(i)):
        return None
    if same(leaf.detach(), dominant.detach()):
        may_read = case.name in READS_OF_FLOATS or not numeric
        if may_read and not leaf.requires_grad:
            return None
        return "reads the dominant candidate"
    return f"is {leaf}, neither the mixture {oracle.mixture(i)} nor any candidate of {expected}"


def complaint_of_mixed(leaf, i, oracle):
    expected = [leaves[i] for leaves in oracle.candidates]
    if len(leaf.weights) == 1:  # a count, which is merged, and reads as the dominant one
        merged = agrees(leaf.candidates[0], oracle.mixture(i))
        return None if merged and same(merge(leaf), expected[0]) else "is no merged count"
    if leaf.ndim == 0 and agrees(merge(leaf), oracle.mixture(i)):
        return None
    if is_lost(leaf):
        if leaf.requires_grad:
            return "has lost its candidates, and a gradient"
        return None if same(plain(leaf), expected[0]) else "has lost the dominant candidate"
    pairs = list(zip(leaf.candidates, expected, strict=True))
    if not all(same(actual.detach(), wanted.detach()) for actual, wanted in pairs):
        return f"has the candidates {leaf.candidates}, not {expected}"
    if len({tuple(row.shape) for row in expected}) > 1:
        fits = leaf.weights.ndim == 1 or leaf.weights.shape[1:2] == expected[0].shape[:1]
        return None if fits else "has weights of samples it has no longer"
    if all(same(expected[0], other) for other in expected[1:]):
        return None
    rows = [double(row) for row in leaf.candidates]
    rows = [torch.where(torch.stack(rows).isfinite().all(0), row, torch.nan) for row in rows]
    mixture = oracle.mixture(i)
    if mixture is None:
        return "stays mixed, though its entries are no mixture of samples"
    if not agrees(weighted_sum(rows, leaf.weights), mixture):
        return f"has the weights {leaf.weights}"
    return None


def complaint_of_gradient(case, leaves, grown, oracle):
    """Returns what is wrong with the gradient of the sum of all that has one."""

    def total(values):
        sums = [merge(value).sum() for value in values if needs_grad(value)]
        sums = [value.real + value.imag if value.is_complex() else value for value in sums]
        return sum(sums) if sums else None

    def gradient(values, inputs):
        value = total(values)
        if value is None:
            return [torch.zeros_like(leaf) for leaf in inputs]
        return torch.autograd.grad(value, inputs, allow_unused=True, materialize_grads=True)

    try:
        rows = [gradient(values, inputs) for values, inputs in oracle.runs]
        swapped = [gradient(values, inputs) for values, inputs in oracle.exchanged]
    except (RuntimeError, IndexError):  # torch itself has no gradient for these arguments
        return None
    actual = gradient(leaves, grown)
    for k, found in enumerate(actual):
        if oracle.weights.ndim == 1:
            wanted = weighted_sum([row[k] for row in rows], oracle.weights)
        else:
            columns = [rows[0][k], rows[1][k], *[row[k] for row in swapped]]
            wanted = sum_of_changes(*columns, weights=oracle.weights[1])
        if wanted is not None and not agrees(found, wanted):
            return f"has the gradient {found}, not {wanted}"
    return None


def is_gradient_of_integers(value):
    """Returns whether torch lets integers require grad, as ``y.eq_(x)`` does: it cannot use it."""
    return needs_grad(value) and not (value.is_floating_point() or value.is_complex())


def needs_grad(value):
    return isinstance(value, Tensor) and value.requires_grad


def verdict(case, per_sample, gradient):
    """Returns what is wrong with an operation on mixed labels, if anything is."""
    target = target_of(per_sample=per_sample)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            oracle = Oracle(case, target, gradient=gradient)
            if any(map(is_gradient_of_integers, oracle.candidates[0])):
                return None
        except Exception as error:
            return outcome_without_oracle(case, target, error, gradient=gradient)
        made = []

        def make(form):
            made.append((form, formed(target)(form)))
            return made[-1][1]

        try:
            leaves, grown = run_case(case, make, gradient=gradient)
        except NoRuleError as error:
            if not (per_sample or gradient or writes_in_place(name_of(case.function))):
                return f"is refused: {error}"
            if not re.search(r"no rule for \w+\(\): it", str(error)):
                return f"raises without its name: {error}"
            apart = [form for form, mixed in made if not untouched(form, mixed, target)]
            return f"raises, but has edited {apart}" if apart else None
        except Exception as error:
            return f"raises {type(error).__name__}: {error}"
        if len(leaves) != len(oracle.candidates[0]):
            return "is of another form"
        found = [complaint(case, leaf, i, oracle) for i, leaf in enumerate(leaves)]
        found = [f"[{i}] {what}" for i, what in enumerate(found) if what]
        if gradient and not found:
            what = complaint_of_gradient(case, leaves, grown, oracle)
            found = [what] if what else []
    return "; ".join(found) or None


def outcome_without_oracle(case, target, error, *, gradient):
    """An operation that some candidate alone does not survive fails alike, or is refused."""
    try:
        run_case(case, formed(target), gradient=gradient)
    except (NoRuleError, type(error)):
        return None
    except Exception as other:
        return f"raises {other!r}, not {error!r}"
    return f"runs, but a candidate alone raises {error!r}"


def untouched(form, mixed, target):
    rows = [shaped(form, row) for row in target.candidates]
    return all(same(plain(a), b) for a, b in zip(mixed.candidates, rows, strict=True))


def takes_gradient(case):
    others = [slot for i, slot in enumerate(case.slots) if i not in case.places]
    return any(slot.form in FLOATING for slot in others)


def complaints(cases, judge, *, gradient=(False,)):
    """Returns what is wrong with each case, for either kind of weights."""
    settings = itertools.product(cases, (False, True), gradient)
    found = [
        (case, "per sample" if per_sample else "per batch", judge(case, per_sample, with_gradient))
        for case, per_sample, with_gradient in settings
    ]
    return [f"{case}, {weights}: {what}" for case, weights, what in found if what]


CASES = {name: list(cases_of(name)) for name in TEMPLATES}
WITH_GRADIENT = [name for name, cases in CASES.items() if any(map(takes_gradient, cases))]


@pytest.mark.parametrize("name", CASES)
def test_labels_stay_mixed_or_are_merged_or_refused(name):
    """With a weight per batch, nothing but a write is refused."""
    assert not complaints(CASES[name], verdict)


@pytest.mark.parametrize("name", WITH_GRADIENT)
def test_no_gradient_is_of_the_dominant_labels_alone(name):
    cases = [case for case in CASES[name] if takes_gradient(case)]

    assert not complaints(cases, verdict, gradient=[True])


# Numbers: float targets, which are read as the interpolated value.


def of_numbers(case):
    return len(case.places) == 1 and case.slots[case.places[0]].form in FLOATING


def verdict_on_numbers(case, per_sample, gradient):
    """Returns what is wrong with an operation on mixed float targets."""
    target = target_of(per_sample=per_sample)
    make = formed(target, number=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            own, _ = run_case(case, lambda form: plain(make(form)).clone(), gradient=gradient)
            oracle = Oracle(case, target, gradient=gradient)
        except Exception:
            return None
        try:
            leaves, _ = run_case(case, make, gradient=gradient)
        except NoRuleError:
            return None
        except Exception as error:
            return f"raises {type(error).__name__}: {error}"
        found = [
            complaint_of_number(leaf, own[i], [row[i] for row in oracle.candidates])
            for i, leaf in enumerate(leaves)
        ]
    return "; ".join(what for what in found if what) or None


def complaint_of_number(leaf, own, expected):
    if isinstance(leaf, MixedTarget) and not is_lost(leaf):
        for row, wanted in zip(leaf.candidates, expected, strict=True):
            if not same(row.detach(), wanted.detach()):
                return f"has a candidate {row}, not {wanted}"
        if leaf.kind is not Kind.NUMBER:
            return None
    read = merge(leaf)
    if isinstance(read, Tensor) and isinstance(own, Tensor):
        read, own = read.detach(), own.detach()
    return None if same(read, own) else f"reads as {read}, not {own}"


@pytest.mark.parametrize("name", [name for name in CASES if any(map(of_numbers, CASES[name]))])
def test_float_targets_are_read_as_the_interpolated_value(name):
    """With a gradient, too, as that of the interpolated value is what a loss is to have."""
    cases = [case for case in CASES[name] if of_numbers(case)]

    assert not complaints(cases, verdict_on_numbers, gradient=[name in WITH_GRADIENT])


# Writes: into out=, and into what an operation returns.


# Torch itself forgets ``out=`` where an operation is overridden.
DROPS_OUT = words("functional.chain_matmul")


def with_out(name):
    """Returns a call that an operation can be given ``out=`` in, and what it writes."""
    for args, kwargs in TEMPLATES[name][:2]:
        values = iter([shaped(slot.form, FIRST) for slot in slots_in((args, kwargs))])
        try:
            given, options = filled((args, kwargs), values)
            result = OPERATIONS[name][0](*given, **options)
            out = OPERATIONS[name][0](*given, **options, out=torch.zeros_like(result))
        except Exception:
            continue
        if out is NotImplemented:
            continue
        return (args, kwargs), result
    return None


def reads(name):
    return name_of(OPERATIONS[name][0]) in FACTS | NUMBERS | PRINTS | TALLIES


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    OUTS = {
        name: found for name in TEMPLATES if name not in DROPS_OUT and (found := with_out(name))
    }


@pytest.mark.parametrize("name", [name for name in OUTS if not reads(name)])
def test_labels_are_not_written_into_out(name):
    """A plain tensor given as ``out=`` would hold the dominant candidate alone."""
    template, result = OUTS[name]
    out = torch.zeros_like(result)
    forms = [slot.form for slot in slots_in(template)]
    args, kwargs = filled(template, map(formed(target_of(per_sample=False)), forms))

    with pytest.raises(NoRuleError, match=r"\(\): it "):
        OPERATIONS[name][0](*args, **kwargs, out=out)

    assert same(out, torch.zeros_like(result))


@pytest.mark.parametrize("name", [name for name in OUTS if OUTS[name][1].ndim])
def test_nothing_is_written_into_labels_given_as_out(name):
    """Only their own data would change."""
    template, result = OUTS[name]
    target, rows = target_of(per_sample=False), [torch.zeros_like(result), torch.ones_like(result)]
    out = make_mixed([row.clone() for row in rows], target.weights, Kind.LABEL, target.usage)
    values = iter([shaped(slot.form, FIRST) for slot in slots_in(template)])
    args, kwargs = filled(template, values)

    with pytest.raises(NoRuleError, match=r"\(\): it writes into out="):
        OPERATIONS[name][0](*args, **kwargs, out=out)

    assert all(map(same, map(plain, out.candidates), rows))


def views_in(leaves, source):
    address = source.untyped_storage().data_ptr()
    return [
        leaf
        for leaf in leaves
        if isinstance(leaf, Tensor)
        and leaf.layout is torch.strided
        and leaf.untyped_storage().data_ptr() == address
    ]


def edited_through(case, make):
    """Writes into all that an operation returns of its first argument; returns that argument."""
    source = make(case.slots[0].form)
    args, kwargs = filled(case.template, iter([source]))
    result = flat(OPERATIONS[case.name][0](*args, **kwargs))
    for view in views_in(result, plain(source)):
        view.fill_(1)
    return source


def views(name):
    """Returns the cases in which an operation returns its argument, or a view of it."""
    found = []
    for case in CASES[name]:
        if len(case.slots) == 1:
            y = shaped(case.slots[0].form, FIRST)
            args, kwargs = filled(case.template, iter([y]))
            if views_in(flat(OPERATIONS[name][0](*args, **kwargs)), y):
                found.append(case)
    return found


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    VIEWS = {name: cases for name in TEMPLATES if (cases := views(name))}
    del VIEWS["Tensor.requires_grad_"]  # after which torch refuses to write


@WEIGHTS
@pytest.mark.parametrize("name", VIEWS)
def test_a_write_into_what_is_returned_reaches_all_candidates(name, per_sample):
    apart = [case for case in VIEWS[name] if not reaches_all(case, per_sample=per_sample)]

    assert not apart


def reaches_all(case, *, per_sample):
    target = target_of(per_sample=per_sample)
    form = FORMS[case.slots[0].form]
    expected = [
        edited_through(case, lambda _, row=row: form(row.clone()).clone())
        for row in target.candidates
    ]
    made = formed(target)(case.slots[0].form)
    try:
        edited_through(case, lambda _: made)
    except NoRuleError:
        expected = [form(row) for row in target.candidates]
    return all(map(same, map(plain, made.candidates), expected))


def set_data(y):
    y.data = torch.ones_like(y)


def set_real(y):
    y.real = torch.ones(B, dtype=y.dtype)


def resize_data(y):
    y.data.resize_(B // 2)


EDITS = {
    "detach": lambda y: y.detach().fill_(1),
    "data": lambda y: y.data.fill_(1),
    "slice": lambda y: y[2:].fill_(1),
    "view": lambda y: y.view(-1).mul_(0),
    "copy_": lambda y: y.copy_(torch.ones_like(plain(y))),
    "row": lambda y: y[1].fill_(7),
    "iterated": lambda y: [row.add_(1) for row in y],
    "unbound": lambda y: y.unbind()[0].zero_(),
    "real": lambda y: y.real.fill_(1),
    "set_": lambda y: y.set_(torch.ones(B, dtype=torch.long)),
    "set_ nothing": lambda y: y.set_(),
    "data set": set_data,
    "data resized": resize_data,
    "real set": set_real,
    "resized": lambda y: y.resize_(B // 2),
    "swapped": lambda y: y[:2].copy_(y[2:].clone()),
}


@WEIGHTS
@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edit_by_any_way_reaches_all_candidates_or_is_refused(edit, per_sample):
    target = target_of(per_sample=per_sample)
    expected = [row.clone() for row in target.candidates]

    try:
        edit(target)
    except (NoRuleError, AttributeError):
        edits = 0
    else:
        edits = [edit(row) for row in expected]

    assert edits == 0 or len(edits) == len(expected)
    assert all(map(same, map(plain, target.candidates), expected))


# What is covered.

developed = pytest.mark.skipif(
    not torch.__version__.startswith(DEVELOPED_ON), reason="other versions have other operations"
)


@developed
def test_what_is_left_out_is_known():
    left = {name for names in LEFT_OUT.values() for name in names}

    assert set(OPERATIONS) - set(TEMPLATES) == left


@developed
def test_most_operations_are_tested():
    assert len(CASES) >= 1200
    assert len(WITH_GRADIENT) >= 350
    assert len(OUTS) >= 250
