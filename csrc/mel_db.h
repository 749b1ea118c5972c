// What mel_db accepts, on every device.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cmath>
#include <cstdint>

#include "check.h"
#include "mel_places.h"

namespace fastmte {

// The arguments, checked as far as their data need not be read, and contiguous.
struct MelInputs {
  Tensor samples, window, weights, first_bins, splits;
  int64_t n_songs, n_samples, size, n_weights, bands;
};

inline MelInputs mel_inputs(const Tensor& samples, const Tensor& window, const Tensor& weights,
                            const Tensor& first_bins, const Tensor& splits, int64_t hop,
                            int64_t frames, double db_per_decade, double floor_db) {
  constexpr const char* kOp = "mel_db";
  check_tensor(kOp, "samples", samples, 2, {ScalarType::Float}, samples);
  check_tensor(kOp, "window", window, 1, {ScalarType::Float}, samples);
  check_tensor(kOp, "weights", weights, 1, {ScalarType::Float}, samples);
  check_tensor(kOp, "first_bins", first_bins, 1, {ScalarType::Long}, samples);
  check_tensor(kOp, "splits", splits, 1, {ScalarType::Long}, samples);
  FASTMTE_CHECK(window.size(0) >= 4 && window.size(0) % 2 == 0, kOp,
                ": window.size(0) must be even and at least 4, got ", window.size(0));
  check_equal(kOp, "first_bins.size(0) + 1", first_bins.size(0) + 1, "splits.size(0)",
              splits.size(0));
  check_at_least(kOp, "hop", hop, 1);
  check_at_least(kOp, "frames", frames, 0);
  FASTMTE_CHECK(std::isfinite(db_per_decade), kOp, ": db_per_decade must be finite, got ",
                number_text(db_per_decade));
  FASTMTE_CHECK(std::isfinite(floor_db), kOp, ": floor_db must be finite, got ",
                number_text(floor_db));
  return {torch::stable::contiguous(samples),
          torch::stable::contiguous(window),
          torch::stable::contiguous(weights),
          torch::stable::contiguous(first_bins),
          torch::stable::contiguous(splits),
          samples.size(0),
          samples.size(1),
          window.size(0),
          weights.size(0),
          first_bins.size(0)};
}

// Reads the tables, so they must be in host memory.
inline void check_mel_bands(const int64_t* first_bins, const int64_t* splits, int64_t bands,
                            int64_t n_weights, int64_t size) {
  bool is_rising = splits[0] == 0 && splits[bands] == n_weights;
  for (int64_t b = 0; b < bands; ++b) is_rising = is_rising && splits[b] <= splits[b + 1];
  FASTMTE_CHECK(is_rising, "mel_db: splits must rise from 0 to ", n_weights);
  const int64_t n_bins = size / 2 + 1;
  check_range("mel_db", "first_bins", first_bins, bands, n_bins);
  for (int64_t b = 0; b < bands; ++b) {
    const int64_t end = first_bins[b] + splits[b + 1] - splits[b];
    FASTMTE_CHECK(end <= n_bins, "mel_db: first_bins + splits.diff() must be in [0, ", n_bins + 1,
                  "), got ", end, " at [", b, "]");
  }
}

}  // namespace fastmte
