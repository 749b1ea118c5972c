// The stems in bfloat16 by AMX: sums of 16 neighbours and 16 channels in a tile.
//
// The inputs that a sum needs must lie side by side: a record of eight bfloat16 a column holds the
// rows of the map there. Inputs are split into two bfloat16, the second of what the first leaves,
// so that only the weights are rounded. Only of finite inputs: a tile also multiplies by zeros what
// a sum does not need.
#pragma once

#include "cpu/amx.h"
#include "cpu/vector.h"

#ifdef FASTMTE_HAS_AMX

namespace fastmte::avx512 {
namespace {

constexpr int64_t kStemRecord = 8, kStemTile = 16 * 16;

// Of two rows of the map, the two values of each column as a pair, rounded, and what that left, in
// the order in which store_records has them.
struct RowPairs {
  __m512i firsts, rests;
};

// 32 values: those of `even`, then those of `odd`.
FASTMTE_AVX512_TARGET FASTMTE_INLINE __m512i rounded(Vector even, Vector odd) {
  __m512i y;
  asm("vcvtne2ps2bf16 %1, %2, %0" : "=v"(y) : "v"(even), "v"(odd));
  return y;
}

FASTMTE_AVX512_TARGET FASTMTE_INLINE RowPairs split(Vector even, Vector odd) {
  // Columns 0, 4, 8, 12, then 1, 5, ...: unpacking leaves four neighbours in one vector.
  alignas(64) static constexpr int16_t kOrder[32] = {0,  16, 4,  20, 8,  24, 12, 28, 1,  17, 5,
                                                     21, 9,  25, 13, 29, 2,  18, 6,  22, 10, 26,
                                                     14, 30, 3,  19, 7,  23, 11, 27, 15, 31};
  const __m512i order = _mm512_load_si512(kOrder), first = rounded(even, odd);
  alignas(64) BFloat16 halves[32];
  _mm512_store_si512(halves, first);
  const __m512i rest = rounded(even - load(halves), odd - load(halves + 16));
  constexpr __mmask32 kHalves = ~__mmask32{};
  return {_mm512_maskz_permutexvar_epi16(kHalves, order, first),
          _mm512_maskz_permutexvar_epi16(kHalves, order, rest)};
}

// Stores the records of 16 columns, of four pairs each.
FASTMTE_AVX512_TARGET FASTMTE_INLINE void store_records(BFloat16* to, __m512i a, __m512i b,
                                                        __m512i c, __m512i d) {
  constexpr __mmask8 kPairs = 0xff;
  const __m512i ab = _mm512_maskz_unpacklo_epi32(kAll, a, b);
  const __m512i ab2 = _mm512_maskz_unpackhi_epi32(kAll, a, b);
  const __m512i cd = _mm512_maskz_unpacklo_epi32(kAll, c, d);
  const __m512i cd2 = _mm512_maskz_unpackhi_epi32(kAll, c, d);
  _mm512_storeu_si512(to, _mm512_maskz_unpacklo_epi64(kPairs, ab, cd));
  _mm512_storeu_si512(to + 32, _mm512_maskz_unpackhi_epi64(kPairs, ab, cd));
  _mm512_storeu_si512(to + 64, _mm512_maskz_unpacklo_epi64(kPairs, ab2, cd2));
  _mm512_storeu_si512(to + 96, _mm512_maskz_unpackhi_epi64(kPairs, ab2, cd2));
}

FASTMTE_AVX512_TARGET FASTMTE_INLINE void store_rounded(BFloat16* to, Vector x, int64_t n) {
  __m256i y;
  asm("vcvtneps2bf16 %1, %0" : "=v"(y) : "v"(x));
  if (n >= kWidth) return _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), y);
  std::memcpy(to, &y, n * sizeof(BFloat16));
}

// Weights as tiles of one part or two.
class SplitWeights {
 public:
  // Of n values a part.
  explicit SplitWeights(int64_t n) : n_(n), parts_(2 * n) {}

  // Before the first value is set.
  void clear() { has_rests_ = false; }

  // With a rest only where the tile has the first parts of inputs: the product of two rests is
  // nothing.
  void set(int64_t i, Scalar weight, bool with_rest) {
    const BFloat16 first = weight;
    const BFloat16 rest = with_rest ? weight - static_cast<Scalar>(first) : 0;
    parts_.data()[i] = first;
    parts_.data()[n_ + i] = rest;
    has_rests_ = has_rests_ || static_cast<Scalar>(rest) != 0;
  }

  bool has_rests() const { return has_rests_; }
  const BFloat16* firsts() { return parts_.data(); }
  const BFloat16* rests() { return parts_.data() + n_; }

 private:
  int64_t n_;
  Aligned<BFloat16> parts_;
  bool has_rests_ = false;
};

// All eight tiles of this thread whole.
FASTMTE_INLINE void set_whole(Tiles& tiles) {
  for (int tile = 0; tile < 8; ++tile) tiles.set_rows(tile, 16);
  tiles.load();
}

}  // namespace
}  // namespace fastmte::avx512

#endif
