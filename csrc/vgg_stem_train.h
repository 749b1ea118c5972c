// What vgg_stem_argmax and vgg_stem_sums accept.
#pragma once

#include <cstdint>

#include "check.h"

namespace fastmte {

inline void check_size(const char* op, const char* name, int64_t size, int64_t want) {
  FASTMTE_CHECK(size == want, op, ": ", name, " must be ", want, ", got ", size);
}

inline void check_stem_maps(const char* op, const Tensor& x) {
  check_tensor(op, "x", x, 3, {ScalarType::Float, ScalarType::Double}, x);
  check_at_least(op, "x.size(0)", x.size(0), 1);
  check_at_least(op, "x.size(1)", x.size(1), 2);
  check_at_least(op, "x.size(2)", x.size(2), 4);
}

inline void check_vgg_stem_argmax(const Tensor& x, const Tensor& scale, const Tensor& shift,
                                  const Tensor& weight, const Tensor& bias, ScalarType dtype) {
  constexpr const char* kOp = "vgg_stem_argmax";
  check_stem_maps(kOp, x);
  check_tensor(kOp, "scale", scale, 1, {x.scalar_type()}, x);
  check_tensor(kOp, "shift", shift, 1, {x.scalar_type()}, x);
  check_tensor(kOp, "weight", weight, 4, {x.scalar_type()}, x);
  check_tensor(kOp, "bias", bias, 1, {x.scalar_type()}, x);
  check_at_least(kOp, "scale.size(0)", scale.size(0), 1);
  check_equal(kOp, "shift.size(0)", shift.size(0), "scale.size(0)", scale.size(0));
  check_equal(kOp, "bias.size(0)", bias.size(0), "weight.size(0)", weight.size(0));
  check_at_least(kOp, "weight.size(0)", weight.size(0), scale.size(0));
  check_size(kOp, "weight.size(0) % scale.size(0)", weight.size(0) % scale.size(0), 0);
  check_size(kOp, "weight.size(1)", weight.size(1), 1);
  check_size(kOp, "weight.size(2)", weight.size(2), 3);
  check_size(kOp, "weight.size(3)", weight.size(3), 3);
  FASTMTE_CHECK(dtype == x.scalar_type() ||
                    (dtype == ScalarType::BFloat16 && x.scalar_type() == ScalarType::Float),
                kOp, ": dtype must be that of x, or BFloat16 for Float, got ",
                torch::headeronly::toString(dtype));
}

inline void check_vgg_stem_sums(const Tensor& gradient, const Tensor& out, const Tensor& argmax,
                                const Tensor& x) {
  constexpr const char* kOp = "vgg_stem_sums";
  check_stem_maps(kOp, x);
  if (x.scalar_type() == ScalarType::Double)
    check_tensor(kOp, "out", out, 5, {ScalarType::Double}, x);
  else
    check_tensor(kOp, "out", out, 5, {ScalarType::Float, ScalarType::BFloat16}, x);
  check_tensor(kOp, "gradient", gradient, 5, {out.scalar_type()}, x);
  check_tensor(kOp, "argmax", argmax, 5, {ScalarType::Byte}, x);
  check_size(kOp, "out.size(1)", out.size(1), x.size(0));
  check_size(kOp, "out.size(2)", out.size(2), x.size(1) / 2);
  check_size(kOp, "out.size(3)", out.size(3), x.size(2) / 4);
  for (int dim = 0; dim < 5; ++dim) {
    check_equal(kOp, ("gradient.size(" + std::to_string(dim) + ")").c_str(), gradient.size(dim),
                "out's", out.size(dim));
    check_equal(kOp, ("argmax.size(" + std::to_string(dim) + ")").c_str(), argmax.size(dim),
                "out's", out.size(dim));
  }
}

}  // namespace fastmte
