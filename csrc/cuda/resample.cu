// resample on CUDA: one block some rows of a phase, whose filter they share.
#include <torch/csrc/stable/library.h>

#include "cuda/launch.h"
#include "cuda/values.h"
#include "resample.h"
#include "resample_places.h"

namespace fastmte {
namespace {

constexpr int kThreads = 128;
constexpr int kTaps = 512;  // in shared memory at once

// Samples [first, first + n_samples) of a song; `at` gives 0 outside.
struct Song {
  const float* samples;
  int64_t n_samples, first;

  __device__ float at(int64_t i) const {
    return i >= first && i < first + n_samples ? samples[i - first] : 0.0f;
  }
};

__device__ double tap_of(const Places& places, const float* filter, int n, Centre centre, int j) {
  const double at = tap_at(places.spacing, centre, j), last = n - 1;
  const int step = tap_step(at, last);
  const double value = tap_value(at - step, filter[step], filter[step + 1]);
  return at < last ? value * (places.cut / kFilterSteps) : 0.0;
}

// Grid (chunks * phases * tiles of rows). A thread adds up one output.
__global__ void __launch_bounds__(kThreads)
    sinc_kernel(Song song, const float* __restrict__ filter, int n_filter, Places places,
                int64_t start, int64_t stop, float* __restrict__ out) {
  __shared__ float near[kTaps], change[kTaps];
  const int64_t n_tiles = (places.chunk_rows + kThreads - 1) / kThreads;
  const int64_t chunk_size = places.chunk_rows * places.n_phases;
  const int64_t phase = blockIdx.x / n_tiles % places.n_phases;
  const int64_t chunk = start / chunk_size + blockIdx.x / n_tiles / places.n_phases;
  const int64_t row = blockIdx.x % n_tiles * kThreads + threadIdx.x;
  const int64_t output = chunk * chunk_size + row * places.n_phases + phase;
  const bool is_mine = row < places.chunk_rows && output >= start && output < stop;
  if (!__syncthreads_or(is_mine)) return;

  const PhaseFilter found = phase_filter(places, chunk, phase);
  const Centre early = centre_of(places, found.centre);
  const Centre late = centre_of(places, found.centre + chunk_drift(places));
  const int64_t base = (chunk * places.chunk_rows + row) * places.advance + found.base;
  const float along = static_cast<float>(row) / static_cast<float>(places.chunk_rows);
  float sum = 0;
  bool is_finite = true;
  for (int64_t tap_0 = 0; tap_0 < places.n_taps; tap_0 += kTaps) {
    const int64_t left = places.n_taps - tap_0;
    const int n = static_cast<int>(left < kTaps ? left : kTaps);
    for (int j = threadIdx.x; j < n; j += kThreads) {
      const int tap = static_cast<int>(tap_0) + j;
      const double first = tap_of(places, filter, n_filter, early, tap);
      const double last = tap_of(places, filter, n_filter, late, tap);
      near[j] = static_cast<float>(first);
      change[j] = static_cast<float>(last - first);
    }
    __syncthreads();
    for (int j = 0; is_mine && j < n; ++j) {
      const float x = song.at(base + tap_0 + j);
      is_finite = is_finite && isfinite(x);
      sum = multiply_add(x, multiply_add(along, change[j], near[j]), sum);
    }
    __syncthreads();
  }
  if (is_mine) out[output - start] = is_finite ? sum : nanf("");
}

// Grid over the outputs.
__global__ void linear_kernel(Song song, Places places, int64_t start, int64_t stop,
                              float* __restrict__ out) {
  const int64_t output = start + static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (output >= stop) return;
  const Between at = between(places, output);
  out[output - start] = interpolated(song.at(at.left), song.at(at.right), at.part);
}

// See fastmte/ops.py.
Tensor resample(const Tensor& samples_, const std::optional<Tensor>& filter_, int64_t sample_rate,
                int64_t target, int64_t first, int64_t start, int64_t stop) {
  check_resample(samples_, filter_, sample_rate, target, first, start, stop);
  const torch::stable::accelerator::DeviceGuard guard(samples_.get_device_index());
  const Tensor samples = torch::stable::contiguous(samples_);
  Tensor filter;
  if (filter_) filter = torch::stable::contiguous(*filter_);
  const int64_t n_filter = filter_ ? filter.size(0) : 0;
  Tensor out = torch::stable::new_empty(samples, {stop - start});
  if (start == stop) return out;
  const cudaStream_t stream = current_stream(samples);
  const Song song{samples.const_data_ptr<float>(), samples.size(0), first};
  const Places places = places_of(sample_rate, target, n_filter);
  float* to = out.mutable_data_ptr<float>();
  if (filter_) {
    const int64_t size = places.chunk_rows * places.n_phases;
    const int64_t n_chunks = (stop - 1) / size - start / size + 1;
    const int64_t n_tiles = (places.chunk_rows + kThreads - 1) / kThreads;
    const auto n_blocks = static_cast<unsigned>(n_chunks * places.n_phases * n_tiles);
    sinc_kernel<<<n_blocks, kThreads, 0, stream>>>(
        song, filter.const_data_ptr<float>(), static_cast<int>(n_filter), places, start, stop, to);
  } else {
    const auto n_blocks = static_cast<unsigned>((stop - start + kThreads - 1) / kThreads);
    linear_kernel<<<n_blocks, kThreads, 0, stream>>>(song, places, start, stop, to);
  }
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(fastmte, CUDA, m) { m.impl("resample", TORCH_BOX(&resample)); }

}  // namespace fastmte
