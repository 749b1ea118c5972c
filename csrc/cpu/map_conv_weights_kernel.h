// The arithmetic of map_conv_weights for one kind of vector; see each_isa.h.
//
// For each tap, outputs times points times inputs: a matrix product. The points of some rows lie
// one after another with zeros between the rows, so that a tap is the same product with the
// gradient some points further, and no tap needs a copy of its own.
#include "map_parts.h"

namespace fastmte::FASTMTE_ISA {
namespace {

// Channels [channel, channel + 32) of a segment's gradient, channel by channel.
FASTMTE_TARGET void pack_lines(const WeightSums& sums, const MapSegment& segment, int64_t slot,
                               int64_t channel) {
  const MapConvSizes& sizes = sums.sizes;
  const int64_t columns = sizes.out_columns(), pitch = sums.places.pitch, end = segment.n * pitch;
  for (int64_t c = channel; c < channel + kMapBlock; ++c)
    zeros(sums.line_of(slot, c) + end, sums.line - end);
  for (int64_t row = 0; row < segment.n; ++row) {
    const int64_t at = (segment.song * sizes.out_rows() + segment.first + row) * columns;
    const BFloat16* from = sums.gradient + at * sizes.outputs + channel;
    for (int64_t c = 0; c < kMapBlock; c += kWidth)
      for (int64_t first = 0; first < pitch; first += 2 * kWidth) {
        Vector x[kWidth];
        for (int i = 0; i < kWidth; ++i) {
          const int64_t column = first + 2 * i;
          const BFloat16* even = from + column * sizes.outputs + c;
          x[i] = (Vector)paired(column < columns ? even : nullptr,
                                column + 1 < columns ? even + sizes.outputs : nullptr);
        }
        transpose(x);
        BFloat16* to = sums.line_of(slot, channel + c) + row * pitch + first;
        for (int i = 0; i < kWidth; ++i) store_pairs(to + i * sums.line, (Bits)x[i]);
      }
  }
}

// A row (columns, channels) of points in pairs, 16 channels each, from point `first` on.
FASTMTE_TARGET FASTMTE_INLINE void pack_row(const BFloat16* from, int64_t columns, int64_t step,
                                            int64_t first, int64_t n_pairs, BFloat16* to) {
  const BFloat16* x = from + first * step;
  for (int64_t i = 0; i < n_pairs; ++i, first += 2, x += 2 * step, to += 32)
    for (int64_t c = 0; c < 16; c += kWidth)
      store_pairs(to + 2 * c, paired(first >= 0 && first < columns ? x + c : nullptr,
                                     first + 1 < columns ? x + step + c : nullptr));
}

// Channels [channel, channel + 32) of the views of a plane, a row of all of them at a time.
FASTMTE_TARGET void pack_pairs(const WeightSums& sums, const MapSegment& segment, int64_t slot,
                               int64_t plane, int64_t channel) {
  const MapConvSizes& sizes = sums.sizes;
  const MapPlane& shape = sums.places.planes[plane];
  const int64_t n_rows = segment.n + sums.places.above + sums.places.below;
  const int64_t step = sizes.stride[1] * sizes.inputs, n_pairs = sums.places.pitch / 2;
  for (int64_t i = -1; i <= n_rows; ++i)
    for (int64_t view = 0; view < static_cast<int64_t>(sums.views.size()); ++view)
      for (int64_t half = channel; half < channel + kMapBlock; half += 16) {
        if (sums.views[view].plane != plane) break;
        BFloat16* const first = sums.pairs_of(slot, view, half);
        BFloat16* to = first + (sums.lead + 2 * i * n_pairs) * 16;
        const int64_t row = segment.first - sums.places.above + i;
        const int64_t y = segment.song * sizes.rows + shape.row + row * sizes.stride[0];
        const BFloat16* from = sums.x + (y * sizes.columns + shape.column) * sizes.inputs + half;
        if (i < 0)
          zeros(first, sums.lead * 16);
        else if (i == n_rows)
          zeros(to, first + sums.n_pairs * 32 - to);
        else if (row < 0 || row >= shape.rows)
          zeros(to, n_pairs * 32);
        else
          pack_row(from, shape.columns, step, -sums.views[view].shift, n_pairs, to);
      }
}

// The sums of the taps of one row of the kernel for 32 outputs and 32 inputs, over the segments in
// the slots from `first` on, added to what `to` holds, if `has_begun`. Returns whether it has then.
template <typename Tiles>
FASTMTE_TARGET bool add_points(const WeightSums& sums, Tiles& tiles, int64_t first, int64_t n,
                               int64_t output, int64_t input, int64_t kernel_row, bool has_begun,
                               float* to) {
  constexpr int64_t kPiece = 12 * 32;  // points whose two sides the first-level cache holds
  const int64_t width = sums.sizes.kernel[1], pitch = sums.places.pitch;
  for (int64_t slot = 0; slot < n; ++slot) {
    const MapTap* taps = sums.places.taps.data() + kernel_row * width;
    const TapRun run = run_of(sums, sums.segment(first + slot), taps[0]);
    for (int64_t at = run.begin; at < run.end; at += kPiece, has_begun = true)
      for (int64_t i = 0; i < width; ++i) {
        const int64_t view = sums.view_of[kernel_row * width + i];
        const int64_t point = sums.lead + at + (taps[i].row + sums.places.above) * pitch +
                              taps[i].column + sums.views[view].shift;
        const BFloat16* a = sums.line_of(slot, output) + at;
        const BFloat16* left = sums.pairs_of(slot, view, input) + point * 16;
        float* block = to + i * kMapBlock * kMapBlock;
        if (has_begun)
          tiles.load(block, kMapBlock);
        else
          tiles.zero();
        const BFloat16* end = a + std::min(kPiece, run.end - at);
        for (; a < end; a += 32, left += 32 * 16)
          tiles.step(a, sums.line, left, left + sums.n_pairs * 32);
        tiles.store(block, kMapBlock);
      }
  }
  return has_begun;
}

// Blocks [begin, end), for the segments in the slots from `first` on; puts them out if these are
// the last.
template <typename Tiles>
FASTMTE_TARGET void add_blocks(WeightSums& sums, int64_t first, int64_t n, bool is_last,
                               int64_t begin, int64_t end) {
  const int64_t height = sums.sizes.kernel[0], width = sums.sizes.kernel[1];
  const int64_t inputs = sums.sizes.inputs, n_inputs = inputs / kMapBlock;
  Tiles tiles(16);
  Aligned<float> own(sums.block_size());
  for (int64_t i = begin; i < end; ++i) {
    const int64_t row = i % height, output = i / height / n_inputs * kMapBlock,
                  input = i / height % n_inputs * kMapBlock;
    const bool has_totals = !sums.totals.empty();
    float* block = has_totals ? sums.totals.data() + i * sums.block_size() : own.data();
    if (!add_points(sums, tiles, first, n, output, input, row, has_totals, block))
      std::fill_n(block, sums.block_size(), 0.f);
    if (!is_last) continue;
    for (int64_t o = 0; o < kMapBlock; ++o)
      for (int64_t x = 0; x < width; ++x)
        Tiles::put(block + (x * kMapBlock + o) * kMapBlock,
                   sums.out + (((output + o) * height + row) * width + x) * inputs + input);
  }
  Tiles::end_puts();
}

template <typename Tiles>
WeightKernels weight_kernels() {
  return {pack_lines, pack_pairs, add_blocks<Tiles>};
}

inline WeightKernels plain_weight_kernels() { return weight_kernels<PlainMapTiles>(); }

}  // namespace
}  // namespace fastmte::FASTMTE_ISA
