// conv_pool_act on the CPU: bfloat16 convolution, max-pooling and activation in one pass.
#include "conv_pool_act.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "cpu/conv_amx.h"
#include "cpu/conv_input.h"

#define FASTMTE_FLOAT32_ONLY
#define FASTMTE_KERNELS "cpu/conv_pool_act_kernel.h"
#include "cpu/each_isa.h"

namespace fastmte {
namespace {

using RowsFunction = void (*)(const Conv&, int64_t, int64_t, int64_t, int64_t);

RowsFunction rows_function() {
#ifdef FASTMTE_HAS_AMX
  if (has_amx()) return avx512::conv_pool_act_rows<AmxEngine>;
#endif
  return FASTMTE_CHOOSE(conv_pool_act_plain);
}

// Threads share the rows, or, where there are more weights than inputs, the channels, so that
// each reads only its own weights.
void run(const Conv& conv) {
  const ConvSizes& sizes = conv.sizes;
  const int64_t n_rows = sizes.n_songs * sizes.out_rows(), n_blocks = sizes.outputs / kConvOutputs;
  const int64_t n_weights = sizes.kernel_rows * sizes.kernel_columns * sizes.outputs;
  const RowsFunction rows = rows_function();
  if (n_weights > sizes.n_songs * sizes.rows * sizes.columns)
    torch::stable::parallel_for(
        0, n_blocks, 1, [&](int64_t begin, int64_t end) { rows(conv, 0, n_rows, begin, end); });
  else
    torch::stable::parallel_for(
        0, n_rows, 1, [&](int64_t begin, int64_t end) { rows(conv, begin, end, 0, n_blocks); });
}

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
  run({static_cast<const BFloat16*>(x.const_data_ptr()),
       static_cast<const BFloat16*>(weight.const_data_ptr()), bias.const_data_ptr<float>(),
       onto_ ? static_cast<const BFloat16*>(onto.const_data_ptr()) : nullptr,
       static_cast<BFloat16*>(out.mutable_data_ptr()), sizes, activation});
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastmte, CPU, m) { m.impl("conv_pool_act", TORCH_BOX(&conv_pool_act)); }

}  // namespace fastmte
