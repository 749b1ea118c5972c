"""The filter of ``fastmte._scan``: which rows may be the farthest from a centroid.

Rows lie in blocks of 16, side by side, float32. A score is |y|^2 - 2 y.o, the squared distance of
row y from offset o without |o|^2.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

Array = NDArray[Any]
ROWS = 16  # side by side in a block
GROUP = 4  # centroids side by side in a group
KEPT = 16  # rows kept of a centroid at most
GONE = np.float32(-np.inf)

_VECTOR = ir.VectorType(ir.FloatType(), ROWS)
_FUSED = ("contract",)


@intrinsic
def score(  # type: ignore[no-untyped-def]
    typing_context, rows, squares, offsets, least, block, group, scores
):
    """Score a block for a group; return the bits 16 j + i of the scores (j, i) above least[j].

    Written in LLVM's vectors, as loops over arrays would keep their sums in memory. Arguments:
    rows (blocks, D, 16), squares (blocks, 16), offsets (groups, D, 4) that hold -2 o, least (K,),
    and to be filled scores (4, 16), all float32; block and group int64. A last group may have
    fewer than 4 centroids: the bits of the others are of no use.
    """
    arguments = (rows, squares, offsets, least, block, group, scores)
    return types.uint64(*arguments), _score


def _score(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
    arrays = [
        context.make_array(kind)(context, builder, value) if isinstance(kind, types.Array) else None
        for kind, value in zip(signature.args, arguments, strict=True)
    ]
    rows, squares, offsets, least, _, _, scores = arrays
    block, group = arguments[4:6]
    n_features = builder.extract_value(rows.shape, 1)
    row = builder.gep(rows.data, [builder.mul(builder.mul(block, n_features), _int(ROWS))])
    offset = builder.gep(offsets.data, [builder.mul(builder.mul(group, n_features), _int(GROUP))])
    square = builder.gep(squares.data, [builder.mul(block, _int(ROWS))])
    sums = [cgutils.alloca_once_value(builder, ir.Constant(_VECTOR, None)) for _ in range(GROUP)]
    with cgutils.for_range(builder, n_features) as loop:
        y = _load(builder, builder.gep(row, [builder.mul(loop.index, _int(ROWS))]))
        at = builder.mul(loop.index, _int(GROUP))
        for j, total in enumerate(sums):
            o = builder.load(builder.gep(offset, [builder.add(at, _int(j))]))
            product = builder.fmul(y, _broadcast(builder, o), flags=_FUSED)
            builder.store(builder.fadd(builder.load(total), product, flags=_FUSED), total)
    mask = ir.Constant(ir.IntType(64), 0)
    for j, total in enumerate(sums):
        value = builder.fadd(builder.load(total), _load(builder, square))
        to = builder.gep(scores.data, [_int(j * ROWS)])
        builder.store(value, builder.bitcast(to, _VECTOR.as_pointer()), align=4)
        at = builder.add(builder.mul(group, _int(GROUP)), _int(j))
        bound = _broadcast(builder, builder.load(builder.gep(least.data, [at])))
        bits = builder.bitcast(builder.fcmp_ordered(">", value, bound), ir.IntType(ROWS))
        shifted = builder.shl(builder.zext(bits, ir.IntType(64)), _int(j * ROWS))
        mask = builder.or_(mask, shifted)
    return mask


def _int(value: int) -> ir.Constant:
    return ir.Constant(ir.IntType(64), value)


def _load(builder: Any, at: Any) -> Any:
    return builder.load(builder.bitcast(at, _VECTOR.as_pointer()), align=4)


def _broadcast(builder: Any, value: Any) -> Any:
    single = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, _int(0))
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), ROWS), [0] * ROWS)
    return builder.shuffle_vector(single, single, lanes)


@njit(cache=True, nogil=True)
def _keep(  # type: ignore[no-untyped-def]
    mask: int,  # IN  which scores, as ``score`` returns it
    scores: Array,  # IN  (4, 16) float32
    group: int,  # IN
    block: int,  # IN
    n_kept: int,  # IN
    n: int,  # IN  how many centroids in all
    least: Array,  # OUT (4 groups,) float32
    best: Array,  # OUT (K, 16) float32
    best_row: Array,  # OUT (K, 16) int64
    n_best: Array,  # OUT (K,) int64
):
    """Insert the scores of a block whose bits are set into the falling lists of a group."""
    for j in range(min(GROUP, n - group * GROUP)):
        bits = (mask >> np.uint64(j * ROWS)) & np.uint64(0xFFFF)
        if bits == 0:
            continue
        k = group * GROUP + j
        length = n_best[k]
        for i in range(ROWS):
            value = scores[j, i]
            if (bits >> np.uint64(i)) & np.uint64(1) == 0 or not value > least[k]:
                continue
            at = min(length, n_kept - 1)
            length = min(length + 1, n_kept)
            while at > 0 and best[k, at - 1] < value:
                best[k, at] = best[k, at - 1]
                best_row[k, at] = best_row[k, at - 1]
                at -= 1
            best[k, at] = value
            best_row[k, at] = block * ROWS + i
            if length == n_kept:
                least[k] = best[k, n_kept - 1]
        n_best[k] = length


@njit(cache=True, nogil=True)
def find(  # type: ignore[no-untyped-def]
    rows: Array,  # IN  (blocks, D, 16) float32
    squares: Array,  # IN  (blocks, 16) float32
    radius: Array,  # IN  (blocks,) float64, at least that of every row from here on
    first: int,  # IN  the first block
    offsets: Array,  # IN  (groups, D, 4) float32
    norm: Array,  # IN  (K,) float64
    margin: Array,  # IN  (K,) float64
    n: int,  # IN  how many centroids
    n_kept: int,  # IN  how many rows of each
    best: Array,  # OUT (K, 16) float32, falling
    best_row: Array,  # OUT (K, 16) int64
    n_best: Array,  # OUT (K,) int64
    least: Array,  # OUT (4 groups,) float32, what a row must score above
    scores: Array,  # TMP (4, 16) float32
    active: Array,  # TMP (groups,) int64
):
    """Find the farthest rows of n centroids; return how many scores that took."""
    n_active = (n + GROUP - 1) // GROUP
    n_scores = 0
    for k in range(n):
        n_best[k] = 0
    least[:] = GONE
    for group in range(n_active):
        active[group] = group
    for block in range(first, len(radius)):
        still = 0
        for at in range(n_active):
            group = active[at]
            begin = group * GROUP
            end = min(begin + GROUP, n)
            can = False
            for k in range(begin, end):
                bound = radius[block] * (radius[block] + 2 * norm[k]) + margin[k]
                can = can or bound >= least[k]
            if not can:
                continue
            active[still] = group
            still += 1
            mask = score(rows, squares, offsets, least, block, group, scores)
            n_scores += (end - begin) * ROWS
            if mask != 0:
                _keep(mask, scores, group, block, n_kept, n, least, best, best_row, n_best)
        n_active = still
        if n_active == 0:
            break
    return n_scores
