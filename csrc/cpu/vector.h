// Vectors of float32 under the same names for each instruction set: namespaces avx512, avx2 and
// portable. Namespace float64 is the portable one in double precision.
//
// Each has Scalar, Vector, Bits (its integers), kWidth lanes, kRegisters, and below; each_isa.h
// compiles a kernel once in each namespace. All functions are FASTMTE_INLINE and FASTMTE_TARGET,
// as the compiler only inlines into functions that may use the same instructions.
#pragma once

#include <torch/headeronly/util/BFloat16.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "simd.h"

#define FASTMTE_AVX512_TARGET \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")))
#define FASTMTE_AVX2_TARGET __attribute__((target("avx2,fma,f16c")))

namespace fastmte {

using torch::headeronly::BFloat16;

// n zeros that begin at a cache line.
template <typename T>
class Aligned {
 public:
  explicit Aligned(int64_t n) : values_(n + kLine / sizeof(T)) {}

  T* data() {
    const auto address = reinterpret_cast<uintptr_t>(values_.data());
    return reinterpret_cast<T*>((address + kLine - 1) / kLine * kLine);
  }

 private:
  static constexpr size_t kLine = 64;
  std::vector<T> values_;
};

#ifdef FASTMTE_HAS_AVX2

FASTMTE_AVX2_TARGET FASTMTE_INLINE void sum_lanes_of_256(__m256 a, __m256 b, __m256 c, __m256 d,
                                                         float* to) {
  const __m256 pairs = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
  _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1)));
}

namespace avx512 {
#define FASTMTE_TARGET FASTMTE_AVX512_TARGET

using Scalar = float;
using Vector = __m512;
using Bits = int32_t __attribute__((vector_size(64)));
constexpr int kWidth = 16, kRegisters = 32;
constexpr __mmask16 kAll = 0xffff;  // GCC 12 warns of the intrinsics without a mask

FASTMTE_TARGET FASTMTE_INLINE Vector broadcast(float x) { return _mm512_set1_ps(x); }
FASTMTE_TARGET FASTMTE_INLINE Vector load(const float* x) { return _mm512_loadu_ps(x); }
FASTMTE_TARGET FASTMTE_INLINE void store(float* to, Vector x) { _mm512_storeu_ps(to, x); }

FASTMTE_TARGET FASTMTE_INLINE Vector load(const BFloat16* x) {
  const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
  return (Vector)((Bits)_mm512_maskz_cvtepu16_epi32(kAll, halves) << 16);
}

FASTMTE_TARGET FASTMTE_INLINE void store_upper_halves(BFloat16* to, Bits x) {
  const __m256i halves = _mm512_maskz_cvtepi32_epi16(kAll, (__m512i)(x >> 16));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), halves);
}

FASTMTE_TARGET FASTMTE_INLINE Bits load_bytes(const uint8_t* x) {
  return (Bits)_mm512_maskz_cvtepu8_epi32(kAll, _mm_loadu_si128((const __m128i*)x));
}

FASTMTE_TARGET FASTMTE_INLINE void store_bytes(uint8_t* to, Bits x) {
  _mm_storeu_si128((__m128i*)to, _mm512_maskz_cvtepi32_epi8(kAll, (__m512i)x));
}

// a * b + c, rounded once.
FASTMTE_TARGET FASTMTE_INLINE Vector fma(Vector a, Vector b, Vector c) {
  return _mm512_fmadd_ps(a, b, c);
}

// b where either is NaN.
FASTMTE_TARGET FASTMTE_INLINE Vector max(Vector a, Vector b) {
  return _mm512_maskz_max_ps(kAll, a, b);
}

// NaN where either is NaN, as torch.max_pool2d has it.
FASTMTE_TARGET FASTMTE_INLINE Vector max_keeping_nan(Vector a, Vector b) {
  return _mm512_mask_max_ps(a, _mm512_cmp_ps_mask(a, a, _CMP_ORD_Q), a, b);
}

