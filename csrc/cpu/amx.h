// The tiles of AMX: 16 rows of 64 bytes, multiplied as bfloat16 with sums in float32.
//
// In assembly, which needs neither compiler flags nor attributes, and whose reads and writes the
// compiler sees.
#pragma once

#include <cstdint>

#include "simd.h"

#if defined(FASTMTE_HAS_AVX2) && defined(__linux__) && __has_include(<amxbf16intrin.h>)
#define FASTMTE_HAS_AMX 1
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fastmte {

#ifdef FASTMTE_HAS_AMX

// Whether the CPU has AMX for bfloat16 and the system lets this process use it; FASTMTE_ISA below
// 3 lets the tests do without.
inline bool has_amx() {
  static const bool value = [] {
    const char* text = std::getenv("FASTMTE_ISA");
    unsigned a = 0, b = 0, c = 0, d = 0;
    if ((text && *text && *text < '3') || isa() != Isa::kAvx512 ||
        !__get_cpuid_count(7, 0, &a, &b, &c, &d))
      return false;
    constexpr unsigned kTiles = 1u << 24, kBfloat16 = 1u << 22;
    constexpr long kRequestPermission = 0x1023, kTileData = 18;
    return (d & kTiles) && (d & kBfloat16) &&
           syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return value;
}

// The sizes of the eight tiles of this thread, until it is destroyed.
class Tiles {
 public:
  ~Tiles() { asm volatile("tilerelease"); }

  void set_rows(int tile, int rows) {
    config_.rows[tile] = rows;
    config_.row_bytes[tile] = rows ? 64 : 0;
  }

  // Takes effect now; all tiles are zeros then.
  void load() { asm volatile("ldtilecfg %0" : : "m"(config_)); }

 private:
  struct alignas(64) Config {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
  } config_;
};

template <int kTile>
FASTMTE_INLINE void tile_zero() {
  asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
}

template <int kTile>
FASTMTE_INLINE void tile_load(const void* from, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(kTile) : "memory");
}

template <int kTile>
FASTMTE_INLINE void tile_store(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(kTile) : "memory");
}

// sums += a b, of bfloat16 a (rows, 32) and b (32, 16), whose rows lie in pairs.
template <int kSums, int kA, int kB>
FASTMTE_INLINE void tile_multiply() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSums), "i"(kA), "i"(kB));
}

#else
inline bool has_amx() { return false; }
#endif

}  // namespace fastmte
