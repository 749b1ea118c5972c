// One body, several instruction sets, chosen at run time: a portable library without -march.
//
// Two ways to write one. FASTMTE_CLONE_FOR_AVX2 marks the second copy of a function whose
// always-inlined body is written once, FASTMTE_CLONE_FOR_AVX512 the third, where it is faster; this
// is for loops that the compiler vectorizes. A kernel
// that counts registers is written in the vectors of vector.h and compiled by each_isa.h.
// Call either from inside parallel_for: a lambda does not inherit its caller's target.
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
#define FASTMTE_CLONE_FOR_AVX512 __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,f16c")))
#endif
#define FASTMTE_INLINE static inline __attribute__((always_inline))
#define FASTMTE_INLINE_MEMBER inline __attribute__((always_inline))
// Before a loop of a few constant steps whose arrays are to live in registers.
#ifdef __clang__
#define FASTMTE_UNROLL _Pragma("unroll")
#else
#define FASTMTE_UNROLL _Pragma("GCC unroll 16")
#endif

namespace fastmte {

enum class Isa { kPortable, kAvx2, kAvx512 };

// The widest instruction set that may run; FASTMTE_ISA=0 and 1 let the tests reach the others.
inline Isa isa() {
#ifdef FASTMTE_HAS_AVX2
  static const Isa value = [] {
    const char* text = std::getenv("FASTMTE_ISA");
    const char cap = text && *text ? *text : '2';
    __builtin_cpu_init();
    // Every CPU with AVX2 has F16C, which older compilers cannot ask for by name.
    if (cap == '0' || !__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
      return Isa::kPortable;
    const bool has_avx512 =
        __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return cap != '1' && has_avx512 ? Isa::kAvx512 : Isa::kAvx2;
  }();
  return value;
#else
  return Isa::kPortable;
#endif
}

inline bool has_avx2() { return isa() != Isa::kPortable; }

// Makes the compiler load again what it has read through x. It would keep such values in registers
// that a kernel needs for its sums, and those in memory.
template <typename T>
FASTMTE_INLINE void forget(const T*& x) {
  asm("" : "+r"(x));
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
