// dkmeans_assign on the CPU: few points are all measured at every turn, many are scanned.
#include "dkmeans_assign.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <limits>
#include <tuple>
#include <vector>

#include "dkmeans_members.h"
#include "dkmeans_scan.h"
#include "simd.h"

namespace fastmte {
namespace {

constexpr int64_t kLanes = 8;
constexpr int64_t kFewPoints = 128;  // up to here measuring all is faster than sorting

// The free points in ascending order, eight side by side: lane l of block b holds point
// ids[8 b + l], its features at values[(b D + d) 8 + l]. A taken point stays until the next
// compaction with `alive` 0, and its distance is then -1.
struct FreePoints {
  std::vector<double> values;
  std::vector<double> alive;
  std::vector<int64_t> ids;
  int64_t n_features;

  int64_t n_blocks() const { return static_cast<int64_t>(alive.size()) / kLanes; }

  void append(int64_t id, const double* features, int64_t stride) {
    const int64_t at = static_cast<int64_t>(ids.size()), lane = at % kLanes;
    if (lane == 0) {
      values.resize(values.size() + n_features * kLanes, 0.0);
      alive.resize(alive.size() + kLanes, 0.0);
    }
    ids.push_back(id);
    alive[at] = 1.0;
    double* block = &values[0] + at / kLanes * n_features * kLanes + lane;
    for (int64_t d = 0; d < n_features; ++d) block[d * kLanes] = features[d * stride];
  }

