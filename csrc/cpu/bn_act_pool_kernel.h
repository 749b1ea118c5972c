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

// Pooled rows [begin, end), counted over all songs.
template <typename T>
FASTMTE_TARGET void bn_act_pool_rows(const T* x, const PoolWindows& pool,
                                     const Affine<Scalar>& affine, Activation activation, T* out,
                                     uint8_t* argmax, int64_t begin, int64_t end) {
  const int64_t channels = pool.channels, width = pool.pooled_columns();
  for (int64_t at = begin; at < end; ++at) {
    const T* map = x + at / pool.pooled_rows() * pool.rows * pool.columns * channels;
    const Span rows = span_of(at % pool.pooled_rows(), pool.kernel[0], pool.stride[0],
                              pool.padding[0], pool.rows);
    for (int64_t column = 0; column < width; ++column) {
      const Span columns =
          span_of(column, pool.kernel[1], pool.stride[1], pool.padding[1], pool.columns);
      const int64_t to = (at * width + column) * channels;
      for (int64_t c = 0; c < channels; c += kWidth) {
        const int64_t n = channels - c;
        Vector largest = broadcast(-std::numeric_limits<Scalar>::infinity());
        Bits index = all(rows.first * pool.kernel[1] + columns.first);
        for (int64_t i = rows.first; i < rows.last; ++i)
          for (int64_t j = columns.first; j < columns.last; ++j) {
            const T* from =
                map + ((rows.origin + i) * pool.columns + columns.origin + j) * channels + c;
            const Vector y = normalise(affine, load_first(from, n), c, n);
            const Bits is_larger = (Bits)(y > largest) | (Bits)(y != y);
            largest = choose(is_larger, y, largest);
            index = is_larger ? all(i * pool.kernel[1] + j) : index;
          }
        store_first(out + to + c, activate(largest, activation), n);
        store_index(argmax + to + c, index, n);
      }
    }
  }
}

// Pooled row `at`: g before the activation to `before`, and the sums (2, C) of g and of
// g (x - mean), x being what won each window. Memory is read in its order: sums stay in L1.
template <typename T>
FASTMTE_TARGET void bn_act_pool_sums(const T* gradient, const T* x, const T* out,
                                     const uint8_t* argmax, const PoolWindows& pool,
                                     const Scalar* mean, Activation activation, int64_t at,
                                     Scalar* before, double* sums) {
  const int64_t channels = pool.channels, width = pool.pooled_columns();
  const T* map = x + at / pool.pooled_rows() * pool.rows * pool.columns * channels;
  const Span rows =
      span_of(at % pool.pooled_rows(), pool.kernel[0], pool.stride[0], pool.padding[0], pool.rows);
  std::vector<Scalar> of_row(2 * channels, 0);
  for (int64_t column = 0; column < width; ++column) {
    const Span columns =
        span_of(column, pool.kernel[1], pool.stride[1], pool.padding[1], pool.columns);
    for (int64_t c = 0; c < channels; c += kWidth) {
      const int64_t n = channels - c, from = (at * width + column) * channels + c;
      const Vector g =
          through_activation(load_first(gradient + from, n), load_first(out + from, n), activation);
      store_first(before + from, g, n);
      const Bits index = load_index(argmax + from, n);
      const Vector origin = load_first(mean + c, n);
      Vector winner = origin;
      for (int64_t i = rows.first; i < rows.last; ++i)
        for (int64_t j = columns.first; j < columns.last; ++j) {
          const T* point =
              map + ((rows.origin + i) * pool.columns + columns.origin + j) * channels + c;
          const auto is_winner = (Bits)(index == all(i * pool.kernel[1] + j));
          winner = choose(is_winner, load_first(point, n), winner);
        }
      Scalar *sum = of_row.data() + c, *product = sum + channels;
      store_first(sum, load_first(sum, n) + g, n);
      store_first(product, fma(g, winner - origin, load_first(product, n)), n);
    }
    if ((column + 1) % kRowsPerSum && column + 1 < width) continue;
    for (int64_t i = 0; i < 2 * channels; ++i) sums[i] += of_row[i];
    std::fill(of_row.begin(), of_row.end(), Scalar{0});
  }
}

// The windows [first, last) in one direction that a point lies in.
struct Windows {
  int64_t first, last;
};

inline Windows windows_of(int64_t point, int64_t kernel, int64_t stride, int64_t padding,
                          int64_t n_windows) {
  const int64_t shifted = point + padding;
  const int64_t first = shifted < kernel ? 0 : (shifted - kernel) / stride + 1;
  return {first, std::min(n_windows, shifted / stride + 1)};
}

// Rows [begin, end) of x's gradient, counted over all songs.
template <typename T>
FASTMTE_TARGET void bn_act_pool_inputs(const Scalar* before, const T* x, const uint8_t* argmax,
                                       const PoolWindows& pool, const InputGradient<Scalar>& to,
                                       T* dx, int64_t begin, int64_t end) {
  const int64_t channels = pool.channels, width = pool.pooled_columns();
  for (int64_t at = begin; at < end; ++at) {
    const int64_t song = at / pool.rows, row = at % pool.rows;
    const Windows down =
        windows_of(row, pool.kernel[0], pool.stride[0], pool.padding[0], pool.pooled_rows());
    for (int64_t column = 0; column < pool.columns; ++column) {
      const Windows along =
          windows_of(column, pool.kernel[1], pool.stride[1], pool.padding[1], width);
      const int64_t point = (at * pool.columns + column) * channels;
      for (int64_t c = 0; c < channels; c += kWidth) {
        const int64_t n = channels - c;
        Vector g{};
        for (int64_t i = down.first; i < down.last; ++i)
          for (int64_t j = along.first; j < along.last; ++j) {
            const int64_t index = (row + pool.padding[0] - i * pool.stride[0]) * pool.kernel[1] +
                                  column + pool.padding[1] - j * pool.stride[1];
            const int64_t from = ((song * pool.pooled_rows() + i) * width + j) * channels + c;
            const auto has_won = (Bits)(load_index(argmax + from, n) == all(index));
            g += choose(has_won, load_first(before + from, n), Vector{});
          }
        store_first(dx + point + c, input_gradient(to, g, load_first(x + point + c, n), c, n), n);
      }
    }
  }
}

template <typename T>
BnActPoolKernels<T> bn_act_pool_kernels() {
  return {moments<T>, bn_act_pool_rows<T>, bn_act_pool_sums<T>, bn_act_pool_inputs<T>};
}

}  // namespace
}  // namespace fastmte::FASTMTE_ISA
