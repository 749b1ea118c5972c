// mel_db as an operator; audio/mel_db.cpp has its arithmetic.
#include "mel_db.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "audio/mel_db.h"

namespace fastmte {
namespace {

// See fastmte/ops.py. Frames are independent: any number of threads gives the same bits.
Tensor mel_db(const Tensor& samples, const Tensor& window, const Tensor& weights,
              const Tensor& first_bins, const Tensor& splits, int64_t hop, int64_t offset,
              int64_t frames, double db_per_decade, double floor_db) {
  const MelInputs inputs = mel_inputs(samples, window, weights, first_bins, splits, hop, frames,
                                      db_per_decade, floor_db);
  const int64_t* first = inputs.first_bins.const_data_ptr<int64_t>();
  const int64_t* ends = inputs.splits.const_data_ptr<int64_t>();
  check_mel_bands(first, ends, inputs.bands, inputs.n_weights, inputs.size);
  Tensor out = torch::stable::new_empty(samples, {inputs.n_songs, inputs.bands, frames});
  const MelPlan plan = mel_plan(inputs.window.const_data_ptr<float>(), inputs.size,
                                inputs.weights.const_data_ptr<float>(), first, ends, inputs.bands,
                                hop, db_per_decade, floor_db);
  const float* from = inputs.samples.const_data_ptr<float>();
  float* to = out.mutable_data_ptr<float>();
  const auto song = [&](int64_t i) {
    return MelFrames{from + i * inputs.n_samples, inputs.n_samples, offset, frames,
                     to + i * inputs.bands * frames};
  };
  const int64_t n = n_pieces(song(0));
  torch::stable::parallel_for(0, n * inputs.n_songs, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) mel_piece(plan, song(i / n), i % n);
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastmte, CPU, m) { m.impl("mel_db", TORCH_BOX(&mel_db)); }

}  // namespace fastmte
