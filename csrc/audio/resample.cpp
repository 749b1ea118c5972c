// resample on the CPU: chunks of outputs, each from filters of its own.
#include "audio/resample.h"

#include <algorithm>
#include <limits>
#include <new>
#include <vector>

#define FASTMTE_KERNELS "audio/resample_kernel.h"
#define FASTMTE_FLOAT32_ONLY
#include "cpu/each_isa.h"

namespace fastmte {
namespace {

int64_t outputs_a_piece(const Resampling& job) {
  return job.filter ? job.places.chunk_rows * job.places.n_phases : kChunkOutputs;
}

// The inputs that a chunk's outputs and the vectors of its filters reach.
struct Reach {
  int64_t begin, end;
};

Reach reach_of(const Resampling& job, int64_t chunk, int64_t begin, int64_t end) {
  constexpr int64_t kMostLanes = 16;
  const Places& places = job.places;
  const int64_t low = begin / places.n_phases, high = (end - 1) / places.n_phases;
  const PhaseFilter first = phase_filter(places, chunk, 0);
  const PhaseFilter last = phase_filter(places, chunk, places.n_phases - 1);
  return {low * places.advance + first.base,
          high * places.advance + last.base + places.n_taps + kMostLanes};
}

// A copy of inputs [reach.begin, reach.end), zeros outside the song. Samples that are NaN or
// infinite become 0 too, and `bad` counts those before each position.
struct Copy {
  std::vector<float> samples;
  std::vector<int64_t> bad;
};

Copy copy_of(const Resampling& job, Reach reach) {
  Copy copy{std::vector<float>(reach.end - reach.begin), {}};
  const int64_t begin = std::max(reach.begin, job.first);
  const int64_t end = std::min(reach.end, job.first + job.n_samples);
  if (begin >= end) return copy;
  float* to = copy.samples.data() + (begin - reach.begin);
  std::copy_n(job.samples + (begin - job.first), end - begin, to);
  if (is_finite_body(to, end - begin)) return copy;
  copy.bad.assign(copy.samples.size() + 1, 0);
  for (size_t i = 0; i < copy.samples.size(); ++i) {
    const bool is_bad = !std::isfinite(copy.samples[i]);
    copy.bad[i + 1] = copy.bad[i] + is_bad;
    if (is_bad) copy.samples[i] = 0;
  }
  return copy;
}

// Makes NaN of the outputs whose filters cover a sample that is not finite.
void mark_bad(const Resampling& job, int64_t chunk, Reach reach, const Copy& copy, int64_t begin,
              int64_t end) {
  const Places& places = job.places;
  for (int64_t output = begin; output < end; ++output) {
    const int64_t base = phase_filter(places, chunk, output % places.n_phases).base;
    const int64_t at = output / places.n_phases * places.advance + base - reach.begin;
    if (copy.bad[at + places.n_taps] > copy.bad[at])
      job.out[output - job.start] = std::numeric_limits<float>::quiet_NaN();
  }
}

void resample_sinc(const Resampling& job, int64_t chunk, int64_t begin, int64_t end) {
  const Reach reach = reach_of(job, chunk, begin, end);
  const int64_t first = chunk * job.places.chunk_rows;
  float* out = job.out + (first * job.places.n_phases - job.start);
  const auto run = FASTMTE_CHOOSE(resample_chunk);
  const bool is_inside = job.first <= reach.begin && reach.end <= job.first + job.n_samples;
  if (is_inside) {
    run(job, chunk, job.samples + (first * job.places.advance - job.first), begin, end, out);
    // A bad sample that only the zeros behind a filter cover would spoil its output too.
    if (is_finite_body(job.out + (begin - job.start), end - begin)) return;
  }
  const Copy copy = copy_of(job, reach);
  run(job, chunk, copy.samples.data() + (first * job.places.advance - reach.begin), begin, end,
      out);
  if (!copy.bad.empty()) mark_bad(job, chunk, reach, copy, begin, end);
}

void resample_linear(const Resampling& job, int64_t begin, int64_t end) {
  const auto sample = [&](int64_t i) {
    const int64_t at = i - job.first;
    return at >= 0 && at < job.n_samples ? job.samples[at] : 0.0f;
  };
  for (int64_t output = begin; output < end; ++output) {
    const Between at = between(job.places, output);
    job.out[output - job.start] = interpolated(sample(at.left), sample(at.right), at.part);
  }
}

}  // namespace

int64_t n_pieces(const Resampling& job) {
  if (job.start >= job.stop) return 0;
  const int64_t size = outputs_a_piece(job);
  return (job.stop - 1) / size - job.start / size + 1;
}

void resample_piece(const Resampling& job, int64_t piece) {
  const int64_t size = outputs_a_piece(job), chunk = job.start / size + piece;
  const int64_t begin = std::max(job.start, chunk * size);
  const int64_t end = std::min(job.stop, (chunk + 1) * size);
  if (job.filter)
    resample_sinc(job, chunk, begin, end);
  else
    resample_linear(job, begin, end);
}

}  // namespace fastmte

// For ctypes: all arguments checked before, arrays contiguous. Returns 1 where memory is short.
extern "C" __attribute__((visibility("default"))) int fastmte_resample(
    const float* samples, int64_t n_samples, const float* filter, int64_t n_filter,
    int64_t sample_rate, int64_t target, int64_t first, int64_t start, int64_t stop, float* out) {
  using namespace fastmte;
  try {
    const Resampling job{samples, n_samples, first,
                         filter,  n_filter,  places_of(sample_rate, target, n_filter),
                         start,   stop,      out};
    for (int64_t piece = 0; piece < n_pieces(job); ++piece) resample_piece(job, piece);
    return 0;
  } catch (const std::bad_alloc&) {
    return 1;
  }
}
