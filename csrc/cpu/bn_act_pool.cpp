// bn_act_pool on the CPU: training batch norm, an activation and a max-pool; two passes each way.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <limits>
#include <tuple>

#include "bn_maps.h"
#include "cpu/bn_statistics.h"
#include "pool_act.h"

namespace fastmte {
namespace {

// One kind of vector's functions for maps of T; see bn_act_pool_kernel.h.
template <typename T, typename Scalar = ScalarOf<T>>
struct BnActPoolKernels {
  MomentsFunction<T> moments;
  void (*rows)(const T*, const PoolWindows&, const Affine<Scalar>&, Activation, T*, uint8_t*, T*,
               int64_t, int64_t);
  SumsFunction<T> sums;
  void (*inputs)(const T*, const T*, const T*, const uint8_t*, const PoolWindows&,
                 const InputGradient<Scalar>&, Activation, T*, int64_t, int64_t);
};

}  // namespace
}  // namespace fastmte

#define FASTMTE_KERNELS "cpu/bn_act_pool_kernel.h"
#include "cpu/each_isa.h"

namespace fastmte {
namespace {

template <typename T>
BnActPoolKernels<T> kernels_for() {
  if constexpr (std::is_same_v<T, double>)
    return float64::bn_act_pool_kernels<double>();
  else
    return FASTMTE_CHOOSE(bn_act_pool_kernels<T>());
}

template <typename T>
void forward(const Tensor& x, const PoolWindows& pool, const Tensor& weight, const Tensor& bias,
             double eps, Activation activation, Tensor& out, Tensor& argmax, Tensor& winner,
             Tensor& mean, Tensor& variance) {
  const BnActPoolKernels<T> kernels = kernels_for<T>();
  const int64_t channels = pool.channels, n_rows = x.numel() / channels;
  const T* from = data<T>(x);
  T *to = mutable_data<T>(out), *won = mutable_data<T>(winner);
  uint8_t* index = mutable_data<uint8_t>(argmax);
  batch_statistics(from, n_rows, channels, kernels.moments, mutable_data<double>(mean),
                   mutable_data<double>(variance));
  const Norm<ScalarOf<T>> norm(data<double>(mean), data<double>(variance),
                               data<ScalarOf<T>>(weight), data<ScalarOf<T>>(bias), eps, channels);
  torch::stable::parallel_for(
      0, pool.n_songs * pool.pooled_rows(), 1, [&](int64_t begin, int64_t end) {
        kernels.rows(from, pool, norm.affine(), activation, to, index, won, begin, end);
      });
}

template <typename T>
void backward(const Tensor& gradient, const Tensor& x, const Tensor& out, const Tensor& argmax,
              const Tensor& winner, const PoolWindows& pool, const Tensor& weight,
              const Tensor& mean, const Tensor& variance, double eps, Activation activation,
              Tensor& dx, Tensor& dweight, Tensor& dbias) {
  using Scalar = ScalarOf<T>;
  const BnActPoolKernels<T> kernels = kernels_for<T>();
  const int64_t channels = pool.channels;
  const T *g = data<T>(gradient), *from = data<T>(x), *result = data<T>(out);
  const uint8_t* index = data<uint8_t>(argmax);
  T* to = mutable_data<T>(dx);
  const std::vector<double> sums =
      sums_of_gradient(g, data<T>(winner), result, out.numel() / channels, channels,
                       data<double>(mean), activation, kernels.sums);
  const NormGradient<Scalar> norm(sums, data<double>(mean), data<double>(variance),
                                  data<Scalar>(weight), eps, x.numel() / channels,
                                  mutable_data<Scalar>(dweight), mutable_data<Scalar>(dbias));
  torch::stable::parallel_for(0, pool.n_songs * pool.rows, 1, [&](int64_t begin, int64_t end) {
    kernels.inputs(g, from, result, index, pool, norm.input(), activation, to, begin, end);
  });
}

using Sizes = std::vector<int64_t>;

// See fastmte/training_ops.py.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> bn_act_pool(
    const Tensor& x_, const Tensor& weight_, const Tensor& bias_, double eps, Sizes kernel,
    std::string activation_, Sizes stride, Sizes padding) {
  constexpr const char* kOp = "bn_act_pool";
  check_norm(kOp, x_, weight_, bias_);
  const PoolWindows pool = check_windows(kOp, x_, kernel, stride, padding);
  const Activation activation = activation_of(kOp, activation_);
  const Tensor x = torch::stable::contiguous(x_), weight = torch::stable::contiguous(weight_),
               bias = torch::stable::contiguous(bias_);
  const Sizes shape{pool.n_songs, pool.pooled_rows(), pool.pooled_columns(), pool.channels};
  Tensor out = torch::stable::new_empty(x, shape);
  Tensor argmax = torch::stable::new_empty(x, shape, ScalarType::Byte);
  Tensor winner = torch::stable::new_empty(x, shape);
  Tensor mean = torch::stable::new_empty(x, {pool.channels}, ScalarType::Double);
  Tensor variance = torch::stable::new_empty(x, {pool.channels}, ScalarType::Double);
  for_map_type(x, [&](auto like) {
    forward<decltype(like)>(x, pool, weight, bias, eps, activation, out, argmax, winner, mean,
                            variance);
  });
  return {out, argmax, winner, mean, variance};
}

// The gradients of x, weight and bias.
std::tuple<Tensor, Tensor, Tensor> bn_act_pool_backward(
    const Tensor& gradient_, const Tensor& x_, const Tensor& out_, const Tensor& argmax_,
    const Tensor& winner_, const Tensor& weight_, const Tensor& mean_, const Tensor& variance_,
    double eps, Sizes kernel, std::string activation_, Sizes stride, Sizes padding) {
  constexpr const char* kOp = "bn_act_pool_backward";
  check_norm(kOp, x_, weight_, weight_);
  const PoolWindows pool = check_windows(kOp, x_, kernel, stride, padding);
  check_pooled(kOp, gradient_, out_, argmax_, winner_, x_, pool);
  check_statistics(kOp, mean_, variance_, x_);
  const Activation activation = activation_of(kOp, activation_);
  const Tensor gradient = torch::stable::contiguous(gradient_), x = torch::stable::contiguous(x_),
               out = torch::stable::contiguous(out_), argmax = torch::stable::contiguous(argmax_),
               winner = torch::stable::contiguous(winner_),
               weight = torch::stable::contiguous(weight_), mean = torch::stable::contiguous(mean_),
               variance = torch::stable::contiguous(variance_);
  Tensor dx = torch::stable::new_empty(x, {x.size(0), x.size(1), x.size(2), x.size(3)});
  Tensor dweight = torch::stable::new_empty(weight, {weight.size(0)});
  Tensor dbias = torch::stable::new_empty(weight, {weight.size(0)});
  for_map_type(x, [&](auto like) {
    backward<decltype(like)>(gradient, x, out, argmax, winner, pool, weight, mean, variance, eps,
                             activation, dx, dweight, dbias);
  });
  return {dx, dweight, dbias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastmte, CPU, m) {
  m.impl("bn_act_pool", TORCH_BOX(&bn_act_pool));
  m.impl("bn_act_pool_backward", TORCH_BOX(&bn_act_pool_backward));
}

}  // namespace fastmte
