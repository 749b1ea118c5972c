// What dkmeans_assign accepts, and its arithmetic, on every device.
//
// Every product and sum here is rounded on its own (the build forbids fused multiply-adds), so
// all devices take the points in the same order.
#pragma once

#include <cmath>
#include <cstdint>
#include <unordered_map>

#include "check.h"
#include "host_device.h"

namespace fastmte {

// Two powers of two whose product brings a largest value to about 1: one power of 1e-308 would
// overflow.
struct Scale {
  double first, second;
};

FASTMTE_HD inline Scale scale_of(double largest) {
  int exponent = 0;
  std::frexp(largest, &exponent);
  const int half = exponent / 2;
  return {std::ldexp(1.0, -half), std::ldexp(1.0, half - exponent)};
}

FASTMTE_HD inline double scaled(double value, const Scale& scale) {
  return value * scale.first * scale.second;
}

// Members take points in turn; the first ones have one point each, their seed.
FASTMTE_HD inline int64_t member_of_turn(int64_t turn, int64_t n_members) {
  return turn % n_members;
}

FASTMTE_HD inline double size_at_turn(int64_t turn, int64_t n_members) {
  return static_cast<double>(1 + turn / n_members);
}

inline void check_dkmeans_assign(const Tensor& points, const Tensor& seeds, double tie_tol) {
  constexpr const char* kOp = "dkmeans_assign";
  check_tensor(kOp, "points", points, 2, {ScalarType::Double}, points);
  check_tensor(kOp, "seeds", seeds, 1, {ScalarType::Long}, points);
  FASTMTE_CHECK(seeds.size(0) >= 1 && seeds.size(0) <= points.size(0), kOp,
                ": seeds.size(0) must be in [1, ", points.size(0), "], the number of points, got ",
                seeds.size(0));
  FASTMTE_CHECK(tie_tol >= 0 && tie_tol < 1, kOp, ": tie_tol must be in [0, 1), got ",
                number_text(tie_tol));
}

// Reads the seeds, so they must be in host memory.
inline void check_seeds(const int64_t* seeds, int64_t n_seeds, int64_t n_points) {
  check_range("dkmeans_assign", "seeds", seeds, n_seeds, n_points);
  std::unordered_map<int64_t, int64_t> owner;
  for (int64_t i = 0; i < n_seeds; ++i) {
    const auto [earlier, is_new] = owner.try_emplace(seeds[i], i);
    FASTMTE_CHECK(is_new, "dkmeans_assign: seeds must be distinct, got ", seeds[i], " at [",
                  earlier->second, "] and [", i, "]");
  }
}

}  // namespace fastmte
