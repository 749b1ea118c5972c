// The arithmetic of bn_add_relu for one kind of vector; see each_isa.h. Bound by memory.
#include "bn_parts.h"

namespace fastmte::FASTMTE_ISA {
namespace {

// Vectors of a row whose constants live in registers while the rows go by.
constexpr int kBlockVectors = kRegisters / 8;

// kVectors vectors of channels, n channels in all, of the rows below. `residual` may be null.
template <int kVectors, Activation kActivation, typename T>
FASTMTE_TARGET FASTMTE_INLINE void norm_block(const T* x, const T* residual, int64_t n_rows,
                                              int64_t channels, int64_t n,
                                              const Affine<Scalar>& affine, int64_t c, T* out) {
  NormVectors norm[kVectors];
  for (int v = 0; v < kVectors; ++v) norm[v] = norm_at(affine, c + v * kWidth, n - v * kWidth);
  for (int64_t at = c; at < n_rows * channels; at += channels)
    for (int v = 0; v < kVectors; ++v) {
      const int64_t i = at + v * kWidth, n_here = n - v * kWidth;
      Vector y = normalise(norm[v], load_first(x + i, n_here));
      if (residual) y += load_first(residual + i, n_here);
      store_first(out + i, activate(y, kActivation), n_here);
    }
}

template <Activation kActivation, typename T>
FASTMTE_TARGET void norm_rows(const T* x, const T* residual, int64_t n_rows, int64_t channels,
                              const Affine<Scalar>& affine, T* out) {
  constexpr int64_t kBlock = kBlockVectors * kWidth;
  int64_t c = 0;
  for (; c + kBlock <= channels; c += kBlock)
    norm_block<kBlockVectors, kActivation>(x, residual, n_rows, channels, kBlock, affine, c, out);
  for (; c < channels; c += kWidth)
    norm_block<1, kActivation>(x, residual, n_rows, channels, channels - c, affine, c, out);
}

// Rows [0, n_rows) of out = act((x - mean) gain + bias + residual), all (N, C).
template <typename T>
FASTMTE_TARGET void bn_add_relu_rows(const T* x, const T* residual, int64_t n_rows,
                                     int64_t channels, const Affine<Scalar>& affine,
                                     Activation activation, T* out) {
  const auto rows = activation == Activation::kRelu  ? norm_rows<Activation::kRelu, T>
                    : activation == Activation::kElu ? norm_rows<Activation::kElu, T>
                                                     : norm_rows<Activation::kNone, T>;
  rows(x, residual, n_rows, channels, affine, out);
}

// As norm_block, of the gradients of x and, where `dresidual` is not null, of the residual.
template <int kVectors, Activation kActivation, typename T>
FASTMTE_TARGET FASTMTE_INLINE void input_block(const T* gradient, const T* x, const T* out,
                                               int64_t n_rows, int64_t channels, int64_t n,
                                               const InputGradient<Scalar>& to, int64_t c, T* dx,
                                               T* dresidual) {
  InputVectors input[kVectors];
  for (int v = 0; v < kVectors; ++v) input[v] = input_at(to, c + v * kWidth, n - v * kWidth);
  for (int64_t at = c; at < n_rows * channels; at += channels)
    for (int v = 0; v < kVectors; ++v) {
      const int64_t i = at + v * kWidth, n_here = n - v * kWidth;
      const Vector g = through_activation(load_first(gradient + i, n_here),
                                          load_first(out + i, n_here), kActivation);
      store_first(dx + i, input_gradient(input[v], g, load_first(x + i, n_here)), n_here);
      if (dresidual) store_first(dresidual + i, g, n_here);
    }
}

template <Activation kActivation, typename T>
FASTMTE_TARGET void input_rows(const T* gradient, const T* x, const T* out, int64_t n_rows,
                               int64_t channels, const InputGradient<Scalar>& to, T* dx,
                               T* dresidual) {
  constexpr int64_t kBlock = kBlockVectors * kWidth;
  int64_t c = 0;
  for (; c + kBlock <= channels; c += kBlock)
    input_block<kBlockVectors, kActivation>(gradient, x, out, n_rows, channels, kBlock, to, c, dx,
                                            dresidual);
  for (; c < channels; c += kWidth)
    input_block<1, kActivation>(gradient, x, out, n_rows, channels, channels - c, to, c, dx,
                                dresidual);
}

// Rows of the gradients of x and of the residual.
template <typename T>
FASTMTE_TARGET void bn_add_relu_inputs(const T* gradient, const T* x, const T* out, int64_t n_rows,
                                       int64_t channels, const InputGradient<Scalar>& to,
                                       Activation activation, T* dx, T* dresidual) {
  const auto rows = activation == Activation::kRelu  ? input_rows<Activation::kRelu, T>
                    : activation == Activation::kElu ? input_rows<Activation::kElu, T>
                                                     : input_rows<Activation::kNone, T>;
  rows(gradient, x, out, n_rows, channels, to, dx, dresidual);
}

template <typename T>
BnAddReluKernels<T> bn_add_relu_kernels() {
  return {moments<T>, bn_add_relu_rows<T>, gradient_sums<T>, bn_add_relu_inputs<T>};
}

}  // namespace
}  // namespace fastmte::FASTMTE_ISA
