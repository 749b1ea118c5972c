// pool_act on CUDA: one thread a pooled value.
#include <torch/csrc/stable/library.h>

#include "cuda/launch.h"
#include "cuda/values.h"
#include "pool_act.h"

namespace fastmte {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMaxBlocks = 65536;

// Any grid. Channels lie side by side, so neighbouring threads read neighbouring values.
template <typename T>
__global__ void pool_act_kernel(const T* __restrict__ x, PoolSizes sizes, Activation activation,
                                int64_t pooled_rows, int64_t pooled_columns, int64_t n,
                                T* __restrict__ out) {
  using Value = typename Arithmetic<T>::Type;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  const int64_t row_stride = sizes.columns * sizes.channels;
  for (int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; at < n; at += step) {
    const int64_t channel = at % sizes.channels, window = at / sizes.channels;
    const int64_t column = window % pooled_columns;
    const int64_t row = window / pooled_columns % pooled_rows;
    const int64_t song = window / pooled_columns / pooled_rows;
    const T* from = x + (song * sizes.rows + row * sizes.window_rows) * row_stride +
                    column * sizes.window_columns * sizes.channels + channel;
    Value largest = widened(*from);
    for (int64_t i = 0; i < sizes.window_rows; ++i)
      for (int64_t j = 0; j < sizes.window_columns; ++j)
        largest =
            max_keeping_nan<Value>(largest, widened(from[i * row_stride + j * sizes.channels]));
    if (activation == Activation::kElu) largest = elu(largest);
    if (activation == Activation::kRelu) largest = relu(largest);
    store(out + at, largest);
  }
}

template <typename T>
void launch(const Tensor& x, const PoolSizes& sizes, Activation activation, Tensor& out) {
  const int64_t n = out.numel(), blocks = (n + kThreads - 1) / kThreads;
  pool_act_kernel<<<static_cast<unsigned>(blocks < kMaxBlocks ? blocks : kMaxBlocks), kThreads, 0,
                    current_stream(x)>>>(static_cast<const T*>(x.const_data_ptr()), sizes,
                                         activation, sizes.pooled_rows(), sizes.pooled_columns(), n,
                                         static_cast<T*>(out.mutable_data_ptr()));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// See fastmte/ops.py.
Tensor pool_act(const Tensor& x_, std::vector<int64_t> pool, std::string activation_) {
  const PoolSizes sizes = check_pool_act(x_, pool);
  const Activation activation = activation_of("pool_act", activation_);
  const torch::stable::accelerator::DeviceGuard guard(x_.get_device_index());
  const Tensor x = torch::stable::contiguous(x_);
  Tensor out = torch::stable::new_empty(
      x, {sizes.n_songs, sizes.pooled_rows(), sizes.pooled_columns(), sizes.channels});
  if (out.numel() == 0) return out;
  if (x.scalar_type() == ScalarType::Float)
    launch<float>(x, sizes, activation, out);
  else if (x.scalar_type() == ScalarType::BFloat16)
    launch<__nv_bfloat16>(x, sizes, activation, out);
  else
    launch<double>(x, sizes, activation, out);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastmte, CUDA, m) { m.impl("pool_act", TORCH_BOX(&pool_act)); }

}  // namespace fastmte