// `yes` where x is NaN, else `no`.
FASTMTE_TARGET FASTMTE_INLINE Vector where_nan(Vector x, Vector yes, Vector no) {
  return _mm512_mask_mov_ps(no, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), yes);
}

// `yes` where x < 0, else `no`.
FASTMTE_TARGET FASTMTE_INLINE Vector where_negative(Vector x, Vector yes, Vector no) {
  return _mm512_mask_mov_ps(no, _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ), yes);
}

// The lanes after the first, then `last`.
FASTMTE_TARGET FASTMTE_INLINE Vector shifted(Vector x, float last) {
  const __m512i next = _mm512_castps_si512(_mm512_set1_ps(last));
  return _mm512_castsi512_ps(_mm512_maskz_alignr_epi32(kAll, next, _mm512_castps_si512(x), 1));
}

constexpr bool kHasPick = true;

// Eight values of a, then eight of b.
FASTMTE_TARGET FASTMTE_INLINE Vector join(const float* a, const float* b) {
  return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(a)), _mm256_loadu_ps(b), 1);
}

// Lane i is value index[i] of the 32 that a and b hold.
FASTMTE_TARGET FASTMTE_INLINE Vector pick(Vector a, Vector b, Bits index) {
  return _mm512_permutex2var_ps(a, (__m512i)index, b);
}

FASTMTE_TARGET FASTMTE_INLINE __m256 halved(Vector x) {
  return _mm256_add_ps(_mm512_maskz_extractf32x8_ps(0xff, x, 0),
                       _mm512_maskz_extractf32x8_ps(0xff, x, 1));
}

// The sums of four vectors' lanes, in one order for each.
FASTMTE_TARGET FASTMTE_INLINE void sum_lanes(Vector a, Vector b, Vector c, Vector d, float* to) {
  sum_lanes_of_256(halved(a), halved(b), halved(c), halved(d), to);
}

// Lane i of vector j becomes lane j of vector i.
FASTMTE_TARGET FASTMTE_INLINE void transpose(Vector (&x)[kWidth]) {
  Vector y[kWidth];
  for (int i = 0; i < 16; i += 4) {  // 4 x 4 in each quarter of the lanes
    const Vector ab0 = _mm512_maskz_unpacklo_ps(kAll, x[i], x[i + 1]);
    const Vector ab1 = _mm512_maskz_unpackhi_ps(kAll, x[i], x[i + 1]);
    const Vector cd0 = _mm512_maskz_unpacklo_ps(kAll, x[i + 2], x[i + 3]);
    const Vector cd1 = _mm512_maskz_unpackhi_ps(kAll, x[i + 2], x[i + 3]);
    y[i] = _mm512_maskz_shuffle_ps(kAll, ab0, cd0, 0x44);
    y[i + 1] = _mm512_maskz_shuffle_ps(kAll, ab0, cd0, 0xee);
    y[i + 2] = _mm512_maskz_shuffle_ps(kAll, ab1, cd1, 0x44);
    y[i + 3] = _mm512_maskz_shuffle_ps(kAll, ab1, cd1, 0xee);
  }
  for (int i = 0; i < 4; ++i) {  // then the quarters
    const Vector even0 = _mm512_maskz_shuffle_f32x4(kAll, y[i], y[i + 4], 0x88);
    const Vector odd0 = _mm512_maskz_shuffle_f32x4(kAll, y[i], y[i + 4], 0xdd);
    const Vector even1 = _mm512_maskz_shuffle_f32x4(kAll, y[i + 8], y[i + 12], 0x88);
    const Vector odd1 = _mm512_maskz_shuffle_f32x4(kAll, y[i + 8], y[i + 12], 0xdd);
    x[i] = _mm512_maskz_shuffle_f32x4(kAll, even0, even1, 0x88);
    x[i + 8] = _mm512_maskz_shuffle_f32x4(kAll, even0, even1, 0xdd);
    x[i + 4] = _mm512_maskz_shuffle_f32x4(kAll, odd0, odd1, 0x88);
    x[i + 12] = _mm512_maskz_shuffle_f32x4(kAll, odd0, odd1, 0xdd);
  }
}

