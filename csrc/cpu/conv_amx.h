// The sums of a bfloat16 convolution by AMX: 32 positions and 32 channels in four tiles.
#pragma once

#include "cpu/amx.h"
#include "cpu/conv_input.h"

#ifdef FASTMTE_HAS_AMX

namespace fastmte {

// Each step of 32 inputs loads two tiles of positions and two of weights for four products.
class AmxEngine {
 public:
  explicit AmxEngine(const ConvBlocks& blocks)
      : lower_((blocks.positions - blocks.half) * kConvOutputs) {
    for (const int tile : {0, 1, 2, 3, 4, 5}) tiles_.set_rows(tile, blocks.half);
    for (const int tile : {6, 7}) tiles_.set_rows(tile, 16);
  }

  // After another engine was at work.
  void start() { tiles_.load(); }

  FASTMTE_INLINE_MEMBER void begin() {
    tile_zero<0>();
    tile_zero<1>();
    tile_zero<2>();
    tile_zero<3>();
  }

  // As PlainEngine's. The tiles' products leave the core free for `work`, if it comes in portions
  // small enough for its window. Of `ahead`, which is read next, each step fetches some lines.
  template <typename Work>
  FASTMTE_AVX512_TARGET FASTMTE_INLINE_MEMBER void add(const ConvTaps& taps, const BFloat16* weight,
                                                       ConvAhead ahead, Work& work) {
    const int64_t stride = taps.stride * sizeof(BFloat16);
    for (int64_t dy = 0; dy < taps.n_rows; ++dy) {
      const BFloat16 *upper = taps.upper[dy], *lower = taps.lower[dy];
      const BFloat16* end = upper + taps.row_values;
      for (; upper < end; upper += kConvInputs, lower += kConvInputs, weight += 2 * kTile) {
        tile_load<4>(upper, stride);
        tile_load<6>(weight, 64);
        tile_load<7>(weight + kTile, 64);
        tile_load<5>(lower, stride);
        tile_multiply<0, 4, 6>();
        tile_multiply<1, 4, 7>();
        tile_multiply<2, 5, 6>();
        tile_multiply<3, 5, 7>();
        for (int64_t i = 0; i < ahead.n_lines; ++i, ahead.at += 32)
          _mm_prefetch(reinterpret_cast<const char*>(ahead.at), _MM_HINT_T1);
        work.some();
      }
    }
  }

  FASTMTE_INLINE_MEMBER void end(float* sums) {
    tile_store<0>(sums, kLine);
    tile_store<1>(sums + 16, kLine);
    tile_store<2>(sums + lower_, kLine);
    tile_store<3>(sums + lower_ + 16, kLine);
  }

  // Two vectors, rounded to the nearest even.
  FASTMTE_AVX512_TARGET FASTMTE_INLINE void store(BFloat16* to, const __m512 (&x)[2]) {
    __m512i y;
    asm("vcvtne2ps2bf16 %1, %2, %0" : "=v"(y) : "v"(x[0]), "v"(x[1]));
    _mm512_storeu_si512(to, y);
  }

 private:
  static constexpr int64_t kTile = 16 * 32, kLine = kConvOutputs * sizeof(float);

  int64_t lower_;
  Tiles tiles_;
};

}  // namespace fastmte

#endif
