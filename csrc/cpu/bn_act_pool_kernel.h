// The arithmetic of bn_act_pool for one kind of vector; see each_isa.h.
#include "bn_parts.h"

namespace fastmte::FASTMTE_ISA {
namespace {

// The part of a window that lies in the map: points [first, last) of the kernel in one direction.
struct Span {
  int64_t origin, first, last;
};

inline Span span_of(int64_t window, int64_t kernel, int64_t stride, int64_t padding, int64_t size) {
  const int64_t origin = window * stride - padding;
  return {origin, std::max<int64_t>(0, -origin), std::min(kernel, size - origin)};
}

// Pooled rows [begin, end), counted over all songs. `winner` gets the x that won each window.
template <typename T>
FASTMTE_TARGET void bn_act_pool_rows(const T* x, const PoolWindows& pool,
                                     const Affine<Scalar>& affine, Activation activation, T* out,
                                     uint8_t* argmax, T* winner, int64_t begin, int64_t end) {
  const int64_t channels = pool.channels, width = pool.pooled_columns();
  for (int64_t at = begin; at < end; ++at) {
    const T* map = x + at / pool.pooled_rows() * pool.rows * pool.columns * channels;
    const Span rows = span_of(at % pool.pooled_rows(), pool.kernel[0], pool.stride[0],
                              pool.padding[0], pool.rows);
    for (int64_t column = 0; column < width; ++column) {
      const Span columns =
          span_of(column, pool.kernel[1], pool.stride[1], pool.padding[1], pool.columns);
      const T* origin = map + (rows.origin * pool.columns + columns.origin) * channels;
      const int64_t to = (at * width + column) * channels;
      for (int64_t c = 0; c < channels; c += kWidth) {
        const int64_t n = channels - c;
        const NormVectors norm = norm_at(affine, c, n);
        Vector largest = broadcast(-std::numeric_limits<Scalar>::infinity()), best{};
        Bits index{};
        bool is_first = true;
        for (int64_t i = rows.first; i < rows.last; ++i)
          for (int64_t j = columns.first; j < columns.last; ++j) {
            const Vector value = load_first(origin + (i * pool.columns + j) * channels + c, n);
            const Vector y = normalise(norm, value);
            const Bits is_larger = is_first ? all(-1) : (Bits)(y > largest) | (Bits)(y != y);
            largest = choose(is_larger, y, largest);
            best = choose(is_larger, value, best);
            index = is_larger ? all(i * pool.kernel[1] + j) : index;
            is_first = false;
          }
        store_first(out + to + c, activate(largest, activation), n);
        store_first(winner + to + c, best, n);
        store_index(argmax + to + c, index, n);
      }
    }
  }
}

// The gradient of the norm's output that a window of a pooled map hands to its winner.
template <typename T>
struct PooledGradient {
  const T *gradient, *out;
  const uint8_t* argmax;
  Activation activation;

