// The arithmetic of mel_db for one kind of vector; see each_isa.h.
//
// A lane is a frame: no frame's bits depend on its neighbours, and the transform is that of one
// frame written in vectors. Complex values are pairs of vectors.
#include "audio/fft_kernel.h"
#include "audio/frame_512_kernel.h"

namespace fastmte::FASTMTE_ISA {
namespace {

// Rows of `size` samples of kWidth frames become `size` vectors, times the window.
FASTMTE_TARGET inline void gather_frames(const MelPlan& plan, const float* const* rows, float* to) {
  int64_t i = 0;
  for (; i + 8 <= plan.size; i += 8) {
    Vector block[8];
    load_columns(rows, i, block);
    FASTMTE_UNROLL
    for (int j = 0; j < 8; ++j)
      store(to + (i + j) * kWidth, block[j] * broadcast(plan.window[i + j]));
  }
  for (; i < plan.size; ++i)
    for (int lane = 0; lane < kWidth; ++lane)
      to[i * kWidth + lane] = rows[lane][i] * plan.window[i];
}

// log2(x) per_octave, which is log(x) per_e, for normal x: x = 2^k m with m in
// [sqrt(1/2), sqrt(2)), log m by the polynomial of Cephes' logf, relative error below 1e-7.
// Products that do not wait for one another: a core with two threads has few bands in work.
FASTMTE_TARGET FASTMTE_INLINE Vector scaled_log(Vector x, Vector per_octave, Vector per_e) {
  constexpr int32_t kRootHalf = 0x3f3504f3;
  const Bits exponent = ((Bits)x - kRootHalf) >> 23;
  const Vector t = (Vector)((Bits)x - (exponent << 23)) - broadcast(1);
  // An integer k is in the lowest bits of 1.5 * 2^23 + k.
  const Vector k = (Vector)(exponent + 0x4b400000) - broadcast(0x1.8p23f);
  const auto pair = [&](float high, float low) FASTMTE_TARGET
      __attribute__((always_inline)) { return fma(broadcast(high), t, broadcast(low)); };
  const Vector t2 = t * t, t4 = t2 * t2;
  const Vector first =
      fma(pair(-1.6668057665e-1f, 2.0000714765e-1f), t2, pair(-2.4999993993e-1f, 3.3333331174e-1f));
  const Vector second =
      fma(pair(-1.1514610310e-1f, 1.1676998740e-1f), t2, pair(-1.2420140846e-1f, 1.4249322787e-1f));
  const Vector p = fma(fma(broadcast(7.0376836292e-2f), t4, second), t4, first);
  const Vector near = fma(k, per_octave, per_e * fma(t2, broadcast(-0.5f), t));
  return fma(p, t2 * t * per_e, near);
}

// Samples that will be read next: a wish, so that there need be none.
struct Ahead {
  const float* samples;
  int64_t n;
};

// Asks for every n_parts-th cache line of them, beginning with line `part`.
FASTMTE_INLINE void fetch(const Ahead& ahead, int64_t part, int64_t n_parts) {
  constexpr int64_t kLine = 64 / sizeof(float);
  for (int64_t i = part * kLine; i < ahead.n; i += n_parts * kLine)
    __builtin_prefetch(ahead.samples + i);
}

// The bands' decibels, cut at the floor, plus `shift` before that; NaN where `shift` is. Returns
// the sum over all bands, which is NaN or infinite where any value is.
FASTMTE_TARGET inline Vector write_bands(const MelPlan& plan, const float* power, Vector shift,
                                         const Ahead& ahead, int64_t n_frames, float* out,
                                         int64_t stride) {
  const Vector per_octave = broadcast(plan.db_per_octave), per_e = broadcast(plan.db_per_e);
  const Vector floor = broadcast(plan.floor_db);
  const Vector nothing = broadcast(-std::numeric_limits<float>::infinity());
  const Vector least = broadcast(std::numeric_limits<float>::min());
  Vector all{};
  for (int64_t band = 0; band < plan.bands; ++band) {
    const float* weights = plan.weights + plan.splits[band];
    const float* bins = power + plan.first_bins[band] * kWidth;
    const int64_t n = plan.splits[band + 1] - plan.splits[band];
    fetch(ahead, band, plan.bands);
    Vector sum{}, other{};
    int64_t j = 0;
    for (; j + 2 <= n; j += 2) {
      sum = fma(load(bins + j * kWidth), broadcast(weights[j]), sum);
      other = fma(load(bins + (j + 1) * kWidth), broadcast(weights[j + 1]), other);
    }
    if (j < n) sum = fma(load(bins + j * kWidth), broadcast(weights[j]), sum);
    sum = sum + other;
    all = all + sum;
    Vector db = scaled_log(max(least, sum), per_octave, per_e);
    db = where_negative(sum - least, nothing, db);
    store_first(out + band * stride, max(floor, db + shift), n_frames);
  }
  return all;
}

// kWidth frames, the rows of their samples given, of which the first n_frames are written.
// Returns in `totals` each frame's sum over its bands. `room` has 3 size vectors.
FASTMTE_TARGET inline void mel_group(const MelPlan& plan, float* room, const float* const* rows,
                                     const float* shift, int64_t n_frames, float* out,
                                     int64_t stride, float* totals) {
  float* power = room + 2 * plan.size * kWidth;
  if (plan.size == 2 * kSide * kSide) {
    power_of_512(plan, rows, room, power);
  } else {
    float* x = room;
    float* y = x + plan.size * kWidth;
    gather_frames(plan, rows, x);
    for (const FftPass& pass : plan.passes) {
      run_pass(plan, pass, x, y);
      std::swap(x, y);
    }
    power_of(plan, x, power);
  }
  const Ahead ahead{rows[kWidth - 1] + plan.hop, kWidth * std::min(plan.hop, plan.size)};
  store(totals, write_bands(plan, power, load(shift), ahead, n_frames, out, stride));
}

inline int lanes() { return kWidth; }

}  // namespace
}  // namespace fastmte::FASTMTE_ISA
