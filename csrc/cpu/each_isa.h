// Compiles the kernels in the file FASTMTE_KERNELS once for each kind of vector of vector.h, in the
// namespaces fastmte::avx512, avx2, portable and float64.
//
//   #define FASTMTE_KERNELS "cpu/NAME_kernel.h"
//   #include "cpu/each_isa.h"
//
// That file has no include guard, opens namespace fastmte::FASTMTE_ISA and an unnamed one in it,
// and marks each function FASTMTE_TARGET. FASTMTE_CHOOSE(f) is then the f that runs fastest here.
// With FASTMTE_FLOAT32_ONLY before it, float64 is left out.
#include "vector.h"

#ifdef FASTMTE_HAS_AVX2

#define FASTMTE_ISA avx512
#define FASTMTE_TARGET FASTMTE_AVX512_TARGET
#include FASTMTE_KERNELS
#undef FASTMTE_ISA
#undef FASTMTE_TARGET

#define FASTMTE_ISA avx2
#define FASTMTE_TARGET FASTMTE_AVX2_TARGET
#include FASTMTE_KERNELS
#undef FASTMTE_ISA
#undef FASTMTE_TARGET

#define FASTMTE_CHOOSE(...)                                                        \
  (::fastmte::isa() == ::fastmte::Isa::kAvx512                                     \
       ? ::fastmte::avx512::__VA_ARGS__                                            \
       : (::fastmte::isa() == ::fastmte::Isa::kAvx2 ? ::fastmte::avx2::__VA_ARGS__ \
                                                    : ::fastmte::portable::__VA_ARGS__))

#else
#define FASTMTE_CHOOSE(...) ::fastmte::portable::__VA_ARGS__
#endif

#define FASTMTE_TARGET
#define FASTMTE_ISA portable
#include FASTMTE_KERNELS
#undef FASTMTE_ISA

#ifndef FASTMTE_FLOAT32_ONLY
#define FASTMTE_ISA float64
#include FASTMTE_KERNELS
#undef FASTMTE_ISA
#endif
#undef FASTMTE_TARGET
