// resample as an operator; audio/resample.cpp has its arithmetic.
#include "resample.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "audio/resample.h"

namespace fastmte {
namespace {

// See fastmte/ops.py. Chunks are independent: any number of threads gives the same bits.
Tensor resample(const Tensor& samples_, const std::optional<Tensor>& filter_, int64_t sample_rate,
                int64_t target, int64_t first, int64_t start, int64_t stop) {
  check_resample(samples_, filter_, sample_rate, target, first, start, stop);
  const Tensor samples = torch::stable::contiguous(samples_);
  Tensor filter;
  if (filter_) filter = torch::stable::contiguous(*filter_);
  const int64_t n_filter = filter_ ? filter.size(0) : 0;
  Tensor out = torch::stable::new_empty(samples, {stop - start});
  const Resampling job{samples.const_data_ptr<float>(),
                       samples.size(0),
                       first,
                       filter_ ? filter.const_data_ptr<float>() : nullptr,
                       n_filter,
                       places_of(sample_rate, target, n_filter),
                       start,
                       stop,
                       out.mutable_data_ptr<float>()};
  torch::stable::parallel_for(0, n_pieces(job), 1, [&](int64_t begin, int64_t end) {
    for (int64_t piece = begin; piece < end; ++piece) resample_piece(job, piece);
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastmte, CPU, m) { m.impl("resample", TORCH_BOX(&resample)); }

}  // namespace fastmte
