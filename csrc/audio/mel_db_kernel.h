// The arithmetic of mel_db for one kind of vector; see each_isa.h.
//
// A lane is a frame: no frame's bits depend on its neighbours, and the transform is that of one
// frame written in vectors. Complex values are pairs of vectors.
#include "audio/fft_kernel.h"

namespace fastmte::FASTMTE_ISA {
namespace {

// Rows of `size` samples of kWidth frames become `size` vectors, times the window.
FASTMTE_TARGET inline void gather_frames(const MelPlan& plan, const float* const* rows, float* to) {
  Vector block[kWidth];
  int64_t i = 0;
  for (; i + kWidth <= plan.size; i += kWidth) {
    FASTMTE_UNROLL
    for (int lane = 0; lane < kWidth; ++lane) block[lane] = load(rows[lane] + i);
    transpose(block);
    FASTMTE_UNROLL
    for (int j = 0; j < kWidth; ++j)
      store(to + (i + j) * kWidth, block[j] * broadcast(plan.window[i + j]));
  }
  for (; i < plan.size; ++i)
    for (int lane = 0; lane < kWidth; ++lane)
      to[i * kWidth + lane] = rows[lane][i] * plan.window[i];
}

// From the transform z (H) of even + i odd samples to the power (H + 1) of the real frame. With
// E and O the transforms of the even and odd samples, z_k + conj z_(H-k) = 2 E_k and
// z_k - conj z_(H-k) = 2 i O_k; the halves are in the window.
FASTMTE_TARGET inline void power_of(const MelPlan& plan, const float* z, float* power) {
  const int64_t half = plan.size / 2;
  const Vector first_re = load(z), first_im = load(z + kWidth);
  const Vector sum = (first_re + first_im) * broadcast(2);
  const Vector rest = (first_re - first_im) * broadcast(2);
  store(power, sum * sum);
  store(power + half * kWidth, rest * rest);
  for (int64_t k = 1; 2 * k < half; ++k) {
    const float* a = z + 2 * k * kWidth;
    const float* b = z + 2 * (half - k) * kWidth;
    const Vector a_re = load(a), a_im = load(a + kWidth), b_re = load(b), b_im = load(b + kWidth);
    const Vector even_re = a_re + b_re, even_im = a_im - b_im;
    const Vector odd_re = a_im + b_im, odd_im = b_re - a_re;
    const Vector c = broadcast(plan.cosine[k]), s = broadcast(plan.sine[k]);
    const Vector turned_re = fma(odd_re, c, -(odd_im * s)), turned_im = fma(odd_re, s, odd_im * c);
    const Vector low_re = even_re + turned_re, low_im = even_im + turned_im;
    const Vector high_re = even_re - turned_re, high_im = even_im - turned_im;
    store(power + k * kWidth, fma(low_re, low_re, low_im * low_im));
    store(power + (half - k) * kWidth, fma(high_re, high_re, high_im * high_im));
  }
  if (half % 2 == 0) {
    const Vector re = load(z + half * kWidth) * broadcast(2);
    const Vector im = load(z + (half + 1) * kWidth) * broadcast(2);
    store(power + half / 2 * kWidth, fma(re, re, im * im));
  }
}

// The bands' sums (bands) and the sum of all, which is NaN or infinite where any value is.
FASTMTE_TARGET inline Vector sum_bands(const MelPlan& plan, const float* power, float* sums) {
  Vector all{};
  for (int64_t band = 0; band < plan.bands; ++band) {
    const float* weights = plan.weights + plan.splits[band];
    const float* bins = power + plan.first_bins[band] * kWidth;
    const int64_t n = plan.splits[band + 1] - plan.splits[band];
    Vector sum{}, other{};
    int64_t j = 0;
    for (; j + 2 <= n; j += 2) {
      sum = fma(load(bins + j * kWidth), broadcast(weights[j]), sum);
      other = fma(load(bins + (j + 1) * kWidth), broadcast(weights[j + 1]), other);
    }
    if (j < n) sum = fma(load(bins + j * kWidth), broadcast(weights[j]), sum);
    sum = sum + other;
    store(sums + band * kWidth, sum);
    all = all + sum;
  }
  return all;
}

// log10(x) * scale for normal x: x = 2^k m with m in [sqrt(1/2), sqrt(2)), log m by the polynomial
// of Cephes' logf, relative error below 1e-7.
FASTMTE_TARGET FASTMTE_INLINE Vector log10_of(Vector x, Vector scale) {
  constexpr int32_t kRootHalf = 0x3f3504f3;
  const Bits exponent = ((Bits)x - kRootHalf) >> 23;
  const Vector t = (Vector)((Bits)x - (exponent << 23)) - broadcast(1);
  // An integer k is in the lowest bits of 1.5 * 2^23 + k.
  const Vector k = (Vector)(exponent + 0x4b400000) - broadcast(0x1.8p23f);
  Vector p = fma(broadcast(7.0376836292e-2f), t, broadcast(-1.1514610310e-1f));
  p = fma(p, t, broadcast(1.1676998740e-1f));
  p = fma(p, t, broadcast(-1.2420140846e-1f));
  p = fma(p, t, broadcast(1.4249322787e-1f));
  p = fma(p, t, broadcast(-1.6668057665e-1f));
  p = fma(p, t, broadcast(2.0000714765e-1f));
  p = fma(p, t, broadcast(-2.4999993993e-1f));
  p = fma(p, t, broadcast(3.3333331174e-1f));
  const Vector square = t * t;
  const Vector log_m = fma(p, square * t, fma(square, broadcast(-0.5f), t));
  constexpr float kLog10OfE = 0.4342944819f, kLog10Of2 = 0.3010299957f;
  return scale * fma(k, broadcast(kLog10Of2), log_m * broadcast(kLog10OfE));
}

// Decibels of the sums, cut at the floor, plus `shift` before that; NaN where `shift` is.
FASTMTE_TARGET inline void write_db(const MelPlan& plan, const float* sums, Vector shift,
                                    int64_t n_frames, float* out, int64_t stride) {
  const Vector scale = broadcast(plan.db_per_decade), floor = broadcast(plan.floor_db);
  const Vector least = broadcast(std::numeric_limits<float>::min());
  for (int64_t band = 0; band < plan.bands; ++band) {
    const Vector sum = load(sums + band * kWidth);
    Vector db = log10_of(max(least, sum), scale) + shift;
    db = where_negative(sum - least, floor, db);
    db = where_nan(shift, shift, max(floor, db));
    store_first(out + band * stride, db, n_frames);
  }
}

// kWidth frames, the rows of their samples given, of which the first n_frames are written.
// Returns in `totals` each frame's sum over its bands.
// `room` has 2 size + bands vectors.
FASTMTE_TARGET inline void mel_group(const MelPlan& plan, float* room, const float* const* rows,
                                     const float* shift, int64_t n_frames, float* out,
                                     int64_t stride, float* totals) {
  float* x = room;
  float* y = x + plan.size * kWidth;
  float* const sums = y + plan.size * kWidth;
  gather_frames(plan, rows, x);
  for (const FftPass& pass : plan.passes) {
    run_pass(plan, pass, x, y);
    float* const read = x;
    x = y;
    y = read;
  }
  power_of(plan, x, y);
  store(totals, sum_bands(plan, y, sums));
  write_db(plan, sums, load(shift), n_frames, out, stride);
}

inline int lanes() { return kWidth; }

}  // namespace
}  // namespace fastmte::FASTMTE_ISA
