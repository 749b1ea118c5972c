// What dkmeans_assign accepts, and its arithmetic, on every device.
//
// Every product and sum that decides which point is taken is rounded on its own (the build forbids
// fused multiply-adds) and added in the order of the features, so all devices take the points in
// the same order.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "check.h"
#include "host_device.h"

namespace fastmte {

// What is subtracted from a feature whose values lie in [least, most]: where all are within a
// factor of two of each other the difference has no rounding, and a large offset is gone.
FASTMTE_HD inline double shift_of(double least, double most) {
  if (least > 0 && most <= 2 * least) return least;
  if (most < 0 && least >= 2 * most) return most;
  return 0;
}

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

// Equal values have equal bits afterwards: -0 becomes 0.
FASTMTE_HD inline double scaled(double value, double shift, const Scale& scale) {
  return (value - shift) * scale.first * scale.second + 0.0;
}

// Members take points in turn. Their centroid is the mean of all points they have, the paper's
// text, or of the last two, the authors' code; `seeds` names the first one or two of each.
FASTMTE_HD inline int64_t seeds_of_member(bool last_two) { return last_two ? 2 : 1; }

FASTMTE_HD inline int64_t member_of_turn(int64_t turn, int64_t n_members) {
  return turn % n_members;
}

FASTMTE_HD inline double size_at_turn(int64_t turn, int64_t n_members, bool last_two) {
  return last_two ? 2.0 : static_cast<double>(1 + turn / n_members);
}

inline void check_dkmeans_assign(const Tensor& points, const Tensor& seeds, double tie_tol,
                                 bool last_two) {
  constexpr const char* kOp = "dkmeans_assign";
  check_tensor(kOp, "points", points, 2, {ScalarType::Double}, points);
  FASTMTE_CHECK(seeds.dim() == 1 || seeds.dim() == 2, kOp, ": seeds must be 1-D or 2-D, got ",
                seeds.dim(), "-D");
  check_tensor(kOp, "seeds", seeds, seeds.dim(), {ScalarType::Long}, points);
  const int64_t n_seeds = seeds.size(seeds.dim() - 1);
  FASTMTE_CHECK(n_seeds >= 1 && n_seeds <= points.size(0), kOp, ": seeds.size(", seeds.dim() - 1,
                ") must be in [1, ", points.size(0), "], the number of points, got ", n_seeds);
  FASTMTE_CHECK(!last_two || n_seeds % 2 == 0, kOp,
                ": seeds must name two points of each member with last_two, got ", n_seeds);
  FASTMTE_CHECK(tie_tol >= 0 && tie_tol < 1, kOp, ": tie_tol must be in [0, 1), got ",
                number_text(tie_tol));
}

// The position of seed i, as a user would index a tensor of `n_dims`.
inline std::string seed_position(int64_t i, int64_t n_seeds, int64_t n_dims) {
  if (n_dims == 1) return "[" + std::to_string(i) + "]";
  return "[" + std::to_string(i / n_seeds) + ", " + std::to_string(i % n_seeds) + "]";
}

// Reads the seeds (n_runs, n_seeds), so they must be in host memory.
inline void check_seeds(const int64_t* seeds, int64_t n_runs, int64_t n_seeds, int64_t n_points,
                        int64_t n_dims) {
  constexpr const char* kOp = "dkmeans_assign";
  std::vector<int64_t> owner(n_points, -1);
  for (int64_t run = 0; run < n_runs; ++run) {
    const int64_t begin = run * n_seeds, end = begin + n_seeds;
    for (int64_t i = begin; i < end; ++i) {
      FASTMTE_CHECK(seeds[i] >= 0 && seeds[i] < n_points, kOp, ": seeds must be in [0, ", n_points,
                    "), got ", seeds[i], " at ", seed_position(i, n_seeds, n_dims));
      const int64_t earlier = owner[seeds[i]];
      FASTMTE_CHECK(earlier < begin, kOp, ": seeds must be distinct, got ", seeds[i], " at ",
                    seed_position(earlier, n_seeds, n_dims), " and ",
                    seed_position(i, n_seeds, n_dims));
      owner[seeds[i]] = i;
    }
  }
}

}  // namespace fastmte
