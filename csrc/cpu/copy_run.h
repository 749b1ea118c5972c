// Copies of runs of mel frames, converted from float16 on the way and looked at.
#pragma once

#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cstdint>

#include "simd.h"

namespace fastmte {
namespace {

using Half = torch::headeronly::Half;
constexpr int64_t kAheadBytes = 4096;  // a page, at whose end the CPU's own look-ahead stops
// What is larger than a core's cache goes past it: a store that only fills a line need not read it
// first, which is a third of the traffic.
constexpr int64_t kLargeBytes = 8 << 20;

// n values to be read, those that will be read next, and whether targets go past the cache.
template <typename T>
struct Run {
  const T* source;
  const T* next;
  int64_t n;
  bool is_large;
};

template <typename T>
bool copy_baseline(const Run<T>& run, float* target) {
  for (int64_t i = 0; i < run.n; ++i) target[i] = static_cast<float>(run.source[i]);
  return is_finite_body(target, run.n);
}

#ifdef FASTMTE_HAS_AVX2

// How many values before the first whole line of `target`.
inline int64_t before_line(const float* target, int64_t n) {
  const int64_t past = reinterpret_cast<uintptr_t>(target) % 64 / sizeof(float);
  return std::min(n, (16 - past) % 16);
}

FASTMTE_CLONE_FOR_AVX2 FASTMTE_INLINE __m256 eight(const float* x) { return _mm256_loadu_ps(x); }

FASTMTE_CLONE_FOR_AVX2 FASTMTE_INLINE __m256 eight(const Half* x) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)));
}

FASTMTE_CLONE_FOR_AVX512 FASTMTE_INLINE __m512 sixteen(const float* x) {
  return _mm512_loadu_ps(x);
}

FASTMTE_CLONE_FOR_AVX512 FASTMTE_INLINE __m512 sixteen(const Half* x) {
  // GCC 12 warns of the intrinsic without a mask.
  return _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)));
}

// Copies the lines of `target` from i on while a whole one is left before `end`; `ahead` is where
// to look for what comes later. The exponents, or'ed, say whether all values are finite.
template <bool kStream, typename T>
FASTMTE_CLONE_FOR_AVX2 int64_t copy_lines_avx2(const T* source, const T* ahead, float* target,
                                               int64_t i, int64_t end, bool& is_finite) {
  const __m256i exponent = _mm256_set1_epi32(0x7f800000);
  __m256i bad = _mm256_setzero_si256();
  for (; i + 16 <= end; i += 16) {
    _mm_prefetch(reinterpret_cast<const char*>(ahead + i), _MM_HINT_T0);
    for (int64_t at = i; at < i + 16; at += 8) {
      const __m256 x = eight(source + at);
      kStream ? _mm256_stream_ps(target + at, x) : _mm256_storeu_ps(target + at, x);
      const __m256i bits = _mm256_and_si256(_mm256_castps_si256(x), exponent);
      bad = _mm256_or_si256(bad, _mm256_cmpeq_epi32(bits, exponent));
    }
  }
  is_finite = is_finite && _mm256_testz_si256(bad, bad);
  return i;
}

template <bool kStream, typename T>
FASTMTE_CLONE_FOR_AVX512 int64_t copy_lines_avx512(const T* source, const T* ahead, float* target,
                                                   int64_t i, int64_t end, bool& is_finite) {
  const __m512i exponent = _mm512_set1_epi32(0x7f800000);
  __mmask16 bad = 0;
  for (; i + 16 <= end; i += 16) {
    _mm_prefetch(reinterpret_cast<const char*>(ahead + i), _MM_HINT_T0);
    const __m512 x = sixteen(source + i);
    kStream ? _mm512_stream_ps(target + i, x) : _mm512_storeu_ps(target + i, x);
    const __m512i bits = _mm512_and_si512(_mm512_castps_si512(x), exponent);
    bad |= _mm512_cmpeq_epi32_mask(bits, exponent);
  }
  is_finite = is_finite && bad == 0;
  return i;
}

template <bool kStream, typename T>
int64_t copy_lines(const T* source, const T* ahead, float* target, int64_t i, int64_t end,
                   bool& is_finite) {
  return isa() == Isa::kAvx512
             ? copy_lines_avx512<kStream>(source, ahead, target, i, end, is_finite)
             : copy_lines_avx2<kStream>(source, ahead, target, i, end, is_finite);
}

template <bool kStream, typename T>
bool copy_by_lines(const Run<T>& run, float* target) {
  constexpr int64_t kAhead = kAheadBytes / sizeof(T);
  const int64_t first = before_line(target, run.n);
  const int64_t turn = std::max(first, run.n - kAhead);  // from here on the next run is ahead
  bool is_finite = copy_baseline<T>({run.source, run.next, first, false}, target);
  int64_t i = copy_lines<kStream>(run.source, run.source + kAhead, target, first, turn, is_finite);
  i = copy_lines<kStream>(run.source, run.next - turn, target, i, run.n, is_finite);
  const Run<T> rest{run.source + i, run.next, run.n - i, false};
  return copy_baseline(rest, target + i) && is_finite;
}
#endif

// Copies a run and says whether all its values are finite.
template <typename T>
bool copy(const Run<T>& run, float* target) {
#ifdef FASTMTE_HAS_AVX2
  if (has_avx2())
    return run.is_large ? copy_by_lines<true>(run, target) : copy_by_lines<false>(run, target);
#endif
  return copy_baseline(run, target);
}

// Before what was copied is used on another thread.
FASTMTE_INLINE void finish_copies() {
#ifdef FASTMTE_HAS_AVX2
  _mm_sfence();
#endif
}

}  // namespace
}  // namespace fastmte
