// label_centroids on CUDA: one block sums one label's songs of one chunk.
#include <torch/csrc/stable/library.h>

#include "cuda/launch.h"
#include "label_centroids.h"

namespace fastmte {
namespace {

constexpr int kThreads = 128;

// One feature's sum over the songs [begin, end) of a label; with kInGroups in float32 first.
template <typename T, bool kInGroups>
__device__ double sum_of(const T* __restrict__ features, const bool* __restrict__ labels,
                         int64_t begin, int64_t end, int64_t n_features, int64_t n_labels) {
  double sum = 0.0;
  T group = 0;
  int64_t n = 0;
  for (int64_t song = begin; song < end; ++song) {
    if (!labels[song * n_labels]) continue;
    const T x = features[song * n_features];
    if (!kInGroups) {
      sum += static_cast<double>(x);
      continue;
    }
    group += x;
    if (++n % kSongsPerGroup == 0) {
      sum += static_cast<double>(group);
      group = 0;
    }
  }
  return kInGroups ? sum + static_cast<double>(group) : sum;
}

// Grid (n_labels, n_chunks), partial sums (n_chunks, L, D) and counts (n_chunks, L). The flag of a
// song is the same for a whole block, so the branch never diverges; a thread owns features and
// adds them in song order, as the CPU does.
template <typename T>
__global__ void sum_kernel(const T* __restrict__ features, const bool* __restrict__ labels,
                           int64_t n_songs, int64_t n_features, double* __restrict__ sums,
                           int64_t* __restrict__ counts) {
  const int64_t label = blockIdx.x, n_labels = gridDim.x, chunk = blockIdx.y;
  const int64_t begin = chunk * kSongsPerChunk;
  const int64_t end = begin + kSongsPerChunk < n_songs ? begin + kSongsPerChunk : n_songs;
  const bool in_groups = has_groups<T>(n_features);
  for (int64_t d = threadIdx.x; d < n_features; d += kThreads) {
    const T* x = features + d;
    const bool* has = labels + label;
    double sum = in_groups ? sum_of<T, true>(x, has, begin, end, n_features, n_labels) : 0.0;
    if (!in_groups || !isfinite(sum))
      sum = sum_of<T, false>(x, has, begin, end, n_features, n_labels);
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

// Grid (n_labels): adds the chunks' sums and counts in their order.
__global__ void join_kernel(const double* __restrict__ part, const int64_t* __restrict__ part_count,
                            int64_t chunks, int64_t n_features, double* __restrict__ sums,
                            int64_t* __restrict__ counts) {
  const int64_t label = blockIdx.x, n_labels = gridDim.x;
  for (int64_t d = threadIdx.x; d < n_features; d += kThreads) {
    double total = sums[label * n_features + d];
    for (int64_t chunk = 0; chunk < chunks; ++chunk)
      total += part[(chunk * n_labels + label) * n_features + d];
    sums[label * n_features + d] = total;
  }
  if (threadIdx.x == 0)
    for (int64_t chunk = 0; chunk < chunks; ++chunk)
      counts[label] += part_count[chunk * n_labels + label];
}

// Grid (n_songs), labels (N, L) false before.
__global__ void mark_kernel(const int64_t* __restrict__ crow, const int64_t* __restrict__ col,
                            int64_t n_labels, bool* __restrict__ labels) {
  const int64_t song = blockIdx.x;
  for (int64_t pair = crow[song] + threadIdx.x; pair < crow[song + 1]; pair += blockDim.x)
    labels[song * n_labels + col[pair]] = true;
}

// Sums (n_chunks, L, D) float64 and counts (n_chunks, L) of the chunks; features must be finite.
struct ChunkSums {
  Tensor sums, counts;

  const double* sum() const { return sums.const_data_ptr<double>(); }
  const int64_t* count() const { return counts.const_data_ptr<int64_t>(); }
};

template <typename T>
ChunkSums sums_of(const Tensor& features, const Tensor& labels, cudaStream_t stream) {
  const int64_t n_songs = features.size(0), n_features = features.size(1);
  const int64_t n_labels = labels.size(1), chunks = n_chunks(n_songs);
  check_finite<T>(kLabelCentroids, "features", features, stream);
  ChunkSums part{
      torch::stable::new_empty(features, {chunks, n_labels, n_features}, ScalarType::Double),
      torch::stable::new_empty(features, {chunks, n_labels}, ScalarType::Long)};
  if (n_songs == 0 || n_labels == 0) return part;
  const dim3 grid(static_cast<unsigned>(n_labels), static_cast<unsigned>(chunks));
  sum_kernel<<<grid, kThreads, 0, stream>>>(
      features.const_data_ptr<T>(), labels.const_data_ptr<bool>(), n_songs, n_features,
      part.sums.mutable_data_ptr<double>(), part.counts.mutable_data_ptr<int64_t>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return part;
}

template <typename T>
Tensor mean(const Tensor& features, const Tensor& labels) {
  const int64_t n_songs = features.size(0), n_labels = labels.size(1);
  const cudaStream_t stream = current_stream(features);
  const ChunkSums part = sums_of<T>(features, labels, stream);
  Tensor centroids = torch::stable::new_empty(features, {n_labels, features.size(1)});
  if (n_labels == 0) return centroids;
  check_has_song(n_songs, 0);
  const LeastFault fault(features, stream);
  mean_kernel<<<static_cast<unsigned>(n_labels), kThreads, 0, stream>>>(
      part.sum(), part.count(), n_chunks(n_songs), features.size(1),
      centroids.mutable_data_ptr<T>(), fault.on_device());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  if (const int64_t label = fault.read(); label != LeastFault::kNone) check_has_song(0, label);
  return centroids;
}

Tensor mean_of(const Tensor& features, const Tensor& labels) {
  return features.scalar_type() == ScalarType::Float ? mean<float>(features, labels)
                                                     : mean<double>(features, labels);
}

void add_to(const Tensor& features, const Tensor& labels, Tensor& sums, Tensor& counts) {
  const cudaStream_t stream = current_stream(features);
  const ChunkSums part = features.scalar_type() == ScalarType::Float
                             ? sums_of<float>(features, labels, stream)
                             : sums_of<double>(features, labels, stream);
  if (labels.size(1) == 0) return;
  join_kernel<<<static_cast<unsigned>(labels.size(1)), kThreads, 0, stream>>>(
      part.sum(), part.count(), n_chunks(features.size(0)), features.size(1),
      sums.mutable_data_ptr<double>(), counts.mutable_data_ptr<int64_t>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// Checks the arrays on the host and makes them dense: O(N L) bytes.
Tensor dense(const Tensor& features, const Tensor& crow_, const Tensor& col_, int64_t n_labels) {
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
  return labels;
}

// See fastmte/ops.py.
Tensor label_centroids(const Tensor& features, const Tensor& labels) {
  check_label_centroids(features, labels);
  const torch::stable::accelerator::DeviceGuard guard(features.get_device_index());
  return mean_of(torch::stable::contiguous(features), torch::stable::contiguous(labels));
}

Tensor label_centroids_csr(const Tensor& features, const Tensor& crow, const Tensor& col,
                           int64_t n_labels) {
  check_label_centroids_csr(features, crow, col, n_labels);
  const torch::stable::accelerator::DeviceGuard guard(features.get_device_index());
  return mean_of(torch::stable::contiguous(features), dense(features, crow, col, n_labels));
}

void label_centroids_add(const Tensor& features, const Tensor& labels, Tensor sums, Tensor counts) {
  check_label_centroids(features, labels);
  check_label_sums(features, labels.size(1), sums, counts);
  const torch::stable::accelerator::DeviceGuard guard(features.get_device_index());
  add_to(torch::stable::contiguous(features), torch::stable::contiguous(labels), sums, counts);
}

void label_centroids_add_csr(const Tensor& features, const Tensor& crow, const Tensor& col,
                             Tensor sums, Tensor counts) {
  check_label_centroids_csr(features, crow, col, counts.numel());
  check_label_sums(features, counts.numel(), sums, counts);
  const torch::stable::accelerator::DeviceGuard guard(features.get_device_index());
  add_to(torch::stable::contiguous(features), dense(features, crow, col, counts.numel()), sums,
         counts);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastmte, CUDA, m) {
  m.impl("label_centroids", TORCH_BOX(&label_centroids));
  m.impl("label_centroids.csr", TORCH_BOX(&label_centroids_csr));
  m.impl("label_centroids.add", TORCH_BOX(&label_centroids_add));
  m.impl("label_centroids.add_csr", TORCH_BOX(&label_centroids_add_csr));
}

}  // namespace fastmte
