// vgg_stem on CUDA: one block a row of windows, one lane a channel.
#include <torch/csrc/stable/library.h>

#include "cuda/launch.h"
#include "cuda/values.h"
#include "stem.h"

namespace fastmte {
namespace {

constexpr int kLanes = 32, kWarps = 8, kThreads = kLanes * kWarps;
constexpr int kWindows = 64;  // of a block, at most

// Grid (rows of the output * tiles of kWindows). All lanes of a warp work on one window: they read
// the same input, which shared memory hands to all at once, and write neighbouring channels.
template <typename T, typename Out>
__global__ void __launch_bounds__(kThreads)
    vgg_stem_kernel(Stem<T> stem, int64_t n_tiles, Out* __restrict__ out) {
  constexpr int kColumns = 4 * kWindows + 2;
  __shared__ __align__(16) T input[4][kColumns + 2];
  const StemSizes& sizes = stem.sizes;
  const int64_t at = blockIdx.x / n_tiles, window_0 = blockIdx.x % n_tiles * kWindows;
  const StemRow row = stem_row(sizes, at);

  const T* map = stem.mels + row.song * sizes.bands * sizes.frames;
  const T scale = stem.scale[row.member], shift = stem.shift[row.member];
  for (int i = threadIdx.x; i < 4 * kColumns; i += kThreads) {
    const int64_t band = 2 * row.row - 1 + i / kColumns;
    const int64_t frame = 4 * window_0 - 1 + i % kColumns;
    const bool is_inside = band >= 0 && band < sizes.bands && frame >= 0 && frame < sizes.frames;
    input[i / kColumns][i % kColumns] =
        is_inside ? multiply_add(scale, map[band * sizes.frames + frame], shift) : T{0};
  }
  __syncthreads();

  const int warp = threadIdx.x / kLanes, lane = threadIdx.x % kLanes;
  const int64_t n_left = sizes.pooled_frames - window_0;
  const int n_windows = static_cast<int>(n_left < kWindows ? n_left : kWindows);
  for (int64_t channel = lane; channel < sizes.channels; channel += kLanes) {
    const int64_t from = row.member * sizes.channels + channel;
    T weight[9];
#pragma unroll
    for (int tap = 0; tap < 9; ++tap) weight[tap] = stem.weight[from * 9 + tap];
    const T bias = stem.bias[from];
    for (int window = warp; window < n_windows; window += kWarps) {
      T largest{};
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        T sum = 0;
#pragma unroll
        for (int tap = 0; tap < 9; ++tap)
          sum =
              multiply_add(weight[tap], input[i / 4 + tap / 3][4 * window + i % 4 + tap % 3], sum);
        largest = i == 0 ? sum : max_keeping_nan(largest, sum);
      }
      const int64_t to = (at * sizes.pooled_frames + window_0 + window) * sizes.channels + channel;
      store(out + to, elu(largest + bias));
    }
  }
}

template <typename T, typename Out>
void launch(const Stem<T>& stem, Tensor& out, cudaStream_t stream) {
  const int64_t n_tiles = (stem.sizes.pooled_frames + kWindows - 1) / kWindows;
  const auto n_blocks = static_cast<unsigned>(n_stem_rows(stem.sizes) * n_tiles);
  vgg_stem_kernel<T, Out>
      <<<n_blocks, kThreads, 0, stream>>>(stem, n_tiles, static_cast<Out*>(out.mutable_data_ptr()));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// See fastmte/ops.py.
Tensor vgg_stem(const Tensor& mels_, const Tensor& scale_, const Tensor& shift_,
                const Tensor& weight_, const Tensor& bias_, ScalarType dtype) {
  const StemSizes sizes = check_vgg_stem(mels_, scale_, shift_, weight_, bias_, dtype);
  const torch::stable::accelerator::DeviceGuard guard(mels_.get_device_index());
  const StemInputs inputs(mels_, &scale_, &shift_, weight_, bias_);
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

STABLE_TORCH_LIBRARY_IMPL(fastmte, CUDA, m) { m.impl("vgg_stem", TORCH_BOX(&vgg_stem)); }

}  // namespace fastmte
