// See label_sums.h.
#include "cpu/label_sums.h"

#include "cpu/simd.h"
#include "label_centroids.h"

namespace fastmte {
namespace {

namespace portable {
#define FASTMTE_TARGET
constexpr int kBytes = 16;
#include "cpu/label_sums_body.h"
#undef FASTMTE_TARGET
}  // namespace portable

#ifdef FASTMTE_HAS_AVX2
namespace avx2 {
#define FASTMTE_TARGET FASTMTE_CLONE_FOR_AVX2
constexpr int kBytes = 32;
#include "cpu/label_sums_body.h"
#undef FASTMTE_TARGET
}  // namespace avx2

namespace avx512 {
#define FASTMTE_TARGET FASTMTE_CLONE_FOR_AVX512
constexpr int kBytes = 64;
#include "cpu/label_sums_body.h"
#undef FASTMTE_TARGET
}  // namespace avx512
#endif

}  // namespace

template <typename T>
AddSongs<T> add_songs() {
#ifdef FASTMTE_HAS_AVX2
  if (isa() == Isa::kAvx512) return avx512::add_songs<T>;
  if (isa() == Isa::kAvx2) return avx2::add_songs<T>;
#endif
  return portable::add_songs<T>;
}

template AddSongs<float> add_songs();
template AddSongs<double> add_songs();

}  // namespace fastmte
