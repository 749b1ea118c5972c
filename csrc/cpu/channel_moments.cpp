// channel_moments on the CPU: batch norm's statistics alone, in one pass.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <string>
#include <tuple>

#include "check.h"
#include "cpu/bn_statistics.h"
#include "pool_act.h"

#define FASTMTE_KERNELS "cpu/channel_moments_kernel.h"
#include "cpu/each_isa.h"

namespace fastmte {
namespace {

template <typename T>
MomentsFunction<T> moments_for() {
  if constexpr (std::is_same_v<T, double>)
    return float64::channel_moments_kernel<double>();
  else
    return FASTMTE_CHOOSE(channel_moments_kernel<T>());
}

// See fastmte/training_ops.py.
std::tuple<Tensor, Tensor> channel_moments(const Tensor& x_) {
  constexpr const char* kOp = "channel_moments";
  check_tensor(kOp, "x", x_, 4, {ScalarType::Float, ScalarType::BFloat16, ScalarType::Double}, x_);
  for (int dim = 0; dim < 4; ++dim)
    check_at_least(kOp, ("x.size(" + std::to_string(dim) + ")").c_str(), x_.size(dim), 1);
  const Tensor x = torch::stable::contiguous(x_);
  const int64_t channels = x.size(3);
  Tensor mean = torch::stable::new_empty(x, {channels}, ScalarType::Double);
  Tensor variance = torch::stable::new_empty(x, {channels}, ScalarType::Double);
  for_map_type(x, [&](auto like) {
    using T = decltype(like);
    batch_statistics(data<T>(x), x.numel() / channels, channels, moments_for<T>(),
                     mutable_data<double>(mean), mutable_data<double>(variance));
  });
  return {mean, variance};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastmte, CPU, m) {
  m.impl("channel_moments", TORCH_BOX(&channel_moments));
}

}  // namespace fastmte
