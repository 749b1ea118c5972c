// What resample accepts, on every device.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>
#include <optional>

#include "check.h"

namespace fastmte {

inline void check_resample(const Tensor& samples, const std::optional<Tensor>& filter,
                           int64_t sample_rate, int64_t target, int64_t first, int64_t start,
                           int64_t stop) {
  constexpr const char* kOp = "resample";
  constexpr int64_t kLargestRatio = 1024;
  check_tensor(kOp, "samples", samples, 1, {ScalarType::Float}, samples);
  if (filter) {
    check_tensor(kOp, "filter", *filter, 1, {ScalarType::Float}, samples);
    check_at_least(kOp, "filter.size(0)", filter->size(0), 3);
  }
  check_at_least(kOp, "sample_rate", sample_rate, 1);
  check_at_least(kOp, "target", target, 1);
  FASTMTE_CHECK(std::max(sample_rate, target) / kLargestRatio < std::min(sample_rate, target) ||
                    std::max(sample_rate, target) == kLargestRatio * std::min(sample_rate, target),
                kOp, ": sample_rate and target must be within a factor of ", kLargestRatio,
                " of each other, got ", sample_rate, " and ", target);
  check_at_least(kOp, "first", first, 0);
  check_at_least(kOp, "start", start, 0);
  check_at_least(kOp, "stop", stop, start);
}

}  // namespace fastmte