  FASTMTE_TARGET Vector operator()(int64_t at, int64_t n) const {
    return through_activation(load_first(gradient + at, n), load_first(out + at, n), activation);
  }
};

// Rows [begin, end) of x's gradient, counted over all songs, where no windows overlap and none
// is padded.
template <typename T>
FASTMTE_TARGET void tiled_inputs(const PooledGradient<T>& pooled, const T* x,
                                 const PoolWindows& pool, const InputGradient<Scalar>& to, T* dx,
                                 int64_t begin, int64_t end) {
  const int64_t channels = pool.channels, width = pool.pooled_columns(), side = pool.kernel[1];
  for (int64_t at = begin; at < end; ++at) {
    const int64_t window_row = at % pool.rows / pool.kernel[0];
    const bool is_pooled = window_row < pool.pooled_rows();
    const int64_t first_point = at % pool.rows % pool.kernel[0] * side;
    const int64_t from = (at / pool.rows * pool.pooled_rows() + window_row) * width;
    for (int64_t column = 0; column < pool.columns; column += side) {
      const int64_t n_points = std::min(side, pool.columns - column), window = column / side;
      const bool has_winner = is_pooled && window < width;
      for (int64_t c = 0; c < channels; c += kWidth) {
        const int64_t n = channels - c, source = (from + window) * channels + c;
        const InputVectors input = input_at(to, c, n);
        const Vector g = has_winner ? pooled(source, n) : Vector{};
        const Bits index = has_winner ? load_index(pooled.argmax + source, n) : all(-1);
        int64_t point = (at * pool.columns + column) * channels + c;
        for (int64_t j = 0; j < n_points; ++j, point += channels) {
          const Vector here = choose((Bits)(index == all(first_point + j)), g, Vector{});
          store_first(dx + point, input_gradient(input, here, load_first(x + point, n)), n);
        }
      }
    }
  }
}

// The windows [first, last) in one direction that a point lies in.
struct Windows {
  int64_t first, last;
};

inline Windows windows_of(int64_t point, int64_t kernel, int64_t stride, int64_t padding,
                          int64_t n_windows) {
  const int64_t first = point + padding < kernel ? 0 : (point + padding - kernel) / stride + 1;
  return {first, std::min(n_windows, (point + padding) / stride + 1)};
}

// The same for windows of any kind: each point adds up what the windows around it hand out.
template <typename T>
FASTMTE_TARGET void overlapping_inputs(const PooledGradient<T>& pooled, const T* x,
                                       const PoolWindows& pool, const InputGradient<Scalar>& to,
                                       T* dx, int64_t begin, int64_t end) {
  const int64_t channels = pool.channels, width = pool.pooled_columns();
  std::vector<Windows> along(pool.columns);
  for (int64_t column = 0; column < pool.columns; ++column)
    along[column] = windows_of(column, pool.kernel[1], pool.stride[1], pool.padding[1], width);
  for (int64_t at = begin; at < end; ++at) {
    const int64_t row = at % pool.rows, first = at / pool.rows * pool.pooled_rows() * width;
    const Windows down =
        windows_of(row, pool.kernel[0], pool.stride[0], pool.padding[0], pool.pooled_rows());
    for (int64_t column = 0; column < pool.columns; ++column) {
      const int64_t first_place =
          (row + pool.padding[0]) * pool.kernel[1] + column + pool.padding[1];
      for (int64_t c = 0; c < channels; c += kWidth) {
        const int64_t n = channels - c, point = (at * pool.columns + column) * channels + c;
        Vector g{};
        for (int64_t i = down.first; i < down.last; ++i)
          for (int64_t j = along[column].first; j < along[column].last; ++j) {
            const int64_t from = (first + i * width + j) * channels + c;
            const int64_t place =
                first_place - i * pool.stride[0] * pool.kernel[1] - j * pool.stride[1];
            const auto has_won = (Bits)(load_index(pooled.argmax + from, n) == all(place));
            g += choose(has_won, pooled(from, n), Vector{});
          }
        store_first(dx + point, input_gradient(input_at(to, c, n), g, load_first(x + point, n)), n);
      }
    }
  }
}

template <typename T>
FASTMTE_TARGET void bn_act_pool_inputs(const T* gradient, const T* x, const T* out,
                                       const uint8_t* argmax, const PoolWindows& pool,
                                       const InputGradient<Scalar>& to, Activation activation,
                                       T* dx, int64_t begin, int64_t end) {
  const PooledGradient<T> pooled{gradient, out, argmax, activation};
  (pool.is_tiled() ? tiled_inputs<T> : overlapping_inputs<T>)(pooled, x, pool, to, dx, begin, end);
}

template <typename T>
BnActPoolKernels<T> bn_act_pool_kernels() {
  return {moments<T>, bn_act_pool_rows<T>, gradient_sums<T>, bn_act_pool_inputs<T>};
}

}  // namespace
}  // namespace fastmte::FASTMTE_ISA
