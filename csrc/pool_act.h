// What pool_act accepts, and the names of activations, on every device.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "check.h"

namespace fastmte {

enum class Activation { kElu, kNone, kRelu };

inline Activation activation_of(const char* op, const std::string& name) {
  if (name == "elu") return Activation::kElu;
  if (name == "none") return Activation::kNone;
  if (name == "relu") return Activation::kRelu;
  fail(op, ": activation must be one of elu, none, relu, got ", name);
}

inline void check_two(const char* op, const char* name, const std::vector<int64_t>& sizes,
                      int64_t least) {
  FASTMTE_CHECK(sizes.size() == 2, op, ": ", name, " must be 2 sizes, got ", sizes.size());
  for (int i = 0; i < 2; ++i)
    check_at_least(op, (std::string(name) + "[" + std::to_string(i) + "]").c_str(), sizes[i],
                   least);
}

// Sizes of the map (B, H, W, C) and of its pooling windows.
struct PoolSizes {
  int64_t n_songs, rows, columns, channels, window_rows, window_columns;

  int64_t pooled_rows() const { return rows / window_rows; }
  int64_t pooled_columns() const { return columns / window_columns; }
};

inline PoolSizes check_pool_act(const Tensor& x, const std::vector<int64_t>& pool) {
  constexpr const char* kOp = "pool_act";
  check_tensor(kOp, "x", x, 4, {ScalarType::Float, ScalarType::BFloat16, ScalarType::Double}, x);
  check_two(kOp, "pool", pool, 1);
  check_at_least(kOp, "x.size(1)", x.size(1), pool[0]);
  check_at_least(kOp, "x.size(2)", x.size(2), pool[1]);
  check_at_least(kOp, "x.size(3)", x.size(3), 1);
  return {x.size(0), x.size(1), x.size(2), x.size(3), pool[0], pool[1]};
}

}  // namespace fastmte
