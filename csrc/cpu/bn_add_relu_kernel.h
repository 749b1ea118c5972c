// The arithmetic of bn_add_relu for one kind of vector; see each_isa.h. Bound by memory.
#include "bn_parts.h"

namespace fastmte::FASTMTE_ISA {
namespace {

// Rows [0, n_rows) of out = act((x - mean) gain + bias + residual), all (N, C).
template <typename T>
FASTMTE_TARGET void bn_add_relu_rows(const T* x, const T* residual, int64_t n_rows,
                                     int64_t channels, const Affine<Scalar>& affine,
                                     Activation activation, T* out) {
  for (int64_t row = 0; row < n_rows; ++row, x += channels, out += channels) {
    for (int64_t c = 0; c < channels; c += kWidth) {
      const int64_t n = channels - c;
      Vector y = normalise(norm_at(affine, c, n), load_first(x + c, n));
      if (residual) y += load_first(residual + row * channels + c, n);
      store_first(out + c, activate(y, activation), n);
    }
  }
}

// Rows of the gradients of x and, where `dresidual` is not null, of the residual.
template <typename T>
FASTMTE_TARGET void bn_add_relu_inputs(const T* gradient, const T* x, const T* out, int64_t n_rows,
                                       int64_t channels, const InputGradient<Scalar>& to,
                                       Activation activation, T* dx, T* dresidual) {
  for (int64_t row = 0; row < n_rows; ++row) {
    for (int64_t c = 0; c < channels; c += kWidth) {
      const int64_t n = channels - c, at = row * channels + c;
      const Vector g =
          through_activation(load_first(gradient + at, n), load_first(out + at, n), activation);
      store_first(dx + at, input_gradient(input_at(to, c, n), g, load_first(x + at, n)), n);
      if (dresidual) store_first(dresidual + at, g, n);
    }
  }
}

template <typename T>
BnAddReluKernels<T> bn_add_relu_kernels() {
  return {moments<T>, bn_add_relu_rows<T>, gradient_sums<T>, bn_add_relu_inputs<T>};
}

}  // namespace
}  // namespace fastmte::FASTMTE_ISA
