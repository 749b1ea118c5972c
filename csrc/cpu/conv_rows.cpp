// conv_rows.h for each instruction set.
#include "cpu/conv_rows.h"

#include <torch/csrc/stable/ops.h>

#include "cpu/conv_amx.h"

#define FASTMTE_FLOAT32_ONLY
#define FASTMTE_KERNELS "cpu/conv_rows_kernel.h"
#include "cpu/each_isa.h"

namespace fastmte {
namespace {

#ifdef FASTMTE_HAS_AMX
template <Activation kActivation, bool kHasOnto, bool kIsPooled>
std::unique_ptr<ConvPass> fixed_pass(const Conv& conv) {
  using Finish = avx512::FixedFinish<kActivation, kHasOnto, kIsPooled>;
  return std::make_unique<avx512::ConvRows<AmxEngine, Finish>>(conv);
}

template <bool kHasOnto, bool kIsPooled>
std::unique_ptr<ConvPass> tile_pass(const Conv& conv) {
  if (conv.activation == Activation::kElu)
    return fixed_pass<Activation::kElu, kHasOnto, kIsPooled>(conv);
  if (conv.activation == Activation::kRelu)
    return fixed_pass<Activation::kRelu, kHasOnto, kIsPooled>(conv);
  return fixed_pass<Activation::kNone, kHasOnto, kIsPooled>(conv);
}
#endif

}  // namespace

std::unique_ptr<ConvPass> conv_pass(const Conv& conv) {
#ifdef FASTMTE_HAS_AMX
  if (has_amx()) {
    if (conv.is_pooled()) return tile_pass<false, true>(conv);
    return conv.onto ? tile_pass<true, false>(conv) : tile_pass<false, false>(conv);
  }
#endif
  return FASTMTE_CHOOSE(plain_pass)(conv);
}

// Threads share the rows, or, where there are more weights than inputs, the channels, so that
// each reads only its own weights.
void run_conv(const Conv& conv) {
  const ConvSizes& sizes = conv.sizes();
  const int64_t n_weights = sizes.kernel_rows * sizes.kernel_columns * sizes.outputs;
  if (n_weights > sizes.n_songs * sizes.rows * sizes.columns)
    torch::stable::parallel_for(0, conv.n_blocks(), 1, [&](int64_t begin, int64_t end) {
      conv_pass(conv)->run(0, conv.n_rows(), begin, end);
    });
  else
    torch::stable::parallel_for(0, conv.n_rows(), 1, [&](int64_t begin, int64_t end) {
      conv_pass(conv)->run(begin, end, 0, conv.n_blocks());
    });
}

}  // namespace fastmte
