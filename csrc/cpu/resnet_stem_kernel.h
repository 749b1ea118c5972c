// The arithmetic of resnet_stem for one kind of vector; see each_isa.h.
//
// A tile is kTile neighbours of one conv row, two vectors of channels each, in as many accumulators
// as there are registers; its columns are pooled before they leave them, and its rows in a buffer
// of one row of windows. The map before pooling exists nowhere.
#include "stem_parts.h"

namespace fastmte::FASTMTE_ISA {
namespace {

constexpr int kTile = kRegisters == 32 ? 12 : 6;
constexpr int kMostTile = 48;  // columns that tiles of vectors, and of 16, divide

// Conv sums of the columns from that one on whose leftmost input is rows[...][at].
FASTMTE_TARGET FASTMTE_INLINE void conv_tile(const Scalar* const (&rows)[7], int64_t at,
                                             const Scalar* taps,
                                             Vector (&sum)[kTile][kStemVectors]) {
  for (int i = 0; i < kTile; ++i)
    for (int v = 0; v < kStemVectors; ++v) sum[i][v] = Vector{};
  for (int dy = 0; dy < 7; ++dy) {
    const Scalar* x = rows[dy] + at;
    for (int dx = 0; dx < 7; ++dx, ++x, taps += kStemLanes) {
      forget(x);  // neighbouring taps would share broadcasts, more than there are registers
      const Vector left = load(taps), right = load(taps + kWidth);
      FASTMTE_UNROLL
      for (int i = 0; i < kTile; ++i) {
        const Vector value = broadcast(x[2 * i]);
        sum[i][0] = fma(left, value, sum[i][0]);
        sum[i][1] = fma(right, value, sum[i][1]);
      }
    }
  }
}

// What becomes of a conv row, pooled over its columns: kFirst begins a pooled row, kMiddle joins
// it, kLast completes it and begins the next one.
enum class Part { kFirst, kMiddle, kLast };

// One block of channels of one row of the output.
template <typename Out>
struct PooledRow {
  Scalar* held;  // (windows of whole tiles, kStemLanes): the largest of the conv rows so far
  const Scalar* bias;
  Out* out;
  int64_t n_windows, n_channels, stride;
};

// `largest` is that of one window of one conv row.
template <bool kKeepsNan, typename Out>
FASTMTE_TARGET FASTMTE_INLINE void join(const PooledRow<Out>& row, Part part, int64_t window,
                                        const Vector (&largest)[kStemVectors]) {
  for (int v = 0; v < kStemVectors; ++v) {
    Scalar* held = row.held + window * kStemLanes + v * kWidth;
    // Second, so that a NaN held from an earlier conv row stays also where this one has none.
    const Vector both = pick_max<kKeepsNan>(largest[v], load(held));
    store(held, part == Part::kMiddle ? both : largest[v]);
    if (part == Part::kLast && window < row.n_windows)
      store_first(row.out + window * row.stride + v * kWidth,
                  relu(both + load(row.bias + v * kWidth)), row.n_channels - v * kWidth);
  }
}

// One conv row of n_columns, from seven rows of the input.
template <bool kKeepsNan, typename Out>
FASTMTE_TARGET void conv_row(const Scalar* const (&rows)[7], const Scalar* taps, int64_t n_columns,
                             Part part, const PooledRow<Out>& row) {
  const Vector nothing = broadcast(-std::numeric_limits<Scalar>::infinity());
  Vector before[kStemVectors] = {nothing, nothing};
  for (int64_t column = 0; column < n_columns; column += kTile) {
    Vector sum[kTile][kStemVectors];
    conv_tile(rows, 2 * column, taps, sum);
    if (column + kTile > n_columns)
      for (int i = 0; i < kTile; ++i)
        for (int v = 0; v < kStemVectors; ++v)
          if (column + i >= n_columns) sum[i][v] = nothing;
    FASTMTE_UNROLL
    for (int i = 0; i < kTile; i += 2) {
      Vector largest[kStemVectors];
      for (int v = 0; v < kStemVectors; ++v) {
        const Vector two = pick_max<kKeepsNan>(before[v], sum[i][v]);
        largest[v] = pick_max<kKeepsNan>(two, sum[i + 1][v]);
        before[v] = sum[i + 1][v];
      }
      join<kKeepsNan>(row, part, (column + i) / 2, largest);
    }
  }
}

// Pools the conv rows of one member's map of one song, each once, from the first to the last.
template <typename Out, typename MoreTiles>
class ResnetRows {
 public:
  explicit ResnetRows(const Stem<Scalar>& stem)
      : stem_(stem),
        n_conv_rows_((stem.sizes.bands + 1) / 2),
        n_columns_((stem.sizes.frames + 1) / 2),
        n_columns_of_tiles_((n_columns_ + kMostTile - 1) / kMostTile * kMostTile),
        weights_(stem.sizes.channels),
        map_(stem.sizes.bands, stem.sizes.frames, 3,
             std::max(2 * n_columns_of_tiles_ + 5, MoreTiles::n_columns(stem.sizes))),
        held_(n_columns_of_tiles_ / 2 * (stem.sizes.channels + kStemLanes)),
        tiles_(stem.sizes) {}

