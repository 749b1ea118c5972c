// Vectors of 16 bytes in the compiler's own operators. No include guard: vector.h includes it in
// two namespaces, each with its own Scalar and Bits.

using Vector = Scalar __attribute__((vector_size(16)));
constexpr int kWidth = 16 / sizeof(Scalar), kRegisters = 16;
constexpr bool kHasPick = false;

FASTMTE_INLINE Vector broadcast(Scalar x) {
  Vector result{};
  for (int lane = 0; lane < kWidth; ++lane) result[lane] = x;
  return result;
}

FASTMTE_INLINE Vector load(const Scalar* x) {
  Vector result;
  std::memcpy(&result, x, sizeof result);
  return result;
}

FASTMTE_INLINE void store(Scalar* to, Vector x) { std::memcpy(to, &x, sizeof x); }

FASTMTE_INLINE Vector load(const BFloat16* x) {
  Vector result{};
  for (int lane = 0; lane < kWidth; ++lane) result[lane] = static_cast<float>(x[lane]);
  return result;
}

FASTMTE_INLINE void store_upper_halves(BFloat16* to, Bits x) {
  for (int lane = 0; lane < kWidth; ++lane) to[lane].x = static_cast<uint16_t>(x[lane] >> 16);
}

FASTMTE_INLINE Bits load_bytes(const uint8_t* x) {
  Bits result{};
  for (int lane = 0; lane < kWidth; ++lane) result[lane] = x[lane];
  return result;
}

FASTMTE_INLINE void store_bytes(uint8_t* to, Bits x) {
  for (int lane = 0; lane < kWidth; ++lane) to[lane] = static_cast<uint8_t>(x[lane]);
}

// Rounded twice: a machine without fused multiply-adds would call a function for each.
FASTMTE_INLINE Vector fma(Vector a, Vector b, Vector c) { return a * b + c; }

FASTMTE_INLINE Vector where(Bits mask, Vector yes, Vector no) {
  return (Vector)((mask & (Bits)yes) | (~mask & (Bits)no));
}

FASTMTE_INLINE Vector max(Vector a, Vector b) { return where(a > b, a, b); }

FASTMTE_INLINE Vector where_nan(Vector x, Vector yes, Vector no) { return where(x != x, yes, no); }

FASTMTE_INLINE Vector max_keeping_nan(Vector a, Vector b) { return where_nan(a, a, max(a, b)); }

FASTMTE_INLINE Vector where_negative(Vector x, Vector yes, Vector no) {
  return where(x < Vector{}, yes, no);
}

FASTMTE_INLINE Vector shifted(Vector x, Scalar last) {
  for (int lane = 1; lane < kWidth; ++lane) x[lane - 1] = x[lane];
  x[kWidth - 1] = last;
  return x;
}

FASTMTE_INLINE void sum_lanes(Vector a, Vector b, Vector c, Vector d, Scalar* to) {
  const Vector all[] = {a, b, c, d};
  for (int i = 0; i < 4; ++i) {
    to[i] = all[i][0];
    for (int lane = 1; lane < kWidth; ++lane) to[i] += all[i][lane];
  }
}

FASTMTE_INLINE void transpose(Vector (&x)[kWidth]) {
  Scalar values[kWidth][kWidth];
  std::memcpy(values, x, sizeof values);
  for (int i = 0; i < kWidth; ++i)
    for (int lane = 0; lane < kWidth; ++lane) x[i][lane] = values[lane][i];
}

FASTMTE_INLINE void load_columns(const Scalar* const* rows, int64_t first, Vector (&x)[8]) {
  for (int j = 0; j < 8; ++j) {
    Scalar lanes[kWidth];
    for (int lane = 0; lane < kWidth; ++lane) lanes[lane] = rows[lane][first + j];
    x[j] = load(lanes);
  }
}

#include "vector_math.h"
