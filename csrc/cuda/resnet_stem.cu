// resnet_stem on CUDA: one block a tile of windows, one lane a channel.
#include <torch/csrc/stable/library.h>

#include <cmath>

#include "cuda/launch.h"
#include "cuda/values.h"
#include "stem.h"

namespace fastmte {
namespace {

constexpr int kLanes = 32, kWarps = 8, kThreads = kLanes * kWarps;
// Windows of a block: kRows x kStrips strips of kStrip. A warp computes a strip from the top down,
// so that each conv sum of the strip serves both rows of windows that it lies in.
constexpr int kRows = 8, kStrips = 4, kStrip = 4, kColumns = kStrips * kStrip;
constexpr int kConvColumns = 2 * kStrip + 1, kReach = 2 * kConvColumns + 5;  // of a strip
constexpr int kInputRows = 2 * (2 * kRows + 1) + 5, kInputColumns = 4 * kColumns + 7;

// Sums of one conv row of a strip, whose uppermost and leftmost input is `input`.
template <typename T>
__device__ void convolve(const T (*input)[kInputColumns], int column, const T (&weight)[49],
                         T (&sum)[kConvColumns]) {
#pragma unroll
  for (int i = 0; i < kConvColumns; ++i) sum[i] = 0;
#pragma unroll
  for (int dy = 0; dy < 7; ++dy) {
    T x[kReach];
#pragma unroll
    for (int i = 0; i < kReach; ++i) x[i] = input[dy][column + i];
#pragma unroll
    for (int i = 0; i < kConvColumns; ++i)
#pragma unroll
      for (int dx = 0; dx < 7; ++dx)
        sum[i] = multiply_add(weight[dy * 7 + dx], x[2 * i + dx], sum[i]);
  }
}

// Grid (maps * tiles). All lanes of a warp work on one strip: they read the same input, which
// shared memory hands to all at once, and write neighbouring channels.
template <typename T, typename Out>
__global__ void __launch_bounds__(kThreads)
    resnet_stem_kernel(Stem<T> stem, int64_t tiles_down, int64_t tiles_across,
                       Out* __restrict__ out) {
  __shared__ T input[kInputRows][kInputColumns];
  const StemSizes& sizes = stem.sizes;
  const int64_t map = blockIdx.x / tiles_across / tiles_down;
  const int64_t row_0 = blockIdx.x / tiles_across % tiles_down * kRows;
  const int64_t column_0 = blockIdx.x % tiles_across * kColumns;
  const int64_t member = map / sizes.n_songs;

  // Window (i, j) reads conv sums from (2 i - 1, 2 j - 1) on, and those input from twice that - 3.
  const T* mels = stem.mels + map % sizes.n_songs * sizes.bands * sizes.frames;
  for (int i = threadIdx.x; i < kInputRows * kInputColumns; i += kThreads) {
    const int64_t band = 4 * row_0 - 5 + i / kInputColumns;
    const int64_t frame = 4 * column_0 - 5 + i % kInputColumns;
    const bool is_inside = band >= 0 && band < sizes.bands && frame >= 0 && frame < sizes.frames;
    input[i / kInputColumns][i % kInputColumns] =
        is_inside ? mels[band * sizes.frames + frame] : T{0};
  }
  __syncthreads();

  const T nothing = -static_cast<T>(INFINITY);
  const int64_t conv_rows = (sizes.bands + 1) / 2, conv_columns = (sizes.frames + 1) / 2;
  const int lane = threadIdx.x % kLanes;
  const int n_tasks = static_cast<int>((sizes.channels + kLanes - 1) / kLanes) * kStrips;
  for (int task = threadIdx.x / kLanes; task < n_tasks; task += kWarps) {
    const int strip = task % kStrips;
    const int64_t channel = static_cast<int64_t>(task / kStrips) * kLanes + lane;
    if (channel >= sizes.channels) continue;
    const int64_t from = member * sizes.channels + channel;
    T weight[49];
#pragma unroll
    for (int tap = 0; tap < 49; ++tap) weight[tap] = stem.weight[from * 49 + tap];
    const T bias = stem.bias[from];

    const int64_t first_window = column_0 + strip * kStrip;
    T held[kStrip];  // the largest of the conv rows so far, of each window
    for (int i = 0; i < 2 * kRows + 1; ++i) {
      const int64_t conv_row = 2 * row_0 - 1 + i;
      if (conv_row > conv_rows) break;  // no window reaches so far
      T sum[kConvColumns];
      convolve(input + 2 * i, 4 * strip * kStrip, weight, sum);
#pragma unroll
      for (int j = 0; j < kConvColumns; ++j) {
        const int64_t conv_column = 2 * first_window - 1 + j;
        if (conv_row < 0 || conv_row >= conv_rows || conv_column < 0 || conv_column >= conv_columns)
          sum[j] = nothing;
      }
      const int64_t row = row_0 + i / 2 - 1;  // that this conv row completes, where i is even
#pragma unroll
      for (int j = 0; j < kStrip; ++j) {
        const T two = max_keeping_nan(sum[2 * j], sum[2 * j + 1]);
        const T largest = max_keeping_nan(two, sum[2 * j + 2]);
        const T both = i == 0 ? largest : max_keeping_nan(held[j], largest);
        held[j] = i % 2 == 1 ? both : largest;
        const int64_t column = first_window + j;
        if (i > 0 && i % 2 == 0 && row < sizes.pooled_bands && column < sizes.pooled_frames) {
          const int64_t window = (map * sizes.pooled_bands + row) * sizes.pooled_frames + column;
          store(out + window * sizes.channels + channel, relu(both + bias));
        }
      }
    }
  }
}

template <typename T, typename Out>
void launch(const Stem<T>& stem, Tensor& out, cudaStream_t stream) {
  const StemSizes& sizes = stem.sizes;
  const int64_t tiles_down = (sizes.pooled_bands + kRows - 1) / kRows;
  const int64_t tiles_across = (sizes.pooled_frames + kColumns - 1) / kColumns;
  const int64_t n_blocks = sizes.n_members * sizes.n_songs * tiles_down * tiles_across;
  resnet_stem_kernel<T, Out><<<static_cast<unsigned>(n_blocks), kThreads, 0, stream>>>(
      stem, tiles_down, tiles_across, static_cast<Out*>(out.mutable_data_ptr()));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// See fastmte/ops.py.
Tensor resnet_stem(const Tensor& mels_, const Tensor& weight_, const Tensor& bias_,
                   ScalarType dtype, int64_t members) {
  const StemSizes sizes = check_resnet_stem(mels_, weight_, bias_, members, dtype);
  const torch::stable::accelerator::DeviceGuard guard(mels_.get_device_index());
  const StemInputs inputs(mels_, nullptr, nullptr, weight_, bias_);
  Tensor out = empty_stem_output(mels_, sizes, dtype);
  const cudaStream_t stream = current_stream(mels_);
  if (out.numel() == 0) return out;
  if (dtype == ScalarType::Float)
    launch<float, float>(inputs.arrays<float>(sizes), out, stream);
  else if (dtype == ScalarType::BFloat16)
    launch<float, __nv_bfloat16>(inputs.arrays<float>(sizes), out, stream);
  else
    launch<double, double>(inputs.arrays<double>(sizes), out, stream);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastmte, CUDA, m) { m.impl("resnet_stem", TORCH_BOX(&resnet_stem)); }

}  // namespace fastmte
