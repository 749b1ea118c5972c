// map_conv_weights on the CPU: the gradient of a bfloat16 convolution's weights, in float32.
#include "cpu/map_conv_weights.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstring>

#include "cpu/map_tiles.h"
#include "map_conv.h"

namespace fastmte {
namespace {

// One kind of vector's functions; see map_conv_weights_kernel.h.
struct WeightKernels {
  void (*lines)(const WeightSums&, const MapSegment&, int64_t, int64_t);
  void (*pairs)(const WeightSums&, const MapSegment&, int64_t, int64_t, int64_t);
  void (*add)(WeightSums&, int64_t, int64_t, bool, int64_t, int64_t);
};

}  // namespace
}  // namespace fastmte

#define FASTMTE_FLOAT32_ONLY
#define FASTMTE_KERNELS "cpu/map_conv_weights_kernel.h"
#include "cpu/each_isa.h"

namespace fastmte {
namespace {

WeightKernels kernels() {
#ifdef FASTMTE_HAS_AMX
  if (has_amx()) return avx512::weight_kernels<AmxMapTiles>();
#endif
  return FASTMTE_CHOOSE(plain_weight_kernels());
}

void pack(const WeightSums& sums, const WeightKernels& kernels, int64_t first, int64_t n) {
  const int64_t n_lines = sums.sizes.outputs / kMapBlock, n_inputs = sums.sizes.inputs / kMapBlock;
  const auto n_planes = static_cast<int64_t>(sums.places.planes.size());
  const int64_t n_parts = n_lines + n_planes * n_inputs;
  torch::stable::parallel_for(0, n * n_parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t slot = i / n_parts, part = i % n_parts, of_plane = part - n_lines;
      const MapSegment segment = sums.segment(first + slot);
      if (part < n_lines)
        kernels.lines(sums, segment, slot, part * kMapBlock);
      else
        kernels.pairs(sums, segment, slot, of_plane / n_inputs, of_plane % n_inputs * kMapBlock);
    }
  });
}

void run(WeightSums&& sums) {
  const WeightKernels kernel = kernels();
  const int64_t n_segments = sums.segments_a_song() * sums.sizes.n_songs;
  for (int64_t first = 0; first < n_segments; first += sums.n_segments) {
    const int64_t n = std::min(sums.n_segments, n_segments - first);
    pack(sums, kernel, first, n);
    torch::stable::parallel_for(0, sums.n_blocks(), 1, [&](int64_t begin, int64_t end) {
      kernel.add(sums, first, n, first + n == n_segments, begin, end);
    });
  }
}

// See fastmte/training_conv.py. Each sum has one order: any number of threads gives the same bits.
Tensor map_conv_weights(const Tensor& gradient_, const Tensor& x_, std::vector<int64_t> kernel,
                        std::vector<int64_t> stride, std::vector<int64_t> padding) {
  constexpr const char* kOp = "map_conv_weights";
  check_tensor(kOp, "x", x_, 4, {ScalarType::BFloat16}, x_);
  check_tensor(kOp, "gradient", gradient_, 4, {ScalarType::BFloat16}, x_);
  const MapConvSizes sizes = check_map_conv(kOp, x_.size(0), x_.size(1), x_.size(2), x_.size(3),
                                            gradient_.size(3), kernel, stride, padding);
  check_map_out(kOp, gradient_, sizes);
  const Tensor gradient = torch::stable::contiguous(gradient_), x = torch::stable::contiguous(x_);
  Tensor out = torch::stable::new_empty(x, {sizes.outputs, kernel[0], kernel[1], sizes.inputs},
                                        ScalarType::Float);
  float* to = out.mutable_data_ptr<float>();
  if (gradient.numel() == 0)
    std::fill_n(to, out.numel(), 0.f);
  else
    run(WeightSums(static_cast<const BFloat16*>(gradient.const_data_ptr()),
                   static_cast<const BFloat16*>(x.const_data_ptr()), to, sizes));
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastmte, CPU, m) {
  m.impl("map_conv_weights", TORCH_BOX(&map_conv_weights));
}

}  // namespace fastmte