// Lane i of vector j is rows[i][first + j]. Halves of rows are put beside one another as they are
// loaded, which leaves three shuffles a vector.
FASTMTE_TARGET FASTMTE_INLINE void load_columns(const float* const* rows, int64_t first,
                                                Vector (&x)[8]) {
  Vector y[2][4];
  FASTMTE_UNROLL
  for (int half = 0; half < 2; ++half) {
    Vector z[4];
    FASTMTE_UNROLL
    for (int i = 0; i < 4; ++i)
      z[i] = join(rows[8 * half + i] + first, rows[8 * half + i + 4] + first);
    const Vector ab0 = _mm512_maskz_unpacklo_ps(kAll, z[0], z[1]);
    const Vector ab1 = _mm512_maskz_unpackhi_ps(kAll, z[0], z[1]);
    const Vector cd0 = _mm512_maskz_unpacklo_ps(kAll, z[2], z[3]);
    const Vector cd1 = _mm512_maskz_unpackhi_ps(kAll, z[2], z[3]);
    y[half][0] = _mm512_maskz_shuffle_ps(kAll, ab0, cd0, 0x44);
    y[half][1] = _mm512_maskz_shuffle_ps(kAll, ab0, cd0, 0xee);
    y[half][2] = _mm512_maskz_shuffle_ps(kAll, ab1, cd1, 0x44);
    y[half][3] = _mm512_maskz_shuffle_ps(kAll, ab1, cd1, 0xee);
  }
  FASTMTE_UNROLL
  for (int j = 0; j < 4; ++j) {
    x[j] = _mm512_maskz_shuffle_f32x4(kAll, y[0][j], y[1][j], 0x88);
    x[j + 4] = _mm512_maskz_shuffle_f32x4(kAll, y[0][j], y[1][j], 0xdd);
  }
}

#include "vector_math.h"
#undef FASTMTE_TARGET
}  // namespace avx512

namespace avx2 {
#define FASTMTE_TARGET FASTMTE_AVX2_TARGET

using Scalar = float;
using Vector = __m256;
using Bits = int32_t __attribute__((vector_size(32)));
constexpr int kWidth = 8, kRegisters = 16;
constexpr bool kHasPick = false;

FASTMTE_TARGET FASTMTE_INLINE Vector broadcast(float x) { return _mm256_set1_ps(x); }
FASTMTE_TARGET FASTMTE_INLINE Vector load(const float* x) { return _mm256_loadu_ps(x); }
FASTMTE_TARGET FASTMTE_INLINE void store(float* to, Vector x) { _mm256_storeu_ps(to, x); }

FASTMTE_TARGET FASTMTE_INLINE Vector load(const BFloat16* x) {
  const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

FASTMTE_TARGET FASTMTE_INLINE void store_upper_halves(BFloat16* to, Bits x) {
  const __m256i shifted = _mm256_srli_epi32((__m256i)x, 16);
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(shifted, shifted), 0x88);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(packed));
}

FASTMTE_TARGET FASTMTE_INLINE Bits load_bytes(const uint8_t* x) {
  return (Bits)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)x));
}

FASTMTE_TARGET FASTMTE_INLINE void store_bytes(uint8_t* to, Bits x) {
  const __m256i words = _mm256_packus_epi32((__m256i)x, (__m256i)x);
  const __m256i bytes = _mm256_packus_epi16(words, words);
  const int32_t halves[2] = {_mm256_extract_epi32(bytes, 0), _mm256_extract_epi32(bytes, 4)};
  std::memcpy(to, halves, sizeof halves);
}

FASTMTE_TARGET FASTMTE_INLINE Vector fma(Vector a, Vector b, Vector c) {
  return _mm256_fmadd_ps(a, b, c);
}

