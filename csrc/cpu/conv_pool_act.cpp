// conv_pool_act on the CPU: bfloat16 convolution, max-pooling and activation in one pass.
#include "conv_pool_act.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "cpu/conv_rows.h"

namespace fastmte {
namespace {

// See fastmte/ops.py. Each sum has one order: any number of threads gives the same bits.
Tensor conv_pool_act(const Tensor& x_, const Tensor& weight_, const Tensor& bias_,
                     std::optional<Tensor> onto_, std::vector<int64_t> stride,
                     std::vector<int64_t> padding, std::vector<int64_t> pool,
                     std::string activation_) {
  const ConvSizes sizes = check_conv_pool_act(x_, weight_, bias_, onto_, stride, padding, pool);
  const Activation activation = activation_of("conv_pool_act", activation_);
  const Tensor x = torch::stable::contiguous(x_), weight = torch::stable::contiguous(weight_);
  const Tensor bias = torch::stable::contiguous(bias_);
  Tensor onto;
  if (onto_) onto = torch::stable::contiguous(*onto_);
  Tensor out = torch::stable::new_empty(
      x, {sizes.n_songs, sizes.out_rows(), sizes.out_columns(), sizes.outputs});
  Conv conv{};
  conv.sources[0] = {static_cast<const BFloat16*>(x.const_data_ptr()),
                     static_cast<const BFloat16*>(weight.const_data_ptr()), sizes,
                     sizes.n_songs * sizes.rows};
  conv.n_sources = 1;
  conv.bias = bias.const_data_ptr<float>();
  conv.onto = onto_ ? static_cast<const BFloat16*>(onto.const_data_ptr()) : nullptr;
  conv.out = static_cast<BFloat16*>(out.mutable_data_ptr());
  conv.onto_held = conv.out_held = conv.n_rows();
  conv.activation = activation;
  run_conv(conv);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastmte, CPU, m) { m.impl("conv_pool_act", TORCH_BOX(&conv_pool_act)); }

}  // namespace fastmte
