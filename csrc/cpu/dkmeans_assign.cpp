// dkmeans_assign on the CPU: every turn measures every free point, eight at a time.
#include "dkmeans_assign.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "simd.h"

namespace fastmte {
namespace {

constexpr int64_t kLanes = 8;

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
#else
#define measure_avx2 measure_baseline
#endif

// points (n, d) row-major, about 1. Serial: a turn depends on the one before.
void deal(const double* points, int64_t n_points, int64_t n_features, const int64_t* seeds,
          int64_t n_members, double tie_part, int64_t* labels, int64_t* order) {
  const auto measure = has_avx2() ? measure_avx2 : measure_baseline;
  std::fill(labels, labels + n_points, -1);
  std::vector<double> sums(n_members * n_features);
  for (int64_t member = 0; member < n_members; ++member) {
    labels[seeds[member]] = member;
    order[member] = seeds[member];
    std::copy_n(points + seeds[member] * n_features, n_features, &sums[0] + member * n_features);
  }
  FreePoints free{{}, {}, {}, n_features};
  for (int64_t point = 0; point < n_points; ++point)
    if (labels[point] < 0) free.append(point, points + point * n_features, 1);

  const int64_t n_turns = n_points - n_members;
  std::vector<double> centre(n_features), distance(free.alive.size());
  for (int64_t turn = 0; turn < n_turns; ++turn) {
    const int64_t member = member_of_turn(turn, n_members);
    double* sum = &sums[0] + member * n_features;
    const double size = size_at_turn(turn, n_members);
    for (int64_t d = 0; d < n_features; ++d) centre[d] = sum[d] / size;
    const double largest = measure(free.values.data(), free.alive.data(), free.n_blocks(),
                                   n_features, centre.data(), distance.data());
    const double threshold = largest * tie_part;
    int64_t at = 0;  // ascending points: the first that is tied is the lowest
    while (!(distance[at] >= threshold)) ++at;

    const int64_t chosen = free.ids[at];
    free.alive[at] = 0.0;
    for (int64_t d = 0; d < n_features; ++d) sum[d] += points[chosen * n_features + d];
    labels[chosen] = member;
    order[n_members + turn] = chosen;
    const int64_t n_free = n_turns - turn - 1;
    if (n_free * 4 < static_cast<int64_t>(free.ids.size()) * 3) free = free.compacted();
  }
}

// See fastmte/ops.py. O(L^2 D).
std::tuple<Tensor, Tensor> dkmeans_assign(const Tensor& points_, const Tensor& seeds_,
                                          double tie_tol) {
  check_dkmeans_assign(points_, seeds_, tie_tol);
  const Tensor points = torch::stable::contiguous(points_);
  const Tensor seeds = torch::stable::contiguous(seeds_);
  const int64_t n_points = points.size(0), n_features = points.size(1);
  const int64_t* seed = seeds.const_data_ptr<int64_t>();
  check_seeds(seed, seeds.size(0), n_points);

  const double* x = points.const_data_ptr<double>();
  double largest = 0.0;
  for (int64_t i = 0; i < points.numel(); ++i) {
    if (!std::isfinite(x[i])) fail_not_finite("dkmeans_assign", "points", x[i], i, n_features);
    largest = std::max(largest, std::abs(x[i]));
  }
  const Scale scale = scale_of(largest);
  std::vector<double> unit(points.numel());
  for (int64_t i = 0; i < points.numel(); ++i) unit[i] = scaled(x[i], scale);

  Tensor labels = torch::stable::new_empty(seeds, {n_points});
  Tensor order = torch::stable::new_empty(seeds, {n_points});
  deal(unit.data(), n_points, n_features, seed, seeds.size(0), 1 - tie_tol,
       labels.mutable_data_ptr<int64_t>(), order.mutable_data_ptr<int64_t>());
  return {labels, order};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastmte, CPU, m) { m.impl("dkmeans_assign", TORCH_BOX(&dkmeans_assign)); }

}  // namespace fastmte
