// One body, two instruction sets, chosen at run time: a portable library without -march.
//
// FASTMTE_CLONE_FOR_AVX2 marks the second copy of a function whose always-inlined body is written
// once. Call a clone from inside parallel_for: a lambda does not inherit its caller's target.
// AVX-512 was no faster in these kernels, and slower with clang.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#define FASTMTE_HAS_AVX2 1
#define FASTMTE_CLONE_FOR_AVX2 __attribute__((target("avx2,f16c")))
#endif
#define FASTMTE_INLINE static inline __attribute__((always_inline))

namespace fastmte {

// True where the AVX2 clones may run; FASTMTE_ISA=0 lets the tests reach the others.
inline bool has_avx2() {
#ifdef FASTMTE_HAS_AVX2
  static const bool value = [] {
    const char* cap = std::getenv("FASTMTE_ISA");
    if (cap && *cap == '0') return false;
    __builtin_cpu_init();
    // Every CPU with AVX2 has F16C, which older compilers cannot ask for by name.
    return __builtin_cpu_supports("avx2") != 0;
  }();
  return value;
#else
  return false;
#endif
}

// True where none of the n values is NaN or infinite: no exponent is all ones. Integers, since a
// float comparison with an early exit would not vectorize.
template <typename T>
FASTMTE_INLINE bool is_finite_body(const T* x, int64_t n) {
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  constexpr Bits kExponent = sizeof(T) == 4 ? 0x7f800000u : 0x7ff0000000000000u;
  Bits is_bad = 0;
  for (int64_t i = 0; i < n; ++i) {
    Bits bits;
    std::memcpy(&bits, x + i, sizeof bits);
    is_bad |= (bits & kExponent) == kExponent;
  }
  return is_bad == 0;
}

// Lowers `least` to `value`: the answer does not depend on which thread comes first.
inline void keep_least(std::atomic<int64_t>& least, int64_t value) {
  int64_t seen = least.load();
  while (value < seen && !least.compare_exchange_weak(seen, value)) {
  }
}

}  // namespace fastmte
