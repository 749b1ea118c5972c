// What bn_act_pool and bn_add_relu accept: training batch norm of channels-last maps, fused with
// what follows it.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>
#include <string>
#include <vector>

#include "check.h"

namespace fastmte {

// A max-pool over (B, H, W, C), its windows numbered row by row; padding never wins.
struct PoolWindows {
  int64_t n_songs, rows, columns, channels;
  int64_t kernel[2], stride[2], padding[2];

  // True where windows neither overlap nor leave gaps, nor reach over the border.
  bool is_tiled() const {
    return stride[0] == kernel[0] && stride[1] == kernel[1] && !padding[0] && !padding[1];
  }
  int64_t pooled_rows() const { return (rows + 2 * padding[0] - kernel[0]) / stride[0] + 1; }
  int64_t pooled_columns() const { return (columns + 2 * padding[1] - kernel[1]) / stride[1] + 1; }
};

inline void check_pair(const char* op, const char* name, const std::vector<int64_t>& pair,
                       int64_t least) {
  FASTMTE_CHECK(pair.size() == 2, op, ": ", name, " must be 2 sizes, got ", pair.size());
  for (int i = 0; i < 2; ++i)
    FASTMTE_CHECK(pair[i] >= least, op, ": ", name, "[", i, "] must be at least ", least, ", got ",
                  pair[i]);
}

// The maps and the norm's parameters: float32 or bfloat16 with float32 parameters, or all float64.
inline void check_norm(const char* op, const Tensor& x, const Tensor& weight, const Tensor& bias) {
  check_tensor(op, "x", x, 4, {ScalarType::Float, ScalarType::BFloat16, ScalarType::Double}, x);
  const bool is_double = x.scalar_type() == ScalarType::Double;
  const ScalarType dtype = is_double ? ScalarType::Double : ScalarType::Float;
  check_tensor(op, "norm_weight", weight, 1, {dtype}, x);
  check_tensor(op, "norm_bias", bias, 1, {dtype}, x);
  check_equal(op, "norm_weight.size(0)", weight.size(0), "x.size(3)", x.size(3));
  check_equal(op, "norm_bias.size(0)", bias.size(0), "x.size(3)", x.size(3));
  for (int dim = 0; dim < 4; ++dim)
    check_at_least(op, ("x.size(" + std::to_string(dim) + ")").c_str(), x.size(dim), 1);
  const int64_t n_values = x.numel() / x.size(3);
  FASTMTE_CHECK(n_values >= 2, op, ": x must have 2 values a channel or more, got ", n_values);
}

// `x` must have the shape, dtype and device of the maps.
inline void check_like(const char* op, const char* name, const Tensor& x, const Tensor& maps) {
  check_tensor(op, name, x, 4, {maps.scalar_type()}, maps);
  for (int dim = 0; dim < 4; ++dim)
    FASTMTE_CHECK(x.size(dim) == maps.size(dim), op, ": ", name, ".size(", dim, ") must be ",
                  maps.size(dim), ", got ", x.size(dim));
}

inline void check_statistics(const char* op, const Tensor& mean, const Tensor& variance,
                             const Tensor& maps) {
  check_tensor(op, "mean", mean, 1, {ScalarType::Double}, maps);
  check_tensor(op, "variance", variance, 1, {ScalarType::Double}, maps);
  check_equal(op, "mean.size(0)", mean.size(0), "x.size(3)", maps.size(3));
  check_equal(op, "variance.size(0)", variance.size(0), "x.size(3)", maps.size(3));
}

inline PoolWindows check_windows(const char* op, const Tensor& x,
                                 const std::vector<int64_t>& kernel,
                                 const std::vector<int64_t>& stride,
                                 const std::vector<int64_t>& padding) {
  check_pair(op, "kernel", kernel, 1);
  check_pair(op, "stride", stride, 1);
  check_pair(op, "padding", padding, 0);
  for (int i = 0; i < 2; ++i) {
    FASTMTE_CHECK(2 * padding[i] <= kernel[i], op, ": padding[", i,
                  "] must be at most half the kernel, got ", padding[i], " of ", kernel[i]);
    FASTMTE_CHECK(x.size(1 + i) + 2 * padding[i] >= kernel[i], op, ": kernel[", i,
                  "] must be at most ", x.size(1 + i) + 2 * padding[i], ", got ", kernel[i]);
  }
  FASTMTE_CHECK(kernel[0] * kernel[1] <= 256, op, ": kernel must have at most 256 points, got ",
                kernel[0] * kernel[1]);
  return {x.size(0),
          x.size(1),
          x.size(2),
          x.size(3),
          {kernel[0], kernel[1]},
          {stride[0], stride[1]},
          {padding[0], padding[1]}};
}

// What the backward pass is given of the pooled maps.
inline void check_pooled(const char* op, const Tensor& gradient, const Tensor& out,
                         const Tensor& argmax, const Tensor& winner, const Tensor& x,
                         const PoolWindows& pool) {
  check_tensor(op, "out", out, 4, {x.scalar_type()}, x);
  const int64_t shape[] = {pool.n_songs, pool.pooled_rows(), pool.pooled_columns(), pool.channels};
  for (int dim = 0; dim < 4; ++dim)
    FASTMTE_CHECK(out.size(dim) == shape[dim], op, ": out.size(", dim, ") must be ", shape[dim],
                  ", got ", out.size(dim));
  check_like(op, "gradient", gradient, out);
  check_like(op, "winner", winner, out);
  check_tensor(op, "argmax", argmax, 4, {ScalarType::Byte}, x);
  for (int dim = 0; dim < 4; ++dim)
    FASTMTE_CHECK(argmax.size(dim) == shape[dim], op, ": argmax.size(", dim, ") must be ",
                  shape[dim], ", got ", argmax.size(dim));
}

}  // namespace fastmte
