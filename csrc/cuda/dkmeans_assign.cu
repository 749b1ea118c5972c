// dkmeans_assign on CUDA: one block deals all points.
//
// The turns depend on one another and there are few labels, so a second block would only add a
// grid-wide wait to each turn. It saves points that are on the device already a way to the host.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "cuda/launch.h"
#include "dkmeans_assign.h"

namespace fastmte {
namespace {

constexpr int kThreads = 512;

struct Greater {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return b > a ? b : a;
  }
};

struct Less {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return b < a ? b : a;
  }
};

// The extreme of all threads' values, for every thread.
template <typename T, typename Pick>
__device__ T reduce(T value, Pick pick) {
  __shared__ T values[kThreads];
  values[threadIdx.x] = value;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half)
      values[threadIdx.x] = pick(values[threadIdx.x], values[threadIdx.x + half]);
    __syncthreads();
  }
  const T result = values[0];
  __syncthreads();  // the next call may write before the slowest thread has read
  return result;
}

// Grid (1). points (D, L), so that neighbouring threads read neighbouring points; sums (K, D),
// distance (L).
__global__ void deal_kernel(const double* __restrict__ points, int64_t n_points, int64_t n_features,
                            const int64_t* __restrict__ seeds, int64_t n_members, double tie_part,
                            double* sums, double* distance, int64_t* labels, int64_t* order) {
  double largest = 0.0;
  for (int64_t i = threadIdx.x; i < n_points * n_features; i += kThreads)
    largest = fmax(largest, fabs(points[i]));
  const Scale scale = scale_of(reduce(largest, Greater()));

  for (int64_t point = threadIdx.x; point < n_points; point += kThreads) labels[point] = -1;
  __syncthreads();
  for (int64_t member = threadIdx.x; member < n_members; member += kThreads) {
    labels[seeds[member]] = member;
    order[member] = seeds[member];
    for (int64_t d = 0; d < n_features; ++d)
      sums[member * n_features + d] = scaled(points[d * n_points + seeds[member]], scale);
  }
  __syncthreads();

  for (int64_t turn = 0; turn < n_points - n_members; ++turn) {
    const int64_t member = member_of_turn(turn, n_members);
    double* sum = sums + member * n_features;
    const double size = size_at_turn(turn, n_members);
    largest = 0.0;
    for (int64_t point = threadIdx.x; point < n_points; point += kThreads) {
      if (labels[point] >= 0) continue;
      double squares = 0.0;
      for (int64_t d = 0; d < n_features; ++d) {
        const double difference = scaled(points[d * n_points + point], scale) - sum[d] / size;
        squares += difference * difference;
      }
      distance[point] = squares;
      largest = fmax(largest, squares);
    }
    const double threshold = reduce(largest, Greater()) * tie_part;
    int64_t first = n_points;  // a thread's points ascend: its first tie is its lowest
    for (int64_t point = threadIdx.x; point < n_points && first == n_points; point += kThreads)
      if (labels[point] < 0 && distance[point] >= threshold) first = point;
    const int64_t chosen = reduce(first, Less());
    for (int64_t d = threadIdx.x; d < n_features; d += kThreads)
      sum[d] += scaled(points[d * n_points + chosen], scale);
    if (threadIdx.x == 0) {
      labels[chosen] = member;
      order[n_members + turn] = chosen;
    }
    __syncthreads();
  }
}

// See fastmte/ops.py. O(L^2 D).
std::tuple<Tensor, Tensor> dkmeans_assign(const Tensor& points_, const Tensor& seeds_,
                                          double tie_tol) {
  check_dkmeans_assign(points_, seeds_, tie_tol);
  const torch::stable::accelerator::DeviceGuard guard(points_.get_device_index());
  const cudaStream_t stream = current_stream(points_);
  const Tensor points = torch::stable::contiguous(points_);
  const Tensor seeds = torch::stable::contiguous(seeds_);
  const int64_t n_points = points.size(0), n_features = points.size(1);
  const int64_t n_members = seeds.size(0);
  check_seeds(to_host(seeds.const_data_ptr<int64_t>(), n_members, stream).data(), n_members,
              n_points);
  check_finite<double>("dkmeans_assign", "points", points, stream);

  const Tensor columns = torch::stable::contiguous(torch::stable::transpose(points, 0, 1));
  Tensor sums = torch::stable::new_empty(points, {n_members, n_features});
  Tensor distance = torch::stable::new_empty(points, {n_points});
  Tensor labels = torch::stable::new_empty(seeds, {n_points});
  Tensor order = torch::stable::new_empty(seeds, {n_points});
  deal_kernel<<<1, kThreads, 0, stream>>>(
      columns.const_data_ptr<double>(), n_points, n_features, seeds.const_data_ptr<int64_t>(),
      n_members, 1 - tie_tol, sums.mutable_data_ptr<double>(), distance.mutable_data_ptr<double>(),
      labels.mutable_data_ptr<int64_t>(), order.mutable_data_ptr<int64_t>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return {labels, order};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastmte, CUDA, m) {
  m.impl("dkmeans_assign", TORCH_BOX(&dkmeans_assign));
}

}  // namespace fastmte
