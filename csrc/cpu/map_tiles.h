// Sums of products of blocks of 32 x 32, in the tiles of AMX.
#pragma once

#include "cpu/amx.h"
#include "cpu/vector.h"

#ifdef FASTMTE_HAS_AMX

namespace fastmte {

// Two tiles of rows times two of columns; see PlainMapTiles for what the functions mean.
class AmxMapTiles {
 public:
  explicit AmxMapTiles(int64_t rows) : rows_(rows) {
    for (const int tile : {0, 1, 2, 3, 4, 5}) tiles_.set_rows(tile, static_cast<int>(rows));
    for (const int tile : {6, 7}) tiles_.set_rows(tile, 16);
    tiles_.load();
  }

  void zero() {
    tile_zero<0>();
    tile_zero<1>();
    tile_zero<2>();
    tile_zero<3>();
  }

  void load(const float* sums, int64_t pitch) {
    const int64_t bytes = pitch * sizeof(float);
    tile_load<0>(sums, bytes);
    tile_load<1>(sums + 16, bytes);
    tile_load<2>(sums + rows_ * pitch, bytes);
    tile_load<3>(sums + rows_ * pitch + 16, bytes);
  }

  void store(float* sums, int64_t pitch) {
    const int64_t bytes = pitch * sizeof(float);
    tile_store<0>(sums, bytes);
    tile_store<1>(sums + 16, bytes);
    tile_store<2>(sums + rows_ * pitch, bytes);
    tile_store<3>(sums + rows_ * pitch + 16, bytes);
  }

  void step(const BFloat16* a, int64_t pitch, const BFloat16* left, const BFloat16* right) {
    const int64_t bytes = pitch * sizeof(BFloat16);
    tile_load<4>(a, bytes);
    tile_load<6>(left, 64);
    tile_load<7>(right, 64);
    tile_load<5>(a + rows_ * pitch, bytes);
    tile_multiply<0, 4, 6>();
    tile_multiply<1, 4, 7>();
    tile_multiply<2, 5, 6>();
    tile_multiply<3, 5, 7>();
  }

  // Past the caches, to a cache line's begin: what is written there need not be read before.
  FASTMTE_AVX512_TARGET static void put(const float* sums, float* to) {
    for (int i = 0; i < 32; i += 16) {
      const __m512 x = _mm512_loadu_ps(sums + i);
      asm volatile("vmovntps %1, %0" : "=m"(*reinterpret_cast<float (*)[16]>(to + i)) : "v"(x));
    }
  }
  static void end_puts() { asm volatile("sfence" ::: "memory"); }

 private:
  int64_t rows_;
  Tiles tiles_;
};

}  // namespace fastmte

#endif