  FreePoints compacted() const {
    FreePoints kept{{}, {}, {}, n_features};
    for (int64_t at = 0; at < static_cast<int64_t>(ids.size()); ++at)
      if (alive[at] != 0.0)
        kept.append(ids[at], &values[0] + at / kLanes * n_features * kLanes + at % kLanes, kLanes);
    return kept;
  }
};

// A vector as wide as a register of the instruction set: wider ones are split through memory.
using Two = double __attribute__((vector_size(16), aligned(8)));
using Four = double __attribute__((vector_size(32), aligned(8)));
using Eight = double __attribute__((vector_size(64), aligned(8)));

// Squared distances of all blocks to `centre`, -1 where not alive; returns the largest. Each lane
// adds its features in order, so the bits do not depend on the instruction set.
template <typename Vector>
FASTMTE_INLINE double measure_body(const double* values, const double* alive, int64_t n_blocks,
                                   int64_t n_features, const double* centre, double* distance) {
  constexpr int64_t kWidth = sizeof(Vector) / sizeof(double), kVectors = kLanes / kWidth;
  double largest = 0.0;
  for (int64_t block = 0; block < n_blocks; ++block) {
    Vector squares[kVectors] = {};
    const Vector* x = reinterpret_cast<const Vector*>(values + block * n_features * kLanes);
    for (int64_t d = 0; d < n_features; ++d)
      for (int64_t i = 0; i < kVectors; ++i) {
        const Vector difference = x[d * kVectors + i] - centre[d];
        squares[i] += difference * difference;
      }
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const int64_t at = block * kLanes + lane;
      distance[at] = alive[at] != 0.0 ? squares[lane / kWidth][lane % kWidth] : -1.0;
      largest = distance[at] > largest ? distance[at] : largest;
    }
  }
  return largest;
}

double measure_baseline(const double* values, const double* alive, int64_t n_blocks,
                        int64_t n_features, const double* centre, double* distance) {
  return measure_body<Two>(values, alive, n_blocks, n_features, centre, distance);
}

#ifdef FASTMTE_HAS_AVX2
FASTMTE_CLONE_FOR_AVX2 double measure_avx2(const double* values, const double* alive,
                                           int64_t n_blocks, int64_t n_features,
                                           const double* centre, double* distance) {
  return measure_body<Four>(values, alive, n_blocks, n_features, centre, distance);
}

FASTMTE_CLONE_FOR_AVX512 double measure_avx512(const double* values, const double* alive,
                                               int64_t n_blocks, int64_t n_features,
                                               const double* centre, double* distance) {
  return measure_body<Eight>(values, alive, n_blocks, n_features, centre, distance);
}
#else
#define measure_avx2 measure_baseline
#define measure_avx512 measure_baseline
#endif

// Every turn measures every free point. Returns how many distances were computed.
int64_t measure_all(const Points& points, double tie_part, Members& members) {
  const auto measure = isa() == Isa::kAvx512 ? measure_avx512
                       : isa() == Isa::kAvx2 ? measure_avx2
                                             : measure_baseline;
  FreePoints free{{}, {}, {}, points.n_features};
  for (int64_t point = 0; point < points.n; ++point)
    if (members.is_free(point)) free.append(point, points[point], 1);

  std::vector<double> centre(points.n_features), distance(free.alive.size());
  int64_t n_measured = 0;
  for (int64_t turn = 0; members.turns_left() > 0; ++turn) {
    members.centre(member_of_turn(turn, members.n()), centre.data());
    const double largest = measure(free.values.data(), free.alive.data(), free.n_blocks(),
                                   points.n_features, centre.data(), distance.data());
    n_measured += free.n_blocks() * kLanes;
    int64_t at = 0;  // ascending points: the first that is tied is the lowest
    while (!(distance[at] >= largest * tie_part)) ++at;
    members.take(free.ids[at]);
    free.alive[at] = 0.0;
    if (members.turns_left() * 4 < static_cast<int64_t>(free.ids.size()) * 3)
      free = free.compacted();
  }
  return n_measured;
}

// x (n, D) after shift and scale; fails for a value that is not finite.
std::vector<double> unit_points(const double* x, int64_t n_points, int64_t n_features) {
  constexpr double kMost = std::numeric_limits<double>::max();
  std::vector<double> least(n_features, kMost), most(n_features, -kMost);
  bool is_finite = true;
  for (int64_t point = 0; point < n_points; ++point)
    for (int64_t d = 0; d < n_features; ++d) {
      const double value = x[point * n_features + d];
      is_finite &= std::abs(value) <= kMost;
      least[d] = value < least[d] ? value : least[d];
      most[d] = value > most[d] ? value : most[d];
    }
  if (!is_finite) {
    int64_t at = 0;
    while (std::isfinite(x[at])) ++at;
    fail_not_finite("dkmeans_assign", "points", x[at], at, n_features);
  }
  double largest = 0.0;
  for (int64_t d = 0; d < n_features; ++d) {
    const double shift = shift_of(least[d], most[d]);
    largest = std::max({largest, std::abs(least[d] - shift), std::abs(most[d] - shift)});
    least[d] = shift;
  }
  const Scale scale = scale_of(largest);
  std::vector<double> unit(n_points * n_features);
  for (int64_t point = 0; point < n_points; ++point)
    for (int64_t d = 0; d < n_features; ++d)
      unit[point * n_features + d] = scaled(x[point * n_features + d], least[d], scale);
  return unit;
}

// See fastmte/ops.py. The third result is how many distances were computed, (runs).
std::tuple<Tensor, Tensor, Tensor> dkmeans_assign_counted(const Tensor& points_,
                                                          const Tensor& seeds_, double tie_tol,
                                                          bool last_two) {
  check_dkmeans_assign(points_, seeds_, tie_tol, last_two);
  const Tensor points = torch::stable::contiguous(points_);
  const Tensor seeds = torch::stable::contiguous(seeds_);
  const int64_t n_points = points.size(0), n_seeds = seeds.size(seeds.dim() - 1);
  const int64_t n_runs = seeds.dim() == 2 ? seeds.size(0) : 1;
  const int64_t* seed = seeds.const_data_ptr<int64_t>();
  check_seeds(seed, n_runs, n_seeds, n_points, seeds.dim());
  const std::vector<double> values =
      unit_points(points.const_data_ptr<double>(), n_points, points.size(1));
  const Points unit{values.data(), n_points, points.size(1)};

  const bool is_matrix = seeds.dim() == 2;
  const auto empty = [&](bool is_matrix_of) {
    return is_matrix_of ? torch::stable::new_empty(seeds, {n_runs, n_points})
                        : torch::stable::new_empty(seeds, {n_points});
  };
  Tensor labels = empty(is_matrix), order = empty(is_matrix);
  Tensor counts =
      is_matrix ? torch::stable::new_empty(seeds, {n_runs}) : torch::stable::new_empty(seeds, {});
  int64_t *label = labels.mutable_data_ptr<int64_t>(), *taken = order.mutable_data_ptr<int64_t>();
  int64_t* count = counts.mutable_data_ptr<int64_t>();
  const bool is_few = n_points <= kFewPoints;
  const EqualPoints equal(is_few ? Points{nullptr, 0, 0} : unit);
  torch::stable::parallel_for(0, n_runs, 1, [&](int64_t begin, int64_t end) {
    for (int64_t run = begin; run < end; ++run) {
      Members members(unit, seed + run * n_seeds, n_seeds, last_two, label + run * n_points,
                      taken + run * n_points);
      count[run] = is_few ? measure_all(unit, 1 - tie_tol, members)
                          : Scan(unit, equal, 1 - tie_tol, members).run();
    }
  });
  return {labels, order, counts};
}

std::tuple<Tensor, Tensor> dkmeans_assign(const Tensor& points, const Tensor& seeds, double tie_tol,
                                          bool last_two) {
  const auto [labels, order, counts] = dkmeans_assign_counted(points, seeds, tie_tol, last_two);
  return {labels, order};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastmte, CPU, m) {
  m.impl("dkmeans_assign", TORCH_BOX(&dkmeans_assign));
  m.impl("dkmeans_assign.counted", TORCH_BOX(&dkmeans_assign_counted));
}

}  // namespace fastmte
