// The arithmetic of vgg_stem for one kind of vector; see each_isa.h.
//
// A tile is one pooling window of two vectors of channels. Its two conv rows take turns in eight
// accumulators: with the 18 vectors of weights that fills 32 registers, each value loaded from
// the map serves up to six multiply-adds, and the map before pooling exists nowhere.
#include "stem_parts.h"

namespace fastmte::FASTMTE_ISA {
namespace {

// The largest of four neighbours in a conv row, for two vectors of channels.
template <bool kKeepsNan>
FASTMTE_TARGET FASTMTE_INLINE void conv_four(const Scalar* const* rows, int64_t at,
                                             const Vector (&weight)[9][kStemVectors],
                                             Vector (&largest)[kStemVectors]) {
  Vector sum[4][kStemVectors];
  FASTMTE_UNROLL
  for (int dy = 0; dy < 3; ++dy) {
    FASTMTE_UNROLL
    for (int column = 0; column < 6; ++column) {
      const Vector x = broadcast(rows[dy][at + column]);
      FASTMTE_UNROLL
      for (int dx = 2; dx >= 0; --dx) {
        const int i = column - dx;
        if (i < 0 || i >= 4) continue;
        FASTMTE_UNROLL
        for (int v = 0; v < kStemVectors; ++v) {
          const Vector w = weight[dy * 3 + dx][v];
          sum[i][v] = dy + dx == 0 ? w * x : fma(w, x, sum[i][v]);
        }
      }
    }
  }
  for (int v = 0; v < kStemVectors; ++v)
    largest[v] = pick_max<kKeepsNan>(pick_max<kKeepsNan>(sum[0][v], sum[1][v]),
                                     pick_max<kKeepsNan>(sum[2][v], sum[3][v]));
}

// One row of windows of one block of channels, from the four rows of the input below it.
template <bool kKeepsNan, typename Out>
FASTMTE_TARGET void pool_row(const Scalar* const (&rows)[4], const Scalar* taps, const Scalar* bias,
                             int64_t n_windows, int64_t n_channels, Out* out, int64_t stride) {
  Vector weight[9][kStemVectors], offset[kStemVectors];
  for (int tap = 0; tap < 9; ++tap)
    for (int v = 0; v < kStemVectors; ++v)
      weight[tap][v] = load(taps + tap * kStemLanes + v * kWidth);
  for (int v = 0; v < kStemVectors; ++v) offset[v] = load(bias + v * kWidth);

  for (int64_t window = 0; window < n_windows; ++window, out += stride) {
    Vector upper[kStemVectors], lower[kStemVectors];
    conv_four<kKeepsNan>(rows, window * 4, weight, upper);
    conv_four<kKeepsNan>(rows + 1, window * 4, weight, lower);
    for (int v = 0; v < kStemVectors; ++v) {
      const Vector result = elu(pick_max<kKeepsNan>(upper[v], lower[v]) + offset[v]);
      store_first(out + v * kWidth, result, n_channels - v * kWidth);
    }
  }
}

// Output rows [begin, end), numbered as stem_row has them.
template <typename Out, typename MoreTiles = NoTiles>
FASTMTE_TARGET void vgg_stem_rows(const Stem<Scalar>& stem, Out* out, int64_t begin, int64_t end) {
  const StemSizes& sizes = stem.sizes;
  const int64_t channels = sizes.channels;
  MemberWeights<9> weights(channels);
  MapRows<4> map(sizes.bands, sizes.frames, 1,
                 std::max(sizes.frames + 2, MoreTiles::n_columns(sizes)));
  MoreTiles tiles(sizes);
  int64_t member = -1, song = -1;
  for (int64_t at = begin; at < end; ++at) {
    const StemRow row = stem_row(sizes, at);
    if (row.member != member) {
      weights.pack(stem.weight + row.member * channels * 9, stem.bias + row.member * channels);
      if constexpr (MoreTiles::kAre) tiles.pack(weights);
    }
    if (row.member != member || row.song != song)
      map.begin(stem.mels + row.song * sizes.bands * sizes.frames, stem.scale[row.member],
                stem.shift[row.member]);
    member = row.member;
    song = row.song;

    const Scalar* rows[4];
    const bool is_finite = weights.stays_finite(map.read(2 * row.row - 1, rows));
    Out* to = out + at * sizes.pooled_frames * channels;
    if constexpr (MoreTiles::kAre)
      if (is_finite) {
        tiles.pool_row(rows, weights, to);
        continue;
      }
    const auto pool = is_finite ? pool_row<false, Out> : pool_row<true, Out>;
    for (int64_t c = 0; c < channels; c += kStemLanes)
      pool(rows, weights.taps(c), weights.bias(c), sizes.pooled_frames, channels - c, to + c,
           channels);
  }
}

}  // namespace
}  // namespace fastmte::FASTMTE_ISA
