// From frames of 512 samples to their power for one kind of vector: two passes of radix 16, made so
// that the first cache holds what they work on; mel_db_kernel.h includes it for each.
//
// Complex value p + 16 r of a frame is x[r] of butterfly p in the first pass, whose results k are
// x[p] of butterfly k in the second, and j of those is value k + 16 j of the transform: the values,
// operations and bits of fft_kernel.h's passes, in another order.

namespace fastmte::FASTMTE_ISA {
namespace {

constexpr int kSide = 16;  // a transform is kSide x kSide
constexpr int kTile = 4;   // butterflies whose samples are gathered at a time
constexpr int64_t kRowVectors = 2 * kSide;

// `columns` are samples in order from one whose window is given; they become a value of kTile
// butterflies.
FASTMTE_TARGET FASTMTE_INLINE void store_columns(const float* window,
                                                 const Vector (&columns)[2 * kTile], float* to) {
  FASTMTE_UNROLL
  for (int j = 0; j < 2 * kTile; ++j)
    store(to + (j / 2 * kRowVectors + j % 2) * kWidth, columns[j] * broadcast(window[j]));
}

// The inputs of butterflies p to p + kTile. Where each frame begins in the middle of the one
// before, its first half is the second half of that: only one new sample a vector.
FASTMTE_TARGET inline void gather_tiles(const MelPlan& plan, const float* const* rows,
                                        bool is_overlapping, int64_t p, float* tiles) {
  const int64_t half = plan.size / 2;
  for (int64_t r = 0; r < (is_overlapping ? kSide / 2 : kSide); ++r) {
    const int64_t i = 2 * (kSide * r + p);
    float* const to = tiles + 2 * r * kWidth;
    Vector columns[2 * kTile];
    load_columns(rows, i, columns);
    store_columns(plan.window.data() + i, columns, to);
    if (!is_overlapping) continue;
    const float* last = rows[kWidth - 1] + half + i;
    FASTMTE_UNROLL
    for (int j = 0; j < 2 * kTile; ++j) columns[j] = shifted(columns[j], last[j]);
    store_columns(plan.window.data() + half + i, columns, to + kSide * kWidth);
  }
}

FASTMTE_TARGET FASTMTE_INLINE void load_row(const float* from, Complex (&x)[kSide]) {
  FASTMTE_UNROLL
  for (int i = 0; i < kSide; ++i) x[i] = load_complex(from, i);
}

// One butterfly of the first pass.
FASTMTE_TARGET inline void first_butterfly(const MelPlan& plan, const float* from, int64_t p,
                                           float* rows) {
  Complex x[kSide];
  load_row(from, x);
  transform(x);
  store_complex(rows, p, x[0]);
  FASTMTE_UNROLL
  for (int k = 1; k < kSide; ++k) {
    if (p > 0) x[k] = times(x[k], plan.cosine[2 * p * k], plan.sine[2 * p * k]);
    store_complex(rows, k * kSide + p, x[k]);
  }
}

FASTMTE_TARGET inline void second_butterfly(const float* from, float* to) {
  Complex x[kSide];
  load_row(from, x);
  transform(x);
  FASTMTE_UNROLL
  for (int j = 0; j < kSide; ++j) store_complex(to, j, x[j]);
}

// The powers of values k + 16 j, j in [first, 8), from row k of the transform and the row that
// mirrors it, whose value `last - j` is their conjugate's.
FASTMTE_TARGET inline void row_power(const MelPlan& plan, const float* row, const float* mirror,
                                     int64_t k, int64_t first, int64_t last, float* power) {
  for (int64_t j = first; j < kSide / 2; ++j)
    store_power(plan, load_complex(row, j), load_complex(mirror, last - j), k + kSide * j, power);
}

// The power (257) of frames, the rows of their samples given. `room` has 2 size vectors.
FASTMTE_TARGET inline void power_of_512(const MelPlan& plan, const float* const* rows, float* room,
                                        float* power) {
  bool is_overlapping = 2 * plan.hop == plan.size;
  for (int lane = 1; lane < kWidth; ++lane)
    is_overlapping &= rows[lane] == rows[lane - 1] + plan.hop;
  float* const tiles = room;
  float* const middle = tiles + kTile * kRowVectors * kWidth;
  for (int64_t p = 0; p < kSide; p += kTile) {
    gather_tiles(plan, rows, is_overlapping, p, tiles);
    for (int64_t i = 0; i < kTile; ++i)
      first_butterfly(plan, tiles + i * kRowVectors * kWidth, p + i, middle);
  }
  float* const row = tiles;
  float* const mirror = row + kRowVectors * kWidth;
  const auto finish = [&](int64_t k, float* to) FASTMTE_TARGET {
    second_butterfly(middle + k * kRowVectors * kWidth, to);
  };
  finish(0, row);
  store_first_power(plan, load_complex(row, 0), power);
  store_middle_power(plan, load_complex(row, kSide / 2), power);
  row_power(plan, row, row, 0, 1, kSide, power);
  for (int64_t k = 1; k < kSide / 2; ++k) {
    finish(k, row);
    finish(kSide - k, mirror);
    row_power(plan, row, mirror, k, 0, kSide - 1, power);
    row_power(plan, mirror, row, kSide - k, 0, kSide - 1, power);
  }
  finish(kSide / 2, row);
  row_power(plan, row, row, kSide / 2, 0, kSide - 1, power);
}

}  // namespace
}  // namespace fastmte::FASTMTE_ISA
