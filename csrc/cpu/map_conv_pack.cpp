// map_conv_pack on the CPU: weights rounded to bfloat16, as convolutions of both passes read them.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstring>
#include <tuple>

#include "cpu/vector.h"
#include "map_conv.h"

namespace fastmte {
namespace {

struct MapWeights {
  const float* weight;  // (O, h, w, I)
  BFloat16 *ahead, *back;
  int64_t outputs, n_taps, inputs;
};

}  // namespace
}  // namespace fastmte

#define FASTMTE_FLOAT32_ONLY
#define FASTMTE_KERNELS "cpu/map_conv_pack_kernel.h"
#include "cpu/each_isa.h"

namespace fastmte {
namespace {

// See fastmte/training_conv.py.
std::tuple<Tensor, Tensor> map_conv_pack(const Tensor& weight_) {
  constexpr const char* kOp = "map_conv_pack";
  check_tensor(kOp, "weight", weight_, 4, {ScalarType::Float}, weight_);
  const int64_t outputs = weight_.size(0), height = weight_.size(1), width = weight_.size(2),
                inputs = weight_.size(3);
  check_blocks(kOp, "inputs", inputs);
  check_blocks(kOp, "outputs", outputs);
  check_at_least(kOp, "weight.size(1)", height, 1);
  check_at_least(kOp, "weight.size(2)", width, 1);
  const Tensor weight = torch::stable::contiguous(weight_);
  Tensor ahead = torch::stable::new_empty(
      weight, {outputs / kMapBlock, height, width, inputs / kMapBlock, 2, 16, 16, 2},
      ScalarType::BFloat16);
  Tensor back = torch::stable::new_empty(
      weight, {inputs / kMapBlock, height, width, outputs / kMapBlock, 2, 16, 16, 2},
      ScalarType::BFloat16);
  const MapWeights weights{weight.const_data_ptr<float>(),
                           static_cast<BFloat16*>(ahead.mutable_data_ptr()),
                           static_cast<BFloat16*>(back.mutable_data_ptr()),
                           outputs,
                           height * width,
                           inputs};
  const auto pack = FASTMTE_CHOOSE(pack_outputs);
  torch::stable::parallel_for(0, outputs / kMapBlock, 1, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) pack(weights, block * kMapBlock);
  });
  return {ahead, back};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastmte, CPU, m) { m.impl("map_conv_pack", TORCH_BOX(&map_conv_pack)); }

}  // namespace fastmte