  void begin(const StemRow& row) {
    const StemSizes& sizes = stem_.sizes;
    if (row.member != member_) {
      weights_.pack(stem_.weight + row.member * sizes.channels * 49,
                    stem_.bias + row.member * sizes.channels);
      if constexpr (MoreTiles::kAre) tiles_.pack(weights_);
    }
    member_ = row.member;
    map_.begin(stem_.mels + row.song * sizes.bands * sizes.frames, 1, 0);
  }

  // `out` is the output row that the conv row is a part of. Outside the map is a row of -infinity.
  FASTMTE_TARGET void add(int64_t row, Part part, Out* out) {
    const int64_t channels = stem_.sizes.channels, n_windows = stem_.sizes.pooled_frames;
    const Scalar* rows[7];
    const bool is_finite = weights_.stays_finite(map_.read(2 * row - 3, rows));
    const auto convolve = is_finite ? conv_row<false, Out> : conv_row<true, Out>;
    const bool is_inside = row >= 0 && row < n_conv_rows_;
    if constexpr (MoreTiles::kAre)
      if (is_inside && is_finite) tiles_.read(rows);
    for (int64_t c = 0; c < channels; c += kStemLanes) {
      Scalar* held = held_.data() + n_columns_of_tiles_ / 2 * c;
      const PooledRow<Out> pooled{held,      weights_.bias(c), out + c,
                                  n_windows, channels - c,     channels};
      if (!is_inside) {
        add_nothing(part, pooled);
        continue;
      }
      if constexpr (MoreTiles::kAre)
        if (is_finite) {
          tiles_.conv_row(c, part, pooled);
          continue;
        }
      convolve(rows, weights_.taps(c), n_columns_, part, pooled);
    }
  }

 private:
  FASTMTE_TARGET static void add_nothing(Part part, const PooledRow<Out>& pooled) {
    const Vector lowest = broadcast(-std::numeric_limits<Scalar>::infinity());
    const Vector nothing[kStemVectors] = {lowest, lowest};
    for (int64_t window = 0; window < pooled.n_windows; ++window)
      join<false>(pooled, part, window, nothing);
  }

  const Stem<Scalar>& stem_;
  int64_t n_conv_rows_, n_columns_, n_columns_of_tiles_;
  MemberWeights<49> weights_;
  MapRows<7> map_;
  Aligned<Scalar> held_;
  MoreTiles tiles_;
  int64_t member_ = -1;
};

// Output rows [begin, end), numbered as stem_row has them. Two conv rows make one of them, and the
// first of a thread's share one more, which its neighbour computes too.
template <typename Out, typename MoreTiles = NoTiles>
FASTMTE_TARGET void resnet_stem_rows(const Stem<Scalar>& stem, Out* out, int64_t begin,
                                     int64_t end) {
  ResnetRows<Out, MoreTiles> rows(stem);
  for (int64_t at = begin; at < end; ++at) {
    const StemRow row = stem_row(stem.sizes, at);
    Out* to = out + at * stem.sizes.pooled_frames * stem.sizes.channels;
    if (at == begin || row.row == 0) {
      rows.begin(row);
      rows.add(2 * row.row - 1, Part::kFirst, to);
    }
    rows.add(2 * row.row, Part::kMiddle, to);
    rows.add(2 * row.row + 1, Part::kLast, to);
  }
}

}  // namespace
}  // namespace fastmte::FASTMTE_ISA
