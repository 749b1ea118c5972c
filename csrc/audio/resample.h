// resample on the CPU as plain functions: decoder processes call them without torch.
#pragma once

#include <cstdint>

#include "resample_places.h"

namespace fastmte {

// Samples [first, first + n_samples) of a song become outputs [start, stop); what lies outside is
// 0.
struct Resampling {
  const float* samples;
  int64_t n_samples, first;
  const float* filter;  // null: linear interpolation
  int64_t n_filter;
  Places places;
  int64_t start, stop;
  float* out;
};

// Independent pieces of the work; any order and any thread.
int64_t n_pieces(const Resampling& job);
void resample_piece(const Resampling& job, int64_t piece);

}  // namespace fastmte
