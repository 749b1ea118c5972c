// resnet_stem on the CPU: rows of the pooled output, from conv rows that are never stored.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <limits>

#include "stem.h"

#define FASTMTE_KERNELS "cpu/resnet_stem_kernel.h"
#include "cpu/each_isa.h"
#include "cpu/resnet_stem_amx.h"

namespace fastmte {
namespace {

using RowsFunction = void (*)(const Stem<float>&, BFloat16*, int64_t, int64_t);

template <typename T, typename Out>
void run(void (*rows)(const Stem<T>&, Out*, int64_t, int64_t), const Stem<T>& stem, Tensor& out) {
  Out* to = static_cast<Out*>(out.mutable_data_ptr());
  torch::stable::parallel_for(0, n_stem_rows(stem.sizes), 1,
                              [&](int64_t begin, int64_t end) { rows(stem, to, begin, end); });
}

RowsFunction bfloat16_rows() {
#ifdef FASTMTE_HAS_AMX
  if (has_amx()) return avx512::resnet_stem_rows<BFloat16, avx512::ResnetTiles>;
#endif
  return FASTMTE_CHOOSE(resnet_stem_rows<BFloat16>);
}

// See fastmte/ops.py. Rows are independent: any number of threads gives the same bits.
Tensor resnet_stem(const Tensor& mels_, const Tensor& weight_, const Tensor& bias_,
                   ScalarType dtype, int64_t members) {
  const StemSizes sizes = check_resnet_stem(mels_, weight_, bias_, members, dtype);
  const StemInputs inputs(mels_, nullptr, nullptr, weight_, bias_);
  Tensor out = empty_stem_output(mels_, sizes, dtype);
  if (dtype == ScalarType::Float)
    run<float, float>(FASTMTE_CHOOSE(resnet_stem_rows<float>), inputs.arrays<float>(sizes), out);
  else if (dtype == ScalarType::BFloat16)
    run<float, BFloat16>(bfloat16_rows(), inputs.arrays<float>(sizes), out);
  else
    run<double, double>(float64::resnet_stem_rows<double>, inputs.arrays<double>(sizes), out);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastmte, CPU, m) { m.impl("resnet_stem", TORCH_BOX(&resnet_stem)); }

}  // namespace fastmte
