// The filter of dkmeans_assign, once for each instruction set.
#include "dkmeans_filter.h"

#include <algorithm>
#include <cmath>

#include "simd.h"

namespace fastmte {
namespace {

// The scores of a mask and their rows, one after another; up to a vector's width is written.
inline void append_each(const float* scores, uint32_t mask, int32_t first_row, float* score,
                        int32_t* row) {
  for (; mask != 0; mask &= mask - 1) {
    const int lane = __builtin_ctz(mask);
    *score++ = scores[lane];
    *row++ = first_row + lane;
  }
}

namespace baseline {

#define FASTMTE_TARGET
typedef float Floats __attribute__((vector_size(16), aligned(4), may_alias));
constexpr int kWidth = 4, kScoresInRegisters = 32;

inline Floats load(const float* x) { return *reinterpret_cast<const Floats*>(x); }
inline void store(float* x, Floats value) {
  for (int i = 0; i < kWidth; ++i) x[i] = value[i];
}
inline Floats broadcast(float x) { return Floats{x, x, x, x}; }
inline Floats add(Floats a, Floats b) { return a + b; }
inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }
inline Floats multiply_add(Floats a, Floats b, Floats c) { return a * b + c; }
inline uint32_t above(Floats a, Floats b) {
  uint32_t mask = 0;
  for (int i = 0; i < kWidth; ++i) mask |= static_cast<uint32_t>(a[i] > b[i]) << i;
  return mask;
}
inline void append(Floats scores, uint32_t mask, int32_t first_row, float* score, int32_t* row) {
  float stored[kWidth];
  store(stored, scores);
  append_each(stored, mask, first_row, score, row);
}

#include "dkmeans_filter_body.h"
#undef FASTMTE_TARGET

}  // namespace baseline

#ifdef FASTMTE_HAS_AVX2
namespace avx2 {

#define FASTMTE_TARGET __attribute__((target("avx2,fma")))
#define FASTMTE_VECTOR FASTMTE_TARGET inline
using Floats = __m256;
constexpr int kWidth = 8, kScoresInRegisters = 64;

FASTMTE_VECTOR Floats load(const float* x) { return _mm256_loadu_ps(x); }
FASTMTE_VECTOR void store(float* x, Floats value) { _mm256_storeu_ps(x, value); }
FASTMTE_VECTOR Floats broadcast(float x) { return _mm256_set1_ps(x); }
FASTMTE_VECTOR Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
FASTMTE_VECTOR Floats larger(Floats a, Floats b) { return _mm256_max_ps(a, b); }
FASTMTE_VECTOR Floats multiply_add(Floats a, Floats b, Floats c) {
  return _mm256_fmadd_ps(a, b, c);
}
FASTMTE_VECTOR uint32_t above(Floats a, Floats b) {
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)));
}
FASTMTE_VECTOR void append(Floats scores, uint32_t mask, int32_t first_row, float* score,
                           int32_t* row) {
  float stored[kWidth];
  store(stored, scores);
  append_each(stored, mask, first_row, score, row);
}

#include "dkmeans_filter_body.h"
#undef FASTMTE_TARGET

}  // namespace avx2

namespace avx512 {

#define FASTMTE_TARGET __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,fma")))
using Floats = __m512;
constexpr int kWidth = 16, kScoresInRegisters = 256;

FASTMTE_VECTOR Floats load(const float* x) { return _mm512_loadu_ps(x); }
FASTMTE_VECTOR void store(float* x, Floats value) { _mm512_storeu_ps(x, value); }
FASTMTE_VECTOR Floats broadcast(float x) { return _mm512_set1_ps(x); }
FASTMTE_VECTOR Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
FASTMTE_VECTOR Floats larger(Floats a, Floats b) { return _mm512_maskz_max_ps(0xffff, a, b); }
FASTMTE_VECTOR Floats multiply_add(Floats a, Floats b, Floats c) {
  return _mm512_fmadd_ps(a, b, c);
}
FASTMTE_VECTOR uint32_t above(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
FASTMTE_VECTOR void append(Floats scores, uint32_t mask, int32_t first_row, float* score,
                           int32_t* row) {
  const __mmask16 lanes = static_cast<__mmask16>(mask);
  const __m512i ascending = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i rows = _mm512_add_epi32(_mm512_set1_epi32(first_row), ascending);
  store(score, _mm512_maskz_compress_ps(lanes, scores));
  _mm512_storeu_si512(row, _mm512_maskz_compress_epi32(lanes, rows));
}

#include "dkmeans_filter_body.h"
#undef FASTMTE_TARGET

}  // namespace avx512
#endif

}  // namespace

Filter filter() {
#ifdef FASTMTE_HAS_AVX2
  if (isa() == Isa::kAvx512) return {avx512::find_farthest, avx512::score_rows};
  if (isa() == Isa::kAvx2) return {avx2::find_farthest, avx2::score_rows};
#endif
  return {baseline::find_farthest, baseline::score_rows};
}

}  // namespace fastmte
