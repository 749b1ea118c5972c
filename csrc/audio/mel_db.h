// mel_db on the CPU as plain functions: decoder processes call them without torch.
#pragma once

#include <cstdint>
#include <vector>

#include "mel_places.h"

namespace fastmte {

// Frames of one song. Frame t sees samples [offset + t hop, offset + t hop + size), zeros where
// there are none.
struct MelFrames {
  const float* samples;
  int64_t n_samples, offset, frames;
  float* out;  // (bands, frames)
};

// What is the same for all frames. Band b adds up splits[b + 1] - splits[b] bins from
// first_bins[b] on, by weights[splits[b]] and those after it.
struct MelPlan {
  int64_t size, hop, bands;
  const float* weights;
  const int64_t* first_bins;
  const int64_t* splits;
  float db_per_decade, db_per_octave, db_per_e, floor_db;  // dB a factor of 10, 2 and e
  std::vector<float> window;                               // (size), halved
  std::vector<float> cosine, sine;                         // (size), of -2 pi i / size
  std::vector<FftPass> passes;
};

MelPlan mel_plan(const float* window, int64_t size, const float* weights, const int64_t* first_bins,
                 const int64_t* splits, int64_t bands, int64_t hop, double db_per_decade,
                 double floor_db);

// Independent pieces of the work, each of some frames; any order and any thread.
int64_t n_pieces(const MelFrames& job);
void mel_piece(const MelPlan& plan, const MelFrames& job, int64_t piece);

}  // namespace fastmte
