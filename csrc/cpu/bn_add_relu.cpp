// bn_add_relu on the CPU: training batch norm, a residual and an activation; two passes each way.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>

#include "bn_maps.h"
#include "cpu/bn_statistics.h"
#include "pool_act.h"

namespace fastmte {
namespace {

// One kind of vector's functions for maps of T; see bn_add_relu_kernel.h.
template <typename T, typename Scalar = ScalarOf<T>>
struct BnAddReluKernels {
  MomentsFunction<T> moments;
  void (*rows)(const T*, const T*, int64_t, int64_t, const Affine<Scalar>&, Activation, T*);
  SumsFunction<T> sums;
  void (*inputs)(const T*, const T*, const T*, int64_t, int64_t, const InputGradient<Scalar>&,
                 Activation, T*, T*);
};

}  // namespace
}  // namespace fastmte

#define FASTMTE_KERNELS "cpu/bn_add_relu_kernel.h"
#include "cpu/each_isa.h"

namespace fastmte {
namespace {

template <typename T>
BnAddReluKernels<T> kernels_for() {
  if constexpr (std::is_same_v<T, double>)
    return float64::bn_add_relu_kernels<double>();
  else
    return FASTMTE_CHOOSE(bn_add_relu_kernels<T>());
}

template <typename T>
void forward(const Tensor& x, const T* residual, const Tensor& weight, const Tensor& bias,
             double eps, Activation activation, Tensor& out, Tensor& mean, Tensor& variance) {
  const BnAddReluKernels<T> kernels = kernels_for<T>();
  const int64_t channels = x.size(3), n_rows = x.numel() / channels;
  const T* from = data<T>(x);
  T* to = mutable_data<T>(out);
  batch_statistics(from, n_rows, channels, kernels.moments, mutable_data<double>(mean),
                   mutable_data<double>(variance));
  const Norm<ScalarOf<T>> norm(data<double>(mean), data<double>(variance),
                               data<ScalarOf<T>>(weight), data<ScalarOf<T>>(bias), eps, channels);
  for_chunks(n_rows, [&](int64_t chunk, int64_t n) {
    const int64_t at = chunk * kRowsPerChunk * channels;
    kernels.rows(from + at, residual ? residual + at : nullptr, n, channels, norm.affine(),
                 activation, to + at);
  });
}

template <typename T>
void backward(const Tensor& gradient, const Tensor& x, const Tensor& out, const Tensor& weight,
              const Tensor& mean, const Tensor& variance, double eps, Activation activation,
              Tensor& dx, T* dresidual, Tensor& dweight, Tensor& dbias) {
  using Scalar = ScalarOf<T>;
  const BnAddReluKernels<T> kernels = kernels_for<T>();
  const int64_t channels = x.size(3), n_rows = x.numel() / channels;
  const T *g = data<T>(gradient), *from = data<T>(x), *result = data<T>(out);
  T* to = mutable_data<T>(dx);
  const std::vector<double> sums = sums_of_gradient(g, from, result, n_rows, channels,
                                                    data<double>(mean), activation, kernels.sums);
  const NormGradient<Scalar> norm(sums, data<double>(mean), data<double>(variance),
                                  data<Scalar>(weight), eps, n_rows, mutable_data<Scalar>(dweight),
                                  mutable_data<Scalar>(dbias));
  for_chunks(n_rows, [&](int64_t chunk, int64_t n) {
    const int64_t at = chunk * kRowsPerChunk * channels;
    kernels.inputs(g + at, from + at, result + at, n, channels, norm.input(), activation, to + at,
                   dresidual ? dresidual + at : nullptr);
  });
}

// See fastmte/training_ops.py.
std::tuple<Tensor, Tensor, Tensor> bn_add_relu(const Tensor& x_,
                                               const std::optional<Tensor>& residual_,
                                               const Tensor& weight_, const Tensor& bias_,
                                               double eps, std::string activation_) {
  check_norm("bn_add_relu", x_, weight_, bias_);
  if (residual_) check_like("bn_add_relu", "residual", *residual_, x_);
  const Activation activation = activation_of("bn_add_relu", activation_);
  const Tensor x = torch::stable::contiguous(x_), weight = torch::stable::contiguous(weight_),
               bias = torch::stable::contiguous(bias_);
  const Tensor residual = residual_ ? torch::stable::contiguous(*residual_) : x;
  Tensor out = torch::stable::new_empty(x, {x.size(0), x.size(1), x.size(2), x.size(3)});
  Tensor mean = torch::stable::new_empty(x, {x.size(3)}, ScalarType::Double);
  Tensor variance = torch::stable::new_empty(x, {x.size(3)}, ScalarType::Double);
  for_map_type(x, [&](auto like) {
    using T = decltype(like);
    forward<T>(x, residual_ ? data<T>(residual) : nullptr, weight, bias, eps, activation, out, mean,
               variance);
  });
  return {out, mean, variance};
}

// The gradients of x, the residual (no elements unless asked for), weight and bias.
std::tuple<Tensor, Tensor, Tensor, Tensor> bn_add_relu_backward(
    const Tensor& gradient_, const Tensor& x_, const Tensor& out_, const Tensor& weight_,
    const Tensor& mean_, const Tensor& variance_, double eps, std::string activation_,
    bool has_residual) {
  constexpr const char* kOp = "bn_add_relu_backward";
  check_norm(kOp, x_, weight_, weight_);
  check_like(kOp, "gradient", gradient_, x_);
  check_like(kOp, "out", out_, x_);
  check_statistics(kOp, mean_, variance_, x_);
  const Activation activation = activation_of(kOp, activation_);
  const Tensor gradient = torch::stable::contiguous(gradient_), x = torch::stable::contiguous(x_),
               out = torch::stable::contiguous(out_), weight = torch::stable::contiguous(weight_),
               mean = torch::stable::contiguous(mean_),
               variance = torch::stable::contiguous(variance_);
  Tensor dx = torch::stable::new_empty(x, {x.size(0), x.size(1), x.size(2), x.size(3)});
  Tensor dresidual =
      torch::stable::new_empty(x, {has_residual ? x.size(0) : 0, x.size(1), x.size(2), x.size(3)});
  Tensor dweight = torch::stable::new_empty(weight, {weight.size(0)});
  Tensor dbias = torch::stable::new_empty(weight, {weight.size(0)});
  for_map_type(x, [&](auto like) {
    using T = decltype(like);
    backward<T>(gradient, x, out, weight, mean, variance, eps, activation, dx,
                has_residual ? mutable_data<T>(dresidual) : nullptr, dweight, dbias);
  });
  return {dx, dresidual, dweight, dbias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastmte, CPU, m) {
  m.impl("bn_add_relu", TORCH_BOX(&bn_add_relu));
  m.impl("bn_add_relu_backward", TORCH_BOX(&bn_add_relu_backward));
}

}  // namespace fastmte
