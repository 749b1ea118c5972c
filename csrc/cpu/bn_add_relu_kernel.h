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
      Vector y = normalise(affine, load_first(x + c, n), c, n);
      if (residual) y += load_first(residual + row * channels + c, n);
      store_first(out + c, activate(y, activation), n);
    }
  }
}

// Sums over some rows of g and of g (x - mean), g being the gradient before the activation.
template <typename T>
FASTMTE_TARGET void bn_add_relu_sums(const T* gradient, const T* x, const T* out, int64_t n_rows,
                                     int64_t channels, const Scalar* mean, Activation activation,
                                     double* sums) {
  for (int64_t row = 0; row < n_rows; row += kRowsPerSum) {
    const int64_t last = std::min(n_rows, row + kRowsPerSum);
    for (int64_t c = 0; c < channels; c += kWidth) {
      const int64_t n = channels - c;
      const Vector origin = load_first(mean + c, n);
      Vector sum{}, product{};
      for (int64_t at = row * channels + c; at < last * channels; at += channels) {
        const Vector g =
            through_activation(load_first(gradient + at, n), load_first(out + at, n), activation);
        sum += g;
        product = fma(g, load_first(x + at, n) - origin, product);
      }
      add_lanes(sums + c, sum, n);
      add_lanes(sums + channels + c, product, n);
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
      store_first(dx + at, input_gradient(to, g, load_first(x + at, n), c, n), n);
      if (dresidual) store_first(dresidual + at, g, n);
    }
  }
}

template <typename T>
BnAddReluKernels<T> bn_add_relu_kernels() {
  return {moments<T>, bn_add_relu_rows<T>, bn_add_relu_sums<T>, bn_add_relu_inputs<T>};
}

}  // namespace
}  // namespace fastmte::FASTMTE_ISA
