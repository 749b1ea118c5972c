// label_centroids on CUDA: one block sums one label's songs of one chunk.
#include <torch/csrc/stable/library.h>

#include "cuda/launch.h"
#include "label_centroids.h"

namespace fastmte {
namespace {

constexpr int kThreads = 128;

// Grid (n_labels, n_chunks), partial sums (n_chunks, L, D) and counts (n_chunks, L). The flag of a
// song is the same for a whole block, so the branch never diverges; a thread owns features and
// adds them in song order, as the CPU does.
template <typename T>
__global__ void sum_kernel(const T* __restrict__ features, const bool* __restrict__ labels,
                           int64_t n_songs, int64_t n_features, double* __restrict__ sums,
                           int64_t* __restrict__ counts) {
  const int64_t label = blockIdx.x, n_labels = gridDim.x, chunk = blockIdx.y;
  const int64_t size = songs_per_chunk(n_songs);
  const int64_t begin = chunk * size, end = begin + size < n_songs ? begin + size : n_songs;
  for (int64_t d = threadIdx.x; d < n_features; d += kThreads) {
    double sum = 0.0;
    for (int64_t song = begin; song < end; ++song)
      if (labels[song * n_labels + label])
        sum += static_cast<double>(features[song * n_features + d]);
    sums[(chunk * n_labels + label) * n_features + d] = sum;
  }
  if (threadIdx.x == 0) {
    int64_t count = 0;
    for (int64_t song = begin; song < end; ++song) count += labels[song * n_labels + label];
    counts[chunk * n_labels + label] = count;
  }
}

// Grid (n_labels): the chunks' sums in their order, divided. `fault`: the least label without
// songs.
template <typename T>
__global__ void mean_kernel(const double* __restrict__ sums, const int64_t* __restrict__ counts,
                            int64_t chunks, int64_t n_features, T* __restrict__ centroids,
                            long long* fault) {
  const int64_t label = blockIdx.x, n_labels = gridDim.x;
  int64_t count = 0;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) count += counts[chunk * n_labels + label];
  if (count == 0) {
    if (threadIdx.x == 0) atomicMin(fault, static_cast<long long>(label));
    return;
  }
  for (int64_t d = threadIdx.x; d < n_features; d += kThreads) {
    double total = 0.0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk)
      total += sums[(chunk * n_labels + label) * n_features + d];
    centroids[label * n_features + d] = static_cast<T>(total / static_cast<double>(count));
  }
}

// Grid (n_songs), labels (N, L) false before.
__global__ void mark_kernel(const int64_t* __restrict__ crow, const int64_t* __restrict__ col,
                            int64_t n_labels, bool* __restrict__ labels) {
  const int64_t song = blockIdx.x;
  for (int64_t pair = crow[song] + threadIdx.x; pair < crow[song + 1]; pair += blockDim.x)
    labels[song * n_labels + col[pair]] = true;
}

template <typename T>
void mean(const Tensor& features, const Tensor& labels, Tensor& centroids) {
  const int64_t n_songs = features.size(0), n_features = features.size(1);
  const int64_t n_labels = labels.size(1), chunks = n_chunks(n_songs);
  const cudaStream_t stream = current_stream(features);
  check_finite<T>("label_centroids", "features", features, stream);
  if (n_labels == 0) return;
  check_has_song(n_songs, 0);

  Tensor sums =
      torch::stable::new_empty(features, {chunks, n_labels, n_features}, ScalarType::Double);
  Tensor counts = torch::stable::new_empty(features, {chunks, n_labels}, ScalarType::Long);
  const dim3 grid(static_cast<unsigned>(n_labels), static_cast<unsigned>(chunks));
  sum_kernel<<<grid, kThreads, 0, stream>>>(
      features.const_data_ptr<T>(), labels.const_data_ptr<bool>(), n_songs, n_features,
      sums.mutable_data_ptr<double>(), counts.mutable_data_ptr<int64_t>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  const LeastFault fault(features, stream);
  mean_kernel<<<grid.x, kThreads, 0, stream>>>(sums.const_data_ptr<double>(),
                                               counts.const_data_ptr<int64_t>(), chunks, n_features,
                                               centroids.mutable_data_ptr<T>(), fault.on_device());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  if (const int64_t label = fault.read(); label != LeastFault::kNone) check_has_song(0, label);
}

Tensor mean_of(const Tensor& features, const Tensor& labels) {
  Tensor centroids = torch::stable::new_empty(features, {labels.size(1), features.size(1)});
  if (features.scalar_type() == ScalarType::Float)
    mean<float>(features, labels, centroids);
  else
    mean<double>(features, labels, centroids);
  return centroids;
}

// See fastmte/ops.py.
Tensor label_centroids(const Tensor& features, const Tensor& labels) {
  check_label_centroids(features, labels);
  const torch::stable::accelerator::DeviceGuard guard(features.get_device_index());
  return mean_of(torch::stable::contiguous(features), torch::stable::contiguous(labels));
}

// Checks the arrays on the host and makes them dense: O(N L) bytes.
Tensor label_centroids_csr(const Tensor& features, const Tensor& crow_, const Tensor& col_,
                           int64_t n_labels) {
  check_label_centroids_csr(features, crow_, col_, n_labels);
  const torch::stable::accelerator::DeviceGuard guard(features.get_device_index());
  const cudaStream_t stream = current_stream(features);
  const Tensor crow = torch::stable::contiguous(crow_), col = torch::stable::contiguous(col_);
  const int64_t n_songs = features.size(0), n_pairs = col.size(0);
  const int64_t *rows = crow.const_data_ptr<int64_t>(), *pairs = col.const_data_ptr<int64_t>();
  check_csr(to_host(rows, n_songs + 1, stream).data(), to_host(pairs, n_pairs, stream).data(),
            n_songs, n_pairs, n_labels);

  Tensor labels = torch::stable::new_zeros(features, {n_songs, n_labels}, ScalarType::Bool);
  if (n_pairs > 0) {
    mark_kernel<<<static_cast<unsigned>(n_songs), 32, 0, stream>>>(rows, pairs, n_labels,
                                                                   labels.mutable_data_ptr<bool>());
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  return mean_of(torch::stable::contiguous(features), labels);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastmte, CUDA, m) {
  m.impl("label_centroids", TORCH_BOX(&label_centroids));
  m.impl("label_centroids.csr", TORCH_BOX(&label_centroids_csr));
}

}  // namespace fastmte
