// From the samples of one or two channels to their mean, for decoder processes.
#include <cstdint>

#include "cpu/simd.h"

namespace fastmte {
namespace {

struct Range {
  float least, most;
};

FASTMTE_INLINE float clipped(float x, Range range) {
  x = x < range.least ? range.least : x;  // NaN stays
  return x > range.most ? range.most : x;
}

FASTMTE_INLINE bool mix_body(const float* x, int64_t n, int64_t channels, Range range, float* out) {
  if (channels == 1)
    for (int64_t i = 0; i < n; ++i) out[i] = clipped(x[i], range);
  else
    for (int64_t i = 0; i < n; ++i)
      out[i] = (clipped(x[2 * i], range) + clipped(x[2 * i + 1], range)) * 0.5f;
  return is_finite_body(out, n);
}

bool mix_baseline(const float* x, int64_t n, int64_t channels, Range range, float* out) {
  return mix_body(x, n, channels, range, out);
}

#ifdef FASTMTE_HAS_AVX2
FASTMTE_CLONE_FOR_AVX2 bool mix_avx2(const float* x, int64_t n, int64_t channels, Range range,
                                     float* out) {
  return mix_body(x, n, channels, range, out);
}
#endif

}  // namespace
}  // namespace fastmte

// x (n, channels), channels 1 or 2, of which none is clipped where `least` and `most` are infinite;
// out (n). Returns 1 where all of it is finite. For ctypes.
extern "C" __attribute__((visibility("default"))) int fastmte_mix(const float* x, int64_t n,
                                                                  int64_t channels, float least,
                                                                  float most, float* out) {
  const fastmte::Range range{least, most};
#ifdef FASTMTE_HAS_AVX2
  if (fastmte::has_avx2()) return fastmte::mix_avx2(x, n, channels, range, out);
#endif
  return fastmte::mix_baseline(x, n, channels, range, out);
}
