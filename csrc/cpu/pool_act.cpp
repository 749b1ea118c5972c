// pool_act on the CPU: max-pooling of channels-last maps, then the activation, in one pass.
#include "pool_act.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#define FASTMTE_KERNELS "cpu/pool_act_kernel.h"
#include "cpu/each_isa.h"

namespace fastmte {
namespace {

template <typename T>
using RowsFunction = void (*)(const T*, const PoolSizes&, Activation, T*, int64_t, int64_t);

template <typename T>
void pool_rows(RowsFunction<T> rows, const Tensor& x, const PoolSizes& sizes, Activation activation,
               Tensor& out) {
  const T* from = static_cast<const T*>(x.const_data_ptr());
  T* to = static_cast<T*>(out.mutable_data_ptr());
  torch::stable::parallel_for(
      0, sizes.n_songs * sizes.pooled_rows(), 1,
      [&](int64_t begin, int64_t end) { rows(from, sizes, activation, to, begin, end); });
}

// See fastmte/ops.py. Rows are independent: any number of threads gives the same bits.
Tensor pool_act(const Tensor& x_, std::vector<int64_t> pool, std::string activation_) {
  const PoolSizes sizes = check_pool_act(x_, pool);
  const Activation activation = activation_of("pool_act", activation_);
  const Tensor x = torch::stable::contiguous(x_);
  Tensor out = torch::stable::new_empty(
      x, {sizes.n_songs, sizes.pooled_rows(), sizes.pooled_columns(), sizes.channels});
  if (x.scalar_type() == ScalarType::Float)
    pool_rows<float>(FASTMTE_CHOOSE(pool_act_rows<float>), x, sizes, activation, out);
  else if (x.scalar_type() == ScalarType::BFloat16)
    pool_rows<BFloat16>(FASTMTE_CHOOSE(pool_act_rows<BFloat16>), x, sizes, activation, out);
  else
    pool_rows<double>(float64::pool_act_rows<double>, x, sizes, activation, out);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastmte, CPU, m) { m.impl("pool_act", TORCH_BOX(&pool_act)); }

}  // namespace fastmte
