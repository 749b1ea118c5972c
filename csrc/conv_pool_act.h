// What conv_pool_act accepts, and its sizes, on every device.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "check.h"
#include "pool_act.h"

namespace fastmte {

// Outputs of one block of weights, and inputs that it takes at a time: fastmte/packing.py.
constexpr int64_t kConvOutputs = 32, kConvInputs = 32;

struct ConvSizes {
  int64_t n_songs, rows, columns, inputs, outputs;
  int64_t kernel_rows, kernel_columns, row_stride, column_stride, row_pad, column_pad;
  int64_t pool_rows, pool_columns;

  int64_t conv_rows() const { return (rows + 2 * row_pad - kernel_rows) / row_stride + 1; }
  int64_t conv_columns() const {
    return (columns + 2 * column_pad - kernel_columns) / column_stride + 1;
  }
  int64_t out_rows() const { return conv_rows() / pool_rows; }
  int64_t out_columns() const { return conv_columns() / pool_columns; }
};

// Maps (B, H, W, C) have points, of which there may be no songs.
inline void check_maps(const char* op, const Tensor& x) {
  for (int i = 1; i < 4; ++i)
    check_at_least(op, ("x.size(" + std::to_string(i) + ")").c_str(), x.size(i), 1);
}

// Of a weight of 8 dimensions.
inline void check_tiles(const char* op, const char* name, const Tensor& weight) {
  FASTMTE_CHECK(
      weight.size(4) == 2 && weight.size(5) == 16 && weight.size(6) == 16 && weight.size(7) == 2,
      op, ": ", name, " must be that of fastmte.packing.packed");
}

inline ConvSizes check_conv_pool_act(const Tensor& x, const Tensor& weight, const Tensor& bias,
                                     const std::optional<Tensor>& onto,
                                     const std::vector<int64_t>& stride,
                                     const std::vector<int64_t>& padding,
                                     const std::vector<int64_t>& pool) {
  constexpr const char* kOp = "conv_pool_act";
  check_tensor(kOp, "x", x, 4, {ScalarType::BFloat16}, x);
  check_tensor(kOp, "weight", weight, 8, {ScalarType::BFloat16}, x);
  check_tensor(kOp, "bias", bias, 1, {ScalarType::Float}, x);
  check_maps(kOp, x);
  check_tiles(kOp, "weight", weight);
  check_at_least(kOp, "weight.size(1)", weight.size(1), 1);
  check_at_least(kOp, "weight.size(2)", weight.size(2), 1);
  check_equal(kOp, "x.size(3)", x.size(3), "the weight's inputs", weight.size(3) * kConvInputs);
  check_equal(kOp, "bias.size(0)", bias.size(0), "the weight's outputs",
              weight.size(0) * kConvOutputs);
  check_two(kOp, "stride", stride, 1);
  check_two(kOp, "padding", padding, 0);
  check_two(kOp, "pool", pool, 1);
  FASTMTE_CHECK(pool[1] <= kConvOutputs, kOp, ": pool[1] must be at most ", kConvOutputs, ", got ",
                pool[1]);
  const ConvSizes sizes{x.size(0),      x.size(1),      x.size(2), x.size(3), bias.size(0),
                        weight.size(1), weight.size(2), stride[0], stride[1], padding[0],
                        padding[1],     pool[0],        pool[1]};
  check_at_least(kOp, "x.size(1)", sizes.rows,
                 (pool[0] - 1) * stride[0] + sizes.kernel_rows - 2 * padding[0]);
  check_at_least(kOp, "x.size(2)", sizes.columns,
                 (pool[1] - 1) * stride[1] + sizes.kernel_columns - 2 * padding[1]);
  if (!onto) return sizes;
  check_tensor(kOp, "onto", *onto, 4, {ScalarType::BFloat16}, x);
  FASTMTE_CHECK(pool[0] * pool[1] == 1, kOp, ": onto must be None where there is a pool");
  const int64_t want[4] = {sizes.n_songs, sizes.out_rows(), sizes.out_columns(), sizes.outputs};
  for (int i = 0; i < 4; ++i)
    check_equal(kOp, ("onto.size(" + std::to_string(i) + ")").c_str(), onto->size(i),
                "the output's", want[i]);
  return sizes;
}

}  // namespace fastmte