FASTMTE_TARGET FASTMTE_INLINE Vector max(Vector a, Vector b) { return _mm256_max_ps(a, b); }

FASTMTE_TARGET FASTMTE_INLINE Vector where_nan(Vector x, Vector yes, Vector no) {
  return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
}

FASTMTE_TARGET FASTMTE_INLINE Vector max_keeping_nan(Vector a, Vector b) {
  return where_nan(a, a, max(a, b));
}

FASTMTE_TARGET FASTMTE_INLINE Vector where_negative(Vector x, Vector yes, Vector no) {
  return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_LT_OQ));
}

FASTMTE_TARGET FASTMTE_INLINE Vector shifted(Vector x, float last) {
  const __m256i after = _mm256_setr_epi32(1, 2, 3, 4, 5, 6, 7, 0);
  return _mm256_blend_ps(_mm256_permutevar8x32_ps(x, after), _mm256_set1_ps(last), 0x80);
}

FASTMTE_TARGET FASTMTE_INLINE void sum_lanes(Vector a, Vector b, Vector c, Vector d, float* to) {
  sum_lanes_of_256(a, b, c, d, to);
}

FASTMTE_TARGET FASTMTE_INLINE void transpose(Vector (&x)[kWidth]) {
  Vector y[kWidth];
  for (int i = 0; i < 8; i += 4) {
    const Vector ab0 = _mm256_unpacklo_ps(x[i], x[i + 1]);
    const Vector ab1 = _mm256_unpackhi_ps(x[i], x[i + 1]);
    const Vector cd0 = _mm256_unpacklo_ps(x[i + 2], x[i + 3]);
    const Vector cd1 = _mm256_unpackhi_ps(x[i + 2], x[i + 3]);
    y[i] = _mm256_shuffle_ps(ab0, cd0, 0x44);
    y[i + 1] = _mm256_shuffle_ps(ab0, cd0, 0xee);
    y[i + 2] = _mm256_shuffle_ps(ab1, cd1, 0x44);
    y[i + 3] = _mm256_shuffle_ps(ab1, cd1, 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    x[i] = _mm256_permute2f128_ps(y[i], y[i + 4], 0x20);
    x[i + 4] = _mm256_permute2f128_ps(y[i], y[i + 4], 0x31);
  }
}

FASTMTE_TARGET FASTMTE_INLINE void load_columns(const float* const* rows, int64_t first,
                                                Vector (&x)[8]) {
  FASTMTE_UNROLL
  for (int j = 0; j < 8; j += 4) {
    Vector y[4];
    FASTMTE_UNROLL
    for (int i = 0; i < 4; ++i)
      y[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(rows[i] + first + j)),
                                  _mm_loadu_ps(rows[i + 4] + first + j), 1);
    const Vector ab0 = _mm256_unpacklo_ps(y[0], y[1]), ab1 = _mm256_unpackhi_ps(y[0], y[1]);
    const Vector cd0 = _mm256_unpacklo_ps(y[2], y[3]), cd1 = _mm256_unpackhi_ps(y[2], y[3]);
    x[j] = _mm256_shuffle_ps(ab0, cd0, 0x44);
    x[j + 1] = _mm256_shuffle_ps(ab0, cd0, 0xee);
    x[j + 2] = _mm256_shuffle_ps(ab1, cd1, 0x44);
    x[j + 3] = _mm256_shuffle_ps(ab1, cd1, 0xee);
  }
}

#include "vector_math.h"
#undef FASTMTE_TARGET
}  // namespace avx2

#endif

namespace portable {
#define FASTMTE_TARGET
using Scalar = float;
using Bits = int32_t __attribute__((vector_size(16)));
#include "vector_portable.h"
#undef FASTMTE_TARGET
}  // namespace portable

namespace float64 {
#define FASTMTE_TARGET
using Scalar = double;
using Bits = int64_t __attribute__((vector_size(16)));
#include "vector_portable.h"
#undef FASTMTE_TARGET
}  // namespace float64

}  // namespace fastmte
