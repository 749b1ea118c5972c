// Reads the rows of a crop from a file of floats, as a plain function: no torch.
//
// A mapping of the file would do without a call a row, but not be faster where its pages came from
// a disk: each of them is then entered and taken out on its own, the neighbours of a row's, too.
#include <torch/headeronly/util/Half.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <memory>
#include <new>

#include "cpu/simd.h"

namespace fastmte {
namespace {

using Half = torch::headeronly::Half;

// Whether the file has n_bytes from `offset` on; fills `to` as far as it has.
bool read_all(int descriptor, int64_t offset, char* to, int64_t n_bytes) {
  for (int64_t done = 0; done < n_bytes;) {
    const int64_t got = pread(descriptor, to + done, n_bytes - done, offset + done);
    if (got == 0 || (got < 0 && errno != EINTR)) return false;
    if (got > 0) done += got;
  }
  return true;
}

#ifdef FASTMTE_HAS_AVX2
FASTMTE_CLONE_FOR_AVX512 bool is_finite_avx512(const float* x, int64_t n) {
  return is_finite_body(x, n);
}
FASTMTE_CLONE_FOR_AVX2 bool is_finite_avx2(const float* x, int64_t n) {
  return is_finite_body(x, n);
}
#endif

bool is_finite(const float* x, int64_t n) {
#ifdef FASTMTE_HAS_AVX2
  if (isa() == Isa::kAvx512) return is_finite_avx512(x, n);
  if (has_avx2()) return is_finite_avx2(x, n);
#endif
  return is_finite_body(x, n);
}

enum Outcome { kFinite, kEndsEarly, kNotFinite };

Outcome read_rows(int descriptor, int64_t offset, int64_t stride, bool is_half, int64_t n,
                  int64_t n_values, float* out) {
  const int64_t n_bytes = n_values * (is_half ? sizeof(Half) : sizeof(float));
  const std::unique_ptr<Half[]> halves(is_half ? new Half[n_values] : nullptr);
  bool is_all_finite = true;
  for (int64_t row = 0; row < n; ++row) {
    float* const to = out + row * n_values;
    char* const room =
        is_half ? reinterpret_cast<char*>(halves.get()) : reinterpret_cast<char*>(to);
    if (!read_all(descriptor, offset + row * stride, room, n_bytes)) return kEndsEarly;
    if (is_half)
      for (int64_t i = 0; i < n_values; ++i) to[i] = static_cast<float>(halves[i]);
    is_all_finite &= is_finite(to, n_values);  // while the row is in the cache
  }
  return is_all_finite ? kFinite : kNotFinite;
}

}  // namespace
}  // namespace fastmte

// offset and stride in bytes, out (n, n_values). Returns 0 where all is well, 1 where the file has
// fewer rows or cannot be read, 2 where a value is NaN or infinite, 3 where memory is short. For
// ctypes.
extern "C" __attribute__((visibility("default"))) int fastmte_read_rows(int descriptor,
                                                                        int64_t offset,
                                                                        int64_t stride, int is_half,
                                                                        int64_t n, int64_t n_values,
                                                                        float* out) {
  try {
    return fastmte::read_rows(descriptor, offset, stride, is_half != 0, n, n_values, out);
  } catch (const std::bad_alloc&) {
    return 3;
  }
}
