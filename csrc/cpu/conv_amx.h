// The sums of conv_pool_act by AMX: 32 positions and 32 channels in four tiles.
#pragma once

#include "cpu/amx.h"
#include "cpu/conv_input.h"

#ifdef FASTMTE_HAS_AMX

namespace fastmte {

// Each step of 32 inputs loads two tiles of positions and two of weights for four products.
class AmxEngine {
 public:
  explicit AmxEngine(const ConvSizes& sizes) : sizes_(sizes) {}

  // As PlainEngine's. The tiles' products leave the core free for `meanwhile`, if it comes in
  // portions small enough for its window.
  template <typename Work>
  void sums(const BFloat16* const* rows, int64_t column, int64_t n_columns, const BFloat16* weight,
            float* sums, Work& meanwhile) {
    const int64_t upper = (n_columns + 1) / 2, lower = n_columns / 2;
    if (n_columns != n_columns_) set_sizes(upper, lower);
    n_columns_ = n_columns;
    const int64_t offset = column * sizes_.column_stride * sizes_.inputs;
    if (lower > 0)
      two(rows, offset, upper, weight, sums, meanwhile);
    else
      one(rows, offset, weight, sums, meanwhile);
  }

  // Two vectors, rounded to the nearest even.
  FASTMTE_AVX512_TARGET static void store(BFloat16* to, const __m512 (&x)[2]) {
    __m512i y;
    asm("vcvtne2ps2bf16 %1, %2, %0" : "=v"(y) : "v"(x[0]), "v"(x[1]));
    _mm512_storeu_si512(to, y);
  }

 private:
  static constexpr int64_t kTile = 16 * 32, kLine = kConvOutputs * sizeof(float);

  void set_sizes(int upper, int lower) {
    for (const int tile : {0, 1, 4}) tiles_.set_rows(tile, upper);
    for (const int tile : {2, 3, 5}) tiles_.set_rows(tile, lower);
    for (const int tile : {6, 7}) tiles_.set_rows(tile, 16);
    tiles_.load();
  }

  template <typename Work>
  void two(const BFloat16* const* rows, int64_t offset, int64_t upper, const BFloat16* weight,
           float* sums, Work& meanwhile) {
    const int64_t stride = sizes_.column_stride * sizes_.inputs;
    tile_zero<0>();
    tile_zero<1>();
    tile_zero<2>();
    tile_zero<3>();
    for (int64_t dy = 0; dy < sizes_.kernel_rows; ++dy) {
      const BFloat16* x = rows[dy] + offset;
      const BFloat16* end = x + sizes_.kernel_columns * sizes_.inputs;
      for (; x < end; x += kConvInputs, weight += 2 * kTile) {
        tile_load<4>(x, 2 * stride);
        tile_load<6>(weight, 64);
        tile_load<7>(weight + kTile, 64);
        tile_load<5>(x + upper * stride, 2 * stride);
        tile_multiply<0, 4, 6>();
        tile_multiply<1, 4, 7>();
        tile_multiply<2, 5, 6>();
        tile_multiply<3, 5, 7>();
        meanwhile.some();
      }
    }
    tile_store<0>(sums, kLine);
    tile_store<1>(sums + 16, kLine);
    tile_store<2>(sums + upper * kConvOutputs, kLine);
    tile_store<3>(sums + upper * kConvOutputs + 16, kLine);
  }

  template <typename Work>
  void one(const BFloat16* const* rows, int64_t offset, const BFloat16* weight, float* sums,
           Work& meanwhile) {
    tile_zero<0>();
    tile_zero<1>();
    for (int64_t dy = 0; dy < sizes_.kernel_rows; ++dy) {
      const BFloat16* x = rows[dy] + offset;
      const BFloat16* end = x + sizes_.kernel_columns * sizes_.inputs;
      for (; x < end; x += kConvInputs, weight += 2 * kTile) {
        tile_load<4>(x, 64);  // of one row
        tile_load<6>(weight, 64);
        tile_load<7>(weight + kTile, 64);
        tile_multiply<0, 4, 6>();
        tile_multiply<1, 4, 7>();
        meanwhile.some();
      }
    }
    tile_store<0>(sums, kLine);
    tile_store<1>(sums + 16, kLine);
  }

  const ConvSizes& sizes_;
  Tiles tiles_;
  int64_t n_columns_ = -1;
};

}  // namespace fastmte

#endif
